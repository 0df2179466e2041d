/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A look into the WAL of a database that another process writes, by plain reads. SQLite holds no
 * lock on this file, so opening and closing it here harms nobody; nor does a look into its index (DB-shm)
 * in a process that has no handle of SQLite's on the database.
 *
 * A frame is believed only if its salts are those of the generation that was asked for and its
 * checksum continues that of the frame before it. What is committed, the funnel says: frames behind
 * the last committed one may be there and mean nothing.
 *
 * Frames are counted from 1. Results: 0; WAL_GONE; negative errno.
 */

#include "server/base/wal_format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wal;

enum wal_condition {
	WAL_GONE =
		1, /* not the frame that was asked for: the WAL has started over, or is not there */
};

int wal_new(const char *db, uint32_t page_size, struct wal **ret_wal);
void wal_free(struct wal *wal); /* accepts NULL */

/* Opens the file if need be, and takes over its present generation. WAL_GONE: no valid header. */
int wal_refresh(struct wal *wal);
const uint32_t *wal_salt(const struct wal *wal); /* NULL: the last refresh found no valid header */

/* At the last refresh there was no file, or one of no bytes: the database file has everything. */
bool wal_is_empty(const struct wal *wal);

/* The header of one frame of the present generation. */
int wal_frame(struct wal *wal, uint64_t frame, struct wal_frame *ret_frame);

/* The page in a frame of the generation with that salt, checked; also its header. */
int wal_page(struct wal *wal, const uint32_t salt[2], uint64_t frame, void *page,
	struct wal_frame *ret_frame);

/*
 * What the index of the WAL says of the database's file. A file that was read before the call has nothing
 * of frames behind `frames`, if `copying` is false; else a checkpoint is at work that may have gone further.
 * WAL_GONE: there is no index, or it is just being changed.
 */
struct wal_copied {
	uint32_t salt[2]; /* of the generation that is written next, or already */
	uint64_t frames;
	bool copying;
};
int wal_copied(const struct wal *wal, struct wal_copied *ret_copied);

/* Makes durable what is in the file. */
int wal_sync(struct wal *wal);
