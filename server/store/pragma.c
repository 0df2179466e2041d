/* SPDX-License-Identifier: MIT */

/*
 * The settings that safety rests on. Each is set and then read back: builds of SQLite differ in
 * their defaults, and a setting that silently did not take would cost an acknowledged write.
 */

#include "server/store/inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int refuse(char *ret_error, const struct store *store, const char *what)
{
	snprintf(ret_error, STORE_ERROR_BYTES, "%s: %s: %s", store->path, what,
		sqlite3_errmsg(store->handle));
	return -1;
}

/* The single value that a PRAGMA answers with, as text. */
static bool read_text(struct store *store, const char *sql, char *ret_text, size_t bytes)
{
	sqlite3_stmt *stmt = NULL;
	bool found =
		own_prepare(store, sql, &stmt) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW;
	if (found) {
		const char *text = (const char *)sqlite3_column_text(stmt, 0);
		snprintf(ret_text, bytes, "%s", text != NULL ? text : "");
		found = text != NULL; /* NULL: there was no memory for it */
	}
	sqlite3_finalize(stmt);
	return found;
}

/* Sets a PRAGMA and makes sure that it now has that value. */
static int set(struct store *store, const char *name, const char *value, const char *expected,
	char *ret_error)
{
	char sql[128];
	char now[64] = "";
	snprintf(sql, sizeof(sql), "PRAGMA %s = %s", name, value);
	int rc = own_exec(store, sql);
	snprintf(sql, sizeof(sql), "PRAGMA %s", name);
	if (rc != SQLITE_OK && strcmp(name, "journal_mode") == 0 && (rc & 0xff) == SQLITE_BUSY) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: cannot switch to WAL while another process has it open: stop that process, "
			"or run `litefunnel adopt`",
			store->path);
		return -1;
	}
	if (rc != SQLITE_OK) {
		return refuse(ret_error, store, name);
	}
	if (!read_text(store, sql, now, sizeof(now)) || sqlite3_stricmp(now, expected) != 0) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: PRAGMA %s stays \"%s\" where \"%s\" is needed: this SQLite cannot be trusted "
			"with it",
			store->path, name, now, expected);
		return -1;
	}
	return 0;
}

/* Switches that have no PRAGMA, or none that is safe. */
static int configure(struct store *store, char *ret_error)
{
	static const struct {
		int option;
		int value;
	} switches[] = {
		{SQLITE_DBCONFIG_DEFENSIVE, 1},
		/*
		 * Off, FTS5 could not be used in triggers, as everybody does. What it guards against,
		 * functions in a schema, goes through the authorizer like all else.
		 */
		{SQLITE_DBCONFIG_TRUSTED_SCHEMA, 1},
		{SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
		{SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0},
		{SQLITE_DBCONFIG_WRITABLE_SCHEMA, 0},
		{SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1},
	};
	for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++) {
		int now = -1;
		if (sqlite3_db_config(store->handle, switches[i].option, switches[i].value, &now) !=
				SQLITE_OK ||
			now != switches[i].value) {
			return refuse(ret_error, store, "a safety switch of SQLite cannot be set");
		}
	}
	int persist = 1;
	if (sqlite3_file_control(store->handle, "main", SQLITE_FCNTL_PERSIST_WAL, &persist) !=
			SQLITE_OK ||
		persist != 1) {
		return refuse(ret_error, store, "PERSIST_WAL cannot be set");
	}
	return 0;
}

int pragma_setup(
	struct store *store, const struct store_options *options, char ret_error[STORE_ERROR_BYTES])
{
	char cache[32];
	char page_size[16] = "";
	snprintf(cache, sizeof(cache), "-%llu", (unsigned long long)(options->cache_bytes / 1024));
	const struct {
		const char *name;
		const char *value;
		const char *expected;
	} wanted[] = {
		{"locking_mode", "normal", "normal"},
		{"mmap_size", "0", "0"},
		{"journal_mode", "wal", "wal"},
		{"synchronous", options->sync_full ? "full" : "normal",
			options->sync_full ? "2" : "1"},
		{"wal_autocheckpoint", "0", "0"},
		{"foreign_keys", options->foreign_keys ? "on" : "off",
			options->foreign_keys ? "1" : "0"},
		{"temp_store", "memory", "2"},
		{"cell_size_check", "on", "1"},
		{"cache_size", cache, cache},
		{"journal_size_limit", "-1", "-1"},
	};
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		if (set(store, wanted[i].name, wanted[i].value, wanted[i].expected, ret_error) <
			0) {
			return -1;
		}
	}
	if (configure(store, ret_error) < 0) {
		return -1;
	}
	if (!read_text(store, "PRAGMA page_size", page_size, sizeof(page_size)) ||
		!read_text(store, "PRAGMA encoding", store->encoding, sizeof(store->encoding))) {
		return refuse(ret_error, store, "cannot read the page size");
	}
	store->page_size = (uint32_t)strtoul(page_size, NULL, 10);
	return 0;
}

bool pragma_holds(struct store *store)
{
	const struct {
		const char *sql;
		const char *expected;
	} wanted[] = {
		{"PRAGMA journal_mode", "wal"},
		{"PRAGMA synchronous", store->sync_full ? "2" : "1"},
		{"PRAGMA wal_autocheckpoint", "0"},
		{"PRAGMA foreign_keys",
			(store->lease.open ? store->lease.foreign_keys : store->foreign_keys)
				? "1"
				: "0"},
		{"PRAGMA trusted_schema", "1"},
		{"PRAGMA writable_schema", "0"},
	};
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		char now[64] = "";
		/* What cannot be read for lack of memory has not changed by that. */
		if (read_text(store, wanted[i].sql, now, sizeof(now)) &&
			strcmp(now, wanted[i].expected) != 0) {
			return false;
		}
	}
	return true;
}
