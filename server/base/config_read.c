/* SPDX-License-Identifier: MIT */

/*
 * Settings from files and from the environment. It knows the shape of both and no setting. What it
 * keeps true: a name that means nothing is an error wherever it stands, so that a slip of the pen is
 * not taken for the default.
 */

#include "server/base/config.h"

#include "server/base/cleanup.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char prefix[] = "LITEFUNNEL_";

/* Variables that are no settings: of commands, and of the tests and scripts around them. */
static const char *const others[] = {
	"DB", "CONFIG", "READY_FD", "BIN", "BUILD", "TOOLS", "TEST_S3"};

/* ---- the file ---- */

struct reading {
	struct config *config;
	FILE *file;
	char *error; /* of the first line that is wrong, "" if none is */
	int lines;
	int long_line; /* the number of the line that did not fit, 0: none */
	bool seen[SETTING_COUNT];
};

/*
 * As fgets(), for inih, which would take the rest of a line that does not fit for the next line, and
 * an indented line for the value of the one before.
 */
static char *read_line(char *text, int bytes, void *stream)
{
	struct reading *reading = stream;
	if (fgets(text, bytes, reading->file) == NULL) {
		return NULL;
	}
	size_t len = strlen(text);
	reading->lines++;
	if ((len == 0 || text[len - 1] != '\n') && !feof(reading->file)) {
		reading->long_line = reading->lines;
		return NULL;
	}
	size_t indent = strspn(text, " \t");
	memmove(text, text + indent, len - indent + 1);
	return text;
}

static int ini_line(void *ctx, const char *section, const char *name, const char *value)
{
	struct reading *reading = ctx;
	if (reading->error[0] != 0) {
		return 0; /* inih goes on, but tells the number of the first */
	}
	if (section[0] != 0) {
		config_fail(reading->error,
			"section [%s]: a litefunnel config file has no sections", section);
		return 0;
	}
	const struct setting *setting = setting_find(name);
	if (setting != NULL && reading->seen[setting - settings]) {
		config_fail(reading->error, "%s is set twice: which one is meant?", name);
		return 0;
	}
	if (setting != NULL) {
		reading->seen[setting - settings] = true;
	}
	return config_set(reading->config, name, value != NULL ? value : "", SETTING_FROM_FILE,
		       reading->error) == 0;
}

int config_read_file(struct config *config, const char *path, char ret_error[CONFIG_ERROR_BYTES])
{
	char reason[CONFIG_ERROR_BYTES] = "";
	struct reading reading = {.config = config, .error = reason};
	reading.file = fopen(path, "re");
	if (reading.file == NULL) {
		return config_fail(ret_error, "cannot read %s: %s", path, strerror(errno));
	}
	errno = 0;
	int line = ini_parse_stream(read_line, &reading, ini_line, &reading);
	int unread = ferror(reading.file) ? errno : 0;
	fclose(reading.file);
	if (unread != 0) {
		return config_fail(ret_error, "cannot read %s: %s", path, strerror(unread));
	}
	if (line == 0 && reading.long_line != 0) {
		return config_fail(ret_error,
			"%s:%d: the line is too long, or holds a NUL (for a long value: the variable "
			"LITEFUNNEL_<NAME>_FILE)",
			path, reading.long_line);
	}
	if (line != 0) {
		return config_fail(ret_error, "%s:%d: %.300s", path, line,
			reason[0] != 0 ? reason : "not a line of the form `name = value`");
	}
	free(config->file);
	config->file = strdup(path);
	return config->file != NULL ? 0 : -ENOMEM;
}

/* ---- the environment ---- */

/* The first line of the file that LITEFUNNEL_<KEY>_FILE names. */
static int read_value_file(const char *path, char **ret_value, char *ret_error)
{
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0;
	FILE *file = fopen(path, "re");
	if (file == NULL) {
		return config_fail(ret_error, "cannot read %s: %s", path, strerror(errno));
	}
	ssize_t len = getline(&line, &cap, file);
	fclose(file);
	if (len < 0) {
		return config_fail(ret_error, "%s is empty", path);
	}
	line[strcspn(line, "\r\n")] = 0;
	*ret_value = line;
	line = NULL;
	return 0;
}

enum { VARIABLE_BYTES = 64 };

static void name_variable(
	const struct setting *setting, const char *suffix, char ret_name[VARIABLE_BYTES])
{
	size_t len = (size_t)snprintf(ret_name, VARIABLE_BYTES, "%s%s", prefix, setting->name);
	for (size_t i = 0; i < len; i++) {
		ret_name[i] = (char)toupper((unsigned char)ret_name[i]);
	}
	snprintf(ret_name + len, VARIABLE_BYTES - len, "%s", suffix);
}

static int read_variable(struct config *config, const struct setting *setting, char *ret_error)
{
	char name[VARIABLE_BYTES];
	CLEANUP_FREE char *from_file = NULL;
	name_variable(setting, "", name);
	const char *value = getenv(name);
	if (value == NULL) {
		name_variable(setting, "_FILE", name);
		const char *path = getenv(name);
		if (path == NULL) {
			return 0;
		}
		int rc = read_value_file(path, &from_file, ret_error);
		if (rc < 0) {
			return rc;
		}
		value = from_file;
	}
	char reason[CONFIG_ERROR_BYTES];
	int rc = config_set(config, setting->name, value, SETTING_FROM_ENVIRONMENT, reason);
	return rc == -EINVAL ? config_fail(ret_error, "%s: %.400s", name, reason) : rc;
}

/*
 * Kubernetes tells every container of the services beside it: one that is called litefunnel, or
 * litefunnel-something, gives variables of our prefix.
 */
static bool is_of_kubernetes(const char *name, const char *value)
{
	const char *service = strstr(name, "SERVICE_");
	const char *port = strstr(name, "PORT");
	return (service != NULL &&
		       (strcmp(service, "SERVICE_HOST") == 0 ||
			       strncmp(service, "SERVICE_PORT", strlen("SERVICE_PORT")) == 0)) ||
		(port != NULL && strstr(value, "://") != NULL) ||
		(port != NULL && port[strlen("PORT")] == '_' &&
			isdigit((unsigned char)port[strlen("PORT_")]));
}

static bool is_known(const char *name, const char *value)
{
	char known[VARIABLE_BYTES];
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		name_variable(&settings[i], "", known);
		if (strcmp(name, known) == 0) {
			return true;
		}
		name_variable(&settings[i], "_FILE", known);
		if (strcmp(name, known) == 0) {
			return true;
		}
	}
	name += strlen(prefix);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		if (strcmp(name, others[i]) == 0) {
			return true;
		}
	}
	return is_of_kubernetes(name, value);
}

static int refuse_unknown(char *ret_error)
{
	for (char **at = environ; *at != NULL; at++) {
		char name[96];
		size_t len = strcspn(*at, "=");
		if (strncmp(*at, prefix, strlen(prefix)) != 0 || (*at)[len] == 0) {
			continue;
		}
		snprintf(name, sizeof(name), "%.*s", (int)len, *at);
		if (!is_known(name, *at + len + 1)) {
			return config_fail(ret_error,
				"%s: there is no such setting: `litefunnel serve --help` lists them",
				name);
		}
	}
	return 0;
}

int config_read_environment(struct config *config, char ret_error[CONFIG_ERROR_BYTES])
{
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		int rc = read_variable(config, &settings[i], ret_error);
		if (rc < 0) {
			return rc;
		}
	}
	return refuse_unknown(ret_error);
}
