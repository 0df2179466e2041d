/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * When the WAL had how many frames: from the frame at which a reader stands this tells for how long
 * there has been something newer. Old times are known less exactly than new ones. Nothing here locks.
 */

#include <stddef.h>
#include <stdint.h>

enum { WAL_CLOCK_MAX = 512 };

struct wal_clock {
	struct {
		uint64_t at_us;
		uint64_t frames;
	} seen[WAL_CLOCK_MAX]; /* in order */
	size_t count;
	uint64_t step_us; /* between two of them, at least */
};

/* The WAL has so many frames now. Fewer than before: it has started over. */
void wal_clock_note(struct wal_clock *clock, uint64_t frames, uint64_t now_us);

/* For how many microseconds, at least, there has been a frame behind this one; 0: there is none. */
uint64_t wal_clock_age(const struct wal_clock *clock, uint64_t frame, uint64_t now_us);
