/* SPDX-License-Identifier: MIT */

/*
 * The restore point that a target means, found with as few looks as that takes. What it keeps true:
 * a point whose commits nobody knows is passed by, and if it may be the one that was meant, that is
 * said.
 */

#include "server/ship/plan_inside.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static struct plan_file *point(struct plan *plan, size_t index)
{
	return &plan->files[plan->points[index]];
}

__attribute__((format(printf, 2, 3))) static int none(
	struct replica_error *ret_error, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(ret_error->text, sizeof ret_error->text, format, args);
	va_end(args);
	return PLAN_NONE;
}

/* The newest restore point below `end`: fuzzy bases are stepped over. */
static int newest_below(
	struct plan *plan, size_t end, uint64_t *ret_txid, struct replica_error *ret_error)
{
	for (size_t i = end; i > 0; i--) {
		struct plan_file *file = point(plan, i - 1);
		int rc = plan_know(plan, file, ret_error);
		if (rc != 0) {
			return rc;
		}
		/* A bad one is a point for all we know; whether it can be had is seen later. */
		if (plan_is_point(file)) {
			*ret_txid = file->file.max_txid;
			return 0;
		}
	}
	return none(ret_error, "there is no restore point yet");
}

static int aim_at_txid(
	struct plan *plan, uint64_t txid, uint64_t *ret_txid, struct replica_error *ret_error)
{
	uint64_t before = 0;
	uint64_t after = 0;
	for (size_t i = 0; i < plan->point_count; i++) {
		uint64_t end = point(plan, i)->file.max_txid;
		before = end <= txid ? end : before;
		after = after == 0 && end >= txid ? end : after;
	}
	if (before == txid && txid > 0) {
		*ret_txid = txid;
		return 0;
	}
	return none(ret_error,
		"there is no restore point %016" PRIx64 "; beside it are %016" PRIx64
		" and %016" PRIx64 " (0: none)",
		txid, before, after);
}

static int64_t time_of(const struct plan_file *file)
{
	return file->known ? file->record.committed_ms : file->file.created_ms;
}

/* Commits before ours have no number. */
enum { LOST_MAX = 2 /* records in a row */ };

static uint64_t commit_of(const struct plan_file *file)
{
	return file->known ? file->record.commit_last : 0;
}

static bool not_after_time(const struct plan_file *file, const void *what)
{
	return time_of(file) <= *(const int64_t *)what;
}

static bool not_after_commit(const struct plan_file *file, const void *what)
{
	return commit_of(file) <= *(const uint64_t *)what;
}

static bool of_older_epoch(const struct plan_file *file, const void *what)
{
	return !file->known || memcmp(file->record.epoch, what, RECORD_ID_BYTES) != 0;
}

/*
 * A point of [first, end) near the middle that can be looked at; `end` if there is none. One without
 * a record is passed by, up to so many times: that may be lost, while those of its neighbours are there.
 */
static int look_at_middle(struct plan *plan, size_t first, size_t end, size_t unknown_max,
	size_t *ret_index, struct replica_error *ret_error)
{
	size_t middle = first + (end - first) / 2;
	size_t unknown = end;
	size_t unknown_count = 0;
	*ret_index = end;
	for (size_t i = 0; i < end - first; i++) {
		size_t index = middle - first >= i ? middle - i : first + i;
		const struct plan_file *file = point(plan, index);
		int rc = plan_know(plan, point(plan, index), ret_error);
		if (rc != 0 || (!file->bad && file->known)) {
			*ret_index = index;
			return rc;
		}
		if (file->bad) {
			continue;
		}
		unknown = unknown_count == 0 ? index : unknown;
		if (unknown_count++ == unknown_max) {
			break;
		}
	}
	*ret_index = unknown_max < SIZE_MAX ? unknown : end;
	return 0;
}

/*
 * How many of the points [first, end) are true, where those that are come first. Asks for as few
 * records as that takes.
 */
static int partition(struct plan *plan, size_t first, size_t end,
	bool (*is)(const struct plan_file *file, const void *what), const void *what,
	size_t *ret_end, struct replica_error *ret_error)
{
	/*
	 * A time stands in the file itself; a commit in the record alone; Litestream has no epoch, and no
	 * records.
	 */
	size_t unknown_max = is == not_after_time ? 0 : is == of_older_epoch ? LOST_MAX : SIZE_MAX;
	while (first < end) {
		size_t middle = end;
		int rc = look_at_middle(plan, first, end, unknown_max, &middle, ret_error);
		if (rc != 0) {
			return rc;
		}
		if (middle == end) {
			break;
		}
		if (is(point(plan, middle), what)) {
			first = middle + 1;
		} else {
			end = middle;
		}
	}
	*ret_end = first;
	return 0;
}

static void describe_time(int64_t time_ms, char text[32])
{
	time_t seconds = (time_t)(time_ms / 1000);
	struct tm tm;
	if (gmtime_r(&seconds, &tm) == NULL || strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0) {
		snprintf(text, 32, "%" PRId64 " ms", time_ms);
	}
}

