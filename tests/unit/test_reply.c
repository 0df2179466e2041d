/* SPDX-License-Identifier: MIT */

/*
 * Answers: what is packed is taken apart again by the reader that clients use, and must say what
 * was put in; and the table of what each failure means.
 */

#include "proto/frame.h"
#include "server/funnel/reply.h"
#include "tests/unit/cmocka_all.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct request *request;
static struct packing packing;
static msgpack_zone zone;
static struct credentials somebody = {
	.references = 1000, .role = ROLE_WRITE, .text = "uid 1001 (app), groups 1001"};
static const uint8_t epoch[STORE_EPOCH_BYTES] = "0123456789abcde";
static const struct reply_facts facts = {epoch, "full"};

/* The one frame of a buffer, as a client reads it. */
static const struct message *read_frame(const struct buffer *buf)
{
	static struct message message;
	static struct frame_reader reader;
	const uint8_t *payload = NULL;
	uint8_t *room = NULL;
	size_t len = 0;
	assert_false(buf->failed);
	frame_reader_finish(&reader);
	frame_reader_init(&reader, FRAME_MAX_LIMIT);
	assert_int_equal(frame_reader_room(&reader, buf->len, &room, &len), 0);
	memcpy(room, buf->data, buf->len);
	frame_reader_fed(&reader, buf->len);
	assert_int_equal(frame_reader_next(&reader, &payload, &len), 0);
	assert_int_equal(len + FRAME_HEADER_BYTES, buf->len);
	msgpack_zone_clear(&zone);
	int rc = message_parse(payload, len, &zone, &message);
	if (rc != 0) {
		fail_msg("%s", message.reason);
	}
	return &message;
}

static const msgpack_object *result_of(const struct message *message)
{
	assert_int_equal(message->type, MESSAGE_REPLY);
	assert_int_equal(message->error->type, MSGPACK_OBJECT_NIL);
	return message->result;
}

static uint64_t number_of(const msgpack_object *map, const char *key)
{
	uint64_t number = 0;
	const msgpack_object *value = object_get(map, key);
	if (value == NULL || !object_uint64(value, &number)) {
		fail_msg("no number %s", key);
	}
	return number;
}

static void is_text(const msgpack_object *map, const char *key, const char *want)
{
	struct span text;
	const msgpack_object *value = object_get(map, key);
	if (value == NULL || !object_str(value, &text) || !span_equal(text, want)) {
		fail_msg("%s is not \"%s\"", key, want);
	}
}

static bool flag_of(const msgpack_object *map, const char *key)
{
	bool flag = false;
	const msgpack_object *value = object_get(map, key);
	return value != NULL && object_bool(value, &flag) && flag;
}

/* ---- results ---- */

static void pack_step(const struct value *values, unsigned columns, unsigned rows, bool truncated)
{
	static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
	static const char *const types[] = {"INTEGER", NULL, "TEXT", NULL, NULL, NULL, NULL, NULL};
	struct step_result result = {.changes = 3, .total = 5, .rowid = -7, .truncated = truncated};
	packing_begin_step(&packing);
	if (columns > 0) {
		packing_columns(&packing, &(struct columns){columns, names, types});
		result.has_columns = true;
	}
	for (unsigned i = 0; i < rows; i++) {
		assert_int_equal(packing_row(&packing, values, columns), 0);
	}
	result.rows = rows;
	packing_end_step(&packing, &result);
}

