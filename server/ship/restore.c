/* SPDX-License-Identifier: MIT */

/*
 * From a replica to a proven file: plan, fetch, apply, compare; and when something does not prove
 * true, again by another way, until the point is reached or no way is left. It knows no SQLite and
 * puts nothing into its place. What it keeps true: the file that it hands over was verified whole.
 */

#include "server/ship/restore.h"

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/ship/apply.h"
#include "server/ship/digest_file.h"
#include "server/ship/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	TRY_AGAIN = 300, /* this way is closed; there may be another one */
	LIST_AGAIN,      /* files went away under us: compaction and retention are at work */
	LISTINGS_MAX = 5,
	WAIT_US = 500000,
};

struct restore {
	const struct restore_options *options;
	struct restore_result *result;
	struct replica_error *error;
	struct replica *replica;
	struct plan *plan;
	bool careful; /* compare after every segment: the end did not come out right */
	uint64_t total;

	/* of the segment that is being read */
	struct fetch *fetch;
	EVP_MD_CTX *sha256;
	int fetch_rc;
};

/* ---- what is said ---- */

void restore_name(const struct replica_file *file, char ret_name[RESTORE_NAME_BYTES])
{
	snprintf(ret_name, RESTORE_NAME_BYTES, "%016" PRIx64 "-%016" PRIx64 " of level %d",
		file->min_txid, file->max_txid, file->level);
}

/* Only the first damage is told: it is the cause of what follows. */
__attribute__((format(printf, 2, 3))) static void tell(
	struct restore *restore, const char *format, ...)
{
	va_list args;
	restore->result->damaged++;
	if (restore->result->damage[0] != '\0') {
		return;
	}
	va_start(args, format);
	vsnprintf(restore->result->damage, RESTORE_DAMAGE_BYTES, format, args);
	va_end(args);
}

static int bad_file(struct restore *restore, struct plan_file *file, const char *why)
{
	char name[RESTORE_NAME_BYTES];
	restore_name(&file->file, name);
	tell(restore, "%s: %s", name, why);
	file->bad = true;
	return TRY_AGAIN;
}

/* What a replica answered, as a result of ours. */
static int unreachable(struct restore *restore, int rc)
{
	if (rc < 0) {
		return rc;
	}
	if (restore->error->text[0] == '\0') {
		snprintf(restore->error->text, sizeof restore->error->text, "%s does not answer",
			restore->options->url);
	}
	return RESTORE_UNREACHABLE;
}

/* ---- what there is ---- */

static int look(void *ctx, struct plan_file *file, struct replica_error *ret_error)
{
	struct restore *restore = ctx;
	int rc = replica_look(restore->replica, file->file.level, file->file.min_txid,
		file->file.max_txid, &file->file, &file->record, &file->known, ret_error);
	if (rc == 0 && file->known && !record_complete(&file->record)) {
		rc = REPLICA_CORRUPT;
	}
	file->looked = rc == 0;
	if (rc == REPLICA_CORRUPT) {
		(void)bad_file(restore, file, "its record cannot be read");
	}
	return rc;
}

static int list_files(struct restore *restore)
{
	plan_free(restore->plan);
	restore->plan = NULL;
	int rc = plan_new(look, restore, &restore->plan);
	rc = rc == 0 ? plan_read(restore->plan, restore->replica, restore->error) : rc;
	if (rc == 0 && plan_files(restore->plan) == 0) {
		replica_say_empty(restore->replica, restore->error);
		return RESTORE_EMPTY;
	}
	return rc;
}

static uint64_t newest(struct plan *plan)
{
	uint64_t txid = 0;
	for (size_t i = 0; i < plan_files(plan); i++) {
		const struct replica_file *file = &plan_file(plan, i)->file;
		txid = file->max_txid > txid ? file->max_txid : txid;
	}
	return txid;
}

