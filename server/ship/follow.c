/* SPDX-License-Identifier: MIT */

/*
 * The way from where a copy stands to the newest point of a replica, and along it. What it keeps
 * true: what is committed to the copy is the end of a file whose checksums and SHA-256 were right,
 * and, where records are, which continues what the copy holds and yields the digest that its writer
 * knew. Old content leaves the digest as it is read from the copy, so damage of the copy shows too.
 */

#include "server/ship/follow.h"

#include "server/base/cleanup.h"
#include "server/ship/catalog.h"
#include "server/ship/digest.h"
#include "server/ship/fetch.h"
#include "server/ship/ltx.h"
#include "server/ship/plan.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	FILES_MAX = 256,         /* in one step */
	THREADS = 4,             /* that fetch */
	PATIENCE_MS = 5000,      /* of one step with a store that is away */
	COMMIT_BYTES = 64 << 20, /* pages that one commit of the copy holds, about */
};

struct follow {
	struct follow_copy copy;
	char *url;
	struct replica *replica;
	struct follow_point at;
	uint64_t
		seen; /* number from which the newest file of level 0 began: listings begin there */
	bool anew;    /* what the copy holds was found not to be what it should be */
	struct follow_news *news;
	struct replica_error *error;
	struct digester *digester;
	EVP_MD_CTX *sha256;
	uint8_t *page;

	/* of the way that is being gone */
	struct plan_file *way;
	size_t way_count;
	struct fetch *fetch;
	int fetch_rc;
	struct follow_point next; /* where the copy will stand, once it is committed */
	uint64_t uncommitted;     /* bytes */
	bool begun;
};

const struct follow_point *follow_at(const struct follow *follow)
{
	return &follow->at;
}

__attribute__((format(printf, 3, 4))) static int say(
	struct follow *follow, int result, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(follow->error->text, sizeof follow->error->text, format, args);
	va_end(args);
	return result;
}

/* What a replica answered. Its own sentence stays. */
static int answer(struct follow *follow, int rc)
{
	if (rc <= 0) {
		return rc;
	}
	return follow->error->text[0] != '\0'
		? FOLLOW_UNREACHABLE
		: say(follow, FOLLOW_UNREACHABLE, "%s does not answer", follow->url);
}

static int bad_file(struct follow *follow, const struct plan_file *file, const char *why)
{
	char name[RESTORE_NAME_BYTES];
	restore_name(&file->file, name);
	return say(follow, FOLLOW_DAMAGED, "%s: %s", name, why);
}

/* ---- the way ---- */

static int way_add(struct follow *follow, const struct plan_file *file)
{
	struct plan_file *more =
		reallocarray(follow->way, follow->way_count + 1, sizeof *follow->way);
	if (more == NULL) {
		return -ENOMEM;
	}
	follow->way = more;
	follow->way[follow->way_count++] = *file;
	return 0;
}

static void way_clear(struct follow *follow)
{
	free(follow->way);
	follow->way = NULL;
	follow->way_count = 0;
}

/* Segments of level 0, each behind the other: the usual case. */
static int way_of_segments(struct follow *follow, const struct catalog *catalog)
{
	uint64_t have = follow->at.at.txid;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < catalog->count; i++) {
		if (catalog->files[i].min_txid == have + 1) {
			const struct plan_file file = {.file = catalog->files[i]};
			rc = way_add(follow, &file);
			have = file.file.max_txid;
		}
	}
	return rc;
}

static int look(void *ctx, struct plan_file *file, struct replica_error *ret_error)
{
	struct follow *follow = ctx;
	int rc = replica_look(follow->replica, file->file.level, file->file.min_txid,
		file->file.max_txid, &file->file, &file->record, &file->known, ret_error);
	file->looked = rc == 0;
	return rc;
}

/* What the copy holds, as if it were a snapshot: files behind it lead on from there. */
static int add_copy(struct follow *follow, struct plan *plan)
{
	const struct replica_file file = {.level = REPLICA_SNAPSHOT_LEVEL,
		.min_txid = 1,
		.max_txid = follow->at.at.txid,
		.size = LTX_HEADER_BYTES + LTX_TRAILER_BYTES};
	return plan_add(plan, &file);
}

static int take_way(struct follow *follow, struct plan *plan, size_t first)
{
	int rc = 0;
	for (size_t i = first; rc == 0 && i < plan_steps(plan); i++) {
		rc = way_add(follow, plan_step(plan, i));
	}
	return rc;
}

/*
 * Files of all levels that go on from where the copy stands. *ret_newest is the newest of the replica,
 * also if no way leads there. Without the copy's own point, the way begins with a snapshot.
 */
