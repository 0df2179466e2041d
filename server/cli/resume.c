/* SPDX-License-Identifier: MIT */

/* litefunnel resume: the end of a pause. */

#include "server/cli/cli.h"
#include "server/cli/verb.h"

#include <inttypes.h>
#include <stdio.h>

static const char help[] =
	"usage: litefunnel resume DB [--shipping] [--json] [options]\n"
	"\n"
	"Ends a pause: what has waited runs, in its order. Without a pause it does nothing.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --shipping      the pause of the shipper\n"
	"  --json          an object {\"paused_ms\"}\n"
	"  --deadline T    give up after 500ms, 30s, 5m [30s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage, 3 unknown outcome, 4 daemon not reachable.\n";

enum { OPTION_SHIPPING = 1 };

static const struct option table[] = {
	{"shipping", no_argument, NULL, OPTION_SHIPPING},
	VERB_OPTIONS,
	{NULL, 0, NULL, 0},
};

static int take_option(struct verb *verb, int option)
{
	(void)option;
	verb->key = "shipping";
	verb->value = 1;
	return CLI_DONE;
}

static int print(const struct verb *verb, const lf_reply *reply)
{
	int64_t ms = verb_number(reply, "paused_ms");
	if (verb->json) {
		printf("{\"paused_ms\":%" PRId64 "}\n", ms);
	} else if (ms == 0) {
		puts("it was not paused");
	} else {
		printf("resumed after %.1f s\n", (double)ms / 1000);
	}
	return CLI_DONE;
}

int cli_resume(int argc, char **argv)
{
	struct verb verb = {.name = "resume",
		.help = help,
		.table = table,
		.option = take_option,
		.print = print};
	return verb_run(&verb, argc, argv);
}
