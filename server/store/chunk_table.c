/* SPDX-License-Identifier: MIT */

/*
 * The rows of _lf_chunk: how a chunk begins, how its state is changed from outside, and how memory
 * learns of it once that is committed. It runs no slice.
 */

#include "server/store/chunk_inside.h"

#include "server/base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNKS_OPEN_MAX = 100, FIRST_SLICE_ROWS = 64 };

/* The columns that every reader of a row reads, in the order of read_facts(). */
#define FACTS                                                                                      \
	"id, uid, state, rows, changes, slices, busy_us, commit_no, rate, slice_ms, started_s, "   \
	"ended_s, error, hash"

static const char *const texts[CHUNK_SQL_COUNT] = {
	[CHUNK_SQL_FIND] = "SELECT " FACTS " FROM _lf_chunk WHERE uid = ?1 AND name = ?2",
	[CHUNK_SQL_FIND_ANY] =
		"SELECT " FACTS " FROM _lf_chunk WHERE name = ?1 AND uid >= 0 ORDER BY id LIMIT 1",
	[CHUNK_SQL_READ] = "SELECT " FACTS " FROM _lf_chunk WHERE id = ?1",
	[CHUNK_SQL_LIST] =
		"SELECT " FACTS ", name, sql, params, key, first_key, last_key, done_key,"
		" nullif(walk, '')"
		" FROM _lf_chunk WHERE uid >= 0 ORDER BY id",
	[CHUNK_SQL_INSERT] =
		"INSERT INTO _lf_chunk(id, uid, name, hash, sql, params, key, rate,"
		" slice_ms, state, first_key, last_key, started_s, ended_s, walk)"
		" VALUES (1 + max(?15, (SELECT coalesce(max(id), 0) FROM _lf_chunk)), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
	[CHUNK_SQL_PRUNE] = "DELETE FROM _lf_chunk WHERE id = ?1 AND ended_s > 0",
	[CHUNK_SQL_COUNT_OPEN] = "SELECT count(*) FROM _lf_chunk WHERE ended_s = 0 AND uid >= 0",
	[CHUNK_SQL_STATE] = "UPDATE _lf_chunk SET state = ?2, ended_s = ?3, error = ?4, rate = ?5"
			    " WHERE id = ?1",
	[CHUNK_SQL_SAVE] =
		"UPDATE _lf_chunk SET state = ?2, ended_s = ?3, done_key = ?4, rows = ?5,"
		" changes = ?6, slices = ?7, busy_us = ?8, commit_no = ?9 WHERE id = ?1",
	[CHUNK_SQL_SCHEMA] = "PRAGMA schema_version",
	[CHUNK_SQL_TARGET] = "SELECT rootpage, sql FROM sqlite_schema"
			     " WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE",
	[CHUNK_SQL_HAS_COLUMN] =
		"SELECT 1 FROM pragma_table_xinfo(?1) WHERE name = ?2 COLLATE NOCASE",
	/* Without a key it is never walked again. */
	[CHUNK_SQL_LOSE] = "UPDATE _lf_chunk SET state = ?2, ended_s = ?3, error = ?4,"
			   " key = iif(?5, NULL, key) WHERE id = ?1",
	[CHUNK_SQL_IS_LOST] = "SELECT error FROM _lf_chunk WHERE id = ?1 AND key IS NULL",
	/* Marks are nobody's: uid -1. The position is in `rows`, its time in started_s, its note in hash. */
	[CHUNK_SQL_MARK_READ] = "SELECT rows FROM _lf_chunk WHERE uid = -1 AND name = ?1",
	[CHUNK_SQL_MARK_NOTE] = "SELECT hash FROM _lf_chunk WHERE uid = -1 AND name = ?1",
	[CHUNK_SQL_MARK_MOVE] = "INSERT INTO _lf_chunk(uid, name, hash, sql, params, state, rows,"
				" started_s) VALUES (-1, ?1, coalesce(?4, x''), '', x'', 0, ?2, ?3)"
				" ON CONFLICT (uid, name) DO UPDATE SET rows = ?2, started_s = ?3,"
				" hash = coalesce(?4, hash)",
	/* Requests that are applied in slices: uid -2. total_changes() is in busy_us, the rowid in done_key. */
	[CHUNK_SQL_MANY_READ] = "SELECT rows, changes, busy_us, done_key, hash FROM _lf_chunk"
				" WHERE uid = -2 AND name = ?1",
	[CHUNK_SQL_MANY_ANY] = "SELECT 1 FROM _lf_chunk WHERE uid = -2 LIMIT 1",
	[CHUNK_SQL_MANY_MOVE] =
		"INSERT INTO _lf_chunk(uid, name, hash, sql, params, state, rows, changes, busy_us,"
		" done_key, started_s) VALUES (-2, ?1, ?2, '', x'', 0, ?3, ?4, ?5, ?6, ?7)"
		" ON CONFLICT (uid, name) DO UPDATE SET rows = ?3, changes = ?4, busy_us = ?5,"
		" done_key = ?6, started_s = ?7",
	[CHUNK_SQL_MANY_FORGET] = "DELETE FROM _lf_chunk WHERE uid = -2 AND"
				  " (name = ?1 OR started_s < ?2)",
	[CHUNK_SQL_MARK_FORGET] = "DELETE FROM _lf_chunk WHERE uid = -1 AND"
				  " (name = ?1 OR started_s < ?2)",
};

