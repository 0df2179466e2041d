/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * When commits were made, since the start of the daemon: from the newest one that a replica has this tells
 * how old the oldest one is that it lacks. Old times are known less exactly than new ones, and an answer
 * errs towards the longer time only. Nothing here locks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { COMMIT_CLOCK_MAX = 256 };

struct commit_clock {
	struct {
		uint64_t at_us;
		uint64_t commit_no;
	} seen[COMMIT_CLOCK_MAX]; /* in order; the first one: the start */
	size_t count;
	uint64_t newest; /* that it was told of */
};

/* Commits up to this one are older than this moment; nobody knows how much. */
void commit_clock_start(struct commit_clock *clock, uint64_t commit_no, uint64_t now_us);

/* This commit was made now. An older one than the last: another history, and the clock starts anew. */
void commit_clock_note(struct commit_clock *clock, uint64_t commit_no, uint64_t now_us);

/*
 * How many microseconds ago, at most, this commit or the next one that there was came to be. *ret_known false: before
 * the start, and then the time since the start.
 */
uint64_t commit_clock_age(
	const struct commit_clock *clock, uint64_t commit_no, uint64_t now_us, bool *ret_known);
