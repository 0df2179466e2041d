/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The key of a bucket, from where others look for it too; the first of these that has one:
 *
 *	AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or the same with _FILE
 *	$CREDENTIALS_DIRECTORY/aws_access_key_id and so on (systemd's LoadCredential=)
 *	AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials, section AWS_PROFILE or "default"
 *
 * Read again when a store refuses them, so they can be rotated.
 */

#include <stdbool.h>
#include <stddef.h>

enum { S3_KEY_BYTES = 256, S3_TOKEN_BYTES = 4096 };

struct s3_credentials {
	char access_key[S3_KEY_BYTES];
	char secret_key[S3_KEY_BYTES];
	char session_token[S3_TOKEN_BYTES]; /* "": none */
};

/* 0; -ENOENT: nowhere; -EINVAL: a place has only half of it, or what cannot be one. With a sentence. */
int s3_credentials_load(struct s3_credentials *ret_credentials, char *ret_error, size_t size);

bool s3_credentials_equal(const struct s3_credentials *a, const struct s3_credentials *b);

void s3_credentials_wipe(struct s3_credentials *credentials);
