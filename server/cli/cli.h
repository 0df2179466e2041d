/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The commands. Each is one file with one function that takes argv from its own name on, reads its
 * options with getopt_long and returns an exit code. The table of commands stands in main.c.
 */

enum cli_code {
	CLI_DONE = 0,
	CLI_FAILED = 1, /* nothing applied */
	CLI_USAGE = 2,
	CLI_UNKNOWN = 3,     /* nobody can tell whether it was applied */
	CLI_UNREACHABLE = 4, /* not reachable, or timed out before it was accepted */
	CLI_PARTLY = 5,      /* the last line says how far and how to go on */
};

struct cli_command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
};

int cli_adopt(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_backup(int argc, char **argv);
int cli_check_config(int argc, char **argv);
int cli_chunk(int argc, char **argv);
int cli_checkpoint(int argc, char **argv);
int cli_drill(int argc, char **argv);
int cli_drill_child(int argc, char **argv);
int cli_exec(int argc, char **argv);
int cli_halt(int argc, char **argv);
int cli_import(int argc, char **argv);
int cli_kill(int argc, char **argv);
int cli_leave(int argc, char **argv);
int cli_pause(int argc, char **argv);
int cli_optimize(int argc, char **argv);
int cli_query(int argc, char **argv);
int cli_reload(int argc, char **argv);
int cli_replica(int argc, char **argv);
int cli_restore(int argc, char **argv);
int cli_resume(int argc, char **argv);
int cli_run(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_show(int argc, char **argv);
int cli_shutdown(int argc, char **argv);
int cli_sync(int argc, char **argv);
int cli_shipper(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_vacuum(int argc, char **argv);
int cli_version(int argc, char **argv);
int cli_watch(int argc, char **argv);

/* "litefunnel NAME: what is wrong" on stderr. Returns CLI_USAGE. */
__attribute__((format(printf, 2, 3))) int cli_usage(const char *name, const char *format, ...);

/* The same for a failure that is no misuse. Returns CLI_FAILED. */
__attribute__((format(printf, 2, 3))) int cli_fail(const char *name, const char *format, ...);
