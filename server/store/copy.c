/* SPDX-License-Identifier: MIT */

/*
 * Frames into a WAL, as SQLite would write them. It knows pages, not where they come from. What it
 * keeps true: it writes only while it holds SQLite's write lock, only behind the last frame that
 * counts, and only if that frame is the one that it left there itself.
 *
 * It reaches the files through SQLite's own descriptors: closing another one would drop SQLite's
 * locks. Its handle is outside of any transaction while it writes, so that SQLite does not know of
 * the lock, and finds the new header when it reads next.
 */

#include "server/store/copy.h"

#include "server/base/cleanup.h"
#include "server/base/wal_format.h"
#include "server/store/wal_index.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	WRITE_LOCK = 0,
	LOCK_TRIES = 1000, /* a reader that recovers holds it for a moment */
	LOCK_WAIT_US = 5000,
	RESTART_FRAMES = 1000,
};

struct copy {
	sqlite3 *handle;
	sqlite3_file *file;
	sqlite3_file *wal;
	struct wal_index index;
	struct wal_index_header published; /* what counts: as we left it, or found it first */
	struct wal_index_header header;    /* of the commit under way */
	uint32_t page_size;
	uint32_t pages;
	bool locked;
	uint32_t last;        /* frame that was added, held back or not */
	uint32_t checksum[2]; /* of the frame before the one that is held back */
	bool held;            /* the last frame: it gets the commit, if it stays the last */
	uint8_t *frame;       /* header and page */
	char error[COPY_ERROR_BYTES];
};

const char *copy_error(const struct copy *copy)
{
	return copy->error;
}

uint32_t copy_page_size(const struct copy *copy)
{
	return copy->page_size;
}

uint32_t copy_pages(const struct copy *copy)
{
	return copy->pages;
}

struct copy_mark copy_where(const struct copy *copy)
{
	struct copy_mark mark = {.frame = copy->published.frames};
	memcpy(mark.salt, copy->published.salt, sizeof(mark.salt));
	return mark;
}

/* An SQLite code as a result, with a sentence. */
static int failed(struct copy *copy, int code, const char *what)
{
	snprintf(copy->error, sizeof(copy->error), "%s: %s", what, sqlite3_errstr(code));
	switch (code & 0xff) {
	case SQLITE_OK:
		return 0;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_FULL:
		return -ENOSPC;
	default:
		return -EIO;
	}
}

static int say(struct copy *copy, int result, const char *text)
{
	snprintf(copy->error, sizeof(copy->error), "%s", text);
	return result;
}

/* ---- opening ---- */

static int one_number(sqlite3 *handle, const char *sql, sqlite3_int64 *ret_number)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(handle, sql, -1, &stmt, NULL);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	*ret_number = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
	int end = sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? SQLITE_OK : rc == SQLITE_DONE ? SQLITE_ERROR : end;
}

/* A read of SQLite's: it maps and, if need be, recovers the index; afterwards its read mark is new. */
static int touch(struct copy *copy)
{
	sqlite3_int64 rows = 0;
	return one_number(copy->handle, "SELECT count(*) FROM main.sqlite_schema", &rows);
}

static int find_files(struct copy *copy)
{
	int rc = sqlite3_file_control(copy->handle, "main", SQLITE_FCNTL_FILE_POINTER, &copy->file);
	rc = rc == SQLITE_OK ? sqlite3_file_control(copy->handle, "main",
				       SQLITE_FCNTL_JOURNAL_POINTER, &copy->wal)
			     : rc;
	bool fit = rc == SQLITE_OK && copy->file != NULL && copy->file->pMethods != NULL &&
		copy->file->pMethods->iVersion >= 2 && copy->wal != NULL &&
		copy->wal->pMethods != NULL;
	copy->index.file = copy->file;
	return fit ? 0 : say(copy, COPY_UNFIT, "it is not in WAL mode, or has no shared memory");
}

static int read_header(struct copy *copy)
{
	int rc = wal_index_read(&copy->index, &copy->published);
	copy->last = copy->published.frames;
	if (rc == SQLITE_OK && copy->published.frames > 0 && copy->published.big_endian != 0) {
		return say(copy, COPY_UNFIT, "its WAL was written on another kind of machine");
	}
	return failed(copy, rc, "wal-index");
}

