/* SPDX-License-Identifier: MIT */

/*
 * What is too large for one request goes up in parts, each hashed and signed, straight from its
 * file. The object appears when the upload is completed and not before. An upload that is given up
 * is aborted; one that a crash left behind is aborted a day later, since its parts cost money and
 * no listing shows them.
 */

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/ship/replica_s3.h"
#include "server/ship/s3_time.h"
#include "server/ship/s3_xml.h"
#include "server/ship/sigv4.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	PART_BYTES_MIN = 16 << 20,
	PARTS_MAX = 9000, /* S3 takes 10,000 */
	UPLOAD_ID_BYTES = 1024,
	ETAG_LINE_BYTES = 160,
	LEFTOVER_MS = 24 * 60 * 60 * 1000,
	SWEEP_MAX = 100, /* of one sweep; the next start finds the rest */
	HASH_BYTES = 128 * 1024,
	PART_TRIES = 3,
	COMPLETE_TRIES = 3,
};

/* The store knows other parts than were noted: the upload is surely not complete. */
enum { PARTS_REFUSED = 1 << 20 };

struct upload {
	struct replica_bucket *bucket;
	const char *key;
	int fd;
	uint64_t size;
	uint64_t part_bytes;
	char id[UPLOAD_ID_BYTES];
	char *parts; /* the document that completes it */
	size_t parts_len;
	size_t parts_room;
	struct replica_error *error;
};

static int refused(const struct upload *upload, const struct s3_answer *answer, const char *what)
{
	return replica_fail(&upload->bucket->replica, upload->error,
		answer->status == 404 ? REPLICA_AGAIN : REPLICA_DENIED,
		"%s of %s: the store answers %ld %s", what, upload->key, answer->status,
		answer->code);
}

static int begin(struct upload *upload, int64_t timestamp_ms, const struct record *record)
{
	struct s3_request request;
	struct s3_answer answer;
	s3_request_init(&request, REQUEST_PUT, "POST", upload->key);
	s3_request_param(&request, "uploads", "");
	replica_s3_describe(&request, timestamp_ms, record);
	int rc = s3_client_send(upload->bucket->client, &request, &answer, upload->error);
	if (rc != 0) {
		return rc;
	}
	if (answer.status != 200) {
		return refused(upload, &answer, "beginning the upload");
	}
	s3_xml_find(answer.body, answer.body_len, "UploadId", upload->id, sizeof upload->id);
	return upload->id[0] != '\0' ? 0 : refused(upload, &answer, "beginning the upload");
}

/* The hashes of a part as text: as its request wants them, and as its ETag may be. */
struct part_hashes {
	char sha256[SIGV4_SHA256_TEXT_BYTES];
	char md5[32];
	char etag[33];
};

static int hash_part(
	const struct upload *upload, uint64_t offset, uint64_t len, struct part_hashes *ret_hashes)
{
	uint8_t hash[EVP_MAX_MD_SIZE];
	CLEANUP_FREE uint8_t *buffer = malloc(HASH_BYTES);
	EVP_MD_CTX *sha256 = EVP_MD_CTX_new();
	EVP_MD_CTX *md5 = EVP_MD_CTX_new();
	bool ready = buffer != NULL && sha256 != NULL && md5 != NULL &&
		EVP_DigestInit_ex(sha256, EVP_sha256(), NULL) == 1 &&
		EVP_DigestInit_ex(md5, EVP_md5(), NULL) == 1;
	int rc = ready ? 0 : -ENOMEM;
	while (rc == 0 && len > 0) {
		size_t want = len < HASH_BYTES ? (size_t)len : HASH_BYTES;
		ssize_t got = pread(upload->fd, buffer, want, (off_t)offset);
		if (got <= 0) {
			rc = -EIO;
			break;
		}
		EVP_DigestUpdate(sha256, buffer, (size_t)got);
		EVP_DigestUpdate(md5, buffer, (size_t)got);
		offset += (uint64_t)got;
		len -= (uint64_t)got;
	}
	if (rc == 0) {
		EVP_DigestFinal_ex(sha256, hash, NULL);
		sigv4_hex(hash, 32, ret_hashes->sha256);
		EVP_DigestFinal_ex(md5, hash, NULL);
		EVP_EncodeBlock((unsigned char *)ret_hashes->md5, hash, 16);
		sigv4_hex(hash, 16, ret_hashes->etag);
	}
	EVP_MD_CTX_free(sha256);
	EVP_MD_CTX_free(md5);
	return rc;
}

