/* SPDX-License-Identifier: MIT */

/*
 * Making replies: from a frame, or from an outcome that the library found itself. A daemon's
 * mistake (a missing key, another type) reads as 0 or NULL and never as an access out of bounds;
 * but what it does not say about `applied` is never read as "no". Knows nothing of requests or
 * connections.
 */

#include "client/reply.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ZONE_SMALL = 960, ZONE_LARGE = 8192 };

struct lf_reply *answer_new(void)
{
	struct lf_reply *reply = calloc(1, sizeof(*reply));
	if (reply != NULL) {
		reply->code = "";
		reply->message = "";
		reply->durability = "";
		reply->server = "";
		reply->role = "";
		reply->retry_after_ms = -1;
		reply->failed_step = -1;
		reply->failed_row = -1;
		reply->open = -1;
	}
	return reply;
}

void lf_reply_free(lf_reply *reply)
{
	if (reply == NULL) {
		return;
	}
	if (reply->zone_made) {
		msgpack_zone_destroy(&reply->zone);
	}
	free(reply->payload);
	free(reply);
}

void answer_local(struct lf_reply *reply, enum lf_outcome outcome, const char *code,
	enum lf_applied applied, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	(void)vsnprintf(reply->text, sizeof(reply->text), format, args);
	va_end(args);
	(void)snprintf(reply->code_text, sizeof(reply->code_text), "%s", code);
	reply->outcome = outcome;
	reply->code = reply->code_text;
	reply->applied = applied;
	reply->message = reply->text;
}

/* ---- decoding -------------------------------------------------------------------------------- */

static int64_t get_int64(const msgpack_object *map, const char *key, int64_t otherwise)
{
	const msgpack_object *object = object_get(map, key);
	int64_t value = 0;
	return object != NULL && object_int64(object, &value) ? value : otherwise;
}

static uint64_t get_uint64(const msgpack_object *map, const char *key)
{
	const msgpack_object *object = object_get(map, key);
	uint64_t value = 0;
	return object != NULL && object_uint64(object, &value) ? value : 0;
}

static bool get_bool(const msgpack_object *map, const char *key)
{
	const msgpack_object *object = object_get(map, key);
	bool value = false;
	return object != NULL && object_bool(object, &value) && value;
}

static const msgpack_object_array *get_array(const msgpack_object *map, const char *key)
{
	const msgpack_object *object = object_get(map, key);
	return object != NULL && object->type == MSGPACK_OBJECT_ARRAY ? &object->via.array : NULL;
}

/*
 * A string of ours in C's form. The byte behind a string in the payload is the header of the next
 * value (or the spare byte at the end), which nobody reads any more once all is unpacked: so the
 * terminator fits in without another copy.
 */
static const char *terminated(const msgpack_object *object)
{
	struct span span;
	if (object == NULL || !object_str(object, &span)) {
		return NULL;
	}
	if (span.len == 0) {
		return ""; /* msgpack-c leaves the pointer of an empty string anywhere */
	}
	((char *)(uintptr_t)span.data)[span.len] = '\0';
	return (const char *)span.data;
}

static const char *get_text(const msgpack_object *map, const char *key)
{
	const char *text = terminated(object_get(map, key));
	return text != NULL ? text : "";
}

void answer_terminate(const msgpack_object_array *array)
{
	for (uint32_t i = 0; array != NULL && i < array->size; i++) {
		(void)terminated(&array->ptr[i]);
	}
}

static void decode_step(const msgpack_object *map, struct reply_step *ret_step)
{
	*ret_step = (struct reply_step){
		.changes = get_int64(map, "changes", 0),
		.total = get_int64(map, "total", 0),
		.rowid = get_int64(map, "rowid", 0),
		.truncated = get_bool(map, "truncated"),
		.columns = get_array(map, "columns"),
		.types = get_array(map, "types"),
		.rows = get_array(map, "rows"),
	};
	answer_terminate(ret_step->columns);
	answer_terminate(ret_step->types);
}

static int get_open(const msgpack_object *map)
{
	return object_get(map, "open") == NULL ? -1 : get_bool(map, "open");
}

/* write answers `steps`; show, describe and what is asked of a lease answer what reads as one step. */
static int decode_steps(struct lf_reply *reply)
{
	const msgpack_object_array *steps = get_array(reply->result, "steps");
	bool single = steps == NULL &&
		(get_array(reply->result, "columns") != NULL ||
			object_get(reply->result, "rowid") != NULL);
	size_t count = steps != NULL ? steps->size : single ? 1 : 0;
	if (count == 0) {
		return 0;
	}
	reply->steps = msgpack_zone_malloc(&reply->zone, count * sizeof(*reply->steps));
	if (reply->steps == NULL) {
		return -ENOMEM;
	}
	for (size_t i = 0; i < count; i++) {
		decode_step(single ? reply->result : &steps->ptr[i], &reply->steps[i]);
	}
	reply->steps_count = count;
	return 0;
}

