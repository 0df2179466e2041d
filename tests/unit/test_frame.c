/* SPDX-License-Identifier: MIT */

/*
 * Streams cut into frames: the same stream in every split gives the same frames, memory follows the
 * bytes that came and not those that were claimed, and a failed allocation loses nothing.
 */

#include "proto/frame.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/fail_alloc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What came out: each payload in brackets, then how the reader ended. */
struct transcript {
	char text[4096];
	size_t len;
};

static void transcript_add(struct transcript *out, const void *data, size_t len)
{
	assert_true(out->len + len < sizeof(out->text));
	memcpy(out->text + out->len, data, len);
	out->len += len;
	out->text[out->len] = '\0';
}

static int drain(struct frame_reader *reader, struct transcript *out)
{
	const uint8_t *payload = NULL;
	size_t len = 0;
	int condition = 0;
	while ((condition = frame_reader_next(reader, &payload, &len)) == 0) {
		transcript_add(out, "[", 1);
		transcript_add(out, payload, len);
		transcript_add(out, "]", 1);
	}
	return condition;
}

static void feed(struct frame_reader *reader, const void *data, size_t len)
{
	uint8_t *room = NULL;
	size_t room_bytes = 0;
	assert_int_equal(frame_reader_room(reader, len, &room, &room_bytes), 0);
	assert_true(room_bytes >= len);
	memcpy(room, data, len);
	frame_reader_fed(reader, len);
}

/* Feeds the stream in pieces of `piece` bytes; whole frames are taken out after each. */
static void converse(
	const void *stream, size_t len, size_t piece, size_t frame_max, struct transcript *out)
{
	struct frame_reader reader;
	int condition = FRAME_MORE;
	out->len = 0;
	out->text[0] = '\0';
	frame_reader_init(&reader, frame_max);
	for (size_t at = 0; at < len && condition == FRAME_MORE; at += piece) {
		size_t count = len - at < piece ? len - at : piece;
		feed(&reader, (const uint8_t *)stream + at, count);
		condition = drain(&reader, out);
	}
	if (condition == FRAME_TOO_LARGE) {
		transcript_add(out, "!", 1);
	} else if (frame_reader_pending(&reader) > 0) {
		transcript_add(out, "+", 1);
	}
	frame_reader_finish(&reader);
}

static void conversations(void **state)
{
#define BYTES(literal) literal, sizeof(literal) - 1
	static const struct {
		const char *stream;
		size_t len;
		const char *want;
	} table[] = {
		{BYTES(""), ""},
		{BYTES("\0"), "+"},
		{BYTES("\0\0\0"), "+"},
		{BYTES("\0\0\0\0"), "[]"},
		{BYTES("\0\0\0\0\0\0\0\0"), "[][]"},
		{BYTES("\0\0\0\1"), "+"},
		{BYTES("\0\0\0\1a"), "[a]"},
		{BYTES("\0\0\0\3abc\0\0\0\2de\0\0\0\0\0\0\0\1f"), "[abc][de][][f]"},
		{BYTES("\0\0\0\3abc\0\0\0\2d"), "[abc]+"},
		{BYTES("\0\0\0\12abcdefghij"), "[abcdefghij]"},
		{BYTES("\0\0\0\13abcdefghijk"), "!"}, /* one over the limit of ten */
		{BYTES("\0\0\0\1a\0\0\1\0"), "[a]!"},
		{BYTES("\xff\xff\xff\xff"), "!"},
		{BYTES("\x80\0\0\0"), "!"},
		{BYTES("GET / HTTP/1.1\r\n"), "!"},
	};
#undef BYTES
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		for (size_t piece = 1; piece <= table[i].len + 1; piece++) {
			struct transcript out;
			converse(table[i].stream, table[i].len, piece, 10, &out);
			assert_string_equal(out.text, table[i].want);
		}
	}
}

/* A thousand frames of many sizes through a reader in awkward pieces. */
static void long_stream(void **state)
{
	struct buffer stream;
	struct frame_reader reader;
	size_t next = 0;
	(void)state;
	buffer_init(&stream, 0);
	for (size_t i = 0; i < 1000; i++) {
		size_t mark = frame_begin(&stream);
		for (size_t n = 0; n < i % 97; n++) {
			uint8_t byte = (uint8_t)i;
			buffer_append(&stream, &byte, 1);
		}
		frame_end(&stream, mark);
	}
	assert_false(stream.failed);
	frame_reader_init(&reader, FRAME_MAX_DEFAULT);
	for (size_t at = 0, piece = 1; at < stream.len; at += piece, piece = piece * 7 % 101) {
		const uint8_t *payload = NULL;
		size_t len = 0;
		piece = stream.len - at < piece ? stream.len - at : piece;
		feed(&reader, stream.data + at, piece);
		while (frame_reader_next(&reader, &payload, &len) == 0) {
			assert_int_equal(len, next % 97);
			for (size_t n = 0; n < len; n++) {
				assert_int_equal(payload[n], (uint8_t)next);
			}
			next++;
		}
	}
	assert_int_equal(next, 1000);
	assert_true(reader.cap < 1024); /* handed out frames take no room */
	frame_reader_finish(&reader);
	buffer_finish(&stream);
}