/* Replaces what a look told: this says what follows from it. */
static void tell_doubt(struct restore *restore, const struct plan_file *file)
{
	char name[RESTORE_NAME_BYTES];
	restore_name(&file->file, name);
	restore->result->in_doubt = true;
	restore->result->damaged += file->bad ? 0 : 1;
	int len = snprintf(restore->result->damage, RESTORE_DAMAGE_BYTES,
		"%s: its record %s, and commit %" PRIu64 " may be in it", name,
		file->bad ? "cannot be read" : "is lost", restore->options->target.number);
	if (!file->bad) {
		snprintf(restore->result->damage + len, RESTORE_DAMAGE_BYTES - (size_t)len,
			" (--txid %016" PRIx64 " restores up to its end)", file->file.max_txid);
	}
}

static int open_and_list(struct restore *restore)
{
	int rc = restore->replica != NULL
		? 0
		: replica_open(restore->options->url, &restore->replica, restore->error);
	rc = rc == 0 ? list_files(restore) : rc;
	if (rc != 0 || restore->result->wanted_txid != 0) {
		return rc;
	}
	uint64_t txid = 0;
	rc = plan_aim(restore->plan, &restore->options->target, &txid, restore->error);
	restore->result->wanted_txid = rc == 0 ? txid : 0;
	restore->result->newest_txid = newest(restore->plan);
	if (rc == 0 && plan_doubt(restore->plan) != NULL) {
		tell_doubt(restore, plan_doubt(restore->plan));
	}
	return rc;
}

/* Lists, and waits out an outage that is not too long. */
static int survey(struct restore *restore)
{
	uint64_t until_us = clock_now_us() + restore->options->patience_ms * 1000;
	for (;;) {
		int rc = open_and_list(restore);
		if (rc == PLAN_NONE) {
			return RESTORE_NO_POINT;
		}
		bool later = rc == REPLICA_AGAIN || rc == REPLICA_MISSING || rc == REPLICA_CORRUPT;
		if (rc == 0 || rc < 0 || rc == RESTORE_EMPTY) {
			return rc;
		}
		if (!later || clock_now_us() + WAIT_US > until_us) {
			return unreachable(restore, rc);
		}
		usleep(WAIT_US);
	}
}

/* ---- one segment ---- */

static long read_segment(void *ctx, void *bytes, size_t len)
{
	struct restore *restore = ctx;
	int rc = 0;
	size_t n = fetch_read(restore->fetch, bytes, len, &rc, restore->error);
	if (rc != 0) {
		restore->fetch_rc = rc;
		return -EIO;
	}
	EVP_DigestUpdate(restore->sha256, bytes, n);
	if (restore->options->progress != NULL) {
		uint64_t done = fetch_bytes(restore->fetch);
		restore->options->progress(restore->options->ctx, done, restore->total);
	}
	return (long)n;
}

/* What a fetch returned, for the segment that it concerns. */
static int fetch_failed(struct restore *restore, struct plan_file *step, int rc)
{
	if (rc == REPLICA_MISSING) {
		return LIST_AGAIN;
	}
	if (rc == REPLICA_CORRUPT) {
		return bad_file(restore, step, "what the replica gives is not what it stored");
	}
	return unreachable(restore, rc);
}

static int check_sha256(struct restore *restore, struct plan_file *step)
{
	uint8_t sha256[EVP_MAX_MD_SIZE];
	char rest[1];
	if (read_segment(restore, rest, sizeof rest) > 0) {
		return bad_file(restore, step, "it goes on behind its end");
	}
	if (restore->fetch_rc != 0) {
		return fetch_failed(restore, step, restore->fetch_rc);
	}
	if (EVP_DigestFinal_ex(restore->sha256, sha256, NULL) != 1) {
		return -ENOMEM;
	}
	if (step->known && memcmp(sha256, step->record.sha256, RECORD_SHA256_BYTES) != 0) {
		return bad_file(restore, step, "its SHA-256 is not the one of its record");
	}
	return 0;
}

static int compare_digest(struct restore *restore, const struct apply *apply,
	const struct plan_file *step, bool *ret_equal)
{
	struct digest digest;
	*ret_equal = true;
	if (!step->known || !step->record.has_digest) {
		return 0;
	}
	int rc = digest_file(restore->options->path, apply->page_size, apply->pages, &digest);
	*ret_equal = rc == 0 && memcmp(digest.bytes, step->record.digest_after, DIGEST_BYTES) == 0;
	return rc;
}

