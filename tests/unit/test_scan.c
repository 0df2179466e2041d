/* SPDX-License-Identifier: MIT */

/*
 * The pre-scan: each header byte at each length, the limits at their edges, agreement with
 * msgpack-c on random input, time that is linear in the bytes; and UTF-8 against a table of its
 * corners.
 */

#include "proto/buffer.h"
#include "proto/scan.h"
#include "tests/unit/cmocka_all.h"

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_INPUTS = 200000 };

static int scan(const void *data, size_t len, size_t *ret_len)
{
	size_t nodes = 0;
	return scan_value(data, len, SCAN_DEPTH_MAX, &nodes, ret_len);
}

/* Every first byte: its header, its body, and each shorter input. */
static void every_first_byte(void **state)
{
	(void)state;
	for (unsigned byte = 0; byte <= 0xff; byte++) {
		uint8_t data[64] = {
			(uint8_t)byte}; /* lengths and counts read as 0, elements as 0 */
		size_t want = 1;
		size_t len = 0;
		int condition = 0;
		if (byte >= 0x80 && byte <= 0x8f) {
			want = 1 + 2 * (byte & 0x0fu);
		} else if (byte >= 0x90 && byte <= 0x9f) {
			want = 1 + (byte & 0x0fu);
		} else if (byte >= 0xa0 && byte <= 0xbf) {
			want = 1 + (byte & 0x1fu);
		} else if (byte == 0xc1) {
			condition = SCAN_RESERVED;
		} else if ((byte >= 0xc7 && byte <= 0xc9) || (byte >= 0xd4 && byte <= 0xd8)) {
			condition = SCAN_EXT;
		} else if (byte == 0xc4 || byte == 0xcc || byte == 0xd0 || byte == 0xd9) {
			want = 2;
		} else if (byte == 0xc5 || byte == 0xcd || byte == 0xd1 || byte == 0xda ||
			byte == 0xdc || byte == 0xde) {
			want = 3;
		} else if (byte == 0xc6 || byte == 0xca || byte == 0xce || byte == 0xd2 ||
			byte == 0xdb || byte == 0xdd || byte == 0xdf) {
			want = 5;
		} else if (byte == 0xcb || byte == 0xcf || byte == 0xd3) {
			want = 9;
		}
		assert_int_equal(scan(data, sizeof(data), &len), condition);
		if (condition == 0) {
			assert_int_equal(len, want);
			for (size_t cut = 0; cut < want; cut++) {
				assert_int_equal(scan(data, cut, &len), SCAN_TRUNCATED);
			}
		}
	}
}

static void counts_and_lengths(void **state)
{
#define BYTES(literal) literal, sizeof(literal) - 1
	static const struct {
		const char *data;
		size_t len;
		int condition;
		size_t want;
	} table[] = {
		{BYTES(""), SCAN_TRUNCATED, 0},
		{BYTES("\xd9\x02zz!"), 0, 4},
		{BYTES("\xda\x00\x02zz"), 0, 5},
		{BYTES("\xdb\x00\x00\x00\x02zz"), 0, 7},
		{BYTES("\xdb\xff\xff\xff\xffzz"), SCAN_TRUNCATED, 0},
		{BYTES("\xc4\x03zz"), SCAN_TRUNCATED, 0},
		{BYTES("\xc5\x01\x00zz"), SCAN_TRUNCATED, 0},
		{BYTES("\xc6\x00\x00\x00\x01z"), 0, 6},
		{BYTES("\xdc\x00\x02\xc0\xc0"), 0, 5},
		{BYTES("\xdd\xff\xff\xff\xff"), SCAN_TRUNCATED, 0},
		{BYTES("\xdf\xff\xff\xff\xff\x01\x01"), SCAN_TRUNCATED, 0},
		{BYTES("\xdf\x80\x00\x00\x00\x01\x01"), SCAN_TRUNCATED, 0}, /* twice that is 2^32 */
		{BYTES("\xde\x00\x01\x01\x01"), 0, 5},
		{BYTES("\x82\x01\x01\x02"), SCAN_TRUNCATED, 0},
		{BYTES("\x93\x90\x80\xa0"), 0, 4},
		{BYTES("\x92\x92\x01\x02\x92\x03\x04\x05"), 0, 7},
		{BYTES("\x92\x91\x01"), SCAN_TRUNCATED, 0},
		{BYTES("\x91\xc1"), SCAN_RESERVED, 0},
		{BYTES("\x81\x01\xd4\x00\x00"), SCAN_EXT, 0},
	};
#undef BYTES
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		size_t len = 0;
		assert_int_equal(scan(table[i].data, table[i].len, &len), table[i].condition);
		if (table[i].condition == 0) {
			assert_int_equal(len, table[i].want);
		}
	}
}