const char *chunk_state_name(enum chunk_state state)
{
	static const char *const names[] = {"running", "paused", "done", "cancelled", "failed"};
	return names[state];
}

bool chunk_state_is_over(enum chunk_state state)
{
	return state >= CHUNK_DONE;
}

sqlite3_stmt *chunk_stmt(struct store *store, enum chunk_sql which)
{
	sqlite3_stmt **stmt = &store->chunks->stmts[which];
	if (*stmt == NULL) {
		(void)own_prepare(store, texts[which], stmt);
	}
	authorizer_enter(&store->authorizer, ROLE_SELF);
	return *stmt;
}

/* ---- memory ---- */

int chunks_new(struct chunks **ret_chunks)
{
	struct chunks *chunks = calloc(1, sizeof(*chunks));
	if (chunks == NULL) {
		return -ENOMEM;
	}
	list_init(&chunks->list);
	*ret_chunks = chunks;
	return 0;
}

void chunk_unplan(struct chunk *chunk)
{
	sqlite3_finalize(chunk->slice);
	sqlite3_finalize(chunk->from);
	sqlite3_finalize(chunk->after);
	chunk->slice = NULL;
	chunk->from = NULL;
	chunk->after = NULL;
	slicing_finish(&chunk->slicing);
	chunk->planned = false;
	chunk->facts.table = "";
	chunk->facts.key = "";
}

void chunk_free(struct chunk *chunk)
{
	if (chunk == NULL) {
		return;
	}
	chunk_unplan(chunk);
	list_remove(&chunk->node);
	sqlite3_value_free(chunk->first);
	sqlite3_value_free(chunk->last);
	sqlite3_value_free(chunk->done);
	free(chunk->name);
	free(chunk->sql);
	free(chunk->by);
	free(chunk->walk);
	free(chunk->params);
	free(chunk);
}

void chunks_free(struct chunks *chunks)
{
	if (chunks == NULL) {
		return;
	}
	list_for_each_safe(node, &chunks->list) {
		chunk_free(container_of(node, struct chunk, node));
	}
	for (size_t i = 0; i < CHUNK_SQL_COUNT; i++) {
		sqlite3_finalize(chunks->stmts[i]);
	}
	free(chunks);
}

/* ---- rows ---- */

static uint64_t column_uint(sqlite3_stmt *stmt, int column)
{
	return (uint64_t)sqlite3_column_int64(stmt, column);
}

static void read_facts(sqlite3_stmt *stmt, struct chunk_facts *facts)
{
	facts->id = column_uint(stmt, 0);
	facts->uid = (uint32_t)sqlite3_column_int64(stmt, 1);
	facts->state = (enum chunk_state)sqlite3_column_int(stmt, 2);
	facts->rows = column_uint(stmt, 3);
	facts->changes = column_uint(stmt, 4);
	facts->slices = column_uint(stmt, 5);
	facts->busy_us = column_uint(stmt, 6);
	facts->commit_no = column_uint(stmt, 7);
	facts->rate = column_uint(stmt, 8);
	facts->slice_us = column_uint(stmt, 9) * 1000;
	facts->started_s = column_uint(stmt, 10);
	facts->ended_s = column_uint(stmt, 11);
}

