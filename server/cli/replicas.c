/* SPDX-License-Identifier: MIT */

/* Which replicas a database has, asked of the settings as `serve` reads them. */

#include "server/cli/replicas.h"

#include "server/base/cleanup.h"
#include "server/base/config.h"
#include "server/base/place.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/lock.h"
#include "server/ship/replica.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool replicas_is_url(const char *arg)
{
	return strstr(arg, "://") != NULL;
}

/* /etc/litefunnel/NAME.conf for …/NAME.db, if it is there. */
static bool packaged_config(const char *db, char *ret_path, size_t bytes)
{
	const char *slash = strrchr(db, '/');
	const char *name = slash != NULL ? slash + 1 : db;
	size_t len = strlen(name);
	if (len > 3 && strcmp(name + len - 3, ".db") == 0) {
		len -= 3;
	}
	int n = snprintf(ret_path, bytes, "/etc/litefunnel/%.*s.conf", (int)len, name);
	return len > 0 && n > 0 && (size_t)n < bytes && access(ret_path, R_OK) == 0;
}

static int read_settings(
	const char *command, const char *db, const char *file, struct config *config)
{
	char packaged[512];
	char error[CONFIG_ERROR_BYTES] = "out of memory";
	const char *given = file != NULL ? file : getenv("LITEFUNNEL_CONFIG");
	int rc = config_init(config);
	rc = rc == 0 ? config_read_environment(config, error) : rc;
	if (rc == 0 && given != NULL && given[0] != '\0') {
		rc = config_read_file(config, given, error);
	} else if (rc == 0 && packaged_config(db, packaged, sizeof packaged)) {
		rc = config_read_file(config, packaged, error);
	}
	return rc == 0 ? 0 : cli_usage(command, "%s", error);
}

static const char gaps[] = " \t,"; /* between two URLs, as the shipper parts them */

static int split(const char *command, const char *text, struct replicas *replicas)
{
	char *rest = NULL;
	replicas->text = strdup(text);
	if (replicas->text == NULL) {
		return cli_fail(command, "out of memory");
	}
	for (char *url = strtok_r(replicas->text, gaps, &rest); url != NULL;
		url = strtok_r(NULL, gaps, &rest)) {
		if (replicas->count == REPLICAS_MAX) {
			return cli_usage(command, "more than %d replicas", REPLICAS_MAX);
		}
		replicas->urls[replicas->count++] = url;
	}
	return 0;
}

/* A daemon that runs may have been told its replicas on its command line. None: no replicas, and 0. */
static int ask_daemon(const char *command, const char *db, struct replicas *replicas)
{
	CLEANUP(connect_close) lf_db *client = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	const struct connect connect = {
		.command = command, .db = db, .deadline_ms = CONNECT_PROMPT_MS};
	struct place place;
	char text[4096] = "";
	char error[PLACE_TEXT_BYTES];
	if (place_resolve(db, NULL, &place, error, sizeof error) != 0) {
		return 0;
	}
	bool runs = lock_look(place.lock).state == LOCK_HELD;
	place_finish(&place);
	if (!runs || connect_open(&connect, &client) != CLI_DONE ||
		lf_show(client, "config", "replica", &reply) != LF_OK ||
		lf_reply_rows(reply, 0) != 1) {
		return 0;
	}
	size_t len = 0;
	const char *value = lf_reply_text(reply, 0, 0, 1, &len);
	if (value != NULL && len < sizeof text) {
		memcpy(text, value, len);
	}
	replicas_finish(replicas);
	return split(command, text, replicas);
}

int replicas_find(
	const char *command, const char *arg, const char *config, struct replicas *ret_replicas)
{
	CLEANUP(config_finish) struct config set = {0};
	*ret_replicas = (struct replicas){0};
	if (replicas_is_url(arg)) {
		return split(command, arg, ret_replicas);
	}
	int code = read_settings(command, arg, config, &set);
	if (code == 0) {
		code = split(command, config_text(&set, SETTING_REPLICA), ret_replicas);
	}
	if (code == 0 && ret_replicas->count == 0 && config == NULL) {
		code = ask_daemon(command, arg, ret_replicas);
	}
	if (code == 0 && ret_replicas->count == 0) {
		code = cli_usage(command,
			"no replica is known for %s: give its URL, or --config FILE with a line "
			"`replica = URL`, or set LITEFUNNEL_REPLICA",
			arg);
	}
	return code;
}

/* Whether that is the URL of a replica; nothing is asked of the place. */
static int check(const char *url, char *ret_error, size_t size)
{
	struct replica *replica = NULL;
	struct replica_error error;
	int rc = replica_open(url, &replica, &error);
	if (rc == 0) {
		replica_free(replica);
	} else {
		snprintf(
			ret_error, size, "replica: %s", rc == -EINVAL ? error.text : strerror(-rc));
	}
	return rc;
}

bool replicas_have_keys(const char *text)
{
	const char *s3 = strstr(text, "s3://");
	return s3 != NULL && strchr(s3, '@') != NULL;
}

int replicas_check(const char *text, char *ret_error, size_t size)
{
	char *rest = NULL;
	char *own = strdup(text);
	size_t count = 0;
	int rc = 0;
	if (own == NULL) {
		snprintf(ret_error, size, "out of memory");
		return -ENOMEM;
	}
	for (char *url = strtok_r(own, gaps, &rest); rc == 0 && url != NULL;
		url = strtok_r(NULL, gaps, &rest)) {
		rc = check(url, ret_error, size);
		count++;
	}
	free(own);
	if (rc == 0 && count > REPLICAS_MAX) {
		snprintf(ret_error, size, "replica: more than %d URLs", REPLICAS_MAX);
		rc = -EINVAL;
	}
	return rc;
}

void replicas_finish(struct replicas *replicas)
{
	free(replicas->text);
	*replicas = (struct replicas){0};
}