/* A line of the document; an ETag is the store's word, so what would break XML is refused. */
static int note_part(struct upload *upload, int number, const char *etag)
{
	char line[ETAG_LINE_BYTES];
	int len = snprintf(line, sizeof line,
		"<Part><PartNumber>%d</PartNumber><ETag>&quot;%s&quot;</ETag></Part>", number,
		etag);
	if (etag[0] == '\0' || strpbrk(etag, "<>&") != NULL || (size_t)len >= sizeof line) {
		return replica_fail(&upload->bucket->replica, upload->error, REPLICA_CORRUPT,
			"the store gives no ETag for a part of %s", upload->key);
	}
	memcpy(upload->parts + upload->parts_len, line, (size_t)len + 1);
	upload->parts_len += (size_t)len;
	return 0;
}

static int send_part_once(struct upload *upload, int number, uint64_t offset, uint64_t len,
	const struct part_hashes *hashes, struct s3_answer *answer)
{
	struct s3_request request;
	char number_text[16];
	snprintf(number_text, sizeof number_text, "%d", number);
	s3_request_init(&request, REQUEST_PUT, "PUT", upload->key);
	s3_request_param(&request, "partNumber", number_text);
	s3_request_param(&request, "uploadId", upload->id);
	request.fd = upload->fd;
	request.body_offset = offset;
	request.body_len = len;
	snprintf(request.body_sha256, sizeof request.body_sha256, "%s", hashes->sha256);
	s3_request_header(&request, "content-md5", "%s", hashes->md5);
	int rc = s3_client_send(upload->bucket->client, &request, answer, upload->error);
	return rc == 0 && answer->status != 200 ? refused(upload, answer, "a part") : rc;
}

/*
 * An ETag that is not the MD5 came from another way of the store's, or was garbled on the way: the
 * part is sent again, and what the store says twice is taken.
 */
static int send_part(struct upload *upload, int number, uint64_t offset, uint64_t len)
{
	struct part_hashes hashes;
	struct s3_answer answer;
	char etag[sizeof answer.etag] = "";
	int rc = hash_part(upload, offset, len, &hashes);
	if (rc != 0) {
		return replica_fail(&upload->bucket->replica, upload->error, rc,
			"%s cannot be read", upload->key);
	}
	for (int i = 0; i < PART_TRIES; i++) {
		rc = send_part_once(upload, number, offset, len, &hashes, &answer);
		if (rc != 0) {
			return rc;
		}
		if (strcmp(answer.etag, hashes.etag) == 0 || strcmp(answer.etag, etag) == 0) {
			break;
		}
		memcpy(etag, answer.etag, sizeof etag);
	}
	return note_part(upload, number, answer.etag);
}

static int send_parts(struct upload *upload)
{
	static const char head[] = "<CompleteMultipartUpload>";
	uint64_t count = (upload->size + upload->part_bytes - 1) / upload->part_bytes;
	upload->parts_room = sizeof head + (size_t)count * ETAG_LINE_BYTES + 64;
	upload->parts = malloc(upload->parts_room);
	if (upload->parts == NULL) {
		return -ENOMEM;
	}
	memcpy(upload->parts, head, sizeof head);
	upload->parts_len = sizeof head - 1;
	int rc = 0;
	int number = 1;
	for (uint64_t offset = 0; rc == 0 && offset < upload->size; number++) {
		uint64_t rest = upload->size - offset;
		uint64_t len = rest < upload->part_bytes ? rest : upload->part_bytes;
		rc = send_part(upload, number, offset, len);
		offset += len;
	}
	return rc;
}

/*
 * One attempt to complete it. REPLICA_EXISTS also when the upload is gone: then an earlier attempt
 * may have completed it, and the object tells. A 200 may hold an error: it began before the end was
 * known.
 */
static int complete_once(struct upload *upload)
{
	struct s3_request request;
	struct s3_answer answer;
	char code[64];
	uint8_t hash[32];
	s3_request_init(&request, REQUEST_PUT, "POST", upload->key);
	s3_request_param(&request, "uploadId", upload->id);
	s3_request_header(&request, "content-type", "application/xml");
	if (!upload->bucket->unfenced) {
		s3_request_header(&request, "if-none-match", "*");
	}
	request.body = upload->parts;
	request.body_len = upload->parts_len;
	if (EVP_Digest(upload->parts, upload->parts_len, hash, NULL, EVP_sha256(), NULL) != 1) {
		return -ENOMEM;
	}
	sigv4_hex(hash, sizeof hash, request.body_sha256);
	int rc = s3_client_send(upload->bucket->client, &request, &answer, upload->error);
	if (rc != 0) {
		return rc;
	}
	if (answer.status == 412 || answer.status == 404) {
		return REPLICA_EXISTS;
	}
	if (answer.status == 400) {
		return PARTS_REFUSED;
	}
	if (answer.status != 200) {
		return refused(upload, &answer, "completing the upload");
	}
	s3_xml_find(answer.body, answer.body_len, "Code", code, sizeof code);
	if (code[0] != '\0') {
		return replica_fail(&upload->bucket->replica, upload->error, REPLICA_AGAIN,
			"completing %s: the store answers 200, and in it %.40s", upload->key, code);
	}
	return 0;
}

