/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A database that is a copy of another one and follows it page by page, while others read it.
 *
 * SQLite has no call for "these are the pages now", so the pages are put where SQLite itself puts a
 * commit: behind the last frame of the WAL, and into the wal-index. All rules are those of a writer
 * of SQLite: the write lock is held, frames count only from the moment in which the header of the
 * index says so, and the last one alone carries the commit. Hence a reader sees a whole commit or
 * the whole one before; nobody waits for anybody; and whoever dies in the middle leaves frames that
 * do not count. Reading, checkpoints and recovery are SQLite's.
 *
 * One thread. Results: 0; a copy_condition or negative errno, with a sentence in copy_error().
 */

#include <stdbool.h>
#include <stdint.h>

struct copy;

enum copy_condition {
	COPY_UNFIT = 1, /* no database in WAL mode with that page size, or no memory shared */
	COPY_FOREIGN,   /* somebody else writes to it */
};

enum { COPY_ERROR_BYTES = 300 };

/* The end of a commit in the WAL: whether it is there can be asked later. */
struct copy_mark {
	uint8_t salt[8];
	uint32_t frame; /* 0: nothing had to be written */
};

int copy_open(const char *db, struct copy **ret_copy, char ret_error[COPY_ERROR_BYTES]);

/* Leaves the -wal and the -shm behind, for readers. Accepts NULL. */
void copy_close(struct copy *copy);
const char *copy_error(const struct copy *copy);

uint32_t copy_page_size(const struct copy *copy);

/* How many pages it has; after copy_add() as before it. */
uint32_t copy_pages(const struct copy *copy);

/* True if that commit counts. Only before the first copy_begin(). */
bool copy_has(const struct copy *copy, const struct copy_mark *mark);

/* ---- a commit ---- */

/* Takes the write lock. */
int copy_begin(struct copy *copy);

/* A page as it is now, with what was added since the beginning. Beyond the end: zeros. */
int copy_read(struct copy *copy, uint32_t page_no, uint8_t *page);
int copy_add(struct copy *copy, uint32_t page_no, const uint8_t *page);

/* What the commit's end will be. Nothing counts yet, whatever happens. */
struct copy_mark copy_end(const struct copy *copy);

/* Makes the database have `pages` pages and the added ones, durably, and lets go of the lock. */
int copy_commit(struct copy *copy, uint32_t pages);

/* Instead: as if there had been no copy_begin(). */
void copy_abandon(struct copy *copy);

/*
 * Brings frames into the database file and, once there are many and nobody needs them, starts the
 * WAL over: no mark that was taken before says anything afterwards. *ret_due: that is what would
 * happen next, with `restart`. Readers are never waited for.
 */
int copy_checkpoint(struct copy *copy, bool restart, bool *ret_due);

/* The end of the newest commit. As long as nobody else writes it is where the last one was left. */
struct copy_mark copy_where(const struct copy *copy);
