/* SPDX-License-Identifier: MIT */

/*
 * The writer's side of a lease: it serves this one client until the lease ends. What this file keeps
 * true: every request gets one answer, which says whether the lease is still open; nothing of a lease
 * that was not committed stays; nobody waits for it longer than the limits say.
 */

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/funnel/group.h"
#include "server/funnel/lease.h"
#include "server/funnel/reply.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	LOOK_US = 100 * 1000, /* how often it is looked whether somebody waits */
	PATIENCE = 10,        /* limits are so many times as long while nobody waits */
	BUSY_PAUSE_US = 5000,
};

/* How a request leaves the lease. */
enum after { AFTER_OPEN, AFTER_ENDED, AFTER_UNKNOWN };

struct run {
	struct lease *lease;
	struct request *task;
	struct store *store;
	struct reply_facts facts;
	/* Time used, in units of a lease for which somebody waits. */
	uint64_t idle_used_us;
	uint64_t total_used_us;
	uint64_t counted_us; /* up to then */
};

static uint64_t number(const struct run *run, enum setting_id id)
{
	return config_number(run->lease->config, id);
}

/* ---- the limits ---- */

static bool somebody_waits(struct run *run)
{
	struct queue_facts facts = queue_facts(run->lease->queue);
	return facts.count > 0 || facts.held_us != 0 || facts.closed;
}

/* Time runs ten times slower while nobody waits. */
static void count_time(struct run *run, bool idle)
{
	uint64_t now_us = clock_now_us();
	uint64_t used_us = (now_us - run->counted_us) / (somebody_waits(run) ? 1 : PATIENCE);
	run->counted_us = now_us;
	run->total_used_us += used_us;
	run->idle_used_us = idle ? run->idle_used_us + used_us : 0;
}

static bool is_over(struct run *run)
{
	return run->idle_used_us >= run->lease->limits.idle_us ||
		run->total_used_us >= run->lease->limits.total_us;
}

/* Until when a step may run: its own deadline, and the limits. */
static uint64_t exec_deadline(struct run *run, const struct request *request)
{
	uint64_t now_us = clock_now_us();
	uint64_t until_us = now_us + number(run, SETTING_EXEC_TIMEOUT) * 1000;
	uint64_t total_us = run->lease->limits.total_us;
	uint64_t left_us = total_us > run->total_used_us ? total_us - run->total_used_us : 0;
	left_us *= somebody_waits(run) ? 1 : PATIENCE;
	until_us = now_us + left_us < until_us ? now_us + left_us : until_us;
	return request->own_deadline && request->deadline_us < until_us ? request->deadline_us
									: until_us;
}

/* ---- answers ---- */

static void build(struct run *run, struct request *request, bool open)
{
	if (request->outcome == OUTCOME_FAILED) {
		request->failure.open = open;
	}
	reply_build(request, &run->facts);
}

/* While the lease goes on, answers go out at once; the last ones with its end. */
static void answer(struct run *run, struct request *request, bool open)
{
	struct list one;
	build(run, request, open);
	if (!open) {
		list_push_back(&run->lease->last, &request->node);
		return;
	}
	list_init(&one);
	list_push_back(&one, &request->node);
	queue_post(run->lease->queue, &one);
}

static void fail(struct request *request, enum failure_code code, const char *message)
{
	failure_set(&request->failure, code, "%s", message);
	request->outcome = OUTCOME_FAILED;
}

static void fail_from_store(struct request *request, struct store_error *error)
{
	reply_fail_from_store(request, error, -1);
	request->outcome = OUTCOME_FAILED;
	store_error_clear(error);
}

/* ---- taking requests ---- */

