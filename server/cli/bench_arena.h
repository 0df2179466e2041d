/* SPDX-License-Identifier: MIT */
#pragma once

/* A fresh database for a run, the daemon for it if one is wanted, and the end of both. */

#include "server/cli/bench_options.h"

#include <sys/types.h>

enum { ARENA_PATH_BYTES = 4096, ARENA_ERROR_BYTES = 512 };

struct arena {
	char directory[ARENA_PATH_BYTES];
	char db[ARENA_PATH_BYTES + 16];
	pid_t daemon; /* 0: none */
	bool made;
};

/* Takes everything that litefunnel reads out of the environment of this process. */
void arena_forget_settings(void);

/*
 * Makes the directory and the filled database, and starts the daemon. 0, or -1 and the reason;
 * arena_finish() in any case.
 */
int arena_init(struct arena *arena, const struct bench_options *options, bool daemon,
	char ret_error[ARENA_ERROR_BYTES]);

/* Stops the daemon and waits for its end. 0, or -1 and the reason: it did not end well. */
int arena_stop(struct arena *arena, char ret_error[ARENA_ERROR_BYTES]);

/* Removes everything. */
void arena_finish(struct arena *arena);

/* CPU time that a process has used. */
uint64_t arena_cpu_us(pid_t pid);

/* The most memory that it had at a time; 0: unknown. */
uint64_t arena_peak_bytes(pid_t pid);
