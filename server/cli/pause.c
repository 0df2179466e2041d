/* SPDX-License-Identifier: MIT */

/* litefunnel pause: what runs ends, what comes waits. */

#include "server/cli/cli.h"
#include "server/cli/verb.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
	"usage: litefunnel pause DB [--shipping] [--for T] [--json] [options]\n"
	"\n"
	"Holds the writer: what runs goes on to its end, what comes waits, and nobody gets an error for\n"
	"it but at a deadline that he has set himself. Reads go on. Returns when nothing runs any more.\n"
	"Ends with `litefunnel resume`, or by itself after --for.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --shipping      hold the shipper instead: writes go on, and wait in the spool for their way to\n"
	"                  the replicas, up to spool_max; nothing at all is asked of a replica\n"
	"  --for T         resume by itself after 500ms, 30s, 5m, 1h; again: from now on [never]\n"
	"  --json          an object {\"state\", \"commit\"}\n"
	"  --deadline T    give up after 500ms, 30s, 5m [30s]; then it is held all the same\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage, 3 unknown outcome, 4 daemon not reachable, or what\n"
	"runs has not ended in time.\n";

enum { OPTION_FOR = 1, OPTION_SHIPPING };

static const struct option table[] = {
	{"shipping", no_argument, NULL, OPTION_SHIPPING},
	{"for", required_argument, NULL, OPTION_FOR},
	VERB_OPTIONS,
	{NULL, 0, NULL, 0},
};

static int take_option(struct verb *verb, int option)
{
	unsigned ms = 0;
	if (option == OPTION_SHIPPING) {
		verb->key = "shipping"; /* with its time, or 0 */
		return CLI_DONE;
	}
	if (!options_duration(optarg, &ms)) {
		return cli_usage("pause", "--for %s: use 500ms, 30s, 5m or 1h", optarg);
	}
	verb->key = verb->key != NULL ? verb->key : "for_ms";
	verb->value = ms;
	return CLI_DONE;
}

static int print(const struct verb *verb, const lf_reply *reply)
{
	int64_t commit = verb_number(reply, "commit");
	bool shipping = strcmp(verb->key != NULL ? verb->key : "", "shipping") == 0;
	if (verb->json) {
		printf("{\"state\":\"paused\",\"commit\":%" PRId64 "}\n", commit);
	} else {
		printf(shipping ? "shipping is paused; the replicas are at commit %" PRId64 "\n"
				: "paused at commit %" PRId64 "\n",
			commit);
	}
	return CLI_DONE;
}

int cli_pause(int argc, char **argv)
{
	struct verb verb = {.name = "pause",
		.help = help,
		.table = table,
		.option = take_option,
		.print = print};
	return verb_run(&verb, argc, argv);
}
