/* SPDX-License-Identifier: MIT */

/* litefunnel vacuum: says what it would cost, and does it. */

#include "server/base/cleanup.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/print.h"
#include "server/cli/verb.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
	"usage: litefunnel vacuum DB [--yes] [--json] [options]\n"
	"\n"
	"Writes the whole database anew, without its free pages. All writes wait meanwhile, and every page\n"
	"goes through the WAL, and to the replicas: says the cost first, and asks. Refused while a chunk is\n"
	"open, and with less than four times the database's size free on the disk.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --yes           do not ask; needed where there is nobody to ask\n"
	"  --json          an object {\"bytes_before\", \"bytes\", \"took_ms\", \"commit\"}\n"
	"  --deadline T    give up after 500ms, 30s, 5m [1h]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed or not wanted, 2 usage, 3 unknown outcome, 4 daemon not reachable.\n";

enum { OPTION_HELP, OPTION_YES, OPTION_JSON };

enum { DEADLINE_MS = 3600000, BYTES_PER_S = 50 * 1024 * 1024, MIB = 1024 * 1024 };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"yes", no_argument, NULL, OPTION_YES},
	{"json", no_argument, NULL, OPTION_JSON},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

struct vacuum {
	struct connect connect;
	bool yes;
	bool json;
};

/* -1: go on. Otherwise the exit code. */
static int parse(struct vacuum *vacuum, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTION_YES) {
			vacuum->yes = true;
		} else if (option == OPTION_JSON) {
			vacuum->json = true;
		} else if (option == OPTIONS_BAD || connect_option(&vacuum->connect, option) != 0) {
			return CLI_USAGE;
		}
	}
	vacuum->connect.db = options_db(options, 0);
	if (vacuum->connect.deadline_ms == 0) {
		vacuum->connect.deadline_ms = DEADLINE_MS;
	}
	return vacuum->connect.db == NULL || options_finish(options) != 0 ? CLI_USAGE : -1;
}

/* Says the cost. False: nobody wants it. */
static bool is_wanted(const struct vacuum *vacuum, const lf_reply *reply)
{
	int64_t bytes = verb_number(reply, "bytes");
	int64_t unused = verb_number(reply, "free_bytes");
	char answer[16] = "";
	fprintf(stderr,
		"%s: %" PRId64 " MiB, of which %" PRId64
		" MiB are free and would be given back. All "
		"writes wait for about %" PRId64 " s, and %" PRId64
		" MiB go through the WAL and to the replicas.\n",
		vacuum->connect.db, bytes / MIB, unused / MIB, (bytes - unused) / BYTES_PER_S + 1,
		(bytes - unused) / MIB + 1);
	if (vacuum->yes) {
		return true;
	}
	if (isatty(STDIN_FILENO) == 0) {
		cli_fail("vacuum", "nothing was done: confirm with --yes");
		return false;
	}
	fputs("Go on? [y/N] ", stderr);
	return fgets(answer, sizeof(answer), stdin) != NULL &&
		(answer[0] == 'y' || answer[0] == 'Y');
}

static int print(const struct vacuum *vacuum, const lf_reply *reply)
{
	int64_t before = verb_number(reply, "bytes_before");
	int64_t bytes = verb_number(reply, "bytes");
	int64_t took_ms = verb_number(reply, "took_ms");
	if (vacuum->json) {
		printf("{\"bytes_before\":%" PRId64 ",\"bytes\":%" PRId64 ",\"took_ms\":%" PRId64
		       ",\"commit\":%" PRIu64 "}\n",
			before, bytes, took_ms, lf_reply_commit(reply));
	} else {
		printf("%" PRId64 " KiB before, %" PRId64 " KiB now; %" PRId64
		       " ms, commit %" PRIu64 "\n",
			before / 1024, bytes / 1024, took_ms, lf_reply_commit(reply));
	}
	return print_flush("vacuum") == 0 ? CLI_DONE : CLI_FAILED;
}

int cli_vacuum(int argc, char **argv)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	CLEANUP(connect_free_reply) lf_reply *cost = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	struct vacuum vacuum = {.connect = {.command = "vacuum"}};
	struct options options;
	options_init(&options, "vacuum", table, argc, argv);
	int code = parse(&vacuum, &options);
	if (code >= 0) {
		return code;
	}
	code = connect_open(&vacuum.connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	int result = lf_admin_int64(db, "vacuum", "look", 1, &cost);
	if (result != LF_OK) {
		return connect_report(&vacuum.connect, db, result, cost);
	}
	if (!is_wanted(&vacuum, cost)) {
		return CLI_FAILED;
	}
	result = lf_admin(db, "vacuum", &reply);
	return result == LF_OK ? print(&vacuum, reply)
			       : connect_report(&vacuum.connect, db, result, reply);
}