static void test_results_round_trip(void **state)
{
	static const char every_byte[] = "\x00\xff";
	const struct value values[8] = {
		{.type = VALUE_NULL},
		{.type = VALUE_INTEGER, .integer = INT64_MIN},
		{.type = VALUE_INTEGER, .integer = INT64_MAX},
		{.type = VALUE_FLOAT, .real = -INFINITY},
		{.type = VALUE_TEXT, .bytes = {"\xff nul \0 \xc3\xa9", 10}},
		{.type = VALUE_BLOB, .bytes = {every_byte, 2}},
		{.type = VALUE_TEXT, .bytes = {NULL, 0}},
		{.type = VALUE_BLOB, .bytes = {NULL, 0}},
	};
	(void)state;
	pack_step(values, 8, 2, false);
	pack_step(NULL, 0, 0, false);
	pack_step(values, 1, 1, true);
	pack_step(values, 3, 0, false);
	assert_true(packing_fits(&packing));
	assert_true(packing_end(&packing));
	request->outcome = OUTCOME_OK;
	request->id = 4000000000;
	request->commit_no = 1ull << 40;
	request->received_us = 100;
	request->taken_us = 350;
	request->exec_us = 7;
	request->commit_us = 8;
	request->group = 9;
	reply_build(request, &facts);
	const struct message *message = read_frame(&request->reply);
	const msgpack_object *result = result_of(message);
	assert_int_equal(message->id, 4000000000);
	assert_int_equal(number_of(result, "commit"), 1ull << 40);
	assert_int_equal(number_of(result, "queued_us"), 250);
	assert_int_equal(number_of(result, "exec_us"), 7);
	assert_int_equal(number_of(result, "commit_us"), 8);
	assert_int_equal(number_of(result, "group"), 9);
	is_text(result, "durability", "full");
	struct span bytes;
	assert_true(object_bin(object_get(result, "epoch"), &bytes));
	assert_memory_equal(bytes.data, epoch, sizeof(epoch));
	assert_null(object_get(result, "repeat"));
	assert_null(object_get(result, "rows_lost"));
	assert_int_equal(result->via.map.size, 8);

	const msgpack_object *steps = object_get(result, "steps");
	assert_int_equal(steps->via.array.size, 4);
	const msgpack_object *step = &steps->via.array.ptr[0];
	int64_t rowid = 0;
	assert_int_equal(step->via.map.size, 6);
	assert_int_equal(number_of(step, "changes"), 3);
	assert_int_equal(number_of(step, "total"), 5);
	assert_true(object_int64(object_get(step, "rowid"), &rowid));
	assert_int_equal(rowid, -7);
	const msgpack_object *types = object_get(step, "types");
	assert_int_equal(types->via.array.size, 8);
	assert_int_equal(types->via.array.ptr[0].type, MSGPACK_OBJECT_STR);
	assert_int_equal(types->via.array.ptr[1].type, MSGPACK_OBJECT_NIL);
	const msgpack_object *rows = object_get(step, "rows");
	assert_int_equal(rows->via.array.size, 2);
	const msgpack_object *row = rows->via.array.ptr[1].via.array.ptr;
	assert_int_equal(rows->via.array.ptr[1].via.array.size, 8);
	assert_int_equal(row[0].type, MSGPACK_OBJECT_NIL);
	assert_true(row[1].via.i64 == INT64_MIN);
	assert_true(row[2].via.u64 == INT64_MAX);
	assert_true(isinf(row[3].via.f64) && row[3].via.f64 < 0);
	assert_int_equal(row[4].type, MSGPACK_OBJECT_STR);
	assert_int_equal(row[4].via.str.size, 10);
	assert_memory_equal(row[4].via.str.ptr, values[4].bytes.data, 10);
	assert_int_equal(row[5].type, MSGPACK_OBJECT_BIN);
	assert_memory_equal(row[5].via.bin.ptr, every_byte, 2);
	assert_int_equal(row[6].type, MSGPACK_OBJECT_STR);
	assert_int_equal(row[6].via.str.size, 0);
	assert_int_equal(row[7].type, MSGPACK_OBJECT_BIN);
	assert_int_equal(row[7].via.bin.size, 0);

	assert_int_equal(steps->via.array.ptr[1].via.map.size, 3);
	assert_null(object_get(&steps->via.array.ptr[1], "rows"));
	assert_true(flag_of(&steps->via.array.ptr[2], "truncated"));
	assert_int_equal(object_get(&steps->via.array.ptr[3], "rows")->via.array.size, 0);
}

