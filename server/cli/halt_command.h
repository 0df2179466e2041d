/* SPDX-License-Identifier: MIT */
#pragma once

/* The command of `litefunnel halt`, with everything that it starts. */

#include <signal.h>
#include <stdbool.h>

struct halt_command {
	char **argv;
	const char *db;
	unsigned for_ms; /* how long it may take */
	sigset_t before; /* the signal mask that it gets */
};

/* Signals that are kept for halt_command_run(); call it before anything is to be undone. */
void halt_command_block(struct halt_command *command);

/* The number of one that has come since, or 0. */
int halt_command_signal(void);

/*
 * Runs it to its end, and to the end of what it leaves behind with the database open. Its exit code as a shell would
 * have it; *ret_failed: it could not be started, or had to be ended with all that it has started.
 */
int halt_command_run(const struct halt_command *command, bool *ret_failed);
