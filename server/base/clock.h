/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Time, in microseconds, from one place, so that a test can turn the hands.
 *
 * Ages and deadlines use the monotonic clock only: the daemon's promises count its own running
 * time. Wall time is for people.
 */

#include <stdint.h>

struct clock_source {
	uint64_t (*monotonic_us)(void);
	uint64_t (*wall_us)(void);
};

/* Replaces the clocks of the whole process; NULL brings the system's back. Before threads start. */
void clock_set_source(const struct clock_source *source);

uint64_t clock_now_us(void);
uint64_t clock_wall_us(void);

/* CPU time of the calling thread: what it has done, however long it was kept from it. No source replaces it. */
uint64_t clock_thread_us(void);