static char *column_copy(sqlite3_stmt *stmt, int column)
{
	const char *text = (const char *)sqlite3_column_text(stmt, column);
	return text != NULL ? strdup(text) : NULL;
}

static sqlite3_value *column_dup(sqlite3_stmt *stmt, int column)
{
	return sqlite3_column_type(stmt, column) != SQLITE_NULL
		? sqlite3_value_dup(sqlite3_column_value(stmt, column))
		: NULL;
}

struct chunk *chunk_find(const struct store *store, uint64_t id)
{
	list_for_each(node, &store->chunks->list) {
		struct chunk *chunk = container_of(node, struct chunk, node);
		if (chunk->facts.id == id) {
			return chunk;
		}
	}
	return NULL;
}

static struct chunk *add(struct store *store, sqlite3_stmt *stmt)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk));
	if (chunk == NULL) {
		return NULL;
	}
	list_init(&chunk->node);
	chunk->facts.table = "";
	chunk->facts.key = "";
	chunk->slice_rows = FIRST_SLICE_ROWS;
	chunk->name = column_copy(stmt, 14);
	chunk->sql = column_copy(stmt, 15);
	chunk->params_len = (size_t)sqlite3_column_bytes(stmt, 16);
	chunk->params = malloc(chunk->params_len + 1);
	chunk->by = column_copy(stmt, 17);
	chunk->walk = column_copy(stmt, 21);
	chunk->first = column_dup(stmt, 18);
	chunk->last = column_dup(stmt, 19);
	if (chunk->name == NULL || chunk->sql == NULL || chunk->params == NULL) {
		chunk_free(chunk);
		return NULL;
	}
	if (chunk->params_len > 0) {
		memcpy(chunk->params, sqlite3_column_blob(stmt, 16), chunk->params_len);
	}
	chunk_targets_read(chunk);
	list_push_back(&store->chunks->list, &chunk->node);
	return chunk;
}

static int load_row(struct store *store, sqlite3_stmt *stmt)
{
	struct chunk *chunk = chunk_find(store, column_uint(stmt, 0));
	chunk = chunk != NULL ? chunk : add(store, stmt);
	if (chunk == NULL) {
		return -ENOMEM;
	}
	const char *error = (const char *)sqlite3_column_text(stmt, 12);
	read_facts(stmt, &chunk->facts);
	sqlite3_snprintf(sizeof(chunk->error), chunk->error, "%s", error != NULL ? error : "");
	sqlite3_value_free(chunk->done);
	chunk->done = column_dup(stmt, 20);
	chunk->lost = sqlite3_column_type(stmt, 17) == SQLITE_NULL;
	chunk->facts.due_us = 0;
	chunk->seen = true;
	if (!chunk_state_is_over(chunk->facts.state)) {
		chunk->facts.over_us = 0;
	} else if (chunk->facts.over_us == 0) {
		chunk->facts.over_us = clock_now_us();
	}
	if (chunk->facts.id > store->chunks->last_id) {
		store->chunks->last_id = chunk->facts.id;
	}
	if (chunk->facts.state != CHUNK_RUNNING) {
		chunk_unplan(chunk);
	}
	chunk->facts.name = chunk->name;
	chunk->facts.sql = chunk->sql;
	chunk->facts.error = chunk->error;
	return 0;
}

int store_chunks_load(struct store *store)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_LIST);
	int rc = stmt != NULL ? SQLITE_ROW : SQLITE_NOMEM;
	int loaded = 0;
	list_for_each(node, &store->chunks->list) {
		container_of(node, struct chunk, node)->seen = false;
	}
	while (rc == SQLITE_ROW && loaded == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		loaded = load_row(store, stmt);
	}
	sqlite3_reset(stmt);
	if (rc != SQLITE_DONE || loaded != 0) {
		return loaded != 0 ? loaded : -EIO; /* still stale: tried again */
	}
	list_for_each_safe(node, &store->chunks->list) {
		struct chunk *chunk = container_of(node, struct chunk, node);
		if (!chunk->seen) {
			chunk_free(chunk);
		}
	}
	store->chunks->stale = false;
	chunk_targets_note(store);
	return 0;
}

