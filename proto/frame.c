/* SPDX-License-Identifier: MIT */

/*
 * Cuts a byte stream into frames. Knows nothing of MessagePack and does no I/O.
 */

#include "proto/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void frame_reader_init(struct frame_reader *reader, size_t frame_max)
{
	*reader = (struct frame_reader){.frame_max = frame_max};
}

void frame_reader_finish(struct frame_reader *reader)
{
	free(reader->data);
	*reader = (struct frame_reader){0};
}

int frame_reader_room(
	struct frame_reader *reader, size_t want, uint8_t **ret_room, size_t *ret_room_bytes)
{
	if (reader->begin == reader->end) {
		reader->begin = 0;
		reader->end = 0;
	}
	if (want > reader->cap - reader->end && reader->begin > 0) {
		/* What is left over is at most one unfinished frame: move it to the front. */
		memmove(reader->data, reader->data + reader->begin, reader->end - reader->begin);
		reader->end -= reader->begin;
		reader->begin = 0;
	}
	if (want > reader->cap - reader->end) {
		size_t cap = reader->cap < want ? want : reader->cap;
		while (cap - reader->end < want) {
			cap *= 2;
		}
		uint8_t *data = realloc(reader->data, cap);
		if (data == NULL) {
			return -ENOMEM;
		}
		reader->data = data;
		reader->cap = cap;
	}
	*ret_room = reader->data + reader->end;
	*ret_room_bytes = reader->cap - reader->end;
	return 0;
}

void frame_reader_fed(struct frame_reader *reader, size_t count)
{
	reader->end += count;
}

int frame_reader_next(struct frame_reader *reader, const uint8_t **ret_payload, size_t *ret_len)
{
	size_t have = reader->end - reader->begin;
	if (have < FRAME_HEADER_BYTES) {
		return FRAME_MORE;
	}
	const uint8_t *at = reader->data + reader->begin;
	size_t len = be32_get(at);
	if (len > reader->frame_max) {
		return FRAME_TOO_LARGE;
	}
	if (have - FRAME_HEADER_BYTES < len) {
		return FRAME_MORE;
	}
	reader->begin += FRAME_HEADER_BYTES + len;
	*ret_payload = at + FRAME_HEADER_BYTES;
	*ret_len = len;
	return 0;
}

size_t frame_reader_pending(const struct frame_reader *reader)
{
	return reader->end - reader->begin;
}

void frame_reader_shrink(struct frame_reader *reader)
{
	if (reader->begin == reader->end) {
		free(reader->data);
		reader->data = NULL;
		reader->begin = reader->end = reader->cap = 0;
	}
}

size_t frame_begin(struct buffer *buf)
{
	static const uint8_t header[FRAME_HEADER_BYTES];
	size_t mark = buf->len;
	buffer_append(buf, header, sizeof(header));
	return mark;
}

void frame_end(struct buffer *buf, size_t mark)
{
	if (!buf->failed) {
		be32_put(buf->data + mark, (uint32_t)(buf->len - mark - FRAME_HEADER_BYTES));
	}
}
