/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Retention: removes from a replica what no retained restore point needs.
 *
 * Kept are all snapshots of level 9 from the newest one on that is as old as the retention, so that
 * a way leads to every point of that time; and the newest in any case. Of the other levels, 0
 * included, everything is kept that reaches beyond the newest snapshot that was removed: a restore
 * that has just begun with that one still finds its files. Each file is removed by its name, after
 * the snapshot on which all depends has been looked at; so a pass stays right if another daemon
 * owns the replica meanwhile.
 *
 * Results as of compact_pass().
 */

#include "server/ship/replica.h"

struct retain_options {
	struct replica *replica;
	uint8_t writer[RECORD_ID_BYTES];
	uint64_t retention_ms;
};

struct retain_result {
	uint64_t removed; /* files */
	uint64_t removed_bytes;
};

int retain_pass(const struct retain_options *options, uint64_t confirmed, int64_t now_ms,
	struct retain_result *ret_result, struct replica_error *ret_error);
