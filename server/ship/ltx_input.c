/* SPDX-License-Identifier: MIT */

/*
 * Bytes of an LTX file as they come, in any split, and the decoding of a page. It knows nothing of
 * page numbers or checksums of the file. Whatever the bytes say, memory stays bounded: a block is
 * no longer than LZ4 can make it, and a frame's window is liblz4's, 4 MiB at most.
 */

#include "server/ship/ltx_input.h"

#include <errno.h>
#include <lz4.h>
#include <lz4frame.h>
#include <string.h>

void ltx_input_init(struct ltx_input *input, ltx_source source, void *ctx)
{
	input->source = source;
	input->ctx = ctx;
	input->frames = NULL;
	input->start = input->end = 0;
}

void ltx_input_finish(struct ltx_input *input)
{
	LZ4F_freeDecompressionContext(input->frames);
}

/* Refills an empty buffer. 0 with nothing in it: the source has ended. */
static int refill(struct ltx_input *input)
{
	long got = input->source(input->ctx, input->buffer, sizeof input->buffer);
	input->start = 0;
	input->end = got > 0 ? (size_t)got : 0;
	return got < 0 ? (int)got : 0;
}

/* At least one byte is buffered. */
static int need_some(struct ltx_input *input)
{
	if (input->start < input->end) {
		return 0;
	}
	int rc = refill(input);
	return rc == 0 && input->end == 0 ? LTX_CORRUPT : rc;
}

int ltx_input_take(struct ltx_input *input, void *ret_bytes, size_t len)
{
	uint8_t *to = ret_bytes;
	while (len > 0) {
		int rc = need_some(input);
		if (rc != 0) {
			return rc;
		}
		size_t part = input->end - input->start;
		part = part < len ? part : len;
		memcpy(to, input->buffer + input->start, part);
		input->start += part;
		to += part;
		len -= part;
	}
	return 0;
}

int ltx_input_ended(struct ltx_input *input)
{
	if (input->start < input->end) {
		return LTX_CORRUPT;
	}
	int rc = refill(input);
	return rc == 0 && input->end > 0 ? LTX_CORRUPT : rc;
}

int ltx_input_block(
	struct ltx_input *input, uint8_t *room, size_t len, uint8_t *ret_page, size_t page_size)
{
	if (len == 0 || len > (size_t)LZ4_compressBound((int)page_size)) {
		return LTX_CORRUPT;
	}
	const uint8_t *block = input->buffer + input->start;
	if (input->end - input->start >= len) {
		input->start += len;
	} else {
		int rc = ltx_input_take(input, room, len);
		if (rc != 0) {
			return rc;
		}
		block = room;
	}
	int got = LZ4_decompress_safe(
		(const char *)block, (char *)ret_page, (int)len, (int)page_size);
	return got >= 0 && (size_t)got == page_size ? 0 : LTX_CORRUPT;
}

static int frames_ready(struct ltx_input *input)
{
	LZ4F_dctx *frames = input->frames;
	if (frames == NULL) {
		if (LZ4F_isError(LZ4F_createDecompressionContext(&frames, LZ4F_VERSION))) {
			return -ENOMEM;
		}
		input->frames = frames;
	}
	LZ4F_resetDecompressionContext(frames);
	return 0;
}

int ltx_input_frame(struct ltx_input *input, uint8_t *ret_page, size_t page_size)
{
	int rc = frames_ready(input);
	size_t filled = 0;
	size_t more = 1; /* 0: the frame has ended */
	while (rc == 0 && more != 0) {
		rc = need_some(input);
		if (rc != 0) {
			break;
		}
		size_t produced = page_size - filled;
		size_t consumed = input->end - input->start;
		more = LZ4F_decompress(input->frames, ret_page + filled, &produced,
			input->buffer + input->start, &consumed, NULL);
		/* No step forward: it holds more than a page. */
		if (LZ4F_isError(more) || (produced == 0 && consumed == 0)) {
			return LTX_CORRUPT;
		}
		filled += produced;
		input->start += consumed;
	}
	return rc == 0 && filled != page_size ? LTX_CORRUPT : rc;
}
