/* SPDX-License-Identifier: MIT */

/* Keeps a bounded number of times: when it is full every other one is dropped, and the step doubles. */

#include "server/funnel/wal_clock.h"

enum { FIRST_STEP_US = 20000 };

void wal_clock_note(struct wal_clock *clock, uint64_t frames, uint64_t now_us)
{
	if (clock->count == 0 || frames < clock->seen[clock->count - 1].frames) {
		clock->count = 0;
		clock->step_us = FIRST_STEP_US;
	} else if (frames == clock->seen[clock->count - 1].frames ||
		now_us - clock->seen[clock->count - 1].at_us < clock->step_us) {
		return;
	}
	if (clock->count == WAL_CLOCK_MAX) {
		for (size_t i = 0; i < WAL_CLOCK_MAX / 2; i++) {
			clock->seen[i] = clock->seen[2 * i];
		}
		clock->count = WAL_CLOCK_MAX / 2;
		clock->step_us *= 2;
	}
	clock->seen[clock->count].at_us = now_us;
	clock->seen[clock->count].frames = frames;
	clock->count++;
}

uint64_t wal_clock_age(const struct wal_clock *clock, uint64_t frame, uint64_t now_us)
{
	for (size_t i = 0; i < clock->count; i++) {
		if (clock->seen[i].frames > frame) {
			return now_us > clock->seen[i].at_us ? now_us - clock->seen[i].at_us : 0;
		}
	}
	return 0;
}
