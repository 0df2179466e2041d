/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Capture: from frames of the WAL to segments without a gap.
 *
 *	advance   takes note of the frames up to a notice: which page stands where, and takes the
 *	          old content of each page out of the digest while it can still be read
 *	secure    makes the pages that stand in the WAL only durable in a part: after that the
 *	          funnel may checkpoint them
 *	cut       makes a segment of everything since the last one
 *
 * It rests on the gate: a frame that was not secured is never checkpointed, so the WAL that holds
 * it is not overwritten, and the database file is never newer than what was captured. Every sign
 * that this was not kept ends the chain (CAPTURE_BROKEN); the next one begins with all pages.
 *
 * One thread. Results: 0; a capture_condition; negative errno.
 */

#include "server/base/notice.h"
#include "server/ship/page_map.h"
#include "server/ship/spool.h"

struct capture;

enum capture_condition {
	CAPTURE_BROKEN = 1, /* the chain cannot be continued; capture_why() says why */
	CAPTURE_LATER,      /* the notice has been overtaken: read it anew */
};

int capture_new(const char *db, struct spool *spool, uint32_t page_size, bool sync_wal,
	struct capture **ret_capture);
void capture_free(struct capture *capture); /* accepts NULL */
const char *capture_why(const struct capture *capture);

/* Takes up the chain of the spool where it stands. CAPTURE_BROKEN: there is none. */
int capture_resume(struct capture *capture);

/*
 * Begins a chain at the notice, to be followed by an image of all pages under `txid`, whose digest
 * capture_begun() then takes. No segment is cut in between.
 */
int capture_begin(struct capture *capture, const struct notice *notice, uint64_t txid);
int capture_begun(struct capture *capture, const struct record *record, int64_t timestamp_ms);

/* Nobody takes it up any more; how far it had come is remembered (spool_bury()). */
int capture_end_chain(struct capture *capture);

int capture_advance(struct capture *capture, const struct notice *notice);
int capture_secure(struct capture *capture);

/* The segment after the last. `writer` and the record's chain fields go into *ret_record. */
int capture_cut(struct capture *capture, const uint8_t writer[RECORD_ID_BYTES], int64_t now_ms,
	struct record *ret_record);

/* Everything captured so far stands up to here; secured, up to that commit. */
const struct position *capture_at(const struct capture *capture);
uint64_t capture_secured_commit(const struct capture *capture);

/* Where the last segment ended. */
const struct position *capture_last_cut(const struct capture *capture);
size_t capture_pending_pages(const struct capture *capture);

/*
 * Where each page of the database stands at the last segment's end, for an image: in the WAL by
 * the map of frames, else in the database file. Only right after a cut or a begin, while nothing
 * is pending, and good only as long as the gate stays closed. The map is the caller's.
 */
int capture_layout(const struct capture *capture, struct page_map *ret_frames);
