/* SPDX-License-Identifier: MIT */

/*
 * A transaction that a client holds: its own savepoints, TEMP objects, settings and cursors, and the
 * end of all of them. What this file keeps true: the next transaction finds the handle as if there had
 * been no lease.
 */

#include "server/store/inside.h"

#include <stdlib.h>
#include <string.h>

struct cursor {
	struct cursor *next;
	uint64_t id;
	struct stmt *stmt;
	enum role role;
	bool row_waits; /* the statement stands on a row that was not given yet */
};

void store_interrupt(struct store *store, bool interrupt)
{
	atomic_store_explicit(&store->interrupted, interrupt, memory_order_relaxed);
}

/* ---- settings ---- */

static int read_pragma(struct store *store, const char *sql, int *ret_value)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store, sql, &stmt);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	*ret_value = rc == SQLITE_ROW ? sqlite3_column_int(stmt, 0) : -1;
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int set_pragma(struct store *store, const char *name, int value)
{
	char sql[64];
	int now = -1;
	(void)sqlite3_snprintf(sizeof(sql), sql, "PRAGMA %s = %d", name, value);
	int rc = own_exec(store, sql);
	(void)sqlite3_snprintf(sizeof(sql), sql, "PRAGMA %s", name);
	rc = rc == SQLITE_OK ? read_pragma(store, sql, &now) : rc;
	return rc == SQLITE_OK && now != value ? SQLITE_ERROR : rc;
}

/* What SQLite takes only outside of a transaction. */
static int apply_settings(struct store *store, const struct lease_settings *settings)
{
	int rc = SQLITE_OK;
	store->lease.foreign_keys = store->foreign_keys;
	store->lease.recursive_triggers = -1;
	if (settings->foreign_keys >= 0 && (settings->foreign_keys != 0) != store->foreign_keys) {
		store->lease.foreign_keys = settings->foreign_keys != 0;
		rc = set_pragma(store, "foreign_keys", settings->foreign_keys);
		stmt_cache_clear(&store->cache);
	}
	if (rc == SQLITE_OK && settings->recursive_triggers >= 0) {
		rc = read_pragma(
			store, "PRAGMA recursive_triggers", &store->lease.recursive_triggers);
		rc = rc == SQLITE_OK
			? set_pragma(store, "recursive_triggers", settings->recursive_triggers)
			: rc;
		stmt_cache_clear(&store->cache);
	}
	return rc;
}

static int undo_settings(struct store *store)
{
	int rc = SQLITE_OK;
	if (store->lease.foreign_keys != store->foreign_keys) {
		rc = set_pragma(store, "foreign_keys", store->foreign_keys ? 1 : 0);
		stmt_cache_clear(&store->cache);
	}
	if (store->lease.recursive_triggers >= 0) {
		int undone =
			set_pragma(store, "recursive_triggers", store->lease.recursive_triggers);
		rc = rc == SQLITE_OK ? undone : rc;
		stmt_cache_clear(&store->cache);
	}
	return rc;
}

static int failed(struct store *store, int rc, struct store_error *error)
{
	return rc == SQLITE_OK ? 0 : stmt_failed(store->handle, &store->authorizer, rc, error);
}

int store_lease_begin(struct store *store, const struct lease_settings *settings,
	const struct guard *guard, struct store_error *error)
{
	store->lease.open = true;
	store->lease.temp = false;
	store->lease.defers_changed = false;
	int rc = failed(store, apply_settings(store, settings), error);
	rc = rc == 0 ? store_begin(store, error) : rc;
	if (rc == 0 && settings->defer_foreign_keys > 0) {
		/* Each transaction begins without it. */
		rc = failed(store, set_pragma(store, "defer_foreign_keys", 1), error);
	}
	if (rc == 0 && guard->epoch != NULL) {
		rc = store_check_guard(store, guard, error);
	}
	if (rc == 0) {
		store_batch_begin(store, 0);
		store->authorizer.lease = true;
		store->authorizer.lease_foreign_keys = store->lease.foreign_keys;
	}
	return rc;
}

/* ---- steps ---- */

/* How a step is run. */
enum way {
	WAY_BARE,      /* what SQLite itself leaves of a failure stays */
	WAY_SAVEPOINT, /* a failure may have to be undone by us */
	WAY_READS,     /* there is nothing to undo */
};

/*
 * SQLite undoes one statement by itself, as far as its conflict clause says so, but not the rows before a
 * failing one, nor what a guard forbids. A savepoint is no more than needed: virtual tables write what
 * they hold back at each, and the counters show it.
 */