static int way_of_all(struct follow *follow, bool from_copy, uint64_t *ret_newest)
{
	struct catalog catalog;
	struct plan *plan = NULL;
	int rc = plan_new(look, follow, &plan);
	rc = rc == 0 && from_copy ? add_copy(follow, plan) : rc;
	for (int level = 0; rc == 0 && level <= REPLICA_LEVEL_MAX; level++) {
		rc = catalog_read(follow->replica, level, 0, SIZE_MAX, &catalog, follow->error);
		if (level == 0 && catalog.count > 0) {
			follow->seen = catalog.files[catalog.count - 1].min_txid;
		}
		for (size_t i = 0; rc == 0 && i < catalog.count; i++) {
			const struct replica_file *file = &catalog.files[i];
			*ret_newest = file->max_txid > *ret_newest ? file->max_txid : *ret_newest;
			bool leads = file->max_txid > follow->at.at.txid && file->min_txid > 1;
			rc = leads || !from_copy ? plan_add(plan, file) : 0;
		}
		catalog_finish(&catalog);
	}
	if (rc == 0 && *ret_newest > (from_copy ? follow->at.at.txid : 0)) {
		uint64_t txid = 0;
		const struct plan_target latest = {.kind = PLAN_LATEST};
		rc = from_copy ? 0 : plan_aim(plan, &latest, &txid, follow->error);
		txid = from_copy ? *ret_newest : txid;
		rc = rc == 0 ? plan_find(plan, txid) : rc;
		if (rc == PLAN_BROKEN && !from_copy) {
			rc = plan_learn(plan, txid, follow->error);
			rc = rc == 0 ? plan_find(plan, txid) : rc;
		}
		rc = rc == 0 ? take_way(follow, plan, from_copy ? 1 : 0) : rc;
	}
	plan_free(plan);
	return rc == PLAN_BROKEN || rc == PLAN_NONE ? 0 : rc;
}

static int way_anew(struct follow *follow)
{
	uint64_t newest = 0;
	follow->news->anew = true;
	int rc = way_of_all(follow, false, &newest);
	if (rc == 0 && follow->way_count == 0) {
		return say(follow, FOLLOW_DAMAGED, "%s holds no way to its newest segment %016llx",
			follow->url, (unsigned long long)newest);
	}
	return answer(follow, rc);
}

/* Level 0 has nothing that leads on: either there is nothing new, or it is elsewhere. */
static int way_elsewhere(struct follow *follow, bool seen)
{
	uint64_t newest = 0;
	if (seen && follow->way_count == 0 && follow->news->newest_txid <= follow->at.at.txid) {
		return 0;
	}
	int rc = way_of_all(follow, true, &newest);
	if (rc != 0) {
		return answer(follow, rc);
	}
	follow->news->newest_txid = newest;
	if (newest < follow->at.at.txid) {
		return say(follow, FOLLOW_BEHIND,
			"%s ends at segment %016llx, before what the copy holds (%016llx): it was "
			"emptied, is not mounted, or belongs to another database",
			follow->url, (unsigned long long)newest,
			(unsigned long long)follow->at.at.txid);
	}
	return newest > follow->at.at.txid && follow->way_count == 0 ? way_anew(follow) : 0;
}

/* How far the replica reaches, if that is more than one step. */
static int look_ahead(struct follow *follow)
{
	struct catalog catalog;
	struct plan_file newest = {.looked = false};
	int rc = catalog_read(follow->replica, 0, follow->seen, SIZE_MAX, &catalog, follow->error);
	if (rc == 0 && catalog.count > 0) {
		newest.file = catalog.files[catalog.count - 1];
		rc = look(follow, &newest, follow->error);
	}
	catalog_finish(&catalog);
	if (rc == 0 && newest.looked && newest.known) {
		follow->news->newest_txid = newest.file.max_txid;
		follow->news->newest_commit = newest.record.commit_last;
	}
	return rc == REPLICA_MISSING ? 0 : answer(follow, rc);
}

static int find_way(struct follow *follow)
{
	struct catalog catalog;
	way_clear(follow);
	if (follow->anew) {
		return way_anew(follow);
	}
	/* From one that is known: that there is nothing at all says something else than nothing new. */
	int rc = catalog_read(
		follow->replica, 0, follow->seen, FILES_MAX + 1, &catalog, follow->error);
	if (rc != 0) {
		return answer(follow, rc);
	}
	bool seen = catalog.count > 0;
	follow->news->more = catalog.count > FILES_MAX;
	if (seen) {
		follow->seen = catalog.files[catalog.count - 1].min_txid;
		follow->news->newest_txid = catalog.files[catalog.count - 1].max_txid;
	}
	rc = way_of_segments(follow, &catalog);
	catalog_finish(&catalog);
	rc = rc == 0 && follow->news->more ? look_ahead(follow) : rc;
	return rc == 0 && follow->way_count == 0 ? way_elsewhere(follow, seen) : rc;
}

