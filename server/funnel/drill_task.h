/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the writer does for a drill, in turns of its own: it makes the database's file stand still at
 * a commit that a segment ends at, says afterwards whether it did, and keeps the verdict.
 */

#include "server/base/drill.h"
#include "server/funnel/gate.h"
#include "server/funnel/request.h"

enum drill_task_end {
	DRILL_TASK_LATER,   /* it could not be done now; `why` says what is in the way */
	DRILL_TASK_CROWDED, /* the same: others write, and frames_most are exceeded */
	DRILL_TASK_NEARER,  /* most of the WAL is in the database: at once again, for the rest */
	DRILL_TASK_DONE,
};

/* The loop's, but for the time that the task is in the queue. */
struct drill_task {
	struct gate *gate;
	struct board *board;
	bool neared;          /* DRILL_TASK_NEARER was the last answer */
	uint64_t seen_commit; /* at the last try: a database without commits since is quiet */
	uint64_t frames_due;  /* setting checkpoint_frames */
	uint64_t frames_most; /* that may be copied while others write */
	uint64_t hold_us;     /* how long commits may wait, at most */
	struct drill_record *record;

	enum drill_task_end end;
	char why[DRILL_ERROR_BYTES];
	uint64_t commit_no; /* at which the file stands still */
	uint64_t held_us;   /* how long commits waited for that */
	uint64_t foreign;   /* store_foreign_count() then */
	bool sound;         /* nobody else touched the file meanwhile */
};

/*
 * The shipper cuts a segment at the newest commit, all of the WAL goes into the database, and no
 * checkpoint follows before gate_let_go().
 *
 * Commits wait for what is copied, in one call of SQLite's. So most of it is copied in a turn of its
 * own (DRILL_TASK_NEARER), and never more than frames_most while others write.
 */
enum task_end drill_task_mark(struct request *request, struct store *store, uint64_t budget_us);

/* Whether it really stood still; checkpoints go on. */
enum task_end drill_task_release(struct request *request, struct store *store, uint64_t budget_us);

/* task->record becomes a row of the database. */
enum task_end drill_task_record(struct request *request, struct store *store, uint64_t budget_us);
