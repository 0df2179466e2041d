/* SPDX-License-Identifier: MIT */

/*
 * Runs a step: binds, steps, hands out rows, counts. It neither begins nor ends anything: what a
 * failed step leaves behind is the commit group's to undo.
 */

#include "server/base/clock.h"
#include "server/store/compiler.h"
#include "server/store/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_ON_STACK = 64, RUNS_A_LOOK = 64 };

void step_limit(struct store *store, uint64_t exec_deadline_us)
{
	store->exec_began_us = exec_deadline_us != 0 ? clock_now_us() : 0;
	store->exec_deadline_us = exec_deadline_us;
	store->exec_ops = 0;
}

void store_batch_begin(struct store *store, uint64_t exec_deadline_us)
{
	sqlite3_set_last_insert_rowid(store->handle, 0);
	store->batch_total = sqlite3_total_changes64(store->handle);
	store->batch_dml = false;
	step_limit(store, exec_deadline_us);
	touched_batch_begin(&store->touched);
}

void store_set_ops_max(struct store *store, uint64_t ops_max)
{
	store->exec_ops_max = ops_max;
}

void store_batch_keep(struct store *store)
{
	touched_batch_keep(&store->touched);
}

void store_batch_end(struct store *store)
{
	store->exec_deadline_us = 0;
}

/* ---- rows ---- */

/* False: a value could not be had for lack of memory. */
static bool read_column(sqlite3_stmt *stmt, int column, struct value *ret_value)
{
	switch (sqlite3_column_type(stmt, column)) {
	case SQLITE_INTEGER:
		*ret_value = (struct value){
			.type = VALUE_INTEGER, .integer = sqlite3_column_int64(stmt, column)};
		return true;
	case SQLITE_FLOAT:
		*ret_value = (struct value){
			.type = VALUE_FLOAT, .real = sqlite3_column_double(stmt, column)};
		return true;
	case SQLITE_TEXT:
		ret_value->type = VALUE_TEXT;
		ret_value->bytes.data = sqlite3_column_text(stmt, column);
		ret_value->bytes.len = (size_t)sqlite3_column_bytes(stmt, column);
		return ret_value->bytes.data != NULL;
	case SQLITE_BLOB:
		ret_value->type = VALUE_BLOB;
		ret_value->bytes.data = sqlite3_column_blob(stmt, column);
		ret_value->bytes.len = (size_t)sqlite3_column_bytes(stmt, column);
		return ret_value->bytes.data != NULL || ret_value->bytes.len == 0;
	default:
		*ret_value = (struct value){.type = VALUE_NULL};
		return true;
	}
}

