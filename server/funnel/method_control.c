/* SPDX-License-Identifier: MIT */

/*
 * The administrator's hand on the writer: pause and resume, a checkpoint now, and the end of a
 * single request. Whatever must happen in the writer's thread is an urgent task, so that its answer
 * proves that what ran before is over.
 */

#include "server/base/clock.h"
#include "server/base/halt_lock.h"
#include "server/base/log.h"
#include "server/funnel/call.h"
#include "server/funnel/chunk_task.h"
#include "server/funnel/holder.h"
#include "server/funnel/lease.h"
#include "server/funnel/reply.h"

#include <stdio.h>

/* ---- tasks ---- */

/* Begins the one payload that is a result map. */
static void begin_result(struct request *request, msgpack_packer *packer, uint32_t keys)
{
	static const uint8_t kind = PAYLOAD_RESULT;
	buffer_clear(&request->payload);
	buffer_append(&request->payload, &kind, 1);
	buffer_packer(&request->payload, packer);
	msgpack_pack_map(packer, keys);
	request->outcome = OUTCOME_OK;
}

static bool enqueue_urgent(struct call *call, const struct task *task)
{
	void *room = NULL;
	struct request *request = request_new(REQUEST_TASK, 0, &room);
	if (request == NULL) {
		failure_set(&call->failure, FAILURE_INTERNAL, "out of memory");
		return false;
	}
	request->class = CLASS_INTERACTIVE;
	request->task = *task;
	request->task.urgent = true;
	if (!call_take_deadline(call, &request->deadline_us)) {
		request_free(request);
		return false;
	}
	request->own_deadline = true; /* it waits for what runs, and that may be long */
	return call_enqueue(call, request);
}

/* ---- pause, resume ---- */

void funnel_pause(
	struct funnel *funnel, uint64_t for_ms, const char *by, const struct holder *holder)
{
	uint64_t now_us = clock_now_us();
	funnel->halted = false;
	funnel->pause_until_us = for_ms > 0 ? now_us + for_ms * 1000 : 0;
	snprintf(funnel->pause_by, sizeof(funnel->pause_by), "%s", by);
	queue_hold(funnel->queue, now_us);
	funnel->pause_holder = *holder;
	funnel->pause_holder.began_us = queue_facts(funnel->queue).held_us;
	funnel_watch_times(funnel);
	log_info("paused", log_str("by", by), log_uint("for_ms", for_ms));
}

/* One that has waited for it for long. */
static void blame_pause(void *ctx, struct request *request)
{
	struct funnel *funnel = ctx;
	/* Since then in the queue, or paused: what it waited for before was somebody else. */
	uint64_t since_us = request->received_us > funnel->pause_holder.began_us
		? request->received_us
		: funnel->pause_holder.began_us;
	uint64_t long_us = config_number(funnel->options->config, SETTING_WAITED_LONG) * 1000;
	if (request->waited_for == NULL && clock_now_us() - since_us >= long_us) {
		request->waited_for = holder_copy(&funnel->pause_holder);
	}
}

uint64_t funnel_resume(struct funnel *funnel, const char *by)
{
	uint64_t now_us = clock_now_us();
	uint64_t since_us = queue_facts(funnel->queue).held_us;
	funnel->halted = false;
	if (since_us == 0) {
		return 0;
	}
	funnel->pause_until_us = 0;
	queue_each(funnel->queue, blame_pause, funnel);
	queue_release(funnel->queue, now_us);
	log_info("resumed", log_str("by", by), log_uint("paused_ms", (now_us - since_us) / 1000));
	return now_us - since_us;
}

bool funnel_halt(struct funnel *funnel)
{
	char by[64];
	pid_t holder = 0;
	if (!halt_lock_is_held(funnel->options->db, &holder)) {
		return false;
	}
	if (!funnel->halted) {
		(void)snprintf(by, sizeof(by), "litefunnel halt, process %d", (int)holder);
		funnel_pause(funnel, 0, by, &(struct holder){.what = "halt", .pid = holder});
		funnel->halted = true;
	}
	return true;
}

/*
 * That it is this task's turn says that nothing runs any more. For a halt the shipper comes first: its command may
 * make checkpoints.
 */