/* Two bytes, five bytes, and counts beyond 16 bits: arrays of every header. */
static void test_many_rows(void **state)
{
	static const unsigned counts[] = {0, 1, 15, 16, 65535, 65536, 100000};
	const struct value value = {.type = VALUE_INTEGER, .integer = 1};
	(void)state;
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		packing_finish(&packing);
		packing_init(&packing, &request->payload, 1 << 22);
		pack_step(&value, 1, counts[i], false);
		assert_true(packing_end(&packing));
		request->outcome = OUTCOME_OK;
		reply_build(request, &facts);
		const msgpack_object *steps =
			object_get(result_of(read_frame(&request->reply)), "steps");
		assert_int_equal(
			object_get(steps->via.array.ptr, "rows")->via.array.size, counts[i]);
	}
}

/* Whatever is let through, a client can read: no answer has more values than a frame may hold. */
static void test_answers_have_limits(void **state)
{
	const struct value one = {.type = VALUE_INTEGER, .integer = 1};
	const struct value wide[8] = {one, one, one, one, one, one, one, one};
	struct value large = {.type = VALUE_BLOB, .bytes = {calloc(1, 5000), 5000}};
	struct step_result result = {.has_columns = true};
	static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
	static const char *const types[8] = {NULL};
	(void)state;
	/* Values. */
	packing_begin_step(&packing);
	packing_columns(&packing, &(struct columns){8, names, types});
	unsigned rows = 0;
	while (packing_row(&packing, wide, 8) == 0) {
		rows++;
	}
	assert_in_range(rows, 29000, 29127);
	packing_end_step(&packing, &result);
	assert_true(packing_end(&packing));
	request->outcome = OUTCOME_OK;
	reply_build(request, &facts);
	(void)result_of(read_frame(&request->reply));
	/* Bytes: one that is too large by itself, and the sum. */
	packing_finish(&packing);
	packing_init(&packing, &request->payload, 4000);
	packing_begin_step(&packing);
	packing_columns(&packing, &(struct columns){1, names, types});
	assert_int_equal(packing_row(&packing, &large, 1), 1);
	large.bytes.len = 1500;
	assert_int_equal(packing_row(&packing, &large, 1), 0);
	assert_int_equal(packing_row(&packing, &large, 1), 0);
	assert_int_equal(packing_row(&packing, &large, 1), 1);
	size_t len = request->payload.len;
	assert_int_equal(packing_row(&packing, &large, 1), 1);
	assert_int_equal(request->payload.len, len); /* what was refused left nothing */
	assert_int_equal(packing_row(&packing, &one, 1), 0);
	packing_end_step(&packing, &result);
	assert_true(packing_fits(&packing));
	assert_true(packing_end(&packing));
	reply_build(request, &facts);
	const msgpack_object *steps = object_get(result_of(read_frame(&request->reply)), "steps");
	assert_int_equal(object_get(steps->via.array.ptr, "rows")->via.array.size, 3);
	/* Steps alone may be too many. */
	packing_finish(&packing);
	packing_init(&packing, &request->payload, 1000);
	for (int i = 0; i < 100; i++) {
		pack_step(NULL, 0, 0, false);
	}
	assert_false(packing_fits(&packing));
	free((void *)(uintptr_t)large.bytes.data);
}

/* ---- what is stored ---- */

static void test_small_payloads_are_stored_as_they_are(void **state)
{
	struct buffer spare;
	const struct value value = {.type = VALUE_INTEGER, .integer = 1};
	(void)state;
	buffer_init(&spare, 0);
	pack_step(&value, 1, 100, false);
	assert_true(packing_end(&packing));
	struct bytes stored = packing_stored(&packing, &spare);
	assert_ptr_equal(stored.data, request->payload.data);
	assert_int_equal(stored.len, request->payload.len);
	assert_int_equal(request->payload.data[0], PAYLOAD_STEPS);
	buffer_finish(&spare);
}