static enum way way_of(struct store *store, enum role role, const struct step *step)
{
	struct store_error error = {.row = -1};
	struct stmt *stmt = NULL;
	if (step->script) {
		return WAY_BARE;
	}
	if (stmt_acquire(&store->cache, role, step->sql, step->sql_hash, &stmt, &error) != 0) {
		store_error_clear(&error);
		return WAY_READS; /* what does not compile does nothing */
	}
	bool guarded = step->expect_changes >= 0 || step->expect_rows >= 0;
	bool limited = stmt->columns > 0 && step->rows_asked;
	enum way way = stmt->readonly              ? WAY_READS
		: stmt->lease && !stmt->temp       ? WAY_BARE
		: step->many || guarded || limited ? WAY_SAVEPOINT
						   : WAY_BARE;
	stmt_release(&store->cache, stmt);
	return way;
}

/* The savepoint's end. What SQLite itself has left of a failed statement stays, as it would alone. */
static int end_savepoint(
	struct store *store, const struct step *step, int rc, struct store_error *error)
{
	struct store_error ignored = {.row = -1};
	bool undo = rc != 0 && (step->many || rc == STORE_GUARD || rc == STORE_TOO_LARGE);
	if (!store_in_transaction(store)) {
		return rc;
	}
	if (undo) {
		touched_batch_unsay(&store->touched);
	}
	int ended = undo ? store_rollback_to(store, rc != 0 ? &ignored : error)
			 : store_release(store, rc != 0 ? &ignored : error);
	store_error_clear(&ignored);
	if (ended != 0) {
		store_rollback(store); /* it cannot be said what stands */
	}
	return rc != 0 ? rc : ended;
}

/* Whether a statement may set that pragma. Its text does not end in a NUL. */
static bool names_deferral(struct bytes sql)
{
	static const char name[] = "defer_foreign_keys";
	const size_t len = sizeof(name) - 1;
	const char *text = sql.data;
	for (size_t at = 0; at + len <= sql.len; at++) {
		if (sqlite3_strnicmp(text + at, name, (int)len) == 0) {
			return true;
		}
	}
	return false;
}

int store_lease_step(struct store *store, enum role role, const struct step *step,
	uint64_t exec_deadline_us, const struct step_sink *sink, struct step_result *ret_result,
	struct store_error *error)
{
	*ret_result = (struct step_result){0};
	step_limit(store, exec_deadline_us);
	enum way way = way_of(store, role, step);
	bool ready = store_in_transaction(store);
	int rc = way == WAY_SAVEPOINT && ready ? store_savepoint(store, error) : 0;
	if (rc == 0) {
		int64_t total = sqlite3_total_changes64(store->handle);
		rc = store_step(store, role, step, sink, ret_result, error);
		store->exec_deadline_us = 0;
		if (rc != 0 && !step->script && sqlite3_total_changes64(store->handle) == total) {
			touched_batch_unsay(&store->touched); /* nothing of it stays */
		}
		rc = way == WAY_SAVEPOINT ? end_savepoint(store, step, rc, error) : rc;
	}
	store->exec_deadline_us = 0;
	if (rc == STORE_TOO_LARGE && way == WAY_BARE) {
		store_rollback(store); /* a limit of ours was met in the middle of it */
	}
	store->lease.defers_changed |= names_deferral(step->sql);
	touched_batch_keep(&store->touched);
	return rc;
}

/* ---- cursors ---- */

static void close_cursor(struct store *store, struct cursor *cursor)
{
	struct cursor **at = &store->lease.cursors;
	while (*at != cursor) {
		at = &(*at)->next;
	}
	*at = cursor->next;
	store->lease.cursors_count--;
	stmt_release(&store->cache, cursor->stmt);
	free(cursor);
}

/* Gives at most `rows` rows. A row for which there is no room waits, unless it is the first. */
static int give_rows(struct store *store, struct cursor *cursor, uint32_t rows,
	const struct step_sink *sink, bool *ret_more, struct store_error *error)
{
	sqlite3_stmt *stmt = cursor->stmt->handle;
	uint32_t given = 0;
	int rc = cursor->row_waits ? SQLITE_ROW : SQLITE_OK;
	for (;;) {
		if (rc != SQLITE_ROW) {
			authorizer_enter(&store->authorizer, cursor->role);
			rc = sqlite3_step(stmt);
		}
		cursor->row_waits = rc == SQLITE_ROW;
		if (rc != SQLITE_ROW || given == rows) {
			break;
		}
		int answer = step_give_row(stmt, cursor->stmt->columns, sink, error);
		if (answer < 0) {
			return -answer;
		}
		if (answer > 0 && given == 0) {
			return store_error_set(error, STORE_TOO_LARGE, 0,
				"one row is larger than the %zu bytes of an answer (setting "
				"result_bytes_max)",
				sink->bytes_max);
		}
		if (answer > 0) {
			break;
		}
		given++;
		rc = SQLITE_OK;
	}
	*ret_more = rc == SQLITE_ROW;
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : store_failed(store, rc, error);
}

