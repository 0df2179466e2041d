/* SPDX-License-Identifier: MIT */

/*
 * Replicas of any kind: finds the kind of a URL, checks what callers give, and passes on. It knows
 * neither directories nor buckets.
 */

#include "server/ship/replica.h"

#include "server/base/clock.h"
#include "server/ship/replica_inside.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *scheme;
	int (*open)(
		const char *rest, struct replica **ret_replica, struct replica_error *ret_error);
} kinds[] = {
	{"file://", replica_file_open},
	{"s3://", replica_s3_open},
};

__attribute__((format(printf, 4, 0))) static int fail(
	const char *name, struct replica_error *error, int result, const char *format, va_list args)
{
	int len = snprintf(error->text, sizeof error->text, "%s: ", name);
	if (len > 0 && (size_t)len < sizeof error->text) {
		vsnprintf(error->text + len, sizeof error->text - (size_t)len, format, args);
	}
	return result;
}

int replica_fail(const struct replica *replica, struct replica_error *ret_error, int result,
	const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fail(replica->url != NULL ? replica->url : "replica", ret_error, result, format, args);
	va_end(args);
	return result;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9') {
		return c - '0';
	}
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int replica_url_decode(char *text)
{
	char *to = text;
	for (const char *from = text; *from != '\0'; from++) {
		if (*from != '%') {
			*to++ = *from;
			continue;
		}
		int high = hex_digit(from[1]);
		int low = high < 0 ? -1 : hex_digit(from[2]);
		if (low < 0 || (high == 0 && low == 0)) {
			return -EINVAL;
		}
		*to++ = (char)(high << 4 | low);
		from += 2;
	}
	*to = '\0';
	return 0;
}

bool replica_same_upload(const struct record *there, const struct record *ours)
{
	return memcmp(there->writer, ours->writer, sizeof there->writer) == 0 &&
		memcmp(there->sha256, ours->sha256, sizeof there->sha256) == 0;
}

/* ---- what it costs ---- */

static const char *usage_dir; /* set before there are threads */

void replica_count_usage(const char *spool)
{
	usage_dir = spool;
}

/* Tells the meter what has come since the last time. What it cannot take now, it gets the next time. */
static void tell_meter(struct replica *replica)
{
	static const enum usage_kind counted_as[REPLICA_REQUESTS] = {[REQUEST_PUT] = USAGE_PUT,
		[REQUEST_GET] = USAGE_GET,
		[REQUEST_HEAD] = USAGE_GET,
		[REQUEST_LIST] = USAGE_LIST,
		[REQUEST_DELETE] = USAGE_DELETE};
	struct replica_stats now = replica_stats(replica);
	struct usage_counts counts = {
		.bytes_sent = now.bytes_sent - replica->told.bytes_sent,
		.bytes_received = now.bytes_received - replica->told.bytes_received,
	};
	if (replica->meter == NULL || memcmp(&now, &replica->told, sizeof now) == 0) {
		return;
	}
	for (int i = 0; i < REPLICA_REQUESTS; i++) {
		counts.requests[counted_as[i]] += now.requests[i] - replica->told.requests[i];
	}
	if (usage_meter_add(replica->meter, &counts, (int64_t)(clock_wall_us() / 1000)) == 0) {
		replica->told = now;
	}
}

void replica_asks(struct replica *replica, enum replica_request request)
{
	replica->requests[request]++;
	tell_meter(replica); /* before it is done: who is killed in the middle has asked */
}

/* Nobody is kept from a backup because it cannot be counted. */
static void take_meter(struct replica *replica)
{
	if (usage_dir != NULL && usage_meter_open(usage_dir, replica->url, &replica->meter) != 0) {
		replica->meter = NULL;
	}
}

static int open_kind(const char *url, struct replica **ret_replica, struct replica_error *ret_error)
{
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		size_t len = strlen(kinds[i].scheme);
		if (strncmp(url, kinds[i].scheme, len) == 0) {
			return kinds[i].open(url + len, ret_replica, ret_error);
		}
	}
	snprintf(ret_error->text, sizeof ret_error->text,
		"a replica is file:///DIRECTORY or s3://BUCKET/PREFIX?endpoint=URL");
	return -EINVAL;
}

/* What is said to the daemon leaves the URL. */
static void drop_ack(char *url)
{
	char *at = strstr(url, "ack=1");
	if (at != NULL && at > url && (at[-1] == '?' || at[-1] == '&')) {
		char *rest = at + strlen("ack=1");
		if (*rest == '&') {
			memmove(at, rest + 1, strlen(rest + 1) + 1);
		} else if (*rest == '\0') {
			at[-1] = '\0';
		}
	}
}

int replica_open(const char *url, struct replica **ret_replica, struct replica_error *ret_error)
{
	*ret_error = (struct replica_error){0};
	char *own = strdup(url);
	if (own == NULL) {
		return -ENOMEM;
	}
	drop_ack(own);
	int rc = open_kind(own, ret_replica, ret_error);
	free(own);
	if (rc == 0) {
		take_meter(*ret_replica);
	}
	return rc;
}

