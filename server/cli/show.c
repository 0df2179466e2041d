/* SPDX-License-Identifier: MIT */

/* litefunnel show: one of the daemon's tables of facts, as it answers. */

#include "server/base/cleanup.h"
#include "server/cli/answer.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"

#include <errno.h>

static const char help[] =
	"usage: litefunnel show DB WHAT [--like PATTERN] [--json] [options]\n"
	"\n"
	"Prints a table of the running daemon:\n"
	"\n"
	"  clients   pid uid user client label role class state in_flight requests out_bytes age_s\n"
	"  queue     class waiting\n"
	"  waits     position id state what class pid uid user client label age_ms digest sql: who has\n"
	"            the writer, and who waits for it\n"
	"  classes   class waiting served_total writer_us_total turns_total waited_us_total\n"
	"            waited_us_max slice_ms refused_total\n"
	"  readers   pid command namespace lock slot frames_pinned behind_s mark\n"
	"  chunks    name uid state rows of changes slices rows_per_s eta_s limit slice_ms longest_us\n"
	"            busy_us table key commit started_at ended_at error sql\n"
	"  leases    lease pid uid user label class state age_ms idle_ms steps sql\n"
	"  replicas  url state acks commit behind lag_ms segment waiting percent requests bytes_sent\n"
	"            failing_s error; and each with _today and _month: requests bytes received puts\n"
	"            gets lists deletes\n"
	"  drills    id replica verdict reason scheduled began_ms ended_ms commit segment digest behind\n"
	"            rpo_ms ship_ms rto_ms bytes database_bytes violations assertions tables\n"
	"  config    name value default source reloads help\n"
	"  stats     name value\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --like PATTERN  only rows whose name matches, such as 'wal_*': the name or url; of clients\n"
	"                  the client, of waits and leases the label, of readers the command, of\n"
	"                  drills the replica, of queue and classes the class\n"
	"  --json          an array of objects\n"
	"  --deadline T    give up after 500ms, 30s, 5m [5s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage, 4 daemon not reachable.\n";

enum { OPTION_HELP, OPTION_LIKE, OPTION_JSON };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"like", required_argument, NULL, OPTION_LIKE},
	{"json", no_argument, NULL, OPTION_JSON},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

struct show {
	struct connect connect;
	const char *what;
	const char *like;
	bool json;
};

/* -1: go on. Otherwise the exit code. */
static int parse(struct show *show, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTION_LIKE) {
			show->like = optarg;
		} else if (option == OPTION_JSON) {
			show->json = true;
		} else if (option == OPTIONS_BAD || connect_option(&show->connect, option) != 0) {
			return CLI_USAGE;
		}
	}
	show->connect.db = options_db(options, 1);
	show->what = options_shift(options);
	if (show->connect.db == NULL) {
		return CLI_USAGE;
	}
	if (show->what == NULL) {
		return cli_usage("show",
			"what? clients, queue, waits, classes, readers, chunks, leases, replicas, drills, config or "
			"stats");
	}
	return options_finish(options) != 0 ? CLI_USAGE : -1;
}

int cli_show(int argc, char **argv)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	struct show show = {.connect = {.command = "show", .deadline_ms = CONNECT_PROMPT_MS}};
	struct options options;
	options_init(&options, "show", table, argc, argv);
	int code = parse(&show, &options);
	if (code >= 0) {
		return code;
	}
	code = connect_open(&show.connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	int result = lf_show(db, show.what, show.like, &reply);
	if (result != LF_OK) {
		return connect_report(&show.connect, db, result, reply);
	}
	enum print_format format = show.json ? PRINT_JSON : print_format_for(stdout);
	if (answer_rows(reply, 0, format, true) == -ENOMEM) {
		return cli_fail("show", "out of memory");
	}
	return print_flush("show") == 0 ? CLI_DONE : CLI_FAILED;
}
