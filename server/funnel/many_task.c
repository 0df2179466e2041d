/* SPDX-License-Identifier: MIT */

/*
 * Runs a large write slice by slice, each in a transaction of its own, with whoever waits between. It
 * is a task only for the schedule: its client sees a write, answered once, from memory if it comes
 * again. What this file keeps true: how many rows are applied is written down with them; so no row is
 * applied twice, and the answer is stored with the last one.
 *
 * A slice with a row that fails is undone and run again up to that row; then the write ends there.
 */

#include "server/funnel/many_task.h"

#include "server/base/clock.h"
#include "server/funnel/group.h"
#include "server/store/chunk.h"
#include "server/store/many.h"

enum {
	FIRST_ROWS = 256,
	LATE_FACTOR = 4, /* a slice so many times longer than it may be is undone */
	LATE_MIN_US = 40000,
};

/* How a slice ended, for its transaction. */
enum end { END_MORE, END_ANSWERED, END_UNDONE, END_BUSY, END_UNKNOWN };

struct slice {
	struct request *request;
	struct store *store;
	struct many_progress progress; /* after it */
	uint64_t before;               /* rows that were applied before it */
	uint64_t rows;
	uint64_t began_us;
	uint64_t budget_us;
	struct store_error error;
	bool unfit; /* the statement returns rows, or names rowids */
};

static void note_columns(void *ctx, const struct columns *columns)
{
	(void)columns;
	((struct slice *)ctx)->unfit = true;
}

static int take_no_row(void *ctx, const struct value *values, unsigned count)
{
	(void)ctx;
	(void)values;
	(void)count;
	return 1;
}

/* The rows of the step from the first that is not applied on. */
static struct step part_of(const struct slice *slice)
{
	struct step step = slice->request->steps[0];
	size_t skip = (size_t)slice->before * step.values_per_run;
	step.values += skip;
	step.names = step.names != NULL ? step.names + skip : NULL;
	step.runs = (uint32_t)slice->rows;
	return step;
}

static uint64_t deadline_of(const struct slice *slice)
{
	uint64_t allowed_us = slice->budget_us * LATE_FACTOR;
	if (slice->rows <= 1) {
		return slice->began_us + slice->request->exec_timeout_us; /* it cannot be smaller */
	}
	return slice->began_us + (allowed_us > LATE_MIN_US ? allowed_us : LATE_MIN_US);
}

/* Before its first slice. A condition of the store. */
static int check(struct slice *slice)
{
	struct request *request = slice->request;
	int rc = store_many_check(
		slice->store, request->credentials->role, &request->steps[0], &slice->error);
	slice->unfit = rc == STORE_BAD_REQUEST;
	return rc;
}

/* Inside the transaction: the rows, and how far that is. A condition of the store. */
static int apply(struct slice *slice)
{
	struct store *store = slice->store;
	struct step step = part_of(slice);
	struct step_sink sink = {.columns = note_columns, .row = take_no_row, .ctx = slice};
	struct step_result result = {0};
	store_batch_begin(store, deadline_of(slice));
	int rc = store_step(
		store, slice->request->credentials->role, &step, &sink, &result, &slice->error);
	store_batch_end(store);
	if (slice->unfit) {
		store_error_clear(&slice->error);
		return store_error_set(&slice->error, STORE_BAD_REQUEST, 0,
			"with atomic:false the statement returns no rows: leave RETURNING out");
	}
	if (rc == 0 && store_deferred_violations(store)) {
		rc = store_error_set(
			&slice->error, STORE_SQL, 787, "FOREIGN KEY constraint failed");
		slice->error.row = slice->rows == 1 ? 0 : slice->error.row;
	}
	if (rc == 0) {
		store_batch_keep(store);
		slice->progress.rows += slice->rows;
		slice->progress.changes += result.changes;
		slice->progress.total += result.total;
		slice->progress.rowid = result.rowid != 0 ? result.rowid : slice->progress.rowid;
	}
	return rc;
}

