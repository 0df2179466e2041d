/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The writer's side of shipping: tells the shipper of each commit, and keeps the one rule that
 * shipping rests on: no frame of the WAL is copied into the database before it stands durably in
 * the spool. All functions belong to the writer's thread, but those that say else.
 */

#include "server/base/notice.h"
#include "server/store/store.h"

struct gate;

struct gate_stats {
	uint64_t waits; /* checkpoints for which commits had to wait for the spool */
	uint64_t waited_us;
	uint64_t waited_max_us;
	uint64_t skipped; /* checkpoints put off: an image is being read, or the spool was late */
	uint64_t breaks;  /* chains given up because no shipper could be kept running */
};

/* `spool` is the directory DB-ship, `commit_no` the newest commit. -ENOMEM. */
int gate_new(struct board *board, const char *spool, uint64_t commit_no, struct gate **ret_gate);
void gate_free(struct gate *gate); /* accepts NULL */

/* After each commit, before anybody is told of it: notes when it was made. */
void gate_date(struct gate *gate, const struct store *store);

/* After each commit. */
void gate_committed(struct gate *gate, struct store *store);

/*
 * Before a checkpoint: waits, bounded, until the last commit is in the spool. True: the checkpoint
 * may run now, and gate_leave() must follow it.
 */
bool gate_enter(struct gate *gate, const struct store *store, uint64_t threshold);
void gate_leave(struct gate *gate);

/*
 * No checkpoint from here on, so that the database's file stands still: gate_keep() inside of the
 * gate, by the writer; gate_let_go() in any thread.
 */
void gate_keep(struct gate *gate);
void gate_let_go(struct gate *gate);

/*
 * Another process may make checkpoints from now on: waits, bounded, until the last commit is in the spool. What is
 * not there by then may cost the chain.
 */
void gate_hand_over(struct gate *gate, const struct store *store);

/* The writer is idle: what was put off may be tried again at once. */
void gate_again(struct gate *gate);

struct gate_stats gate_stats(struct gate *gate); /* any thread */

/*
 * What a replica lacks: how many commits, and how long ago, at most, the oldest of them was made. If nothing is
 * known of that one: since the start.
 */
struct gate_arrears {
	uint64_t behind;
	uint64_t lag_ms;
};
struct gate_arrears gate_arrears(
	struct gate *gate, const struct replica_report *report); /* any thread */
