/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The writer: the one thread that touches the database. It takes what waits, runs commit groups,
 * answers, checkpoints, and sleeps. While it sleeps the loop may do a short commit group in its
 * place: handing a few batches to another thread and back takes longer than committing them. If the
 * disk holds that up, the two have changed places: the writer's thread minds the loop.
 */

#include "server/base/config.h"
#include "server/funnel/gate.h"
#include "server/funnel/lookout.h"
#include "server/funnel/loop.h"
#include "server/funnel/queue.h"
#include "server/store/store.h"

struct writer;

struct writer_stats {
	uint64_t batches; /* answered */
	uint64_t failed;  /* of these */
	uint64_t commits;
	uint64_t replays;
	uint64_t exec_us;
	uint64_t commit_us;
	uint64_t group_max;
	uint64_t busy; /* times another process held the write lock */
	uint64_t commit_no;
	struct checkpoint_stats checkpoint;
	struct lookout_facts lookout;
};

struct chunk_board;

struct writer_options {
	struct store *store; /* the writer's from writer_start() to writer_join() */
	struct queue *queue;
	const struct config *config; /* numbers only */
	const char *db;              /* paths */
	const char *reserve;
	struct gate *gate;          /* NULL: nothing is shipped */
	struct chunk_board *chunks; /* NULL: nobody looks at them */
	/*
	 * A COMMIT or a checkpoint met an I/O error: what is on the disk can be told only by
	 * starting over. Called in the writer's thread, or the loop's; must not return.
	 */
	void (*poisoned)(void *ctx, const char *reason);
	void *ctx;
	struct loop
		*loop; /* minded while its thread stands in and is held up; NULL: it never does */
};

int writer_start(const struct writer_options *options, struct writer **ret_writer);

/* Waits for the thread to end, at most that long: 0, or -ETIMEDOUT and it still runs. */
int writer_join(struct writer *writer, uint64_t timeout_ms);
void writer_free(struct writer *writer); /* after a join; accepts NULL */

/*
 * The loop: runs what waits as one commit group and answers it, if the writer sleeps and it is little
 * and is done in milliseconds. False: nothing was done, or nothing came of it; what waits is the
 * writer's.
 */
bool writer_stand_in(struct writer *writer);

/* How long it may pay to wait for one more batch before a commit: less than the commit takes. Any thread. */
uint64_t writer_patience_us(const struct writer *writer);

/* The loop, when the burst may be over: lets the writer do what it has put off. False: nothing. */
bool writer_settle(struct writer *writer);

struct writer_stats writer_stats(struct writer *writer); /* any thread */
/* See wal_clock.h; any thread. */
uint64_t writer_wal_age(struct writer *writer, uint64_t frame);
uint64_t writer_commit_no(const struct writer *writer); /* any thread, cheap */

/* Any thread: what keeps requests waiting, if it is nothing usual; or "". */
void writer_trouble(struct writer *writer, char ret_text[LOOKOUT_TEXT_BYTES]);

/* Any thread, cheap: true if there is a newer epoch than the caller's count of them. */
bool writer_epoch(struct writer *writer, uint64_t *epochs, uint8_t *ret_epoch);
