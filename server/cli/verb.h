/* SPDX-License-Identifier: MIT */
#pragma once

/* A command that asks the daemon for one administrative verb and prints what it answers. */

#include "server/cli/connect.h"

struct verb {
	const char *name;
	const char *help;
	const struct option *table; /* VERB_OPTIONS, and options of its own from 1 on */
	int wanted;                 /* arguments beside the database */
	/* An option of its own: 0, or CLI_USAGE. May be NULL. */
	int (*option)(struct verb *verb, int option);
	/* The arguments, once the options are read: 0, or CLI_USAGE. May be NULL. */
	int (*arguments)(struct verb *verb, struct options *options);
	/* Prints the answer; the exit code. */
	int (*print)(const struct verb *verb, const lf_reply *reply);

	/* The one parameter, if `key` is set. */
	const char *key;
	int64_t value;
	bool json;
};

enum { VERB_OPTION_HELP = 300, VERB_OPTION_JSON };

#define VERB_OPTIONS                                                                               \
	{"help", no_argument, NULL, VERB_OPTION_HELP},                                             \
		{"json", no_argument, NULL, VERB_OPTION_JSON}, CONNECT_OPTIONS

int verb_run(struct verb *verb, int argc, char **argv);

/* A number of the answer, 0 if it is not there. */
int64_t verb_number(const lf_reply *reply, const char *key);
