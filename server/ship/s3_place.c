/* SPDX-License-Identifier: MIT */

/*
 * URLs of buckets. What is not understood is refused: a misspelt option must not send data to
 * another place than was meant.
 */

#include "server/ship/s3_place.h"

#include "server/ship/replica_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TIMEOUT_MS = 20000 };

/* What the options of a URL say; strings are "" if not given. */
struct options {
	char endpoint[300];
	char region[64];
	char path_style[8];
	char insecure[8];
	char timeout_ms[16];
};

static const struct {
	const char *name;
	size_t offset;
	size_t size;
} options[] = {
	{"endpoint", offsetof(struct options, endpoint), 300},
	{"region", offsetof(struct options, region), 64},
	{"force-path-style", offsetof(struct options, path_style), 8},
	{"insecure", offsetof(struct options, insecure), 8},
	{"timeout-ms", offsetof(struct options, timeout_ms), 16},
};

/* "NAME=VALUE" */
static const char *take_option(char *text, struct options *given)
{
	char *equals = strchr(text, '=');
	if (equals == NULL || equals[1] == '\0') {
		return "an option has no value: write NAME=VALUE";
	}
	*equals = '\0';
	if (replica_url_decode(equals + 1) < 0) {
		return "a % of an option is written %25";
	}
	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
		if (strcmp(text, options[i].name) == 0) {
			char *to = (char *)given + options[i].offset;
			int len = snprintf(to, options[i].size, "%s", equals + 1);
			return (size_t)len < options[i].size ? NULL : "an option is too long";
		}
	}
	return "an option is unknown: there are endpoint, region, force-path-style, insecure and "
	       "timeout-ms; keys do not belong into a URL";
}

/* -1: not given; -2: neither. */
static int boolean(const char *text)
{
	if (text[0] == '\0') {
		return -1;
	}
	bool yes = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
	bool no = strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
	return yes ? 1 : no ? 0 : -2;
}

static bool made_of(const char *text, const char *more)
{
	for (; *text != '\0'; text++) {
		bool plain = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') ||
			(*text >= '0' && *text <= '9');
		if (!plain && strchr(more, *text) == NULL) {
			return false;
		}
	}
	return true;
}

static bool is_loopback(const char *host)
{
	return strncmp(host, "127.", 4) == 0 || strcmp(host, "localhost") == 0 ||
		strncmp(host, "localhost:", 10) == 0 || strncmp(host, "[::1]", 5) == 0;
}

static const char *take_endpoint(const struct options *given, struct s3_place *place)
{
	const char *host = given->endpoint;
	snprintf(place->scheme, sizeof place->scheme, "https");
	if (strncmp(host, "https://", 8) == 0) {
		host += 8;
	} else if (strncmp(host, "http://", 7) == 0) {
		host += 7;
		snprintf(place->scheme, sizeof place->scheme, "http");
	}
	size_t len = strlen(host);
	len -= len > 0 && host[len - 1] == '/';
	snprintf(place->host, sizeof place->host, "%.*s", (int)len, host);
	if (place->host[0] == '\0' || !made_of(place->host, ".-_:[]")) {
		return "the endpoint must be https://HOST or https://HOST:PORT";
	}
	if (strcmp(place->scheme, "http") == 0 && !is_loopback(place->host) &&
		boolean(given->insecure) != 1) {
		return "the endpoint is http: everybody on the way could read the database; "
		       "use https, or add insecure=true";
	}
	return NULL;
}

/* As far as the host tells. */
static void guess_region(const char *host, char ret_region[64])
{
	static const char cloudflare[] = ".r2.cloudflarestorage.com";
	const char *second = strncmp(host, "s3.", 3) == 0 ? host + 3 : NULL;
	const char *third = second != NULL ? strchr(second, '.') : NULL;
	if (strstr(host, cloudflare) != NULL) {
		snprintf(ret_region, 64, "auto");
	} else if (third != NULL && strchr(third + 1, '.') != NULL && third - second < 64) {
		snprintf(ret_region, 64, "%.*s", (int)(third - second), second);
	} else {
		snprintf(ret_region, 64, "us-east-1");
	}
}

static const char *environment_region(void)
{
	const char *region = getenv("AWS_REGION");
	region = region != NULL && region[0] != '\0' ? region : getenv("AWS_DEFAULT_REGION");
	return region != NULL ? region : "";
}

