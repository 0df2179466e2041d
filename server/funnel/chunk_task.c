/* SPDX-License-Identifier: MIT */

/*
 * Tasks of chunks, in the writer's thread. An order is a small transaction of its own, answered when
 * it is committed; a slice is the store's. After each the board says how far the chunks are.
 */

#include "server/funnel/chunk_task.h"

#include "server/base/clock.h"
#include "server/funnel/reply.h"

#include <stdlib.h>

enum { NO_ROOM_AGAIN_US = 1000000 };

/* ---- answers ---- */

void chunk_pack(struct buffer *out, const struct chunk_view *view)
{
	const struct chunk_facts *facts = &view->facts;
	msgpack_packer packer;
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer,
		7u + (facts->of > 0) + (view->rows_per_s > 0) + (view->eta_ms > 0) +
			(facts->rate > 0) + (facts->error[0] != 0));
	pack_key_str(&packer, "chunk", facts->name);
	pack_key_str(&packer, "state", chunk_state_name(facts->state));
	pack_key_uint(&packer, "rows", facts->rows);
	pack_key_uint(&packer, "changes", facts->changes);
	pack_key_uint(&packer, "slices", facts->slices);
	pack_key_uint(&packer, "busy_us", facts->busy_us);
	pack_key_uint(&packer, "commit", facts->commit_no);
	if (facts->of > 0) {
		pack_key_uint(&packer, "of", facts->of);
	}
	if (view->rows_per_s > 0) {
		pack_key_uint(&packer, "rate", view->rows_per_s);
	}
	if (view->eta_ms > 0) {
		pack_key_uint(&packer, "eta_ms", view->eta_ms);
	}
	if (facts->rate > 0) {
		pack_key_uint(&packer, "limit", facts->rate);
	}
	if (facts->error[0] != 0) {
		pack_key_str(&packer, "error", facts->error);
	}
}

static void answer(struct request *request, const struct chunk_ask *ask)
{
	static const uint8_t kind = PAYLOAD_RESULT;
	pthread_mutex_lock(&ask->board->lock);
	const struct chunk_entry *entry = board_find_name(
		ask->board, request->identity.uid, ask->any, ask->name.data, ask->name.len);
	buffer_clear(&request->payload);
	if (entry != NULL) {
		buffer_append(&request->payload, &kind, 1);
		chunk_pack(&request->payload, &entry->view);
		request->outcome = OUTCOME_OK;
	} else {
		failure_set(&request->failure, FAILURE_INTERNAL, "out of memory");
		request->failure.applied = APPLIED_UNKNOWN;
		request->outcome = OUTCOME_FAILED;
	}
	pthread_mutex_unlock(&ask->board->lock);
}

/* ---- orders ---- */

static int carry_out(struct request *request, struct store *store, struct store_error *error)
{
	const struct chunk_ask *ask = request->task.ctx;
	struct chunk_facts facts;
	if (ask->control) {
		return store_chunk_control(store, request->identity.uid, ask->any, ask->name,
			ask->op, ask->rate, &facts, error);
	}
	struct chunk_order order = {
		.uid = request->identity.uid,
		.name = ask->name,
		.step = request->steps,
		.hash = ask->hash,
		.by = ask->by,
		.slice_ms = ask->slice_ms,
		.rate = ask->rate != UINT64_MAX ? ask->rate : 0,
		.keep_s = ask->keep_s,
	};
	return store_chunk_start(store, request->credentials->role, &order, &facts, error);
}

static int in_transaction(struct request *request, struct store *store, struct store_error *error)
{
	int rc = store_begin(store, error);
	if (rc != 0) {
		return rc;
	}
	store_batch_begin(store, 0);
	rc = carry_out(request, store, error);
	if (rc == 0 && !store_in_transaction(store)) {
		rc = store_error_set(error, STORE_RESOURCE, 7, "out of memory");
	}
	if (rc == 0 && store_dirty(store)) {
		rc = store_commit(store, error);
		if (rc == STORE_UNKNOWN) {
			return rc;
		}
	}
	if (store_in_transaction(store) || rc != 0) {
		store_rollback(store);
	}
	return rc;
}