/* The next request, waiting at most that long. NULL: none, or nobody will send one any more. */
static struct request *take(struct lease *lease, uint64_t wait_us, bool *ret_left)
{
	struct request *request = NULL;
	struct timespec until;
	uint64_t until_us = clock_now_us() + wait_us;
	until.tv_sec = (time_t)(until_us / 1000000);
	until.tv_nsec = (long)(until_us % 1000000) * 1000;
	pthread_mutex_lock(&lease->lock);
	while (list_empty(&lease->inbox) && !lease->abandoned && !lease->killed &&
		pthread_cond_timedwait(&lease->work, &lease->lock, &until) != ETIMEDOUT) {
	}
	/* Who has asked for the end and gone still gets it; what else was sent is not wanted now. */
	*ret_left = lease->killed || (lease->abandoned && !lease->end_asked) ||
		(lease->abandoned && list_empty(&lease->inbox));
	if (!*ret_left && !list_empty(&lease->inbox)) {
		request = container_of(lease->inbox.next, struct request, node);
		list_remove(&request->node);
		lease->inbox_bytes -= request->bytes;
		lease->idle_us = 0;
		lease->steps += request->lease.op == LEASE_OP_STEP;
		if (request->steps_count > 0) {
			lease->known_before = lease->known;
			known_by_text(&lease->known, request->steps[0].sql);
		}
	} else if (lease->idle_us == 0) {
		lease->idle_us = clock_now_us();
	}
	pthread_mutex_unlock(&lease->lock);
	return request;
}

/* NULL: the lease must end, for the reason lease::end. */
static struct request *next(struct run *run)
{
	struct lease *lease = run->lease;
	char told[LEASE_LIMITS_TOLD_BYTES];
	count_time(run, false);
	for (;;) {
		bool left = false;
		struct request *request = take(lease, LOOK_US, &left);
		count_time(run, request == NULL);
		if (request != NULL && !is_over(run)) {
			return request;
		}
		if (request != NULL) {
			fail(request, FAILURE_LEASE_EXPIRED,
				lease_limits_told(&lease->limits, told));
			answer(run, request, false);
		}
		if (left || is_over(run)) {
			lease->end = left ? FAILURE_LEASE_GONE : FAILURE_LEASE_EXPIRED;
			return NULL;
		}
	}
}

/* From now on, or no longer, what runs may be interrupted by the loop. True: it was. */
static bool interruptible(struct run *run, struct request *request)
{
	struct lease *lease = run->lease;
	pthread_mutex_lock(&lease->lock);
	bool interrupted = lease->cancelled || lease->killed || lease->abandoned;
	lease->running = request;
	lease->store = request != NULL ? run->store : NULL;
	lease->cancelled = false;
	store_interrupt(run->store,
		request != NULL && (lease->killed || (lease->abandoned && !lease->end_asked)));
	pthread_mutex_unlock(&lease->lock);
	return interrupted;
}

/* ---- one request ---- */

/* What a failure leaves of the lease. */
static enum after after_failure(
	struct run *run, struct request *request, struct store_error *error, bool interrupted)
{
	enum store_condition condition = error->condition;
	fail_from_store(request, error);
	if (condition == STORE_TIMEOUT && interrupted) {
		fail(request, FAILURE_CANCELLED, "interrupted while it ran: the lease has ended");
	}
	bool ended = !store_in_transaction(run->store) || condition == STORE_TIMEOUT ||
		condition == STORE_RESOURCE || condition == STORE_BUSY;
	if (ended) {
		/* It cannot be done again by itself: what came before it is gone, too. */
		request->failure.retry = false;
		request->failure.retry_after_ms = 0;
	}
	return ended ? AFTER_ENDED : AFTER_OPEN;
}

static enum after commit(struct run *run, struct request *request)
{
	struct store *store = run->store;
	struct store_error error = {.row = -1};
	uint64_t began_us = clock_now_us();
	static const uint8_t payload[] = {PAYLOAD_COMMIT};
	if (request->identity.kind != IDENTITY_NONE && group_answer_from_memory(store, request)) {
		return request->outcome == OUTCOME_REPEAT ? AFTER_ENDED : AFTER_OPEN;
	}
	buffer_clear(&request->payload);
	buffer_append(&request->payload, payload, sizeof(payload));
	int rc = store_lease_commit(
		store, &request->identity, (struct bytes){payload, sizeof(payload)}, &error);
	request->commit_us = clock_now_us() - began_us;
	request->commit_no = store_commit_no(store);
	request->group = 1;
	if (rc == STORE_UNKNOWN) {
		failure_set(&run->task->failure, FAILURE_INTERNAL, "%s", error.message);
		store_error_clear(&error);
		return AFTER_UNKNOWN;
	}
	if (rc != 0) {
		fail_from_store(request, &error);
		request->failure.retry = false;
		return rc == STORE_SQL ? AFTER_OPEN : AFTER_ENDED;
	}
	request->outcome = OUTCOME_OK;
	return AFTER_ENDED;
}