/* Of one row: id, sql, key. */
static int pin_walk(struct store *store, sqlite3_stmt *row)
{
	char walk[SLICING_WALK_BYTES] = "";
	const char *sql = (const char *)sqlite3_column_text(row, 1);
	const char *by = (const char *)sqlite3_column_text(row, 2);
	struct slicing_text text;
	struct store_error error = {.row = -1};
	sqlite3_stmt *stmt = NULL;
	if (sql == NULL || by == NULL) {
		return SQLITE_NOMEM;
	}
	if (slicing_read((struct bytes){sql, strlen(sql)}, &text, &error) != 0) {
		store_error_clear(&error);
		return SQLITE_OK; /* it will not go on */
	}
	int rc = slicing_find_walk(store, text.table, by, walk);
	rc = rc == SQLITE_OK
		? own_prepare(store, "UPDATE _lf_chunk SET walk = ?2 WHERE id = ?1", &stmt)
		: rc;
	if (rc == SQLITE_OK) {
		sqlite3_bind_int64(stmt, 1, sqlite3_column_int64(row, 0));
		sqlite3_bind_text(stmt, 2, walk, -1, SQLITE_STATIC);
		rc = own_run(store, stmt);
	}
	sqlite3_finalize(stmt);
	return rc;
}

int chunk_pin_walks(struct store *store)
{
	sqlite3_stmt *rows = NULL;
	int rc = own_prepare(store,
		"SELECT id, sql, key FROM _lf_chunk WHERE uid >= 0 AND key IS NOT NULL AND walk = ''",
		&rows);
	while (rc == SQLITE_OK && (rc = sqlite3_step(rows)) == SQLITE_ROW) {
		rc = pin_walk(store, rows);
	}
	sqlite3_finalize(rows);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

bool store_chunks_stale(const struct store *store)
{
	return store->chunks->stale;
}

/* ---- from outside ---- */

/* Steps a statement for its one row. SQLITE_ROW, SQLITE_DONE, or an error. */
static int step_row(struct store *store, enum chunk_sql which, sqlite3_stmt **ret_stmt)
{
	*ret_stmt = chunk_stmt(store, which);
	return *ret_stmt != NULL ? sqlite3_step(*ret_stmt) : sqlite3_errcode(store->handle);
}

/* The row of a name: STORE_NOT_FOUND if there is none. */
static int find_name(struct store *store, uint32_t uid, struct bytes name, bool any,
	struct chunk_facts *ret_facts, uint8_t ret_hash[CHUNK_HASH_BYTES],
	struct store_error *error)
{
	enum chunk_sql which = any ? CHUNK_SQL_FIND_ANY : CHUNK_SQL_FIND;
	sqlite3_stmt *stmt = chunk_stmt(store, which);
	if (stmt != NULL) {
		if (!any) {
			sqlite3_bind_int64(stmt, 1, uid);
		}
		sqlite3_bind_text(stmt, any ? 1 : 2, name.data, (int)name.len, SQLITE_STATIC);
	}
	int rc = step_row(store, which, &stmt);
	if (rc == SQLITE_ROW) {
		read_facts(stmt, ret_facts);
		ret_facts->error = "";
		if (sqlite3_column_bytes(stmt, 13) == CHUNK_HASH_BYTES) {
			memcpy(ret_hash, sqlite3_column_blob(stmt, 13), CHUNK_HASH_BYTES);
		}
	}
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	if (rc == SQLITE_ROW) {
		return 0;
	}
	return rc == SQLITE_DONE
		? store_error_set(error, STORE_NOT_FOUND, 0, "there is no chunk \"%.*s\"",
			  (int)name.len, (const char *)name.data)
		: store_failed(store, rc, error);
}

/* Forgets what ended long ago, and makes sure that there is room for one more. */
static int make_room(struct store *store, uint64_t keep_s, struct store_error *error)
{
	uint64_t now_us = clock_now_us();
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_PRUNE);
	int rc = stmt != NULL ? SQLITE_OK : sqlite3_errcode(store->handle);
	list_for_each(node, &store->chunks->list) {
		const struct chunk_facts *facts = &container_of(node, struct chunk, node)->facts;
		if (rc == SQLITE_OK && facts->over_us != 0 &&
			now_us - facts->over_us >= keep_s * 1000000) {
			sqlite3_bind_int64(stmt, 1, (sqlite3_int64)facts->id);
			rc = own_run(store, stmt);
			store->chunks->stale = true;
		}
	}
	int64_t open = 0;
	rc = rc == SQLITE_OK ? step_row(store, CHUNK_SQL_COUNT_OPEN, &stmt) : rc;
	if (rc == SQLITE_ROW) {
		open = sqlite3_column_int64(stmt, 0);
		rc = sqlite3_reset(stmt);
	}
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	return open < CHUNKS_OPEN_MAX
		? 0
		: store_error_set(error, STORE_BAD_REQUEST, 0,
			  "%d chunks are open: wait for one to end, or cancel one",
			  CHUNKS_OPEN_MAX);
}

