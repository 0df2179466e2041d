/* SPDX-License-Identifier: MIT */
#pragma once

/* Whether a daemon holds the lock file of a database, seen from outside. */

#include <stdbool.h>
#include <sys/types.h>

enum lock_state {
	LOCK_FREE, /* no daemon; also if there is no file yet */
	LOCK_HELD,
	LOCK_HIDDEN, /* the file cannot be read by this user */
};

struct lock_view {
	enum lock_state state;
	pid_t pid; /* who wrote it, dead or alive; 0: nobody */
};

/*
 * Takes the lock, shared, for a moment to see whether that goes: a daemon that starts in this very
 * moment would be refused, so ask the daemon itself before.
 */
struct lock_view lock_look(const char *path);

/*
 * Waits until the process that holds it now has given it up. Waits in the queue of the lock, so
 * that a daemon that starts afterwards is not disturbed by repeated looks. 0, -ETIMEDOUT, or
 * -errno.
 */
int lock_wait(const char *path, unsigned timeout_ms);