/* ---- one file ---- */

static long read_segment(void *ctx, void *bytes, size_t len)
{
	struct follow *follow = ctx;
	int rc = 0;
	size_t n = fetch_read(follow->fetch, bytes, len, &rc, follow->error);
	if (rc != 0) {
		follow->fetch_rc = rc;
		return -EIO;
	}
	EVP_DigestUpdate(follow->sha256, bytes, n);
	return (long)n;
}

static void toggle(struct follow *follow, uint32_t page_no, const uint8_t *page)
{
	struct digest digest;
	struct digest part = digest_page(follow->digester, page_no, page, follow->copy.page_size);
	memcpy(digest.bytes, follow->next.at.digest, sizeof digest.bytes);
	digest_toggle(&digest, &part);
	memcpy(follow->next.at.digest, digest.bytes, sizeof digest.bytes);
}

static bool is_wal_mode(uint32_t page_no, const uint8_t *page)
{
	return page_no != 1 || (page[18] == 2 && page[19] == 2);
}

/*
 * One page of a file. What the copy has already is not written again: it is what makes a snapshot
 * cheap for a copy that is nearly there. But what lies above the end of the copy's last commit is
 * none of its content.
 */
static int take_page(
	struct follow *follow, bool full, uint32_t known, uint32_t page_no, const uint8_t *page)
{
	const struct follow_copy *copy = &follow->copy;
	bool had = page_no <= follow->at.pages;
	int rc = had || page_no <= known ? copy->read(copy->ctx, page_no, follow->page) : 0;
	if (rc != 0) {
		return rc;
	}
	if (!full && page_no <= known) {
		toggle(follow, page_no, follow->page);
	}
	toggle(follow, page_no, page);
	if (had && memcmp(page, follow->page, copy->page_size) == 0) {
		return 0;
	}
	follow->uncommitted += copy->page_size;
	return copy->add(copy->ctx, page_no, page);
}

static int take_pages(struct follow *follow, const struct plan_file *file,
	struct ltx_reader *reader, bool full, uint32_t known, uint32_t *ret_new)
{
	char error[LTX_ERROR_BYTES] = "";
	uint32_t page_no = 0;
	const uint8_t *page = NULL;
	for (;;) {
		int rc = ltx_reader_next(reader, &page_no, &page, error);
		if (rc == 0 && page == NULL) {
			return 0;
		}
		if (rc == 0 && !is_wal_mode(page_no, page)) {
			return bad_file(follow, file, "its database is not in WAL mode");
		}
		*ret_new += page_no > known;
		rc = rc == 0 ? take_page(follow, full, known, page_no, page) : rc;
		if (rc != 0) {
			return rc == LTX_CORRUPT ? bad_file(follow, file, error) : rc;
		}
	}
}

/* The old content of pages that are no more. */
static int cut_pages(struct follow *follow, uint32_t from, uint32_t to)
{
	const struct follow_copy *copy = &follow->copy;
	uint32_t lock_page = ltx_lock_page(copy->page_size);
	int rc = 0;
	for (uint32_t page_no = from + 1; rc == 0 && page_no <= to; page_no++) {
		if (page_no != lock_page) {
			rc = copy->read(copy->ctx, page_no, follow->page);
			toggle(follow, page_no, follow->page);
		}
	}
	return rc;
}

static int take_body(
	struct follow *follow, const struct plan_file *file, struct ltx_reader *reader, bool full)
{
	const struct ltx_header *header = ltx_reader_header(reader);
	uint32_t known = full ? 0 : follow->next.pages;
	uint32_t count = 0;
	if (header->min_txid != file->file.min_txid || header->max_txid != file->file.max_txid) {
		return bad_file(follow, file, "its header has other numbers");
	}
	if (header->page_size != follow->copy.page_size) {
		return bad_file(follow, file,
			"its pages have another size than the copy's (cure: restore anew, with "
			"--force)");
	}
	if (full) {
		memset(follow->next.at.digest, 0, sizeof follow->next.at.digest);
		follow->next.at.has_digest = true;
	}
	int rc = take_pages(follow, file, reader, full, known, &count);
	uint32_t lock_page = ltx_lock_page(header->page_size);
	uint32_t wanted = header->commit > known ? header->commit - known : 0;
	wanted -= wanted > 0 && lock_page > known && lock_page <= header->commit;
	if (rc == 0 && count < wanted) {
		return bad_file(follow, file, "pages by which the database grew are missing in it");
	}
	rc = rc == 0 && !full ? cut_pages(follow, header->commit, follow->next.pages) : rc;
	follow->next.pages = header->commit;
	return rc;
}