static void depth(void **state)
{
	uint8_t data[64];
	size_t len = 0;
	(void)state;
	for (unsigned max = 0; max <= SCAN_DEPTH_MAX + 3; max++) {
		unsigned effective = max < SCAN_DEPTH_MAX ? max : SCAN_DEPTH_MAX;
		for (size_t levels = 0; levels < 40; levels++) {
			size_t nodes = 0;
			memset(data, 0x91, levels);
			data[levels] = 0xc0;
			assert_int_equal(scan_value(data, levels + 1, max, &nodes, &len),
				levels > effective ? SCAN_DEPTH : 0);
		}
	}
	memset(data, 0x91, 16);
	data[16] = 0x90; /* an empty container opens no level */
	assert_int_equal(scan(data, 17, &len), 0);
	/* Levels that were closed count no more. */
	memset(data, 0, sizeof(data));
	data[0] = 0x92;
	memset(data + 1, 0x91, 15);
	memset(data + 17, 0x91, 15);
	assert_int_equal(scan(data, 33, &len), 0);
	assert_int_equal(len, 33);
}

static void nodes(void **state)
{
	size_t bytes = 5 + SCAN_NODES_MAX;
	uint8_t *data = calloc(1, bytes);
	size_t count = 0;
	size_t len = 0;
	(void)state;
	assert_non_null(data);
	data[0] = 0xdd;
	be32_put(data + 1, SCAN_NODES_MAX - 1); /* and the array itself */
	assert_int_equal(scan_value(data, bytes, SCAN_DEPTH_MAX, &count, &len), 0);
	assert_int_equal(count, SCAN_NODES_MAX);
	/* The count goes on from call to call. */
	assert_int_equal(scan_value(data + 5, 1, SCAN_DEPTH_MAX, &count, &len), SCAN_NODES);
	count = 0;
	be32_put(data + 1, SCAN_NODES_MAX);
	assert_int_equal(scan_value(data, bytes, SCAN_DEPTH_MAX, &count, &len), SCAN_NODES);
	free(data);
}

static void words(void **state)
{
	(void)state;
	for (int condition = SCAN_TRUNCATED; condition <= SCAN_RESERVED; condition++) {
		assert_string_not_equal(scan_strerror(condition), scan_strerror(0));
	}
	assert_string_equal(scan_strerror(99), "not MessagePack");
}

/* xorshift64*: the same inputs in every run and on every machine. */
static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return (uint32_t)((random_state * 2685821657736338717u) >> 33) % limit;
}

static void random_value(struct buffer *buf, unsigned levels)
{
	msgpack_packer packer;
	uint32_t count = random_below(5);
	buffer_packer(buf, &packer);
	switch (random_below(levels > 0 ? 9 : 7)) {
	case 0:
		msgpack_pack_nil(&packer);
		break;
	case 1:
		msgpack_pack_int64(&packer, (int64_t)random_state >> random_below(64));
		break;
	case 2:
		msgpack_pack_uint64(&packer, random_state >> random_below(64));
		break;
	case 3:
		msgpack_pack_double(&packer, random_below(100));
		break;
	case 4:
		msgpack_pack_float(&packer, 0.5f);
		break;
	case 5:
		pack_str(&packer, "0123456789012345678901234567890123456789", random_below(41));
		break;
	case 6:
		pack_bin(&packer, "0123456789", random_below(11));
		break;
	case 7:
		msgpack_pack_array(&packer, count);
		for (uint32_t i = 0; i < count; i++) {
			random_value(buf, levels - 1);
		}
		break;
	default:
		msgpack_pack_map(&packer, count);
		for (uint32_t i = 0; i < 2 * count; i++) {
			random_value(buf, levels - 1);
		}
		break;
	}
}

/* Noise, or a good value that is whole, cut, or has a byte or two changed. */
static void random_input(struct buffer *buf)
{
	buffer_clear(buf);
	if (random_below(4) == 0) {
		for (uint32_t i = 1 + random_below(64); i > 0; i--) {
			uint8_t byte = (uint8_t)random_below(256);
			buffer_append(buf, &byte, 1);
		}
		return;
	}
	for (uint32_t i = random_below(4) == 0 ? random_below(20) : 0; i > 0; i--) {
		buffer_append(buf, "\x91", 1);
	}
	random_value(buf, 1 + random_below(6));
	switch (random_below(3)) {
	case 0:
		break;
	case 1:
		buffer_truncate(buf, 1 + random_below((uint32_t)buf->len));
		break;
	default:
		for (uint32_t i = 1 + random_below(2); i > 0; i--) {
			buf->data[random_below((uint32_t)buf->len)] = (uint8_t)random_below(256);
		}
		break;
	}
}

/* msgpack-c reserves memory from counts: keep inputs from it that may claim much. */
static int may_claim_much(const uint8_t *data, size_t len)
{
	for (size_t i = 0; i + 4 < len; i++) {
		if ((data[i] == 0xdd || data[i] == 0xdf) && be32_get(data + i + 1) > 0xffff) {
			return 1;
		}
	}
	return 0;
}

