/* SPDX-License-Identifier: MIT */

/* litefunnel optimize: fresh statistics for SQLite's planner. */

#include "server/cli/cli.h"
#include "server/cli/verb.h"

#include <inttypes.h>
#include <stdio.h>

static const char help[] =
	"usage: litefunnel optimize DB [--json] [options]\n"
	"\n"
	"Takes samples of every index, so that SQLite chooses well among them (ANALYZE with an\n"
	"analysis_limit of 1000). It holds the writer for milliseconds, or a second in a database of\n"
	"very many indexes. Worth it after the amount or the kind of the data has changed.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --json          an object {\"took_ms\", \"commit\"}\n"
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
	printf(verb->json ? "{\"took_ms\":%" PRId64 ",\"commit\":%" PRId64 "}\n"
			  : "done in %" PRId64 " ms, commit %" PRId64 "\n",
		verb_number(reply, "took_ms"), (int64_t)lf_reply_commit(reply));
	return CLI_DONE;
}

int cli_optimize(int argc, char **argv)
{
	struct verb verb = {.name = "optimize", .help = help, .table = table, .print = print};
	return verb_run(&verb, argc, argv);
}
