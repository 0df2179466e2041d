/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The command lines of the commands that take options and arguments in any order. No command has
 * short options, so that `-5` is an argument; `--` ends the options.
 */

#include <getopt.h>
#include <stdbool.h>

enum {
	OPTIONS_END = -1,
	OPTIONS_BAD = -2, /* said so on stderr: return CLI_USAGE */
};

struct options {
	const char *command;
	const struct option *table;
	int argc;
	char **argv;
	bool ended;    /* `--` was seen */
	char **values; /* the arguments that are no options, in order */
	int count;
};

void options_init(struct options *options, const char *command, const struct option *table,
	int argc, char **argv);

/* The next option's `val`, its value in optarg; or one of the above. */
int options_next(struct options *options);

/* Takes the first argument away and returns it; NULL if there is none. */
const char *options_shift(struct options *options);

/* LITEFUNNEL_DB, or NULL if that is unset or empty. */
const char *options_environment_db(void);

/*
 * The database: the first argument, or LITEFUNNEL_DB if only `wanted` arguments are left, which are
 * what the command takes beside it. NULL: said so on stderr.
 */
const char *options_db(struct options *options, int wanted);

/*
 * The same where SQL and any number of values follow. With LITEFUNNEL_DB the database may be left
 * out if the first argument can only be SQL: it is the only one, or "-", or holds white space and is
 * no file.
 */
const char *options_db_before_sql(struct options *options);

/* 0, or CLI_USAGE if an argument is left, said so on stderr. */
int options_finish(const struct options *options);

/* "500ms", "30s", "5m", "1h" into milliseconds, at least 1. False: it is none of these. */
bool options_duration(const char *text, unsigned *ret_ms);
