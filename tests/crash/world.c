/* SPDX-License-Identifier: MIT */

/*
 * Runs commit groups on the real store and holds every answer and every row against the history. It
 * goes through the same functions as the daemon: messages are packed, parsed and decoded, requests
 * queued, groups run, checkpoints tried between them.
 */

#include "tests/crash/world.h"

#include "proto/frame.h"
#include "proto/message.h"
#include "server/base/clock.h"
#include "server/funnel/batch.h"
#include "server/store/inside.h"
#include "tests/crash/findings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

enum { TOGETHER_MAX = 512, ASKED_TOGETHER = 12, BYE_ID = 0 };

#define CLOCK_BEGIN_US 1000000000ull

static uint64_t clock_us = CLOCK_BEGIN_US;
static struct credentials client = {
	.references = 1, .uid = 1000, .role = ROLE_DDL, .text = "uid 1000 (client)"};

static uint64_t tick(void)
{
	return ++clock_us;
}

void world_set_up(void)
{
	static const struct clock_source clocks = {tick, tick};
	clock_set_source(&clocks);
	crash_vfs_install();
}

void world_clock_jump(uint64_t seconds)
{
	clock_us += seconds * 1000000;
}

void world_clock_reset(void)
{
	clock_us = CLOCK_BEGIN_US;
}

static void (*watcher)(bool inside);

void world_watch_product(void (*watch)(bool inside))
{
	watcher = watch;
}

static void product(bool inside)
{
	if (watcher != NULL) {
		watcher(inside);
	}
}

/* ---- opening ---- */

static int count_commit(void *ctx)
{
	struct world *world = ctx;
	world->commit_hooks++;
	return 0;
}

bool world_in_commit(void *ctx)
{
	const struct world *world = ctx;
	return world->store != NULL &&
		world->commit_hooks > store_commit_no(world->store) - world->commit_base;
}

static void not_waiting(void *ctx)
{
	(void)ctx;
}

bool world_open(struct world *world, char ret_error[STORE_ERROR_BYTES])
{
	struct store_options options = {
		.path = world->path,
		.create = true,
		.sync_full = world->options->sync_full,
		.foreign_keys = true,
		.extensions = "",
		.cache_bytes = world->options->cache_bytes,
		.statements_max = 64,
		.sql_bytes_max = 1000000,
		.session_window = SESSION_WINDOW,
		.poisoned = world->poisoned,
	};
	ret_error[0] = 0;
	world->commit_hooks = 0;
	world->commit_base = 0;
	world->unknown = false;
	product(true);
	int opened = store_open(&options, &world->store, ret_error);
	product(false);
	if (opened != 0) {
		world->store = NULL;
		if (opened == -ENOMEM) {
			snprintf(ret_error, STORE_ERROR_BYTES, "out of memory");
		}
		return false;
	}
	world->poisoned = false;
	if (queue_new(not_waiting, NULL, &world->queue) != 0) {
		store_close(world->store);
		world->store = NULL;
		snprintf(ret_error, STORE_ERROR_BYTES, "no memory for a queue");
		return false;
	}
	sqlite3_commit_hook(world->store->handle, count_commit, world);
	tape_mark(world->tape, TAPE_ACKED, store_commit_no(world->store));
	return true;
}

void world_close(struct world *world, bool dead)
{
	world_reader(world, false);
	crash_vfs_die(dead);
	queue_free(world->queue);
	store_close(world->store);
	crash_vfs_die(false);
	world->queue = NULL;
	world->store = NULL;
}

void world_reader(struct world *world, bool on)
{
	if (!on) {
		sqlite3_finalize(world->reading);
		sqlite3_close(world->reader);
		world->reading = NULL;
		world->reader = NULL;
	} else if (world->reader == NULL &&
		sqlite3_open_v2(world->path, &world->reader, SQLITE_OPEN_READONLY, NULL) ==
			SQLITE_OK &&
		sqlite3_prepare_v2(world->reader, "SELECT name FROM sqlite_schema", -1,
			&world->reading, NULL) == SQLITE_OK) {
		(void)sqlite3_step(world->reading); /* the snapshot stands until it is reset */
	}
}

/* ---- sending ---- */

/* From a frame to a request, as method.c does it. NULL: no memory. */
static struct request *decode(const struct history *history, const struct batch *batch)
{
	struct buffer frame;
	struct failure failure;
	msgpack_zone zone;
	struct request *request = NULL;
	struct message message;