/* The values fit the statement: compiled and bound as the slices will be. */
static int check_values(struct store *store, const struct slicing *slicing, const struct step *step,
	struct store_error *error)
{
	struct stmt stmt = {.params = slicing->params};
	if (step->values_per_run != slicing->params) {
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			"the statement has %u parameters, the chunk gives %u values",
			slicing->params, step->values_per_run);
	}
	int rc = own_prepare(store, slicing->slice, &stmt.handle);
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	rc = bind_run(&store->binder, store->handle, &store->authorizer, &stmt, step, 0, error);
	sqlite3_finalize(stmt.handle);
	return rc;
}

static int insert(struct store *store, const struct chunk_order *order,
	const struct slicing *slicing, struct store_error *error)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_INSERT);
	sqlite3_stmt *ends = NULL;
	size_t len = 0;
	char *params = chunk_params_pack(order->step, &len);
	int rc = stmt == NULL || params == NULL ? SQLITE_NOMEM
						: own_prepare(store, slicing->ends, &ends);
	rc = rc == SQLITE_OK ? sqlite3_step(ends) : rc;
	if (rc == SQLITE_ROW) {
		sqlite3_int64 now_s = (sqlite3_int64)(clock_wall_us() / 1000000);
		bool empty = sqlite3_column_type(ends, 0) == SQLITE_NULL;
		sqlite3_bind_int64(stmt, 1, order->uid);
		sqlite3_bind_text(stmt, 2, order->name.data, (int)order->name.len, SQLITE_STATIC);
		sqlite3_bind_blob(stmt, 3, order->hash, CHUNK_HASH_BYTES, SQLITE_STATIC);
		sqlite3_bind_text(
			stmt, 4, order->step->sql.data, (int)order->step->sql.len, SQLITE_STATIC);
		sqlite3_bind_blob64(stmt, 5, params, len, SQLITE_STATIC);
		sqlite3_bind_text(stmt, 6, slicing->key, -1, SQLITE_STATIC);
		sqlite3_bind_int64(stmt, 7, (sqlite3_int64)order->rate);
		sqlite3_bind_int64(stmt, 8, (sqlite3_int64)order->slice_ms);
		sqlite3_bind_int(stmt, 9, empty ? CHUNK_DONE : CHUNK_RUNNING);
		sqlite3_bind_value(stmt, 10, sqlite3_column_value(ends, 0));
		sqlite3_bind_value(stmt, 11, sqlite3_column_value(ends, 1));
		sqlite3_bind_int64(stmt, 12, now_s);
		sqlite3_bind_int64(stmt, 13, empty ? now_s : 0);
		sqlite3_bind_text(stmt, 14, slicing->walk, -1, SQLITE_STATIC);
		sqlite3_bind_int64(stmt, 15, (sqlite3_int64)store->chunks->last_id);
		rc = own_run(store, stmt);
		sqlite3_clear_bindings(stmt);
	}
	sqlite3_finalize(ends);
	sqlite3_free(params);
	store->dirty = true;
	return rc == SQLITE_OK ? 0 : store_failed(store, rc, error);
}

