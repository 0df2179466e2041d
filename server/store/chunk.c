/* SPDX-License-Identifier: MIT */

/*
 * Runs slices. A slice is a transaction: find the keys of its range, run the statement over it, write
 * down how far it is, commit. What this file keeps true: either all of that is in the database, or
 * nothing of it; so each key is walked exactly once, however often the daemon is killed.
 *
 * How many rows a slice takes is learned from how long the last one held the writer, commit
 * included.
 */

#include "server/store/chunk_inside.h"

#include "server/base/clock.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	SLICE_ROWS_MAX = 1000000,
	LATE_FACTOR = 4, /* a slice so many times longer than it may be is undone */
	LATE_MIN_US = 40000,
	AGAIN_US = 1000000, /* when there was no room, or no memory */
	RATE_PARTS = 20,    /* a second of a limited rate is cut into as many slices */
};

static bool is_running(const struct chunk *chunk)
{
	return chunk->facts.state == CHUNK_RUNNING;
}

bool store_chunks_open(const struct store *store)
{
	list_for_each(node, &store->chunks->list) {
		const struct chunk *chunk = container_of(node, struct chunk, node);
		if (!chunk_state_is_over(chunk->facts.state)) {
			return true;
		}
	}
	return false;
}

/* How many rows there are in all, by where the walk is between the ends of an integer key. */
static uint64_t estimate(const struct chunk *chunk)
{
	if (chunk->first == NULL || chunk->last == NULL || chunk->done == NULL ||
		sqlite3_value_type(chunk->first) != SQLITE_INTEGER ||
		sqlite3_value_type(chunk->last) != SQLITE_INTEGER ||
		sqlite3_value_type(chunk->done) != SQLITE_INTEGER) {
		return 0;
	}
	double first = (double)sqlite3_value_int64(chunk->first);
	double whole = fabs((double)sqlite3_value_int64(chunk->last) - first) + 1;
	double done = fabs((double)sqlite3_value_int64(chunk->done) - first) + 1;
	double rows = done > 0 ? (double)chunk->facts.rows * whole / done : 0;
	return rows < 9e18 ? (uint64_t)(rows + 0.5) : 0;
}

void store_chunks_each(const struct store *store,
	void (*fn)(void *ctx, const struct chunk_facts *facts), void *ctx)
{
	list_for_each(node, &store->chunks->list) {
		const struct chunk *chunk = container_of(node, struct chunk, node);
		struct chunk_facts facts = chunk->facts;
		facts.of = facts.state == CHUNK_DONE ? facts.rows : estimate(chunk);
		fn(ctx, &facts);
	}
}

/* ---- the plan ---- */

static int schema_version(struct store *store, int64_t *ret_version)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_SCHEMA);
	int rc = stmt != NULL ? sqlite3_step(stmt) : sqlite3_errcode(store->handle);
	if (rc == SQLITE_ROW) {
		*ret_version = sqlite3_column_int64(stmt, 0);
		rc = SQLITE_OK;
	}
	sqlite3_reset(stmt);
	return rc;
}

