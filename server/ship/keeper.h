/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One replica's housekeeping, in a thread and over a connection of its own, so that no segment
 * waits for it: compaction as it is due, and retention when a snapshot has arrived.
 *
 * What fails is tried again later and said once in a while; shipping does not depend on it.
 */

#include "server/ship/record.h"
#include "server/ship/spool.h"

struct keeper;

/* What the replica has from us now. */
struct keeper_facts {
	bool ours; /* false: nothing is to be done, or nothing may be asked of it now */
	uint64_t confirmed;
	uint64_t begun_anew; /* how often, because it had lost what it held */
	int64_t snapshot_ms; /* of its newest snapshot; 0: it has none */
};

struct keeper_options {
	const char *url;
	struct spool *spool;
	uint8_t writer[RECORD_ID_BYTES];
	uint64_t retention_ms;
	uint64_t compact_every_ms;
	/* Called in the keeper's thread. */
	struct keeper_facts (*facts)(void *ctx);
	/* What it held is not there: all of it, or, with `partly`, some. False, false: it is there. */
	void (*lost)(void *ctx, bool wholly, bool partly);
	void *ctx;
};

/* -EINVAL, -ENOMEM, or what a thread could not be made for. */
int keeper_start(const struct keeper_options *options, struct keeper **ret_keeper);

/* Ends the thread, in the middle of a transfer if need be. Accepts NULL. */
void keeper_free(struct keeper *keeper);
