/* SPDX-License-Identifier: MIT */

/*
 * Messages: what each payload is taken apart into, the vectors, whole conversations in every split,
 * what the writers write, and each allocation failed in turn.
 */

#include "proto/frame.h"
#include "proto/message.h"
#include "proto/scan.h"
#include "tests/unit/fail_alloc.h"
#include "tests/unit/vectors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BYTES(literal) literal, sizeof(literal) - 1

/* Parses, checks the return value, and gives the message; finish() ends it. */
static msgpack_zone zone;

static struct message *parse(const void *payload, size_t len, int want)
{
	static struct message message;
	memset(&message, 0xa5, sizeof(message)); /* nothing may depend on what was there */
	assert_true(msgpack_zone_init(&zone, 512));
	assert_int_equal(message_parse(payload, len, &zone, &message), want);
	return &message;
}

static void finish(void)
{
	msgpack_zone_destroy(&zone);
}

static void request(void **state)
{
	static const char payload[] =
		"\x94\x00\xcd\x12\x34\xa5write\x82\xa1x\x2a\xa3zzz\x92\x01\xa1q";
	(void)state;
	struct message *message = parse(BYTES(payload), 0);
	assert_int_equal(message->type, MESSAGE_REQUEST);
	assert_int_equal(message->id, 0x1234);
	assert_true(span_equal(message->method, "write"));
	assert_false(span_equal(message->method, "writ"));
	assert_false(span_equal(message->method, "wrote"));
	assert_int_equal(message->fields_count, 2);
	assert_null(message->reason);
	assert_int_equal(message->nodes, 11);
	const struct field *field = message_field(message, "zzz");
	assert_non_null(field);
	assert_int_equal(field->value->type, MSGPACK_OBJECT_ARRAY);
	assert_int_equal(field->raw.len, 4); /* the bytes as they were sent */
	assert_memory_equal(field->raw.data, "\x92\x01\xa1q", 4);
	assert_int_equal(message_field(message, "x")->raw.len, 1);
	assert_null(message_field(message, "y"));
	finish();
}

static void reply_and_notice(void **state)
{
	(void)state;
	struct message *message = parse(BYTES("\x94\x01\x07\xc0\x81\xa1r\x01"), 0);
	assert_int_equal(message->type, MESSAGE_REPLY);
	assert_int_equal(message->id, 7);
	assert_int_equal(message->error->type, MSGPACK_OBJECT_NIL);
	assert_int_equal(message->result->type, MSGPACK_OBJECT_MAP);
	finish();
	message = parse(BYTES("\x93\x02\xa6"
			      "cancel\x81\xa2id\x07"),
		0);
	assert_int_equal(message->type, MESSAGE_NOTICE);
	assert_true(span_equal(message->method, "cancel"));
	assert_int_equal(message->fields_count, 1);
	finish();
	/* A notice with wrong params is known for what it is, so that it can be ignored. */
	message = parse(BYTES("\x93\x02\xa6"
			      "cancel\x90"),
		MESSAGE_BAD_REQUEST);
	assert_int_equal(message->type, MESSAGE_NOTICE);
	finish();
}

