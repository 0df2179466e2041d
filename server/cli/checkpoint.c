/* SPDX-License-Identifier: MIT */

/* litefunnel checkpoint: the WAL is copied into the database now. */

#include "server/cli/cli.h"
#include "server/cli/verb.h"

#include <inttypes.h>
#include <stdio.h>

static const char help[] =
	"usage: litefunnel checkpoint DB [--json] [options]\n"
	"\n"
	"Copies what the WAL holds into the database file, now and not when it is due. It goes before\n"
	"all that waits, also during a pause. What a reader still needs stays; `litefunnel show DB\n"
	"readers` names it.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --json          an object {\"frames\", \"backfilled\", \"put_off\"}\n"
	"  --deadline T    give up after 500ms, 30s, 5m [30s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage, 3 unknown outcome, 4 daemon not reachable.\n";

static const struct option table[] = {
	VERB_OPTIONS,
	{NULL, 0, NULL, 0},
};

static int print(const struct verb *verb, const lf_reply *reply)
{
	int64_t frames = verb_number(reply, "frames");
	int64_t backfilled = verb_number(reply, "backfilled");
	if (verb->json) {
		printf("{\"frames\":%" PRId64 ",\"backfilled\":%" PRId64 ",\"put_off\":%s}\n",
			frames, backfilled, verb_number(reply, "put_off") != 0 ? "true" : "false");
		return CLI_DONE;
	}
	printf("%" PRId64 " of %" PRId64 " pages of the WAL are in the database", backfilled,
		frames);
	if (verb_number(reply, "put_off") != 0) {
		puts("; the rest must be shipped first (litefunnel show DB replicas)");
	} else if (backfilled < frames) {
		puts("; readers hold back the rest (litefunnel show DB readers)");
	} else {
		putchar('\n');
	}
	return CLI_DONE;
}

int cli_checkpoint(int argc, char **argv)
{
	struct verb verb = {.name = "checkpoint", .help = help, .table = table, .print = print};
	return verb_run(&verb, argc, argv);
}
