/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Compaction: segments of level 0 become larger ones at levels 1, 2 and 3 (by default every 30
 * seconds, 5 minutes, and hour), so that a restore opens few files; those of level 0 that a file of
 * level 1 covers are removed together when they are five minutes old. As Litestream does it, with two differences:
 *
 * - Only what is known to be in the replica is merged, checked by its SHA-256 and by the digests of
 *   its neighbours, and what is made is created and never replaces anything. So a daemon that has
 *   lost the replica without knowing cannot spoil it.
 * - Files that hold every page (bases, images) are not merged: they would be sent again at each
 *   level. They stay where they are until retention removes them.
 *
 * A pass blocks. Nothing is asked of the replica while nothing new is confirmed. Time comes in, so
 * that a test can let it pass.
 *
 * A pass also finds out whether somebody has emptied the replica: REPLICA_AGAIN, with `gone`.
 *
 * Results: 0; a replica_condition: REPLICA_EXISTS says that another daemon ships to the replica, or
 * that `confirmed` was out of date, and nothing was done; negative errno.
 */

#include "server/ship/replica.h"

enum { COMPACT_LEVELS = 3 };

struct compact_options {
	struct replica *replica; /* a handle of its own */
	uint8_t writer[RECORD_ID_BYTES];
	const char *dir; /* for files without names, of the size of what is merged */
	uint64_t every_ms[COMPACT_LEVELS]; /* 0: the default */
	uint64_t keep_level0_ms;           /* 0: the default */
	/*
	 * A file of level 0 that is still here, so that it need not be fetched: 0 and a descriptor
	 * that becomes the caller's, or anything else. May be NULL.
	 */
	int (*local)(void *ctx, uint64_t min_txid, uint64_t max_txid, int *ret_fd);
	void *ctx;
};

struct compact;

int compact_new(const struct compact_options *options, struct compact **ret_compact);
void compact_free(struct compact *compact); /* accepts NULL */

/* Does what is due. `confirmed`: the newest number that the replica is known to have from us. */
int compact_pass(struct compact *compact, uint64_t confirmed, int64_t now_ms,
	struct replica_error *ret_error);

/* Somebody of ours has removed files of level 0: none of them is looked for. */
void compact_forget_known(struct compact *compact);

/* All that was known of a replica which is not what it was. */
void compact_forget(struct compact *compact);
