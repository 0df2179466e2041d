/* SPDX-License-Identifier: MIT */
#pragma once

/* The client library for a command: options, opening, and what an outcome means as exit code. */

#include "client/litefunnel.h"
#include "server/cli/options.h"

enum {
	CONNECT_OPTION_SOCKET = 256,
	CONNECT_OPTION_DEADLINE,
	CONNECT_OPTION_CLASS,
};

/* The deadline of commands that ask a daemon which runs, or does not. */
enum { CONNECT_PROMPT_MS = 5000 };

#define CONNECT_OPTIONS                                                                            \
	{"socket", required_argument, NULL, CONNECT_OPTION_SOCKET},                                \
	{                                                                                          \
		"deadline", required_argument, NULL, CONNECT_OPTION_DEADLINE                       \
	}

struct connect {
	const char *command;
	const char *db;
	const char *socket;        /* or NULL */
	const char *request_class; /* or NULL */
	unsigned deadline_ms;      /* 0: the library's default */
};

/* Takes one of the options above, with its value in optarg. 0, or CLI_USAGE. */
int connect_option(struct connect *connect, int option);

/* 0 and a client, not connected yet; or an exit code, said so on stderr. */
int connect_open(const struct connect *connect, lf_db **ret_db);
void connect_close(lf_db **db);

/* Committed, and not on the replicas as it was to be: done by half. */
bool connect_unshipped(const lf_reply *reply);

/* The exit code for a result of lf_write() and its like. Prints nothing. */
int connect_code(int result, const lf_reply *reply);

/* The same, and says on stderr what went wrong. `reply` may be NULL. */
int connect_report(
	const struct connect *connect, const lf_db *db, int result, const lf_reply *reply);

void connect_free_reply(lf_reply **reply);
