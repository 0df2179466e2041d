/* SPDX-License-Identifier: MIT */

/* See bed.h. It decides nothing that a test is about. */

#include "tests/unit/bed.h"

#include "server/base/clock.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

_Atomic uint64_t bed_now_us = 1000000000;
_Atomic uint64_t bed_tick_us;
_Atomic uint64_t bed_wall_ahead_us;

static uint64_t now_us(void)
{
	return atomic_fetch_add(&bed_now_us, bed_tick_us) + bed_tick_us;
}

static uint64_t wall_us(void)
{
	return now_us() + bed_wall_ahead_us;
}

static const struct clock_source clocks = {now_us, wall_us};

void bed_set_clocks(void)
{
	clock_set_source(&clocks);
}

void bed_make_dir(struct bed *bed)
{
	/* In memory where there is such a place: nothing here is about the disk. */
	const char *base = getenv("TMPDIR");
	if (base == NULL && access("/dev/shm", W_OK) == 0) {
		base = "/dev/shm";
	}
	memset(bed, 0, sizeof(*bed));
	(void)snprintf(bed->dir, sizeof(bed->dir), "%s/litefunnel-unit-XXXXXX",
		base != NULL ? base : P_tmpdir);
	assert_non_null(mkdtemp(bed->dir));
	(void)snprintf(bed->path, sizeof(bed->path), "%s/app.db", bed->dir);
	bed->options = (struct store_options){
		.path = bed->path,
		.create = true,
		.foreign_keys = true,
		.extensions = "",
		.cache_bytes = 1 << 20,
		.heap_bytes_max = 256 << 20,
		.statements_max = 100,
		.sql_bytes_max = 1000000,
		.session_window = 1024,
	};
}

void bed_open(struct bed *bed)
{
	char error[STORE_ERROR_BYTES] = "";
	int rc = store_open(&bed->options, &bed->store, error);
	if (rc != 0) {
		fail_msg("%s", error);
	}
}

void bed_close(struct bed *bed)
{
	store_close(bed->store);
	bed->store = NULL;
}

void bed_reopen(struct bed *bed)
{
	bed_close(bed);
	bed_open(bed);
}

void bed_make(struct bed *bed)
{
	bed_set_clocks();
	bed_make_dir(bed);
	bed_open(bed);
}

void bed_remove(struct bed *bed)
{
	char path[1024];
	bed_close(bed);
	DIR *dir = opendir(bed->dir);
	assert_non_null(dir);
	for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
		(void)snprintf(path, sizeof(path), "%s/%s", bed->dir, entry->d_name);
		(void)unlink(path);
	}
	(void)closedir(dir);
	assert_int_equal(rmdir(bed->dir), 0);
}

const char *bed_file(const struct bed *bed, const char *name)
{
	static char path[1024];
	(void)snprintf(path, sizeof(path), name[0] == '-' ? "%s%s" : "%s/%s",
		name[0] == '-' ? bed->path : bed->dir, name);
	return path;
}

/* ---- steps ---- */

static void show_columns(void *ctx, const struct columns *columns)
{
	struct shown *shown = ctx;
	shown->columns[0] = 0;
	for (unsigned i = 0; i < columns->count; i++) {
		size_t len = strlen(shown->columns);
		(void)snprintf(shown->columns + len, sizeof(shown->columns) - len, "%s%s:%s",
			i > 0 ? "," : "", columns->names[i],
			columns->types[i] != NULL ? columns->types[i] : "-");
	}
}

static void put(struct shown *shown, const char *text, size_t len)
{
	if (len >= sizeof(shown->rows) - shown->rows_len) {
		len = sizeof(shown->rows) - shown->rows_len - 1;
	}
	if (len > 0) {
		memcpy(shown->rows + shown->rows_len, text, len);
	}
	shown->rows_len += len;
	shown->rows[shown->rows_len] = 0;
}

static void show_value(struct shown *shown, const struct value *value)
{
	char text[64];
	const unsigned char *bytes = value->bytes.data;
	switch (value->type) {
	case VALUE_NULL:
		put(shown, "NULL", 4);
		break;
	case VALUE_INTEGER:
		put(shown, text,
			(size_t)snprintf(text, sizeof(text), "%lld", (long long)value->integer));
		break;
	case VALUE_FLOAT:
		put(shown, text, (size_t)snprintf(text, sizeof(text), "%.17gf", value->real));
		break;
	case VALUE_TEXT:
		put(shown, "'", 1);
		put(shown, value->bytes.data, value->bytes.len);
		put(shown, "'", 1);
		break;
	case VALUE_BLOB:
		put(shown, "x", 1);
		for (size_t i = 0; i < value->bytes.len; i++) {
			put(shown, text, (size_t)snprintf(text, sizeof(text), "%02x", bytes[i]));
		}
		break;
	}
}

