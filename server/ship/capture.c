/* SPDX-License-Identifier: MIT */

/*
 * Keeps, for the chain: where it stands (at), where the last segment ended (cut), the frame of each
 * page in the present generation of the WAL (frames), and the newest content of each page since the
 * last segment (pending), which stands in the WAL or in a part.
 *
 * The digest of `at` lacks both old and new content of the pending pages: the old was taken out when
 * a page became pending, the new is put in when the segment is cut.
 */

#include "server/ship/capture.h"

#include "server/base/cleanup.h"
#include "server/ship/parts.h"
#include "server/ship/wal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	CACHE_PAGES = 8192,
	WHY_BYTES = 200,
	INDEX_TRIES = 500, /* while another process makes a checkpoint */
	INDEX_WAIT_US = 2000,
};

/* What a pending page's value says: the kind in the lowest bits, a frame or an offset above. */
enum source { SOURCE_CUT, SOURCE_WAL, SOURCE_PART };

static uint64_t source_of(enum source kind, uint64_t where)
{
	return where << 2 | kind;
}

struct capture {
	struct spool *spool;
	struct wal *wal;
	struct parts *parts;
	struct digester *digester;
	int db_fd;
	uint32_t page_size;
	bool sync_wal; /* commits are not durable by themselves */
	struct position at;
	struct position cut;
	bool begun; /* `cut` is of a chain that is there */
	uint64_t secured_commit;
	struct page_map frames;
	struct page_map pending;
	struct page_map fresh; /* pending pages that are not in a part yet */
	struct cached {        /* what a page adds to the digest at the last segment's end */
		uint32_t page_no;
		struct digest part;
	} cache[CACHE_PAGES];
	uint8_t *page;
	char why[WHY_BYTES];
};

static int broken(struct capture *capture, const char *why)
{
	snprintf(capture->why, sizeof(capture->why), "%s", why);
	return CAPTURE_BROKEN;
}

const char *capture_why(const struct capture *capture)
{
	return capture->why;
}

