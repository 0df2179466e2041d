/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the writer looks at between its transactions, beside the queue: whether there is room on the
 * disk, whether the files are still those that were opened, and whether another process has written.
 * What it finds it says in the log, in `show stats`, and to whom it concerns.
 *
 * Everything is the writer's thread's but lookout_facts().
 */

#include "server/base/config.h"
#include "server/funnel/gate.h"
#include "server/store/store.h"

struct lookout;

struct lookout_options {
	struct store *store;
	const struct config *config; /* numbers only */
	const char *db;
	const char *reserve; /* path of the disk reserve */
	struct gate *gate;   /* what a checkpoint must pass; NULL: nothing is shipped */
	/* See writer.h. */
	void (*poisoned)(void *ctx, const char *reason);
	void *ctx;
};

enum { LOOKOUT_TEXT_BYTES = 640 };

struct lookout_facts {
	bool disk_low;
	uint64_t disk_free;
	uint64_t disk_floor; /* in effect */
	uint64_t disk_low_total;
	uint64_t reserve;
	uint64_t wal_bytes;
	bool wal_large;
	uint64_t busy_since_us; /* another process keeps the writer from beginning; 0: none does */
	bool stopped;           /* nothing is served until somebody has acted */
	uint64_t foreign_total;
	char trouble[LOOKOUT_TEXT_BYTES]; /* why it is degraded, or empty */
};

int lookout_new(const struct lookout_options *options, struct lookout **ret_lookout);
void lookout_free(struct lookout *lookout); /* accepts NULL */

/* Looks at what is due to be looked at; cheap. Outside of a transaction. */
void lookout_look(struct lookout *lookout);

/*
 * True if transactions may begin. It rechecks a database that another process has written to, and
 * begins a new epoch. False: ask again after a moment; with a text in *ret_why, after somebody has
 * acted.
 */
bool lookout_clear(struct lookout *lookout, const char **ret_why);

/*
 * No transaction could begin, for that reason; who is in the way is named in the log and in
 * `trouble`, until lookout_free_again().
 */
void lookout_busy(struct lookout *lookout, const char *reason);
void lookout_free_again(struct lookout *lookout);

/* Rises with each new epoch. */
uint64_t lookout_epochs(const struct lookout *lookout);

/* Why batches that write must be refused now, or NULL. */
const char *lookout_refusal(const struct lookout *lookout);

/* Nothing is known, or to be seen at once, that is the writer's to look at first. */
bool lookout_quiet(struct lookout *lookout);

/* A batch has met a full disk. */
void lookout_met_full(struct lookout *lookout);

/* After commits: the checkpoint, if it is due. */
void lookout_checkpoint(struct lookout *lookout);

struct lookout_facts lookout_facts(struct lookout *lookout); /* any thread */
