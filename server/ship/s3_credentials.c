/* SPDX-License-Identifier: MIT */

/*
 * Looks for credentials in the environment and in files. Buffers that held them are wiped; they are
 * never part of an error.
 */

#include "server/ship/s3_credentials.h"

#include "server/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_BYTES_MAX = 64 * 1024 };

/* The three values, in the order of their places in the struct. */
static const struct {
	const char *variable;
	const char *file;
	const char *key;
	size_t offset;
	size_t size;
} values[] = {
	{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID_FILE", "aws_access_key_id",
		offsetof(struct s3_credentials, access_key), S3_KEY_BYTES},
	{"AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY_FILE", "aws_secret_access_key",
		offsetof(struct s3_credentials, secret_key), S3_KEY_BYTES},
	{"AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN_FILE", "aws_session_token",
		offsetof(struct s3_credentials, session_token), S3_TOKEN_BYTES},
};

enum { VALUES = sizeof values / sizeof values[0] };

bool s3_credentials_equal(const struct s3_credentials *a, const struct s3_credentials *b)
{
	return strcmp(a->access_key, b->access_key) == 0 &&
		strcmp(a->secret_key, b->secret_key) == 0 &&
		strcmp(a->session_token, b->session_token) == 0;
}

void s3_credentials_wipe(struct s3_credentials *credentials)
{
	OPENSSL_cleanse(credentials, sizeof *credentials);
}

/* Without blanks around it; printable ASCII only, since it goes into headers. */
static int set_value(struct s3_credentials *credentials, int which, const char *text, size_t len)
{
	while (len > 0 && strchr(" \t\r\n", text[0]) != NULL) {
		text++;
		len--;
	}
	while (len > 0 && strchr(" \t\r\n", text[len - 1]) != NULL) {
		len--;
	}
	if (len >= values[which].size) {
		return -EINVAL;
	}
	for (size_t i = 0; i < len; i++) {
		if (text[i] <= ' ' || text[i] > '~') {
			return -EINVAL;
		}
	}
	char *to = (char *)credentials + values[which].offset;
	memcpy(to, text, len);
	to[len] = '\0';
	return 0;
}

/* A small file whole, with a NUL behind it; to be wiped. -errno. */
static ssize_t read_file(const char *path, char *ret_text, size_t size)
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		return -errno;
	}
	size_t len = 0;
	ssize_t got = 0;
	while (len < size && (got = read(fd, ret_text + len, size - len)) > 0) {
		len += (size_t)got;
	}
	if (got < 0 || len == size) {
		return got < 0 ? -errno : -EFBIG;
	}
	ret_text[len] = '\0';
	return (ssize_t)len;
}

static int set_from_file(struct s3_credentials *credentials, int which, const char *path)
{
	char text[S3_TOKEN_BYTES + 16];
	ssize_t len = read_file(path, text, sizeof text);
	int rc = len < 0 ? (int)len : set_value(credentials, which, text, (size_t)len);
	OPENSSL_cleanse(text, sizeof text);
	return rc;
}

/* ---- the places: 0, -ENOENT: nothing there, or another error with a sentence ---- */

static int fail(char *error, size_t size, int rc, const char *what, const char *why)
{
	snprintf(error, size, "%s: %s", what, why);
	return rc;
}

static int from_environment(struct s3_credentials *credentials, char *error, size_t size)
{
	for (int i = 0; i < VALUES; i++) {
		const char *value = getenv(values[i].variable);
		const char *file = getenv(values[i].file);
		int rc = 0;
		if (value != NULL && value[0] != '\0') {
			rc = set_value(credentials, i, value, strlen(value));
		} else if (file != NULL && file[0] != '\0') {
			rc = set_from_file(credentials, i, file);
		}
		if (rc < 0) {
			return fail(error, size, -EINVAL, values[i].variable,
				rc == -EINVAL ? "cannot be one" : strerror(-rc));
		}
	}
	return credentials->access_key[0] == '\0' && credentials->secret_key[0] == '\0' ? -ENOENT
											: 0;
}

