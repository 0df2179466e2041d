/* SPDX-License-Identifier: MIT */
#pragma once

/* What a machine has found, by kind. One process, one thread. */

#include <stdbool.h>
#include <stdint.h>

enum finding {
	FOUND_LOST,    /* acknowledged, and not there */
	FOUND_TWICE,   /* there more than once */
	FOUND_HALF,    /* some of a batch, or some of a commit, is there */
	FOUND_GHOST,   /* there, although it failed or was removed */
	FOUND_CORRUPT, /* SQLite's own checks say so, or it cannot be read */
	FOUND_REFUSED, /* the store does not open */
	FOUND_ANSWER,  /* an answer is not the one that it must be */
	FOUND_DIED,    /* the process died or hung */
	FOUND_LEAK,    /* memory that nobody frees */
	FOUND_KINDS,
};

/* From now on findings of other kinds do not count. False: there is no kind of that name. */
bool findings_only(const char *name);

/* What stands before each message: how to have it again. */
__attribute__((format(printf, 1, 2))) void findings_context(const char *format, ...);

__attribute__((format(printf, 2, 3))) void found(enum finding finding, const char *format, ...);

uint64_t findings_total(void);

/* How many of each kind; and what a child process has counted. */
void findings_take(uint64_t ret_counts[FOUND_KINDS]);
void findings_add(enum finding finding, uint64_t count);

/* "0 lost, 0 twice, …" on stdout. */
void findings_print(void);

/* A fatal signal says where it struck before the process ends. */
void findings_watch_signals(void);