static enum after roll_back(struct run *run, struct request *request)
{
	static const uint8_t payload[] = {PAYLOAD_COMMIT};
	store_rollback(run->store);
	buffer_clear(&request->payload);
	buffer_append(&request->payload, payload, sizeof(payload));
	request->commit_no = store_commit_no(run->store);
	request->outcome = OUTCOME_OK;
	return AFTER_ENDED;
}

/* At the disk floor: what the lease has done already may still be committed. */
static bool is_refused(struct run *run, struct request *request, const struct step *step)
{
	const char *refusal = run->task->task.refusal;
	if (refusal == NULL ||
		store_step_reads_only(run->store, request->credentials->role, step)) {
		return false;
	}
	fail(request, FAILURE_DISK_LOW, refusal);
	request->failure.retry_after_ms = DISK_RETRY_AFTER_MS;
	return true;
}

/* What ended the lease says nothing of what held the writer: that was the statement before it. */
static void forget_end(struct lease *lease)
{
	pthread_mutex_lock(&lease->lock);
	lease->known = lease->known_before;
	pthread_mutex_unlock(&lease->lock);
}

static enum after step(struct run *run, struct request *request)
{
	struct store_error error = {.row = -1};
	struct step_result result = {0};
	struct packing packing;
	uint64_t cursor = 0;
	bool more = false;
	struct step one = request->steps[0];
	uint32_t rows_max = (uint32_t)number(run, SETTING_ROWS_MAX);
	one.rows_max = one.rows_max < rows_max ? one.rows_max : rows_max;
	one.cursor_rows = one.cursor_rows < rows_max ? one.cursor_rows : rows_max;

	packing_init(&packing, &request->payload, number(run, SETTING_RESULT_BYTES_MAX));
	packing_begin_step(&packing);
	struct step_sink sink = {
		packing_columns, packing_row, &packing, number(run, SETTING_RESULT_BYTES_MAX)};
	uint64_t until_us = exec_deadline(run, request);
	enum role role = request->credentials->role;
	if (is_refused(run, request, &one)) {
		packing_finish(&packing);
		return AFTER_OPEN;
	}
	(void)interruptible(run, request);
	int rc = one.cursor_rows > 0
		? store_cursor_open(
			  run->store, role, &one, until_us, &sink, &result, &cursor, &more, &error)
		: store_lease_step(run->store, role, &one, until_us, &sink, &result, &error);
	bool interrupted = interruptible(run, NULL);
	enum after after = AFTER_OPEN;
	if (rc == 0 && result.control != 0) {
		forget_end(run->lease);
	}
	if (rc != 0) {
		after = after_failure(run, request, &error, interrupted);
	} else if (result.control == STEP_COMMITS) {
		after = commit(run, request);
	} else if (result.control == STEP_ROLLS_BACK) {
		after = roll_back(run, request);
	} else {
		packing_end_step(&packing, &result);
		reply_pack_lease_step(&packing, one.cursor_rows > 0, cursor, more);
		request->outcome = OUTCOME_OK;
	}
	packing_finish(&packing);
	return after;
}

static enum after fetch(struct run *run, struct request *request)
{
	struct store_error error = {.row = -1};
	struct packing packing;
	bool more = false;
	uint32_t rows_max = (uint32_t)number(run, SETTING_ROWS_MAX);
	uint32_t rows = request->lease.rows < rows_max ? request->lease.rows : rows_max;
	packing_init(&packing, &request->payload, number(run, SETTING_RESULT_BYTES_MAX));
	packing_begin_step(&packing);
	struct step_sink sink = {
		packing_columns, packing_row, &packing, number(run, SETTING_RESULT_BYTES_MAX)};
	(void)interruptible(run, request);
	int rc = store_cursor_fetch(run->store, request->lease.cursor, rows,
		exec_deadline(run, request), &sink, &more, &error);
	bool interrupted = interruptible(run, NULL);
	enum after after = AFTER_OPEN;
	if (rc != 0) {
		after = after_failure(run, request, &error, interrupted);
	} else {
		reply_pack_fetch(&packing, more);
		request->outcome = OUTCOME_OK;
	}
	packing_finish(&packing);
	return after;
}

