/* SPDX-License-Identifier: MIT */

/*
 * The rows of _lf_chunk that belong to nobody's chunk: how far a request is that is applied in
 * slices. It runs no statement of a client.
 */

#include "server/store/many.h"

#include "server/base/clock.h"
#include "server/store/chunk_inside.h"

#include <stdio.h>
#include <string.h>

enum { MANY_KEEP_S = 90 * 24 * 3600, MANY_NAME_BYTES = 512 };

/* The name of its row: "seq:" or "key:", then what tells it from all others. */
static void bind_name(sqlite3_stmt *stmt, const struct identity *identity)
{
	char name[MANY_NAME_BYTES];
	size_t len = 0;
	if (identity->kind == IDENTITY_KEY) {
		len = (size_t)snprintf(name, sizeof(name), "key:%u:", identity->uid);
		memcpy(name + len, identity->key.data, identity->key.len);
		len += identity->key.len;
	} else {
		len = (size_t)snprintf(name, sizeof(name), "seq:%u:", identity->uid);
		for (size_t i = 0; i < DEDUPE_SESSION_BYTES; i++) {
			len += (size_t)snprintf(
				name + len, sizeof(name) - len, "%02x", identity->session[i]);
		}
		len += (size_t)snprintf(
			name + len, sizeof(name) - len, ":%llu", (unsigned long long)identity->seq);
	}
	/* Not as text: in a database of UTF-16 SQLite makes some that differ the same. */
	sqlite3_bind_blob(stmt, 1, name, (int)len, SQLITE_TRANSIENT);
}

int store_many_read(struct store *store, const struct identity *identity,
	struct many_progress *ret_progress, struct store_error *error)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_MANY_READ);
	bool same = true;
	*ret_progress = (struct many_progress){0};
	if (stmt == NULL) {
		return store_failed(store, sqlite3_errcode(store->handle), error);
	}
	bind_name(stmt, identity);
	int rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		ret_progress->rows = (uint64_t)sqlite3_column_int64(stmt, 0);
		ret_progress->changes = sqlite3_column_int64(stmt, 1);
		ret_progress->total = sqlite3_column_int64(stmt, 2);
		ret_progress->rowid = sqlite3_column_int64(stmt, 3);
		same = sqlite3_column_bytes(stmt, 4) == sizeof(identity->hash) &&
			memcmp(sqlite3_column_blob(stmt, 4), identity->hash,
				sizeof(identity->hash)) == 0;
	}
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
		return store_failed(store, rc, error);
	}
	return same ? 0
		    : store_error_set(error, STORE_MISMATCH, 0,
			      "this seq or key was begun with another batch: use a new one");
}

/* Whether any request stands there, perhaps. SQLite's code. */
static int look_for_any(struct store *store)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_MANY_ANY);
	int rc = stmt != NULL ? sqlite3_step(stmt) : SQLITE_NOMEM;
	sqlite3_reset(stmt);
	if (rc == SQLITE_ROW || rc == SQLITE_DONE) {
		store->many = rc == SQLITE_ROW ? MANY_PERHAPS : MANY_NONE;
		return SQLITE_OK;
	}
	return rc;
}

int store_many_look(struct store *store, const struct identity *identity, struct store_error *error)
{
	struct many_progress progress;
	int rc = store->many == MANY_UNKNOWN ? look_for_any(store) : SQLITE_OK;
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	return store->many == MANY_NONE ? 0 : store_many_read(store, identity, &progress, error);
}

/* ---- rowids ---- */

enum { ROWIDS_MAX = 16, TABLE_BYTES = 256 };

struct rowids {
	char tables[ROWIDS_MAX][TABLE_BYTES]; /* whose rowid has no other name */
	size_t count;
};

static void note_rowid(
	void *ctx, int action, const char *first, const char *second, const char *inner)
{
	struct rowids *rowids = ctx;
	if (action == SQLITE_READ && inner == NULL && second != NULL &&
		strcmp(second, "ROWID") == 0 && rowids->count < ROWIDS_MAX) {
		sqlite3_snprintf(TABLE_BYTES, rowids->tables[rowids->count++], "%s", first);
	}
}

/* VACUUM leaves alone what a virtual table calls its rowids. SQLite's code. */
static int is_virtual(struct store *store, const char *table, bool *ret_is)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store,
		"SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE"
		" AND rootpage = 0",
		&stmt);
	sqlite3_bind_text(stmt, 1, table, -1, SQLITE_STATIC);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	*ret_is = rc == SQLITE_ROW;
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int store_many_check(
	struct store *store, enum role role, const struct step *step, struct store_error *error)
{
	struct rowids rowids = {.count = 0};
	sqlite3_stmt *stmt = NULL;
	size_t tail = 0;
	store->authorizer.observe = note_rowid;
	store->authorizer.observe_ctx = &rowids;
	int rc = stmt_prepare(
		store->handle, &store->authorizer, role, step->sql, 0, &stmt, &tail, error);
	store->authorizer.observe = NULL;
	sqlite3_finalize(stmt);
	for (size_t i = 0; rc == 0 && i < rowids.count; i++) {
		bool none = false;
		int looked = is_virtual(store, rowids.tables[i], &none);
		rc = looked != SQLITE_OK ? store_failed(store, looked, error)
			: none
			? 0
			: store_error_set(error, STORE_BAD_REQUEST, 0,
				  "with atomic:false the statement cannot name the rowid of \"%s\": VACUUM may "
				  "renumber it between two slices (name a key, or leave atomic out)",
				  rowids.tables[i]);
	}
	return rc;
}

/* Forgets it, and those that nobody has come back to. SQLite's code. */
static int forget(struct store *store, const struct identity *identity)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_MANY_FORGET);
	if (stmt == NULL) {
		return sqlite3_errcode(store->handle);
	}
	bind_name(stmt, identity);
	sqlite3_bind_int64(stmt, 2, (sqlite3_int64)store_forget_before_s(store, MANY_KEEP_S));
	int rc = own_run(store, stmt);
	sqlite3_clear_bindings(stmt);
	return rc;
}

static int move(struct store *store, const struct identity *identity,
	const struct many_progress *progress, sqlite3_int64 now_s)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_MANY_MOVE);
	if (stmt == NULL) {
		return sqlite3_errcode(store->handle);
	}
	bind_name(stmt, identity);
	sqlite3_bind_blob(stmt, 2, identity->hash, sizeof(identity->hash), SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 3, (sqlite3_int64)progress->rows);
	sqlite3_bind_int64(stmt, 4, progress->changes);
	sqlite3_bind_int64(stmt, 5, progress->total);
	sqlite3_bind_int64(stmt, 6, progress->rowid);
	sqlite3_bind_int64(stmt, 7, now_s);
	int rc = own_run(store, stmt);
	sqlite3_clear_bindings(stmt);
	return rc;
}

int store_many_save(struct store *store, const struct identity *identity,
	const struct many_progress *progress, bool over, struct store_error *error)
{
	/* Our statements run between a client's, and leave nothing of theirs changed. */
	sqlite3_int64 rowid = sqlite3_last_insert_rowid(store->handle);
	sqlite3_int64 now_s = (sqlite3_int64)store_steady_s(store);
	int rc = over ? forget(store, identity) : move(store, identity, progress, now_s);
	sqlite3_set_last_insert_rowid(store->handle, rowid);
	store->dirty = true;
	store->many = MANY_PERHAPS;
	return rc == SQLITE_OK ? 0 : store_failed(store, rc, error);
}