/* Larger ones lose their rows, of all steps, and nothing else; and that is said. */
static void test_large_payloads_are_cut(void **state)
{
	static char text[1000];
	struct buffer spare;
	(void)state;
	memset(text, 't', sizeof(text));
	for (unsigned large = 0; large < 4; large++) {
		const struct value value = {.type = VALUE_TEXT, .bytes = {text, sizeof(text)}};
		buffer_init(&spare, 0);
		packing_finish(&packing);
		packing_init(&packing, &request->payload, 1 << 22);
		for (unsigned i = 0; i < 4; i++) {
			pack_step(&value, 1, i == large ? 70 : i, i % 2 == 1);
			pack_step(NULL, 0, 0, false);
		}
		assert_true(packing_end(&packing));
		assert_true(request->payload.len > PAYLOAD_STORED_MAX);
		struct bytes stored = packing_stored(&packing, &spare);
		assert_true(stored.len < 2000);
		assert_int_equal(request->payload.data[0], PAYLOAD_STEPS); /* goes out whole now */
		/* As it is answered when the request comes again. */
		struct request *again = NULL;
		void *room = NULL;
		again = request_new(REQUEST_WRITE, 0, &room);
		buffer_append(&again->payload, stored.data, stored.len);
		again->outcome = OUTCOME_REPEAT;
		again->commit_no = 5;
		reply_build(again, &facts);
		const msgpack_object *result = result_of(read_frame(&again->reply));
		assert_true(flag_of(result, "repeat"));
		assert_true(flag_of(result, "rows_lost"));
		assert_int_equal(number_of(result, "commit"), 5);
		assert_int_equal(result->via.map.size, 10);
		const msgpack_object *steps = object_get(result, "steps");
		assert_int_equal(steps->via.array.size, 8);
		for (unsigned i = 0; i < 8; i++) {
			const msgpack_object *step = &steps->via.array.ptr[i];
			assert_null(object_get(step, "rows"));
			assert_int_equal(number_of(step, "changes"), 3);
			assert_int_equal(object_get(step, "columns") != NULL, i % 2 == 0);
			assert_int_equal(flag_of(step, "truncated"), i % 4 == 2);
		}
		request_free(again);
		buffer_finish(&spare);
	}
}

static void test_repeats_say_so(void **state)
{
	(void)state;
	pack_step(NULL, 0, 0, false);
	assert_true(packing_end(&packing));
	request->outcome = OUTCOME_REPEAT;
	reply_build(request, &facts);
	const msgpack_object *result = result_of(read_frame(&request->reply));
	assert_true(flag_of(result, "repeat"));
	assert_null(object_get(result, "rows_lost"));
	assert_int_equal(result->via.map.size, 9);
}

/* ---- failures ---- */