static void agrees_with_msgpack(void **state)
{
	struct buffer buf;
	size_t seen[SCAN_RESERVED + 1] = {0};
	(void)state;
	random_state = 20110815;
	buffer_init(&buf, 0);
	for (size_t i = 0; i < RANDOM_INPUTS; i++) {
		size_t scanned = 0;
		size_t unpacked = 0;
		msgpack_unpacked result;
		random_input(&buf);
		assert_false(buf.failed);
		int condition = scan(buf.data, buf.len, &scanned);
		seen[condition]++;
		if (condition != 0 && condition != SCAN_TRUNCATED && condition != SCAN_RESERVED) {
			continue; /* our own limits: msgpack-c may think otherwise */
		}
		if (condition != 0 && may_claim_much(buf.data, buf.len)) {
			continue;
		}
		msgpack_unpacked_init(&result);
		msgpack_unpack_return ret =
			msgpack_unpack_next(&result, (const char *)buf.data, buf.len, &unpacked);
		assert_int_equal(ret == MSGPACK_UNPACK_SUCCESS, condition == 0);
		if (condition == 0) {
			assert_int_equal(unpacked, scanned);
		}
		msgpack_unpacked_destroy(&result);
	}
	/* The inputs were worth it: each end of the scan was reached, and often. */
	assert_true(seen[0] > RANDOM_INPUTS / 5);
	assert_true(seen[SCAN_TRUNCATED] > RANDOM_INPUTS / 10);
	assert_true(seen[SCAN_DEPTH] > 100);
	assert_true(seen[SCAN_EXT] > 1000);
	assert_true(seen[SCAN_RESERVED] > 200);
	buffer_finish(&buf);
}

static void utf8(void **state)
{
#define BYTES(literal) literal, sizeof(literal) - 1
	static const struct {
		const char *data;
		size_t len;
		int want;
	} table[] = {
		{BYTES(""), 1},
		{BYTES("plain"), 1},
		{BYTES("\0nul\x7f"), 1},
		{BYTES("\xc2\x80"), 1},
		{BYTES("\xdf\xbf"), 1},
		{BYTES("\xe0\xa0\x80"), 1},
		{BYTES("\xec\xbf\xbf"), 1},
		{BYTES("\xed\x9f\xbf"), 1},
		{BYTES("\xee\x80\x80"), 1},
		{BYTES("\xef\xbf\xbf"), 1},
		{BYTES("\xf0\x90\x80\x80"), 1},
		{BYTES("\xf3\xbf\xbf\xbf"), 1},
		{BYTES("\xf4\x8f\xbf\xbf"), 1},
		{BYTES("a\xc3\xa9z\xe6\xbc\xa2z\xf0\x9d\x84\x9ez"), 1},
		{BYTES("\x80"), 0}, /* a continuation alone */
		{BYTES("\xbf"), 0},
		{BYTES("\xc0\x80"), 0}, /* overlong */
		{BYTES("\xc1\xbf"), 0},
		{BYTES("\xe0\x9f\xbf"), 0},
		{BYTES("\xf0\x8f\xbf\xbf"), 0},
		{BYTES("\xed\xa0\x80"), 0}, /* surrogates */
		{BYTES("\xed\xbf\xbf"), 0},
		{BYTES("\xf4\x90\x80\x80"), 0}, /* above U+10FFFF */
		{BYTES("\xf5\x80\x80\x80"), 0},
		{BYTES("\xfe"), 0},
		{BYTES("\xff"), 0},
		{BYTES("\xc3"), 0}, /* cut */
		{BYTES("\xe6\xbc"), 0},
		{BYTES("\xf0\x9d\x84"), 0},
		{BYTES("\xc3z"), 0}, /* a wrong continuation in each place */
		{BYTES("\xc3\xc0"), 0},
		{BYTES("\xe6z\xa2"), 0},
		{BYTES("\xe6\xbcz"), 0},
		{BYTES("\xf0\x9dz\x9e"), 0},
		{BYTES("\xf0\x9d\x84\xc0"), 0},
		{BYTES("good, then \xff"), 0},
	};
#undef BYTES
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		assert_int_equal(
			utf8_valid((const uint8_t *)table[i].data, table[i].len), table[i].want);
	}
}

/* Every code point in its only form, and nothing else of the same length. */
static void utf8_every_three_bytes(void **state)
{
	size_t good = 0;
	(void)state;
	for (uint32_t value = 0; value <= 0xffffff; value++) {
		uint8_t data[3] = {(uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
		if (data[0] >= 0xe0 && data[0] <= 0xef) {
			good += (size_t)utf8_valid(data, 3);
		}
	}
	/* U+0800 to U+FFFF without the 2048 surrogates */
	assert_int_equal(good, 0x10000 - 0x800 - 2048);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_first_byte),
		cmocka_unit_test(counts_and_lengths),
		cmocka_unit_test(depth),
		cmocka_unit_test(nodes),
		cmocka_unit_test(words),
		cmocka_unit_test(agrees_with_msgpack),
		cmocka_unit_test(utf8),
		cmocka_unit_test(utf8_every_three_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