int capture_new(const char *db, struct spool *spool, uint32_t page_size, bool sync_wal,
	struct capture **ret_capture)
{
	struct capture *capture = calloc(1, sizeof(*capture));
	if (capture == NULL) {
		return -ENOMEM;
	}
	capture->spool = spool;
	capture->page_size = page_size;
	capture->sync_wal = sync_wal;
	capture->db_fd = open(db, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	int rc = capture->db_fd >= 0 ? 0 : -errno;
	capture->page = malloc(page_size);
	rc = rc == 0 && capture->page == NULL ? -ENOMEM : rc;
	rc = rc == 0 ? wal_new(db, page_size, &capture->wal) : rc;
	rc = rc == 0 ? parts_open(spool, page_size, &capture->parts) : rc;
	rc = rc == 0 ? digester_new(&capture->digester) : rc;
	if (rc != 0) {
		capture_free(capture);
		return rc;
	}
	*ret_capture = capture;
	return 0;
}

void capture_free(struct capture *capture)
{
	if (capture == NULL) {
		return;
	}
	if (capture->db_fd >= 0) {
		close(capture->db_fd);
	}
	wal_free(capture->wal);
	parts_free(capture->parts);
	digester_free(capture->digester);
	page_map_finish(&capture->frames);
	page_map_finish(&capture->pending);
	page_map_finish(&capture->fresh);
	free(capture->page);
	free(capture);
}

const struct position *capture_at(const struct capture *capture)
{
	return &capture->at;
}

const struct position *capture_last_cut(const struct capture *capture)
{
	return &capture->cut;
}

uint64_t capture_secured_commit(const struct capture *capture)
{
	return capture->secured_commit;
}

size_t capture_pending_pages(const struct capture *capture)
{
	return capture->pending.count;
}

/* ---- taking up a chain ---- */

static int load_part(
	void *ctx, const struct position *at, const struct part_page *pages, size_t count)
{
	struct capture *capture = ctx;
	for (size_t i = 0; i < count; i++) {
		enum source kind = pages[i].cut ? SOURCE_CUT : SOURCE_PART;
		if (page_map_put(&capture->pending, pages[i].page_no,
			    source_of(kind, pages[i].offset)) != 0) {
			return -ENOMEM;
		}
	}
	capture->at = *at;
	return 0;
}

/*
 * The frames of the generation in which the chain stands, again: they may hold the newest content
 * of pages that the database file does not have yet.
 */
static int load_frames(struct capture *capture)
{
	struct position *at = &capture->at;
	int rc = wal_refresh(capture->wal);
	if (rc == WAL_GONE) {
		return 0; /* it was cut to nothing, or removed: its next generation tells which */
	}
	if (rc != 0 || memcmp(wal_salt(capture->wal), at->salt, sizeof(at->salt)) != 0) {
		return rc; /* another generation: the one that we know is in the database */
	}
	for (uint64_t frame = 1; rc == 0 && frame <= at->frame; frame++) {
		struct wal_frame header;
		rc = wal_frame(capture->wal, frame, &header);
		rc = rc == 0 ? page_map_put(&capture->frames, header.page_no, frame) : rc;
		if (rc == 0 && frame == at->frame &&
			memcmp(header.checksum, at->checksum, sizeof(at->checksum)) != 0) {
			rc = WAL_GONE;
		}
	}
	return rc == WAL_GONE ? broken(capture, "the WAL lacks frames that were captured") : rc;
}

int capture_resume(struct capture *capture)
{
	int rc = spool_position_read(capture->spool, &capture->cut);
	if (rc == SPOOL_MISSING) {
		return broken(capture, "there is no chain yet");
	}
	capture->begun = rc == 0;
	if (rc == 0 && capture->cut.page_size != capture->page_size) {
		return broken(capture, "the page size has changed");
	}
	capture->at = capture->cut;
	rc = rc == 0 ? parts_load(capture->parts, capture->cut.txid, load_part, capture) : rc;
	capture->secured_commit = capture->at.commit_no;
	return rc == 0 ? load_frames(capture) : rc;
}

static void stand_at(struct capture *capture, const struct notice *notice)
{
	struct position *at = &capture->at;
	memcpy(at->epoch, notice->epoch, sizeof(at->epoch));
	memcpy(at->salt, notice->salt, sizeof(at->salt));
	memcpy(at->checksum, notice->checksum, sizeof(at->checksum));
	at->page_size = notice->page_size;
	at->frame = notice->frames;
	at->pages = notice->pages;
	at->commit_no = notice->commit_no;
	at->committed_ms = notice->committed_ms;
}

/*
 * With the gate closed no page moves from the WAL to the database. So the notice's generation is the
 * one that is there, or it was wholly copied before: then the WAL was cut, or the next one has begun,
 * perhaps by a transaction that was rolled back, and no commit may ever come to tell of it.
 */
static bool stands_here(const struct capture *capture, const struct notice *notice)
{
	const uint32_t *salt = wal_salt(capture->wal);
	return notice->frames == 0 || wal_is_empty(capture->wal) ||
		(salt != NULL &&
			(memcmp(salt, notice->salt, sizeof(notice->salt)) == 0 ||
				salt[0] == notice->salt[0] + 1));
}

/*
 * How far the database's file had come when it was last read. The gate says so of our own checkpoints; of another
 * process's the index does. A checkpoint that was killed leaves no trace there: the funnel sees that the
 * file has changed, and begins a new epoch.
 */
static int look_at_copied(const struct capture *capture, struct wal_copied *ret_copied)
{
	int rc = WAL_GONE;
	*ret_copied = (struct wal_copied){.copying = true};
	for (int i = 0; i < INDEX_TRIES; i++) {
		rc = wal_copied(capture->wal, ret_copied);
		if (rc < 0 || (rc == 0 && !ret_copied->copying)) {
			break;
		}
		usleep(INDEX_WAIT_US);
	}
	ret_copied->copying |= rc == WAL_GONE;
	return rc == WAL_GONE ? 0 : rc;
}

int capture_end_chain(struct capture *capture)
{
	if (capture->begun) { /* a full disk must not keep it from its end: then a replica may be refused */
		(void)spool_bury(capture->spool, &capture->cut);
	}
	capture->begun = false;
	return chain_break(spool_dir(capture->spool));
}

int capture_begin(struct capture *capture, const struct notice *notice, uint64_t txid)
{
	if (capture_end_chain(capture) != 0) {
		return -EIO;
	}
	parts_reset(capture->parts);
	page_map_clear(&capture->frames);
	page_map_clear(&capture->pending);
	page_map_clear(&capture->fresh);
	memset(capture->cache, 0, sizeof(capture->cache));
	capture->at = (struct position){.txid = txid};
	stand_at(capture, notice);
	/* load_frames() finds every frame up to `at`, or says that the notice is out of date. */
	int rc = load_frames(capture);
	if (rc == 0 && !stands_here(capture, notice)) {
		rc = CAPTURE_LATER;
	}
	capture->cut = capture->at;
	return rc == CAPTURE_BROKEN ? CAPTURE_LATER : rc;
}

int capture_begun(struct capture *capture, const struct record *record, int64_t timestamp_ms)
{
	struct position *at = &capture->at;
	struct wal_copied copied;
	int rc = look_at_copied(capture, &copied);
	bool same = memcmp(copied.salt, at->salt, sizeof(at->salt)) == 0;
	if (rc != 0 || copied.copying || copied.frames > (same ? at->frame : 0)) {
		return rc != 0 ? rc : CAPTURE_LATER;
	}
	memcpy(at->digest.bytes, record->digest_after, sizeof(at->digest.bytes));
	memcpy(at->sha256, record->sha256, sizeof(at->sha256));
	at->timestamp_ms = timestamp_ms;
	capture->cut = *at;
	capture->begun = true;
	capture->secured_commit = at->commit_no;
	return spool_position_write(capture->spool, at);
}

int capture_layout(const struct capture *capture, struct page_map *ret_frames)
{
	assert(capture->pending.count == 0);
	return page_map_copy(&capture->frames, ret_frames);
}

/* ---- advance ---- */

static int db_page(struct capture *capture, uint32_t page_no)
{
	size_t done = 0;
	while (done < capture->page_size) {
		ssize_t got = pread(capture->db_fd, capture->page + done, capture->page_size - done,
			(off_t)(page_no - 1) * capture->page_size + (off_t)done);
		if (got < 0 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			return got == 0 ? broken(capture, "the database file is too short")
					: -errno;
		}
		done += (size_t)got;
	}
	return 0;
}

/* What a page added to the digest at the last segment's end; it is not pending. */
static int old_part(struct capture *capture, uint32_t page_no, struct digest *ret_part)
{
	const struct cached *cached = &capture->cache[page_no % CACHE_PAGES];
	if (cached->page_no == page_no) {
		*ret_part = cached->part;
		return 0;
	}
	const uint64_t *frame = page_map_get(&capture->frames, page_no);
	struct wal_frame header;
	int rc = frame != NULL
		? wal_page(capture->wal, capture->at.salt, *frame, capture->page, &header)
		: db_page(capture, page_no);
	if (rc == WAL_GONE && frame != NULL) {
		return broken(capture, "the WAL has lost a frame that was captured");
	}
	if (rc == 0) {
		*ret_part =
			digest_page(capture->digester, page_no, capture->page, capture->page_size);
	}
	return rc;
}

/* Makes a page pending: its old content leaves the digest. */
static int touch(struct capture *capture, uint32_t page_no, uint64_t source)
{
	if (page_map_get(&capture->pending, page_no) == NULL && page_no <= capture->at.pages) {
		struct digest part;
		int rc = old_part(capture, page_no, &part);
		if (rc != 0) {
			return rc;
		}
		digest_toggle(&capture->at.digest, &part);
	}
	int rc = page_map_put(&capture->pending, page_no, source);
	return rc == 0 ? page_map_put(&capture->fresh, page_no, 0) : rc;
}

/* The frames between where we stand and a notice. */
struct batch {
	struct page_map frames; /* the last one of each page */
	uint64_t commits;
	uint32_t pages_min; /* the smallest that the database was */
	uint32_t pages;
	uint32_t checksum[2];
};

static int scan(struct capture *capture, uint64_t first, uint64_t last, struct batch *ret_batch)
{
	struct batch *batch = ret_batch;
	batch->pages_min = capture->at.pages;
	for (uint64_t frame = first; frame <= last; frame++) {
		struct wal_frame header;
		int rc = wal_frame(capture->wal, frame, &header);
		rc = rc == 0 ? page_map_put(&batch->frames, header.page_no, frame) : rc;
		if (rc != 0) {
			return rc;
		}
		if (header.commit != 0) {
			batch->commits++;
			batch->pages = header.commit;
			batch->pages_min =
				header.commit < batch->pages_min ? header.commit : batch->pages_min;
		}
		memcpy(batch->checksum, header.checksum, sizeof(batch->checksum));
	}
	return 0;
}

/* SQLite writes every page that is new to the file; a hole would be restored as somebody's zeros. */
static bool grows_whole(const struct capture *capture, const struct batch *batch)
{
	for (uint32_t page_no = batch->pages_min + 1; page_no <= batch->pages; page_no++) {
		if (page_no != ltx_lock_page(capture->page_size) &&
			page_map_get(&batch->frames, page_no) == NULL) {
			return false;
		}
	}
	return true;
}

static int take_in(struct capture *capture, const struct batch *batch)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < batch->frames.capacity; i++) {
		const struct page_entry *entry = &batch->frames.entries[i];
		if (entry->page_no != 0 && entry->page_no <= batch->pages) {
			rc = touch(capture, entry->page_no, source_of(SOURCE_WAL, entry->value));
		}
	}
	uint32_t lock_page = ltx_lock_page(capture->page_size);
	for (uint32_t page_no = batch->pages + 1; rc == 0 && page_no <= capture->at.pages;
		page_no++) {
		rc = page_no != lock_page ? touch(capture, page_no, source_of(SOURCE_CUT, 0)) : 0;
	}
	for (size_t i = 0; rc == 0 && i < batch->frames.capacity; i++) {
		const struct page_entry *entry = &batch->frames.entries[i];
		if (entry->page_no != 0) {
			rc = page_map_put(&capture->frames, entry->page_no, entry->value);
		}
	}
	return rc;
}

