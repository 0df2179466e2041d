/* SPDX-License-Identifier: MIT */

/*
 * Creates the objects of a replica in a bucket. A PUT is conditional (If-None-Match: *), so a
 * segment is never replaced, and it carries two hashes of its bytes: the store refuses what arrived
 * damaged. When the answer is lost, or says that the key is taken, the object itself tells whether
 * it is our upload; what is taken for ours has been compared.
 */

#include "server/base/cleanup.h"
#include "server/ship/replica_s3.h"
#include "server/ship/s3_time.h"
#include "server/ship/sigv4.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	HASH_BYTES = 128 * 1024,
	MD5_BYTES = 16,
	MULTIPART_FROM = 64 << 20,
};
static const uint64_t single_bytes_max = UINT64_C(5) << 30; /* of one PUT, by AWS */

/* What a put carries from one of its steps to the next. */
struct put {
	struct replica_bucket *bucket;
	const char *key;
	int fd;
	uint64_t size;
	int64_t timestamp_ms;
	const struct record *record; /* or NULL */
	uint8_t md5[MD5_BYTES];
	uint8_t sha256[RECORD_SHA256_BYTES];
	struct replica_error *error;
};

/* ---- hashes ---- */

struct hashes {
	EVP_MD_CTX *md5;
	EVP_MD_CTX *sha256;
};

static int hashes_init(struct hashes *hashes)
{
	hashes->md5 = EVP_MD_CTX_new();
	hashes->sha256 = EVP_MD_CTX_new();
	bool ready = hashes->md5 != NULL && hashes->sha256 != NULL &&
		EVP_DigestInit_ex(hashes->md5, EVP_md5(), NULL) == 1 &&
		EVP_DigestInit_ex(hashes->sha256, EVP_sha256(), NULL) == 1;
	return ready ? 0 : -ENOMEM;
}

static void hashes_finish(struct hashes *hashes)
{
	EVP_MD_CTX_free(hashes->md5);
	EVP_MD_CTX_free(hashes->sha256);
}

static int hash_bytes(void *ctx, const void *bytes, size_t len)
{
	struct hashes *hashes = ctx;
	EVP_DigestUpdate(hashes->md5, bytes, len);
	EVP_DigestUpdate(hashes->sha256, bytes, len);
	return 0;
}

/* Both hashes of what is to be sent. -EIO: it is not what the record says. */
static int hash_file(struct put *put)
{
	CLEANUP_FREE uint8_t *buffer = malloc(HASH_BYTES);
	struct hashes hashes = {0};
	int rc = buffer == NULL ? -ENOMEM : hashes_init(&hashes);
	for (uint64_t at = 0; rc == 0 && at < put->size;) {
		size_t part = put->size - at < HASH_BYTES ? (size_t)(put->size - at) : HASH_BYTES;
		ssize_t got = pread(put->fd, buffer, part, (off_t)at);
		rc = got > 0 ? hash_bytes(&hashes, buffer, (size_t)got) : -EIO;
		at += got > 0 ? (uint64_t)got : 0;
	}
	if (rc == 0) {
		EVP_DigestFinal_ex(hashes.md5, put->md5, NULL);
		EVP_DigestFinal_ex(hashes.sha256, put->sha256, NULL);
		if (put->record != NULL &&
			memcmp(put->sha256, put->record->sha256, sizeof put->sha256) != 0) {
			rc = -EIO;
		}
	}
	hashes_finish(&hashes);
	return rc == 0 ? 0
		       : replica_fail(&put->bucket->replica, put->error, rc,
				 "%s changed between being hashed and being sent", put->key);
}

/* ---- whose is it ---- */

/* An ETag is the MD5 of an object, unless it was encrypted or uploaded in parts. */
static bool etag_wrong(const struct put *put, const char *etag, bool encrypted)
{
	char md5[2 * MD5_BYTES + 1];
	sigv4_hex(put->md5, sizeof put->md5, md5);
	return !encrypted && strlen(etag) == 2 * MD5_BYTES && strcmp(etag, md5) != 0;
}

/*
 * Reads the object back: its bytes are the only proof that is left. What cannot be read proves nothing,
 * whatever is wrong with the answer.
 */
static int compare_bytes(const struct put *put)
{
	uint8_t sha256[RECORD_SHA256_BYTES];
	struct hashes hashes = {0};
	int rc = hashes_init(&hashes);
	rc = rc == 0 ? replica_s3_read(put->bucket, put->key, put->size, 0, UINT64_MAX, hash_bytes,
			       &hashes, put->error)
		     : rc;
	rc = rc == REPLICA_CORRUPT ? REPLICA_AGAIN : rc;
	if (rc == 0) {
		EVP_DigestFinal_ex(hashes.sha256, sha256, NULL);
		if (memcmp(sha256, put->sha256, sizeof sha256) != 0) {
			rc = replica_fail(&put->bucket->replica, put->error, REPLICA_CORRUPT,
				"the store has kept other bytes of %s than were sent", put->key);
		}
	}
	hashes_finish(&hashes);
	return rc;
}

/* The key is taken. 0: by this very upload, whole and right. */
static int settle_existing(const struct put *put)
{
	struct s3_object object;
	const struct replica *replica = &put->bucket->replica;
	int rc = replica_s3_head(put->bucket, put->key, &object, put->error);
	if (rc == REPLICA_MISSING) {
		return replica_fail(replica, put->error, REPLICA_AGAIN,
			"the store says that %s exists and that it does not", put->key);
	}
	if (rc != 0) {
		return rc;
	}
	if (put->record == NULL || !object.known ||
		!replica_same_upload(&object.record, put->record)) {
		return replica_fail(replica, put->error, REPLICA_EXISTS,
			"%s is there already, and it is not ours: another daemon ships to this "
			"replica",
			put->key);
	}
	if (object.size != put->size) {
		return replica_fail(replica, put->error, REPLICA_CORRUPT,
			"the store has kept %s with another length than was sent", put->key);
	}
	return etag_wrong(put, object.etag, object.encrypted) ? compare_bytes(put) : 0;
}