/* Stores the answer in place of the progress. A condition of the store. */
static int remember(struct slice *slice, struct bytes payload)
{
	struct request *request = slice->request;
	if (dedupe_remember(store_dedupe(slice->store), &request->identity, payload) != 0) {
		return store_error_set(&slice->error, STORE_RESOURCE, 7, "out of memory");
	}
	return store_many_save(
		slice->store, &request->identity, &slice->progress, true, &slice->error);
}

/* All rows are applied: the answer. */
static int succeed(struct slice *slice)
{
	struct request *request = slice->request;
	struct step_result result = {.changes = slice->progress.changes,
		.total = slice->progress.total,
		.rowid = slice->progress.rowid};
	struct packing packing;
	packing_init(&packing, &request->payload, SIZE_MAX);
	packing_begin_step(&packing);
	packing_end_step(&packing, &result);
	int rc = packing_end(&packing)
		? remember(slice, (struct bytes){request->payload.data, request->payload.len})
		: store_error_set(&slice->error, STORE_RESOURCE, 7, "out of memory");
	packing_finish(&packing);
	return rc;
}

/* ---- the end of a slice ---- */

/* What is told of rows that are applied, though the write as a whole failed. */
static void tell_applied(struct slice *slice, struct failure *failure)
{
	if (slice->before > 0 && failure->code != FAILURE_KEY_MISMATCH) {
		failure->applied = APPLIED_UNKNOWN; /* in part: up to `row` */
	}
}

static void fail_with_error(struct slice *slice)
{
	struct request *request = slice->request;
	if (slice->error.row >= 0) {
		slice->error.row += (int64_t)slice->before;
	}
	reply_fail_from_store(request, &slice->error, 0);
	request->outcome = OUTCOME_FAILED;
	tell_applied(slice, &request->failure);
	store_error_clear(&slice->error);
}

/* The failure of the row at hand will come again: in a transaction of its own it is remembered. */
static enum end fail_for_good(struct slice *slice)
{
	struct request *request = slice->request;
	slice->error.row = slice->error.row >= 0 || slice->before > 0 ? 0 : -1;
	request->offended = slice->error.condition == STORE_TIMEOUT;
	fail_with_error(slice);
	if (request->failure.retry || request->failure.code == FAILURE_DEADLINE ||
		store_begin(slice->store, &slice->error) != 0) {
		return END_ANSWERED;
	}
	int rc = reply_pack_failure(&request->failure, &request->payload)
		? remember(slice, (struct bytes){request->payload.data, request->payload.len})
		: STORE_RESOURCE;
	rc = rc == 0 ? store_commit(slice->store, &slice->error) : rc;
	if (rc == STORE_UNKNOWN) {
		return END_UNKNOWN;
	}
	if (rc != 0) {
		store_rollback(slice->store); /* a repeat will simply meet it again */
	}
	return END_ANSWERED;
}

/* The slice is undone: a smaller one, or the end. */
static enum end slice_failed(struct slice *slice)
{
	struct request *request = slice->request;
	int64_t row = slice->error.row;
	bool soon =
		slice->error.condition == STORE_RESOURCE || slice->error.condition == STORE_BUSY;
	bool smaller = slice->rows > 1 && !slice->unfit && !soon &&
		slice->error.condition != STORE_MISMATCH;
	if (!smaller && (soon || slice->error.condition == STORE_MISMATCH)) {
		fail_with_error(slice);
		return END_ANSWERED;
	}
	if (!smaller) {
		return fail_for_good(slice);
	}
	bool at_row = row >= 0 && slice->error.condition != STORE_TIMEOUT;
	request->slice_rows = !at_row ? slice->rows / 8 + 1 : row > 0 ? (uint64_t)row : 1;
	store_error_clear(&slice->error);
	return END_MORE;
}

