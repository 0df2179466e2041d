/* SPDX-License-Identifier: MIT */

/*
 * All files of a replica, one after the other. It changes nothing, and goes on after what it finds:
 * somebody who has to mend a replica wants to know all of it.
 */

#include "server/ship/verify.h"

#include "server/base/cleanup.h"
#include "server/ship/apply.h"
#include "server/ship/digest.h"
#include "server/ship/fetch.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct verify {
	const struct verify_options *options;
	struct verify_result *result;
	struct replica_error *error;
	struct replica *replica;
	struct plan *plan;
	struct fetch *fetch;
	struct digester *digester;
	EVP_MD_CTX *sha256;
	uint64_t total;

	/* of the file that is being read */
	struct digest digest;
	bool whole; /* it holds all pages, and says what their digest is */
	int fetch_rc;
};

__attribute__((format(printf, 3, 4))) static void issue(
	struct verify *verify, const struct plan_file *file, const char *format, ...)
{
	char sentence[RESTORE_DAMAGE_BYTES];
	char name[RESTORE_NAME_BYTES];
	va_list args;
	restore_name(&file->file, name);
	int len = snprintf(sentence, sizeof sentence, "%s: ", name);
	va_start(args, format);
	vsnprintf(sentence + len, sizeof sentence - (size_t)len, format, args);
	va_end(args);
	verify->result->issues++;
	verify->options->issue(verify->options->ctx, sentence);
}

/* ---- one file ---- */

static long read_file(void *ctx, void *bytes, size_t len)
{
	struct verify *verify = ctx;
	int rc = 0;
	size_t n = fetch_read(verify->fetch, bytes, len, &rc, verify->error);
	if (rc != 0) {
		verify->fetch_rc = rc;
		return -EIO;
	}
	EVP_DigestUpdate(verify->sha256, bytes, n);
	if (verify->options->progress != NULL) {
		verify->options->progress(
			verify->options->ctx, fetch_bytes(verify->fetch), verify->total);
	}
	return (long)n;
}

static void add_page(void *ctx, uint32_t page_no, const uint8_t *page, uint32_t page_size)
{
	struct verify *verify = ctx;
	if (verify->whole) {
		struct digest part = digest_page(verify->digester, page_no, page, page_size);
		digest_toggle(&verify->digest, &part);
	}
}

static void check_sums(struct verify *verify, const struct plan_file *file)
{
	uint8_t sha256[EVP_MAX_MD_SIZE];
	char rest[1];
	if (read_file(verify, rest, sizeof rest) > 0) {
		issue(verify, file, "it goes on behind its end");
	} else if (verify->fetch_rc == 0 && file->known &&
		(EVP_DigestFinal_ex(verify->sha256, sha256, NULL) != 1 ||
			memcmp(sha256, file->record.sha256, RECORD_SHA256_BYTES) != 0)) {
		issue(verify, file, "its SHA-256 is not the one of its record");
	}
	if (verify->fetch_rc != 0 || !verify->whole) {
		return;
	}
	if (memcmp(verify->digest.bytes, file->record.digest_after, DIGEST_BYTES) != 0) {
		issue(verify, file, "its pages have another digest than its record");
	} else {
		verify->result->digests++;
	}
}

static int read_whole(struct verify *verify, const struct plan_file *file)
{
	CLEANUP(apply_finish) struct apply apply;
	char error[APPLY_ERROR_BYTES] = "";
	int rc = apply_init(&apply, -1);
	if (rc != 0 || EVP_DigestInit_ex(verify->sha256, EVP_sha256(), NULL) != 1) {
		return -ENOMEM;
	}
	bool full = file->known && file->record.full;
	verify->fetch_rc = 0;
	verify->digest = (struct digest){0};
	verify->whole =
		file->known && file->record.has_digest && (full || file->file.min_txid == 1);
	rc = apply_segment(&apply, &file->file, full, read_file, verify, add_page, verify, error);
	if (rc == APPLY_DAMAGED && verify->fetch_rc == 0) {
		issue(verify, file, "%s", error);
		return 0;
	}
	if (rc == 0) {
		check_sums(verify, file);
	}
	return verify->fetch_rc != 0 ? verify->fetch_rc : rc;
}

/* ---- all of them ---- */

static int read_next(struct verify *verify, struct plan_file *file)
{
	const struct plan_file *fetched = NULL;
	int rc = fetch_next(verify->fetch, &fetched, verify->error);
	if (rc == 0) {
		file->record = fetched->record;
		file->known = fetched->known;
		file->looked = fetched->looked;
		if (file->known && !record_complete(&file->record)) {
			issue(verify, file, "its record is not complete");
			file->known = false;
		}
		rc = read_whole(verify, file);
	}
	verify->result->files++;
	if (rc == REPLICA_CORRUPT) {
		issue(verify, file, "%s", verify->error->text);
		rc = 0;
	} else if (rc == REPLICA_MISSING) {
		verify->result->gone++;
		rc = 0;
	}
	file->bad = !file->looked;
	return rc;
}