	failure_init(&failure);
	buffer_init(&frame, 0);
	batch_message(history, batch, &frame);
	product(true);
	if (!frame.failed && msgpack_zone_init(&zone, 1024)) {
		int rc = message_parse(frame.data + FRAME_HEADER_BYTES,
			frame.len - FRAME_HEADER_BYTES, &zone, &message);
		request = rc == 0 ? batch_decode(&message, NULL, &failure) : NULL;
		if (request == NULL && rc >= 0 && failure.code != FAILURE_INTERNAL) {
			found(FOUND_ANSWER, "batch %u is refused: %s", batch->id,
				rc > 0 ? message.reason : failure.message);
		}
		msgpack_zone_destroy(&zone);
	}
	failure_clear(&failure);
	product(false);
	buffer_finish(&frame);
	return request;
}

static void address(
	const struct history *history, const struct batch *batch, struct request *request)
{
	request->id = batch->id;
	request->credentials = credentials_ref(&client);
	request->identity.uid = client.uid;
	request->class = (enum request_class)(CLASS_NORMAL);
	request->received_us = clock_now_us();
	request->deadline_us = UINT64_MAX;
	if (batch->identity == IDENTITY_SEQ) {
		const struct session *session = &history->sessions[batch->session];
		request->identity.uid = session->uid;
		memcpy(request->identity.session, session->id, DEDUPE_SESSION_BYTES);
	}
}

static bool push(struct world *world, struct request *request)
{
	static const struct queue_limits limits = {100000, SIZE_MAX / 2};
	if (request == NULL) {
		return false;
	}
	/* In one line, whosever session it is: the history holds that they run in this order. */
	uint32_t uid = request->identity.uid;
	request->identity.uid = client.uid;
	if (queue_push(world->queue, request, &limits) != 0) {
		request_free(request);
		return false;
	}
	request->identity.uid = uid;
	return true;
}

/* ---- answers ---- */

static bool nobodys_guilt(const struct world *world, const struct request *request)
{
	return world->faulty && request->outcome == OUTCOME_FAILED && request->failure.retry &&
		request->failure.applied == APPLIED_NO;
}

/*
 * A batch that was not looked up before the transaction was lost: it may be a repeat of what was
 * applied, and only says so by asking to come again.
 */
static bool not_looked_up(const struct world *world, const struct request *request)
{
	return world->faulty && request->outcome == OUTCOME_FAILED && request->failure.retry &&
		request->failure.applied == APPLIED_UNKNOWN &&
		request->identity.kind != IDENTITY_NONE;
}

/* The answer is there but could not be read: it says that it does not know. */
static bool unreadable(const struct world *world, const struct request *request)
{
	return world->faulty && request->outcome == OUTCOME_FAILED &&
		request->failure.code == FAILURE_INTERNAL &&
		request->failure.applied == APPLIED_UNKNOWN;
}

static uint64_t payload_hash(const struct request *request)
{
	return XXH3_64bits(request->payload.data, request->payload.len);
}

static const char *why(const struct request *request)
{
	return request->failure.message != NULL ? request->failure.message : "no message";
}

/* A batch whose answer was committed before. */
static void check_repeat(
	const struct world *world, const struct batch *batch, const struct request *request)
{
	bool expired = request->outcome == OUTCOME_FAILED &&
		request->failure.code == FAILURE_SESSION_EXPIRED;
	if (expired && batch_may_be_expired(world->history, batch)) {
		return;
	}
	if (request->outcome == OUTCOME_OK) {
		found(FOUND_TWICE, "batch %u of commit %llu was executed again, in commit %llu",
			batch->id, (unsigned long long)batch->commit_no,
			(unsigned long long)request->commit_no);
	} else if (request->outcome != OUTCOME_REPEAT) {
		found(FOUND_ANSWER, "batch %u of commit %llu (kind %d) has no repeat: %s",
			batch->id, (unsigned long long)batch->commit_no, batch->kind, why(request));
	} else if (payload_hash(request) != batch->payload) {
		found(FOUND_ANSWER, "the repeat of batch %u differs from its answer", batch->id);
	} else if (request->commit_no != batch->commit_no) {
		found(FOUND_ANSWER, "the repeat of batch %u names commit %llu, not %llu", batch->id,
			(unsigned long long)request->commit_no,
			(unsigned long long)batch->commit_no);
	}
}

/* A batch that nothing was known of: it must have been executed, with its own result. */
static void check_first(struct world *world, struct batch *batch, const struct request *request,
	uint64_t commit_before)
{
	bool succeeds = batch_succeeds(batch);
	bool holds_something =
		batch->identity != IDENTITY_NONE || (succeeds && batch->kind != BATCH_SELECT);
	enum outcome expected = succeeds ? OUTCOME_OK : OUTCOME_FAILED;
	if (request->outcome != expected) {
		found(request->outcome == OUTCOME_REPEAT ? FOUND_GHOST : FOUND_ANSWER,
			"batch %u (kind %d) ended with outcome %d instead of %d: %s", batch->id,
			batch->kind, request->outcome, expected, why(request));
		return;
	}
	if (!succeeds &&
		(request->failure.retry || request->failure.applied != APPLIED_NO ||
			request->failure.code == FAILURE_INTERNAL)) {
		found(FOUND_ANSWER, "batch %u (kind %d) failed in another way than it must: %s",
			batch->id, batch->kind, why(request));
	}
	batch->answered = true;
	batch->payload = payload_hash(request);
	if (!holds_something) {
		return;
	}
	batch->commit_no = request->commit_no;
	if (request->commit_no <= commit_before ||
		request->commit_no > store_commit_no(world->store)) {
		found(FOUND_ANSWER, "batch %u names commit %llu; commits %llu to %llu are new",
			batch->id, (unsigned long long)request->commit_no,
			(unsigned long long)commit_before + 1,
			(unsigned long long)store_commit_no(world->store));
	}
}

