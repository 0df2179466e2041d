/* SPDX-License-Identifier: MIT */

/*
 * lf_mark(name, from, to): how far a client is with something long, such as a file that it imports,
 * moved in the transaction of the batch that it stands in. It fails if the mark does not stand at
 * `from`, and so undoes a batch that was applied before, or that another process has overtaken:
 * whoever starts over reads the mark and goes on there. A note of what the positions speak of may be kept
 * with it.
 */

#include "server/store/chunk_inside.h"

#include "server/base/clock.h"

#include <string.h>

enum { MARK_NAME_BYTES_MAX = 255, MARK_NOTE_BYTES_MAX = 64, MARK_KEEP_S = 90 * 24 * 3600 };

static void fail(sqlite3_context *context, const char *why)
{
	sqlite3_result_error(context, why, -1);
}

/* The position of a mark; 0: there is none. SQLite's code. */
static int read_mark(struct store *store, sqlite3_value *name, sqlite3_int64 *ret_position)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_MARK_READ);
	*ret_position = 0;
	if (stmt == NULL) {
		return sqlite3_errcode(store->handle);
	}
	sqlite3_bind_value(stmt, 1, name);
	int rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		*ret_position = sqlite3_column_int64(stmt, 0);
	}
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int run(struct store *store, enum chunk_sql which, sqlite3_value *name,
	sqlite3_value *position, sqlite3_int64 at_s, sqlite3_value *note)
{
	sqlite3_stmt *stmt = chunk_stmt(store, which);
	if (stmt == NULL) {
		return sqlite3_errcode(store->handle);
	}
	sqlite3_bind_value(stmt, 1, name);
	if (position != NULL) {
		sqlite3_bind_value(stmt, 2, position);
	}
	sqlite3_bind_int64(stmt, position != NULL ? 3 : 2, at_s);
	if (note != NULL) {
		sqlite3_bind_value(stmt, 4, note);
	}
	int rc = own_run(store, stmt);
	sqlite3_clear_bindings(stmt);
	return rc;
}

/* Moves it, or forgets it if `to` is NULL; with a new one those that were left long ago go. */
static int move_mark(struct store *store, sqlite3_value *name, sqlite3_value *to,
	sqlite3_int64 position, sqlite3_value *note)
{
	sqlite3_int64 now_s = (sqlite3_int64)store_steady_s(store);
	sqlite3_int64 old_s = (sqlite3_int64)store_forget_before_s(store, MARK_KEEP_S);
	int rc = SQLITE_OK;
	store->dirty = true;
	if (sqlite3_value_type(to) == SQLITE_NULL || position == 0) {
		rc = run(store, CHUNK_SQL_MARK_FORGET, name, NULL, old_s, NULL);
	}
	if (rc == SQLITE_OK && sqlite3_value_type(to) != SQLITE_NULL) {
		rc = run(store, CHUNK_SQL_MARK_MOVE, name, to, now_s, note);
	}
	return rc;
}

static bool is_position(sqlite3_value *value)
{
	return sqlite3_value_type(value) == SQLITE_INTEGER && sqlite3_value_int64(value) >= 0;
}

static bool is_note(sqlite3_value *value)
{
	return sqlite3_value_type(value) == SQLITE_NULL ||
		((sqlite3_value_type(value) == SQLITE_TEXT ||
			 sqlite3_value_type(value) == SQLITE_BLOB) &&
			sqlite3_value_bytes(value) <= MARK_NOTE_BYTES_MAX);
}

static bool arguments_good(int count, sqlite3_value **values)
{
	if (sqlite3_value_type(values[0]) != SQLITE_TEXT) {
		return false;
	}
	const void *name = sqlite3_value_text(values[0]);
	int len = sqlite3_value_bytes(values[0]);
	return name != NULL && len > 0 && len <= MARK_NAME_BYTES_MAX &&
		memchr(name, 0, (size_t)len) == NULL &&
		(count == 1 ||
			(is_position(values[1]) &&
				(is_position(values[2]) ||
					sqlite3_value_type(values[2]) == SQLITE_NULL) &&
				(count == 3 || is_note(values[3]))));
}

static void sql_mark(sqlite3_context *context, int count, sqlite3_value **values)
{
	struct store *store = sqlite3_user_data(context);
	sqlite3_int64 position = 0;
	if (!arguments_good(count, values)) {
		fail(context,
			"lf_mark: a name of 1 to 255 bytes, two positions from 0 on (the second may be "
			"NULL: forget it), and a note of up to 64 bytes");
		return;
	}
	/* Our statements run in the middle of a client's, and leave nothing of theirs changed. */
	enum role role = store->authorizer.role;
	sqlite3_int64 rowid = sqlite3_last_insert_rowid(store->handle);
	int rc = read_mark(store, values[0], &position);
	if (rc == SQLITE_OK && count >= 3 && position != sqlite3_value_int64(values[1])) {
		char why[128];
		sqlite3_snprintf(sizeof(why), why, "lf_mark: it stands at %lld, not at %lld",
			position, sqlite3_value_int64(values[1]));
		fail(context, why);
	} else if (rc == SQLITE_OK && count >= 3) {
		rc = move_mark(store, values[0], values[2], position, count > 3 ? values[3] : NULL);
		sqlite3_result_value(context, values[2]);
	} else if (rc == SQLITE_OK) {
		sqlite3_result_int64(context, position);
	}
	if (rc != SQLITE_OK) {
		sqlite3_result_error_code(context, rc);
	}
	sqlite3_set_last_insert_rowid(store->handle, rowid);
	authorizer_enter(&store->authorizer, role);
}

/* What was noted with it; NULL: nothing. */
static void sql_mark_note(sqlite3_context *context, int count, sqlite3_value **values)
{
	struct store *store = sqlite3_user_data(context);
	if (!arguments_good(count, values)) {
		fail(context, "lf_mark_note: a name of 1 to 255 bytes");
		return;
	}
	enum role role = store->authorizer.role;
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_MARK_NOTE);
	if (stmt == NULL) {
		sqlite3_result_error_code(context, sqlite3_errcode(store->handle));
	} else {
		sqlite3_bind_value(stmt, 1, values[0]);
		int rc = sqlite3_step(stmt);
		if (rc == SQLITE_ROW && sqlite3_column_bytes(stmt, 0) > 0) {
			sqlite3_result_value(context, sqlite3_column_value(stmt, 0));
		} else if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
			sqlite3_result_error_code(context, rc);
		}
		sqlite3_reset(stmt);
		sqlite3_clear_bindings(stmt);
	}
	authorizer_enter(&store->authorizer, role);
}

void mark_install(struct store *store)
{
	static const int counts[] = {1, 3, 4};
	(void)sqlite3_create_function(store->handle, "lf_mark_note", 1,
		SQLITE_UTF8 | SQLITE_DIRECTONLY, store, sql_mark_note, NULL, NULL);
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		(void)sqlite3_create_function(store->handle, "lf_mark", counts[i],
			SQLITE_UTF8 | SQLITE_DIRECTONLY, store, sql_mark, NULL, NULL);
	}
}