static enum task_end run_pause(struct request *request, struct store *store, uint64_t budget_us)
{
	struct funnel *funnel = request->task.ctx;
	msgpack_packer packer;
	pid_t holder = 0;
	(void)budget_us;
	if (halt_lock_is_held(funnel->options->db, &holder)) {
		store_expect_halt(store);
		if (store_look_for_writes(store)) {
			failure_set(
				&request->failure, FAILURE_INTERNAL, "%s", store_doubt_text(store));
			return TASK_BUSY; /* its command has ended: that is looked at first */
		}
		if (funnel->gate != NULL) {
			gate_hand_over(funnel->gate, store);
		}
	}
	begin_result(request, &packer, 2);
	pack_key_str(&packer, "state", "paused");
	pack_key_uint(&packer, "commit", store_commit_no(store));
	return TASK_DONE;
}

/* False: the request has been answered with a failure. */
static bool has_shipping(struct call *call)
{
	if (call->funnel->shipping == NULL) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "no replica is configured");
	}
	return call->funnel->shipping != NULL;
}

static bool pause_shipping(struct call *call, const struct field *field)
{
	uint64_t for_ms = 0;
	if (!object_uint64(field->value, &for_ms) || for_ms > PAUSE_MS_MAX) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"shipping is a number of milliseconds up to that of a week, or 0");
		return false;
	}
	if (!has_shipping(call)) {
		return false;
	}
	struct buffer *out = &call->peer->out;
	msgpack_packer packer;
	shipping_pause(call->funnel->shipping, for_ms, call->peer->credentials->text);
	size_t mark = message_begin_result(out, call->message->id);
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 2);
	pack_key_str(&packer, "state", "paused");
	pack_key_uint(&packer, "commit", shipping_commit(call->funnel->shipping, true));
	frame_end(out, mark);
	return true;
}

bool pause_begin(struct call *call)
{
	const struct task task = {.what = "pause", .run = run_pause, .ctx = call->funnel};
	const struct field *field = message_field(call->message, "for_ms");
	const struct field *shipping = message_field(call->message, "shipping");
	uint64_t for_ms = 0;
	if (shipping != NULL) {
		return pause_shipping(call, shipping);
	}
	if (field != NULL &&
		(!object_uint64(field->value, &for_ms) || for_ms == 0 || for_ms > PAUSE_MS_MAX)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"for_ms is a number of milliseconds from 1 to that of a week");
		return false;
	}
	if (!enqueue_urgent(call, &task)) {
		return false;
	}
	struct holder holder = {.what = "pause",
		.pid = call->peer->credentials->pid,
		.uid = call->peer->credentials->uid};
	memcpy(holder.known.label, call->peer->credentials->label, sizeof(holder.known.label));
	funnel_pause(call->funnel, for_ms, call->peer->credentials->text, &holder);
	/* A pause with an end is over with the halt that has asked for it, also where that was killed. */
	pid_t halt = 0;
	call->funnel->halted = for_ms > 0 && halt_lock_is_held(call->funnel->options->db, &halt) &&
		halt == holder.pid;
	return true;
}

bool resume_begin(struct call *call)
{
	struct buffer *out = &call->peer->out;
	msgpack_packer packer;
	const char *by = call->peer->credentials->text;
	bool shipping = message_field(call->message, "shipping") != NULL;
	pid_t holder = 0;
	if (shipping && !has_shipping(call)) {
		return false;
	}
	if (!shipping && halt_lock_is_held(call->funnel->options->db, &holder)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"`litefunnel halt` (process %d) has given the file to its command: it resumes when that "
			"has ended",
			(int)holder);
		return false;
	}
	uint64_t paused_ms = shipping ? shipping_resume(call->funnel->shipping, by)
				      : funnel_resume(call->funnel, by) / 1000;
	size_t mark = message_begin_result(out, call->message->id);
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 1);
	pack_key_uint(&packer, "paused_ms", paused_ms);
	frame_end(out, mark);
	return true;
}

/* ---- checkpoint ---- */