static int from_systemd(struct s3_credentials *credentials, char *error, size_t size)
{
	const char *directory = getenv("CREDENTIALS_DIRECTORY");
	if (directory == NULL) {
		return -ENOENT;
	}
	for (int i = 0; i < VALUES; i++) {
		char path[PATH_MAX];
		snprintf(path, sizeof path, "%s/%s", directory, values[i].key);
		int rc = set_from_file(credentials, i, path);
		if (rc < 0 && rc != -ENOENT) {
			return fail(error, size, -EINVAL, values[i].key,
				rc == -EINVAL ? "cannot be one" : strerror(-rc));
		}
	}
	return credentials->access_key[0] == '\0' && credentials->secret_key[0] == '\0' ? -ENOENT
											: 0;
}

/* "KEY = VALUE" of the wanted section. */
static int take_line(struct s3_credentials *credentials, char *line)
{
	char *equals = strchr(line, '=');
	if (equals == NULL) {
		return 0;
	}
	size_t len = (size_t)(equals - line);
	while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t')) {
		len--;
	}
	for (int i = 0; i < VALUES; i++) {
		if (strlen(values[i].key) == len && strncmp(line, values[i].key, len) == 0) {
			return set_value(credentials, i, equals + 1, strlen(equals + 1));
		}
	}
	return 0;
}

static int take_profile(struct s3_credentials *credentials, char *text, const char *profile)
{
	bool wanted = false;
	int rc = 0;
	char *rest = NULL;
	for (char *line = strtok_r(text, "\r\n", &rest); rc == 0 && line != NULL;
		line = strtok_r(NULL, "\r\n", &rest)) {
		line += strspn(line, " \t");
		if (line[0] == '[') {
			size_t len = strcspn(line + 1, "]");
			wanted = len == strlen(profile) && strncmp(line + 1, profile, len) == 0;
		} else if (wanted && line[0] != '#' && line[0] != ';') {
			rc = take_line(credentials, line);
		}
	}
	return rc;
}

static int from_shared_file(struct s3_credentials *credentials, char *error, size_t size)
{
	char path[PATH_MAX];
	char text[FILE_BYTES_MAX];
	const char *given = getenv("AWS_SHARED_CREDENTIALS_FILE");
	const char *home = getenv("HOME");
	const char *profile = getenv("AWS_PROFILE");
	if (given == NULL && home == NULL) {
		return -ENOENT;
	}
	snprintf(path, sizeof path, "%s%s", given != NULL ? given : home,
		given != NULL ? "" : "/.aws/credentials");
	ssize_t len = read_file(path, text, sizeof text);
	if (len < 0) {
		return given == NULL ? -ENOENT
				     : fail(error, size, -EINVAL, path, strerror((int)-len));
	}
	int rc = take_profile(credentials, text, profile != NULL ? profile : "default");
	OPENSSL_cleanse(text, sizeof text);
	if (rc < 0) {
		return fail(error, size, rc, path, "a value cannot be one");
	}
	return credentials->access_key[0] == '\0' && credentials->secret_key[0] == '\0' ? -ENOENT
											: 0;
}

int s3_credentials_load(struct s3_credentials *ret_credentials, char *ret_error, size_t size)
{
	static int (*const places[])(struct s3_credentials *, char *, size_t) = {
		from_environment, from_systemd, from_shared_file};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		*ret_credentials = (struct s3_credentials){0};
		int rc = places[i](ret_credentials, ret_error, size);
		if (rc == -ENOENT) {
			continue;
		}
		if (rc == 0 &&
			(ret_credentials->access_key[0] == '\0' ||
				ret_credentials->secret_key[0] == '\0')) {
			rc = fail(ret_error, size, -EINVAL, "credentials",
				"there is only one of access key and secret key");
		}
		if (rc != 0) {
			s3_credentials_wipe(ret_credentials);
		}
		return rc;
	}
	return fail(ret_error, size, -ENOENT, "no credentials",
		"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the same with _FILE");
}
