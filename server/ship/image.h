/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * An image: a file of all pages, as the database is at a segment's end. It begins a chain, stands
 * in for segments that a replica lacks, and is the snapshot of level 9.
 *
 * It is read from the WAL by a map of frames (capture_layout()) and else from the database file,
 * both of which must stand still: the gate is closed from before the map is taken until the image
 * is done. Should the WAL start over meanwhile, all its pages are in the database file already.
 */

#include "server/ship/page_map.h"
#include "server/ship/spool.h"

struct image_plan {
	const char *db;
	struct spool *spool;
	struct position at;     /* the segment's end */
	struct page_map frames; /* image_build() takes it over */
	uint64_t min_txid;      /* 1 for a snapshot; else one more than what the replica has */
	uint64_t commit_first;
	uint8_t writer[RECORD_ID_BYTES];
	uint8_t previous[RECORD_SHA256_BYTES];
	int64_t timestamp_ms;
	bool sync_wal;
	bool check; /* the digest must be that of `at` */
	/* Called now and then: a result other than 0 ends the work and is passed up. */
	int (*progress)(void *ctx, uint64_t pages, uint64_t of);
	void *ctx;
};

enum image_condition {
	IMAGE_DIFFERS = 1, /* `check`: the database is not what the chain says that it is */
	IMAGE_LATER,       /* a page could not be read as it was: start over */
};

/* Puts the image into the spool under min_txid … at.txid. 0; an image_condition; negative errno. */
int image_build(struct image_plan *plan, struct record *ret_record);
