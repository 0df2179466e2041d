/* SPDX-License-Identifier: MIT */

/* litefunnel watch: a line for each commit that changed what is watched. */

#include "server/base/cleanup.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/print.h"
#include "server/cli/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
	"usage: litefunnel watch DB [TABLE…] [--channel NAME]… [--count N] [--json] [options]\n"
	"\n"
	"Prints a line for each commit that changed one of the tables, or in which somebody called\n"
	"lf_notify('NAME') for one of the channels; without tables and channels, for each commit. Goes\n"
	"on when the daemon restarts. What may have been missed is said as a range of commits. Names of\n"
	"tables are matched as in SQL, without regard to case; one that does not exist is named.\n"
	"\n"
	"  DB              path of the database; alone, it may be left out for LITEFUNNEL_DB\n"
	"  --channel NAME  watch that channel, too; any number of times\n"
	"  --count N       end after so many lines\n"
	"  --json          a line is an object: {\"commit\", \"tables\", \"channels\"} or {\"missed\"}\n"
	"  --deadline T    give up if no daemon answers within 500ms, 30s, 5m [5s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Says \"watching\" on stderr once nothing is left out any more. A channel is printed as #NAME.\n"
	"Exit codes: 0 the count is reached, 1 failed, 2 usage, 4 daemon not reachable.\n";

enum { OPTION_HELP, OPTION_CHANNEL, OPTION_COUNT, OPTION_JSON };

enum { LOOK_MS = 500 /* in a pause nobody can look */ };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"channel", required_argument, NULL, OPTION_CHANNEL},
	{"count", required_argument, NULL, OPTION_COUNT},
	{"json", no_argument, NULL, OPTION_JSON},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

struct watching {
	struct connect connect;
	const char **tables; /* each list ends with NULL and has room for all arguments */
	const char **channels;
	size_t channels_count;
	uint64_t count; /* 0: no end */
	bool json;
};

static int parse_count(struct watching *watching)
{
	char *end = NULL;
	errno = 0;
	watching->count = strtoull(optarg, &end, 10);
	return errno != 0 || end == optarg || *end != 0 || optarg[0] == '-' || watching->count == 0
		? cli_usage("watch", "--count: \"%s\" is no number from 1", optarg)
		: 0;
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct watching *watching, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTION_CHANNEL) {
			watching->channels[watching->channels_count++] = optarg;
		} else if (option == OPTION_COUNT) {
			if (parse_count(watching) != 0) {
				return CLI_USAGE;
			}
		} else if (option == OPTION_JSON) {
			watching->json = true;
		} else if (option == OPTIONS_BAD ||
			connect_option(&watching->connect, option) != 0) {
			return CLI_USAGE;
		}
	}
	watching->connect.db = options_db(options, 0);
	for (size_t i = 0; watching->connect.db != NULL; i++) {
		watching->tables[i] = options_shift(options);
		if (watching->tables[i] == NULL) {
			break;
		}
	}
	return watching->connect.db == NULL ? CLI_USAGE : -1;
}

static void print_names_json(const char *key, const lf_change *change, size_t count,
	const char *(*name)(const lf_change *change, size_t index))
{
	printf(", \"%s\": [", key);
	for (size_t i = 0; i < count; i++) {
		fputs(i > 0 ? ", " : "", stdout);
		text_json_cstr(stdout, name(change, i));
	}
	putchar(']');
}

static void print_json(const lf_change *change)
{
	if (lf_change_kind(change) == LF_CHANGE_MISSED) {
		printf("{\"missed\": {\"from\": %" PRIu64 ", \"to\": %" PRIu64 "}}\n",
			lf_change_from(change), lf_change_commit(change));
		return;
	}
	printf("{\"commit\": %" PRIu64, lf_change_commit(change));
	print_names_json("tables", change, lf_change_tables(change), lf_change_table);
	print_names_json("channels", change, lf_change_channels(change), lf_change_channel);
	printf("%s}\n", lf_change_schema(change) ? ", \"schema\": true" : "");
}

