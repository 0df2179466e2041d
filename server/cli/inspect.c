/* SPDX-License-Identifier: MIT */

/*
 * Questions to a database file at rest. It is opened as immutable, so SQLite makes no -wal and no
 * -shm beside it and takes no lock; its journal mode does not matter.
 */

#include "server/cli/inspect.h"

#include "server/base/cleanup.h"

#include <ctype.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct inspect {
	sqlite3 *db;
};

__attribute__((format(printf, 2, 3))) static int bad(
	char ret_text[INSPECT_TEXT_BYTES], const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(ret_text, INSPECT_TEXT_BYTES, format, args);
	va_end(args);
	return INSPECT_BAD;
}

static int failed(const struct inspect *inspect, char ret_text[INSPECT_TEXT_BYTES])
{
	return sqlite3_errcode(inspect->db) == SQLITE_NOMEM
		? -ENOMEM
		: bad(ret_text, "%s", sqlite3_errmsg(inspect->db));
}

/* file:///path?immutable=1, with what a URI needs escaped. */
static char *immutable_uri(const char *path)
{
	static const char prefix[] = "file:";
	static const char suffix[] = "?immutable=1";
	char *uri = malloc(sizeof prefix + sizeof suffix + 3 * strlen(path));
	if (uri == NULL) {
		return NULL;
	}
	char *at = stpcpy(uri, prefix);
	for (; *path != '\0'; path++) {
		unsigned char byte = (unsigned char)*path;
		if (isalnum(byte) || strchr("/._-~", byte) != NULL) {
			*at++ = *path;
		} else {
			at += sprintf(at, "%%%02X", byte);
		}
	}
	strcpy(at, suffix);
	return uri;
}