static int check_sha256(struct follow *follow, const struct plan_file *file)
{
	uint8_t sha256[EVP_MAX_MD_SIZE];
	char rest[1];
	if (read_segment(follow, rest, sizeof rest) > 0) {
		return bad_file(follow, file, "it goes on behind its end");
	}
	if (follow->fetch_rc != 0 || EVP_DigestFinal_ex(follow->sha256, sha256, NULL) != 1) {
		return follow->fetch_rc != 0 ? answer(follow, follow->fetch_rc) : -ENOMEM;
	}
	return !file->known || memcmp(sha256, file->record.sha256, RECORD_SHA256_BYTES) == 0
		? 0
		: bad_file(follow, file, "its SHA-256 is not the one of its record");
}

/* Where the copy stands after this file; whether it is what the record says. */
static int arrive(struct follow *follow, const struct plan_file *file)
{
	struct restore_point *at = &follow->next.at;
	at->txid = file->file.max_txid;
	at->known = file->known;
	at->committed_ms = file->file.created_ms;
	if (!file->known) {
		return 0; /* Litestream's: the digest is ours alone */
	}
	at->commit = file->record.commit_last;
	at->committed_ms = file->record.committed_ms;
	memcpy(at->epoch, file->record.epoch, RECORD_ID_BYTES);
	if (file->record.has_digest && at->has_digest &&
		memcmp(at->digest, file->record.digest_after, RECORD_DIGEST_BYTES) != 0) {
		return bad_file(follow, file, "the database after it has another digest");
	}
	if (file->record.has_digest) {
		memcpy(at->digest, file->record.digest_after, RECORD_DIGEST_BYTES);
		at->has_digest = true;
	}
	return 0;
}

/* Whether a file goes on top of what the copy holds. */
static bool continues(const struct follow *follow, const struct plan_file *file, bool full)
{
	const struct restore_point *at = &follow->next.at;
	return full || file->file.min_txid != at->txid + 1 || !file->known || !at->known ||
		!at->has_digest || !file->record.has_digest ||
		memcmp(at->digest, file->record.digest_before, RECORD_DIGEST_BYTES) == 0;
}

static int take_file(struct follow *follow, const struct plan_file *file)
{
	char error[LTX_ERROR_BYTES] = "";
	struct ltx_reader *reader = NULL;
	bool full = file->file.min_txid == 1 || (file->known && file->record.full);
	if (file->known && !record_complete(&file->record)) {
		return bad_file(follow, file, "its record is not complete");
	}
	if (!continues(follow, file, full)) {
		return bad_file(follow, file, "it was made on top of another database");
	}
	follow->fetch_rc = 0;
	if (EVP_DigestInit_ex(follow->sha256, EVP_sha256(), NULL) != 1) {
		return -ENOMEM;
	}
	int rc = ltx_reader_new(read_segment, follow, &reader, error);
	rc = rc == LTX_CORRUPT ? bad_file(follow, file, error) : rc;
	rc = rc == 0 ? take_body(follow, file, reader, full) : rc;
	ltx_reader_free(reader);
	if (follow->fetch_rc != 0) {
		return answer(follow, follow->fetch_rc);
	}
	rc = rc == 0 ? check_sha256(follow, file) : rc;
	return rc == 0 ? arrive(follow, file) : rc;
}

/* ---- along the way ---- */

static int begin(struct follow *follow)
{
	follow->next = follow->at;
	follow->uncommitted = 0;
	int rc = follow->copy.begin(follow->copy.ctx);
	follow->begun = rc == 0;
	return rc;
}

static int commit(struct follow *follow)
{
	follow->begun = false;
	int rc = follow->copy.commit(follow->copy.ctx, &follow->next);
	if (rc == 0) {
		const struct restore_point *was = &follow->at.at;
		const struct restore_point *is = &follow->next.at;
		follow->news->new_epoch |= was->known && is->known &&
			memcmp(was->epoch, is->epoch, RECORD_ID_BYTES) != 0;
		follow->at = follow->next;
		follow->anew = false;
	}
	return rc;
}