/* What is answered with the request's id, and what ends the connection, each with its reason. */
static void refusals(void **state)
{
	static const struct {
		const char *payload;
		size_t len;
		int want;
		const char *reason;
	} table[] = {
		{BYTES(""), MESSAGE_BROKEN, "an empty frame"},
		{BYTES("\xc0"), MESSAGE_BROKEN, "a message must be an array"},
		{BYTES("\xdc\x00"), MESSAGE_BROKEN, "a message must be an array"},
		{BYTES("\xdd\x00\x00\x00"), MESSAGE_BROKEN, "a message must be an array"},
		{BYTES("\x94"), MESSAGE_BROKEN,
			"a length or count reaches past the end of the frame"},
		{BYTES("\x94\x03\x07\xa1m\x80"), MESSAGE_BROKEN,
			"the type of a message is 0, 1 or 2"},
		{BYTES("\x93\x00\x07\xa1m"), MESSAGE_BROKEN,
			"a request and a reply have four elements, a notice has three"},
		{BYTES("\x94\x02\xa1m\x80\x80"), MESSAGE_BROKEN,
			"a request and a reply have four elements, a notice has three"},
		{BYTES("\x94\x00\x07\xa1m\x80\x00"), MESSAGE_BROKEN,
			"bytes follow the message in its frame"},
		{BYTES("\x94\x00\x07\xa1m"), MESSAGE_BROKEN,
			"a length or count reaches past the end of the frame"},
		{BYTES("\x94\x00\x07\xa1m\x90\x00"), MESSAGE_BROKEN,
			"bytes follow the message in its frame"},
		{BYTES("\x94\x00\x07\xa1m\x81\xa1k\xc1"), MESSAGE_BROKEN,
			"the byte 0xc1 is not MessagePack"},
		{BYTES("\x94\x00\x07\xa1m\x81\xa1k\xd4\x00\x00"), MESSAGE_BROKEN,
			"ext types are not in use"},
		{BYTES("\x94\x00\xff\xa1m\x80"), MESSAGE_BROKEN, "the id of a message is a uint32"},
		{BYTES("\x94\x01\xa1i\xc0\xc0"), MESSAGE_BROKEN, "the id of a message is a uint32"},
		{BYTES("\x94\x00\x07\x01\x80"), MESSAGE_BAD_REQUEST,
			"a method is a string of at most 64 bytes"},
		{BYTES("\x94\x00\x07\x01\xc0"), MESSAGE_BAD_REQUEST,
			"a method is a string of at most 64 bytes"},
		{BYTES("\x94\x00\x07\xa1m\xc0"), MESSAGE_BAD_REQUEST, "params must be a map"},
		{BYTES("\x94\x00\x07\xa1m\xde"), MESSAGE_BROKEN,
			"a length or count reaches past the end of the frame"},
		{BYTES("\x94\x00\x07\xa1m\x81\x01\x01"), MESSAGE_BAD_REQUEST,
			"a key of params is not a string"},
		{BYTES("\x94\x00\x07\xa1m\x83\xa1z\x01\xa2zz\x01\xa1z\x02"), MESSAGE_BAD_REQUEST,
			"a key of params stands twice"},
		{BYTES("\x94\x00\x07\xa1m\x82\xa0\x01\xa0\x02"), MESSAGE_BAD_REQUEST,
			"a key of params stands twice"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct message *message = parse(table[i].payload, table[i].len, table[i].want);
		assert_string_equal(message->reason, table[i].reason);
		if (table[i].want == MESSAGE_BAD_REQUEST) {
			assert_int_equal(message->id, 7);
		}
		finish();
	}
}

static void limits(void **state)
{
	struct buffer buf;
	msgpack_packer packer;
	(void)state;
	buffer_init(&buf, 0);
	buffer_packer(&buf, &packer);
	for (uint32_t keys = 31; keys <= 34; keys++) {
		buffer_clear(&buf);
		buffer_append(&buf, BYTES("\x94\x00\x07\xa1m"));
		msgpack_pack_map(&packer, keys);
		for (uint32_t i = 0; i < keys; i++) {
			char key[8];
			(void)snprintf(key, sizeof(key), "k%u", i);
			pack_cstr(&packer, key);
			msgpack_pack_int(&packer, 0);
		}
		bool good = keys <= MESSAGE_FIELDS_MAX;
		struct message *message = parse(buf.data, buf.len, good ? 0 : MESSAGE_BAD_REQUEST);
		assert_int_equal(message->fields_count, good ? keys : 0);
		assert_null(message_field(message, "nothing"));
		finish();
	}
	for (size_t len = 63; len <= 66; len++) {
		static const char name[66] = "0123456789012345678901234567890123456789"
					     "01234567890123456789012345";
		buffer_clear(&buf);
		buffer_append(&buf, BYTES("\x94\x00\x07"));
		pack_str(&packer, name, len);
		msgpack_pack_map(&packer, 0);
		(void)parse(buf.data, buf.len, len <= MESSAGE_METHOD_MAX ? 0 : MESSAGE_BAD_REQUEST);
		finish();
	}
	/* The values of all params together, not of each. */
	buffer_clear(&buf);
	buffer_append(&buf, BYTES("\x94\x00\x07\xa1m\x82"));
	for (int half = 0; half < 2; half++) {
		pack_cstr(&packer, half == 0 ? "a" : "b");
		msgpack_pack_array(&packer, SCAN_NODES_MAX / 2);
		for (int i = 0; i < SCAN_NODES_MAX / 2; i++) {
			msgpack_pack_int(&packer, 0);
		}
	}
	struct message *message = parse(buf.data, buf.len, MESSAGE_BROKEN);
	assert_string_equal(message->reason, "too many values in one frame (at most 262144)");
	finish();
	buffer_finish(&buf);
}

static void readers(void **state)
{
	static const char payload[] =
		"\x94\x01\x07\xc0\x9a\x01\xff\xcf\xff\xff\xff\xff\xff\xff\xff\xff"
		"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff\xd3\x80\x00\x00\x00\x00\x00\x00\x00"
		"\xc3\xa1s\xc4\x01z\xc0\x81\xa1k\x05";
	int64_t integer = 0;
	uint64_t natural = 0;
	bool truth = false;
	struct span span = {0};
	(void)state;
	struct message *message = parse(BYTES(payload), 0);
	const msgpack_object *at = message->result->via.array.ptr;
	assert_true(object_int64(&at[0], &integer) && integer == 1);
	assert_true(object_uint64(&at[0], &natural) && natural == 1);
	assert_true(object_int64(&at[1], &integer) && integer == -1);
	assert_false(object_uint64(&at[1], &natural));
	assert_false(object_int64(&at[2], &integer));
	assert_true(object_uint64(&at[2], &natural) && natural == UINT64_MAX);
	assert_true(object_int64(&at[3], &integer) && integer == INT64_MAX);
	assert_true(object_int64(&at[4], &integer) && integer == INT64_MIN);
	assert_true(object_bool(&at[5], &truth) && truth);
	assert_false(object_int64(&at[5], &integer));
	assert_true(object_str(&at[6], &span) && span_equal(span, "s"));
	assert_false(object_bin(&at[6], &span));
	assert_true(object_bin(&at[7], &span) && span_equal(span, "z"));
	assert_false(object_str(&at[7], &span));
	assert_false(object_bool(&at[8], &truth));
	assert_null(object_get(&at[8], "k"));
	assert_non_null(object_get(&at[9], "k"));
	assert_null(object_get(&at[9], "j"));
	finish();
	message = parse(BYTES("\x94\x01\x07\xc0\x82\x01\x02\xa1k\x03"), 0);
	assert_true(object_uint64(object_get(message->result, "k"), &natural) && natural == 3);
	finish();
}

/* ---- writing ---- */

static void writers(void **state)
{
	static const char want[] = "\0\0\0\12\x94\x00\xce\xff\xff\xff\xff\xa1m\x80"
				   "\0\0\0\5\x93\x02\xa1n\x80"
				   "\0\0\0\7\x94\x01\x07\x81\x01\x02\xc0"
				   "\0\0\0\5\x94\x01\x08\xc0\x80";
	struct buffer buf;
	msgpack_packer packer;
	(void)state;
	buffer_init(&buf, 0);
	buffer_packer(&buf, &packer);
	size_t mark = message_begin_request(&buf, UINT32_MAX, "m");
	msgpack_pack_map(&packer, 0);
	frame_end(&buf, mark);
	mark = message_begin_notice(&buf, "n");
	msgpack_pack_map(&packer, 0);
	frame_end(&buf, mark);
	mark = message_begin_error(&buf, 7);
	msgpack_pack_map(&packer, 1);
	msgpack_pack_int(&packer, 1);
	msgpack_pack_int(&packer, 2);
	msgpack_pack_nil(&packer);
	frame_end(&buf, mark);
	mark = message_begin_result(&buf, 8);
	msgpack_pack_map(&packer, 0);
	frame_end(&buf, mark);
	assert_int_equal(buf.len, sizeof(want) - 1);
	assert_memory_equal(buf.data, want, buf.len);
	assert_false(buf.failed);
	buffer_finish(&buf);
}

/* ---- conversations ---- */

struct transcript {
	char text[8192];
	size_t len;
};

static void note(struct transcript *out, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void note(struct transcript *out, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int count = vsnprintf(out->text + out->len, sizeof(out->text) - out->len, format, args);
	va_end(args);
	assert_true(count >= 0 && out->len + (size_t)count < sizeof(out->text));
	out->len += (size_t)count;
}

static int take_apart(const uint8_t *payload, size_t len, struct transcript *out)
{
	struct message message;
	msgpack_zone own;
	assert_true(msgpack_zone_init(&own, 512));
	int condition = message_parse(payload, len, &own, &message);
	if (condition == MESSAGE_BROKEN) {
		note(out, "broken ");
	} else if (condition == MESSAGE_BAD_REQUEST) {
		note(out, "bad(%u) ", message.id);
	} else if (message.type == MESSAGE_REPLY) {
		note(out, "reply(%u) ", message.id);
	} else {
		note(out, "%s%.*s(%u,%zu) ", message.type == MESSAGE_NOTICE ? "~" : "",
			(int)message.method.len, (const char *)message.method.data, message.id,
			message.fields_count);
	}
	msgpack_zone_destroy(&own);
	return condition;
}

/* Feeds in pieces; a broken message ends the conversation, as it does in the daemon. */
static void converse(const uint8_t *stream, size_t len, size_t piece, struct transcript *out)
{
	struct frame_reader reader;
	bool open = true;
	out->len = 0;
	out->text[0] = '\0';
	frame_reader_init(&reader, 100000);
	for (size_t at = 0; open && at < len; at += piece) {
		size_t count = len - at < piece ? len - at : piece;
		uint8_t *room = NULL;
		const uint8_t *payload = NULL;
		size_t bytes = 0;
		assert_int_equal(frame_reader_room(&reader, count, &room, &bytes), 0);
		memcpy(room, stream + at, count);
		frame_reader_fed(&reader, count);
		while (open && frame_reader_next(&reader, &payload, &bytes) == 0) {
			open = take_apart(payload, bytes, out) != MESSAGE_BROKEN;
		}
	}
	frame_reader_finish(&reader);
}

static void put(struct buffer *stream, const char *payload, size_t len)
{
	size_t mark = frame_begin(stream);
	buffer_append(stream, payload, len);
	frame_end(stream, mark);
}

static void conversations(void **state)
{
	static const struct {
		struct {
			const char *payload;
			size_t len;
		} frames[5];
		const char *want;
	} table[] = {
		{{{BYTES("\x94\x00\x01\xa5hello\x80")}, {BYTES("\x94\x00\x02\xa4ping\x80")}},
			"hello(1,0) ping(2,0) "},
		{{{BYTES("\x94\x00\x01\xa4ping\xc0")}, {BYTES("\x94\x00\x02\xa4ping\x80")}},
			"bad(1) ping(2,0) "},
		{{{BYTES("\x94\x00\x01\xa4ping\x80")}, {BYTES("\xc1")},
			 {BYTES("\x94\x00\x02\xa4ping\x80")}},
			"ping(1,0) broken "},
		{{{BYTES("\x93\x02\xa6"
			 "cancel\x81\xa2id\x01")},
			 {BYTES("\x94\x01\x05\xc0\x80")},
			 {BYTES("\x94\x00\x00\xa3"
				"bye\x80")}},
			"~cancel(0,1) reply(5) bye(0,0) "},
		{{{BYTES("\x94\x00\x01\xa1m\x82\xa1z\x01\xa1y\x02")},
			 {BYTES("\x94\x00\x01\xa1m\x82\xa1z\x01\xa1z\x02")},
			 {BYTES("\x94\x00\x01\xa1m\x80\x80")}},
			"m(1,2) bad(1) broken "},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct buffer stream;
		buffer_init(&stream, 0);
		for (size_t n = 0; n < 5 && table[i].frames[n].payload != NULL; n++) {
			put(&stream, table[i].frames[n].payload, table[i].frames[n].len);
		}
		for (size_t piece = 1; piece <= stream.len; piece++) {
			struct transcript out;
			converse(stream.data, stream.len, piece, &out);
			assert_string_equal(out.text, table[i].want);
		}
		buffer_finish(&stream);
	}
}

/* ---- vectors ---- */

static void check_vector(const struct vector *vector, int want)
{
	struct transcript whole;
	struct transcript bytewise;
	struct message message;
	assert_true(vector->len >= FRAME_HEADER_BYTES);
	assert_int_equal(be32_get(vector->bytes), vector->len - FRAME_HEADER_BYTES);
	assert_true(msgpack_zone_init(&zone, 512));
	int condition = message_parse(vector->bytes + FRAME_HEADER_BYTES,
		vector->len - FRAME_HEADER_BYTES, &zone, &message);
	if (condition != want) {
		fail_msg("%s: condition %d, expected %d", vector->name, condition, want);
	}
	assert_int_equal(message.reason == NULL, want == 0);
	msgpack_zone_destroy(&zone);
	converse(vector->bytes, vector->len, vector->len, &whole);
	converse(vector->bytes, vector->len, 1, &bytewise);
	assert_string_equal(whole.text, bytewise.text);
}

static void check_good(const struct vector *vector)
{
	assert_string_equal(vector->expect, "");
	check_vector(vector, 0);
}

/* Below the level "message" the method looks, and for the codec the message is good. */
static void check_bad(const struct vector *vector)
{
	bool broken = strcmp(vector->expect, "broken") == 0;
	bool codec = strcmp(vector->level, "message") == 0;
	if (!broken) {
		assert_string_equal(vector->expect, "bad_request");
	}
	check_vector(vector, broken ? MESSAGE_BROKEN : codec ? MESSAGE_BAD_REQUEST : 0);
}

static void vectors(void **state)
{
	(void)state;
	assert_true(vectors_each("good", check_good) >= 40);
	assert_true(vectors_each("bad", check_bad) >= 60);
}

/* Cut anywhere, a good message is broken; nothing shorter is a message by accident. */
static void check_cuts(const struct vector *vector)
{
	for (size_t len = FRAME_HEADER_BYTES; len < vector->len; len++) {
		size_t count = len - FRAME_HEADER_BYTES;
		uint8_t *copy = malloc(count + 1); /* exact size: a read too far is seen */
		assert_non_null(copy);
		memcpy(copy, vector->bytes + FRAME_HEADER_BYTES, count);
		uint8_t *exact = realloc(copy, count > 0 ? count : 1);
		assert_non_null(exact);
		(void)parse(exact, count, MESSAGE_BROKEN);
		finish();
		free(exact);
	}
}

static void every_cut_is_broken(void **state)
{
	(void)state;
	(void)vectors_each("good", check_cuts);
}

/* ---- memory ---- */

static const char fat[] = "\x94\x00\x07\xa5write\x81\xa5"
			  "batch\x91\x92\xa8SELECT 1\x9c"
			  "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c";

/* Every allocation of a good run fails once; the run after it succeeds. */
static void parse_out_of_memory(void **state)
{
	struct message message;
	(void)state;
	assert_true(msgpack_zone_init(&zone, 32)); /* so small that it must grow often */
	fail_alloc_at(0);
	assert_int_equal(message_parse((const uint8_t *)fat, sizeof(fat) - 1, &zone, &message), 0);
	unsigned total = fail_alloc_count;
	msgpack_zone_destroy(&zone);
	assert_true(total > 0);
	for (unsigned which = 1; which <= total; which++) {
		assert_true(msgpack_zone_init(&zone, 32));
		fail_alloc_at(which);
		assert_int_equal(
			message_parse((const uint8_t *)fat, sizeof(fat) - 1, &zone, &message),
			-ENOMEM);
		fail_alloc_at(0);
		msgpack_zone_destroy(&zone);
	}
}

static void write_out_of_memory(void **state)
{
	(void)state;
	for (unsigned which = 1; which <= 4; which++) {
		struct buffer buf;
		msgpack_packer packer;
		buffer_init(&buf, 0);
		buffer_packer(&buf, &packer);
		fail_alloc_at(which);
		size_t mark = which == 1 ? message_begin_request(&buf, 1, "m")
			: which == 2     ? message_begin_notice(&buf, "n")
			: which == 3     ? message_begin_error(&buf, 1)
					 : message_begin_result(&buf, 1);
		for (int i = 0; i < 1000; i++) {
			pack_cstr(&packer, "0123456789");
		}
		frame_end(&buf, mark);
		assert_true(buf.failed);
		fail_alloc_at(0);
		buffer_finish(&buf);
	}
}

/* A broken message costs nothing but the look at it. */
static void check_no_memory(const struct vector *vector)
{
	struct message message;
	if (strcmp(vector->expect, "broken") != 0 || strstr(vector->name, "id_") != NULL) {
		return; /* an id is judged after unpacking */
	}
	assert_true(msgpack_zone_init(&zone, 512));
	fail_alloc_at(0);
	assert_int_equal(message_parse(vector->bytes + FRAME_HEADER_BYTES,
				 vector->len - FRAME_HEADER_BYTES, &zone, &message),
		MESSAGE_BROKEN);
	assert_int_equal(fail_alloc_count, 0);
	msgpack_zone_destroy(&zone);
}

static void broken_allocates_nothing(void **state)
{
	(void)state;
	(void)vectors_each("bad", check_no_memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request),
		cmocka_unit_test(reply_and_notice),
		cmocka_unit_test(refusals),
		cmocka_unit_test(limits),
		cmocka_unit_test(readers),
		cmocka_unit_test(writers),
		cmocka_unit_test(conversations),
		cmocka_unit_test(vectors),
		cmocka_unit_test(every_cut_is_broken),
		cmocka_unit_test(parse_out_of_memory),
		cmocka_unit_test(write_out_of_memory),
		cmocka_unit_test(broken_allocates_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
