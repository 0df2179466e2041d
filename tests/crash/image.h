/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the disk may hold after the power went away: everything up to the last sync of each file,
 * and of what came later anything at all.
 */

#include "tests/crash/crash_vfs.h"
#include "tests/crash/random.h"

struct content {
	uint8_t *data;
	size_t len;
	size_t cap;
};

/* The files of a database, as they stand on a disk. */
struct image {
	struct content content[FILE_COUNT];
	bool exists[FILE_COUNT];
};

void image_finish(struct image *image);

/* Replaces the files at `path`; the -shm is not among those that survive. */
void image_write(const struct image *image, const char *path);
/* Takes in the files at `path`. */
void image_read(struct image *image, const char *path);

/* Walks along a tape and knows at each place what is on the disk and what may be. */
struct cutter;
struct cutter *cutter_new(const struct image *base, const struct tape *tape);
void cutter_free(struct cutter *cutter); /* accepts NULL */

/* Moves on; never back. */
void cutter_advance(struct cutter *cutter, size_t entries);

/* The highest commit number that was acknowledged so far; 0: none on this tape. */
uint64_t cutter_acked(const struct cutter *cutter);
/* The batches that were sent so far are those below this number; 0: none on this tape. */
uint64_t cutter_sent(const struct cutter *cutter);

/* One of the images that a loss of power at this place may leave. */
void cutter_image(const struct cutter *cutter, uint64_t seed, struct image *ret_image);