static int set_up(struct copy *copy, const char *db)
{
	sqlite3_int64 number = 0;
	int keep = 1;
	int rc = sqlite3_open_v2(db, &copy->handle,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
			SQLITE_OPEN_NOFOLLOW,
		NULL);
	if (rc == SQLITE_OK) {
		sqlite3_busy_timeout(copy->handle, 5000);
		(void)sqlite3_db_config(copy->handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
		(void)sqlite3_wal_autocheckpoint(copy->handle, 0);
		rc = sqlite3_file_control(copy->handle, "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
	}
	rc = rc == SQLITE_OK ? touch(copy) : rc;
	rc = rc == SQLITE_OK ? one_number(copy->handle, "PRAGMA main.page_size", &number) : rc;
	copy->page_size = (uint32_t)number;
	rc = rc == SQLITE_OK ? one_number(copy->handle, "PRAGMA main.page_count", &number) : rc;
	copy->pages = (uint32_t)number;
	if (rc != SQLITE_OK) {
		return failed(copy, rc, "it cannot be opened");
	}
	copy->frame = malloc(WAL_FRAME_HEADER_BYTES + (size_t)copy->page_size);
	if (copy->frame == NULL) {
		return failed(copy, SQLITE_NOMEM, "frame");
	}
	int result = find_files(copy);
	return result == 0 ? read_header(copy) : result;
}

int copy_open(const char *db, struct copy **ret_copy, char ret_error[COPY_ERROR_BYTES])
{
	struct copy *copy = calloc(1, sizeof(*copy));
	if (copy == NULL) {
		snprintf(ret_error, COPY_ERROR_BYTES, "out of memory");
		return -ENOMEM;
	}
	int rc = set_up(copy, db);
	if (rc != 0) {
		memcpy(ret_error, copy->error, COPY_ERROR_BYTES);
		copy_close(copy);
		return rc;
	}
	*ret_copy = copy;
	return 0;
}

void copy_close(struct copy *copy)
{
	if (copy != NULL) {
		copy_abandon(copy);
		wal_index_finish(&copy->index);
		(void)sqlite3_close(copy->handle);
		free(copy->frame);
		free(copy);
	}
}

bool copy_has(const struct copy *copy, const struct copy_mark *mark)
{
	return mark->frame > 0 && copy->published.frames >= mark->frame &&
		memcmp(mark->salt, copy->published.salt, sizeof(mark->salt)) == 0;
}

/* ---- the lock ---- */

static int lock(struct copy *copy)
{
	int rc = SQLITE_BUSY;
	for (int i = 0; rc == SQLITE_BUSY && i < LOCK_TRIES; i++) {
		rc = copy->file->pMethods->xShmLock(
			copy->file, WRITE_LOCK, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);
		if (rc == SQLITE_BUSY) {
			usleep(LOCK_WAIT_US);
		}
	}
	copy->locked = rc == SQLITE_OK;
	return rc == SQLITE_BUSY ? say(copy, COPY_FOREIGN, "somebody else is writing to it")
				 : failed(copy, rc, "write lock");
}

static void unlock(struct copy *copy)
{
	if (copy->locked) {
		(void)copy->file->pMethods->xShmLock(
			copy->file, WRITE_LOCK, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
		copy->locked = false;
	}
}

/* ---- the file ---- */

static int64_t offset_of(const struct copy *copy, uint32_t frame)
{
	return (int64_t)wal_frame_offset(copy->page_size, frame);
}

static int write_wal(struct copy *copy, const void *bytes, size_t len, int64_t offset)
{
	int rc = copy->wal->pMethods->xWrite(copy->wal, bytes, (int)len, offset);
	return failed(copy, rc, "-wal");
}

static int sync_wal(struct copy *copy)
{
	return failed(copy, copy->wal->pMethods->xSync(copy->wal, SQLITE_SYNC_NORMAL), "-wal");
}

/*
 * Frames that do not count may still be whole: of one who died before he published them. After a
 * power loss SQLite would find and count them, so the first of them is made unreadable, durably,
 * before anything is written down about what is going to stand there.
 */
static int spoil_next(struct copy *copy)
{
	static const uint8_t zeros[WAL_FRAME_HEADER_BYTES];
	sqlite3_int64 size = 0;
	int64_t offset = offset_of(copy, copy->header.frames + 1);
	int rc = failed(copy, copy->wal->pMethods->xFileSize(copy->wal, &size), "-wal");
	if (rc != 0 || size <= offset) {
		return rc;
	}
	rc = write_wal(copy, zeros, sizeof(zeros), offset);
	return rc == 0 ? sync_wal(copy) : rc;
}

/* The WAL's own header, when it starts over. It must be durable before the frames behind it. */
static int write_wal_header(struct copy *copy)
{
	static const uint8_t none[8];
	struct wal_index_header *header = &copy->header;
	uint8_t bytes[WAL_HEADER_BYTES] = {0};
	uint32_t sum[2] = {0, 0};
	if (memcmp(header->salt, none, sizeof(none)) == 0) {
		sqlite3_randomness(sizeof(header->salt), header->salt);
	}
	wal_put32(bytes, WAL_MAGIC_LITTLE);
	wal_put32(bytes + 4, WAL_VERSION);
	wal_put32(bytes + 8, copy->page_size);
	memcpy(bytes + 16, header->salt, sizeof(header->salt));
	wal_checksum(false, bytes, 24, sum);
	wal_put32(bytes + 24, sum[0]);
	wal_put32(bytes + 28, sum[1]);
	header->big_endian = 0;
	header->page_size = (uint16_t)((copy->page_size & 0xff00) | copy->page_size >> 16);
	memcpy(header->frame_checksum, sum, sizeof(sum));
	int rc = write_wal(copy, bytes, sizeof(bytes), 0);
	return rc == 0 ? sync_wal(copy) : rc;
}

/* ---- a commit ---- */

static bool same_end(const struct wal_index_header *a, const struct wal_index_header *b)
{
	return a->frames == b->frames && memcmp(a->salt, b->salt, sizeof(a->salt)) == 0 &&
		memcmp(a->frame_checksum, b->frame_checksum, sizeof(a->frame_checksum)) == 0;
}

static int begin(struct copy *copy)
{
	int rc = failed(copy, wal_index_read(&copy->index, &copy->header), "wal-index");
	if (rc == 0 && !same_end(&copy->header, &copy->published)) {
		return say(copy, COPY_FOREIGN, "somebody else has written to it");
	}
	rc = rc == 0 ? spoil_next(copy) : rc;
	rc = rc == 0 && copy->header.frames == 0 ? write_wal_header(copy) : rc;
	copy->last = copy->header.frames;
	memcpy(copy->checksum, copy->header.frame_checksum, sizeof(copy->checksum));
	copy->held = false;
	return rc;
}

int copy_begin(struct copy *copy)
{
	int rc = failed(copy, touch(copy), "a look at it");
	rc = rc == 0 ? lock(copy) : rc;
	rc = rc == 0 ? begin(copy) : rc;
	if (rc != 0) {
		unlock(copy);
	}
	return rc;
}

/* The frame that was held back, as the last of a commit of so many pages or (0) as one in it. */
static int write_held(struct copy *copy, uint32_t pages)
{
	uint8_t *frame = copy->frame;
	bool big_endian = copy->header.big_endian != 0;
	wal_put32(frame + 4, pages);
	memcpy(frame + 8, copy->header.salt, sizeof(copy->header.salt));
	wal_checksum(big_endian, frame, 8, copy->checksum);
	wal_checksum(big_endian, frame + WAL_FRAME_HEADER_BYTES, copy->page_size, copy->checksum);
	wal_put32(frame + 16, copy->checksum[0]);
	wal_put32(frame + 20, copy->checksum[1]);
	copy->held = false;
	return write_wal(copy, frame, WAL_FRAME_HEADER_BYTES + (size_t)copy->page_size,
		offset_of(copy, copy->last));
}

int copy_add(struct copy *copy, uint32_t page_no, const uint8_t *page)
{
	int rc = copy->held ? write_held(copy, 0) : 0;
	if (rc == 0) {
		copy->last++;
		rc = failed(copy, wal_index_append(&copy->index, copy->last, page_no), "wal-index");
	}
	if (rc == 0) {
		wal_put32(copy->frame, page_no);
		memcpy(copy->frame + WAL_FRAME_HEADER_BYTES, page, copy->page_size);
		copy->held = true;
	}
	return rc;
}

int copy_read(struct copy *copy, uint32_t page_no, uint8_t *page)
{
	uint32_t frame = 0;
	int size = (int)copy->page_size;
	int rc = wal_index_find(&copy->index, copy->last, page_no, &frame);
	if (rc == SQLITE_OK && frame == copy->last && copy->held) {
		memcpy(page, copy->frame + WAL_FRAME_HEADER_BYTES, copy->page_size);
	} else if (rc == SQLITE_OK && frame > 0) {
		rc = copy->wal->pMethods->xRead(
			copy->wal, page, size, offset_of(copy, frame) + WAL_FRAME_HEADER_BYTES);
	} else if (rc == SQLITE_OK) {
		rc = copy->file->pMethods->xRead(
			copy->file, page, size, (int64_t)(page_no - 1) * size);
		rc = rc == SQLITE_IOERR_SHORT_READ ? SQLITE_OK : rc; /* zeros */
	}
	return failed(copy, rc, "a page");
}

struct copy_mark copy_end(const struct copy *copy)
{
	struct copy_mark mark = {.frame = copy->last};
	memcpy(mark.salt, copy->header.salt, sizeof(mark.salt));
	return mark;
}

static int publish(struct copy *copy, uint32_t pages)
{
	struct wal_index_header header = copy->header;
	int rc = write_held(copy, pages);
	rc = rc == 0 ? sync_wal(copy) : rc;
	if (rc == 0) {
		header.frames = copy->last;
		header.pages = pages;
		memcpy(header.frame_checksum, copy->checksum, sizeof(header.frame_checksum));
		wal_index_publish(&copy->index, &header);
		copy->published = header;
		copy->pages = pages;
	}
	return rc;
}

int copy_commit(struct copy *copy, uint32_t pages)
{
	int rc = 0;
	if (!copy->held && pages != copy->pages) { /* a commit needs a frame to stand in */
		CLEANUP_FREE uint8_t *page = malloc(copy->page_size);
		rc = page == NULL ? failed(copy, SQLITE_NOMEM, "page") : copy_read(copy, 1, page);
		rc = rc == 0 ? copy_add(copy, 1, page) : rc;
	}
	rc = rc == 0 && copy->held ? publish(copy, pages) : rc;
	if (rc != 0) {
		copy_abandon(copy);
		return rc;
	}
	unlock(copy);
	/* SQLite must accept what stands there now, and readers who cannot move a mark get a new one. */
	return failed(copy, touch(copy), "a look at it");
}

void copy_abandon(struct copy *copy)
{
	copy->held = false;
	copy->last = copy->published.frames;
	unlock(copy);
}

/* ---- checkpoints ---- */

/* SQLite leaves it to the next writer to start the WAL over, except with TRUNCATE. */
int copy_checkpoint(struct copy *copy, bool restart, bool *ret_due)
{
	int frames = 0;
	int done = 0;
	*ret_due = false;
	sqlite3_busy_timeout(copy->handle, 0);
	int rc = sqlite3_wal_checkpoint_v2(copy->handle, "main",
		restart ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE, &frames, &done);
	sqlite3_busy_timeout(copy->handle, 5000);
	if ((rc & 0xff) == SQLITE_BUSY) {
		rc = SQLITE_OK; /* somebody reads: another time */
	}
	if (rc == SQLITE_OK && restart) {
		const struct wal_index_header before = copy->published;
		int result = read_header(copy);
		return result == 0 && copy->published.frames > 0 &&
				!same_end(&before, &copy->published)
			? say(copy, COPY_FOREIGN, "somebody else has written to it")
			: result;
	}
	*ret_due = rc == SQLITE_OK && frames >= RESTART_FRAMES && done == frames;
	return failed(copy, rc, "a checkpoint");
}