enum task_end chunk_task_order(struct request *request, struct store *store, uint64_t budget_us)
{
	struct chunk_ask *ask = request->task.ctx;
	struct store_error error = {.row = -1};
	(void)budget_us;
	if (clock_now_us() >= request->deadline_us) {
		failure_set(&request->failure, FAILURE_DEADLINE,
			"the deadline passed while the request waited");
		request->outcome = OUTCOME_FAILED;
		return TASK_DONE;
	}
	if (!ask->control && request->task.refusal != NULL) {
		failure_set(&request->failure, FAILURE_DISK_LOW, "%s", request->task.refusal);
		request->failure.retry_after_ms = NO_ROOM_AGAIN_US / 1000;
		request->outcome = OUTCOME_FAILED;
		return TASK_DONE;
	}
	int rc = in_transaction(request, store, &error);
	if (rc == STORE_UNKNOWN) {
		failure_set(&request->failure, FAILURE_INTERNAL, "%s",
			error.message != NULL ? error.message : "COMMIT");
		store_error_clear(&error);
		return TASK_UNKNOWN;
	}
	if (rc != 0) {
		reply_fail_from_store(request, &error, -1);
		request->outcome = OUTCOME_FAILED;
		store_error_clear(&error);
	}
	if (store_chunks_stale(store)) {
		(void)store_chunks_load(store); /* else with the next slice or order */
	}
	board_publish(ask->board, store);
	if (rc == 0) {
		answer(request, ask);
	}
	return TASK_DONE;
}

/* ---- slices ---- */

void chunk_task_catch_up(struct chunk_board *board, struct store *store)
{
	bool quiet = !store_in_transaction(store); /* what a lease has done may yet be undone */
	if (quiet && store_chunks_stale(store) && store_chunks_load(store) == 0) {
		board_publish(board, store);
	}
}

void chunk_run_wish(struct chunk_run *run, enum chunk_wish wish)
{
	pthread_mutex_lock(&run->board->lock);
	run->wish = wish > run->wish ? wish : run->wish;
	if (run->store != NULL) {
		store_interrupt(run->store, true);
	}
	pthread_mutex_unlock(&run->board->lock);
}

/* From now on, or with NULL no longer, the loop may interrupt it. What it has wished until now. */
static enum chunk_wish interruptible(struct chunk_run *run, struct store *store)
{
	struct store *before = run->store;
	pthread_mutex_lock(&run->board->lock);
	const struct chunk_entry *entry = board_find(run->board, run->id);
	enum chunk_wish wish = run->wish;
	if (wish == WISH_GO_ON && entry != NULL && entry->orders > 0) {
		wish = WISH_STEP_ASIDE;
	}
	run->store = store;
	if (store == NULL && before != NULL) {
		store_interrupt(before, false);
	}
	run->wish = WISH_GO_ON;
	pthread_mutex_unlock(&run->board->lock);
	return wish;
}

/* One slice, unless there is a reason for none. */
static enum chunk_slice run_slice(struct request *request, struct store *store, uint64_t budget_us,
	uint64_t timeout_us, struct store_error *error)
{
	struct chunk_run *run = request->task.ctx;
	enum chunk_slice slice = SLICE_LATER;
	enum chunk_wish wish = interruptible(run, store);
	if (request->task.refusal != NULL) {
		store_chunk_put_off(store, run->id, NO_ROOM_AGAIN_US, request->task.refusal);
	} else if (wish == WISH_GO_ON) {
		slice = store_chunk_slice(store, run->id, budget_us, timeout_us, error);
	}
	enum chunk_wish late = interruptible(run, NULL);
	if ((wish == WISH_END || late == WISH_END) && slice != SLICE_UNKNOWN) {
		store_error_clear(error);
		slice = store_chunk_end(
			store, run->id, "ended by an administrator; `resume` lets it go on", error);
	} else if (late == WISH_STEP_ASIDE && slice == SLICE_MORE) {
		slice = SLICE_LATER; /* out of the queue: its class may be owed the next turn */
	}
	return slice;
}

enum task_end chunk_task_slice(struct request *request, struct store *store, uint64_t budget_us)
{
	struct chunk_run *run = request->task.ctx;
	struct store_error error = {.row = -1};
	pthread_mutex_lock(&run->board->lock);
	uint64_t timeout_us = run->board->slice_timeout_us;
	bool closed = run->board->closed;
	pthread_mutex_unlock(&run->board->lock);
	if (closed) {
		return TASK_DONE;
	}
	if (store_chunks_stale(store)) {
		(void)store_chunks_load(store);
	}
	enum chunk_slice slice = run_slice(request, store, budget_us, timeout_us, &error);
	if (slice == SLICE_UNKNOWN) {
		failure_set(&request->failure, FAILURE_INTERNAL, "%s",
			error.message != NULL ? error.message : "COMMIT");
		store_error_clear(&error);
		return TASK_UNKNOWN;
	}
	store_error_clear(&error);
	board_publish(run->board, store);
	return slice == SLICE_MORE ? TASK_MORE : TASK_DONE;
}
