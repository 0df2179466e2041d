/* SPDX-License-Identifier: MIT */

/*
 * The signature, by AWS's text: a hash of the canonical request, signed by a key that is derived
 * from the secret, the day, the region and the service. Nothing is built in memory that could be
 * hashed on the way. It knows nothing of HTTP.
 */

#include "server/ship/sigv4.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { SHA256_BYTES = 32, DAY_BYTES = 8 };

void sigv4_hex(const uint8_t *bytes, size_t size, char *ret_text)
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < size; i++) {
		ret_text[2 * i] = digits[bytes[i] >> 4];
		ret_text[2 * i + 1] = digits[bytes[i] & 15];
	}
	ret_text[2 * size] = '\0';
}

void sigv4_timestamp(int64_t seconds, char ret_timestamp[SIGV4_TIMESTAMP_BYTES])
{
	struct tm tm;
	time_t when = (time_t)seconds;
	gmtime_r(&when, &tm);
	strftime(ret_timestamp, SIGV4_TIMESTAMP_BYTES, "%Y%m%dT%H%M%SZ", &tm);
}

static bool unreserved(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
		c == '-' || c == '.' || c == '_' || c == '~';
}

size_t sigv4_encode(const char *text, bool keep_slash, char *ret_text, size_t size)
{
	static const char digits[] = "0123456789ABCDEF";
	size_t len = 0;
	for (; *text != '\0'; text++) {
		char out[3] = {'%', digits[(uint8_t)*text >> 4], digits[(uint8_t)*text & 15]};
		bool plain = unreserved(*text) || (keep_slash && *text == '/');
		size_t count = plain ? 1 : sizeof out;
		if (len + count < size) {
			memcpy(ret_text + len, plain ? text : out, count);
			ret_text[len + count] = '\0';
		}
		len += count;
	}
	return len;
}

static void hash_text(EVP_MD_CTX *hash, const char *text)
{
	EVP_DigestUpdate(hash, text, strlen(text));
}

/* method, path, query, headers, names of the headers, hash of the payload; a line each. */
static int hash_request(const struct sigv4_request *request, char ret_hash[SIGV4_SHA256_TEXT_BYTES])
{
	uint8_t bytes[SHA256_BYTES];
	EVP_MD_CTX *hash = EVP_MD_CTX_new();
	if (hash == NULL || EVP_DigestInit_ex(hash, EVP_sha256(), NULL) != 1) {
		EVP_MD_CTX_free(hash);
		return -ENOMEM;
	}
	const char *const lines[] = {request->method, request->path, request->query};
	for (int i = 0; i < 3; i++) {
		hash_text(hash, lines[i]);
		hash_text(hash, "\n");
	}
	for (size_t i = 0; i < request->header_count; i++) {
		hash_text(hash, request->headers[i].name);
		hash_text(hash, ":");
		hash_text(hash, request->headers[i].value);
		hash_text(hash, "\n");
	}
	for (size_t i = 0; i < request->header_count; i++) {
		hash_text(hash, i == 0 ? "\n" : ";");
		hash_text(hash, request->headers[i].name);
	}
	hash_text(hash, "\n");
	hash_text(hash, request->payload_sha256);
	EVP_DigestFinal_ex(hash, bytes, NULL);
	EVP_MD_CTX_free(hash);
	sigv4_hex(bytes, sizeof bytes, ret_hash);
	return 0;
}

static void hmac(uint8_t key[SHA256_BYTES], const char *text, size_t len)
{
	uint8_t result[SHA256_BYTES];
	HMAC(EVP_sha256(), key, SHA256_BYTES, (const uint8_t *)text, len, result, NULL);
	memcpy(key, result, sizeof result);
	OPENSSL_cleanse(result, sizeof result);
}

/* The signing key of the day. */
static int derive_key(const struct sigv4_request *request, uint8_t ret_key[SHA256_BYTES])
{
	char secret[512];
	int len = snprintf(secret, sizeof secret, "AWS4%s", request->secret_key);
	if (len < 0 || (size_t)len >= sizeof secret) {
		return -ENOSPC;
	}
	HMAC(EVP_sha256(), secret, len, (const uint8_t *)request->timestamp, DAY_BYTES, ret_key,
		NULL);
	OPENSSL_cleanse(secret, sizeof secret);
	hmac(ret_key, request->region, strlen(request->region));
	hmac(ret_key, "s3", 2);
	hmac(ret_key, "aws4_request", 12);
	return 0;
}

static int sign(const struct sigv4_request *request, const char *hash,
	char ret_signature[SIGV4_SHA256_TEXT_BYTES])
{
	char text[512];
	uint8_t key[SHA256_BYTES];
	int len = snprintf(text, sizeof text, "AWS4-HMAC-SHA256\n%s\n%.8s/%s/s3/aws4_request\n%s",
		request->timestamp, request->timestamp, request->region, hash);
	if (len < 0 || (size_t)len >= sizeof text) {
		return -ENOSPC;
	}
	int rc = derive_key(request, key);
	if (rc == 0) {
		hmac(key, text, (size_t)len);
		sigv4_hex(key, sizeof key, ret_signature);
	}
	OPENSSL_cleanse(key, sizeof key);
	return rc;
}

int sigv4_authorization(
	const struct sigv4_request *request, char ret_value[SIGV4_AUTHORIZATION_BYTES])
{
	char hash[SIGV4_SHA256_TEXT_BYTES];
	char signature[SIGV4_SHA256_TEXT_BYTES];
	int rc = hash_request(request, hash);
	rc = rc == 0 ? sign(request, hash, signature) : rc;
	if (rc != 0) {
		return rc;
	}
	int len = snprintf(ret_value, SIGV4_AUTHORIZATION_BYTES,
		"AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/s3/aws4_request,SignedHeaders=",
		request->access_key, request->timestamp, request->region);
	size_t at = len < 0 ? SIGV4_AUTHORIZATION_BYTES : (size_t)len;
	for (size_t i = 0; i < request->header_count && at < SIGV4_AUTHORIZATION_BYTES; i++) {
		at += (size_t)snprintf(ret_value + at, SIGV4_AUTHORIZATION_BYTES - at, "%s%s",
			i == 0 ? "" : ";", request->headers[i].name);
	}
	if (at < SIGV4_AUTHORIZATION_BYTES) {
		at += (size_t)snprintf(
			ret_value + at, SIGV4_AUTHORIZATION_BYTES - at, ",Signature=%s", signature);
	}
	return at < SIGV4_AUTHORIZATION_BYTES ? 0 : -ENOSPC;
}