static int advance(struct capture *capture, const struct notice *notice, struct batch *batch)
{
	struct position *at = &capture->at;
	struct wal_copied copied;
	int rc = wal_refresh(capture->wal);
	if (rc != 0) {
		return rc == WAL_GONE ? CAPTURE_LATER : rc;
	}
	if (memcmp(wal_salt(capture->wal), notice->salt, sizeof(notice->salt)) != 0) {
		return CAPTURE_LATER;
	}
	bool same = memcmp(at->salt, notice->salt, sizeof(at->salt)) == 0;
	if (!same && capture->fresh.count > 0) {
		return broken(capture, "the WAL started over before it was captured");
	}
	if (!same && notice->salt[0] != at->salt[0] + 1) {
		/* SQLite counts generations in the first salt; a file made anew begins at random. */
		return broken(capture, "the WAL is another one");
	}
	if (same && notice->frames < at->frame) {
		return broken(capture, "the WAL has become shorter");
	}
	rc = scan(capture, same ? at->frame + 1 : 1, notice->frames, batch);
	if (rc == WAL_GONE ||
		(rc == 0 &&
			memcmp(batch->checksum, notice->checksum, sizeof(batch->checksum)) != 0)) {
		return CAPTURE_LATER;
	}
	if (rc != 0) {
		return rc;
	}
	if (batch->commits < notice->commit_no - at->commit_no) {
		return broken(capture, "commits are missing from the WAL");
	}
	if (!grows_whole(capture, batch)) {
		return broken(capture, "the database grew by pages that are not in the WAL");
	}
	if (!same) {
		page_map_clear(&capture->frames);
		memcpy(at->salt, notice->salt, sizeof(at->salt));
		at->frame = 0;
	}
	rc = take_in(capture, batch);
	rc = rc == 0 ? look_at_copied(capture, &copied) : rc;
	if (rc == 0 &&
		(copied.copying || copied.frames > at->frame ||
			memcmp(copied.salt, notice->salt, sizeof(copied.salt)) != 0)) {
		return broken(capture, "another process has made a checkpoint ahead of capture");
	}
	if (rc == 0) {
		stand_at(capture, notice);
	}
	return rc;
}