static enum after describe(struct run *run, struct request *request)
{
	struct store_error error = {.row = -1};
	struct description description;
	struct packing packing;
	enum after after = AFTER_OPEN;
	packing_init(&packing, &request->payload, number(run, SETTING_RESULT_BYTES_MAX));
	packing_begin_step(&packing);
	struct step_sink sink = {
		packing_columns, packing_row, &packing, number(run, SETTING_RESULT_BYTES_MAX)};
	if (store_describe(run->store, request->credentials->role, request->steps[0].sql, &sink,
		    &description, &error) == 0) {
		reply_pack_description(&packing, &description);
		request->outcome = OUTCOME_OK;
	} else {
		after = after_failure(run, request, &error, false);
	}
	packing_finish(&packing);
	return after;
}

static enum after close_cursor(struct run *run, struct request *request)
{
	static const uint8_t empty[] = {PAYLOAD_RESULT, 0x80};
	struct store_error error = {.row = -1};
	if (store_cursor_close(run->store, request->lease.cursor, &error) != 0) {
		return after_failure(run, request, &error, false);
	}
	buffer_append(&request->payload, empty, sizeof(empty));
	request->outcome = OUTCOME_OK;
	return AFTER_OPEN;
}

static enum after serve(struct run *run, struct request *request)
{
	switch (request->lease.op) {
	case LEASE_OP_STEP:
		return step(run, request);
	case LEASE_OP_FETCH:
		return fetch(run, request);
	case LEASE_OP_CLOSE:
		return close_cursor(run, request);
	case LEASE_OP_DESCRIBE:
		return describe(run, request);
	case LEASE_OP_COMMIT:
		return commit(run, request);
	case LEASE_OP_ROLLBACK:
		return roll_back(run, request);
	default:
		fail(request, FAILURE_BAD_REQUEST, "the lease has begun");
		return AFTER_OPEN;
	}
}

/* ---- the whole ---- */

/* Serves until the end. False: as STORE_UNKNOWN. */
static bool serve_all(struct run *run)
{
	struct request *request;
	while ((request = next(run)) != NULL) {
		request->taken_us = clock_now_us();
		enum after after = serve(run, request);
		if (after == AFTER_UNKNOWN) {
			return false;
		}
		request->exec_us = clock_now_us() - request->taken_us - request->commit_us;
		if (after == AFTER_OPEN && store_in_transaction(run->store)) {
			answer(run, request, true);
			continue;
		}
		if (!store_in_transaction(run->store) || after == AFTER_ENDED) {
			answer(run, request, false);
			return true;
		}
	}
	return true;
}

/* Ends the lease for whoever asks from now on, and answers what is left. */
static void close_inbox(struct run *run)
{
	struct lease *lease = run->lease;
	struct list left;
	char told[LEASE_LIMITS_TOLD_BYTES];
	list_init(&left);
	pthread_mutex_lock(&lease->lock);
	lease->state = LEASE_ENDED;
	list_append_all(&left, &lease->inbox);
	pthread_mutex_unlock(&lease->lock);
	list_for_each_safe(node, &left) {
		struct request *request = container_of(node, struct request, node);
		list_remove(node);
		fail(request, lease->end,
			lease->end == FAILURE_LEASE_EXPIRED
				? lease_limits_told(&lease->limits, told)
				: "the lease has ended before this request");
		request->taken_us = clock_now_us();
		answer(run, request, false);
	}
}

