/* SPDX-License-Identifier: MIT */

/*
 * The iterative pre-scan. It must never recurse, allocate, or believe a count.
 */

#include "proto/scan.h"

#include "proto/buffer.h"

/* What one header byte says about the value that it begins. */
struct header {
	size_t size;     /* of the header itself */
	size_t body;     /* bytes of scalar or string content behind it */
	size_t children; /* values that follow inside it: two for each pair of a map */
	int condition;
};

static size_t count_at(const uint8_t *data, size_t width)
{
	switch (width) {
	case 1:
		return data[0];
	case 2:
		return (size_t)data[0] << 8 | data[1];
	default:
		return be32_get(data);
	}
}

/* A length or count of `width` bytes stands behind the first byte. */
static int sized(const uint8_t *data, size_t len, size_t width, size_t *ret_count)
{
	if (len - 1 < width) {
		return SCAN_TRUNCATED;
	}
	*ret_count = count_at(data + 1, width);
	return 0;
}

static struct header header_read(const uint8_t *data, size_t len)
{
	static const uint8_t scalar_bytes[] = {4, 8, 1, 2, 4, 8, 1, 2, 4, 8}; /* 0xca .. 0xd3 */
	uint8_t byte = data[0];
	struct header header = {.size = 1};
	size_t count = 0;

	if (byte <= 0x7f || byte >= 0xe0 || byte == 0xc0 || byte == 0xc2 || byte == 0xc3) {
		return header;
	}
	if (byte <= 0x8f) {
		header.children = 2 * (size_t)(byte & 0x0f);
		return header;
	}
	if (byte <= 0x9f) {
		header.children = byte & 0x0f;
		return header;
	}
	if (byte <= 0xbf) {
		header.body = byte & 0x1f;
		return header;
	}
	if (byte >= 0xca && byte <= 0xd3) {
		header.body = scalar_bytes[byte - 0xca];
		return header;
	}
	switch (byte) {
	case 0xc4: /* bin 8, 16, 32 */
	case 0xc5:
	case 0xc6:
		header.size = 1 + ((size_t)1 << (byte - 0xc4));
		header.condition = sized(data, len, header.size - 1, &header.body);
		return header;
	case 0xd9: /* str 8, 16, 32 */
	case 0xda:
	case 0xdb:
		header.size = 1 + ((size_t)1 << (byte - 0xd9));
		header.condition = sized(data, len, header.size - 1, &header.body);
		return header;
	case 0xdc: /* array 16, 32 */
	case 0xdd:
		header.size = byte == 0xdc ? 3 : 5;
		header.condition = sized(data, len, header.size - 1, &header.children);
		return header;
	case 0xde: /* map 16, 32 */
	case 0xdf:
		header.size = byte == 0xde ? 3 : 5;
		header.condition = sized(data, len, header.size - 1, &count);
		header.children = 2 * count;
		return header;
	case 0xc1:
		header.condition = SCAN_RESERVED;
		return header;
	default: /* ext and fixext */
		header.condition = SCAN_EXT;
		return header;
	}
}

int scan_value(const uint8_t *data, size_t len, unsigned depth_max, size_t *nodes, size_t *ret_len)
{
	size_t open[SCAN_DEPTH_MAX + 1]; /* values still missing in each open container */
	unsigned depth = 0;
	size_t at = 0;

	if (depth_max > SCAN_DEPTH_MAX) {
		depth_max = SCAN_DEPTH_MAX;
	}
	do {
		if (at == len) {
			return SCAN_TRUNCATED;
		}
		struct header header = header_read(data + at, len - at);
		if (header.condition != 0) {
			return header.condition;
		}
		if (++*nodes > SCAN_NODES_MAX) {
			return SCAN_NODES;
		}
		at += header.size;
		/* Each child takes at least one byte, so a count above the rest is a lie. */
		if (header.body > len - at || header.children > len - at) {
			return SCAN_TRUNCATED;
		}
		at += header.body;
		if (header.children > 0) {
			if (depth == depth_max) {
				return SCAN_DEPTH;
			}
			open[depth++] = header.children;
			continue;
		}
		while (depth > 0 && --open[depth - 1] == 0) {
			depth--;
		}
	} while (depth > 0);
	*ret_len = at;
	return 0;
}

const char *scan_strerror(int condition)
{
	switch (condition) {
	case SCAN_TRUNCATED:
		return "a length or count reaches past the end of the frame";
	case SCAN_DEPTH:
		return "nested too deeply (at most 16)";
	case SCAN_NODES:
		return "too many values in one frame (at most 262144)";
	case SCAN_EXT:
		return "ext types are not in use";
	case SCAN_RESERVED:
		return "the byte 0xc1 is not MessagePack";
	default:
		return "not MessagePack";
	}
}

/*
 * The length of the sequence that `lead` begins and the bounds of its second byte; 0 if it cannot.
 */
static size_t utf8_sequence(uint8_t lead, uint8_t *ret_low, uint8_t *ret_high)
{
	*ret_low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
	*ret_high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
	if (lead >= 0xc2 && lead <= 0xdf) {
		return 2;
	}
	if (lead >= 0xe0 && lead <= 0xef) {
		return 3;
	}
	if (lead >= 0xf0 && lead <= 0xf4) {
		return 4;
	}
	return 0;
}

int utf8_valid(const uint8_t *data, size_t len)
{
	size_t at = 0;
	while (at < len) {
		uint8_t low = 0;
		uint8_t high = 0;
		if (data[at] < 0x80) {
			at++;
			continue;
		}
		size_t size = utf8_sequence(data[at], &low, &high);
		if (size == 0 || len - at < size || data[at + 1] < low || data[at + 1] > high) {
			return 0;
		}
		for (size_t i = 2; i < size; i++) {
			if ((data[at + i] & 0xc0) != 0x80) {
				return 0;
			}
		}
		at += size;
	}
	return 1;
}
