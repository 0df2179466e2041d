/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Where a bucket is, from a URL:
 *
 *	s3://BUCKET/PREFIX?endpoint=URL&region=NAME&force-path-style=BOOL&insecure=BOOL&timeout-ms=N
 *
 * Without an endpoint it is AWS. The region is the URL's, else that of AWS_REGION or
 * AWS_DEFAULT_REGION, else what an endpoint like s3.REGION.example.com names, else us-east-1 (at
 * Cloudflare: auto). With an endpoint the bucket is part of the path, unless force-path-style=false.
 * http is taken for loopback only, unless insecure=true: keys are never sent, but data is.
 */

#include <stdbool.h>
#include <stddef.h>

enum { S3_PREFIX_BYTES = 512 };

struct s3_place {
	char bucket[256];
	char prefix[S3_PREFIX_BYTES]; /* no slash around it */
	char scheme[8];
	char host[300]; /* with the port, and with the bucket in front if it is not in the path */
	char region[64];
	bool path_style;
	long timeout_ms; /* without a byte moving */
};

/* `rest` is what follows "s3://". NULL, or a sentence: what is wrong and the cure. */
const char *s3_place_parse(const char *rest, struct s3_place *ret_place);