static void log_expired(const struct run *run)
{
	const struct lease *lease = run->lease;
	log_warn("lease expired, rolled back", log_int("pid", lease->credentials->pid),
		log_uint("uid", lease->credentials->uid), log_str("label", lease->known.label),
		log_uint("steps", lease->steps), log_str("sql", lease->known.sql));
}

/* As the log of slow batches. */
static void log_if_slow(const struct run *run, uint64_t began_us, const struct holder *holder)
{
	const struct lease *lease = run->lease;
	uint64_t slow_us = number(run, SETTING_SLOW) * 1000;
	uint64_t queued_us = began_us - run->task->received_us;
	uint64_t held_us = clock_now_us() - began_us;
	if (slow_us == 0 || queued_us + held_us < slow_us) {
		return;
	}
	log_warn("slow lease", log_int("pid", lease->credentials->pid),
		log_uint("uid", lease->credentials->uid),
		log_str("class", request_class_name(lease->class)),
		log_uint("queued_us", queued_us), log_uint("held_us", held_us),
		log_uint("steps", lease->steps), log_str("sql", lease->known.sql),
		log_str("label", lease->known.label), log_str("waited_for", holder->what),
		log_int("waited_for_pid", holder->pid),
		log_str("waited_for_label", holder->known.label),
		log_str("waited_for_sql", holder->known.sql));
}

/* False: not now, for another process writes. */
static bool begin(struct run *run, struct request *request, bool *ret_open)
{
	struct lease *lease = run->lease;
	struct store_error error = {.row = -1};
	*ret_open = false;
	request->waited_for = run->task->waited_for;
	run->task->waited_for = NULL;
	if (clock_now_us() >= request->deadline_us) {
		fail(request, FAILURE_DEADLINE, "the deadline passed while the lease waited");
		request->taken_us = clock_now_us();
		answer(run, request, false);
		return true;
	}
	int rc = store_lease_begin(run->store, &request->lease.settings, &request->guard, &error);
	if (rc == STORE_BUSY) {
		store_error_clear(&error);
		pthread_mutex_lock(&lease->lock);
		list_push_front(&lease->inbox, &request->node);
		lease->inbox_bytes += request->bytes;
		pthread_mutex_unlock(&lease->lock);
		return false;
	}
	request->taken_us = clock_now_us();
	if (rc != 0) {
		fail_from_store(request, &error);
		answer(run, request, false);
		return true;
	}
	pthread_mutex_lock(&lease->lock);
	lease->state = LEASE_OPEN;
	lease->begun_us = request->taken_us;
	pthread_mutex_unlock(&lease->lock);
	reply_pack_begin(request, lease->number, store_commit_no(run->store));
	request->outcome = OUTCOME_OK;
	answer(run, request, true);
	*ret_open = true;
	return true;
}

enum task_end lease_run(struct request *task, struct store *store, uint64_t budget_us)
{
	struct run run = {.lease = task->task.ctx,
		.task = task,
		.store = store,
		.facts = {.epoch = store_epoch(store),
			.durability = store_sync_full(store) ? "full" : "normal"},
		.counted_us = clock_now_us()};
	struct store_error error = {.row = -1};
	bool left = false;
	bool open = false;
	(void)budget_us; /* its limits are its own */
	struct holder waited_for = {.what = ""};
	if (task->waited_for != NULL) {
		waited_for = *task->waited_for;
	}
	uint64_t began_us = run.counted_us;
	struct request *request = take(run.lease, 0, &left);
	if (request != NULL && !begin(&run, request, &open)) {
		(void)store_lease_end(store, &error);
		store_error_clear(&error);
		(void)queue_pause(run.lease->queue, BUSY_PAUSE_US);
		return TASK_MORE;
	}
	if (open && !serve_all(&run)) {
		return TASK_UNKNOWN;
	}
	if (run.lease->end == FAILURE_LEASE_EXPIRED) {
		log_expired(&run);
	}
	if (open) {
		log_if_slow(&run, began_us, &waited_for);
	}
	if (request != NULL && store_lease_end(store, &error) != 0) {
		failure_set(&task->failure, FAILURE_INTERNAL, "%s", error.message);
		return TASK_UNKNOWN;
	}
	close_inbox(&run);
	return TASK_DONE;
}
