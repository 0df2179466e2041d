/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Requests to a bucket: signed, sent, and sent again while that helps. It does not know what a
 * segment is.
 *
 * A request that fails for a reason that may pass (no connection, silence, 429, 5xx, a conflict) is
 * repeated a few times with growing random pauses; then it is REPLICA_AGAIN. A clock that the store
 * finds wrong is corrected by its Date, credentials that it refuses are read again. Redirects are
 * not followed: a signed request belongs to one host.
 *
 * So a request may have been carried out more than once, and an answer may be of a later attempt:
 * only what is conditional or harmless to repeat may be sent through here.
 */

#include "server/ship/replica_inside.h"
#include "server/ship/s3_place.h"

#include <stddef.h>
#include <stdint.h>

enum {
	S3_PARAMS_MAX = 6,
	S3_HEADERS_MAX = 24,
	S3_VALUE_BYTES = 160,
	S3_KEY_BYTES_MAX = 1024,
};

struct s3_param {
	const char *name;
	const char *value;
};

struct s3_header {
	char name[64]; /* lower-case */
	char value[S3_VALUE_BYTES];
};

struct s3_request {
	enum replica_request counts_as;
	const char *method;
	char key[S3_KEY_BYTES_MAX];            /* "": the bucket itself */
	struct s3_param params[S3_PARAMS_MAX]; /* sorted by name */
	size_t param_count;
	struct s3_header headers[S3_HEADERS_MAX];
	size_t header_count;
	/* What is sent: bytes of a file, or of memory, or nothing. */
	const char *body;
	int fd;
	uint64_t body_offset;
	uint64_t body_len;
	char body_sha256[65]; /* "": of nothing */
	/* What comes of a success goes to the sink if there is one, else into the answer. */
	replica_sink sink;
	void *sink_ctx;
	/* Each x-amz-meta-* of a success, without that prefix. */
	void (*metadata)(void *ctx, const char *key, const char *value);
	void *metadata_ctx;
};

struct s3_answer {
	long status;
	char *body; /* what did not go to a sink; with a NUL behind it; the client's */
	size_t body_len;
	uint64_t received; /* by the sink, over all attempts of this request */
	int64_t content_length;
	int64_t range_start; /* of a 206, else 0 */
	int64_t range_total;
	int64_t last_modified_ms;
	char etag[80];  /* without its quotes */
	bool encrypted; /* by a key of the store's: then an ETag is no MD5 */
	char code[64];  /* of an error */
};

struct s3_client;

/* `owner` names the replica in errors, counts its requests, and can be interrupted. */
int s3_client_new(
	const struct s3_place *place, struct replica *owner, struct s3_client **ret_client);
void s3_client_free(struct s3_client *client);

void s3_request_init(struct s3_request *request, enum replica_request counts_as, const char *method,
	const char *key);
void s3_request_param(struct s3_request *request, const char *name, const char *value);
void s3_request_header(struct s3_request *request, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * 0: the store has answered, with a 2xx, or with a 404, 412, 416, 501 or InvalidPart, which are for
 * the caller to judge. Else REPLICA_AGAIN, REPLICA_DENIED, -ENOMEM, or what the sink returned. With a
 * sink, a transfer that broke after some bytes is REPLICA_AGAIN at once, and `received` tells.
 */
int s3_client_send(struct s3_client *client, const struct s3_request *request,
	struct s3_answer *ret_answer, struct replica_error *ret_error);
