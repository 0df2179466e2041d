/* SPDX-License-Identifier: MIT */

/* litefunnel kill: the end of one request of somebody else's. */

#include "server/cli/cli.h"
#include "server/cli/text.h"
#include "server/cli/verb.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
	"usage: litefunnel kill DB ID [--json] [options]\n"
	"\n"
	"Ends a request, by its number in `litefunnel show DB waits`. One that waits is cancelled. A\n"
	"lease or a chunk that has the writer is interrupted. A batch that already runs is not: it ends\n"
	"by itself, at the latest at the setting exec_timeout.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  ID              the number\n"
	"  --json          an object {\"state\": \"cancelled\", \"interrupted\" or \"running\"}\n"
	"  --deadline T    give up after 500ms, 30s, 5m [30s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 it runs already, or there is none, 2 usage, 3 unknown outcome,\n"
	"4 daemon not reachable.\n";

static const struct option table[] = {
	VERB_OPTIONS,
	{NULL, 0, NULL, 0},
};

static int take_id(struct verb *verb, struct options *options)
{
	const char *text = options_shift(options);
	char *end = NULL;
	if (text == NULL) {
		return cli_usage(
			"kill", "which request? its number stands in `litefunnel show DB waits`");
	}
	errno = 0;
	verb->key = "id";
	verb->value = strtoll(text, &end, 10);
	return errno == 0 && end != text && *end == 0 && verb->value > 0
		? CLI_DONE
		: cli_usage("kill", "%s is no number of a request", text);
}

static int print(const struct verb *verb, const lf_reply *reply)
{
	const char *state = "";
	size_t len = 0;
	(void)lf_reply_field_text(reply, "state", &state, &len);
	bool runs = len == strlen("running") && memcmp(state, "running", len) == 0;
	if (verb->json) {
		fputs("{\"state\":", stdout);
		text_json(stdout, state, len);
		puts("}");
	} else if (runs) {
		cli_fail("kill", "%lld runs already: a batch ends by itself",
			(long long)verb->value);
	} else {
		printf("%.*s\n", (int)len, state);
	}
	return runs ? CLI_FAILED : CLI_DONE;
}

int cli_kill(int argc, char **argv)
{
	struct verb verb = {.name = "kill",
		.help = help,
		.table = table,
		.wanted = 1,
		.arguments = take_id,
		.print = print};
	return verb_run(&verb, argc, argv);
}