int step_give_columns(sqlite3_stmt *stmt, const struct step_sink *sink, struct store_error *error)
{
	unsigned count = (unsigned)sqlite3_column_count(stmt);
	const char **names = calloc((size_t)count * 2 + 1, sizeof(*names));
	if (names == NULL) {
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
	for (unsigned i = 0; i < count; i++) {
		names[i] = sqlite3_column_name(stmt, (int)i);
		names[count + i] = sqlite3_column_decltype(stmt, (int)i);
	}
	struct columns columns = {.count = count, .names = names, .types = names + count};
	sink->columns(sink->ctx, &columns);
	free(names);
	return 0;
}

/* One row to the sink: its answer, or STORE_RESOURCE. */
int step_give_row(
	sqlite3_stmt *stmt, unsigned count, const struct step_sink *sink, struct store_error *error)
{
	struct value on_stack[COLUMNS_ON_STACK];
	struct value *values = on_stack;
	int rc = 0;
	if (count > COLUMNS_ON_STACK) {
		values = calloc(count, sizeof(*values));
	}
	bool complete = values != NULL;
	for (unsigned i = 0; complete && i < count; i++) {
		complete = read_column(stmt, (int)i, &values[i]);
	}
	rc = complete ? sink->row(sink->ctx, values, count)
		      : -store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	if (values != on_stack) {
		free(values);
	}
	return rc;
}

/*
 * A row beyond what the step or the sink takes: an error, or, with `truncate`, the end of the rows.
 * A statement that writes is still run to its end, for its constraints are checked there.
 */
static int no_room(const struct step *step, const struct step_sink *full,
	struct step_result *result, struct store_error *error)
{
	if (step->truncate) {
		result->truncated = true;
		return 0;
	}
	return full != NULL
		? store_error_set(error, STORE_TOO_LARGE, 0,
			  "the step returns more than the %zu bytes of an answer (setting "
			  "result_bytes_max): ask for less, or set truncate",
			  full->bytes_max)
		: store_error_set(error, STORE_TOO_LARGE, 0,
			  "the step returns more than %u rows (its own `rows`, or the setting "
			  "rows_max): ask for fewer, or set truncate",
			  step->rows_max);
}

/* Steps a bound statement to its end. */
static int run_rows(struct store *store, const struct stmt *stmt, const struct step *step,
	const struct step_sink *sink, struct step_result *result, struct store_error *error)
{
	int rc = SQLITE_ROW;
	while ((rc = sqlite3_step(stmt->handle)) == SQLITE_ROW) {
		int failed = 0;
		if (stmt->columns == 0) {
			continue; /* PRAGMA incremental_vacuum tells of its pages so: no row that has a name */
		}
		if (result->truncated) {
			if (stmt->readonly && step->expect_rows < 0) {
				return 0;
			}
		} else if (result->rows >= step->rows_max) {
			failed = no_room(step, NULL, result, error);
		} else {
			int answer = step_give_row(stmt->handle, stmt->columns, sink, error);
			failed = answer < 0  ? -answer
				: answer > 0 ? no_room(step, sink, result, error)
					     : 0;
		}
		if (failed != 0) {
			return failed;
		}
		result->rows++;
	}
	return rc == SQLITE_DONE ? 0 : store_failed(store, rc, error);
}

/* ---- steps ---- */

static int check_guards(
	const struct step *step, const struct step_result *result, struct store_error *error)
{
	if (step->expect_changes >= 0 && result->changes != step->expect_changes) {
		return store_error_set(error, STORE_GUARD, 0,
			"expected %lld changes, there were %lld", (long long)step->expect_changes,
			(long long)result->changes);
	}
	if (step->expect_rows >= 0 && result->rows != (uint64_t)step->expect_rows) {
		return store_error_set(error, STORE_GUARD, 0, "expected %lld rows, there were %llu",
			(long long)step->expect_rows, (unsigned long long)result->rows);
	}
	return 0;
}

/*
 * Constraints that SQLite's compiler foresees: it checks them before the first change, or keeps a
 * journal for the statement. Anything else (a datatype mismatch, a malformed argument met in the
 * middle of a loop) may come after changes that stay.
 */
static bool fails_cleanly(int sqlite)
{
	switch (sqlite) {
	case SQLITE_CONSTRAINT_UNIQUE:
	case SQLITE_CONSTRAINT_PRIMARYKEY:
	case SQLITE_CONSTRAINT_ROWID:
	case SQLITE_CONSTRAINT_NOTNULL:
	case SQLITE_CONSTRAINT_CHECK:
		return true;
	default:
		return false;
	}
}

/* SQLite looks at the deadline while a statement runs; between the runs of one step we do. */
static bool is_late(const struct store *store)
{
	return store->exec_deadline_us != 0 && clock_now_us() >= store->exec_deadline_us;
}

/* Before the first statement of a batch that may look: changes() must not show another batch's. */
void step_reset_changes(struct store *store, bool asks)
{
	if (asks && !store->batch_dml) {
		(void)own_run(store, store->own[OWN_NO_CHANGES]);
		store->batch_dml = true;
	}
}

/*
 * Something of ours, a look-up or the compiling of a statement, has met too little memory or a bad disk,
 * and SQLite has thrown the transaction away. No client's statement may ever run outside of one.
 */
static int transaction_lost(struct store_error *error)
{
	return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "the transaction was lost");
}