static int apply_step(struct restore *restore, struct apply *apply, struct plan_file *step)
{
	char error[APPLY_ERROR_BYTES] = "";
	restore->fetch_rc = 0;
	if (EVP_DigestInit_ex(restore->sha256, EVP_sha256(), NULL) != 1) {
		return -ENOMEM;
	}
	int rc = apply_segment(apply, &step->file, step->known && step->record.full, read_segment,
		restore, NULL, NULL, error);
	if (restore->fetch_rc != 0) {
		return fetch_failed(restore, step, restore->fetch_rc);
	}
	if (rc != 0) {
		return rc == APPLY_DAMAGED ? bad_file(restore, step, error) : rc;
	}
	rc = check_sha256(restore, step);
	bool equal = true;
	if (rc == 0 && restore->careful) {
		rc = compare_digest(restore, apply, step, &equal);
	}
	return equal ? rc : bad_file(restore, step, "the database after it has another digest");
}

/* ---- one way ---- */

/* The next segment of the way, with its record, if it goes together with the one before. */
static int next_step(struct restore *restore, size_t index, struct plan_file **ret_step)
{
	struct plan_file *step = plan_step(restore->plan, index);
	const struct plan_file *fetched = NULL;
	int rc = fetch_next(restore->fetch, &fetched, restore->error);
	if (fetched != NULL && fetched->looked && !step->looked) {
		step->record = fetched->record;
		step->known = fetched->known;
		step->looked = true;
	}
	*ret_step = step;
	if (rc != 0) {
		return fetch_failed(restore, step, rc);
	}
	if (step->known && !record_complete(&step->record)) {
		return bad_file(restore, step, "its record is not complete");
	}
	const struct plan_file *before = index > 0 ? plan_step(restore->plan, index - 1) : NULL;
	if (before != NULL && !plan_fits(before, step)) {
		char name[RESTORE_NAME_BYTES];
		restore_name(&step->file, name);
		tell(restore, "%s: it was made on top of another database", name);
		return TRY_AGAIN; /* the plan knows both now */
	}
	return 0;
}

static int check_end(struct restore *restore, const struct apply *apply)
{
	struct restore_result *result = restore->result;
	struct plan_file *last = plan_step(restore->plan, plan_steps(restore->plan) - 1);
	char why[RESTORE_DAMAGE_BYTES] = "";
	bool equal = true;
	int rc = compare_digest(restore, apply, last, &equal);
	if (rc != 0) {
		return rc;
	}
	if (!equal) {
		if (restore->careful) {
			return bad_file(restore, last, "the database after it has another digest");
		}
		restore->careful = true;
		return TRY_AGAIN;
	}
	result->point = (struct restore_point){.txid = last->file.max_txid,
		.known = last->known,
		.committed_ms = last->file.created_ms};
	if (last->known) {
		result->point.commit = last->record.commit_last;
		result->point.committed_ms = last->record.committed_ms;
		result->point.has_digest = last->record.has_digest;
		memcpy(result->point.epoch, last->record.epoch, RECORD_ID_BYTES);
		memcpy(result->point.digest, last->record.digest_after, RECORD_DIGEST_BYTES);
	}
	result->page_size = apply->page_size;
	result->pages = apply->pages;
	result->files = plan_steps(restore->plan);
	rc = restore->options->inspect == NULL
		? 0
		: restore->options->inspect(
			  restore->options->ctx, restore->options->path, &result->point, why);
	return rc > 0 ? bad_file(restore, last, why) : rc;
}

static int apply_way(struct restore *restore, int fd)
{
	CLEANUP(apply_finish) struct apply apply;
	int rc = apply_init(&apply, fd);
	apply.bytes_max = restore->options->bytes_max;
	struct plan_file *step = NULL;
	for (size_t i = 0; rc == 0 && i < plan_steps(restore->plan); i++) {
		rc = next_step(restore, i, &step);
		rc = rc == 0 ? apply_step(restore, &apply, step) : rc;
	}
	return rc == 0 ? check_end(restore, &apply) : rc;
}