/* The end of a step with a cursor: whom its rows have notified is told with the commit, as of any other step. */
static void end_cursor_step(struct store *store, struct cursor *cursor, int rc, bool more)
{
	store->exec_deadline_us = 0;
	if (rc != 0) {
		touched_batch_unsay(&store->touched);
	}
	touched_batch_keep(&store->touched);
	if (rc != 0 || !more) {
		close_cursor(store, cursor);
	}
}

static int bind_cursor(struct store *store, const struct stmt *stmt, const struct step *step,
	struct store_error *error)
{
	if (!stmt->readonly || stmt->columns == 0 || step->runs != 1 || step->many) {
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			"a cursor is for one statement that only reads and has columns");
	}
	if (step->values_per_run != stmt->params) {
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			"the statement has %u parameters, the step gives %u values", stmt->params,
			step->values_per_run);
	}
	store->binder.copies = true;
	int rc = bind_run(&store->binder, store->handle, &store->authorizer, stmt, step, 0, error);
	store->binder.copies = false;
	return rc;
}

int store_cursor_open(struct store *store, enum role role, const struct step *step,
	uint64_t exec_deadline_us, const struct step_sink *sink, struct step_result *ret_result,
	uint64_t *ret_cursor, bool *ret_more, struct store_error *error)
{
	struct stmt *stmt = NULL;
	*ret_more = false;
	*ret_result = (struct step_result){.rowid = sqlite3_last_insert_rowid(store->handle)};
	if (store->lease.cursors_count >= LEASE_CURSORS_MAX) {
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			"a lease has at most %d cursors: close one", LEASE_CURSORS_MAX);
	}
	int rc = stmt_acquire(&store->cache, role, step->sql, step->sql_hash, &stmt, error);
	if (rc != 0) {
		return rc;
	}
	struct cursor *cursor = calloc(1, sizeof(*cursor));
	if (cursor == NULL) {
		stmt_release(&store->cache, stmt);
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
	*cursor = (struct cursor){.next = store->lease.cursors,
		.id = ++store->lease.last_cursor,
		.stmt = stmt,
		.role = role};
	store->lease.cursors = cursor;
	store->lease.cursors_count++;
	*ret_cursor = cursor->id;
	step_reset_changes(store, stmt->asks_changes);
	step_limit(store, exec_deadline_us);
	rc = bind_cursor(store, stmt, step, error);
	rc = rc == 0 ? step_give_columns(stmt->handle, sink, error) : rc;
	rc = rc == 0 ? give_rows(store, cursor, step->cursor_rows, sink, ret_more, error) : rc;
	end_cursor_step(store, cursor, rc, *ret_more);
	return rc;
}

static struct cursor *find_cursor(struct store *store, uint64_t id, struct store_error *error)
{
	struct cursor *cursor = store->lease.cursors;
	while (cursor != NULL && cursor->id != id) {
		cursor = cursor->next;
	}
	if (cursor == NULL) {
		store_error_set(error, STORE_NOT_FOUND, 0,
			"there is no cursor %llu: it was closed, or had no more rows",
			(unsigned long long)id);
	}
	return cursor;
}

int store_cursor_fetch(struct store *store, uint64_t id, uint32_t rows, uint64_t exec_deadline_us,
	const struct step_sink *sink, bool *ret_more, struct store_error *error)
{
	struct cursor *cursor = find_cursor(store, id, error);
	*ret_more = false;
	if (cursor == NULL) {
		return STORE_NOT_FOUND;
	}
	step_limit(store, exec_deadline_us);
	int rc = step_give_columns(cursor->stmt->handle, sink, error);
	rc = rc == 0 ? give_rows(store, cursor, rows, sink, ret_more, error) : rc;
	end_cursor_step(store, cursor, rc, *ret_more);
	return rc;
}

int store_cursor_close(struct store *store, uint64_t id, struct store_error *error)
{
	struct cursor *cursor = find_cursor(store, id, error);
	if (cursor == NULL) {
		return STORE_NOT_FOUND;
	}
	close_cursor(store, cursor);
	return 0;
}

static void close_all_cursors(struct store *store)
{
	while (store->lease.cursors != NULL) {
		close_cursor(store, store->lease.cursors);
	}
}

/* ---- the end ---- */

/*
 * changes() as it was before statements of ours that counted: by one that counts as many rows and changes
 * none. SQLite has no other way to set it.
 */