static const struct {
	enum failure_code code;
	const char *name;
	const char *applied;
	bool retry;
	uint64_t sqlite; /* 0: none */
} codes[] = {
	{FAILURE_BAD_REQUEST, "bad_request", "no", false, 0},
	{FAILURE_UNKNOWN_METHOD, "unknown_method", "no", false, 0},
	{FAILURE_UNSUPPORTED_PROTO, "unsupported_proto", "no", false, 0},
	{FAILURE_TOO_LARGE, "too_large", "no", false, 0},
	{FAILURE_DENIED, "denied", "no", false, 23},
	{FAILURE_NOT_FOUND, "not_found", "no", false, 0},
	{FAILURE_SQL, "sql", "no", false, 0},
	{FAILURE_GUARD, "guard", "no", false, 0},
	{FAILURE_DEADLINE, "deadline", "no", true, 5},
	{FAILURE_CANCELLED, "cancelled", "no", false, 0},
	{FAILURE_OVERLOADED, "overloaded", "no", true, 5},
	{FAILURE_SNAPSHOT_CHANGED, "snapshot_changed", "no", false, 517},
	{FAILURE_EPOCH_CHANGED, "epoch_changed", "no", false, 517},
	{FAILURE_LEASE_EXPIRED, "lease_expired", "no", false, 5},
	{FAILURE_LEASE_GONE, "lease_gone", "no", false, 0},
	{FAILURE_KEY_MISMATCH, "key_mismatch", "no", false, 0},
	{FAILURE_SESSION_EXPIRED, "session_expired", "unknown", false, 0},
	{FAILURE_DISK_LOW, "disk_low", "no", true, 13},
	{FAILURE_FOREIGN_WRITER, "foreign_writer", "no", true, 5},
	{FAILURE_SHUTTING_DOWN, "shutting_down", "no", true, 5},
	{FAILURE_NOT_SHIPPED, "not_shipped", "yes", false, 0},
	{FAILURE_INTERNAL, "internal", "no", true, 0},
};

static void is_failure(const msgpack_object *error, size_t i)
{
	is_text(error, "code", codes[i].name);
	is_text(error, "applied", codes[i].applied);
	assert_int_equal(flag_of(error, "retry"), codes[i].retry);
	assert_int_equal(object_get(error, "sqlite") != NULL, codes[i].sqlite != 0);
	if (codes[i].sqlite != 0) {
		assert_int_equal(number_of(error, "sqlite"), codes[i].sqlite);
	}
}

static void test_every_code_by_every_way(void **state)
{
	(void)state;
	assert_int_equal(sizeof(codes) / sizeof(codes[0]), FAILURE_INTERNAL);
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		struct buffer out;
		buffer_init(&out, 0);
		assert_string_equal(failure_code_name(codes[i].code), codes[i].name);
		failure_set(&request->failure, codes[i].code, "because of %d", 7);
		/* At once. */
		reply_error(&out, 11, &request->failure);
		const struct message *message = read_frame(&out);
		assert_int_equal(message->id, 11);
		assert_int_equal(message->result->type, MSGPACK_OBJECT_NIL);
		is_failure(message->error, i);
		is_text(message->error, "message", "because of 7");
		assert_null(object_get(message->error, "step"));
		assert_null(object_get(message->error, "row"));
		assert_null(object_get(message->error, "retry_after_ms"));
		/* By the writer, with place and time. */
		request->id = 12;
		request->outcome = OUTCOME_FAILED;
		request->failure.step = 3;
		request->failure.row = 0;
		request->failure.retry_after_ms = 250;
		reply_build(request, &facts);
		message = read_frame(&request->reply);
		is_failure(message->error, i);
		assert_int_equal(number_of(message->error, "step"), 3);
		assert_int_equal(number_of(message->error, "row"), 0);
		assert_int_equal(number_of(message->error, "retry_after_ms"), 250);
		/* Remembered, and answered again. */
		assert_true(reply_pack_failure(&request->failure, &request->payload));
		assert_int_equal(request->payload.data[0], PAYLOAD_ERROR);
		request->outcome = OUTCOME_REPEAT;
		reply_build(request, &facts);
		message = read_frame(&request->reply);
		assert_int_equal(message->id, 12);
		assert_int_equal(message->result->type, MSGPACK_OBJECT_NIL);
		is_failure(message->error, i);
		is_text(message->error, "message", "because of 7");
		/* As the reason of a close. */
		buffer_clear(&out);
		reply_closing(&out, codes[i].code, "why");
		message = read_frame(&out);
		assert_int_equal(message->type, MESSAGE_NOTICE);
		assert_true(span_equal(message->method, "closing"));
		struct span text;
		assert_true(object_str(message_field(message, "code")->value, &text));
		assert_true(span_equal(text, codes[i].name));
		assert_true(object_str(message_field(message, "message")->value, &text));
		assert_true(span_equal(text, "why"));
		buffer_finish(&out);
	}
}

