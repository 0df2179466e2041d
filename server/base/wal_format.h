/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How a WAL is laid out. The format is SQLite's (fileformat2.html, "The Write-Ahead Log"): a header, then
 * frames of a header and a page each, all numbers big-endian. A checksum goes on through all of a
 * generation, but since each frame stores its own, one can be checked from the one before.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	WAL_HEADER_BYTES = 32,
	WAL_FRAME_HEADER_BYTES = 24,
	WAL_MAGIC_LITTLE = 0x377f0682, /* checksums over little-endian words */
	WAL_MAGIC_BIG = 0x377f0683,
	WAL_VERSION = 3007000,
};

struct wal_header {
	bool big_endian; /* the words of the checksums */
	uint32_t page_size;
	uint32_t salt[2];
	uint32_t checksum[2]; /* what the first frame goes on from */
};

struct wal_frame {
	uint32_t page_no;
	uint32_t commit; /* pages of the database if the frame commits, else 0 */
	uint32_t salt[2];
	uint32_t checksum[2];
};

uint32_t wal_get32(const uint8_t *at);
void wal_put32(uint8_t *at, uint32_t value);

/* Where the frame begins; they are counted from 1. */
uint64_t wal_frame_offset(uint32_t page_size, uint64_t frame);

/* Goes on from `sum`; `len` is a multiple of 8. */
void wal_checksum(bool big_endian, const uint8_t *bytes, size_t len, uint32_t sum[2]);

/* False: not the header of a WAL, by its magic or its checksum. */
bool wal_header_parse(const uint8_t bytes[WAL_HEADER_BYTES], struct wal_header *ret_header);

struct wal_frame wal_frame_parse(const uint8_t bytes[WAL_FRAME_HEADER_BYTES]);

/* Whether the frame, header and page, sums up to what it says itself, going on from `before`. */
bool wal_frame_sums_up(
	bool big_endian, const uint8_t *frame, uint32_t page_size, const uint32_t before[2]);
