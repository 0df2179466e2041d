/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One exchange with a store: a request is signed and sent, its answer taken. The only part that
 * knows libcurl. Whether to try again is the caller's question.
 */

#include "server/ship/s3_client.h"
#include "server/ship/s3_credentials.h"

enum s3_exchange_result {
	S3_ANSWERED,   /* with any status */
	S3_BROKEN,     /* no connection, silence, an end too early: it may pass */
	S3_UNTRUSTED,  /* the other side is not who it must be, or cannot be asked at all */
	S3_SINK_ENDED, /* sink_result says why */
};

struct s3_exchange {
	const struct s3_request *request;
	const struct s3_credentials *credentials;
	int64_t clock_offset_s;
	struct s3_answer *answer;
	/* What it brings. */
	int sink_result;
	int64_t store_time_s; /* its Date, or 0 */
	uint64_t retry_after_ms;
	char why[256]; /* of S3_BROKEN and S3_UNTRUSTED */
};

struct s3_http;

int s3_http_new(const struct s3_place *place, struct replica *owner, struct s3_http **ret_http);
void s3_http_free(struct s3_http *http);

/* A result, or negative errno. */
int s3_http_exchange(struct s3_http *http, struct s3_exchange *exchange);
