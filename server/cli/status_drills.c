/* SPDX-License-Identifier: MIT */

/*
 * What the drills say of the backup. A verified backup is one that a drill has restored, and found
 * equal, in the last 30 days.
 */

#include "server/cli/status_drills.h"

#include "server/base/clock.h"
#include "server/cli/drills.h"
#include "server/cli/text.h"
#include "server/cli/when.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define VERIFIED_MS (30ll * 24 * 3600 * 1000)

struct view {
	const lf_reply *drills;
	size_t newest; /* rows, counted from 1; 0: none */
	size_t newest_pass;
	size_t failed;    /* the last drill of a replica that told anything, and it is a fail */
	int64_t since_ms; /* when the first of them was */
	bool verified;
};

static bool same(struct print_value a, struct print_value b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static bool is_current(const lf_reply *replicas, struct print_value url)
{
	for (size_t row = 0; row < lf_reply_rows(replicas, 0); row++) {
		if (same(drills_cell(replicas, row, "url"), url)) {
			return true;
		}
	}
	return false;
}

/* A later drill of the same replica has told something else. */
static bool is_outdated(const lf_reply *drills, size_t row)
{
	struct print_value url = drills_cell(drills, row, "replica");
	for (size_t later = row + 1; later < lf_reply_rows(drills, 0); later++) {
		if (same(drills_cell(drills, later, "replica"), url) &&
			drills_verdict(drills, later) != DRILL_INCONCLUSIVE) {
			return true;
		}
	}
	return false;
}

static struct view look(const lf_reply *replicas, const lf_reply *drills)
{
	struct view view = {.drills = drills};
	int64_t now_ms = (int64_t)(clock_wall_us() / 1000);
	for (size_t row = 0; drills != NULL && row < lf_reply_rows(drills, 0); row++) {
		enum drill_verdict verdict = drills_verdict(drills, row);
		int64_t ended_ms = drills_cell(drills, row, "ended_ms").integer;
		if (!is_current(replicas, drills_cell(drills, row, "replica"))) {
			continue;
		}
		view.since_ms = view.newest == 0 ? ended_ms : view.since_ms;
		view.newest = row + 1;
		if (verdict == DRILL_PASS) {
			view.newest_pass = row + 1;
			view.verified = now_ms - ended_ms < VERIFIED_MS;
		} else if (verdict == DRILL_FAIL && !is_outdated(drills, row)) {
			view.failed = row + 1;
		}
	}
	return view;
}

bool status_drills_well(
	const lf_reply *replicas, const lf_reply *drills, char *ret_reason, size_t bytes)
{
	struct view view = look(replicas, drills);
	int64_t now_ms = (int64_t)(clock_wall_us() / 1000);
	if (view.failed > 0) {
		struct print_value url = drills_cell(drills, view.failed - 1, "replica");
		struct print_value reason = drills_cell(drills, view.failed - 1, "reason");
		snprintf(ret_reason, bytes, "the drill of %.*s failed: %.*s", (int)url.len,
			(const char *)url.data, (int)reason.len, (const char *)reason.data);
		return false;
	}
	if (view.newest > 0 && !view.verified && now_ms - view.since_ms >= VERIFIED_MS) {
		snprintf(ret_reason, bytes, "no verified backup: no drill has passed for 30 days");
		return false;
	}
	return true;
}

void status_drills_print(const lf_reply *replicas, const lf_reply *drills)
{
	struct view view = look(replicas, drills);
	char when[WHEN_TEXT_BYTES];
	if (lf_reply_rows(replicas, 0) == 0) {
		return;
	}
	if (view.newest > 0) {
		size_t row = view.newest - 1;
		struct print_value reason = drills_cell(drills, row, "reason");
		when_text(drills_cell(drills, row, "ended_ms").integer, when);
		printf("drill      %s at %s, commit %" PRId64 ", RPO %.1f s, RTO %.1f s%s%.*s\n",
			drill_verdict_name(drills_verdict(drills, row)), when,
			drills_cell(drills, row, "commit").integer,
			(double)drills_cell(drills, row, "rpo_ms").integer / 1000,
			(double)drills_cell(drills, row, "rto_ms").integer / 1000,
			reason.len > 0 ? ": " : "", (int)reason.len, (const char *)reason.data);
	} else {
		puts("drill      none yet");
	}
	if (!view.verified && view.newest_pass > 0) {
		when_text(drills_cell(drills, view.newest_pass - 1, "ended_ms").integer, when);
		printf("backup     no verified backup: the last drill that passed was at %s\n",
			when);
	} else if (!view.verified) {
		puts("backup     no verified backup: no drill has passed (litefunnel drill DB --live)");
	}
}

void status_drills_json(const lf_reply *replicas, const lf_reply *drills)
{
	struct view view = look(replicas, drills);
	if (lf_reply_rows(replicas, 0) == 0) {
		return;
	}
	printf(",\"verified_backup\":%s,\"drills\":", view.verified ? "true" : "false");
	if (drills != NULL) {
		drills_json(drills);
	} else {
		fputs("[]", stdout);
	}
}