int store_chunk_start(struct store *store, enum role role, const struct chunk_order *order,
	struct chunk_facts *ret_facts, struct store_error *error)
{
	char by[SLICING_NAME_BYTES];
	uint8_t hash[CHUNK_HASH_BYTES] = {0};
	struct slicing slicing;
	int rc = find_name(store, order->uid, order->name, false, ret_facts, hash, error);
	if (rc == 0) {
		return memcmp(hash, order->hash, sizeof(hash)) == 0
			? 0
			: store_error_set(error, STORE_MISMATCH, 0,
				  "the name stands for a chunk of another statement: use another name");
	}
	if (rc != STORE_NOT_FOUND) {
		return rc;
	}
	store_error_clear(error);
	sqlite3_snprintf(sizeof(by), by, "%.*s", (int)order->by.len,
		order->by.len > 0 ? (const char *)order->by.data : "");
	rc = make_room(store, order->keep_s, error);
	rc = rc == 0 ? slicing_make(store, role, order->step->sql, by[0] != 0 ? by : NULL, NULL,
			       &slicing, error)
		     : rc;
	if (rc != 0) {
		return rc;
	}
	rc = check_values(store, &slicing, order->step, error);
	rc = rc == 0 ? insert(store, order, &slicing, error) : rc;
	slicing_finish(&slicing);
	store->chunks->stale = true;
	return rc == 0 ? find_name(store, order->uid, order->name, false, ret_facts, hash, error)
		       : rc;
}

/* Which state an operation leads to from there; false: to none. */
static bool next_state(enum chunk_op op, enum chunk_state *state)
{
	switch (op) {
	case CHUNK_OP_PAUSE:
		*state = *state == CHUNK_RUNNING ? CHUNK_PAUSED : *state;
		return *state == CHUNK_PAUSED;
	case CHUNK_OP_RESUME:
		*state = *state == CHUNK_PAUSED || *state == CHUNK_FAILED ? CHUNK_RUNNING : *state;
		return *state == CHUNK_RUNNING;
	case CHUNK_OP_CANCEL:
		*state = *state == CHUNK_DONE ? CHUNK_DONE : CHUNK_CANCELLED;
		return *state == CHUNK_CANCELLED;
	default:
		return true;
	}
}

static const char *op_name(enum chunk_op op)
{
	static const char *const names[] = {"look at", "pause", "resume", "cancel"};
	return names[op];
}

static int save_state(struct store *store, const struct chunk_facts *facts, const char *why)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_STATE);
	if (stmt == NULL) {
		return sqlite3_errcode(store->handle);
	}
	sqlite3_bind_int64(stmt, 1, (sqlite3_int64)facts->id);
	sqlite3_bind_int(stmt, 2, (int)facts->state);
	sqlite3_bind_int64(stmt, 3, (sqlite3_int64)facts->ended_s);
	sqlite3_bind_text(stmt, 4, why, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 5, (sqlite3_int64)facts->rate);
	store->dirty = true;
	store->chunks->stale = true;
	return own_run(store, stmt);
}

int chunk_fail(struct store *store, const struct chunk *chunk)
{
	struct chunk_facts facts = chunk->facts;
	facts.state = CHUNK_FAILED;
	facts.ended_s = clock_wall_us() / 1000000;
	return save_state(store, &facts, chunk->error);
}

int store_chunk_control(struct store *store, uint32_t uid, bool any, struct bytes name,
	enum chunk_op op, uint64_t rate, struct chunk_facts *ret_facts, struct store_error *error)
{
	uint8_t hash[CHUNK_HASH_BYTES];
	int rc = find_name(store, uid, name, false, ret_facts, hash, error);
	if (rc == STORE_NOT_FOUND && any) {
		store_error_clear(error);
		rc = find_name(store, uid, name, true, ret_facts, hash, error);
	}
	if (rc != 0) {
		return rc;
	}
	enum chunk_state before = ret_facts->state;
	if (!next_state(op, &ret_facts->state)) {
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			"the chunk \"%.*s\" was %s already: nothing is left to %s", (int)name.len,
			(const char *)name.data, chunk_state_name(before), op_name(op));
	}
	if (op == CHUNK_OP_RESUME && before == CHUNK_FAILED) {
		rc = chunk_check_resume(store, ret_facts->id, name, error);
		if (rc != 0) {
			return rc;
		}
	}
	bool over = chunk_state_is_over(ret_facts->state);
	if (before == ret_facts->state && (rate == UINT64_MAX || rate == ret_facts->rate)) {
		return 0;
	}
	if (!over || !chunk_state_is_over(before)) {
		ret_facts->ended_s = over ? clock_wall_us() / 1000000 : 0;
	}
	ret_facts->rate = rate != UINT64_MAX ? rate : ret_facts->rate;
	rc = save_state(store, ret_facts, "");
	return rc == SQLITE_OK ? 0 : store_failed(store, rc, error);
}
