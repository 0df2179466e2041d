/* SPDX-License-Identifier: MIT */

/* litefunnel exec: one write with its values from the command line; or many, from stdin. */

#include "server/base/cleanup.h"
#include "server/cli/answer.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/lines.h"
#include "server/cli/param.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
	"usage: litefunnel exec DB SQL [PARAM...] [options]\n"
	"       litefunnel exec DB - [options] < FILE\n"
	"\n"
	"Writes through the daemon: one statement, or, with -, the batches of stdin, a line each.\n"
	"Prints how many rows changed and the commit number, or the rows that come back.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  PARAM           5, -1.5: a number, if it prints back exactly as typed, else text\n"
	"                  NULL, x'00ff': as in SQL\n"
	"                  @FILE: the content of a file, a blob\n"
	"                  :name=VALUE: by name\n"
	"  --text          every PARAM is text, just as it is\n"
	"  --key K         however often this is repeated with K within a day, it is applied once\n"
	"  --ack A         committed [default], or shipped: wait for the replicas too\n"
	"  --class C       interactive, normal or bulk\n"
	"  --deadline T    give up after 500ms, 30s, 5m [30s]; waits for a daemon that restarts\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --header on|off names above the rows [on if stdout is a terminal]\n"
	"  --json          print the outcome as an object: outcome, commit, steps, ...\n"
	"  --help          this text\n"
	"\n"
	"With - each line is a batch, all of it or nothing: an array of steps\n"
	"  [[\"INSERT INTO t VALUES (?, ?)\", [1, {\"blob\": \"AAE=\"}]], [\"DELETE FROM u\"]]\n"
	"or an object {\"batch\": [...], \"key\": \"K\", \"deadline_ms\": N, \"class\": \"bulk\"}. A step is\n"
	"[SQL], [SQL, params] or [SQL, params, options], params an array or an object of names,\n"
	"options many, atomic, expect, rows, truncate, script. Empty lines and lines with # are\n"
	"skipped. With {\"many\": true, \"atomic\": false} a line of very many rows may be applied in\n"
	"slices, with others between: its rows before one that fails are kept.\n"
	"\n"
	"  --continue      go on past lines that fail\n"
	"  --in-flight N   so many lines are on their way at once [256]. At a failure those that\n"
	"                  have begun end as they end; with 1 nothing behind it has begun\n"
	"\n"
	"Exit codes: 0 done, 1 failed and nothing applied, 2 usage, 3 unknown outcome, 4 daemon not\n"
	"reachable or too busy, 5 some lines applied: the last line says which, and how to go on; or\n"
	"committed, but not shipped by the deadline: not to be sent again.\n";

enum {
	OPTION_HELP,
	OPTION_TEXT,
	OPTION_KEY,
	OPTION_ACK,
	OPTION_HEADER,
	OPTION_JSON,
	OPTION_CONTINUE,
	OPTION_IN_FLIGHT
};

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"text", no_argument, NULL, OPTION_TEXT},
	{"key", required_argument, NULL, OPTION_KEY},
	{"ack", required_argument, NULL, OPTION_ACK},
	{"class", required_argument, NULL, CONNECT_OPTION_CLASS},
	{"header", required_argument, NULL, OPTION_HEADER},
	{"json", no_argument, NULL, OPTION_JSON},
	{"continue", no_argument, NULL, OPTION_CONTINUE},
	{"in-flight", required_argument, NULL, OPTION_IN_FLIGHT},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

struct exec {
	struct connect connect;
	struct lines_options lines;
	const char *sql;
	const char *key;
	bool text;
	bool ack_shipped;
	bool json;
	bool header;
};

/* ---- the command line ---- */

static int take_ack(struct exec *exec)
{
	exec->ack_shipped = strcmp(optarg, "shipped") == 0;
	return exec->ack_shipped || strcmp(optarg, "committed") == 0
		? 0
		: cli_usage("exec", "--ack %s: use committed or shipped", optarg);
}

static int take_in_flight(struct exec *exec)
{
	char *end = NULL;
	unsigned long number = strtoul(optarg, &end, 10);
	if (!isdigit((unsigned char)optarg[0]) || *end != '\0' || number < 1 ||
		number > LINES_IN_FLIGHT_MAX) {
		return cli_usage(
			"exec", "--in-flight %s: use 1 to %d", optarg, LINES_IN_FLIGHT_MAX);
	}
	exec->lines.in_flight = (unsigned)number;
	return 0;
}

static int take_header(struct exec *exec)
{
	exec->header = strcmp(optarg, "on") == 0;
	return exec->header || strcmp(optarg, "off") == 0
		? 0
		: cli_usage("exec", "--header %s: use on or off", optarg);
}