int capture_advance(struct capture *capture, const struct notice *notice)
{
	const struct position *at = &capture->at;
	if (memcmp(notice->epoch, at->epoch, sizeof(at->epoch)) != 0) {
		return broken(capture, "the database has a new epoch");
	}
	if (notice->commit_no < at->commit_no) {
		return broken(capture, "the database is older than what was captured");
	}
	if (notice->commit_no == at->commit_no) {
		bool same = notice->frames == at->frame &&
			memcmp(notice->salt, at->salt, sizeof(at->salt)) == 0 &&
			memcmp(notice->checksum, at->checksum, sizeof(at->checksum)) == 0;
		return same ? 0 : broken(capture, "a commit number was used twice");
	}
	struct batch batch = {.commits = 0};
	int rc = advance(capture, notice, &batch);
	page_map_finish(&batch.frames);
	return rc;
}

/* ---- secure ---- */

static int pending_page(void *ctx, uint32_t page_no, uint8_t *page)
{
	struct capture *capture = ctx;
	struct wal_frame header;
	uint64_t value = *page_map_get(&capture->pending, page_no);
	if ((value & 3) == SOURCE_PART) {
		return parts_read(capture->parts, value >> 2, page);
	}
	int rc = wal_page(capture->wal, capture->at.salt, value >> 2, page, &header);
	if (rc == WAL_GONE || (rc == 0 && header.page_no != page_no)) {
		return broken(capture, "the WAL has lost a frame that was not captured yet");
	}
	return rc;
}

