/* SPDX-License-Identifier: MIT */

/*
 * lf_open(): options, paths and the socket's place. Nothing is connected here.
 */

#include "client/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define LIBRARY_VERSION "0.1.0"

static int random_bytes(void *ret_bytes, size_t len)
{
	ssize_t got = getrandom(ret_bytes, len, 0);
	return got == (ssize_t)len ? 0 : got < 0 ? -errno : -EIO;
}

/*
 * The absolute path, also of a database that does not exist yet: a client may be there before the
 * daemon creates it. NULL: out of memory.
 */
static char *absolute_path(const char *path)
{
	char *full = realpath(path, NULL);
	if (full != NULL || errno == ENOMEM) {
		return full;
	}
	char *copy = strdup(path);
	char *joined = NULL;
	if (copy == NULL) {
		return NULL;
	}
	char *slash = strrchr(copy, '/');
	const char *name = slash != NULL ? slash + 1 : copy;
	const char *folder = ".";
	if (slash != NULL) {
		*slash = '\0';
		folder = slash == copy ? "/" : copy;
	}
	full = realpath(folder, NULL);
	const char *base = full != NULL ? full : folder;
	if (asprintf(&joined, "%s%s%s", base, strcmp(base, "/") == 0 ? "" : "/", name) < 0) {
		joined = NULL;
	}
	free(full);
	free(copy);
	return joined;
}

static bool copy_option(char *to, size_t bytes, const char *from)
{
	size_t len = from != NULL ? strlen(from) : 0;
	if (len >= bytes) {
		return false;
	}
	if (len > 0) {
		memcpy(to, from, len + 1);
	}
	return true;
}

/* A caller that was compiled with a shorter struct left the rest at its default. */
static int read_options(const struct lf_options *options, struct lf_options *ret_options)
{
	*ret_options = (struct lf_options)LF_OPTIONS_INIT;
	if (options == NULL) {
		return 0;
	}
	if (options->size < sizeof(options->size)) {
		return -EINVAL;
	}
	size_t bytes = options->size < sizeof(*options) ? options->size : sizeof(*options);
	memcpy(ret_options, options, bytes);
	return 0;
}

static int make_config(const struct lf_options *options, struct engine_config *ret_config)
{
	const char *client = options->client != NULL && options->client[0] != '\0'
		? options->client
		: "liblitefunnel/" LIBRARY_VERSION;
	const char *request_class = options->request_class;
	if (request_class != NULL && request_class[0] == '\0') {
		request_class = NULL;
	}
	*ret_config = (struct engine_config){
		.deadline_ms =
			options->deadline_ms != 0 ? options->deadline_ms : ENGINE_DEADLINE_MS,
		.no_retry = options->no_retry,
		.grace_ms = options->grace_ms,
		.random = random_bytes,
	};
	if (!copy_option(ret_config->client, sizeof(ret_config->client), client) ||
		!copy_option(ret_config->label, sizeof(ret_config->label), options->label) ||
		(request_class != NULL && !builder_class_valid(request_class))) {
		return -EINVAL;
	}
	(void)copy_option(
		ret_config->request_class, sizeof(ret_config->request_class), request_class);
	return 0;
}

static int find_socket(struct lf_db *db, const char *option)
{
	const char *chosen = option != NULL && option[0] != '\0' ? option : NULL;
	uint32_t seed = 0;
	char *beside = NULL;

	if (chosen == NULL) {
		const char *environment = secure_getenv("LITEFUNNEL_SOCKET");
		chosen = environment != NULL && environment[0] != '\0' ? environment : NULL;
	}
	if (chosen == NULL && asprintf(&beside, "%s-funnel", db->path) < 0) {
		return -ENOMEM;
	}
	int r = random_bytes(&seed, sizeof(seed));
	if (r == 0) {
		r = transport_init(&db->transport, chosen != NULL ? chosen : beside, seed);
	}
	free(beside);
	return r;
}

static int db_init(struct lf_db *db, const char *path, const struct lf_options *options)
{
	struct engine_config config;
	int r = make_config(options, &config);
	if (r != 0) {
		return r;
	}
	db->path = absolute_path(path);
	if (db->path == NULL) {
		return -ENOMEM;
	}
	r = find_socket(db, options->socket_path);
	if (r == 0) {
		engine_init(&db->engine, &config);
		fork_mark_init(&db->mark);
	}
	return r;
}

int lf_open(const char *path, const struct lf_options *options, lf_db **ret_db)
{
	struct lf_options given;
	int r = read_options(options, &given);
	if (r != 0 || path == NULL || path[0] == '\0') {
		return -EINVAL;
	}
	lf_db *db = calloc(1, sizeof(*db));
	if (db == NULL) {
		return -ENOMEM;
	}
	r = db_init(db, path, &given);
	if (r != 0) {
		free(db->path);
		free(db);
		return r;
	}
	*ret_db = db;
	return 0;
}

const char *lf_version(void)
{
	return LIBRARY_VERSION;
}

const char *lf_socket_path(const lf_db *db)
{
	return db->transport.address.sun_path;
}

const char *lf_errmsg(const lf_db *db)
{
	return db->errmsg[0] != '\0' ? db->errmsg : db->engine.why;
}