int inspect_open(const char *path, struct inspect **ret_inspect, char ret_text[INSPECT_TEXT_BYTES])
{
	CLEANUP_FREE char *uri = immutable_uri(path);
	struct inspect *inspect = calloc(1, sizeof *inspect);
	if (uri == NULL || inspect == NULL) {
		free(inspect);
		return -ENOMEM;
	}
	int rc = sqlite3_open_v2(uri, &inspect->db,
		SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX |
			SQLITE_OPEN_EXRESCODE,
		NULL);
	if (rc == SQLITE_OK) {
		sqlite3_db_config(inspect->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
		rc = sqlite3_exec(
			inspect->db, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
	}
	if (rc != SQLITE_OK) {
		rc = inspect->db == NULL ? -ENOMEM : failed(inspect, ret_text);
		inspect_close(inspect);
		return rc;
	}
	*ret_inspect = inspect;
	return 0;
}

void inspect_close(struct inspect *inspect)
{
	if (inspect != NULL) {
		sqlite3_close(inspect->db);
		free(inspect);
	}
}

int inspect_commit(struct inspect *inspect, bool *ret_ours, uint64_t *ret_commit,
	char ret_text[INSPECT_TEXT_BYTES])
{
	sqlite3_stmt *stmt = NULL;
	*ret_ours = sqlite3_table_column_metadata(inspect->db, "main", "_lf_state", "commit_no",
			    NULL, NULL, NULL, NULL, NULL) == SQLITE_OK;
	if (!*ret_ours) {
		return 0;
	}
	int rc = sqlite3_prepare_v2(
		inspect->db, "SELECT commit_no FROM main._lf_state", -1, &stmt, NULL);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	if (rc == SQLITE_ROW) {
		*ret_commit = (uint64_t)sqlite3_column_int64(stmt, 0);
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? 0 : failed(inspect, ret_text);
}

int inspect_integrity(
	struct inspect *inspect, enum inspect_depth depth, char ret_text[INSPECT_TEXT_BYTES])
{
	sqlite3_stmt *stmt = NULL;
	if (depth == INSPECT_NONE) {
		return 0;
	}
	const char *sql = depth == INSPECT_FULL ? "PRAGMA main.integrity_check(1)"
						: "PRAGMA main.quick_check(1)";
	int rc = sqlite3_prepare_v2(inspect->db, sql, -1, &stmt, NULL);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	const char *said = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
	int result = 0;
	if (said == NULL) {
		result = failed(inspect, ret_text);
	} else if (strcmp(said, "ok") != 0) {
		result = bad(ret_text, "%s: %s",
			depth == INSPECT_FULL ? "integrity_check" : "quick_check", said);
	}
	sqlite3_finalize(stmt);
	return result;
}

int inspect_foreign_keys(
	struct inspect *inspect, uint64_t *ret_count, char ret_text[INSPECT_TEXT_BYTES])
{
	sqlite3_stmt *stmt = NULL;
	*ret_count = 0;
	int rc = sqlite3_prepare_v2(inspect->db, "PRAGMA main.foreign_key_check", -1, &stmt, NULL);
	while (rc == SQLITE_OK || rc == SQLITE_ROW) {
		rc = sqlite3_step(stmt);
		if (rc == SQLITE_ROW && (*ret_count)++ == 0) {
			(void)bad(ret_text, "row %lld of %s has no parent in %s",
				(long long)sqlite3_column_int64(stmt, 1),
				(const char *)sqlite3_column_text(stmt, 0),
				(const char *)sqlite3_column_text(stmt, 2));
		}
	}
	int result = rc == SQLITE_DONE ? 0 : failed(inspect, ret_text);
	sqlite3_finalize(stmt);
	return result;
}

static int count_rows(struct inspect *inspect, const char *table, uint64_t *ret_rows)
{
	sqlite3_stmt *stmt = NULL;
	char *sql = sqlite3_mprintf("SELECT count(*) FROM main.\"%w\"", table);
	if (sql == NULL) {
		return SQLITE_NOMEM;
	}
	int rc = sqlite3_prepare_v2(inspect->db, sql, -1, &stmt, NULL);
	sqlite3_free(sql);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	*ret_rows = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int inspect_tables(struct inspect *inspect, void (*fn)(void *ctx, const char *table, uint64_t rows),
	void *ctx, char ret_text[INSPECT_TEXT_BYTES])
{
	static const char sql[] =
		"SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' "
		"AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_lf\\_%' ESCAPE '\\' "
		"ORDER BY name";
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(inspect->db, sql, -1, &stmt, NULL);
	while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		uint64_t rows = 0;
		const char *table = (const char *)sqlite3_column_text(stmt, 0);
		rc = table == NULL ? SQLITE_NOMEM : count_rows(inspect, table, &rows);
		if (rc == SQLITE_OK) {
			fn(ctx, table, rows);
		}
	}
	int result = rc == SQLITE_DONE ? 0 : failed(inspect, ret_text);
	sqlite3_finalize(stmt);
	return result;
}

/* Runs one assertion to its end. */
static int assert_stmt(
	struct inspect *inspect, sqlite3_stmt *stmt, char ret_text[INSPECT_TEXT_BYTES])
{
	uint64_t rows = 0;
	int rc = SQLITE_ROW;
	while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		rows++;
		if (sqlite3_column_count(stmt) == 0 ||
			sqlite3_column_type(stmt, 0) == SQLITE_NULL ||
			sqlite3_column_double(stmt, 0) == 0.0) {
			const char *is = (const char *)sqlite3_column_text(stmt, 0);
			return bad(ret_text, "it is %.200s", is != NULL ? is : "NULL");
		}
	}
	if (rc != SQLITE_DONE) {
		return failed(inspect, ret_text);
	}
	return rows > 0 ? 0 : bad(ret_text, "it yields no row");
}

int inspect_assert(struct inspect *inspect, const char *sql, char ret_text[INSPECT_TEXT_BYTES])
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(inspect->db, sql, -1, &stmt, NULL);
	int result = 0;
	if (rc != SQLITE_OK) {
		result = failed(inspect, ret_text);
	} else if (stmt == NULL) {
		result = bad(ret_text, "there is no statement");
	} else {
		result = assert_stmt(inspect, stmt, ret_text);
	}
	sqlite3_finalize(stmt);
	return result;
}

int inspect_assert_all(struct inspect *inspect, const char *script, uint64_t *count,
	char ret_text[INSPECT_TEXT_BYTES])
{
	char why[INSPECT_TEXT_BYTES] = "out of memory";
	int result = 0;
	while (result == 0 && *script != '\0') {
		const char *tail = NULL;
		sqlite3_stmt *stmt = NULL;
		int rc = sqlite3_prepare_v2(inspect->db, script, -1, &stmt, &tail);
		if (rc != SQLITE_OK) {
			result = failed(inspect, why);
		} else if (stmt != NULL) {
			(*count)++;
			result = assert_stmt(inspect, stmt, why);
		}
		sqlite3_finalize(stmt);
		if (result > 0) {
			size_t blank = strspn(script, " \t\r\n");
			size_t len = rc == SQLITE_OK ? (size_t)(tail - script) - blank : 200;
			(void)bad(ret_text, "%.*s: %.250s", (int)(len < 200 ? len : 200),
				script + blank, why);
		}
		script = tail;
	}
	return result;
}