static int run_statement(struct store *store, enum role role, const struct stmt *stmt,
	const struct step *step, const struct step_sink *sink, struct step_result *result,
	struct store_error *error)
{
	int rc = 0;
	step_reset_changes(store, stmt->asks_changes);
	if (stmt->columns > 0) {
		result->has_columns = true;
		rc = step_give_columns(stmt->handle, sink, error);
	}
	if (rc == 0 && step->runs > 0 && step->values_per_run != stmt->params) {
		rc = store_error_set(error, STORE_BAD_REQUEST, 0,
			"the statement has %u parameters, the step gives %u values", stmt->params,
			step->values_per_run);
	}
	for (uint32_t run = 0; rc == 0 && run < step->runs; run++) {
		if (run % RUNS_A_LOOK == RUNS_A_LOOK - 1 && is_late(store)) {
			rc = store_failed(store, SQLITE_INTERRUPT, error);
			break;
		}
		if (!store_in_transaction(store)) {
			rc = transaction_lost(error);
			break;
		}
		rc = bind_run(
			&store->binder, store->handle, &store->authorizer, stmt, step, run, error);
		if (rc == 0) {
			authorizer_enter(&store->authorizer, role);
			rc = run_rows(store, stmt, step, sink, result, error);
			result->unclean =
				rc != 0 && !stmt->readonly && !fails_cleanly(error->sqlite);
		}
		if (rc == 0 && stmt->dml) {
			result->changes += sqlite3_changes64(store->handle);
		}
		sqlite3_reset(stmt->handle);
		if (rc != 0 && step->many) {
			error->row = run;
		}
	}
	return rc;
}

/* Everything that follows from a statement having run, whether or not it succeeded. */
static void note_effects(struct store *store, bool readonly, bool dml, bool ddl, bool temp)
{
	store->lease.temp |= temp;
	store->dirty |= !readonly;
	store->batch_dml |= dml;
	store->ddl |= ddl;
	if (ddl) {
		touched_schema(&store->touched);
	}
	if (ddl || temp) {
		/* What was found out about other statements may no longer be true. */
		stmt_cache_clear(&store->cache);
	}
}

/* A savepoint of a lease's client was made, released or gone back to. */
static void note_savepoint(struct store *store, enum control control, uint64_t savepoint)
{
	if (control == CONTROL_SAVEPOINT) {
		touched_savepoint(&store->touched, savepoint);
	} else if (control == CONTROL_RELEASE) {
		touched_release(&store->touched, savepoint);
	} else if (control == CONTROL_REWIND) {
		touched_rewind(&store->touched, savepoint);
		/* At nothing else: a virtual table that is opened anew does not see what FTS5 holds back. */
		store_forget_schema(store);
	}
}

/* 0, or why not: all pay for what the schema has. */
static int check_size(struct store *store, struct store_error *error)
{
	char *view = NULL;
	bool look = store->authorizer.made_view && !store->large_views;
	int rc = look ? schema_find_large_view(store, &view) : SQLITE_OK;
	if (rc != SQLITE_OK) {
		return stmt_failed(store->handle, &store->authorizer, rc, error);
	}
	store->authorizer.made_view &= view != NULL;
	if (view == NULL &&
		(store->large_schema || schema_bytes(store) <= store->schema_bytes_max)) {
		return 0;
	}
	if (store->authorizer.lease) {
		store_rollback(store);
	}
	if (view == NULL) {
		return store_error_set(error, STORE_SQL, SQLITE_TOOBIG,
			"the schema takes more than %llu MiB of memory (cure: fewer and shorter views and triggers, or a larger setting "
			"heap_bytes_max, of which it may have a quarter)",
			(unsigned long long)(store->schema_bytes_max >> 20));
	}
	store_error_set(error, STORE_SQL, SQLITE_TOOBIG,
		"compiling the view %s takes more than %d MiB, or with it all views take more than %d s, at each "
		"change of the schema (cure: name views that name others twice less often, or keep what they "
		"give in a table)",
		view, COMPILER_VIEW_BYTES >> 20, COMPILER_VIEWS_MS / 1000);
	free(view);
	return STORE_SQL;
}

