/* SPDX-License-Identifier: MIT */

/*
 * Makes one file of a run. Every input is held against the SHA-256 of its record before it is
 * merged, wherever it came from; the record of the result says what those of the first and the last
 * said. Files without names: a crash leaves nothing behind.
 */

#include "server/ship/compact_run.h"

#include "server/base/cleanup.h"
#include "server/ship/replica_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 128 * 1024 };

/* ---- what fits ---- */

static bool continues(const struct run_file *last, const struct run_file *file)
{
	return file->file.min_txid == last->file.max_txid + 1 &&
		memcmp(file->record.epoch, last->record.epoch, RECORD_ID_BYTES) == 0;
}

enum run_fit run_fits(const struct run *run, const struct run_file *file)
{
	/* Without digests nobody could tell whether the result fits its neighbours. */
	bool usable = file->known && !file->record.full && file->record.has_digest;
	if (run->count == 0) {
		return usable ? RUN_TAKES : RUN_SKIPS;
	}
	const struct run_file *last = &run->files[run->count - 1];
	if (!usable || !continues(last, file)) {
		return RUN_ENDS;
	}
	return memcmp(last->record.digest_after, file->record.digest_before, RECORD_DIGEST_BYTES) ==
			0
		? RUN_TAKES
		: RUN_BREAKS;
}

int run_broken(
	const struct replica *replica, const struct run_file *file, struct replica_error *ret_error)
{
	return replica_fail(replica, ret_error, REPLICA_CORRUPT,
		"segment %016" PRIx64 " was not made on top of the one before it",
		file->file.min_txid);
}

/* ---- files without names, that know their hash ---- */

struct scratch {
	int fd;
	uint64_t size;
	EVP_MD_CTX *hash;
	uint8_t sha256[RECORD_SHA256_BYTES];
};

static void scratch_finish(struct scratch *scratch)
{
	if (scratch->fd >= 0) {
		close(scratch->fd);
	}
	EVP_MD_CTX_free(scratch->hash);
	*scratch = (struct scratch){.fd = -1};
}

static int scratch_init(struct scratch *scratch, const char *dir)
{
	char path[4096];
	*scratch = (struct scratch){.fd = -1};
	if (snprintf(path, sizeof path, "%s/compact-XXXXXX", dir) >= (int)sizeof path) {
		return -ENAMETOOLONG;
	}
	scratch->fd = mkostemp(path, O_CLOEXEC);
	if (scratch->fd < 0) {
		return -errno;
	}
	(void)unlink(path);
	scratch->hash = EVP_MD_CTX_new();
	return scratch->hash != NULL && EVP_DigestInit_ex(scratch->hash, EVP_sha256(), NULL) == 1
		? 0
		: -ENOMEM;
}

/* An ltx_sink and a replica_sink. */
static int scratch_write(void *ctx, const void *bytes, size_t len)
{
	struct scratch *scratch = ctx;
	const uint8_t *at = bytes;
	EVP_DigestUpdate(scratch->hash, bytes, len);
	while (len > 0) {
		ssize_t written = pwrite(scratch->fd, at, len, (off_t)scratch->size);
		if (written < 0 && errno != EINTR) {
			return -errno;
		}
		if (written > 0) {
			at += written;
			len -= (size_t)written;
			scratch->size += (uint64_t)written;
		}
	}
	return 0;
}

static void scratch_end(struct scratch *scratch)
{
	EVP_DigestFinal_ex(scratch->hash, scratch->sha256, NULL);
}

/* ---- inputs ---- */

/* Hashes a file that is here. */
static int hash_local(int fd, struct scratch *scratch)
{
	CLEANUP_FREE uint8_t *buffer = malloc(READ_BYTES);
	ssize_t got = 1;
	scratch->hash = EVP_MD_CTX_new();
	if (buffer == NULL || scratch->hash == NULL ||
		EVP_DigestInit_ex(scratch->hash, EVP_sha256(), NULL) != 1) {
		return -ENOMEM;
	}
	while (got > 0) {
		got = pread(fd, buffer, READ_BYTES, (off_t)scratch->size);
		if (got > 0) {
			EVP_DigestUpdate(scratch->hash, buffer, (size_t)got);
			scratch->size += (uint64_t)got;
		}
	}
	return got < 0 ? -errno : 0;
}

/* 0 if the file is here and is what the record says. */
static int take_local(const struct compact_options *options, const struct run_file *file,
	struct scratch *ret_scratch)
{
	*ret_scratch = (struct scratch){.fd = -1};
	if (options->local == NULL || file->file.level != 0 ||
		options->local(options->ctx, file->file.min_txid, file->file.max_txid,
			&ret_scratch->fd) != 0) {
		ret_scratch->fd = -1;
		return -ENOENT;
	}
	int rc = hash_local(ret_scratch->fd, ret_scratch);
	if (rc == 0) {
		scratch_end(ret_scratch);
		rc = memcmp(ret_scratch->sha256, file->record.sha256, RECORD_SHA256_BYTES) == 0
			? 0
			: -EBADMSG;
	}
	if (rc != 0) {
		scratch_finish(ret_scratch);
	}
	return rc;
}