static void check_answer(struct world *world, const struct request *request, uint64_t commit_before)
{
	struct batch *batch = &world->history->batches[request->id];
	if (request->id == BYE_ID) {
		return;
	}
	if (nobodys_guilt(world, request) || not_looked_up(world, request) ||
		(batch->commit_no != 0 && unreadable(world, request))) {
		world->transient++;
	} else if (batch->commit_no != 0) {
		check_repeat(world, batch, request);
	} else {
		check_first(world, batch, request, commit_before);
	}
}

static void take_answers(struct world *world, struct list *answered, uint64_t commit_before)
{
	list_for_each_safe(node, answered) {
		struct request *request = container_of(node, struct request, node);
		if (request->outcome == OUTCOME_OPEN) {
			found(FOUND_ANSWER, "batch %u is answered with nothing", request->id);
		}
		check_answer(world, request, commit_before);
		request_free(request);
	}
	tape_mark(world->tape, TAPE_ACKED, store_commit_no(world->store));
}

/* ---- groups ---- */

/* The daemon would be gone now, and with it what it had taken. */
static void drop(struct request **requests, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		list_init(&requests[i]->node); /* its neighbours stood on a stack that is gone */
		request_free(requests[i]);
	}
}

/*
 * COMMIT has failed, and it may have come through. If it has, then with all of the group, and a
 * client who asks again will get these answers.
 */
static void foresee(
	struct world *world, struct request **requests, size_t count, uint64_t commit_before)
{
	for (size_t i = 0; i < count; i++) {
		const struct request *request = requests[i];
		struct batch *batch = &world->history->batches[request->id];
		bool holds_something = batch->identity != IDENTITY_NONE ||
			(batch_succeeds(batch) && batch->kind != BATCH_SELECT);
		bool retry = request->outcome == OUTCOME_FAILED && request->failure.retry;
		if (request->id != BYE_ID && batch->commit_no == 0 && holds_something && !retry) {
			batch->commit_no = commit_before + 1;
			batch->payload = payload_hash(request);
		}
	}
}

static enum world_end run_once(struct world *world, struct request **taken, size_t count)
{
	struct group_limits limits = {
		.count_max = world->options->group_max,
		.bytes_max = SIZE_MAX / 2,
		.time_max_us = 1000000000,
		.exec_timeout_us = 100000000000,
		.result_bytes_max = 4 << 20,
		.rows_max = 100000,
	};
	struct list answered;
	struct group_result result;
	char *reason = NULL;
	uint64_t commit_before = store_commit_no(world->store);
	list_init(&answered);
	world->commit_hooks = 0;
	world->commit_base = commit_before;
	product(true);
	int rc = group_run(world->store, world->queue, &limits, &answered, &result, &reason);
	product(false);
	free(reason);
	world->commit_hooks = 0;
	if (rc == GROUP_UNKNOWN) {
		/* What is still queued is among `taken`: the queue lets go of it first. */
		struct list waiting;
		list_init(&waiting);
		queue_stop(world->queue, &waiting);
		foresee(world, taken, count, commit_before);
		drop(taken, count);
		world->unknown = true;
		world->poisoned = true;
		return WORLD_STOPPED;
	}
	/* Turns end when all that was taken is answered: through the queue, as in the daemon. */
	queue_answer(world->queue, &answered);
	queue_collect(world->queue, &answered);
	size_t done = 0;
	list_for_each(node, &answered) {
		taken[done++] = NULL;
	}
	take_answers(world, &answered, commit_before);
	return rc == GROUP_BUSY ? WORLD_BUSY : WORLD_GOES_ON;
}

/* Runs groups until all is answered. `requests` are those that were pushed, in order. */
static enum world_end run_all(struct world *world, struct request **requests, size_t count)
{
	size_t left = count;
	enum world_end end = WORLD_GOES_ON;
	while (end == WORLD_GOES_ON && left > 0) {
		end = run_once(world, requests + (count - left), left);
		size_t now = queue_facts(world->queue).count;
		if (end == WORLD_GOES_ON && now >= left) {
			found(FOUND_ANSWER, "a group has answered nobody");
			return WORLD_BUSY;
		}
		left = now;
	}
	if (end == WORLD_BUSY) {
		struct list waiting;
		list_init(&waiting);
		if (!world->faulty) {
			found(FOUND_ANSWER, "no transaction can be begun");
		}
		queue_free(world->queue); /* nobody waits any longer */
		world->queue = NULL;
		(void)queue_new(not_waiting, NULL, &world->queue);
	}
	return end;
}