int capture_secure(struct capture *capture)
{
	size_t count = capture->fresh.count;
	if (capture->secured_commit == capture->at.commit_no) {
		return 0;
	}
	CLEANUP_FREE struct page_entry *fresh = page_map_sorted(&capture->fresh);
	CLEANUP_FREE struct part_page *pages = calloc(count + 1, sizeof(*pages));
	if (fresh == NULL || pages == NULL) {
		return -ENOMEM;
	}
	for (size_t i = 0; i < count; i++) {
		uint64_t value = *page_map_get(&capture->pending, fresh[i].page_no);
		pages[i] = (struct part_page){fresh[i].page_no, (value & 3) == SOURCE_CUT, 0};
	}
	int rc = capture->sync_wal ? wal_sync(capture->wal) : 0;
	rc = rc == 0
		? parts_append(capture->parts, &capture->at, pages, count, pending_page, capture)
		: rc;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (!pages[i].cut) {
			rc = page_map_put(&capture->pending, pages[i].page_no,
				source_of(SOURCE_PART, pages[i].offset));
		}
	}
	if (rc == 0) {
		page_map_clear(&capture->fresh);
		capture->secured_commit = capture->at.commit_no;
	}
	return rc;
}

/* ---- cut ---- */

static int write_pages(
	struct capture *capture, struct ltx_writer *writer, struct position *position)
{
	CLEANUP_FREE struct page_entry *pages = page_map_sorted(&capture->pending);
	int rc = pages != NULL ? 0 : -ENOMEM;
	for (size_t i = 0; rc == 0 && i < capture->pending.count; i++) {
		uint32_t page_no = pages[i].page_no;
		if ((pages[i].value & 3) == SOURCE_CUT) {
			capture->cache[page_no % CACHE_PAGES].page_no = 0;
			continue;
		}
		rc = pending_page(capture, page_no, capture->page);
		rc = rc == 0 ? ltx_writer_page(writer, page_no, capture->page) : rc;
		struct cached *cached = &capture->cache[page_no % CACHE_PAGES];
		cached->page_no = page_no;
		cached->part =
			digest_page(capture->digester, page_no, capture->page, capture->page_size);
		digest_toggle(&position->digest, &cached->part);
	}
	return rc == 0 ? ltx_writer_finish(writer) : rc;
}