static int start_fetch(struct restore *restore)
{
	size_t count = plan_steps(restore->plan);
	const struct restore_options *options = restore->options;
	CLEANUP_FREE const struct plan_file **files = calloc(count + 1, sizeof *files);
	if (files == NULL) {
		return -ENOMEM;
	}
	restore->total = 0;
	for (size_t i = 0; i < count; i++) {
		files[i] = plan_step(restore->plan, i);
		restore->total += files[i]->file.size;
	}
	return fetch_new(options->url, files, count,
		options->threads > 0 ? options->threads : RESTORE_THREADS, options->patience_ms,
		&restore->fetch);
}

/* The file, by the way that the plan has found. */
static int build(struct restore *restore)
{
	int fd = open(
		restore->options->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		return -errno;
	}
	int rc = start_fetch(restore);
	rc = rc == 0 ? apply_way(restore, fd) : rc;
	if (restore->fetch != NULL) {
		restore->result->bytes += fetch_bytes(restore->fetch);
	}
	fetch_free(restore->fetch);
	restore->fetch = NULL;
	close(fd);
	if (rc != 0) {
		unlink(restore->options->path);
	}
	return rc;
}

/* ---- all ways ---- */

/* No way leads to the target: once everything is known that could open one, the furthest counts. */
static int find_way(struct restore *restore, bool *learned)
{
	uint64_t txid = restore->result->wanted_txid;
	int rc = plan_find(restore->plan, txid);
	if (rc == PLAN_BROKEN && !*learned) {
		*learned = true;
		rc = plan_learn(restore->plan, txid, restore->error);
		rc = rc == 0 ? plan_find(restore->plan, txid) : rc;
	}
	restore->result->short_of_it = rc == PLAN_BROKEN || restore->result->in_doubt;
	if (rc != PLAN_BROKEN) {
		return rc > 0 ? unreachable(restore, rc) : rc;
	}
	size_t steps = plan_steps(restore->plan);
	if (restore->result->damage[0] == '\0') {
		tell(restore, "no segment leads on from %016" PRIx64 " towards %016" PRIx64,
			steps > 0 ? plan_step(restore->plan, steps - 1)->file.max_txid
				  : (uint64_t)0,
			txid);
	}
	return steps > 0 ? 0 : RESTORE_DAMAGED;
}

static int run(struct restore *restore)
{
	bool learned = false;
	unsigned listings = 1;
	int rc = survey(restore);
	while (rc == 0) {
		rc = find_way(restore, &learned);
		rc = rc == 0 ? build(restore) : rc;
		if (rc == 0) {
			return restore->result->short_of_it ? RESTORE_DAMAGED : 0;
		}
		if (rc == LIST_AGAIN) {
			rc = listings++ < LISTINGS_MAX ? survey(restore) : RESTORE_UNREACHABLE;
			learned = false;
		} else if (rc == TRY_AGAIN) {
			rc = 0;
		}
	}
	if (rc == RESTORE_DAMAGED) {
		restore->result->point = (struct restore_point){0};
	}
	return rc;
}

static int with_restore(struct restore *restore, int (*fn)(struct restore *restore))
{
	*restore->result = (struct restore_result){0};
	*restore->error = (struct replica_error){0};
	restore->sha256 = EVP_MD_CTX_new();
	int rc = restore->sha256 == NULL ? -ENOMEM : fn(restore);
	if (rc < 0 && restore->error->text[0] == '\0') {
		snprintf(restore->error->text, sizeof restore->error->text, "%.300s: %s",
			restore->options->path, strerror(-rc));
	} else if (rc == RESTORE_DAMAGED) {
		snprintf(restore->error->text, sizeof restore->error->text, "%.399s",
			restore->result->damage);
	}
	EVP_MD_CTX_free(restore->sha256);
	plan_free(restore->plan);
	replica_free(restore->replica);
	return rc;
}

int restore_run(const struct restore_options *options, struct restore_result *ret_result,
	struct replica_error *ret_error)
{
	struct restore restore = {.options = options, .result = ret_result, .error = ret_error};
	return with_restore(&restore, run);
}

int restore_ask(
	const struct restore_options *options, uint64_t *ret_txid, struct replica_error *ret_error)
{
	struct restore_result result;
	struct restore restore = {.options = options, .result = &result, .error = ret_error};
	int rc = with_restore(&restore, survey);
	*ret_txid = result.wanted_txid;
	return rc;
}