void replica_free(struct replica *replica)
{
	if (replica != NULL) {
		tell_meter(replica);
		usage_meter_close(replica->meter);
		free(replica->url);
		replica->kind->free(replica);
	}
}

const char *replica_url(const struct replica *replica)
{
	return replica->url;
}

struct replica_stats replica_stats(const struct replica *replica)
{
	struct replica_stats stats = {
		.bytes_sent = replica->bytes_sent, .bytes_received = replica->bytes_received};
	for (int i = 0; i < REPLICA_REQUESTS; i++) {
		stats.requests[i] = replica->requests[i];
	}
	return stats;
}

bool replica_vanished(const struct replica *replica)
{
	return replica->kind->vanished != NULL && replica->kind->vanished(replica);
}

void replica_forget(struct replica *replica)
{
	if (replica->kind->forget != NULL) {
		replica->kind->forget(replica);
	}
}

void replica_interrupt(struct replica *replica)
{
	replica->interrupted = true;
}

/* An error of an earlier call must not be taken for one of this. */
static int begin(struct replica *replica, struct replica_error *ret_error)
{
	*ret_error = (struct replica_error){0};
	return replica->interrupted ? replica_fail(replica, ret_error, REPLICA_AGAIN, "interrupted")
				    : 0;
}

static int ended(struct replica *replica, int rc)
{
	tell_meter(replica);
	return rc;
}

/* The name of a file that may exist; others are the caller's mistake. */
static void name_of(int level, uint64_t min_txid, uint64_t max_txid, char name[LTX_NAME_BYTES])
{
	assert(level >= 0 && level <= REPLICA_LEVEL_MAX);
	assert(min_txid >= 1 && min_txid <= max_txid);
	ltx_name(min_txid, max_txid, name);
}

int replica_probe(struct replica *replica, struct replica_error *ret_error)
{
	int rc = begin(replica, ret_error);
	return ended(replica, rc != 0 ? rc : replica->kind->probe(replica, ret_error));
}

int replica_put(struct replica *replica, int level, uint64_t min_txid, uint64_t max_txid, int fd,
	uint64_t size, int64_t timestamp_ms, const struct record *record,
	struct replica_error *ret_error)
{
	char name[LTX_NAME_BYTES];
	name_of(level, min_txid, max_txid, name);
	int rc = begin(replica, ret_error);
	return ended(replica,
		rc != 0 ? rc
			: replica->kind->put(
				  replica, level, name, fd, size, timestamp_ms, record, ret_error));
}

int replica_get(struct replica *replica, const struct replica_file *file, uint64_t offset,
	uint64_t len, replica_sink sink, void *ctx, struct replica_error *ret_error)
{
	char name[LTX_NAME_BYTES];
	name_of(file->level, file->min_txid, file->max_txid, name);
	int rc = begin(replica, ret_error);
	return ended(replica,
		rc != 0 ? rc
			: replica->kind->get(replica, file->level, name, file->size, offset, len,
				  sink, ctx, ret_error));
}

int replica_look(struct replica *replica, int level, uint64_t min_txid, uint64_t max_txid,
	struct replica_file *ret_file, struct record *ret_record, bool *ret_known,
	struct replica_error *ret_error)
{
	char name[LTX_NAME_BYTES];
	struct replica_file file = {.level = level, .min_txid = min_txid, .max_txid = max_txid};
	name_of(level, min_txid, max_txid, name);
	*ret_record = (struct record){0};
	*ret_known = false;
	int rc = begin(replica, ret_error);
	rc = rc != 0 ? rc
		     : replica->kind->look(
			       replica, level, name, &file, ret_record, ret_known, ret_error);
	tell_meter(replica);
	if (rc == 0 && ret_file != NULL) {
		*ret_file = file;
	}
	return rc;
}

int replica_list(struct replica *replica, int level, uint64_t from,
	int (*fn)(void *ctx, const struct replica_file *file), void *ctx,
	struct replica_error *ret_error)
{
	assert(level >= 0 && level <= REPLICA_LEVEL_MAX);
	int rc = begin(replica, ret_error);
	return ended(replica,
		rc != 0 ? rc : replica->kind->list(replica, level, from, fn, ctx, ret_error));
}

int replica_delete(
	struct replica *replica, const struct replica_file *file, struct replica_error *ret_error)
{
	char name[LTX_NAME_BYTES];
	name_of(file->level, file->min_txid, file->max_txid, name);
	int rc = begin(replica, ret_error);
	return ended(replica,
		rc != 0 ? rc : replica->kind->remove(replica, file->level, name, ret_error));
}

int replica_has_generations(struct replica *replica, bool *ret_has, struct replica_error *ret_error)
{
	*ret_has = false;
	int rc = begin(replica, ret_error);
	return ended(replica,
		rc != 0 ? rc : replica->kind->has_generations(replica, ret_has, ret_error));
}

bool replica_is_there(const struct replica *replica)
{
	return replica->kind->is_there == NULL || replica->kind->is_there(replica);
}

void replica_say_empty(const struct replica *replica, struct replica_error *ret_error)
{
	snprintf(ret_error->text, sizeof ret_error->text, "%s %s", replica->url,
		replica_is_there(replica) ? "holds no segment"
					  : "does not exist: there is no such directory");
}