/* Between BEGIN and COMMIT. END_UNDONE: slice->error says why; *ret_over: the answer is stored. */
static enum end run_inside(struct slice *slice, bool *ret_over)
{
	struct request *request = slice->request;
	uint64_t runs = request->steps[0].runs;
	if (group_answer_from_memory(slice->store, request)) {
		return END_ANSWERED;
	}
	if (store_many_read(slice->store, &request->identity, &slice->progress, &slice->error) !=
		0) {
		return END_UNDONE;
	}
	slice->before = slice->progress.rows;
	request->begun |= slice->before > 0;
	uint64_t left = runs > slice->before ? runs - slice->before : 0;
	slice->rows = request->slice_rows < left ? request->slice_rows : left;
	*ret_over = slice->rows == left;
	int rc = slice->before == 0 ? check(slice) : 0;
	rc = rc == 0 ? apply(slice) : rc;
	if (rc == 0) {
		rc = *ret_over ? succeed(slice)
			       : store_many_save(slice->store, &request->identity, &slice->progress,
					 false, &slice->error);
	}
	if (rc == 0 && !store_in_transaction(slice->store)) {
		(void)store_error_set(&slice->error, STORE_RESOURCE, 7, "the transaction was lost");
		rc = STORE_RESOURCE;
	}
	return rc == 0 ? END_MORE : END_UNDONE;
}

static enum end run_slice(struct slice *slice)
{
	struct request *request = slice->request;
	bool over = false;
	int rc = store_begin(slice->store, &slice->error);
	if (rc == STORE_BUSY) {
		return END_BUSY;
	}
	if (rc != 0) {
		fail_with_error(slice);
		return END_ANSWERED;
	}
	enum end end = run_inside(slice, &over);
	uint64_t committing_us = clock_now_us();
	if (end == END_MORE) {
		rc = store_commit(slice->store, &slice->error);
		end = rc == 0 ? END_MORE : rc == STORE_UNKNOWN ? END_UNKNOWN : END_UNDONE;
	}
	if (end == END_UNKNOWN) {
		return end;
	}
	if (store_in_transaction(slice->store) || end != END_MORE) {
		store_rollback(slice->store);
	}
	if (end == END_UNDONE) {
		return slice_failed(slice);
	}
	if (end == END_MORE) {
		request->begun = true;
		request->deadline_us = UINT64_MAX; /* it has begun, and ends by itself */
		request->slice_rows = slice_rows_after(slice->rows, committing_us - slice->began_us,
			clock_now_us() - committing_us, slice->budget_us);
	}
	if (end == END_MORE && over) {
		request->outcome = OUTCOME_OK;
		request->commit_no = store_commit_no(slice->store);
		request->group = 1;
		end = END_ANSWERED;
	}
	return end;
}

static void fail_before(struct request *request, enum failure_code code, const char *message)
{
	failure_set(&request->failure, code, "%s", message);
	request->failure.applied = request->begun ? APPLIED_UNKNOWN : APPLIED_NO;
	request->failure.retry_after_ms = request->failure.retry ? 500 : 0;
	request->outcome = OUTCOME_FAILED;
}

enum task_end many_task_slice(struct request *request, struct store *store, uint64_t budget_us)
{
	struct slice slice = {.request = request,
		.store = store,
		.began_us = clock_now_us(),
		.budget_us = budget_us,
		.error = {.row = -1}};
	if (request->slice_rows == 0) {
		request->slice_rows = FIRST_ROWS;
	}
	if (request->task.refusal != NULL) {
		fail_before(request, FAILURE_DISK_LOW, request->task.refusal);
		return TASK_DONE;
	}
	if (slice.began_us >= request->deadline_us) {
		fail_before(
			request, FAILURE_DEADLINE, "the deadline passed while the request waited");
		return TASK_DONE;
	}
	enum end end = run_slice(&slice);
	if (end == END_UNKNOWN || end == END_BUSY) {
		failure_set(&request->failure, FAILURE_INTERNAL, "%s",
			slice.error.message != NULL ? slice.error.message : "");
	}
	store_error_clear(&slice.error);
	switch (end) {
	case END_UNKNOWN:
		return TASK_UNKNOWN;
	case END_BUSY:
		return TASK_BUSY;
	case END_MORE:
		return TASK_MORE;
	default:
		return TASK_DONE;
	}
}