/* ---- sending ---- */

static void describe_key(void *ctx, const char *key, const char *value)
{
	char name[64];
	snprintf(name, sizeof name, "x-amz-meta-litefunnel-%s", key);
	s3_request_header(ctx, name, "%s", value);
}

void replica_s3_describe(
	struct s3_request *request, int64_t timestamp_ms, const struct record *record)
{
	char when[S3_TIME_BYTES];
	s3_time_format(timestamp_ms, when);
	s3_request_header(request, "content-type", "application/octet-stream");
	s3_request_header(request, "x-amz-meta-litestream-timestamp", "%s", when);
	if (record != NULL) {
		record_each(record, describe_key, request);
	}
}

static int put_whole(struct put *put)
{
	struct s3_request request;
	struct s3_answer answer;
	char md5[4 * ((MD5_BYTES + 2) / 3) + 1];
	s3_request_init(&request, REQUEST_PUT, "PUT", put->key);
	request.fd = put->fd;
	request.body_len = put->size;
	EVP_EncodeBlock((unsigned char *)md5, put->md5, sizeof put->md5);
	sigv4_hex(put->sha256, sizeof put->sha256, request.body_sha256);
	s3_request_header(&request, "content-md5", "%s", md5);
	if (!put->bucket->unfenced) {
		s3_request_header(&request, "if-none-match", "*");
	}
	replica_s3_describe(&request, put->timestamp_ms, put->record);
	int rc = s3_client_send(put->bucket->client, &request, &answer, put->error);
	if (rc != 0) {
		return rc;
	}
	if (answer.status == 412) {
		return settle_existing(put);
	}
	if (answer.status / 100 != 2) {
		return replica_fail(&put->bucket->replica, put->error, REPLICA_DENIED,
			"%s: the store answers %ld %s", put->key, answer.status, answer.code);
	}
	return etag_wrong(put, answer.etag, answer.encrypted) ? compare_bytes(put) : 0;
}

/* A store without conditions, or without those on parts: look first, which is the best there is. */
static int refuse_taken(const struct put *put)
{
	struct s3_object object;
	int rc = replica_s3_head(put->bucket, put->key, &object, put->error);
	if (rc == REPLICA_MISSING) {
		*put->error = (struct replica_error){0};
		return 0;
	}
	return rc != 0 ? rc : REPLICA_EXISTS;
}

int replica_s3_put(struct replica *replica, int level, const char *name, int fd, uint64_t size,
	int64_t timestamp_ms, const struct record *record, struct replica_error *ret_error)
{
	char key[S3_KEY_BYTES_MAX];
	struct replica_bucket *bucket = (struct replica_bucket *)replica;
	struct put put = {.bucket = bucket,
		.key = key,
		.fd = fd,
		.size = size,
		.timestamp_ms = timestamp_ms,
		.record = record,
		.error = ret_error};
	replica_s3_key(bucket, level, name, key);
	/*
	 * The numbers of level 0 are the fence: they are given by one conditional PUT as long as
	 * that can be, since not every store keeps the condition of an upload in parts.
	 */
	bool parts = size > (level == 0 ? single_bytes_max : (uint64_t)MULTIPART_FROM);
	int rc = hash_file(&put);
	if (rc == 0 && (parts || bucket->unfenced)) {
		rc = refuse_taken(&put);
	}
	if (rc == 0) {
		rc = parts
			? s3_multipart_put(bucket, key, fd, size, timestamp_ms, record, ret_error)
			: put_whole(&put);
	}
	return rc == REPLICA_EXISTS ? settle_existing(&put) : rc;
}

/* ---- probing ---- */

static int put_probe(struct replica_bucket *bucket, const char *key, struct s3_answer *answer,
	struct replica_error *error)
{
	struct s3_request request;
	s3_request_init(&request, REQUEST_PUT, "PUT", key);
	s3_request_header(&request, "if-none-match", "*");
	return s3_client_send(bucket->client, &request, answer, error);
}

/*
 * Creates one object twice. It stays, so that the next start needs one request only; no listing of
 * a level shows it.
 */
int replica_s3_probe(struct replica *replica, struct replica_error *ret_error)
{
	char key[S3_KEY_BYTES_MAX];
	struct s3_answer answer;
	struct replica_bucket *bucket = (struct replica_bucket *)replica;
	snprintf(key, sizeof key, "%s/litefunnel-probe", bucket->place.prefix);
	int rc = put_probe(bucket, key, &answer, ret_error);
	if (rc == 0 && answer.status / 100 == 2) {
		rc = put_probe(bucket, key, &answer, ret_error);
	}
	if (rc != 0) {
		return rc;
	}
	if (answer.status == 404) {
		return replica_fail(replica, ret_error, REPLICA_DENIED, "the store answers 404 %s",
			answer.code);
	}
	bucket->unfenced = answer.status != 412;
	if (bucket->unfenced) {
		return replica_fail(replica, ret_error, REPLICA_UNFENCED,
			"the store ignores If-None-Match: two daemons could overwrite each other");
	}
	return s3_multipart_sweep(bucket, ret_error);
}