static int go(struct follow *follow)
{
	const struct plan_file *file = NULL;
	int rc = begin(follow);
	for (size_t i = 0; rc == 0 && i < follow->way_count; i++) {
		if (follow->copy.stopping(follow->copy.ctx)) {
			return -ECANCELED;
		}
		rc = fetch_next(follow->fetch, &file, follow->error);
		if (rc != 0) {
			return answer(follow, rc);
		}
		rc = take_file(follow, file);
		follow->news->files += rc == 0;
		bool last = i + 1 == follow->way_count;
		/* Anew, only the end of the way is newer than what readers have seen. */
		if (rc == 0 && !last && !follow->news->anew &&
			follow->uncommitted >= COMMIT_BYTES && plan_is_point(file)) {
			rc = commit(follow);
			rc = rc == 0 ? begin(follow) : rc;
		}
	}
	return rc == 0 ? commit(follow) : rc;
}

static int along(struct follow *follow)
{
	CLEANUP_FREE const struct plan_file **files = calloc(follow->way_count, sizeof *files);
	if (files == NULL) {
		return -ENOMEM;
	}
	for (size_t i = 0; i < follow->way_count; i++) {
		files[i] = &follow->way[i];
	}
	int rc = fetch_new(
		follow->url, files, follow->way_count, THREADS, PATIENCE_MS, &follow->fetch);
	rc = rc == 0 ? go(follow) : rc;
	if (follow->begun) {
		follow->copy.abandon(follow->copy.ctx);
		follow->begun = false;
	}
	if (follow->fetch != NULL) {
		follow->news->bytes += fetch_bytes(follow->fetch);
	}
	fetch_free(follow->fetch);
	follow->fetch = NULL;
	return rc;
}

int follow_step(
	struct follow *follow, struct follow_news *ret_news, struct replica_error *ret_error)
{
	*ret_news = (struct follow_news){0};
	*ret_error = (struct replica_error){0};
	follow->news = ret_news;
	follow->error = ret_error;
	int rc = find_way(follow);
	rc = rc == 0 && follow->way_count > 0 ? along(follow) : rc;
	if (rc == FOLLOW_DAMAGED) {
		follow->anew = true; /* whatever is wrong, a snapshot may lead around it */
	}
	if (ret_news->newest_txid <= follow->at.at.txid) {
		ret_news->newest_txid = follow->at.at.txid;
		ret_news->newest_commit = follow->at.at.commit;
	}
	way_clear(follow);
	return rc;
}

/* ---- life ---- */

int follow_new(const char *url, const struct follow_copy *copy, const struct follow_point *at,
	struct follow **ret_follow, struct replica_error *ret_error)
{
	struct follow *follow = calloc(1, sizeof *follow);
	if (follow == NULL) {
		return -ENOMEM;
	}
	follow->copy = *copy;
	follow->at = *at;
	follow->seen = at->at.txid;
	follow->url = strdup(url);
	follow->page = malloc(copy->page_size);
	follow->sha256 = EVP_MD_CTX_new();
	int rc =
		follow->url == NULL || follow->page == NULL || follow->sha256 == NULL ? -ENOMEM : 0;
	rc = rc == 0 ? digester_new(&follow->digester) : rc;
	rc = rc == 0 ? replica_open(url, &follow->replica, ret_error) : rc;
	if (rc != 0) {
		follow_free(follow);
		return rc;
	}
	*ret_follow = follow;
	return 0;
}

void follow_free(struct follow *follow)
{
	if (follow != NULL) {
		way_clear(follow);
		replica_free(follow->replica);
		digester_free(follow->digester);
		EVP_MD_CTX_free(follow->sha256);
		free(follow->page);
		free(follow->url);
		free(follow);
	}
}

int follow_verify(struct follow *follow, bool *ret_equal)
{
	const struct follow_copy *copy = &follow->copy;
	uint32_t lock_page = ltx_lock_page(copy->page_size);
	int rc = 0;
	follow->next = follow->at;
	memset(follow->next.at.digest, 0, sizeof follow->next.at.digest);
	for (uint32_t page_no = 1; rc == 0 && page_no <= follow->at.pages; page_no++) {
		if (page_no != lock_page) {
			rc = copy->read(copy->ctx, page_no, follow->page);
			toggle(follow, page_no, follow->page);
		}
	}
	*ret_equal = rc == 0 && follow->at.at.has_digest &&
		memcmp(follow->next.at.digest, follow->at.at.digest, DIGEST_BYTES) == 0;
	return rc;
}

void follow_doubt(struct follow *follow)
{
	follow->anew = true;
}

void follow_interrupt(struct follow *follow)
{
	replica_interrupt(follow->replica);
}
