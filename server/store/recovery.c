/* SPDX-License-Identifier: MIT */

/*
 * What a start does so that neither a crash before it nor a reader beside it is felt: readers wait
 * while the index of the WAL is made anew, what recovery found is really on the disk, and what an I/O
 * error left in doubt is checked before anybody is answered.
 */

#include "server/base/list.h"
#include "server/store/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Where SQLite's WAL_WRITE_LOCK lies in the -shm file, by its wal-index format. */
enum { WRITE_LOCK_BYTE = 120, INDEX_REGION_BYTES = 32768 };

/*
 * The first to open a database empties its -shm, and only then takes the write lock under which it
 * fills it again; if a reader is in its way it lets go once more and comes back. A read-only opener that
 * looks in between finds an empty index and nobody at work, and gives up with
 * SQLITE_READONLY_RECOVERY. So the lock is held without a gap from before SQLite opens the file until
 * the start is complete: at first by us, for POSIX locks belong to the process and SQLite's own falls
 * together with ours; then by not letting SQLite's unlock through. Readers see that somebody is at
 * work, and wait.
 */
void recovery_hold(struct hold *hold, const char *db)
{
	char path[4096];
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = WRITE_LOCK_BYTE, .l_len = 1};
	snprintf(path, sizeof(path), "%s-shm", db);
	*hold = (struct hold){.shm_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)};
	if (hold->shm_fd >= 0) {
		(void)fcntl(hold->shm_fd, F_SETLK, &lock); /* if somebody writes, SQLite says so */
	}
}

static int lock_but_keep(sqlite3_file *file, int offset, int count, int flags)
{
	struct hold *hold = container_of((void *)(uintptr_t)file->pMethods, struct hold, keeping);
	if ((flags & SQLITE_SHM_UNLOCK) != 0 && offset == 0 && count == 1) {
		hold->kept = true;
		return SQLITE_OK;
	}
	return hold->methods->xShmLock(file, offset, count, flags);
}

/*
 * The index of the WAL is written through a mapping, and a page that has no block when the disk is full
 * is SIGBUS. SQLite sees to a byte of each 4 KiB, which is not enough where blocks are smaller; so all
 * of it gets its blocks first, or there is no mapping.
 */
static int map_with_blocks(
	sqlite3_file *file, int region, int bytes, int extend, void volatile **ret_region)
{
	struct hold *hold = container_of((void *)(uintptr_t)file->pMethods, struct hold, keeping);
	if (extend && hold->shm_fd >= 0 &&
		fallocate(hold->shm_fd, 0, (off_t)region * bytes, bytes) != 0 && errno == ENOSPC) {
		*ret_region = NULL;
		return SQLITE_FULL;
	}
	return hold->methods->xShmMap(file, region, bytes, extend, ret_region);
}

void recovery_keep(struct hold *hold, sqlite3 *handle)
{
	if (sqlite3_file_control(handle, "main", SQLITE_FCNTL_FILE_POINTER, &hold->file) !=
			SQLITE_OK ||
		hold->file == NULL || hold->file->pMethods == NULL ||
		hold->file->pMethods->iVersion < 2) {
		hold->file = NULL;
		return;
	}
	hold->methods = hold->file->pMethods;
	hold->keeping = *hold->methods;
	hold->keeping.xShmLock = lock_but_keep;
	hold->keeping.xShmMap = map_with_blocks;
	hold->file->pMethods = &hold->keeping;
}

/* SQLite's next start empties the file and fills it again: it needs no more than it has given back. */
static void keep_blocks(struct hold *hold, const char *db)
{
	char path[4096];
	if (hold->shm_fd < 0) {
		/* SQLite has made it. A second descriptor, which is not closed before its own. */
		snprintf(path, sizeof(path), "%s-shm", db);
		hold->shm_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	}
	if (hold->shm_fd >= 0) {
		(void)fallocate(hold->shm_fd, 0, 0, INDEX_REGION_BYTES);
	}
}

void recovery_let_go(struct hold *hold, const char *db)
{
	struct flock lock = {
		.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = WRITE_LOCK_BYTE, .l_len = 1};
	if (hold->file != NULL) {
		hold->file->pMethods = hold->methods;
		if (hold->kept) {
			(void)hold->methods->xShmLock(
				hold->file, 0, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
		}
		hold->file = NULL;
	}
	if (hold->shm_fd >= 0 && !hold->kept) {
		(void)fcntl(hold->shm_fd, F_SETLK, &lock);
	}
	keep_blocks(hold, db);
}

void recovery_finish(struct hold *hold)
{
	if (hold->shm_fd >= 0) {
		close(hold->shm_fd);
	}
	hold->shm_fd = -1;
}

/*
 * SQLite's recovery reads the WAL but does not sync it: what it finds could be in the page cache only,
 * left by a process that was killed. A stored answer given from it could outlive its commit.
 */
int recovery_sync_wal(const struct store *store, char ret_error[STORE_ERROR_BYTES])
{
	char path[4096];
	snprintf(path, sizeof(path), "%s-wal", store->path);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	int rc = fd >= 0 && fdatasync(fd) == 0 ? 0 : -errno;
	if (fd >= 0) {
		close(fd);
	}
	if (rc != 0) {
		snprintf(ret_error, STORE_ERROR_BYTES, "%.400s: %s", path, strerror(-rc));
	}
	return rc;
}

/*
 * The last run stopped at a COMMIT whose fate it could not know. Check what is there, and write the
 * content of the WAL anew into the database before anybody is told that it is safe.
 */
int recovery_check(struct store *store, char ret_error[STORE_ERROR_BYTES])
{
	sqlite3_stmt *stmt = NULL;
	bool sound = own_prepare(store, "PRAGMA quick_check(1)", &stmt) == SQLITE_OK &&
		sqlite3_step(stmt) == SQLITE_ROW &&
		strcmp((const char *)sqlite3_column_text(stmt, 0), "ok") == 0;
	sqlite3_finalize(stmt);
	if (!sound) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s does not pass quick_check after an I/O error: restore it from its replica",
			store->path);
		return -EINVAL;
	}
	authorizer_enter(&store->authorizer, ROLE_SELF);
	sqlite3_busy_timeout(store->handle, 5000);
	int rc = sqlite3_wal_checkpoint_v2(
		store->handle, "main", SQLITE_CHECKPOINT_FULL, NULL, NULL);
	sqlite3_busy_timeout(store->handle, 0);
	if (rc != SQLITE_OK) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: the checkpoint that must follow an I/O error failed: %s", store->path,
			sqlite3_errmsg(store->handle));
		return -EINVAL;
	}
	return 0;
}
