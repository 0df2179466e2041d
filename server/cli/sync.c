/* SPDX-License-Identifier: MIT */

/* litefunnel sync: waits until everything that is committed now is on every replica. */

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/print.h"

static const char help[] =
	"usage: litefunnel sync DB [--json] [options]\n"
	"\n"
	"Waits until everything that is committed when it is called is on every replica, and prints\n"
	"the commit number. For deploy hooks: after it, the machine may go.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --json          an object {\"commit\", \"shipped\"}\n"
	"  --deadline T    give up after 500ms, 30s, 5m [30s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 shipped, 1 not shipped in time, 2 usage, 3 unknown, 4 daemon not reachable.\n";

enum { OPTION_HELP, OPTION_JSON, DEADLINE_MS = 30000, TURN_MS = 300000 };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"json", no_argument, NULL, OPTION_JSON},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

/* -1: go on. Otherwise the exit code. */
static int parse(struct connect *connect, struct options *options, bool *ret_json)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTION_JSON) {
			*ret_json = true;
		} else if (option == OPTIONS_BAD || connect_option(connect, option) != 0) {
			return CLI_USAGE;
		}
	}
	connect->db = options_db(options, 0);
	return connect->db == NULL || options_finish(options) != 0 ? CLI_USAGE : -1;
}

/* -1: it is not shipped in that time. Otherwise the exit code. */
static int wait_for_replicas(const struct connect *connect, lf_reply **ret_reply)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	int code = connect_open(connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	int result = lf_admin(db, "sync", ret_reply);
	if (result == LF_OK) {
		return connect_unshipped(*ret_reply) ? -1 : CLI_DONE;
	}
	return connect_report(connect, db, result, *ret_reply);
}

/* The daemon holds nobody for longer than ten minutes: it is asked again for the rest of the time. */
static int wait_long(const struct connect *connect, lf_reply **ret_reply)
{
	uint64_t until_us = clock_now_us() + (uint64_t)connect->deadline_ms * 1000;
	struct connect turn = *connect;
	for (;;) {
		uint64_t now_us = clock_now_us();
		uint64_t left_ms = until_us > now_us ? (until_us - now_us) / 1000 : 0;
		turn.deadline_ms = left_ms < TURN_MS ? (unsigned)left_ms + 1 : TURN_MS;
		connect_free_reply(ret_reply);
		int code = wait_for_replicas(&turn, ret_reply);
		/* Before its time it says so because it stops. */
		bool early = clock_now_us() < now_us + (uint64_t)turn.deadline_ms * 1000;
		if (code != -1 || early || clock_now_us() >= until_us) {
			return code;
		}
	}
}

int cli_sync(int argc, char **argv)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	struct connect connect = {.command = "sync", .deadline_ms = DEADLINE_MS};
	struct options options;
	bool json = false;
	options_init(&options, "sync", table, argc, argv);
	int code = parse(&connect, &options, &json);
	if (code >= 0) {
		return code;
	}
	code = wait_long(&connect, &reply);
	if (code > CLI_DONE) {
		return code;
	}
	bool shipped = code == CLI_DONE;
	unsigned long long commit_no = (unsigned long long)lf_reply_commit(reply);
	if (json) {
		printf("{\"commit\":%llu,\"shipped\":%s}\n", commit_no, shipped ? "true" : "false");
	} else if (shipped) {
		printf("shipped up to commit %llu\n", commit_no);
	}
	if (print_flush("sync") != 0) {
		return CLI_FAILED;
	}
	if (!shipped) {
		return cli_fail("sync", "%s", lf_reply_message(reply));
	}
	return CLI_DONE;
}
