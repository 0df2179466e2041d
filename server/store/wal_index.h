/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * SQLite's wal-index, the -shm of a database: which page stands in which frame of the WAL, and how
 * many frames count. For a writer that brings frames of its own (copy.h) and holds the write lock;
 * it follows the rules that SQLite documents for writers, through SQLite's own methods of the file,
 * so that readers, checkpoints and recovery are SQLite's as ever.
 *
 * Results: 0; an SQLite code.
 */

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

/* The header of the index, as it stands there twice. */
struct wal_index_header {
	uint32_t version;
	uint32_t unused;
	uint32_t changes; /* counted */
	uint8_t valid;
	uint8_t big_endian; /* checksums in the WAL */
	uint16_t page_size; /* 1: 65536 */
	uint32_t frames;    /* that count */
	uint32_t pages;     /* of the database after them */
	uint32_t frame_checksum[2];
	uint8_t salt[8]; /* as in the WAL */
	uint32_t checksum[2];
};

struct wal_index {
	sqlite3_file *file; /* of the database, by SQLITE_FCNTL_FILE_POINTER */
	void **blocks;      /* mapped so far */
	int count;
};

void wal_index_finish(struct wal_index *index);

/* SQLITE_BUSY_RECOVERY: it is not valid now; a reader of SQLite mends that. */
int wal_index_read(struct wal_index *index, struct wal_index_header *ret_header);

/* Enters a frame that does not count yet. Frames come one after another. */
int wal_index_append(struct wal_index *index, uint32_t frame, uint32_t page_no);

/* The last frame up to `frames` that holds the page; 0: none does. */
int wal_index_find(struct wal_index *index, uint32_t frames, uint32_t page_no, uint32_t *ret_frame);

/* From now on the header's frames count, for whoever begins to read. Completes the header. */
void wal_index_publish(struct wal_index *index, struct wal_index_header *header);