static int fetch(const struct compact_options *options, const struct run_file *file,
	struct scratch *ret_scratch, struct replica_error *error)
{
	int rc = scratch_init(ret_scratch, options->dir);
	rc = rc == 0 ? replica_get(options->replica, &file->file, 0, UINT64_MAX, scratch_write,
			       ret_scratch, error)
		     : rc;
	if (rc != 0) {
		return rc;
	}
	scratch_end(ret_scratch);
	if (memcmp(ret_scratch->sha256, file->record.sha256, RECORD_SHA256_BYTES) != 0) {
		return replica_fail(options->replica, error, REPLICA_CORRUPT,
			"segment %016" PRIx64 " is not what its record says", file->file.min_txid);
	}
	return 0;
}

/* ---- the result ---- */

static struct record record_of_run(const struct compact_options *options, const struct run *run,
	const uint8_t sha256[RECORD_SHA256_BYTES])
{
	const struct record *first = &run->files[0].record;
	struct record record = run->files[run->count - 1].record;
	memcpy(record.writer, options->writer, sizeof record.writer);
	memcpy(record.sha256, sha256, sizeof record.sha256);
	memcpy(record.previous, first->previous, sizeof record.previous);
	memcpy(record.digest_before, first->digest_before, sizeof record.digest_before);
	record.commit_first = first->commit_first;
	return record;
}

/* The name is taken: by a file that does the same, or by one that does not. */
static int settle_existing(const struct compact_options *options, int level,
	const struct ltx_header *header, const struct record *record, struct replica_error *error)
{
	struct record there;
	bool known = false;
	int rc = replica_look(options->replica, level, header->min_txid, header->max_txid, NULL,
		&there, &known, error);
	if (rc == 0 &&
		(!known ||
			memcmp(there.digest_before, record->digest_before, RECORD_DIGEST_BYTES) !=
				0 ||
			memcmp(there.digest_after, record->digest_after, RECORD_DIGEST_BYTES) !=
				0)) {
		return replica_fail(options->replica, error, REPLICA_CORRUPT,
			"level %d has another file of %016" PRIx64 " to %016" PRIx64, level,
			header->min_txid, header->max_txid);
	}
	return rc;
}

static int put_result(const struct compact_options *options, int level, const struct run *run,
	const struct ltx_header *header, struct scratch *result, struct replica_error *error)
{
	const struct replica_file *first = &run->files[0].file;
	const struct replica_file *last = &run->files[run->count - 1].file;
	scratch_end(result);
	if (header->min_txid != first->min_txid || header->max_txid != last->max_txid) {
		return replica_fail(options->replica, error, REPLICA_CORRUPT,
			"segment %016" PRIx64 " has another name than its header", first->min_txid);
	}
	struct record record = record_of_run(options, run, result->sha256);
	int rc = replica_put(options->replica, level, header->min_txid, header->max_txid,
		result->fd, result->size, header->timestamp_ms, &record, error);
	return rc == REPLICA_EXISTS ? settle_existing(options, level, header, &record, error) : rc;
}

int run_merge(const struct compact_options *options, int level, const struct run *run,
	struct replica_error *ret_error)
{
	struct scratch inputs[MERGE_INPUTS_MAX];
	struct scratch result = {.fd = -1};
	int fds[MERGE_INPUTS_MAX];
	char why[LTX_ERROR_BYTES] = "";
	struct ltx_header header;
	size_t count = 0;
	int rc = 0;
	for (; rc == 0 && count < run->count; count++) {
		if (take_local(options, &run->files[count], &inputs[count]) != 0) {
			rc = fetch(options, &run->files[count], &inputs[count], ret_error);
		}
		fds[count] = inputs[count].fd;
	}
	rc = rc == 0 ? scratch_init(&result, options->dir) : rc;
	if (rc == 0) {
		rc = merge_segments(fds, count, scratch_write, &result, &header, why);
		rc = rc == LTX_CORRUPT ? replica_fail(options->replica, ret_error, REPLICA_CORRUPT,
						 "cannot merge: %s", why)
				       : rc;
	}
	rc = rc == 0 ? put_result(options, level, run, &header, &result, ret_error) : rc;
	scratch_finish(&result);
	for (size_t i = 0; i < count; i++) {
		scratch_finish(&inputs[i]);
	}
	return rc;
}