static int write_segment(
	struct capture *capture, struct position *position, struct outgoing *outgoing)
{
	struct ltx_writer *writer = NULL;
	struct ltx_header header = {
		.page_size = capture->page_size,
		.commit = position->pages,
		.min_txid = position->txid,
		.max_txid = position->txid,
		.timestamp_ms = position->timestamp_ms,
		.wal_offset = 32,
		.salt1 = position->salt[0],
		.salt2 = position->salt[1],
	};
	int rc = ltx_writer_new(&header, outgoing_write, outgoing, &writer);
	rc = rc == 0 ? write_pages(capture, writer, position) : rc;
	ltx_writer_free(writer);
	return rc;
}

static struct record record_of(
	const struct capture *capture, const struct position *position, const uint8_t *writer)
{
	struct record record = {
		.commit_first = capture->cut.commit_no + 1,
		.commit_last = position->commit_no,
		.committed_ms = position->committed_ms,
		.has_digest = true,
	};
	memcpy(record.epoch, position->epoch, sizeof(record.epoch));
	memcpy(record.writer, writer, sizeof(record.writer));
	memcpy(record.previous, capture->cut.sha256, sizeof(record.previous));
	memcpy(record.digest_before, capture->cut.digest.bytes, sizeof(record.digest_before));
	memcpy(record.digest_after, position->digest.bytes, sizeof(record.digest_after));
	return record;
}

int capture_cut(struct capture *capture, const uint8_t writer[RECORD_ID_BYTES], int64_t now_ms,
	struct record *ret_record)
{
	struct position next = capture->at;
	struct outgoing *outgoing = NULL;
	next.txid = capture->cut.txid + 1;
	next.timestamp_ms =
		now_ms > capture->cut.timestamp_ms ? now_ms : capture->cut.timestamp_ms + 1;
	int rc = capture->sync_wal ? wal_sync(capture->wal) : 0;
	rc = rc == 0 ? spool_create(capture->spool, SPOOL_SEGMENTS, &outgoing) : rc;
	if (rc != 0) {
		return rc;
	}
	rc = write_segment(capture, &next, outgoing);
	if (rc != 0) {
		/* The cache may be ahead of the chain now. */
		memset(capture->cache, 0, sizeof(capture->cache));
		outgoing_abandon(outgoing);
		return rc;
	}
	*ret_record = record_of(capture, &next, writer);
	rc = outgoing_commit(outgoing, next.txid, next.txid, ret_record);
	memcpy(next.sha256, ret_record->sha256, sizeof(next.sha256));
	rc = rc == 0 ? spool_position_write(capture->spool, &next) : rc;
	if (rc != 0) {
		memset(capture->cache, 0, sizeof(capture->cache));
		return rc;
	}
	capture->at = next;
	capture->cut = next;
	capture->secured_commit = next.commit_no;
	page_map_clear(&capture->pending);
	page_map_clear(&capture->fresh);
	parts_reset(capture->parts);
	return 0;
}