/* After a change of the schema: what the authorizer could not see, and whose table is gone. */
static int check_own_tables(struct store *store, struct store_error *error)
{
	bool trespassed = false;
	int rc = check_size(store, error);
	if (rc != 0) {
		return rc;
	}
	rc = schema_find_trespass(store, &trespassed);
	if (rc != SQLITE_OK) {
		return stmt_failed(store->handle, &store->authorizer, rc, error);
	}
	if (!trespassed) {
		return chunk_targets_check(store, error);
	}
	if (store->authorizer.lease) {
		store_rollback(store); /* a batch is undone; of a lease all goes */
	}
	error->needed = ROLE_NONE;
	return store_error_set(error, STORE_DENIED, SQLITE_AUTH,
		"an index, a trigger or a foreign key on a shadow table, or a schema that refers to litefunnel's own tables or "
		"takes a name of theirs, or one of SQLite's tables of facts (pragma_…)");
}

static int run_single(struct store *store, enum role role, const struct step *step,
	const struct step_sink *sink, struct step_result *result, struct store_error *error)
{
	struct stmt *stmt = NULL;
	int rc = stmt_acquire(&store->cache, role, step->sql, step->sql_hash, &stmt, error);
	if (rc != 0) {
		return rc;
	}
	bool readonly = stmt->readonly;
	bool dml = stmt->dml && step->runs > 0;
	bool ddl = stmt->ddl;
	bool temp = stmt->temp;
	if (stmt->control == CONTROL_COMMIT || stmt->control == CONTROL_ROLLBACK) {
		/* Only a lease gets here: it ends the transaction in its own way. */
		result->control = stmt->control == CONTROL_COMMIT ? STEP_COMMITS : STEP_ROLLS_BACK;
		stmt_release(&store->cache, stmt);
		return 0;
	}
	enum control control = stmt->control;
	uint64_t savepoint = stmt->savepoint;
	rc = run_statement(store, role, stmt, step, sink, result, error);
	stmt_release(&store->cache, stmt);
	note_effects(store, readonly, dml, ddl, temp);
	if (rc == 0) {
		note_savepoint(store, control, savepoint);
	}
	return rc == 0 && (ddl || temp) ? check_own_tables(store, error) : rc;
}

/* One statement of a script; its rows go nowhere. */
static int run_script_statement(struct store *store, enum role role, sqlite3_stmt *stmt,
	struct bytes sql, struct step_result *result, struct store_error *error)
{
	bool explain = sqlite3_stmt_isexplain(stmt) != 0;
	enum control control = explain ? CONTROL_NONE : store->authorizer.control;
	uint64_t savepoint = store->authorizer.savepoint;
	bool ddl = store->authorizer.saw_ddl && !explain;
	bool temp = store->authorizer.saw_temp && !explain;
	bool readonly = sqlite3_stmt_readonly(stmt) != 0 || explain ||
		(sql_begins_with(sql, "pragma") && !ddl);
	bool dml = !readonly && sql_is_dml(sql);
	int rc = SQLITE_ROW;
	if (sqlite3_bind_parameter_count(stmt) > 0) {
		return store_error_set(
			error, STORE_BAD_REQUEST, 0, "a script takes no parameters: use steps");
	}
	if (control == CONTROL_BEGIN || control == CONTROL_COMMIT || control == CONTROL_ROLLBACK) {
		error->needed = ROLE_NONE;
		return store_error_set(error, STORE_DENIED, SQLITE_AUTH,
			"transaction control inside a script: give it a step of its own");
	}
	step_reset_changes(store, store->authorizer.saw_changes);
	if (!store_in_transaction(store)) {
		return transaction_lost(error);
	}
	authorizer_enter(&store->authorizer, role);
	while (rc == SQLITE_ROW) {
		rc = sqlite3_step(stmt);
	}
	if (rc == SQLITE_DONE && dml) {
		result->changes += sqlite3_changes64(store->handle);
	}
	int failed = rc == SQLITE_DONE ? 0 : store_failed(store, rc, error);
	sqlite3_reset(stmt);
	note_effects(store, readonly, dml, ddl, temp);
	if (failed == 0) {
		note_savepoint(store, control, savepoint);
	}
	return failed == 0 && (ddl || temp) ? check_own_tables(store, error) : failed;
}

