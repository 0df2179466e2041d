/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How long a commit group may execute. What comes behind a commit's cost many times over goes into the
 * next group: that costs little, and nobody waits long for his answer.
 *
 * Clients that keep so much in flight and no more have nothing to send while all of it is in one group:
 * the writer then waits for them, and they for it. Where that wait was longer than a commit, groups end
 * earlier, by and by longer again: a little that stays in the queue keeps the writer at work while the
 * answers go out and the next requests come in.
 *
 * Times in microseconds; whose thread it is does not matter, one at a time.
 */

#include <stdbool.h>
#include <stdint.h>

struct pace {
	uint64_t cut_us;   /* groups end there; 0: they need not */
	uint64_t ended_us; /* the last group, on the caller's clock; 0: there was none */
	uint64_t exec_us;  /* what it executed */
};

/* How long the next group may execute, if a commit takes so long lately; never over max_us. */
uint64_t pace_limit(const struct pace *pace, uint64_t commit_us, uint64_t max_us);

/* A group begins: how long the writer had nothing to do before it shows what the last one was. */
void pace_begin(struct pace *pace, uint64_t now_us, uint64_t commit_us);

void pace_end(struct pace *pace, uint64_t now_us, uint64_t exec_us);