static int aim_at_time(
	struct plan *plan, int64_t time_ms, uint64_t *ret_txid, struct replica_error *ret_error)
{
	size_t end = 0;
	int rc = partition(plan, 0, plan->point_count, not_after_time, &time_ms, &end, ret_error);
	if (rc != 0) {
		return rc;
	}
	if (end == 0) {
		char oldest[32];
		rc = plan_know(plan, point(plan, 0), ret_error);
		describe_time(time_of(point(plan, 0)), oldest);
		return rc != 0 ? rc : none(ret_error, "the oldest restore point is of %s", oldest);
	}
	return newest_below(plan, end, ret_txid, ret_error);
}

/* A file whose commits are not known: its record is lost, or cannot be read. */
static bool unknown(const struct plan_file *file)
{
	return file->bad || !file->known;
}

/*
 * Behind the points before `end` there may be some that nobody knows the commits of, and those may
 * hold `commit`: then the first of them is the plan's doubt. What is known behind them tells where
 * the last of them ends, if it was made on top of that.
 */
static int note_doubt(struct plan *plan, size_t end, const uint8_t *epoch, uint64_t commit,
	struct replica_error *ret_error)
{
	size_t next = end;
	int rc = 0;
	for (; next < plan->point_count; next++) {
		rc = plan_know(plan, point(plan, next), ret_error);
		if (rc != 0 || !unknown(point(plan, next))) {
			break;
		}
	}
	if (rc != 0 || next == end) {
		return rc;
	}
	struct plan_file *first = point(plan, end);
	const struct plan_file *after = next < plan->point_count ? point(plan, next) : NULL;
	bool told = next == end + 1 && after != NULL &&
		after->file.min_txid == first->file.max_txid + 1 &&
		memcmp(after->record.epoch, epoch, RECORD_ID_BYTES) == 0;
	if (!told || after->record.commit_first <= commit + 1) {
		plan->doubt = first;
	}
	return 0;
}

/* How many points there are up to the newest that is known: *ret_end, at most `end`. */
static int newest_known(
	struct plan *plan, size_t end, size_t *ret_end, struct replica_error *ret_error)
{
	unsigned lost = 0;
	for (; end > 0 && lost <= LOST_MAX; end--) {
		int rc = plan_know(plan, point(plan, end - 1), ret_error);
		if (rc != 0) {
			return rc;
		}
		if (!unknown(point(plan, end - 1))) {
			*ret_end = end;
			return 0;
		}
		lost += point(plan, end - 1)->bad ? 0 : 1;
	}
	return lost == 0 ? none(ret_error, "no record of a restore point can be read")
			 : none(ret_error,
				   "what is there before was written by Litestream and has no "
				   "commit numbers (cure: --at TIME or --txid HEX)");
}

/* What is lost where an epoch begins may be of either: *end goes back to its first. */
static int lost_before(struct plan *plan, size_t *end, struct replica_error *ret_error)
{
	for (unsigned lost = 0; lost < LOST_MAX && *end != 0; lost++) {
		int rc = plan_know(plan, point(plan, *end - 1), ret_error);
		if (rc != 0) {
			return rc;
		}
		if (!unknown(point(plan, *end - 1))) {
			return 0;
		}
		--*end;
	}
	return 0;
}

static int aim_at_commit(
	struct plan *plan, uint64_t commit, uint64_t *ret_txid, struct replica_error *ret_error)
{
	size_t end = plan->point_count;
	uint64_t oldest = 0;
	while (end > 0) {
		int rc = newest_known(plan, end, &end, ret_error);
		if (rc != 0) {
			return rc;
		}
		const uint8_t *epoch = point(plan, end - 1)->record.epoch;
		size_t first = 0;
		size_t past = 0;
		rc = partition(plan, 0, end - 1, of_older_epoch, epoch, &first, ret_error);
		rc = rc == 0
			? partition(plan, first, end, not_after_commit, &commit, &past, ret_error)
			: rc;
		bool found = rc == 0 && past > first;
		rc = rc == 0 && !found ? lost_before(plan, &past, ret_error) : rc;
		if (rc == 0 && (!found || commit_of(point(plan, past - 1)) < commit)) {
			rc = note_doubt(plan, past, epoch, commit, ret_error);
		}
		if (rc != 0 || found) {
			return rc != 0 ? rc : newest_below(plan, past, ret_txid, ret_error);
		}
		rc = plan_know(plan, point(plan, first), ret_error);
		if (rc != 0) {
			return rc;
		}
		oldest = unknown(point(plan, first)) ? oldest : commit_of(point(plan, first));
		end = first;
	}
	return none(ret_error, "the oldest restore point is commit %" PRIu64, oldest);
}

struct plan_file *plan_doubt(const struct plan *plan)
{
	return plan->doubt;
}

int plan_aim(struct plan *plan, const struct plan_target *target, uint64_t *ret_txid,
	struct replica_error *ret_error)
{
	int rc = plan_sort(plan);
	if (rc != 0) {
		return rc;
	}
	plan->doubt = NULL;
	if (plan->point_count == 0) {
		return none(ret_error, "there is no segment");
	}
	switch (target->kind) {
	case PLAN_LATEST:
		return newest_below(plan, plan->point_count, ret_txid, ret_error);
	case PLAN_TXID:
		return aim_at_txid(plan, target->number, ret_txid, ret_error);
	case PLAN_COMMIT:
		return aim_at_commit(plan, target->number, ret_txid, ret_error);
	case PLAN_TIME:
		return aim_at_time(plan, target->time_ms, ret_txid, ret_error);
	}
	return -EINVAL;
}