/* Names are a client's: nothing of them may speak to the terminal. */
static void print_name(const char *prefix, const char *name)
{
	fputs(prefix, stdout);
	for (const unsigned char *at = (const unsigned char *)name; *at != 0; at++) {
		if (*at < ' ' || *at == 0x7f) {
			printf("\\x%02x", *at);
		} else {
			putchar(*at);
		}
	}
}

static void print_line(const lf_change *change)
{
	if (lf_change_kind(change) == LF_CHANGE_MISSED) {
		printf("missed %" PRIu64 " to %" PRIu64 "\n", lf_change_from(change),
			lf_change_commit(change));
		return;
	}
	printf("commit %" PRIu64, lf_change_commit(change));
	for (size_t i = 0; i < lf_change_tables(change); i++) {
		print_name(" ", lf_change_table(change, i));
	}
	for (size_t i = 0; i < lf_change_channels(change); i++) {
		print_name(" #", lf_change_channel(change, i));
	}
	puts(lf_change_schema(change) ? " (the schema)" : "");
}

static int follow(const struct watching *watching, lf_db *db)
{
	for (uint64_t lines = 0; watching->count == 0 || lines < watching->count; lines++) {
		lf_change *change = NULL;
		if (lf_next_change(db, -1, &change) != 0) {
			lines--;
			continue;
		}
		if (lf_change_kind(change) == LF_CHANGE_ENDED) {
			cli_fail("watch", "%s", lf_change_message(change));
			lf_change_free(change);
			return CLI_FAILED;
		}
		if (watching->json) {
			print_json(change);
		} else {
			print_line(change);
		}
		lf_change_free(change);
		if (print_flush("watch") != 0) {
			return CLI_FAILED;
		}
	}
	return CLI_DONE;
}

/* False also if nobody can tell now. */
static bool is_missing(lf_db *db, const char *name)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	lf_batch *batch = lf_batch_new();
	if (batch == NULL) {
		return false;
	}
	lf_batch_step(batch, "SELECT 1 FROM pragma_table_list WHERE name = ? COLLATE NOCASE");
	lf_bind_text(batch, name, -1);
	lf_batch_deadline(batch, LOOK_MS);
	int result = lf_write(db, batch, &reply);
	lf_batch_free(batch);
	return result == LF_OK && lf_reply_rows(reply, 0) == 0;
}

/* A table may come later; a name that was mistyped is waited for in vain. */
static void name_missing(const struct watching *watching, lf_db *db)
{
	for (size_t i = 0; watching->tables[i] != NULL; i++) {
		if (is_missing(db, watching->tables[i])) {
			cli_fail("watch", "there is no table \"%s\" yet", watching->tables[i]);
		}
	}
}

static int run(const struct watching *watching)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	uint64_t watch = 0;
	int code = connect_open(&watching->connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	int r = lf_watch(db, watching->tables, watching->channels, &watch);
	if (r != 0) {
		cli_fail("watch", "%s", lf_errmsg(db));
		return r == -ETIMEDOUT ? CLI_UNREACHABLE : CLI_FAILED;
	}
	name_missing(watching, db);
	fputs("watching\n", stderr);
	return follow(watching, db);
}

int cli_watch(int argc, char **argv)
{
	struct watching watching = {
		.connect = {.command = "watch", .deadline_ms = CONNECT_PROMPT_MS}};
	struct options options;
	watching.tables = calloc((size_t)argc + 1, sizeof(*watching.tables));
	watching.channels = calloc((size_t)argc + 1, sizeof(*watching.channels));
	int code = CLI_FAILED;
	if (watching.tables == NULL || watching.channels == NULL) {
		cli_fail("watch", "out of memory");
	} else {
		options_init(&options, "watch", table, argc, argv);
		code = parse(&watching, &options);
		code = code >= 0 ? code : run(&watching);
	}
	free(watching.tables);
	free(watching.channels);
	return code;
}
