/* SPDX-License-Identifier: MIT */

/* The program: one executable, a table of commands. */

#include "server/cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct cli_command commands[] = {
	{"serve", cli_serve, "own a database and take writes for it"},
	{"run", cli_run, "serve a database and supervise a command together"},
	{"adopt", cli_adopt, "hand an existing database to the daemon"},
	{"leave", cli_leave, "take it back"},
	{"exec", cli_exec, "write, through the daemon"},
	{"chunk", cli_chunk, "a long write, in slices"},
	{"import", cli_import, "a file into a table: CSV, TSV, NDJSON"},
	{"query", cli_query, "read, directly"},
	{"status", cli_status, "how it is"},
	{"show", cli_show, "clients, queue, chunks, drills, config, stats"},
	{"watch", cli_watch, "a line for each commit of some tables"},
	{"sync", cli_sync, "wait until all that is committed is on every replica"},
	{"pause", cli_pause, "let new writes wait"},
	{"resume", cli_resume, "let them go on"},
	{"checkpoint", cli_checkpoint, "copy the WAL into the database now"},
	{"kill", cli_kill, "end one request"},
	{"reload", cli_reload, "read the settings again"},
	{"shutdown", cli_shutdown, "answer what is queued, then stop"},
	{"restore", cli_restore, "a database from its replica"},
	{"backup", cli_backup, "the database as one plain file"},
	{"drill", cli_drill, "prove that the replica can be restored"},
	{"replica", cli_replica, "what a replica holds, and whether it is sound"},
	{"halt", cli_halt, "let another program write the file itself"},
	{"vacuum", cli_vacuum, "write the database anew, without free pages"},
	{"optimize", cli_optimize, "fresh statistics for the planner"},
	{"check-config", cli_check_config, "is a config file good"},
	{"bench", cli_bench, "what the funnel is good for, on this machine"},
	{"version", cli_version, "what this is made of"},
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

/* What serve starts beside itself; not for people. */
static const struct cli_command children[] = {
	{"shipper", cli_shipper, NULL},
	{"drill-child", cli_drill_child, NULL},
};

enum { CHILDREN = sizeof(children) / sizeof(children[0]) };

int cli_usage(const char *name, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fprintf(stderr, "litefunnel %s: ", name);
	vfprintf(stderr, format, args);
	fprintf(stderr, "\nTry `litefunnel %s --help`.\n", name);
	va_end(args);
	return CLI_USAGE;
}

int cli_fail(const char *name, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fprintf(stderr, "litefunnel %s: ", name);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	return CLI_FAILED;
}

static void print_help(FILE *out)
{
	fputs("usage: litefunnel COMMAND …\n\nA daemon that owns the only writable handle of a SQLite "
	      "database: many processes write\nthrough it, and read the file directly.\n\n",
		out);
	for (size_t i = 0; i < COMMANDS; i++) {
		fprintf(out, "  %-14s %s\n", commands[i].name, commands[i].summary);
	}
	fputs("\n`litefunnel COMMAND --help` tells more. Exit codes: 0 done, 1 failed and nothing\n"
	      "applied, 2 usage, 3 unknown outcome, 4 not reachable, 5 partly applied.\n",
		out);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_help(stderr);
		return CLI_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
		strcmp(argv[1], "help") == 0) {
		print_help(stdout);
		return CLI_DONE;
	}
	const char *name = strcmp(argv[1], "--version") == 0 ? "version" : argv[1];
	for (size_t i = 0; i < COMMANDS; i++) {
		if (strcmp(commands[i].name, name) == 0) {
			return commands[i].run(argc - 1, argv + 1);
		}
	}
	for (size_t i = 0; i < CHILDREN; i++) {
		if (strcmp(children[i].name, name) == 0) {
			return children[i].run(argc - 1, argv + 1);
		}
	}
	fprintf(stderr, "litefunnel: unknown command \"%s\"\n", name);
	print_help(stderr);
	return CLI_USAGE;
}
