/* SPDX-License-Identifier: MIT */

/* The methods `chunk` and `chunk_ctl`: what a client wishes of a long statement. */

#include "proto/scan.h"
#include "server/base/clock.h"
#include "server/funnel/batch.h"
#include "server/funnel/call.h"
#include "server/funnel/chunk_task.h"

#include <string.h>

enum { SLICE_MS_MAX = 1000 };

static bool bad(struct failure *failure, const char *what)
{
	failure_set(failure, FAILURE_BAD_REQUEST, "%s", what);
	return false;
}

static bool take_name(const struct message *message, const char *key, struct span *ret_name,
	struct failure *failure)
{
	const struct field *field = message_field(message, key);
	*ret_name = (struct span){0};
	if (field == NULL) {
		return true;
	}
	if (!object_str(field->value, ret_name) || ret_name->len == 0 ||
		ret_name->len > CHUNK_NAME_BYTES_MAX ||
		memchr(ret_name->data, 0, ret_name->len) != NULL ||
		!utf8_valid(ret_name->data, ret_name->len)) {
		failure_set(failure, FAILURE_BAD_REQUEST,
			"%s is a string of 1 to %d bytes of UTF-8 without NUL", key,
			CHUNK_NAME_BYTES_MAX);
		return false;
	}
	return true;
}

static bool take_number(const struct message *message, const char *key, uint64_t max,
	uint64_t *number, struct failure *failure)
{
	const struct field *field = message_field(message, key);
	if (field == NULL ||
		(object_uint64(field->value, number) && *number > 0 && *number <= max)) {
		return true;
	}
	failure_set(failure, FAILURE_BAD_REQUEST, "%s is an integer from 1 to %llu", key,
		(unsigned long long)max);
	return false;
}

/* The name and the key, behind the ask. */
static void fill_names(struct chunk_ask *ask, struct span name, struct span by)
{
	uint8_t *room = (uint8_t *)(ask + 1);
	memcpy(room, name.data, name.len);
	if (by.len > 0) {
		memcpy(room + name.len, by.data, by.len);
	}
	ask->name = (struct bytes){room, name.len};
	ask->by = (struct bytes){room + name.len, by.len};
}

/* NULL: call->failure is set. */
static struct request *decode_order(struct call *call)
{
	const struct config *config = call->funnel->options->config;
	const struct message *message = call->message;
	struct failure *failure = &call->failure;
	struct span name;
	struct span by;
	uint64_t slice_ms = config_number(config, SETTING_SLICE_MS);
	uint64_t rate = 0;
	void *room = NULL;
	if (!take_name(message, "name", &name, failure) ||
		!take_name(message, "by", &by, failure) ||
		!take_number(message, "slice_ms", SLICE_MS_MAX, &slice_ms, failure) ||
		!take_number(message, "rate", INT32_MAX, &rate, failure)) {
		return NULL;
	}
	if (name.len == 0) {
		bad(failure, "name is missing: the chunk is found again by it");
		return NULL;
	}
	struct request *request = statement_decode(
		message, sizeof(struct chunk_ask) + name.len + by.len, &room, failure);
	if (request == NULL) {
		return NULL;
	}
	struct chunk_ask *ask = room;
	*ask = (struct chunk_ask){
		.board = chunk_desk_board(call->funnel->chunks),
		.slice_ms = slice_ms,
		.rate = rate,
		.keep_s = config_number(config, SETTING_KEY_TTL) / 1000,
	};
	fill_names(ask, name, by);
	memcpy(ask->hash, request->identity.hash, sizeof(ask->hash));
	request->task = (struct task){.what = "chunk", .run = chunk_task_order, .ctx = ask};
	return request;
}

static bool take_op(const struct message *message, enum chunk_op *ret_op, bool *ret_wait,
	struct failure *failure)
{
	static const char *const names[] = {"look", "pause", "resume", "cancel"};
	const struct field *field = message_field(message, "op");
	struct span op;
	if (field == NULL || !object_str(field->value, &op)) {
		return bad(failure, "op is pause, resume, cancel or wait");
	}
	*ret_wait = span_equal(op, "wait");
	*ret_op = CHUNK_OP_LOOK;
	for (size_t i = CHUNK_OP_PAUSE; i < sizeof(names) / sizeof(names[0]); i++) {
		if (span_equal(op, names[i])) {
			*ret_op = (enum chunk_op)i;
		}
	}
	return *ret_wait || *ret_op != CHUNK_OP_LOOK ||
		bad(failure, "op is pause, resume, cancel or wait");
}

static bool take_wait(
	const struct message *message, uint64_t *ret_until_us, struct failure *failure)
{
	const struct field *field = message_field(message, "wait_ms");
	uint64_t ms = 0;
	*ret_until_us = UINT64_MAX;
	if (field == NULL) {
		return true;
	}
	if (!object_uint64(field->value, &ms)) {
		return bad(failure, "wait_ms is an unsigned integer");
	}
	*ret_until_us = clock_now_us() + (ms < UINT32_MAX ? ms : UINT32_MAX) * 1000;
	return true;
}

/* NULL: call->failure is set. */
static struct request *decode_control(struct call *call)
{
	const struct message *message = call->message;
	struct failure *failure = &call->failure;
	struct span name;
	const struct span none = {0};
	struct chunk_ask ask = {.board = chunk_desk_board(call->funnel->chunks),
		.control = true,
		.rate = UINT64_MAX};
	bool wait = false;
	void *room = NULL;
	if (!take_name(message, "chunk", &name, failure) ||
		!take_op(message, &ask.op, &wait, failure) ||
		!take_wait(message, &ask.until_us, failure) ||
		!take_number(message, "rate", INT32_MAX, &ask.rate, failure)) {
		return NULL;
	}
	if (name.len == 0) {
		bad(failure, "chunk is missing: its name");
		return NULL;
	}
	struct request *request =
		request_new(REQUEST_TASK, sizeof(struct chunk_ask) + name.len, &room);
	if (request == NULL) {
		failure_set(failure, FAILURE_INTERNAL, "out of memory");
		return NULL;
	}
	ask.any = call->peer->credentials->role >= ROLE_ADMIN;
	*(struct chunk_ask *)room = ask;
	fill_names(room, name, none);
	request->task =
		(struct task){.what = "chunk", .run = wait ? NULL : chunk_task_order, .ctx = room};
	return request;
}

bool chunk_begin(struct call *call)
{
	return call_enqueue_decoded(call, decode_order(call));
}

bool chunk_ctl_begin(struct call *call)
{
	struct request *request = decode_control(call);
	if (request == NULL || !chunk_desk_holds(request)) {
		bool queued = call_enqueue_decoded(call, request);
		if (queued) {
			struct queue *queue = call->funnel->queue;
			chunk_desk_hurry(call->funnel->chunks, request, queue_running(queue, NULL));
		}
		return queued;
	}
	call_admit(call, request);
	if (!chunk_desk_hold(call->funnel->chunks, request, &call->failure)) {
		peer_remove(call->peer, request);
		request_free(request);
		return false;
	}
	return true;
}
