/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Frames: a four byte big-endian length, not counting itself, then that many bytes.
 *
 * A frame_reader is fed whatever the socket gave, in any split, and hands out whole frames. It
 * grows with the bytes that have *arrived*, never with a length that was claimed, and it never
 * looks inside a frame. Not thread safe.
 */

#include "proto/buffer.h"

#include <stddef.h>
#include <stdint.h>

enum {
	FRAME_HEADER_BYTES = 4,
	FRAME_MAX_BEFORE_HELLO = 64 * 1024,
	FRAME_MAX_DEFAULT = 8 * 1024 * 1024,
	FRAME_MAX_LIMIT = 256 * 1024 * 1024,
};

/* Conditions of frame_reader_next(). */
enum {
	FRAME_MORE = 1,      /* no whole frame yet: feed more bytes */
	FRAME_TOO_LARGE = 2, /* the length is over frame_max; the stream is lost, close it */
};

struct frame_reader {
	uint8_t *data;
	size_t begin; /* first byte not yet handed out */
	size_t end;   /* one past the last byte received */
	size_t cap;
	size_t frame_max;
};

void frame_reader_init(struct frame_reader *reader, size_t frame_max);
void frame_reader_finish(struct frame_reader *reader);

/*
 * Where the next read may put its bytes: at least `want` (> 0) of them. Spans returned by
 * frame_reader_next() are invalid afterwards. 0, or -ENOMEM.
 */
int frame_reader_room(
	struct frame_reader *reader, size_t want, uint8_t **ret_room, size_t *ret_room_bytes);

/* `count` bytes were put there. */
void frame_reader_fed(struct frame_reader *reader, size_t count);

/*
 * The next whole frame's payload, valid until frame_reader_room(). 0, FRAME_MORE or
 * FRAME_TOO_LARGE. Call until it says FRAME_MORE: one read often holds many frames.
 */
int frame_reader_next(struct frame_reader *reader, const uint8_t **ret_payload, size_t *ret_len);

/* Bytes that wait for the rest of their frame; > 0 means that a frame has begun. */
size_t frame_reader_pending(const struct frame_reader *reader);

/* Gives memory back when nothing is pending (an idle connection costs nothing). */
void frame_reader_shrink(struct frame_reader *reader);

/* Writing: begin reserves the header and returns a mark; end patches the length in. */
size_t frame_begin(struct buffer *buf);
void frame_end(struct buffer *buf, size_t mark);