static void test_a_failure_without_a_message(void **state)
{
	(void)state;
	struct failure failure;
	failure_init(&failure);
	failure.code = FAILURE_SQL;
	assert_int_equal(failure.step, -1);
	assert_int_equal(failure.row, -1);
	reply_error(&request->reply, 1, &failure);
	is_text(read_frame(&request->reply)->error, "message", "out of memory");
	failure_clear(&failure);
	assert_int_equal(failure.code, FAILURE_NONE);
}

/* Messages of SQLite may hold what the client sent: any bytes, any length. */
static void test_messages_of_any_kind(void **state)
{
	static char text[100000];
	(void)state;
	memset(text, 'm', sizeof(text) - 1);
	static const char *const messages[] = {"", "\xff\xfe", "\x01\n\t", text};
	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
		buffer_clear(&request->reply);
		failure_set(&request->failure, FAILURE_SQL, "%s", messages[i]);
		reply_error(&request->reply, 1, &request->failure);
		(void)read_frame(&request->reply);
	}
}

static void test_conditions_of_the_store(void **state)
{
	static const struct {
		enum store_condition condition;
		int sqlite;
		enum failure_code code;
		uint64_t want_sqlite;
		bool retry;
	} cases[] = {
		{STORE_SQL, SQLITE_CONSTRAINT_UNIQUE, FAILURE_SQL, SQLITE_CONSTRAINT_UNIQUE, false},
		{STORE_SQL, SQLITE_ERROR, FAILURE_SQL, SQLITE_ERROR, false},
		{STORE_BAD_REQUEST, 0, FAILURE_BAD_REQUEST, 0, false},
		{STORE_DENIED, SQLITE_AUTH, FAILURE_DENIED, SQLITE_AUTH, false},
		{STORE_GUARD, 0, FAILURE_GUARD, 0, false},
		{STORE_TOO_LARGE, 0, FAILURE_TOO_LARGE, 0, false},
		{STORE_RESOURCE, SQLITE_NOMEM, FAILURE_SQL, SQLITE_NOMEM, true},
		{STORE_RESOURCE, SQLITE_IOERR_WRITE, FAILURE_SQL, SQLITE_IOERR_WRITE, true},
		{STORE_RESOURCE, SQLITE_FULL, FAILURE_DISK_LOW, SQLITE_FULL, true},
		{STORE_BUSY, SQLITE_BUSY, FAILURE_FOREIGN_WRITER, SQLITE_BUSY, true},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct store_error error = {.row = -1};
		store_error_set(&error, cases[i].condition, cases[i].sqlite, "%s", "the cause");
		error.row = 4;
		error.needed = ROLE_DDL;
		reply_fail_from_store(request, &error, 2);
		store_error_clear(&error);
		assert_int_equal(request->failure.code, cases[i].code);
		assert_int_equal(request->failure.retry, cases[i].retry);
		assert_int_equal(request->failure.applied, APPLIED_NO);
		assert_int_equal(request->failure.sqlite, cases[i].want_sqlite);
		assert_int_equal(request->failure.step, 2);
		assert_int_equal(request->failure.row, 4);
		assert_non_null(strstr(request->failure.message, "the cause"));
		if (cases[i].condition == STORE_DENIED) {
			assert_non_null(strstr(request->failure.message, somebody.text));
			assert_non_null(strstr(request->failure.message, "write"));
			assert_non_null(strstr(request->failure.message, "ddl"));
		}
	}
	/* Refused to everybody: no role is named as the cure. */
	struct store_error error = {.row = -1};
	store_error_set(&error, STORE_DENIED, SQLITE_AUTH, "ATTACH");
	error.needed = ROLE_NONE;
	reply_fail_from_store(request, &error, -1);
	store_error_clear(&error);
	assert_non_null(strstr(request->failure.message, "not allowed through litefunnel"));
	/* Memory that ran out while the error was made: still an answer. */
	error = (struct store_error){
		.condition = STORE_RESOURCE, .sqlite = SQLITE_NOMEM, .row = -1};
	reply_fail_from_store(request, &error, -1);
	assert_string_equal(request->failure.message, "out of memory");
	/* A statement that ran too long may be sent again by hand, not by the library. */
	store_error_set(&error, STORE_TIMEOUT, SQLITE_INTERRUPT, "late");
	reply_fail_from_store(request, &error, 0);
	store_error_clear(&error);
	assert_int_equal(request->failure.code, FAILURE_DEADLINE);
	assert_int_equal(request->failure.applied, APPLIED_NO);
	assert_false(request->failure.retry);
}

