/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the files of buckets as replicas share: replica_s3.c, which opens, reads, lists and deletes;
 * replica_s3_put.c, which creates; s3_multipart.c, which sends what is large in parts.
 */

#include "server/ship/replica_inside.h"
#include "server/ship/s3_client.h"
#include "server/ship/s3_place.h"

struct replica_bucket {
	struct replica replica;
	struct s3_place place;
	struct s3_client *client;
	bool unfenced; /* the probe found that conditions are ignored */
};

/* PREFIX/LEVEL/NAME; the prefix is short enough for any. */
void replica_s3_key(const struct replica_bucket *bucket, int level, const char *name,
	char ret_key[S3_KEY_BYTES_MAX]);

/* What is stored under a key, with its ETag. REPLICA_MISSING. */
struct s3_object {
	uint64_t size;
	int64_t created_ms;
	struct record record;
	bool known;  /* it has a record of ours */
	bool broken; /* it has one that cannot be read */
	char etag[80];
	bool encrypted;
};
int replica_s3_head(struct replica_bucket *bucket, const char *key, struct s3_object *ret_object,
	struct replica_error *error);

/* Bytes of a key, also over broken transfers; size 0: unknown. */
int replica_s3_read(struct replica_bucket *bucket, const char *key, uint64_t size, uint64_t offset,
	uint64_t len, replica_sink sink, void *ctx, struct replica_error *error);

/* Time and record of a segment, as headers. */
void replica_s3_describe(
	struct s3_request *request, int64_t timestamp_ms, const struct record *record);

/* As in replica.h. */
int replica_s3_put(struct replica *replica, int level, const char *name, int fd, uint64_t size,
	int64_t timestamp_ms, const struct record *record, struct replica_error *ret_error);
int replica_s3_probe(struct replica *replica, struct replica_error *ret_error);

/* Sends a file in parts. REPLICA_EXISTS: the key is taken. */
int s3_multipart_put(struct replica_bucket *bucket, const char *key, int fd, uint64_t size,
	int64_t timestamp_ms, const struct record *record, struct replica_error *error);

/* Ends uploads under our prefix that began over a day ago and were never completed. */
int s3_multipart_sweep(struct replica_bucket *bucket, struct replica_error *error);
