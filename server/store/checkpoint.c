/* SPDX-License-Identifier: MIT */

/*
 * Copies the WAL into the database, between transactions, on the one handle that writes.
 *
 * PASSIVE does the work and waits for nobody. What a reader has held back for long is copied in parts, with
 * as much time for commits in between as each has taken. The WAL starts over at its first frame by itself when
 * everything is copied and no reader stands in it at the moment of the next write. Readers that
 * overlap without a pause never give it that moment; then RESTART asks them for one, with a bounded
 * wait. The file is reused, which is three times cheaper than growing it anew, and cut only when it
 * has grown far past its use.
 */

#include "server/base/clock.h"
#include "server/base/wal_format.h"
#include "server/store/inside.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PART_US = 20000,    /* what a part is to take */
	PART_FRAMES = 2000, /* the first one */
	PART_FRAMES_MIN = 500,
	PARTS_MAX = 64, /* SQLite sorts all frames anew for each */
	RESTART_BUSY_MS = 20,
	RESTART_BUSY_MS_MAX = 100,
	START_FRAMES = 16, /* more than the first commit of a start has */
	WRITE_OUT_FRAMES = 64,
	CUT_FACTOR = 16, /* a file so many times the threshold is cut when it can be */
};

/*
 * Under `normal` no commit waits for the disk. A checkpoint then would, for all that it has not been
 * given until then, and everybody with it; so it is given that on the way, and nobody waits. It takes
 * no error away: those of writing are told by the fsync of the checkpoint, on this same descriptor.
 */
static void write_out(struct store *store)
{
	struct wal *wal = &store->wal;
	int fd = store->ground.fds[GROUND_WAL];
	if (store->sync_full || fd < 0 || wal->frames < wal->written_out + WRITE_OUT_FRAMES) {
		return;
	}
	off_t from = (off_t)wal_frame_offset(store->page_size, wal->written_out + 1);
	off_t to = (off_t)wal_frame_offset(store->page_size, wal->frames + 1);
	(void)sync_file_range(fd, from, to - from, SYNC_FILE_RANGE_WRITE);
	wal->written_out = wal->frames;
}

static int wal_committed(void *ctx, sqlite3 *handle, const char *database, int frames)
{
	struct store *store = ctx;
	(void)handle;
	(void)database;
	store->wal.hook_calls++;
	if ((uint64_t)frames < store->wal.frames) {
		/* It has started over. */
		store->wal.backfilled = 0;
		store->wal.written_out = 0;
		store->wal.next_attempt = 0;
		store->wal.rests = false;
		store->wal.restart_busy_ms = RESTART_BUSY_MS;
		store->ground.mark = 0;
	}
	store->wal.frames = (uint64_t)frames;
	write_out(store);
	return SQLITE_OK;
}

void checkpoint_setup(struct store *store)
{
	/* After PRAGMA wal_autocheckpoint, which would install a hook of its own over this one. */
	store->wal.restart_busy_ms = RESTART_BUSY_MS;
	store->wal.part_frames = PART_FRAMES;
	sqlite3_wal_hook(store->handle, wal_committed, store);
}