static int take_option(struct exec *exec, int option)
{
	switch (option) {
	case OPTION_TEXT:
		exec->text = true;
		return 0;
	case OPTION_KEY:
		exec->key = optarg;
		return optarg[0] != '\0' && strlen(optarg) <= 255
			? 0
			: cli_usage("exec", "--key: a key has 1 to 255 bytes");
	case OPTION_ACK:
		return take_ack(exec);
	case OPTION_HEADER:
		return take_header(exec);
	case OPTION_JSON:
		exec->json = true;
		return 0;
	case OPTION_CONTINUE:
		exec->lines.keep_going = true;
		return 0;
	case OPTION_IN_FLIGHT:
		return take_in_flight(exec);
	default:
		return connect_option(&exec->connect, option);
	}
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct exec *exec, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD || take_option(exec, option) != 0) {
			return CLI_USAGE;
		}
	}
	exec->connect.db = options_db_before_sql(options);
	exec->sql = options_shift(options);
	if (exec->connect.db == NULL) {
		return CLI_USAGE;
	}
	if (exec->sql == NULL) {
		return cli_usage("exec", "no SQL (give a statement, or - for batches on stdin)");
	}
	if (strcmp(exec->sql, "-") == 0 &&
		(options->count > 0 || exec->key != NULL || exec->text)) {
		return cli_usage("exec", "with - values and keys stand in the lines of stdin");
	}
	return -1;
}

/* ---- one write ---- */

static void print_done(const lf_reply *reply)
{
	int64_t changes = lf_reply_changes(reply, 0);
	printf("%" PRId64 " row%s changed, commit %" PRIu64 "%s\n", changes,
		changes == 1 ? "" : "s", lf_reply_commit(reply),
		lf_reply_repeat(reply) ? " (a repeat: applied before)" : "");
}

static void print_reply(const struct exec *exec, const lf_reply *reply)
{
	int rc = 0;
	if (exec->json) {
		answer_json(reply, 0);
	} else if (lf_reply_outcome(reply) != LF_OK) {
		return;
	} else if (lf_reply_columns(reply, 0) > 0) {
		rc = answer_rows(reply, 0, print_format_for(stdout), exec->header);
	} else {
		print_done(reply);
	}
	if (rc == -ENOMEM) {
		cli_fail("exec", "out of memory: not all rows are printed");
	}
	if (lf_reply_rows_lost(reply)) {
		cli_fail(
			"exec", "a repeat: applied before, and its rows were too large to be kept");
	}
	(void)print_flush("exec");
}

static void fill_batch(const struct exec *exec, const struct params *params, lf_batch *batch)
{
	lf_batch_step(batch, exec->sql);
	for (unsigned i = 0; i < params->count; i++) {
		if (params->list[i].name != NULL) {
			lf_bind_name(batch, params->list[i].name);
		}
		param_bind(batch, &params->list[i].value);
	}
	if (exec->key != NULL) {
		lf_batch_key(batch, exec->key);
	}
	if (exec->ack_shipped) {
		lf_batch_ack_shipped(batch);
	}
}

static void free_batch(lf_batch **batch)
{
	lf_batch_free(*batch);
}

static int write_one(const struct exec *exec, const struct params *params)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	CLEANUP(free_batch) lf_batch *batch = lf_batch_new();
	int code = connect_open(&exec->connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	if (batch == NULL) {
		return cli_fail("exec", "out of memory");
	}
	fill_batch(exec, params, batch);
	int result = lf_write(db, batch, &reply);
	if (reply != NULL) {
		print_reply(exec, reply);
	}
	return connect_report(&exec->connect, db, result, reply);
}

int cli_exec(int argc, char **argv)
{
	struct options options;
	struct params params = {0};
	char error[PARAM_ERROR_BYTES];
	struct exec exec = {
		.connect = {.command = "exec"}, .lines = {.in_flight = LINES_IN_FLIGHT}};
	exec.header = print_format_for(stdout) == PRINT_TABLE;
	options_init(&options, "exec", table, argc, argv);
	int code = parse(&exec, &options);
	if (code >= 0) {
		return code;
	}
	if (strcmp(exec.sql, "-") == 0) {
		exec.lines.connect = &exec.connect;
		exec.lines.json = exec.json;
		exec.lines.ack_shipped = exec.ack_shipped;
		return lines_run(&exec.lines);
	}
	if (params_read(&params, (const char *const *)options.values, options.count, exec.text,
		    error) == 0) {
		code = write_one(&exec, &params);
	} else {
		code = cli_fail("exec", "%s", error);
	}
	params_finish(&params);
	return code;
}
