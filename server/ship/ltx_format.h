/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the writer and the reader of LTX share: the header's bytes, and constants that no caller of
 * ltx.h needs.
 */

#include "server/ship/ltx.h"

#include <stdint.h>
#include <string.h>

enum {
	LTX_PAGE_HEADER_BYTES = 6,     /* page number, flags */
	LTX_PAGE_SIZE_FIELD_BYTES = 4, /* of the payload, behind a header with LTX_PAGE_IS_BLOCK */
	LTX_PAGE_IS_BLOCK = 1,
	LTX_PAGE_SIZE_MAX = 65536,
	LTX_VARINT_BYTES = 10, /* of the longest */
};

/* Every checksum has this bit, so that 0 can mean "none". */
#define LTX_CHECKSUM_FLAG (UINT64_C(1) << 63)

static inline void ltx_put32(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++) {
		to[i] = (uint8_t)(value >> (24 - 8 * i));
	}
}

static inline void ltx_put64(uint8_t *to, uint64_t value)
{
	ltx_put32(to, (uint32_t)(value >> 32));
	ltx_put32(to + 4, (uint32_t)value);
}

static inline uint32_t ltx_get32(const uint8_t *from)
{
	return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static inline uint64_t ltx_get64(const uint8_t *from)
{
	return (uint64_t)ltx_get32(from) << 32 | ltx_get32(from + 4);
}

/* False: no file may have such a header. */
bool ltx_header_valid(const struct ltx_header *header);

/* As it is written: without database checksums. */
void ltx_header_encode(const struct ltx_header *header, uint8_t ret_bytes[LTX_HEADER_BYTES]);

/*
 * LTX_CORRUPT with a sentence. *ret_checksums: the file tracks the checksum of its database, which
 * Litestream 0.5 itself never does.
 */
int ltx_header_decode(const uint8_t bytes[LTX_HEADER_BYTES], struct ltx_header *ret_header,
	bool *ret_checksums, char ret_error[LTX_ERROR_BYTES]);

/* The last page that a file of that many pages can hold. */
uint32_t ltx_last_page(uint32_t page_size, uint32_t commit);

/* The page that must follow in a snapshot. */
uint32_t ltx_next_page(uint32_t page_size, uint32_t page_no);
