/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The look before the leap: one iterative pass over untrusted MessagePack bytes.
 *
 * msgpack-c reserves memory from the counts it reads (a five byte message may claim 16 GiB), so
 * nothing is unpacked before it passed here. The pass is linear in the bytes, needs constant
 * memory, and accepts exactly one value: every count fits into the bytes that follow, nesting is at
 * most `depth_max`, no ext types, no reserved byte.
 */

#include <stddef.h>
#include <stdint.h>

enum {
	SCAN_DEPTH_MAX = 16,
	SCAN_NODES_MAX = 262144, /* values of one frame, containers and map keys included */
};

/* Conditions of scan_value(). */
enum scan_condition {
	SCAN_TRUNCATED = 1, /* a length or count reaches past the end */
	SCAN_DEPTH,         /* nested deeper than depth_max */
	SCAN_NODES,         /* more values than nodes_max */
	SCAN_EXT,           /* an ext type: none is in use */
	SCAN_RESERVED,      /* the byte 0xc1, which MessagePack never uses */
};

/*
 * Checks the value at the beginning of data. 0: *ret_len is its length in bytes and *nodes has
 * grown by the number of values in it. Otherwise a condition from above.
 *
 * `nodes` carries over several calls, so that a limit holds for a whole frame.
 */
int scan_value(const uint8_t *data, size_t len, unsigned depth_max, size_t *nodes, size_t *ret_len);

/* What is wrong, in words. */
const char *scan_strerror(int condition);

/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
int utf8_valid(const uint8_t *data, size_t len);
