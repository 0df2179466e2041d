/* SPDX-License-Identifier: MIT */

/*
 * A stream of bytes through frame_reader and message_parse, in pieces. The first input byte says
 * how large the pieces are (0: all at once), the rest is the stream. Besides not crashing, two
 * things must hold: the pieces make no difference, and every span of a message lies inside its
 * frame.
 */

#include "proto/frame.h"
#include "proto/message.h"
#include "proto/scan.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
	if (!holds) {
		abort();
	}
}

static uint64_t mix(uint64_t digest, uint64_t value)
{
	return (digest ^ value) * 1099511628211u;
}

static bool inside(struct span span, const uint8_t *payload, size_t len)
{
	return span.data >= payload && span.len <= len &&
		(size_t)(span.data - payload) <= len - span.len;
}

static uint64_t take_apart(const uint8_t *payload, size_t len)
{
	struct message message;
	msgpack_zone zone;
	check(msgpack_zone_init(&zone, 4096));
	int condition = message_parse(payload, len, &zone, &message);
	uint64_t digest = mix(mix(0, (uint64_t)condition), message.id);
	check(condition >= 0 && (message.reason != NULL) == (condition != 0));
	if (condition == 0 && message.type == MESSAGE_REPLY) {
		digest = mix(digest, (uint64_t)message.result->type);
		(void)object_get(message.result, "commit");
	} else if (condition == 0) {
		check(message.method.len <= MESSAGE_METHOD_MAX);
		check(message.fields_count <= MESSAGE_FIELDS_MAX);
		for (size_t i = 0; i < message.fields_count; i++) {
			const struct field *field = &message.fields[i];
			check(field->value != NULL && inside(field->raw, payload, len));
			digest = mix(digest, field->raw.len);
			digest = mix(digest, (uint64_t)utf8_valid(field->key.data, field->key.len));
		}
		(void)message_field(&message, "batch");
	}
	msgpack_zone_destroy(&zone);
	return digest;
}

static uint64_t converse(const uint8_t *stream, size_t len, size_t piece)
{
	struct frame_reader reader;
	uint64_t digest = 0;
	int condition = FRAME_MORE;
	frame_reader_init(&reader, FRAME_MAX_BEFORE_HELLO);
	for (size_t at = 0; at < len && condition == FRAME_MORE; at += piece) {
		size_t count = len - at < piece ? len - at : piece;
		uint8_t *room = NULL;
		const uint8_t *payload = NULL;
		size_t bytes = 0;
		check(frame_reader_room(&reader, count, &room, &bytes) == 0);
		memcpy(room, stream + at, count);
		frame_reader_fed(&reader, count);
		while ((condition = frame_reader_next(&reader, &payload, &bytes)) == 0) {
			digest = mix(digest, take_apart(payload, bytes));
		}
		check(reader.cap <= 4 * (len + FRAME_HEADER_BYTES));
	}
	digest = mix(digest, (uint64_t)condition);
	frame_reader_finish(&reader);
	return digest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 1) {
		size_t piece = data[0] != 0 ? data[0] : size;
		uint64_t whole = converse(data + 1, size - 1, size);
		check(whole == converse(data + 1, size - 1, piece));
	}
	return 0;
}