static enum task_end run_checkpoint(
	struct request *request, struct store *store, uint64_t budget_us)
{
	struct store_error error = {.row = -1};
	struct funnel *funnel = request->task.ctx;
	msgpack_packer packer;
	(void)budget_us;
	int rc = 0;
	/* The shipper comes first: what is not in its spool stays in the WAL. */
	bool may = funnel->gate == NULL ||
		gate_enter(funnel->gate, store,
			config_number(funnel->options->config, SETTING_CHECKPOINT_FRAMES));
	if (may) {
		rc = store_checkpoint(store, &error);
	}
	if (may && funnel->gate != NULL) {
		gate_leave(funnel->gate);
	}
	if (rc == STORE_UNKNOWN) {
		failure_set(&request->failure, FAILURE_INTERNAL, "%s", error.message);
		store_error_clear(&error);
		return TASK_UNKNOWN;
	}
	if (rc != 0) {
		reply_fail_from_store(request, &error, -1);
		request->outcome = OUTCOME_FAILED;
		store_error_clear(&error);
		return TASK_DONE;
	}
	struct checkpoint_stats stats = store_checkpoint_stats(store);
	begin_result(request, &packer, 3);
	pack_key_uint(&packer, "frames", stats.wal_frames);
	pack_key_uint(&packer, "backfilled", stats.backfilled);
	pack_key_bool(&packer, "put_off", !may);
	return TASK_DONE;
}

bool checkpoint_begin(struct call *call)
{
	const struct task task = {.what = "checkpoint", .run = run_checkpoint, .ctx = call->funnel};
	return enqueue_urgent(call, &task);
}

/* ---- kill ---- */

struct wanted {
	uint64_t number;
	struct request *request;
};

static void look_for(void *ctx, struct request *request)
{
	struct wanted *wanted = ctx;
	if (request->number == wanted->number) {
		wanted->request = request;
	}
}

static bool answer_kill(struct call *call, const char *state, uint64_t number)
{
	struct buffer *out = &call->peer->out;
	msgpack_packer packer;
	log_info("kill", log_uint("request", number), log_str("state", state),
		log_str("by", call->peer->credentials->text));
	size_t mark = message_begin_result(out, call->message->id);
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 1);
	pack_key_str(&packer, "state", state);
	frame_end(out, mark);
	return true;
}

/* One that waits is cancelled; a task that runs is asked to end; a batch that runs ends by itself. */
bool kill_begin(struct call *call)
{
	const struct field *field = message_field(call->message, "id");
	struct queue *queue = call->funnel->queue;
	struct wanted wanted = {0};
	if (field == NULL || !object_uint64(field->value, &wanted.number)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"id is the number of a request, as `show waits` tells it");
		return false;
	}
	queue_each(queue, look_for, &wanted);
	if (wanted.request != NULL && wanted.request->task.run == lease_run &&
		lease_withdraw(wanted.request->task.ctx, FAILURE_CANCELLED,
			"ended by an administrator before it began")) {
		return answer_kill(call, "cancelled", wanted.number);
	}
	if (wanted.request != NULL && wanted.request->task.run == chunk_task_slice) {
		wanted.request->task.interrupt(wanted.request);
		return answer_kill(call, "interrupted", wanted.number);
	}
	if (wanted.request != NULL && queue_withdraw(queue, wanted.request)) {
		funnel_refuse(call->funnel, wanted.request, FAILURE_CANCELLED,
			"ended by an administrator before it began");
		return answer_kill(call, "cancelled", wanted.number);
	}
	const struct request *running = queue_running(queue, NULL);
	if (wanted.request != NULL && (running == NULL || running->number != wanted.number)) {
		return answer_kill(call, "running", wanted.number); /* between two slices */
	}
	if (running == NULL || running->number != wanted.number) {
		failure_set(&call->failure, FAILURE_NOT_FOUND,
			"no request %llu waits or runs: `show waits` lists them",
			(unsigned long long)wanted.number);
		return false;
	}
	if (running->task.interrupt == NULL) {
		return answer_kill(call, "running", wanted.number);
	}
	running->task.interrupt((struct request *)(uintptr_t)running);
	return answer_kill(call, "interrupted", wanted.number);
}
