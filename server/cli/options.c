/* SPDX-License-Identifier: MIT */

/*
 * Options between arguments, read by getopt_long one at a time, so that it never sees an argument:
 * it would take `-5` for options. Knows no command.
 */

#include "server/cli/options.h"

#include "server/cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void options_init(struct options *options, const char *command, const struct option *table,
	int argc, char **argv)
{
	*options = (struct options){
		.command = command, .table = table, .argc = argc, .argv = argv, .values = argv + 1};
	optind = 1;
	opterr = 0;
}

/* The option at optind, which begins with "--". OPTIONS_END: it was the end of the options. */
static int take_option(struct options *options)
{
	const char *arg = options->argv[optind];
	int option = getopt_long(options->argc, options->argv, "+:", options->table, NULL);
	if (option == ':') {
		cli_usage(options->command, "%s needs a value", arg);
		return OPTIONS_BAD;
	}
	if (option == '?') {
		cli_usage(options->command, "unknown option, or one that takes no value: %s", arg);
		return OPTIONS_BAD;
	}
	return option;
}

int options_next(struct options *options)
{
	while (optind < options->argc) {
		char *arg = options->argv[optind];
		if (options->ended || strncmp(arg, "--", 2) != 0) {
			options->values[options->count++] = arg;
			optind++;
			continue;
		}
		int option = take_option(options);
		if (option != OPTIONS_END) {
			return option;
		}
		options->ended = true;
	}
	return OPTIONS_END;
}

const char *options_shift(struct options *options)
{
	if (options->count == 0) {
		return NULL;
	}
	options->count--;
	return *options->values++;
}

const char *options_environment_db(void)
{
	const char *db = getenv("LITEFUNNEL_DB");
	return db != NULL && db[0] != '\0' ? db : NULL;
}

const char *options_db(struct options *options, int wanted)
{
	const char *db = options_environment_db();
	if (options->count > wanted || db == NULL) {
		db = options_shift(options);
	}
	if (db == NULL || db[0] == '\0') {
		cli_usage(options->command, "which database? Give its path, or set LITEFUNNEL_DB");
		return NULL;
	}
	return db;
}

static bool is_sql(const char *text)
{
	bool path = text[0] == '/' || text[0] == '.';
	return strcmp(text, "-") == 0 ||
		(!path && strpbrk(text, " \t\n") != NULL && access(text, F_OK) != 0);
}

const char *options_db_before_sql(struct options *options)
{
	bool left_out = options->count < 2 || is_sql(options->values[0]);
	if (options_environment_db() == NULL && options->count > 0 && is_sql(options->values[0])) {
		options->count = 0; /* no database: said below */
	}
	return options_db(options, left_out ? options->count : 1);
}

int options_finish(const struct options *options)
{
	if (options->count == 0) {
		return 0;
	}
	return cli_usage(options->command, "one argument too many: \"%s\"", options->values[0]);
}

bool options_duration(const char *text, unsigned *ret_ms)
{
	static const struct {
		const char *unit;
		unsigned long factor;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
	char *end = NULL;

	if (!isdigit((unsigned char)text[0])) {
		return false;
	}
	errno = 0;
	unsigned long number = strtoul(text, &end, 10);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(end, units[i].unit) == 0) {
			bool fits = errno == 0 && number <= UINT_MAX / units[i].factor;
			*ret_ms = fits ? (unsigned)(number * units[i].factor) : 0;
			return fits && number > 0;
		}
	}
	return false;
}