static uint64_t wal_file_bytes(struct store *store)
{
	struct stat status;
	const char *path = sqlite3_filename_wal(sqlite3_db_filename(store->handle, "main"));
	return path != NULL && stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static int run(struct store *store, int mode)
{
	int in_wal = 0;
	int copied = 0;
	ground_look_at_content(store); /* before our own writing covers another's */
	if (store->doubt.kind != STORE_DOUBT_NONE) {
		return SQLITE_BUSY;
	}
	int rc = sqlite3_wal_checkpoint_v2(store->handle, "main", mode, &in_wal, &copied);
	store->wal.stats.checkpoints++;
	store->wal.stats.whole = rc == SQLITE_OK && in_wal >= 0 && in_wal == copied;
	ground_note(store);
	foreign_note_salt(store); /* it may have let the WAL begin anew */
	if (copied >= 0) {
		store->wal.backfilled = (uint64_t)copied;
	}
	return rc;
}

/* Readers overlap for ever: ask for one moment without them. */
static int restart(struct store *store, uint64_t threshold)
{
	uint64_t bytes = wal_file_bytes(store);
	uint64_t frame = store->page_size + WAL_FRAME_HEADER_BYTES;
	bool cut = bytes > CUT_FACTOR * threshold * frame;
	sqlite3_busy_timeout(store->handle, (int)store->wal.restart_busy_ms);
	int rc = run(store, cut ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_RESTART);
	sqlite3_busy_timeout(store->handle, 0);
	store->wal.stats.restarts++;
	if (rc == SQLITE_OK) {
		store->wal.restart_busy_ms = RESTART_BUSY_MS;
	} else if (store->wal.restart_busy_ms < RESTART_BUSY_MS_MAX) {
		store->wal.restart_busy_ms *= 2;
	}
	return (rc & 0xff) == SQLITE_BUSY ? SQLITE_OK : rc;
}

bool store_checkpoint_is_due(const struct store *store, uint64_t threshold)
{
	const struct wal *wal = &store->wal;
	if (wal->rests) {
		return clock_now_us() >= wal->part_at_us;
	}
	return wal->frames >= threshold && wal->frames >= wal->next_attempt;
}

bool store_checkpoint_rests(const struct store *store)
{
	return store->wal.rests;
}

/* All that can be copied, or a part of it. SQLite's code. */
static int run_part(struct store *store)
{
	struct wal *wal = &store->wal;
	uint64_t left = wal->frames - wal->backfilled;
	uint64_t part = wal->part_frames > left / PARTS_MAX ? wal->part_frames : left / PARTS_MAX;
	uint64_t end = wal->backfilled + part;
	bool pinned = left > 2 * part && wal_pin(store, (uint32_t)end);
	uint64_t began_us = clock_now_us();
	int rc = run(store, SQLITE_CHECKPOINT_PASSIVE);
	if (!pinned) {
		wal->rests = false;
		return rc;
	}
	wal_unpin(store);
	uint64_t now_us = clock_now_us();
	uint64_t took_us = now_us - began_us + 1;
	wal->rests = rc == SQLITE_OK && wal->backfilled >= end && wal->backfilled < wal->frames;
	wal->part_at_us = now_us + took_us;
	if (wal->rests) {
		uint64_t fits = part * PART_US / took_us;
		fits = fits < 2 * part ? fits : 2 * part;
		wal->part_frames = fits > PART_FRAMES_MIN ? fits : PART_FRAMES_MIN;
		wal->stats.parts++;
	}
	return rc;
}

int store_checkpoint_if_due(struct store *store, uint64_t threshold, struct store_error *error)
{
	struct wal *wal = &store->wal;
	if (!store_checkpoint_is_due(store, threshold)) {
		return 0;
	}
	authorizer_enter(&store->authorizer, ROLE_SELF);
	int rc = run_part(store);
	if (wal->rests) {
		return 0;
	}
	if (rc == SQLITE_OK && wal->backfilled < wal->frames) {
		wal->stats.pinned++;
	}
	if (rc == SQLITE_OK && wal->backfilled == wal->frames && wal->frames >= 2 * threshold) {
		rc = restart(store, threshold);
	}
	/* What could not be done now is tried again after some more writes, not after each. */
	wal->next_attempt = wal->frames + threshold / 4 + 1;
	if ((rc & 0xff) == SQLITE_BUSY) {
		rc = SQLITE_OK;
	}
	return rc == SQLITE_OK
		? 0
		: store_error_set(error, STORE_RESOURCE, rc, "%s", sqlite3_errmsg(store->handle));
}

/*
 * Each start commits, and who comes first to what a cut gives back may be another: so the WAL keeps
 * blocks for that beyond its end, where the file system can.
 */
static void keep_blocks(struct store *store)
{
	const char *path = sqlite3_filename_wal(sqlite3_db_filename(store->handle, "main"));
	int fd = path != NULL ? open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
	if (fd >= 0) {
		(void)fallocate(fd, FALLOC_FL_KEEP_SIZE, 0,
			(off_t)START_FRAMES * (store->page_size + WAL_FRAME_HEADER_BYTES));
		close(fd);
	}
}

int store_checkpoint_cut(struct store *store, struct store_error *error)
{
	if (store_in_transaction(store)) {
		return 0;
	}
	int rc = SQLITE_OK;
	if (wal_file_bytes(store) > WAL_HEADER_BYTES) {
		authorizer_enter(&store->authorizer, ROLE_SELF);
		sqlite3_busy_timeout(store->handle, RESTART_BUSY_MS);
		rc = run(store, SQLITE_CHECKPOINT_TRUNCATE);
		sqlite3_busy_timeout(store->handle, 0);
	}
	keep_blocks(store);
	return rc == SQLITE_OK || (rc & 0xff) == SQLITE_BUSY
		? 0
		: store_error_set(error, STORE_RESOURCE, rc, "%s", sqlite3_errmsg(store->handle));
}

int store_checkpoint(struct store *store, struct store_error *error)
{
	struct wal *wal = &store->wal;
	authorizer_enter(&store->authorizer, ROLE_SELF);
	int rc = run(store, SQLITE_CHECKPOINT_PASSIVE);
	if (rc == SQLITE_OK && wal->backfilled < wal->frames) {
		wal->stats.pinned++;
	}
	if (rc == SQLITE_OK || (rc & 0xff) == SQLITE_BUSY) {
		return 0;
	}
	return store_error_set(error, (rc & 0xff) == SQLITE_IOERR ? STORE_UNKNOWN : STORE_RESOURCE,
		rc, "%s", sqlite3_errmsg(store->handle));
}

struct checkpoint_stats store_checkpoint_stats(const struct store *store)
{
	struct checkpoint_stats stats = store->wal.stats;
	stats.wal_frames = store->wal.frames;
	stats.backfilled = store->wal.backfilled;
	return stats;
}

void store_settle(struct store *store)
{
	/*
	 * Openers with read permission only cannot move a read mark forward; the mark that the last
	 * write transaction left stands before its own frames. An empty read of ours moves it, so
	 * that their snapshots do not hold back the next checkpoint.
	 */
	authorizer_enter(&store->authorizer, ROLE_SELF);
	(void)own_run(store, store->own[OWN_SETTLE]);
}
