/* SPDX-License-Identifier: MIT */

/* What pause, resume, checkpoint and kill have in common: everything but what they say. */

#include "server/cli/verb.h"

#include "server/base/cleanup.h"
#include "server/cli/cli.h"
#include "server/cli/print.h"

#include <stdio.h>

/* -1: go on. Otherwise the exit code. */
static int parse(struct verb *verb, struct connect *connect, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		int code = CLI_DONE;
		if (option == VERB_OPTION_HELP) {
			fputs(verb->help, stdout);
			return CLI_DONE;
		}
		if (option == VERB_OPTION_JSON) {
			verb->json = true;
		} else if (option == OPTIONS_BAD) {
			return CLI_USAGE;
		} else if (option >= CONNECT_OPTION_SOCKET) {
			code = connect_option(connect, option);
		} else {
			code = verb->option(verb, option);
		}
		if (code != CLI_DONE) {
			return code;
		}
	}
	connect->db = options_db(options, verb->wanted);
	if (connect->db == NULL ||
		(verb->arguments != NULL && verb->arguments(verb, options) != CLI_DONE)) {
		return CLI_USAGE;
	}
	return options_finish(options) != 0 ? CLI_USAGE : -1;
}

int verb_run(struct verb *verb, int argc, char **argv)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	struct connect connect = {.command = verb->name};
	struct options options;
	options_init(&options, verb->name, verb->table, argc, argv);
	int code = parse(verb, &connect, &options);
	if (code >= 0) {
		return code;
	}
	code = connect_open(&connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	int result = verb->key != NULL
		? lf_admin_int64(db, verb->name, verb->key, verb->value, &reply)
		: lf_admin(db, verb->name, &reply);
	if (result != LF_OK) {
		return connect_report(&connect, db, result, reply);
	}
	code = verb->print(verb, reply);
	return print_flush(verb->name) == 0 ? code : CLI_FAILED;
}

int64_t verb_number(const lf_reply *reply, const char *key)
{
	int64_t value = 0;
	return lf_reply_field_int64(reply, key, &value) ? value : 0;
}