static int restore_changes(struct store *store, int64_t changes)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store,
		"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT 1 FROM n LIMIT ?1)"
		" INSERT INTO _lf_state(id, format, epoch, commit_no, session_window)"
		" SELECT i, 0, x'', 0, 0 FROM n WHERE true ON CONFLICT (id) DO UPDATE SET id = id",
		&stmt);
	if (rc == SQLITE_OK) {
		sqlite3_bind_int64(stmt, 1, changes);
		rc = own_run(store, stmt);
	}
	sqlite3_finalize(stmt);
	return rc;
}

static int remember(struct store *store, const struct identity *identity, struct bytes payload,
	struct store_error *error)
{
	return dedupe_remember(store->dedupe, identity, payload) == 0
		? 0
		: store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
}

/*
 * SQLite counts violations in two places, by the setting at the time, and commits if they come to nothing
 * together; what can be asked of it is only whether either is other than nothing. So, when the setting
 * was changed on the way, it must be tried, in a way that can be taken back.
 */
static int try_commit(struct store *store, const struct identity *identity, struct bytes payload,
	struct store_error *error)
{
	struct store_error ignored = {.row = -1};
	close_all_cursors(store);
	int rc = store_savepoint(store, error);
	int64_t total = sqlite3_total_changes64(store->handle);
	int64_t changes = sqlite3_changes64(store->handle);
	rc = rc == 0 ? remember(store, identity, payload, error) : rc;
	rc = rc == 0 ? store_commit(store, error) : rc;
	if (rc != STORE_SQL || !store_in_transaction(store)) {
		return rc;
	}
	if (store_rollback_to(store, &ignored) != 0 ||
		restore_changes(store, changes) != SQLITE_OK) {
		store_error_clear(&ignored);
		store_rollback(store);
		return STORE_RESOURCE;
	}
	store->batch_total += sqlite3_total_changes64(store->handle) - total; /* our own rows */
	return STORE_SQL;
}

int store_lease_commit(struct store *store, const struct identity *identity, struct bytes payload,
	struct store_error *error)
{
	if (store_deferred_violations(store)) {
		/* It may be committed under that name yet: of a commit that fails nothing is remembered. */
		int tried = store->lease.defers_changed
			? try_commit(store, identity, payload, error)
			: store_error_set(error, STORE_SQL, 787, "FOREIGN KEY constraint failed");
		if (tried == STORE_SQL) {
			dedupe_rolled_back(store->dedupe);
		}
		return tried;
	}
	close_all_cursors(store);
	int rc = remember(store, identity, payload, error);
	if (rc != 0) {
		store_rollback(store);
		return rc;
	}
	if (!store->dirty && !dedupe_has_pending(store->dedupe)) {
		store_rollback(store);
		return 0;
	}
	rc = store_commit(store, error);
	if (rc == STORE_SQL) {
		store_rollback(store); /* of which nobody knows what stands */
		rc = STORE_RESOURCE;
	}
	return rc;
}

/*
 * SQLite throws the whole TEMP database away when it is to be kept elsewhere. Dropping its objects one
 * by one would leave temp.sqlite_sequence, which stands before the real one in all statements.
 *
 * It must not be read by then. Where FTS5 reads a table of its own as a statement rolls all back, SQLite leaves
 * the databases open for that reader, TEMP, too, until the next statement is done.
 */
static int drop_temp(struct store *store)
{
	int left = -1;
	store_settle(store);
	int rc = own_exec(store, "PRAGMA temp_store = file");
	rc = rc == SQLITE_OK ? set_pragma(store, "temp_store", 2) : rc;
	stmt_cache_clear(&store->cache);
	rc = rc == SQLITE_OK ? read_pragma(store, "SELECT count(*) FROM sqlite_temp_schema", &left)
			     : rc;
	return rc == SQLITE_OK && left != 0 ? SQLITE_ERROR : rc;
}

int store_lease_end(struct store *store, struct store_error *error)
{
	store->authorizer.lease = false;
	close_all_cursors(store);
	if (store_in_transaction(store)) {
		store_rollback(store);
	} else {
		touched_rolled_back(&store->touched);
		dedupe_rolled_back(store->dedupe);
		store_forget_schema(store);
	}
	int rc = store->lease.temp ? drop_temp(store) : SQLITE_OK;
	int undone = undo_settings(store);
	store->lease.temp = false;
	store->lease.open = false;
	rc = rc == SQLITE_OK ? undone : rc;
	return rc == SQLITE_OK
		? 0
		: store_error_set(error, STORE_UNKNOWN, rc,
			  "what a lease has changed of the connection cannot be undone: %s",
			  sqlite3_errmsg(store->handle));
}