enum world_end world_play(struct world *world, const uint32_t *ids, size_t count)
{
	struct request *requests[TOGETHER_MAX];
	size_t pushed = 0;
	tape_mark(world->tape, TAPE_SENT, world->history->count);
	for (size_t i = 0; i < count && i < TOGETHER_MAX; i++) {
		const struct batch *batch = &world->history->batches[ids[i]];
		struct request *request = decode(world->history, batch);
		if (request != NULL) {
			address(world->history, batch, request);
		}
		if (push(world, request)) {
			requests[pushed++] = request;
		} else if (world->faulty) {
			world->transient++;
		} else {
			found(FOUND_ANSWER, "batch %u cannot be sent", ids[i]);
		}
	}
	return run_all(world, requests, pushed);
}

enum world_end world_say_goodbye(struct world *world, uint32_t index)
{
	void *extra = NULL;
	struct session *session = &world->history->sessions[index];
	struct request *request = request_new(REQUEST_BYE, 0, &extra);
	if (request == NULL) {
		return WORLD_GOES_ON;
	}
	struct batch bye = {.id = BYE_ID, .identity = IDENTITY_SEQ, .session = index};
	session->gone = true;
	address(world->history, &bye, request);
	if (!push(world, request)) {
		return WORLD_GOES_ON;
	}
	return run_all(world, &request, 1);
}

enum world_end world_checkpoint(struct world *world)
{
	struct store_error error = {.row = -1};
	enum world_end end = WORLD_GOES_ON;
	tape_mark(world->tape, TAPE_CHECKPOINT, 1);
	product(true);
	int failed =
		store_checkpoint_if_due(world->store, world->options->checkpoint_frames, &error);
	product(false);
	if (failed != 0) {
		if (!world->faulty) {
			found(FOUND_ANSWER, "a checkpoint fails: %s", error.message);
		}
		if ((error.sqlite & 0xff) == SQLITE_IOERR) {
			world->poisoned = true;
			end = WORLD_STOPPED;
		}
	}
	tape_mark(world->tape, TAPE_CHECKPOINT, 0);
	store_error_clear(&error);
	return end;
}

void world_settle(struct world *world)
{
	product(true);
	store_settle(world->store);
	product(false);
}

/* ---- asking again ---- */

static bool must_ask(const struct history *history, const struct batch *batch)
{
	return batch_may_be_asked(history, batch) && batch->commit_no == 0;
}

/* Plays the marked batches, in the order in which they were first sent. */
static enum world_end play_marked(struct world *world, const bool *marks)
{
	uint32_t ids[ASKED_TOGETHER];
	size_t count = 0;
	enum world_end end = WORLD_GOES_ON;
	for (uint32_t i = 1; end == WORLD_GOES_ON && i < world->history->count; i++) {
		if (marks[i]) {
			ids[count++] = i;
		}
		if (count == ASKED_TOGETHER) {
			end = world_play(world, ids, count);
			count = 0;
		}
	}
	return end == WORLD_GOES_ON && count > 0 ? world_play(world, ids, count) : end;
}

enum world_end world_ask_again(struct world *world, unsigned sample, struct random *random)
{
	struct history *history = world->history;
	bool *marks = calloc(history->count, sizeof(*marks));
	if (marks == NULL) {
		exit(2);
	}
	if (history->batches[1].commit_no == 0) {
		/* The tables are nobody's: they are simply made again. */
		marks[1] = true;
	}
	for (size_t i = 2; i < history->count; i++) {
		bool recent = i + 24 >= history->count;
		marks[i] = must_ask(history, &history->batches[i]) ||
			(recent && batch_may_be_asked(history, &history->batches[i]));
	}
	for (unsigned i = 0; i < sample && history->count > 2; i++) {
		/* Half of them of the oldest, whose answers have moved. */
		size_t count =
			i % 2 == 0 && history->count > IDLE_FROM ? IDLE_FROM : history->count;
		size_t at = 2 + random_below(random, (uint32_t)count - 2);
		marks[at] |= batch_may_be_asked(history, &history->batches[at]);
	}
	enum world_end end = play_marked(world, marks);
	marks[1] = false;
	if (end == WORLD_GOES_ON) {
		end = play_marked(world, marks); /* now each of them has an answer */
	}
	free(marks);
	if (end == WORLD_GOES_ON) {
		world_check(world);
		world_check_integrity(world);
	}
	return end;
}
