/* SPDX-License-Identifier: MIT */

/*
 * Sixteen bytes a turn, by sixteen tables: the content of every page goes through it, and a byte a
 * turn would be slower than compressing the page. The tables are made at the first use.
 */

#include "server/ship/crc64.h"

#include <endian.h>
#include <pthread.h>
#include <string.h>

enum { SLICES = 16 };

static const uint64_t polynomial = UINT64_C(0xD800000000000000);

/* tables[k][b]: what byte b does to the checksum k bytes later. */
static uint64_t tables[SLICES][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
	for (uint64_t byte = 0; byte < 256; byte++) {
		uint64_t crc = byte;
		for (int bit = 0; bit < 8; bit++) {
			crc = (crc & 1) != 0 ? (crc >> 1) ^ polynomial : crc >> 1;
		}
		tables[0][byte] = crc;
	}
	for (int slice = 1; slice < SLICES; slice++) {
		for (int byte = 0; byte < 256; byte++) {
			uint64_t crc = tables[slice - 1][byte];
			tables[slice][byte] = tables[0][crc & 255] ^ (crc >> 8);
		}
	}
}

/* What eight bytes do that are followed by `after` more bytes of the same turn. */
static inline uint64_t eight_bytes(uint64_t word, int after)
{
	uint64_t crc = 0;
	for (int i = 0; i < 8; i++) {
		crc ^= tables[after + 7 - i][(word >> (8 * i)) & 255];
	}
	return crc;
}

uint64_t crc64(uint64_t crc, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;
	pthread_once(&tables_once, make_tables);
	crc = ~crc;
	while (len >= SLICES) {
		uint64_t words[2];
		memcpy(words, at, sizeof words);
		crc = eight_bytes(crc ^ le64toh(words[0]), 8) ^ eight_bytes(le64toh(words[1]), 0);
		at += SLICES;
		len -= SLICES;
	}
	while (len > 0) {
		crc = tables[0][(crc ^ *at) & 255] ^ (crc >> 8);
		at++;
		len--;
	}
	return ~crc;
}
