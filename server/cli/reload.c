/* SPDX-License-Identifier: MIT */

/*
 * litefunnel reload: the daemon reads its settings again. It asks for the settings before and
 * after, to say what changed from what to what.
 */

#include "server/base/cleanup.h"
#include "server/cli/answer.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/text.h"

#include <string.h>

static const char help[] =
	"usage: litefunnel reload DB [--json] [options]\n"
	"\n"
	"Lets the running daemon read its config file again, as SIGHUP does, and prints the settings\n"
	"that changed. If anything in the file is wrong, nothing changes. A setting that needs a\n"
	"restart (`litefunnel show DB config` says which do) stays as it is, and the daemon logs it.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --json          an object {\"changed\": [{\"name\", \"was\", \"is\"}]}\n"
	"  --deadline T    give up after 500ms, 30s, 5m [5s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage, 3 unknown outcome, 4 daemon not reachable.\n";

enum { OPTION_HELP, OPTION_JSON };

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

/* One cell of the table of settings: column 0 is the name, 1 the value. */
static struct print_value cell(const lf_reply *config, size_t row, size_t column)
{
	return answer_value(config, 0, row, column);
}

static bool same(const struct print_value *a, const struct print_value *b)
{
	return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static void print_change(
	const lf_reply *before, const lf_reply *after, size_t row, bool json, bool first)
{
	struct print_value name = cell(after, row, 0);
	struct print_value was = cell(before, row, 1);
	struct print_value is = cell(after, row, 1);
	if (!json) {
		printf("%.*s: %.*s -> %.*s\n", (int)name.len, name.data, (int)was.len, was.data,
			(int)is.len, is.data);
		return;
	}
	fputs(first ? "{\"name\":" : ",{\"name\":", stdout);
	text_json(stdout, name.data, name.len);
	fputs(",\"was\":", stdout);
	text_json(stdout, was.data, was.len);
	fputs(",\"is\":", stdout);
	text_json(stdout, is.data, is.len);
	fputc('}', stdout);
}

static int print_changes(const lf_reply *before, const lf_reply *after, bool json)
{
	size_t changes = 0;
	fputs(json ? "{\"changed\":[" : "", stdout);
	for (size_t row = 0; row < lf_reply_rows(after, 0); row++) {
		struct print_value names[] = {cell(before, row, 0), cell(after, row, 0)};
		struct print_value values[] = {cell(before, row, 1), cell(after, row, 1)};
		if (same(&names[0], &names[1]) && !same(&values[0], &values[1])) {
			print_change(before, after, row, json, changes == 0);
			changes++;
		}
	}
	fputs(json ? "]}\n" : changes == 0 ? "nothing changed\n" : "", stdout);
	return print_flush("reload") == 0 ? CLI_DONE : CLI_FAILED;
}

int cli_reload(int argc, char **argv)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	CLEANUP(connect_free_reply) lf_reply *before = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	CLEANUP(connect_free_reply) lf_reply *after = NULL;
	struct connect connect = {.command = "reload", .deadline_ms = CONNECT_PROMPT_MS};
	struct options options;
	bool json = false;
	options_init(&options, "reload", table, argc, argv);
	int code = parse(&connect, &options, &json);
	if (code >= 0) {
		return code;
	}
	code = connect_open(&connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	int result = lf_show(db, "config", NULL, &before);
	if (result != LF_OK) {
		return connect_report(&connect, db, result, before);
	}
	result = lf_admin(db, "reload", &reply);
	if (result != LF_OK) {
		return connect_report(&connect, db, result, reply);
	}
	if (lf_show(db, "config", NULL, &after) != LF_OK) {
		cli_fail("reload", "done, but the settings cannot be asked for any more");
		return CLI_DONE;
	}
	return print_changes(before, after, json);
}
