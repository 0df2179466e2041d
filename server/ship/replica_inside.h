/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What replica.c and the kinds of replicas share. A kind puts struct replica first into its own
 * struct, and fills in the table.
 */

#include "server/base/usage.h"
#include "server/ship/ltx.h"
#include "server/ship/replica.h"

#include <stdatomic.h>

/* As the functions of the same names in replica.h. */
struct replica_kind {
	void (*free)(struct replica *replica);
	int (*probe)(struct replica *replica, struct replica_error *ret_error);
	int (*put)(struct replica *replica, int level, const char *name, int fd, uint64_t size,
		int64_t timestamp_ms, const struct record *record, struct replica_error *ret_error);
	int (*get)(struct replica *replica, int level, const char *name, uint64_t size,
		uint64_t offset, uint64_t len, replica_sink sink, void *ctx,
		struct replica_error *ret_error);
	int (*look)(struct replica *replica, int level, const char *name,
		struct replica_file *ret_file, struct record *ret_record, bool *ret_known,
		struct replica_error *ret_error);
	int (*list)(struct replica *replica, int level, uint64_t from,
		int (*fn)(void *ctx, const struct replica_file *file), void *ctx,
		struct replica_error *ret_error);
	int (*remove)(struct replica *replica, int level, const char *name,
		struct replica_error *ret_error);
	bool (*vanished)(const struct replica *replica); /* may be NULL: never */
	void (*forget)(struct replica *replica);         /* may be NULL */
	int (*has_generations)(
		struct replica *replica, bool *ret_has, struct replica_error *ret_error);
	bool (*is_there)(const struct replica *replica); /* NULL: always */
};

enum { REPLICA_REQUESTS = sizeof((struct replica_stats *)0)->requests / sizeof(uint64_t) };

struct replica {
	const struct replica_kind *kind;
	char *url;
	_Atomic bool interrupted;
	_Atomic uint64_t requests[REPLICA_REQUESTS];
	_Atomic uint64_t bytes_sent;
	_Atomic uint64_t bytes_received;
	struct usage_meter *meter; /* or NULL */
	struct replica_stats told; /* to the meter */
};

/* The kinds. `rest` is what follows "file://" and "s3://". */
int replica_file_open(
	const char *rest, struct replica **ret_replica, struct replica_error *ret_error);

int replica_s3_open(
	const char *rest, struct replica **ret_replica, struct replica_error *ret_error);

/* The kinds say what they are about to ask. */
void replica_asks(struct replica *replica, enum replica_request request);

/* Writes "URL: sentence" and returns `result`. */
int replica_fail(const struct replica *replica, struct replica_error *ret_error, int result,
	const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Undoes %XX in place; -EINVAL: not hexadecimal, or a NUL. */
int replica_url_decode(char *text);

/* True if the file of `there` is the upload of `ours`. */
bool replica_same_upload(const struct record *there, const struct record *ours);
