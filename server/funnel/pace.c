/* SPDX-License-Identifier: MIT */

/* Groups are cut where the writer stood still behind them: shorter at once, longer again step by step. */

#include "server/funnel/pace.h"

enum {
	COMMITS_WORTH = 5,
	LIMIT_US_MIN = 500,
	PAUSE_COMMITS_MAX = 20, /* after so long nobody was in the middle of something */
};

static uint64_t usual_us(uint64_t commit_us)
{
	uint64_t enough_us = COMMITS_WORTH * commit_us;
	return enough_us > LIMIT_US_MIN ? enough_us : LIMIT_US_MIN;
}

uint64_t pace_limit(const struct pace *pace, uint64_t commit_us, uint64_t max_us)
{
	uint64_t limit_us = usual_us(commit_us);
	if (pace->cut_us > 0 && pace->cut_us < limit_us) {
		limit_us = pace->cut_us;
	}
	return limit_us < max_us ? limit_us : max_us;
}

void pace_begin(struct pace *pace, uint64_t now_us, uint64_t commit_us)
{
	uint64_t idle_us = now_us - pace->ended_us;
	bool stood = pace->ended_us > 0 && idle_us > commit_us &&
		idle_us < PAUSE_COMMITS_MAX * commit_us;
	if (stood && pace->exec_us > commit_us) {
		uint64_t shorter_us = pace->exec_us - pace->exec_us / 4;
		pace->cut_us = shorter_us > commit_us ? shorter_us : commit_us;
	} else if (pace->cut_us > 0) {
		pace->cut_us += pace->cut_us / 64 + 1;
		pace->cut_us = pace->cut_us < usual_us(commit_us) ? pace->cut_us : 0;
	}
}

void pace_end(struct pace *pace, uint64_t now_us, uint64_t exec_us)
{
	pace->ended_us = now_us;
	pace->exec_us = exec_us;
}
