/* SPDX-License-Identifier: MIT */

/*
 * Each time that is kept stands for the commits from its own to the next one that is kept. When there is no
 * more room the one goes whose commits lose the least by it, measured by their age.
 */

#include "server/funnel/commit_clock.h"

#include <string.h>

enum { STEP_US = 10000 };

void commit_clock_start(struct commit_clock *clock, uint64_t commit_no, uint64_t now_us)
{
	clock->count = 1;
	clock->newest = commit_no;
	clock->seen[0].at_us = now_us;
	clock->seen[0].commit_no = commit_no;
}

/* By how much the answers for the commits of this time grow if it goes, as a share of what they are. */
static double price(const struct commit_clock *clock, size_t i, uint64_t now_us)
{
	return (double)(clock->seen[i].at_us - clock->seen[i - 1].at_us) /
		(double)(now_us - clock->seen[i].at_us + STEP_US);
}

/* The start stays: behind it nothing is known. */
static void make_room(struct commit_clock *clock, uint64_t now_us)
{
	size_t cheapest = 1;
	for (size_t i = 2; i < clock->count; i++) {
		if (price(clock, i, now_us) < price(clock, cheapest, now_us)) {
			cheapest = i;
		}
	}
	clock->count--;
	memmove(&clock->seen[cheapest], &clock->seen[cheapest + 1],
		(clock->count - cheapest) * sizeof(clock->seen[0]));
}

void commit_clock_note(struct commit_clock *clock, uint64_t commit_no, uint64_t now_us)
{
	bool is_new = commit_no > clock->newest;
	if (commit_no < clock->newest) {
		commit_clock_start(clock, commit_no, now_us);
	}
	clock->newest = commit_no;
	if (!is_new ||
		(clock->count > 1 && now_us - clock->seen[clock->count - 1].at_us < STEP_US)) {
		return;
	}
	if (clock->count == COMMIT_CLOCK_MAX) {
		make_room(clock, now_us);
	}
	clock->seen[clock->count].at_us = now_us;
	clock->seen[clock->count].commit_no = commit_no;
	clock->count++;
}

uint64_t commit_clock_age(
	const struct commit_clock *clock, uint64_t commit_no, uint64_t now_us, bool *ret_known)
{
	size_t i = clock->count;
	while (i > 1 && clock->seen[i - 1].commit_no > commit_no) {
		i--;
	}
	uint64_t at_us = clock->seen[i - 1].at_us;
	*ret_known = commit_no > clock->seen[0].commit_no;
	return now_us > at_us ? now_us - at_us : 0;
}