/* ---- describe, and no memory ---- */

static void test_descriptions(void **state)
{
	static const char *const names[] = {"a", "b"};
	static const char *const types[] = {"INTEGER", NULL};
	(void)state;
	for (int tail = -1; tail <= 300; tail += 301) {
		struct description description = {.params = 3, .readonly = tail < 0, .tail = tail};
		packing_finish(&packing);
		packing_init(&packing, &request->payload, 1 << 20);
		packing_begin_step(&packing);
		packing_columns(&packing, &(struct columns){2, names, types});
		reply_pack_description(&packing, &description);
		request->outcome = OUTCOME_OK;
		reply_build(request, &facts);
		const msgpack_object *result = result_of(read_frame(&request->reply));
		assert_int_equal(result->via.map.size, 5);
		assert_int_equal(number_of(result, "params"), 3);
		assert_int_equal(flag_of(result, "readonly"), tail < 0);
		assert_int_equal(object_get(result, "columns")->via.array.size, 2);
		assert_int_equal(object_get(result, "types")->via.array.size, 2);
		assert_null(object_get(result, "rows"));
		if (tail < 0) {
			assert_int_equal(object_get(result, "tail")->type, MSGPACK_OBJECT_NIL);
		} else {
			assert_int_equal(number_of(result, "tail"), (uint64_t)tail);
		}
	}
}

/* An answer that does not fit into memory: what was done is not called undone. */
static void test_no_memory_for_the_answer(void **state)
{
	(void)state;
	for (int failed = 0; failed < 2; failed++) {
		pack_step(NULL, 0, 0, false);
		(void)packing_end(&packing);
		request->outcome = failed ? OUTCOME_FAILED : OUTCOME_OK;
		failure_set(&request->failure, FAILURE_SQL, "a message that is too long for it");
		request->reply.max = 20;
		reply_build(request, &facts);
		const struct message *message = read_frame(&request->reply);
		is_text(message->error, "code", "internal");
		is_text(message->error, "applied", failed ? "no" : "unknown");
		buffer_finish(&request->reply);
		buffer_init(&request->reply, 0);
	}
}

static int set_up(void **state)
{
	void *room = NULL;
	(void)state;
	request = request_new(REQUEST_WRITE, 0, &room);
	request->credentials = credentials_ref(&somebody);
	packing_init(&packing, &request->payload, 4 << 20);
	return msgpack_zone_init(&zone, 8192) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	packing_finish(&packing);
	request_free(request);
	msgpack_zone_destroy(&zone);
	return 0;
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_results_round_trip),
		TEST(test_many_rows),
		TEST(test_answers_have_limits),
		TEST(test_small_payloads_are_stored_as_they_are),
		TEST(test_large_payloads_are_cut),
		TEST(test_repeats_say_so),
		TEST(test_every_code_by_every_way),
		TEST(test_a_failure_without_a_message),
		TEST(test_messages_of_any_kind),
		TEST(test_conditions_of_the_store),
		TEST(test_descriptions),
		TEST(test_no_memory_for_the_answer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