static int complete(struct upload *upload)
{
	static const char tail[] = "</CompleteMultipartUpload>";
	memcpy(upload->parts + upload->parts_len, tail, sizeof tail);
	upload->parts_len += sizeof tail - 1;
	int rc = REPLICA_AGAIN;
	for (int i = 0; rc == REPLICA_AGAIN && i < COMPLETE_TRIES; i++) {
		rc = complete_once(upload);
	}
	return rc;
}

static int abort_upload(
	struct replica_bucket *bucket, const char *key, const char *id, struct replica_error *error)
{
	struct s3_request request;
	struct s3_answer answer;
	s3_request_init(&request, REQUEST_DELETE, "DELETE", key);
	s3_request_param(&request, "uploadId", id);
	return s3_client_send(bucket->client, &request, &answer, error);
}

int s3_multipart_put(struct replica_bucket *bucket, const char *key, int fd, uint64_t size,
	int64_t timestamp_ms, const struct record *record, struct replica_error *error)
{
	struct upload upload = {
		.bucket = bucket, .key = key, .fd = fd, .size = size, .error = error};
	uint64_t mib = UINT64_C(1) << 20;
	upload.part_bytes = (size / PARTS_MAX + mib) / mib * mib;
	if (upload.part_bytes < PART_BYTES_MIN) {
		upload.part_bytes = PART_BYTES_MIN;
	}
	int rc = begin(&upload, timestamp_ms, record);
	if (rc != 0) {
		return rc;
	}
	rc = send_parts(&upload);
	rc = rc == 0 ? complete(&upload) : rc;
	/* Its outcome may be unknown: then it stays for the sweep, since it may be our object. */
	if (rc != 0 && rc != REPLICA_AGAIN && rc != REPLICA_EXISTS) {
		struct replica_error ignored;
		(void)abort_upload(bucket, key, upload.id, &ignored);
	}
	if (rc == PARTS_REFUSED) {
		rc = replica_fail(&bucket->replica, error, REPLICA_AGAIN,
			"the store has lost a part of %s", key);
	}
	free(upload.parts);
	return rc;
}

/* ---- what a crash left behind ---- */

struct leftover {
	char key[S3_KEY_BYTES_MAX];
	char id[UPLOAD_ID_BYTES];
};

/* The old uploads of one answer, at most SWEEP_MAX. */
static size_t find_leftovers(
	const struct s3_answer *answer, int64_t before_ms, struct leftover *ret_leftovers)
{
	struct leftover leftover = {0};
	int64_t began_ms = 0;
	size_t count = 0;
	struct s3_xml xml;
	enum s3_xml_event event;
	s3_xml_init(&xml, answer->body, answer->body_len);
	while ((event = s3_xml_next(&xml)) != S3_XML_END && event != S3_XML_BAD &&
		count < SWEEP_MAX) {
		if (event == S3_XML_OPEN) {
			continue;
		}
		if (strcmp(xml.name, "Key") == 0) {
			snprintf(leftover.key, sizeof leftover.key, "%.*s", S3_KEY_BYTES_MAX - 1,
				xml.text);
		} else if (strcmp(xml.name, "UploadId") == 0) {
			snprintf(leftover.id, sizeof leftover.id, "%.*s", UPLOAD_ID_BYTES - 1,
				xml.text);
		} else if (strcmp(xml.name, "Initiated") == 0) {
			began_ms = s3_time_parse(xml.text);
		} else if (strcmp(xml.name, "Upload") == 0) {
			if (began_ms != 0 && began_ms < before_ms) {
				ret_leftovers[count++] = leftover;
			}
			began_ms = 0;
		}
	}
	return count;
}

int s3_multipart_sweep(struct replica_bucket *bucket, struct replica_error *error)
{
	char prefix[S3_PREFIX_BYTES + 8];
	struct s3_request request;
	struct s3_answer answer;
	CLEANUP_FREE struct leftover *leftovers = calloc(SWEEP_MAX, sizeof *leftovers);
	if (leftovers == NULL) {
		return -ENOMEM;
	}
	snprintf(prefix, sizeof prefix, "%s/", bucket->place.prefix);
	s3_request_init(&request, REQUEST_LIST, "GET", "");
	s3_request_param(&request, "prefix", prefix);
	s3_request_param(&request, "uploads", "");
	int rc = s3_client_send(bucket->client, &request, &answer, error);
	/* A key that may not list uploads, or a store that knows none, has none to sweep. */
	if (rc == REPLICA_DENIED || (rc == 0 && answer.status != 200)) {
		*error = (struct replica_error){0};
		return 0;
	}
	int64_t now_ms = (int64_t)(clock_wall_us() / 1000);
	size_t count = rc == 0 ? find_leftovers(&answer, now_ms - LEFTOVER_MS, leftovers) : 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		rc = abort_upload(bucket, leftovers[i].key, leftovers[i].id, error);
	}
	return rc;
}
