/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * AWS Signature Version 4 for S3: the value of the Authorization header. libcurl has a signer of its
 * own; that of Debian 12 mistakes sorted queries, escapes and removed headers, so requests are
 * signed here and only carried by it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	SIGV4_SHA256_TEXT_BYTES = 65,
	SIGV4_TIMESTAMP_BYTES = 17, /* 20130524T000000Z */
	SIGV4_AUTHORIZATION_BYTES = 2048,
};

struct sigv4_header {
	const char *name; /* lower-case */
	const char *value;
};

struct sigv4_request {
	const char *method;
	const char *path;  /* as sent, encoded once */
	const char *query; /* as sent: sorted, encoded, "name=value" also where it is empty */
	const struct sigv4_header *headers; /* those to be signed, sorted by name */
	size_t header_count;
	const char *payload_sha256; /* hexadecimal */
	const char *timestamp;
	const char *region;
	const char *access_key;
	const char *secret_key;
};

/* 0, or -ENOSPC: names of headers, region and key together are too long. */
int sigv4_authorization(
	const struct sigv4_request *request, char ret_value[SIGV4_AUTHORIZATION_BYTES]);

/*
 * Appends text as the signature wants it: all but unreserved characters as %XX, "/" too unless
 * keep_slash. Returns the length without the NUL; at most size - 1 of it has been written.
 */
size_t sigv4_encode(const char *text, bool keep_slash, char *ret_text, size_t size);

void sigv4_hex(const uint8_t *bytes, size_t size, char *ret_text);

/* UTC, of seconds since 1970. */
void sigv4_timestamp(int64_t seconds, char ret_timestamp[SIGV4_TIMESTAMP_BYTES]);
