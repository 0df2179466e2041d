/* SPDX-License-Identifier: MIT */

/*
 * The content of every page goes through it, so it must not be slower than compressing the page.
 * The polynomial is x^64 + x^4 + x^3 + x + 1: so few terms that a word is folded by shifts, and
 * since squaring keeps their number (x^128 = x^8 + x^6 + x^2 + 1, and so on), eight words are
 * folded side by side, each over the whole turn, by instructions that compilers make vectors of.
 *
 * Bits are reflected: the top bit is x^0, and multiplying by x is a shift to the right.
 */

#include "server/ship/crc64.h"

#include <endian.h>
#include <string.h>

enum { LANES = 8 };

/* What was shifted out, `over` * x^64, in at most 60 bits. */
static inline uint64_t fold_over(uint64_t over)
{
	return over ^ over >> 1 ^ over >> 3 ^ over >> 4;
}

/* value * x^64 */
static inline uint64_t fold_word(uint64_t value)
{
	return value ^ value >> 1 ^ value >> 3 ^ value >> 4 ^
		fold_over(value << 63 ^ value << 61 ^ value << 60);
}

/* value * x^512: one turn of eight words */
static inline uint64_t fold_turn(uint64_t value)
{
	return value ^ value >> 8 ^ value >> 24 ^ value >> 32 ^
		fold_over(value << 56 ^ value << 40 ^ value << 32);
}

static inline void take_words(uint64_t *lanes, const uint8_t *bytes)
{
	for (int i = 0; i < LANES; i++) {
		uint64_t word;
		memcpy(&word, bytes + i * 8, sizeof word);
		lanes[i] ^= le64toh(word);
	}
}

/* `turns` times eight words, at least one turn. */
static uint64_t take_turns(uint64_t crc, const uint8_t *bytes, size_t turns)
{
	uint64_t lanes[LANES] = {crc};
	take_words(lanes, bytes);
	for (size_t turn = 1; turn < turns; turn++) {
		for (int i = 0; i < LANES; i++) {
			lanes[i] = fold_turn(lanes[i]);
		}
		take_words(lanes, bytes + turn * LANES * 8);
	}
	crc = 0;
	for (int i = 0; i < LANES; i++) {
		crc = fold_word(crc ^ lanes[i]);
	}
	return crc;
}

uint64_t crc64(uint64_t crc, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;
	size_t turns = len / (LANES * 8);
	crc = ~crc;
	if (turns > 0) {
		crc = take_turns(crc, at, turns);
		at += turns * LANES * 8;
		len -= turns * LANES * 8;
	}
	while (len > 0) {
		crc ^= *at;
		crc = crc >> 8 ^ fold_over(crc << 56);
		at++;
		len--;
	}
	return ~crc;
}