/* Binds the statement's own values once; they stay through resets. */
static int bind_values(struct store *store, struct chunk *chunk, struct store_error *error)
{
	struct chunk_params params;
	struct stmt stmt = {.handle = chunk->slice, .params = chunk->slicing.params};
	if (chunk_params_unpack(chunk->params, chunk->params_len, &params) != 0) {
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
	int rc = bind_run(
		&store->binder, store->handle, &store->authorizer, &stmt, &params.step, 0, error);
	chunk_params_finish(&params);
	return rc;
}

/* Makes the slices anew, also when the schema has changed: what was shown may no longer hold. */
static int plan(struct store *store, struct chunk *chunk, struct store_error *error)
{
	struct bytes sql = {chunk->sql, strlen(chunk->sql)};
	int64_t version = 0;
	int rc = schema_version(store, &version);
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	if (chunk->planned && chunk->schema == version) {
		return 0;
	}
	chunk_unplan(chunk);
	rc = slicing_make(store, ROLE_WRITE, sql, chunk->by, chunk->walk, &chunk->slicing, error);
	if (rc != 0) {
		return rc;
	}
	authorizer_enter(&store->authorizer, ROLE_WRITE);
	rc = sqlite3_prepare_v3(store->handle, chunk->slicing.slice, -1, SQLITE_PREPARE_PERSISTENT,
		&chunk->slice, NULL);
	rc = rc == SQLITE_OK ? own_prepare(store, chunk->slicing.from, &chunk->from) : rc;
	rc = rc == SQLITE_OK ? own_prepare(store, chunk->slicing.after, &chunk->after) : rc;
	rc = rc == SQLITE_OK ? bind_values(store, chunk, error) : store_failed(store, rc, error);
	if (rc != 0) {
		chunk_unplan(chunk);
		return rc;
	}
	chunk->planned = true;
	chunk->schema = version;
	chunk->facts.table = chunk->slicing.table;
	chunk->facts.key = chunk->slicing.key;
	return 0;
}

/* ---- one slice ---- */

struct slice {
	struct store *store;
	struct chunk *chunk;
	struct store_error *error;
	sqlite3_value *from; /* the keys at its ends */
	sqlite3_value *to;
	uint64_t rows;
	uint64_t changes;
	uint64_t aim_us; /* how long it is to take */
	uint64_t began_us;
	uint64_t committing_us; /* since when */
	bool last;              /* nothing is left behind it */
};

/* The keys of the range: as many as the slice takes, behind the last one done. */
static int find_range(struct slice *slice)
{
	struct chunk *chunk = slice->chunk;
	sqlite3_stmt *stmt = chunk->done != NULL ? chunk->after : chunk->from;
	int rc = SQLITE_ROW;
	sqlite3_bind_value(stmt, 1, chunk->last);
	sqlite3_bind_int64(stmt, 2, (sqlite3_int64)chunk->slice_rows);
	if (chunk->done != NULL) {
		sqlite3_bind_value(stmt, 3, chunk->done);
	}
	authorizer_enter(&slice->store->authorizer, ROLE_SELF);
	while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		slice->rows++;
		if (slice->from == NULL) {
			slice->from = sqlite3_value_dup(sqlite3_column_value(stmt, 0));
		}
		if (slice->rows == chunk->slice_rows) {
			slice->to = sqlite3_value_dup(sqlite3_column_value(stmt, 0));
		}
	}
	sqlite3_reset(stmt);
	if (rc != SQLITE_DONE) {
		return store_failed(slice->store, rc, slice->error);
	}
	slice->last = slice->rows < chunk->slice_rows;
	if (slice->last) {
		slice->to = sqlite3_value_dup(chunk->last); /* all that is left */
	}
	return slice->to != NULL && (slice->rows == 0 || slice->from != NULL)
		? 0
		: store_error_set(slice->error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
}

static int run_range(struct slice *slice)
{
	struct store *store = slice->store;
	sqlite3_stmt *stmt = slice->chunk->slice;
	int place = (int)slice->chunk->slicing.params + 1;
	if (slice->rows == 0) {
		return 0;
	}
	sqlite3_bind_value(stmt, place, slice->from);
	sqlite3_bind_value(stmt, place + 1, slice->to);
	authorizer_enter(&store->authorizer, ROLE_WRITE);
	int rc = sqlite3_step(stmt);
	if (rc == SQLITE_DONE) {
		slice->changes = (uint64_t)sqlite3_changes64(store->handle);
	}
	int verdict = rc == SQLITE_DONE ? 0 : store_failed(store, rc, slice->error);
	sqlite3_reset(stmt);
	if (verdict == 0 && store_deferred_violations(store)) {
		return store_error_set(
			slice->error, STORE_SQL, 787, "FOREIGN KEY constraint failed");
	}
	return verdict;
}

/* How far it is, in the same transaction. */
static int save(struct slice *slice)
{
	struct store *store = slice->store;
	const struct chunk_facts *facts = &slice->chunk->facts;
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_SAVE);
	if (stmt == NULL) {
		return store_failed(store, sqlite3_errcode(store->handle), slice->error);
	}
	sqlite3_bind_int64(stmt, 1, (sqlite3_int64)facts->id);
	sqlite3_bind_int(stmt, 2, slice->last ? CHUNK_DONE : CHUNK_RUNNING);
	sqlite3_bind_int64(stmt, 3, slice->last ? (sqlite3_int64)(clock_wall_us() / 1000000) : 0);
	sqlite3_bind_value(stmt, 4, slice->to);
	sqlite3_bind_int64(stmt, 5, (sqlite3_int64)facts->rows + (sqlite3_int64)slice->rows);
	sqlite3_bind_int64(stmt, 6, (sqlite3_int64)facts->changes + (sqlite3_int64)slice->changes);
	sqlite3_bind_int64(stmt, 7, (sqlite3_int64)facts->slices + 1);
	sqlite3_bind_int64(
		stmt, 8, (sqlite3_int64)(facts->busy_us + clock_now_us() - slice->began_us));
	sqlite3_bind_int64(stmt, 9, (sqlite3_int64)store->commit_no + 1);
	int rc = own_run(store, stmt);
	sqlite3_clear_bindings(stmt);
	store->dirty = true;
	return rc == SQLITE_OK ? 0 : store_failed(store, rc, slice->error);
}

