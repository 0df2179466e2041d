/* SPDX-License-Identifier: MIT */

/* litefunnel shutdown: the daemon answers what is queued and ends, as with SIGTERM. */

#include "server/base/cleanup.h"
#include "server/base/place.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/lock.h"

#include <errno.h>
#include <string.h>

static const char help[] =
	"usage: litefunnel shutdown DB [--wait] [options]\n"
	"\n"
	"Ends the running daemon as SIGTERM does: what is queued is executed and answered, then it\n"
	"stops. A supervisor such as systemd may start it again.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --wait          return when the daemon has given up the database\n"
	"  --deadline T    give up after 500ms, 30s, 5m [5s, with --wait 1m]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage, 3 asked, but it has not ended, or nobody knows,\n"
	"4 daemon not reachable.\n";

enum { OPTION_HELP, OPTION_WAIT };

enum { WAIT_MS = 60000 };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"wait", no_argument, NULL, OPTION_WAIT},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

/* -1: go on. Otherwise the exit code. */
static int parse(struct connect *connect, struct options *options, bool *ret_wait)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTION_WAIT) {
			*ret_wait = true;
		} else if (option == OPTIONS_BAD || connect_option(connect, option) != 0) {
			return CLI_USAGE;
		}
	}
	connect->db = options_db(options, 0);
	return connect->db == NULL || options_finish(options) != 0 ? CLI_USAGE : -1;
}

static int wait_for_end(const struct connect *connect, const struct place *place, unsigned wait_ms)
{
	int rc = lock_wait(place->lock, wait_ms);
	if (rc == 0) {
		puts("stopped");
		return CLI_DONE;
	}
	cli_fail("shutdown", "the daemon of %s was asked to stop, but %s", connect->db,
		rc == -ETIMEDOUT ? "it has not ended in time" : strerror(-rc));
	return CLI_UNKNOWN;
}

static int ask(const struct connect *connect)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int code = connect_open(connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	int result = lf_admin(db, "shutdown", &reply);
	return connect_report(connect, db, result, reply);
}

int cli_shutdown(int argc, char **argv)
{
	CLEANUP(place_finish) struct place place = {0};
	struct connect connect = {.command = "shutdown"};
	struct options options;
	char error[PLACE_TEXT_BYTES];
	bool wait = false;
	options_init(&options, "shutdown", table, argc, argv);
	int code = parse(&connect, &options, &wait);
	if (code >= 0) {
		return code;
	}
	unsigned wait_ms = connect.deadline_ms != 0 ? connect.deadline_ms : WAIT_MS;
	connect.deadline_ms = connect.deadline_ms != 0 ? connect.deadline_ms : CONNECT_PROMPT_MS;
	if (wait && place_resolve(connect.db, connect.socket, &place, error, sizeof(error)) != 0) {
		return cli_fail("shutdown", "%s", error);
	}
	code = ask(&connect);
	if (code != CLI_DONE) {
		return code;
	}
	if (wait) {
		return wait_for_end(&connect, &place, wait_ms);
	}
	puts("stopping");
	return CLI_DONE;
}
