/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the reader of LTX takes its bytes from: a source, buffered. And the two kinds of page in it:
 * LZ4 blocks, which liblz4 decodes in one go, and LZ4 frames, which Litestream before 0.5.16 wrote.
 *
 * Results: 0, LTX_CORRUPT when the bytes end or are wrong, negative errno of the source.
 */

#include "server/ship/ltx.h"

#include <stddef.h>
#include <stdint.h>

enum { LTX_INPUT_BYTES = 64 * 1024 };

struct ltx_input {
	ltx_source source;
	void *ctx;
	void *frames; /* what decodes frames; made when the first one comes */
	size_t start; /* of what is buffered and not yet taken */
	size_t end;
	uint8_t buffer[LTX_INPUT_BYTES];
};

void ltx_input_init(struct ltx_input *input, ltx_source source, void *ctx);
void ltx_input_finish(struct ltx_input *input);

/* Exactly `len` bytes. */
int ltx_input_take(struct ltx_input *input, void *ret_bytes, size_t len);

/* 0: nothing follows. */
int ltx_input_ended(struct ltx_input *input);

/*
 * One LZ4 block of `len` bytes, which must yield exactly `page_size` bytes; `room` holds at least
 * LZ4's bound for a page.
 */
int ltx_input_block(
	struct ltx_input *input, uint8_t *room, size_t len, uint8_t *ret_page, size_t page_size);

/* One LZ4 frame, its own checksums verified, which must yield exactly `page_size` bytes. */
int ltx_input_frame(struct ltx_input *input, uint8_t *ret_page, size_t page_size);
