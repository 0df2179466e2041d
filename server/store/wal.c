/* SPDX-License-Identifier: MIT */

/*
 * The WAL beneath SQLite: where its last commit ends, whether a write to it found the disk full, and
 * how what a failed COMMIT left behind that end is made invalid. It reads SQLite's index of the WAL
 * through SQLite's own mapping and writes through SQLite's own file; it opens nothing.
 */

#include "server/base/list.h"
#include "server/base/wal_format.h"
#include "server/store/inside.h"

#include <string.h>

enum { INDEX_REGION_BYTES = 32768 };

static int note_full(sqlite3_file *file, const void *data, int bytes, sqlite3_int64 offset)
{
	struct wal_file *wal =
		container_of((void *)(uintptr_t)file->pMethods, struct wal_file, noting);
	int rc = wal->methods->xWrite(file, data, bytes, offset);
	wal->full |= (rc & 0xff) == SQLITE_FULL;
	return rc;
}

bool wal_attach(struct store *store)
{
	struct wal_file *wal = &store->wal_file;
	if (sqlite3_file_control(store->handle, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal->file) !=
			SQLITE_OK ||
		wal->file == NULL || wal->file->pMethods == NULL) {
		wal->file = NULL;
		return false;
	}
	wal->methods = wal->file->pMethods;
	wal->noting = *wal->methods;
	wal->noting.xWrite = note_full;
	wal->file->pMethods = &wal->noting;
	return true;
}

bool wal_index(struct store *store, struct wal_index *ret_index)
{
	sqlite3_file *file = NULL;
	void volatile *region = NULL;
	if (sqlite3_file_control(store->handle, "main", SQLITE_FCNTL_FILE_POINTER, &file) !=
			SQLITE_OK ||
		file == NULL || file->pMethods == NULL || file->pMethods->iVersion < 2 ||
		file->pMethods->xShmMap(file, 0, INDEX_REGION_BYTES, 0, &region) != SQLITE_OK ||
		region == NULL) {
		return false;
	}
	memcpy(ret_index, (const void *)(uintptr_t)region, sizeof(*ret_index));
	return true;
}

uint64_t wal_offset(const struct store *store, uint32_t frames)
{
	return wal_frame_offset(store->page_size, (uint64_t)frames + 1);
}

/* With the write lock held: makes sure that no frame can be read behind the last commit. */
static bool end_here(struct store *store)
{
	static const char nothing[WAL_FRAME_HEADER_BYTES];
	sqlite3_file *file = store->wal_file.file;
	struct wal_index index;
	sqlite3_int64 bytes = 0;
	if (file == NULL || !wal_index(store, &index) ||
		file->pMethods->xFileSize(file, &bytes) != SQLITE_OK) {
		return false;
	}
	sqlite3_int64 end = (sqlite3_int64)wal_offset(store, index.header.frames);
	if (bytes < end + WAL_FRAME_HEADER_BYTES) {
		return true; /* nothing stands there that could be taken for a frame */
	}
	/* Each frame's checksum goes over all before it: without its first none of them counts. */
	if (file->pMethods->xWrite(file, nothing, sizeof(nothing), end) != SQLITE_OK &&
		file->pMethods->xTruncate(file, end) != SQLITE_OK) {
		return false;
	}
	return file->pMethods->xSync(file, SQLITE_SYNC_NORMAL | SQLITE_SYNC_DATAONLY) == SQLITE_OK;
}

bool wal_seal(struct store *store)
{
	/* SQLite repeats the error of the file to the first that asks again, and forgets it then. */
	int rc = own_run(store, store->own[OWN_BEGIN]);
	rc = rc != SQLITE_OK ? own_run(store, store->own[OWN_BEGIN]) : rc;
	if (rc != SQLITE_OK) {
		return false;
	}
	bool sealed = end_here(store);
	(void)own_run(store, store->own[OWN_ROLLBACK]);
	return sealed;
}