static int read_all(struct verify *verify)
{
	size_t count = plan_files(verify->plan);
	const struct verify_options *options = verify->options;
	CLEANUP_FREE const struct plan_file **files = calloc(count + 1, sizeof *files);
	if (files == NULL) {
		return -ENOMEM;
	}
	for (size_t i = 0; i < count; i++) {
		files[i] = plan_file(verify->plan, i);
		verify->total += files[i]->file.size;
	}
	int rc = fetch_new(options->url, files, count,
		options->threads > 0 ? options->threads : RESTORE_THREADS, options->patience_ms,
		&verify->fetch);
	for (size_t i = 0; rc == 0 && i < count; i++) {
		rc = read_next(verify, plan_file(verify->plan, i));
	}
	if (verify->fetch != NULL) {
		verify->result->bytes = fetch_bytes(verify->fetch);
	}
	fetch_free(verify->fetch);
	return rc;
}

/* ---- how they follow each other ---- */

static int by_end(const void *a, const void *b)
{
	const struct replica_file *x = &(*(const struct plan_file *const *)a)->file;
	const struct replica_file *y = &(*(const struct plan_file *const *)b)->file;
	if (x->max_txid != y->max_txid) {
		return x->max_txid < y->max_txid ? -1 : 1;
	}
	return x->level - y->level;
}

/* The first file, in the order of ends, that ends there; NULL if there is none. */
static const struct plan_file *ends_at(const struct plan_file **files, size_t count, uint64_t txid)
{
	size_t low = 0;
	size_t high = count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (files[middle]->file.max_txid < txid) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low < count && files[low]->file.max_txid == txid ? files[low] : NULL;
}

static void check_neighbours(struct verify *verify, const struct plan_file **files, size_t count,
	const struct plan_file *file)
{
	static const uint8_t nothing[RECORD_SHA256_BYTES];
	const struct plan_file *before = ends_at(files, count, file->file.min_txid - 1);
	const struct plan_file *same = ends_at(files, count, file->file.max_txid);
	if (before != NULL && !plan_fits(before, file)) {
		issue(verify, file, "it was made on top of another database");
	}
	if (same->known && file->known && same->record.has_digest && file->record.has_digest &&
		memcmp(same->record.digest_after, file->record.digest_after, DIGEST_BYTES) != 0) {
		issue(verify, file, "it ends in another database than the file of level %d",
			same->file.level);
	}
	if (file->file.level == 0 && before != NULL && before->file.level == 0 && !before->known &&
		!before->bad && file->known && !file->record.full &&
		memcmp(file->record.previous, nothing, sizeof nothing) != 0) {
		issue(verify, before, "its record is lost: nobody can tell its commit");
	}
	if (file->file.level == 0 && before != NULL && before->file.level == 0 && before->known &&
		file->known && memcmp(file->record.previous, nothing, sizeof nothing) != 0 &&
		memcmp(file->record.previous, before->record.sha256, RECORD_SHA256_BYTES) != 0) {
		issue(verify, file, "it names another segment as the one before it");
	}
}

static int check_chain(struct verify *verify)
{
	size_t count = 0;
	CLEANUP_FREE const struct plan_file **files =
		calloc(plan_files(verify->plan) + 1, sizeof *files);
	if (files == NULL) {
		return -ENOMEM;
	}
	for (size_t i = 0; i < plan_files(verify->plan); i++) {
		if (!plan_file(verify->plan, i)->bad) {
			files[count++] = plan_file(verify->plan, i);
		}
	}
	qsort(files, count, sizeof *files, by_end);
	for (size_t i = 0; i < count; i++) {
		check_neighbours(verify, files, count, files[i]);
	}
	return 0;
}

/* ---- the run ---- */

static int never_look(void *ctx, struct plan_file *file, struct replica_error *ret_error)
{
	(void)ctx;
	(void)file;
	(void)ret_error;
	return REPLICA_AGAIN;
}

static int run(struct verify *verify)
{
	int rc = plan_new(never_look, NULL, &verify->plan);
	rc = rc == 0 ? digester_new(&verify->digester) : rc;
	rc = rc == 0 ? replica_open(verify->options->url, &verify->replica, verify->error) : rc;
	rc = rc == 0 ? plan_read(verify->plan, verify->replica, verify->error) : rc;
	if (rc == 0 && plan_files(verify->plan) == 0) {
		replica_say_empty(verify->replica, verify->error);
		return RESTORE_EMPTY;
	}
	rc = rc == 0 ? read_all(verify) : rc;
	rc = rc == 0 ? check_chain(verify) : rc;
	return rc > 0 ? RESTORE_UNREACHABLE : rc;
}

int verify_run(const struct verify_options *options, struct verify_result *ret_result,
	struct replica_error *ret_error)
{
	struct verify verify = {.options = options, .result = ret_result, .error = ret_error};
	*ret_result = (struct verify_result){0};
	*ret_error = (struct replica_error){0};
	verify.sha256 = EVP_MD_CTX_new();
	int rc = verify.sha256 == NULL ? -ENOMEM : run(&verify);
	EVP_MD_CTX_free(verify.sha256);
	digester_free(verify.digester);
	plan_free(verify.plan);
	replica_free(verify.replica);
	return rc;
}