static void claimed_length_takes_no_memory(void **state)
{
	struct frame_reader reader;
	const uint8_t *payload = NULL;
	size_t len = 0;
	(void)state;
	frame_reader_init(&reader, FRAME_MAX_LIMIT);
	feed(&reader, "\x0f\xff\xff\xff", 4);
	assert_int_equal(frame_reader_next(&reader, &payload, &len), FRAME_MORE);
	feed(&reader, "abc", 3);
	assert_int_equal(frame_reader_next(&reader, &payload, &len), FRAME_MORE);
	assert_true(reader.cap < 64);
	assert_int_equal(frame_reader_pending(&reader), 7);
	frame_reader_finish(&reader);
}

static void shrink_only_when_idle(void **state)
{
	struct frame_reader reader;
	struct transcript out = {.len = 0};
	(void)state;
	frame_reader_init(&reader, 100);
	frame_reader_shrink(&reader);
	feed(&reader, "\0\0\0\2a", 5);
	assert_int_equal(drain(&reader, &out), FRAME_MORE);
	frame_reader_shrink(&reader);
	assert_non_null(reader.data);
	feed(&reader, "b", 1);
	assert_int_equal(drain(&reader, &out), FRAME_MORE);
	frame_reader_shrink(&reader);
	assert_null(reader.data);
	assert_int_equal(reader.cap, 0);
	feed(&reader, "\0\0\0\1c", 5);
	assert_int_equal(drain(&reader, &out), FRAME_MORE);
	assert_string_equal(out.text, "[ab][c]");
	frame_reader_finish(&reader);
}

static void limit_may_rise(void **state)
{
	struct frame_reader reader;
	const uint8_t *payload = NULL;
	size_t len = 0;
	(void)state;
	frame_reader_init(&reader, 2);
	feed(&reader, "\0\0\0\3abc", 7);
	assert_int_equal(frame_reader_next(&reader, &payload, &len), FRAME_TOO_LARGE);
	assert_int_equal(frame_reader_next(&reader, &payload, &len), FRAME_TOO_LARGE);
	reader.frame_max = 3; /* as after hello */
	assert_int_equal(frame_reader_next(&reader, &payload, &len), 0);
	assert_int_equal(len, 3);
	frame_reader_finish(&reader);
}

static void room_out_of_memory(void **state)
{
	struct frame_reader reader;
	struct transcript out = {.len = 0};
	uint8_t *room = NULL;
	size_t room_bytes = 0;
	(void)state;
	frame_reader_init(&reader, 1000000);
	fail_alloc_at(1);
	assert_int_equal(frame_reader_room(&reader, 10, &room, &room_bytes), -ENOMEM);
	fail_alloc_at(0);
	feed(&reader, "\0\0\0\1a\0\0\0\2b", 10);
	assert_int_equal(drain(&reader, &out), FRAME_MORE);
	fail_alloc_at(1);
	assert_int_equal(frame_reader_room(&reader, 100000, &room, &room_bytes), -ENOMEM);
	fail_alloc_at(0);
	assert_int_equal(frame_reader_pending(&reader), 5);
	feed(&reader, "c", 1);
	assert_int_equal(drain(&reader, &out), FRAME_MORE);
	assert_string_equal(out.text, "[a][bc]");
	frame_reader_finish(&reader);
}

static void writing(void **state)
{
	struct buffer buf;
	(void)state;
	buffer_init(&buf, 0);
	size_t first = frame_begin(&buf);
	frame_end(&buf, first);
	size_t second = frame_begin(&buf);
	buffer_append(&buf, "abc", 3);
	frame_end(&buf, second);
	assert_int_equal(buf.len, 11);
	assert_memory_equal(buf.data, "\0\0\0\0\0\0\0\3abc", 11);
	buffer_finish(&buf);
	buffer_init(&buf, 2); /* not even the header fits */
	first = frame_begin(&buf);
	frame_end(&buf, first);
	assert_true(buf.failed);
	buffer_finish(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(conversations),
		cmocka_unit_test(long_stream),
		cmocka_unit_test(claimed_length_takes_no_memory),
		cmocka_unit_test(shrink_only_when_idle),
		cmocka_unit_test(limit_may_rise),
		cmocka_unit_test(room_out_of_memory),
		cmocka_unit_test(writing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