static int run_script(struct store *store, enum role role, const struct step *step,
	struct step_result *result, struct store_error *error)
{
	struct bytes rest = step->sql;
	int rc = 0;
	while (rc == 0 && sql_skip_space(rest, 0) < rest.len) {
		sqlite3_stmt *stmt = NULL;
		size_t tail = 0;
		rc = stmt_prepare(
			store->handle, &store->authorizer, role, rest, 0, &stmt, &tail, error);
		if (rc == 0 && stmt != NULL) {
			rc = run_script_statement(store, role, stmt, rest, result, error);
		}
		sqlite3_finalize(stmt);
		rest = (struct bytes){(const char *)rest.data + tail, rest.len - tail};
	}
	return rc;
}

int store_step(struct store *store, enum role role, const struct step *step,
	const struct step_sink *sink, struct step_result *ret_result, struct store_error *error)
{
	*ret_result = (struct step_result){0};
	int64_t total_before = sqlite3_total_changes64(store->handle);
	int rc = step->script ? run_script(store, role, step, ret_result, error)
			      : run_single(store, role, step, sink, ret_result, error);
	ret_result->total = sqlite3_total_changes64(store->handle) - total_before;
	ret_result->rowid = sqlite3_last_insert_rowid(store->handle);
	store->dirty |= ret_result->total != 0;
	return rc != 0 ? rc : check_guards(step, ret_result, error);
}

bool store_step_is_atomic(struct store *store, enum role role, const struct step *step)
{
	struct store_error error = {.row = -1};
	struct stmt *stmt = NULL;
	if (step->script || step->runs != 1) {
		return false;
	}
	if (stmt_acquire(&store->cache, role, step->sql, step->sql_hash, &stmt, &error) != 0) {
		store_error_clear(&error);
		return true; /* what does not compile does nothing */
	}
	bool guarded = step->expect_changes >= 0 || step->expect_rows >= 0;
	bool atomic = stmt->readonly ||
		(!guarded && store->explain_trusted && stmt_is_atomic(&store->cache, stmt));
	stmt_release(&store->cache, stmt);
	return atomic;
}

bool store_step_is_compiled(struct store *store, enum role role, const struct step *step)
{
	return !step->script && stmt_is_at_hand(&store->cache, role, step->sql, step->sql_hash);
}

bool store_compiled_long(struct store *store)
{
	bool compiled_long = store->authorizer.compiled_long;
	store->authorizer.compiled_long = false;
	return compiled_long;
}

bool store_step_reads_only(struct store *store, enum role role, const struct step *step)
{
	struct store_error error = {.row = -1};
	struct stmt *stmt = NULL;
	if (step->script ||
		stmt_acquire(&store->cache, role, step->sql, step->sql_hash, &stmt, &error) != 0) {
		store_error_clear(&error);
		return false;
	}
	bool readonly = stmt->readonly;
	stmt_release(&store->cache, stmt);
	return readonly;
}

int store_describe(struct store *store, enum role role, struct bytes sql,
	const struct step_sink *sink, struct description *ret_description,
	struct store_error *error)
{
	sqlite3_stmt *stmt = NULL;
	size_t tail = 0;
	int rc = stmt_prepare(store->handle, &store->authorizer, role, sql, 0, &stmt, &tail, error);
	if (rc != 0) {
		return rc;
	}
	if (stmt == NULL) {
		return store_error_set(error, STORE_BAD_REQUEST, 0, "the text holds no statement");
	}
	*ret_description = (struct description){
		.params = (unsigned)sqlite3_bind_parameter_count(stmt),
		.readonly = sqlite3_stmt_readonly(stmt) != 0,
		.tail = tail < sql.len ? (int64_t)tail : -1,
	};
	rc = step_give_columns(stmt, sink, error);
	sqlite3_finalize(stmt);
	return rc;
}
