/* SPDX-License-Identifier: MIT */

/*
 * The live side of a drill. SQLite's own checkpoint brings the database's file to a commit; whoever
 * reads the file then needs to know nothing of the WAL, of parts or of segments, and so shares no
 * mistake with what has shipped them. What this file keeps true: commits wait for a bounded time, and
 * a file that somebody else may have written to is not called sound.
 */

#include "server/funnel/drill_task.h"

#include "server/base/clock.h"
#include "server/store/drill.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { READERS_US = 20 * 1000, READERS_AGAIN_US = 1000, FEW_FRAMES = 100 };

static struct drill_task *task_of(const struct request *request)
{
	return request->task.ctx;
}

static enum task_end later(struct drill_task *task, const char *why)
{
	task->end = DRILL_TASK_LATER;
	snprintf(task->why, sizeof(task->why), "%s", why);
	return TASK_DONE;
}

/* ---- the mark ---- */

/* No commit comes in between: the writer is here. Until it is in the spool, or, with `cut`, in a segment. */
static bool wait_for_shipper(
	const struct drill_task *task, uint64_t commit_no, bool cut, uint64_t until_us)
{
	if (cut) {
		board_want_shipped(task->board, commit_no);
	} else {
		board_want_spooled(task->board, commit_no);
	}
	board_wake_shipper(task->board);
	for (;;) {
		struct ship_report report = board_ship_report(task->board);
		uint64_t now_us = clock_now_us();
		uint64_t reached = cut ? report.cut_commit : report.spooled_commit;
		if (report.known && report.chained && reached >= commit_no) {
			return true;
		}
		if (now_us >= until_us) {
			return false;
		}
		(void)board_wait_gate(task->board, (int)((until_us - now_us) / 1000) + 1);
	}
}

/* Readers that began before the last commit are given a moment to end. */
static int checkpoint_all(struct store *store, bool *ret_whole, struct store_error *error)
{
	uint64_t until_us = clock_now_us() + READERS_US;
	int rc = 0;
	do {
		rc = store_checkpoint(store, error);
		*ret_whole = rc == 0 && store_checkpoint_stats(store).whole;
	} while (rc == 0 && !*ret_whole && clock_now_us() < until_us &&
		usleep(READERS_AGAIN_US) == 0);
	return rc;
}

static bool enter(struct drill_task *task, struct store *store)
{
	gate_again(task->gate);
	if (!gate_enter(task->gate, store, task->frames_due)) {
		(void)later(task, "a whole file is being made for a replica, or the spool is late");
		return false;
	}
	return true;
}

static enum task_end failed(
	struct request *request, struct drill_task *task, int rc, struct store_error *error)
{
	enum task_end end = TASK_DONE;
	if (rc == STORE_UNKNOWN) {
		failure_set(&request->failure, FAILURE_INTERNAL, "%s", error->message);
		end = TASK_UNKNOWN;
	} else {
		(void)later(task, error->message);
	}
	store_error_clear(error);
	return end;
}

/* What commits since then write is little. */
static enum task_end come_near(
	struct request *request, struct drill_task *task, struct store *store)
{
	struct store_error error = {.row = -1};
	if (!enter(task, store)) {
		return TASK_DONE;
	}
	int rc = store_checkpoint(store, &error);
	gate_leave(task->gate);
	if (rc != 0) {
		return failed(request, task, rc, &error);
	}
	task->end = DRILL_TASK_NEARER;
	return TASK_DONE;
}

static enum task_end stand_still(
	struct request *request, struct drill_task *task, struct store *store)
{
	struct store_error error = {.row = -1};
	bool whole = false;
	if (!enter(task, store)) {
		return TASK_DONE;
	}
	int rc = checkpoint_all(store, &whole, &error);
	if (whole) {
		gate_keep(task->gate);
	}
	gate_leave(task->gate);
	if (rc != 0) {
		return failed(request, task, rc, &error);
	}
	if (!whole) {
		return later(
			task, "a reader needs an old state (litefunnel show DB readers names it)");
	}
	task->commit_no = store_commit_no(store);
	task->foreign = store_foreign_count(store);
	task->end = DRILL_TASK_DONE;
	return TASK_DONE;
}

static uint64_t left_to_copy(const struct store *store)
{
	struct checkpoint_stats stats = store_checkpoint_stats(store);
	return stats.wal_frames > stats.backfilled ? stats.wal_frames - stats.backfilled : 0;
}

/* Where nobody has written since the last try it holds up nobody. */
static bool is_too_much(struct drill_task *task, const struct store *store, uint64_t frames)
{
	uint64_t commit_no = store_commit_no(store);
	bool quiet = commit_no == task->seen_commit;
	task->seen_commit = commit_no;
	return frames > task->frames_most && !quiet;
}

enum task_end drill_task_mark(struct request *request, struct store *store, uint64_t budget_us)
{
	struct drill_task *task = task_of(request);
	uint64_t began_us = clock_now_us();
	uint64_t frames = left_to_copy(store);
	bool nears = frames > FEW_FRAMES && !task->neared;
	enum task_end end = TASK_DONE;
	(void)budget_us;
	if (is_too_much(task, store, frames)) {
		end = later(task,
			"writers would wait for too many pages of the WAL to be copied: for a moment "
			"with fewer, right after a checkpoint (setting checkpoint_frames)");
		task->end = DRILL_TASK_CROWDED;
	} else if (!wait_for_shipper(
			   task, store_commit_no(store), !nears, began_us + task->hold_us)) {
		end = later(task, "the shipper does not get to the newest commit");
	} else {
		end = nears ? come_near(request, task, store) : stand_still(request, task, store);
	}
	task->neared = task->end == DRILL_TASK_NEARER;
	task->held_us = clock_now_us() - began_us;
	return end;
}

enum task_end drill_task_release(struct request *request, struct store *store, uint64_t budget_us)
{
	struct drill_task *task = task_of(request);
	(void)budget_us;
	store_look_around(store);
	task->sound = store_doubt(store) == STORE_DOUBT_NONE &&
		store_foreign_count(store) == task->foreign;
	gate_let_go(task->gate);
	gate_again(task->gate);
	task->end = DRILL_TASK_DONE;
	return TASK_DONE;
}

/* ---- the record ---- */

enum task_end drill_task_record(struct request *request, struct store *store, uint64_t budget_us)
{
	struct drill_task *task = task_of(request);
	struct store_error error = {.row = -1};
	(void)budget_us;
	int rc = store_drill_add(store, task->record, &error);
	if (rc == STORE_UNKNOWN) {
		failure_set(&request->failure, FAILURE_INTERNAL, "%s",
			error.message != NULL ? error.message : "COMMIT");
		store_error_clear(&error);
		return TASK_UNKNOWN;
	}
	task->end = DRILL_TASK_DONE;
	if (rc != 0) {
		later(task, error.message != NULL ? error.message : "out of memory");
	}
	store_error_clear(&error);
	return TASK_DONE;
}
