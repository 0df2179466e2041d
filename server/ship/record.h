/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What litefunnel knows of a segment and LTX has no room for. It travels beside the segment: as
 * object metadata (x-amz-meta-litefunnel-KEY) on S3, as a sidecar NAME.record with a line
 * "KEY: VALUE" each in a directory. Segments without a record were written by Litestream.
 *
 * Keys are only ever added; an unknown one is ignored.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	RECORD_ID_BYTES = 16,
	RECORD_SHA256_BYTES = 32,
	RECORD_DIGEST_BYTES = 16,
	RECORD_VALUE_BYTES = 80, /* of a value as text, NUL included */
};

struct record {
	uint32_t keys; /* which keys were set, for record_complete() */
	uint8_t epoch[RECORD_ID_BYTES];
	uint8_t writer[RECORD_ID_BYTES]; /* random, new at each start of a shipper */
	uint64_t commit_first;           /* commit numbers that the segment brings */
	uint64_t commit_last;
	int64_t committed_ms;                  /* when the last of them was committed, since 1970 */
	uint8_t sha256[RECORD_SHA256_BYTES];   /* of the whole file */
	uint8_t previous[RECORD_SHA256_BYTES]; /* of the level 0 segment before it; zeros: none */
	bool has_digest;                       /* false: not a restore point (a fuzzy base) */
	bool full;                             /* holds every page: it needs nothing before it */
	uint8_t digest_before[RECORD_DIGEST_BYTES]; /* zeros when full */
	uint8_t digest_after[RECORD_DIGEST_BYTES];
};

/* Calls fn for each key in a fixed order; values are printable ASCII. */
void record_each(const struct record *record,
	void (*fn)(void *ctx, const char *key, const char *value), void *ctx);

/* Sets one key from its text: 0, or -EINVAL if the value is none for it. Unknown keys are 0. */
int record_set(struct record *record, const char *key, const char *value);

/* True if all keys that a restore relies on were set. */
bool record_complete(const struct record *record);