static const char *take_region(const struct options *given, struct s3_place *place)
{
	const char *region = given->region[0] != '\0' ? given->region : environment_region();
	if (region[0] == '\0') {
		guess_region(place->host, place->region);
	} else {
		snprintf(place->region, sizeof place->region, "%s", region);
	}
	return made_of(place->region, "-") ? NULL : "the region is none";
}

/* Which host it is, and whether the bucket is part of its name. */
static const char *take_host(const struct options *given, struct s3_place *place)
{
	char bare[300];
	int path_style = boolean(given->path_style);
	if (path_style == -2 || boolean(given->insecure) == -2) {
		return "force-path-style and insecure are true or false";
	}
	bool aws = given->endpoint[0] == '\0';
	const char *fault = aws ? NULL : take_endpoint(given, place);
	fault = fault == NULL ? take_region(given, place) : fault;
	if (fault != NULL) {
		return fault;
	}
	if (aws) {
		snprintf(place->scheme, sizeof place->scheme, "https");
		snprintf(place->host, sizeof place->host, "s3.%s.amazonaws.com", place->region);
	}
	/* The certificate of *.HOST does not cover a bucket with a dot. */
	place->path_style = path_style == 1 ||
		(path_style == -1 && (!aws || strchr(place->bucket, '.') != NULL));
	snprintf(bare, sizeof bare, "%s", place->host);
	if (!place->path_style &&
		snprintf(place->host, sizeof place->host, "%s.%s", place->bucket, bare) >=
			(int)sizeof place->host) {
		return "the endpoint is too long";
	}
	return NULL;
}

static const char *take_timeout(const struct options *given, struct s3_place *place)
{
	char *rest;
	place->timeout_ms = TIMEOUT_MS;
	if (given->timeout_ms[0] != '\0') {
		place->timeout_ms = strtol(given->timeout_ms, &rest, 10);
		if (*rest != '\0' || place->timeout_ms < 10 || place->timeout_ms > 600000) {
			return "timeout-ms is a number from 10 to 600000";
		}
	}
	return NULL;
}

/* "BUCKET/PREFIX" */
static const char *take_bucket(char *text, struct s3_place *place)
{
	char *slash = strchr(text, '/');
	if (slash != NULL) {
		*slash = '\0';
	}
	if (strlen(text) < 3 || strlen(text) > 255 || !made_of(text, ".-_")) {
		return "the bucket is no name of one: s3://BUCKET/PREFIX";
	}
	snprintf(place->bucket, sizeof place->bucket, "%s", text);
	const char *prefix = slash != NULL ? slash + 1 : "";
	prefix += strspn(prefix, "/");
	if (snprintf(place->prefix, sizeof place->prefix, "%s", prefix) >=
		(int)sizeof place->prefix) {
		return "the prefix is too long";
	}
	if (replica_url_decode(place->prefix) < 0) {
		return "a % of the prefix is written %25";
	}
	for (size_t len = strlen(place->prefix); len > 0 && place->prefix[len - 1] == '/'; len--) {
		place->prefix[len - 1] = '\0';
	}
	/* Stock Litestream makes odd keys of an empty one. */
	return place->prefix[0] != '\0' ? NULL : "a prefix is missing: s3://BUCKET/PREFIX";
}

const char *s3_place_parse(const char *rest, struct s3_place *ret_place)
{
	char text[2048];
	struct options given = {0};
	*ret_place = (struct s3_place){0};
	if (snprintf(text, sizeof text, "%s", rest) >= (int)sizeof text) {
		return "the URL is too long";
	}
	if (strpbrk(text, "@#") != NULL) {
		return "keys do not belong into a URL, and a @ or # is written %40 or %23";
	}
	char *query = strchr(text, '?');
	if (query != NULL) {
		*query++ = '\0';
	}
	char *next = NULL;
	const char *fault = NULL;
	for (char *option = query == NULL ? NULL : strtok_r(query, "&", &next);
		fault == NULL && option != NULL; option = strtok_r(NULL, "&", &next)) {
		fault = take_option(option, &given);
	}
	fault = fault == NULL ? take_bucket(text, ret_place) : fault;
	fault = fault == NULL ? take_host(&given, ret_place) : fault;
	return fault == NULL ? take_timeout(&given, ret_place) : fault;
}
