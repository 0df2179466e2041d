/* SPDX-License-Identifier: MIT */

/*
 * A checkpoint that goes no further than a frame. SQLite copies all that no reader holds back, in one call;
 * so there is a reader: a second handle, read-only and without a transaction, that takes a free read mark
 * by SQLite's own rules (walformat.html; in the source, walTryBeginRead) and sets it to the frame. A mark
 * that is lower than need be harms nobody: whoever reads only asks that no frame behind it is copied.
 *
 * The file has a descriptor of our own, too, for asking the kernel to write early what was copied: the
 * last call of a checkpoint syncs the file, and would wait for all of it. Closing it drops SQLite's locks,
 * so that is done when the database is closed.
 */

#include "server/store/inside.h"

#include <fcntl.h>
#include <unistd.h>

enum {
	INDEX_REGION_BYTES = 32768,
	MARKS_AT = 25,  /* 32-bit words before the read marks: two headers and nBackfill */
	MARK_FIRST = 2, /* 0 stands for the database alone, 1 is SQLite's spare one */
	MARK_LAST = 4,
	MARK_LOCK = 3, /* the lock of mark 0 */
};

#define MARK_UNUSED UINT32_MAX

static bool open_pin(struct store *store)
{
	struct wal_pin *pin = &store->wal_pin;
	int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW;
	void volatile *region = NULL;
	if (sqlite3_open_v2(store->path, &pin->handle, flags, NULL) != SQLITE_OK ||
		/* Whatever it is the last one of, closing it changes nothing. */
		sqlite3_db_config(pin->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL) !=
			SQLITE_OK ||
		/* The first read is what attaches it to the index. */
		sqlite3_exec(pin->handle, "SELECT 1 FROM sqlite_schema", NULL, NULL, NULL) !=
			SQLITE_OK ||
		sqlite3_file_control(pin->handle, "main", SQLITE_FCNTL_FILE_POINTER, &pin->file) !=
			SQLITE_OK ||
		pin->file->pMethods->xShmMap(pin->file, 0, INDEX_REGION_BYTES, 0, &region) !=
			SQLITE_OK ||
		region == NULL) {
		sqlite3_close(pin->handle);
		*pin = (struct wal_pin){.fd = pin->fd};
		return false;
	}
	pin->marks = (_Atomic uint32_t *)(uintptr_t)region + MARKS_AT;
	if (pin->fd < 0) {
		pin->fd = open(store->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	}
	return true;
}

static int lock(const struct wal_pin *pin, int mark, int how)
{
	return pin->file->pMethods->xShmLock(pin->file, MARK_LOCK + mark, 1, how);
}

/* Sets a mark that nobody holds. */
static bool set_mark(struct wal_pin *pin, int mark, uint32_t frame)
{
	if (lock(pin, mark, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE) != SQLITE_OK) {
		return false;
	}
	atomic_store(&pin->marks[mark], frame);
	(void)lock(pin, mark, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
	return true;
}

static bool take_mark(struct wal_pin *pin, int mark, uint32_t frame)
{
	if (!set_mark(pin, mark, frame) ||
		lock(pin, mark, SQLITE_SHM_LOCK | SQLITE_SHM_SHARED) != SQLITE_OK) {
		return false;
	}
	if (atomic_load(&pin->marks[mark]) == frame) {
		pin->mark = mark;
		return true;
	}
	/* Another reader has set it in between. */
	(void)lock(pin, mark, SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED);
	return false;
}

bool wal_pin(struct store *store, uint32_t frame)
{
	struct wal_pin *pin = &store->wal_pin;
	if (pin->handle == NULL && !open_pin(store)) {
		return false;
	}
	/* Those first that nobody can join for what stands in them. */
	for (int used = 0; used <= 1; used++) {
		for (int mark = MARK_LAST; mark >= MARK_FIRST; mark--) {
			if ((atomic_load(&pin->marks[mark]) != MARK_UNUSED) == (used != 0) &&
				take_mark(pin, mark, frame)) {
				return true;
			}
		}
	}
	return false;
}

void wal_unpin(struct store *store)
{
	struct wal_pin *pin = &store->wal_pin;
	(void)lock(pin, pin->mark, SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED);
	(void)set_mark(pin, pin->mark, MARK_UNUSED); /* unless a reader has joined */
	pin->mark = 0;
	if (pin->fd >= 0) {
		(void)sync_file_range(pin->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	}
}

void wal_pin_close(struct store *store)
{
	sqlite3_close(store->wal_pin.handle);
	store->wal_pin.handle = NULL;
}

void wal_pin_finish(struct store *store)
{
	if (store->wal_pin.fd >= 0) {
		close(store->wal_pin.fd);
	}
}