/* Everything between BEGIN and COMMIT. */
static int run_slice(struct slice *slice, uint64_t exec_timeout_us)
{
	struct store *store = slice->store;
	uint64_t allowed_us = slice->aim_us * LATE_FACTOR;
	uint64_t rate = slice->chunk->facts.rate;
	if (rate > 0 && slice->chunk->slice_rows > rate / RATE_PARTS + 1) {
		slice->chunk->slice_rows = rate / RATE_PARTS + 1; /* also of the first one */
	}
	allowed_us = allowed_us < LATE_MIN_US ? LATE_MIN_US : allowed_us;
	if (slice->chunk->slice_rows == 1) {
		allowed_us = exec_timeout_us; /* it cannot be made smaller */
	}
	store_batch_begin(store, 0);
	int rc = plan(store, slice->chunk, slice->error);
	if (rc == 0) {
		store_batch_begin(store, clock_now_us() + allowed_us);
		rc = find_range(slice);
		rc = rc == 0 ? run_range(slice) : rc;
		store_batch_end(store);
	}
	if (rc == 0) {
		store_batch_keep(store);
		rc = save(slice);
	}
	if (rc == 0 && !store_in_transaction(store)) {
		rc = store_error_set(
			slice->error, STORE_RESOURCE, SQLITE_NOMEM, "the transaction was lost");
	}
	return rc;
}

/* ---- what follows ---- */

uint64_t slice_rows_after(uint64_t rows, uint64_t exec_us, uint64_t commit_us, uint64_t aim_us)
{
	uint64_t whole_us = aim_us * 7 / 10; /* no two slices are alike */
	uint64_t least_us = aim_us / 4;
	uint64_t target_us = whole_us > commit_us + least_us ? whole_us - commit_us : least_us;
	uint64_t wish = rows * target_us / (exec_us + 1);
	uint64_t most = rows * 4;
	uint64_t least = rows / 8 + 1;
	return wish > most ? most : wish < least ? least : wish;
}

/* The slice is in the database: memory follows, and learns how large the next one may be. */
static void slice_done(struct slice *slice)
{
	struct chunk *chunk = slice->chunk;
	struct chunk_facts *facts = &chunk->facts;
	uint64_t now_us = clock_now_us();
	uint64_t took_us = now_us - slice->began_us + 1;
	facts->rows += slice->rows;
	facts->changes += slice->changes;
	facts->slices++;
	facts->busy_us += took_us;
	facts->longest_us = took_us > facts->longest_us ? took_us : facts->longest_us;
	facts->commit_no = store_commit_no(slice->store);
	chunk->error[0] = 0;
	sqlite3_value_free(chunk->done);
	chunk->done = slice->to;
	slice->to = NULL;
	if (slice->last) {
		facts->state = CHUNK_DONE;
		facts->ended_s = clock_wall_us() / 1000000;
		facts->over_us = now_us;
		chunk_unplan(chunk);
		return;
	}
	uint64_t wish = slice_rows_after(chunk->slice_rows, slice->committing_us - slice->began_us,
		now_us - slice->committing_us, slice->aim_us);
	if (facts->rate > 0) {
		uint64_t part = facts->rate / RATE_PARTS + 1;
		wish = wish < part ? wish : part;
		chunk->facts.due_us = slice->began_us + slice->rows * 1000000 / facts->rate;
	}
	chunk->slice_rows = wish < SLICE_ROWS_MAX ? wish : SLICE_ROWS_MAX;
}