static int decode_result(struct lf_reply *reply, const msgpack_object *result)
{
	struct span epoch;
	const msgpack_object *object = object_get(result, "epoch");

	reply->result = result;
	if (object != NULL && object_bin(object, &epoch) && epoch.len == 16) {
		reply->epoch = epoch.data;
	}
	reply->commit = get_uint64(result, "commit");
	reply->durability = get_text(result, "durability");
	reply->server = get_text(result, "server");
	reply->role = get_text(result, "role");
	reply->queued_us = get_uint64(result, "queued_us");
	reply->exec_us = get_uint64(result, "exec_us");
	reply->commit_us = get_uint64(result, "commit_us");
	reply->group = get_uint64(result, "group");
	reply->repeat = get_bool(result, "repeat");
	reply->rows_lost = get_bool(result, "rows_lost");
	reply->open = get_open(result);
	return decode_steps(reply);
}

/* `applied` decides. What is not known to us is not known: it is never read as "no". */
static void decode_applied(struct lf_reply *reply, const msgpack_object *error)
{
	const msgpack_object *object = object_get(error, "applied");
	struct span word;
	reply->applied = LF_APPLIED_UNKNOWN;
	reply->outcome = LF_UNKNOWN;
	if (object == NULL || !object_str(object, &word)) {
		return;
	}
	if (span_equal(word, "no")) {
		reply->applied = LF_APPLIED_NO;
		reply->outcome = LF_FAILED;
	} else if (span_equal(word, "yes")) {
		reply->applied = LF_APPLIED_YES;
		reply->outcome = LF_OK;
	}
}

static int decode_error(struct lf_reply *reply, const msgpack_object *error)
{
	const msgpack_object *result = object_get(error, "result");
	reply->error = error;

	decode_applied(reply, error);
	reply->retry = get_bool(error, "retry");
	reply->retry_after_ms = get_int64(error, "retry_after_ms", -1);
	reply->sqlite = (int)get_int64(error, "sqlite", 0);
	reply->failed_step = get_int64(error, "step", -1);
	reply->failed_row = get_int64(error, "row", -1);
	reply->open = get_open(error);
	reply->code = get_text(error, "code");
	reply->message = get_text(error, "message");
	if (reply->code[0] == '\0') {
		reply->code = "unknown";
	}
	return result != NULL ? decode_result(reply, result) : 0;
}

static int decode_reply(struct lf_reply *reply, const struct message *message)
{
	if (message->error->type != MSGPACK_OBJECT_NIL) {
		return decode_error(reply, message->error);
	}
	if (message->result->type != MSGPACK_OBJECT_MAP) {
		return MESSAGE_BROKEN;
	}
	reply->outcome = LF_OK;
	reply->applied = LF_APPLIED_YES;
	return decode_result(reply, message->result);
}

static int parse_into(
	struct lf_reply *reply, const uint8_t *payload, size_t len, struct message *ret_message)
{
	/*
	 * Objects take about 24 bytes for each byte of tiny values; big zones grow by themselves. A
	 * small one stays below what malloc keeps at hand.
	 */
	size_t chunk = len < 256 ? ZONE_SMALL : ZONE_LARGE;

	reply->payload = malloc(len + 1); /* one spare byte for terminated() */
	if (reply->payload == NULL || !msgpack_zone_init(&reply->zone, chunk)) {
		return -ENOMEM;
	}
	reply->zone_made = true;
	memcpy(reply->payload, payload, len);
	reply->payload[len] = 0;
	int r = message_parse(reply->payload, len, &reply->zone, ret_message);
	if (r == 0 && ret_message->type == MESSAGE_REPLY) {
		r = decode_reply(reply, ret_message);
		if (r == MESSAGE_BROKEN) {
			ret_message->reason = "a result is a map";
		}
	}
	return r;
}

int answer_parse(const uint8_t *payload, size_t len, struct lf_reply **spare,
	struct message *ret_message, struct lf_reply **ret_reply)
{
	struct lf_reply *reply = *spare != NULL ? *spare : answer_new();
	*spare = NULL;
	if (reply == NULL) {
		return -ENOMEM;
	}
	int r = parse_into(reply, payload, len, ret_message);
	if (r != 0) {
		lf_reply_free(reply);
		return r;
	}
	*ret_reply = reply;
	return 0;
}
