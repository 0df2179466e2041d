/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The daemon without its sockets: a store, a queue, and commit groups that are run as the writer
 * runs them, with a history at their side that says what must come of it. Whatever does not agree
 * is a finding.
 */

#include "server/funnel/group.h"
#include "tests/crash/crash_vfs.h"
#include "tests/crash/history.h"

#include <sqlite3.h>

struct world_options {
	bool sync_full;
	uint64_t cache_bytes;
	uint64_t checkpoint_frames;
	size_t group_max;
};

enum world_end {
	WORLD_GOES_ON = 0,
	WORLD_BUSY,    /* no transaction can be begun; nothing of what was sent is answered */
	WORLD_STOPPED, /* the daemon would have ended itself: UNKNOWN, or EIO in a checkpoint */
};

struct world {
	const struct world_options *options;
	const char *path;
	struct history *history;
	struct tape *tape; /* NULL: none */
	struct store *store;
	struct queue *queue;
	sqlite3 *reader;
	sqlite3_stmt *reading;
	bool faulty;          /* failures that are nobody's guilt are to be expected now */
	bool poisoned;        /* it stopped because of an I/O error */
	uint64_t transient;   /* batches that were told to try again */
	uint64_t commit_base; /* commit_no when commit_hooks was zero */
	uint64_t commit_hooks;
	bool unknown; /* the last group ended with GROUP_UNKNOWN */
};

/* Once a process: clocks, the VFS layer. */
void world_set_up(void);
void world_clock_jump(uint64_t seconds);
/* The clock as it stands at the beginning of a run that must be had again. */
void world_clock_reset(void);

/* Opens the store. False, with the store's sentence. */
bool world_open(struct world *world, char ret_error[STORE_ERROR_BYTES]);

/* `dead`: as a killed process leaves it. */
void world_close(struct world *world, bool dead);

/* What must be so in a store that was opened after a crash. */
struct expected {
	uint64_t acked;       /* this commit, at least, is there */
	uint64_t commit_max;  /* nothing newer can be */
	size_t sent;          /* only batches below that number were sent */
	const uint8_t *epoch; /* where something was acknowledged */
};

/* Checks all that without asking anything, and cuts the history back to what has survived. */
void world_check_recovered(struct world *world, const struct expected *expected);

/* Told when the product's code begins to run (true) and when it has returned. NULL: nobody. */
void world_watch_product(void (*watch)(bool inside));

/* True while SQLite is in a COMMIT of the store's. For crash_vfs_probe(). */
bool world_in_commit(void *world);

/* Sends these batches together; each may be a repeat. */
enum world_end world_play(struct world *world, const uint32_t *ids, size_t count);

/* What the writer does between groups. */
enum world_end world_checkpoint(struct world *world);
void world_settle(struct world *world);

/* The client of the session at that index of the history takes its leave. */
enum world_end world_say_goodbye(struct world *world, uint32_t index);

/* A reader of its own takes a snapshot and holds it, or lets go. */
void world_reader(struct world *world, bool on);

/* The whole content against the history. */
void world_check(struct world *world);
/* SQLite's own checks. */
void world_check_integrity(struct world *world);

/*
 * Every batch without an answer is asked again and must now be executed exactly once; `sample` of
 * those with an answer must get the same one. Then all is checked.
 */
enum world_end world_ask_again(struct world *world, unsigned sample, struct random *random);
