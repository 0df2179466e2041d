/* SPDX-License-Identifier: MIT */

/*
 * The rows of _lf_chunk that belong to nobody's chunk: how far a request is that is applied in
 * slices. It runs no statement of a client.
 */

#include "server/store/many.h"

#include "server/store/chunk_inside.h"
#include "server/store/sql_text.h"

#include <stdio.h>
#include <stdlib.h>
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

enum { ROWIDS_MAX = 64, TABLE_BYTES = 256 };

/* Tables whose rowids a statement names, by what the authorizer tells. */
struct rowids {
	struct {
		char table[TABLE_BYTES];
		char inner
			[TABLE_BYTES]; /* the view or trigger that does it; "": the statement itself */
	} found[ROWIDS_MAX];
	size_t count; /* ROWIDS_MAX + 1: there are more */
	bool in_text; /* the word stands in the statement, where an INSERT may have it among its columns */
	const char *function; /* that would speak of the slice, not of the batch; or NULL */
};

static void note_rowid(
	void *ctx, int action, const char *first, const char *second, const char *inner)
{
	static const char *const counting[] = {"changes", "total_changes", "last_insert_rowid"};
	struct rowids *rowids = ctx;
	for (size_t i = 0; action == SQLITE_FUNCTION && second != NULL && i < 3; i++) {
		if (sqlite3_stricmp(second, counting[i]) == 0) {
			rowids->function = counting[i];
		}
	}
	bool reads = action == SQLITE_READ && second != NULL && strcmp(second, "ROWID") == 0;
	bool inserts = action == SQLITE_INSERT && rowids->in_text && inner == NULL;
	if (!reads && !inserts) {
		return;
	}
	inner = inner != NULL ? inner : "";
	for (size_t i = 0; i < rowids->count && i < ROWIDS_MAX; i++) {
		if (strcmp(rowids->found[i].table, first) == 0 &&
			strcmp(rowids->found[i].inner, inner) == 0) {
			return;
		}
	}
	if (rowids->count < ROWIDS_MAX) {
		sqlite3_snprintf(TABLE_BYTES, rowids->found[rowids->count].table, "%s", first);
		sqlite3_snprintf(TABLE_BYTES, rowids->found[rowids->count].inner, "%s", inner);
	}
	rowids->count += rowids->count <= ROWIDS_MAX;
}

static bool names_rowid(struct bytes sql)
{
	static const char *const words[] = {"rowid", "_rowid_", "oid"};
	struct sql_text text = {.sql = sql};
	char name[sizeof("_rowid_")];
	for (struct token token = sql_next(&text);
		token.kind != TOKEN_END && token.kind != TOKEN_BROKEN; token = sql_next(&text)) {
		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
			if (token_is_name(&token) && token_name(sql, &token, name, sizeof(name)) &&
				sqlite3_stricmp(name, words[i]) == 0) {
				return true;
			}
		}
	}
	return false;
}

/*
 * Whether VACUUM may give that rowid to another row. It leaves alone what a virtual table calls its rowids, and those
 * that are an INTEGER PRIMARY KEY. What a trigger does with them is over with its row. SQLite's code.
 */
static int may_change(struct store *store, const char *table, const char *inner, bool *ret_may)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store,
		"SELECT 1 WHERE (?2 = '' OR EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'view'"
		" AND name = ?2 COLLATE NOCASE))"
		" AND EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND rootpage <> 0"
		" AND name = ?1 COLLATE NOCASE)"
		" AND NOT ((SELECT count(*) FROM pragma_table_info(?1) WHERE pk > 0) = 1"
		" AND EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE pk = 1"
		" AND type = 'INTEGER' COLLATE NOCASE)"
		" AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk'))",
		&stmt);
	sqlite3_bind_text(stmt, 1, table, -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 2, inner, -1, SQLITE_STATIC);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	*ret_may = rc == SQLITE_ROW;
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int judge(struct store *store, const struct rowids *rowids, struct store_error *error)
{
	if (rowids->function != NULL) {
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			"with atomic:false %s() would speak of a slice, not of the batch (give the number as a value, or leave atomic out)",
			rowids->function);
	}
	bool may = rowids->count > ROWIDS_MAX;
	size_t i = 0;
	for (; i < rowids->count && !may; i++) {
		int rc = may_change(store, rowids->found[i].table, rowids->found[i].inner, &may);
		if (rc != SQLITE_OK) {
			return store_failed(store, rc, error);
		}
	}
	return may
		? store_error_set(error, STORE_BAD_REQUEST, 0,
			  "with atomic:false the statement cannot name the rowid of \"%s\": VACUUM may "
			  "renumber it between two slices (name a key, or leave atomic out)",
			  rowids->found[i > 0 ? i - 1 : 0].table)
		: 0;
}

int store_many_check(
	struct store *store, enum role role, const struct step *step, struct store_error *error)
{
	struct rowids *rowids = calloc(1, sizeof(*rowids));
	sqlite3_stmt *stmt = NULL;
	size_t tail = 0;
	if (rowids == NULL) {
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
	rowids->in_text = names_rowid(step->sql);
	store->authorizer.observe = note_rowid;
	store->authorizer.observe_ctx = rowids;
	int rc = stmt_prepare(
		store->handle, &store->authorizer, role, step->sql, 0, &stmt, &tail, error);
	store->authorizer.observe = NULL;
	sqlite3_finalize(stmt);
	rc = rc == 0 ? judge(store, rowids, error) : rc;
	free(rowids);
	return rc;
}

/*
 * Before format 4 the names were texts. As a blob each is what it was as UTF-8, in a database of UTF-16, too; what
 * is under way would begin anew otherwise. SQLite's code.
 */
int many_rename(struct store *store)
{
	sqlite3_stmt *rows = NULL;
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store,
		"SELECT id, name FROM _lf_chunk WHERE uid = -2 AND typeof(name) = 'text'", &rows);
	rc = rc == SQLITE_OK
		? own_prepare(store, "UPDATE _lf_chunk SET name = ?2 WHERE id = ?1", &stmt)
		: rc;
	while (rc == SQLITE_OK && (rc = sqlite3_step(rows)) == SQLITE_ROW) {
		const void *name = sqlite3_column_text(rows, 1);
		sqlite3_bind_int64(stmt, 1, sqlite3_column_int64(rows, 0));
		sqlite3_bind_blob(stmt, 2, name, sqlite3_column_bytes(rows, 1), SQLITE_TRANSIENT);
		rc = name != NULL ? own_run(store, stmt) : SQLITE_NOMEM;
		sqlite3_reset(stmt);
	}
	sqlite3_finalize(rows);
	sqlite3_finalize(stmt);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
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
