/* SPDX-License-Identifier: MIT */

/* Between a command and the client library. The only place that turns outcomes into exit codes. */

#include "server/cli/connect.h"

#include "server/cli/cli.h"

#include <errno.h>
#include <string.h>

/* A command would rather say what became of it than be in time: a busy machine answers late. */
enum { GRACE_MS = 5000 };

int connect_option(struct connect *connect, int option)
{
	static const char *const classes[] = {"interactive", "normal", "bulk"};
	switch (option) {
	case CONNECT_OPTION_SOCKET:
		connect->socket = optarg;
		return 0;
	case CONNECT_OPTION_DEADLINE:
		return options_duration(optarg, &connect->deadline_ms)
			? 0
			: cli_usage(connect->command, "--deadline %s: use 500ms, 30s, 5m or 1h",
				  optarg);
	default:
		break;
	}
	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
		if (strcmp(optarg, classes[i]) == 0) {
			connect->request_class = classes[i];
			return 0;
		}
	}
	return cli_usage(connect->command, "--class %s: use interactive, normal or bulk", optarg);
}

int connect_open(const struct connect *connect, lf_db **ret_db)
{
	struct lf_options options = LF_OPTIONS_INIT;
	options.socket_path = connect->socket;
	options.client = "litefunnel-cli/" LITEFUNNEL_VERSION;
	options.label = connect->command;
	options.request_class = connect->request_class;
	options.deadline_ms = connect->deadline_ms;
	options.grace_ms = GRACE_MS;
	int rc = lf_open(connect->db, &options, ret_db);
	if (rc == -ENAMETOOLONG) {
		return cli_usage(connect->command,
			"the socket's path is longer than 107 bytes: give it a short one with --socket, "
			"here and to the daemon");
	}
	return rc == 0 ? 0 : cli_fail(connect->command, "%s: %s", connect->db, strerror(-rc));
}

void connect_close(lf_db **db)
{
	lf_close(*db);
	*db = NULL;
}

void connect_free_reply(lf_reply **reply)
{
	lf_reply_free(*reply);
	*reply = NULL;
}

/* Surely not applied, because nobody took it in time. A step that ran too long was taken. */
static bool never_accepted(const lf_reply *reply)
{
	const char *code = lf_reply_code(reply);
	return lf_reply_failed_step(reply) < 0 &&
		(strcmp(code, "deadline") == 0 || strcmp(code, "overloaded") == 0 ||
			strcmp(code, "shutting_down") == 0);
}

bool connect_unshipped(const lf_reply *reply)
{
	return reply != NULL && strcmp(lf_reply_code(reply), "not_shipped") == 0;
}

int connect_code(int result, const lf_reply *reply)
{
	if (result == LF_OK) {
		return connect_unshipped(reply) ? CLI_PARTLY : CLI_DONE;
	}
	if (result == LF_UNKNOWN) {
		return CLI_UNKNOWN;
	}
	return reply != NULL && never_accepted(reply) ? CLI_UNREACHABLE : CLI_FAILED;
}

int connect_report(
	const struct connect *connect, const lf_db *db, int result, const lf_reply *reply)
{
	int code = connect_code(result, reply);
	if (result < 0) {
		const char *why = lf_errmsg(db);
		cli_fail(connect->command, "%s", why[0] != '\0' ? why : strerror(-result));
	} else if (code == CLI_UNKNOWN) {
		cli_fail(connect->command, "outcome unknown: %s", lf_reply_message(reply));
	} else if (code == CLI_PARTLY) {
		cli_fail(connect->command,
			"%s; do not send it again: `litefunnel sync %s` waits for it",
			lf_reply_message(reply), connect->db);
	} else if (code != CLI_DONE || (reply != NULL && lf_reply_code(reply)[0] != '\0')) {
		cli_fail(connect->command, "%s", lf_reply_message(reply));
	}
	return code;
}