/* It cannot go on: that, too, is written down. */
static enum chunk_slice give_up(struct slice *slice)
{
	struct store *store = slice->store;
	struct chunk *chunk = slice->chunk;
	struct store_error error = {.row = -1};
	enum chunk_slice result = SLICE_MORE;
	sqlite3_snprintf(sizeof(chunk->error), chunk->error, "%s",
		slice->error->message != NULL ? slice->error->message : "");
	chunk->facts.due_us = clock_now_us() + AGAIN_US; /* in case that this cannot be written */
	if (store_begin(store, &error) == 0) {
		int rc = chunk_fail(store, chunk);
		int committed = rc == SQLITE_OK ? store_commit(store, &error) : STORE_RESOURCE;
		if (committed == 0) {
			chunk->facts.state = CHUNK_FAILED;
			chunk->facts.ended_s = clock_wall_us() / 1000000;
			chunk_unplan(chunk);
		} else if (committed == STORE_UNKNOWN) {
			result = SLICE_UNKNOWN;
		} else {
			store_rollback(store);
		}
	}
	if (result == SLICE_UNKNOWN) {
		store_error_clear(slice->error);
		*slice->error = error;
	} else {
		store_error_clear(&error);
	}
	return result;
}

static void put_off(struct chunk *chunk, uint64_t us, const char *why)
{
	sqlite3_snprintf(sizeof(chunk->error), chunk->error, "waits: %s", why);
	chunk->facts.due_us = clock_now_us() + us;
}

static enum chunk_slice slice_failed(struct slice *slice, int condition)
{
	struct chunk *chunk = slice->chunk;
	switch (condition) {
	case STORE_UNKNOWN:
		return SLICE_UNKNOWN;
	case STORE_TIMEOUT:
		if (atomic_load_explicit(&slice->store->interrupted, memory_order_relaxed)) {
			return SLICE_MORE; /* whoever did so says what follows */
		}
		if (chunk->slice_rows > 1) {
			chunk->slice_rows = chunk->slice_rows / 8 + 1;
			return SLICE_MORE;
		}
		return give_up(slice);
	case STORE_RESOURCE:
	case STORE_BUSY:
		put_off(chunk, AGAIN_US,
			slice->error->message != NULL ? slice->error->message : "");
		return SLICE_MORE;
	default:
		return give_up(slice);
	}
}

static enum chunk_slice run_one(struct slice *slice, uint64_t exec_timeout_us)
{
	struct store *store = slice->store;
	enum chunk_slice result = SLICE_MORE;
	slice->began_us = clock_now_us();
	int rc = store_begin(store, slice->error);
	if (rc == 0) {
		rc = run_slice(slice, exec_timeout_us);
		slice->committing_us = clock_now_us();
		rc = rc == 0 ? store_commit(store, slice->error) : rc;
		if (rc != 0 && rc != STORE_UNKNOWN) {
			store_rollback(store);
		}
	}
	if (rc == 0) {
		slice_done(slice);
	} else {
		result = slice_failed(slice, rc);
	}
	sqlite3_value_free(slice->from);
	sqlite3_value_free(slice->to);
	return result;
}

enum chunk_slice store_chunk_slice(struct store *store, uint64_t id, uint64_t slice_us_max,
	uint64_t exec_timeout_us, struct store_error *error)
{
	struct chunk *chunk = chunk_find(store, id);
	if (chunk == NULL || !is_running(chunk)) {
		return SLICE_OVER;
	}
	if (store->chunks->stale) {
		put_off(chunk, AGAIN_US, "its state could not be read");
		return SLICE_LATER; /* it may have ended, or its table */
	}
	struct slice slice = {.store = store, .chunk = chunk, .error = error};
	slice.aim_us = chunk->facts.slice_us < slice_us_max ? chunk->facts.slice_us : slice_us_max;
	enum chunk_slice result = SLICE_MORE;
	if (chunk->facts.due_us <= clock_now_us()) {
		result = run_one(&slice, exec_timeout_us);
	}
	if (result == SLICE_MORE && !is_running(chunk)) {
		result = SLICE_OVER;
	}
	return result == SLICE_MORE && chunk->facts.due_us > clock_now_us() ? SLICE_LATER : result;
}

void store_chunk_put_off(struct store *store, uint64_t id, uint64_t us, const char *why)
{
	struct chunk *chunk = chunk_find(store, id);
	if (chunk != NULL && is_running(chunk)) {
		put_off(chunk, us, why);
	}
}

enum chunk_slice store_chunk_end(
	struct store *store, uint64_t id, const char *why, struct store_error *error)
{
	struct chunk *chunk = chunk_find(store, id);
	struct slice slice = {.store = store, .chunk = chunk, .error = error};
	if (chunk == NULL || !is_running(chunk)) {
		return SLICE_OVER;
	}
	(void)store_error_set(error, STORE_SQL, 0, "%s", why);
	enum chunk_slice result = give_up(&slice);
	return result == SLICE_UNKNOWN ? result : is_running(chunk) ? SLICE_LATER : SLICE_OVER;
}
