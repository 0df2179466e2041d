/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * server/funnel/loop.h turned by hand, for a harness that decides what happens when: which
 * descriptor is looked at, when time passes, when a signal arrives, and when the writer's thread may
 * go on. Between two calls the writer stands still, so that one input is one course of events.
 *
 * The harness is linked instead of loop.c, and with some functions wrapped (meson.build lists them).
 */

#include "server/store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What loop_run() calls: the course of events. It returns when loop_stop() was called. */
extern void (*hand_script)(void *ctx);
extern void *hand_script_ctx;

/* Before each funnel_run(). */
void hand_begin(void);
bool hand_stopped(void);

/* Calls whoever is ready, until nobody is. */
void hand_turn(void);

/* Lets the writer work until it waits for more, then delivers its wake-up. */
void hand_let_writer_work(void);

/* Time passes, and timers that are due fire in their order. */
void hand_pass_us(uint64_t us);

void hand_signal(int number);

/* How the daemon's reads and writes go: bytes that one call moves at most (0: any number), whether
 * every second call is interrupted first, and whether no socket takes anything. */
struct hand_io {
	size_t bytes_max;
	bool interrupts;
	bool blocked;
};
extern struct hand_io hand_io;

/* The role of connections from now on. */
extern enum role hand_role;