static int show_row(void *ctx, const struct value *values, unsigned count)
{
	struct shown *shown = ctx;
	if (shown->rows_max > 0 && shown->count >= shown->rows_max) {
		return 1;
	}
	for (unsigned i = 0; i < count; i++) {
		put(shown, "|", i > 0 ? 1 : 0);
		show_value(shown, &values[i]);
	}
	put(shown, ";", 1);
	shown->count++;
	return 0;
}

struct step bed_step_of(const char *sql)
{
	return (struct step){
		.sql = {sql, strlen(sql)},
		.sql_hash = XXH3_64bits(sql, strlen(sql)),
		.runs = 1,
		.expect_changes = -1,
		.expect_rows = -1,
		.rows_max = UINT32_MAX,
	};
}

void bed_shown_clear(struct shown *shown)
{
	store_error_clear(&shown->error);
	shown->columns[0] = 0;
	shown->rows[0] = 0;
	shown->rows_len = 0;
	shown->count = 0;
}

int bed_step(struct store *store, enum role role, const struct step *step, struct shown *shown)
{
	struct step_sink sink = {.columns = show_columns, .row = show_row, .ctx = shown};
	bed_shown_clear(shown);
	return store_step(store, role, step, &sink, &shown->result, &shown->error);
}

static void must(struct store *store, struct step step, const char *sql)
{
	static struct shown shown;
	shown.rows_max = 0;
	if (bed_step(store, ROLE_DDL, &step, &shown) != 0) {
		fail_msg("%s: %s", sql, shown.error.message);
	}
	bed_shown_clear(&shown);
}

void bed_do(struct store *store, const char *sql)
{
	must(store, bed_step_of(sql), sql);
}

void bed_begin(struct store *store)
{
	struct store_error error = {.row = -1};
	if (store_in_transaction(store)) {
		store_rollback(store); /* of a test that failed in the middle */
	}
	if (store_begin(store, &error) != 0) {
		fail_msg("%s", error.message);
	}
}

void bed_commit(struct store *store)
{
	struct store_error error = {.row = -1};
	if (store_commit(store, &error) != 0) {
		fail_msg("%s", error.message);
	}
}

void bed_script(struct store *store, const char *sql)
{
	struct step step = bed_step_of(sql);
	step.script = true;
	bed_begin(store);
	must(store, step, sql);
	bed_commit(store);
}

/* ---- looking inside ---- */

static sqlite3_stmt *first_row(struct store *store, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	if (own_prepare(store, sql, &stmt) != SQLITE_OK || sqlite3_step(stmt) != SQLITE_ROW) {
		fail_msg("%s: %s", sql, sqlite3_errmsg(store->handle));
	}
	return stmt;
}

int64_t bed_number(struct store *store, const char *sql)
{
	sqlite3_stmt *stmt = first_row(store, sql);
	int64_t number = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return number;
}

const char *bed_text(struct store *store, const char *sql)
{
	static char text[4096];
	sqlite3_stmt *stmt = first_row(store, sql);
	const char *value = (const char *)sqlite3_column_text(stmt, 0);
	(void)snprintf(text, sizeof(text), "%s", value != NULL ? value : "NULL");
	sqlite3_finalize(stmt);
	return text;
}

static void dump_table(struct store *store, const char *table, FILE *out)
{
	sqlite3_stmt *stmt = NULL;
	char *sql = sqlite3_mprintf("SELECT * FROM \"%w\"", table);
	(void)fprintf(out, "[%s]", table);
	if (own_prepare(store, sql, &stmt) == SQLITE_OK) {
		while (sqlite3_step(stmt) == SQLITE_ROW) {
			for (int i = 0; i < sqlite3_column_count(stmt); i++) {
				int type = sqlite3_column_type(stmt, i);
				const unsigned char *bytes = sqlite3_column_blob(stmt, i);
				(void)fprintf(out, " %d:", type);
				for (int at = 0; at < sqlite3_column_bytes(stmt, i); at++) {
					(void)fprintf(out, "%02x", bytes[at]);
				}
			}
			(void)fputc('\n', out);
		}
	}
	sqlite3_finalize(stmt);
	sqlite3_free(sql);
}

char *bed_dump(struct store *store)
{
	char *text = NULL;
	size_t len = 0;
	sqlite3_stmt *stmt = NULL;
	FILE *out = open_memstream(&text, &len);
	assert_non_null(out);
	assert_int_equal(own_prepare(store,
				 "SELECT type, name, coalesce(sql, '') FROM sqlite_schema "
				 "WHERE name NOT LIKE '~_lf~_%' ESCAPE '~' ORDER BY 1, 2",
				 &stmt),
		SQLITE_OK);
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		const char *name = (const char *)sqlite3_column_text(stmt, 1);
		(void)fprintf(out, "%s\n", (const char *)sqlite3_column_text(stmt, 2));
		if (strcmp((const char *)sqlite3_column_text(stmt, 0), "table") == 0) {
			dump_table(store, name, out);
		}
	}
	sqlite3_finalize(stmt);
	(void)fclose(out);
	return text;
}
