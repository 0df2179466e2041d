/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How far a long work is, in one line that is written over, on stderr if that is a terminal; else
 * nothing is shown.
 */

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what; /* the word at the start of the line */
	uint64_t began_us;
	uint64_t shown_us; /* 0: the line is empty */
	bool off;
};

void progress_init(struct progress *progress, const char *what);

/* of, rate and left_ms are 0 where they are not known. Shows at most five lines a second. */
void progress_show(struct progress *progress, uint64_t done, uint64_t of, const char *unit,
	uint64_t rate, uint64_t left_ms);

/* Empties the line again. */
void progress_end(struct progress *progress);
