/* SPDX-License-Identifier: MIT */

/*
 * Segments: when one is due, and when what is in none yet must be secured. What it keeps true: nothing
 * waits for a segment longer than the linger, which grows only while replicas lag.
 */

#include "server/ship/shipper_inside.h"

#include "server/base/clock.h"

#include <errno.h>

enum {
	PAGES_MAX = 16384,         /* of one segment, if its commits allow it */
	BACKLOG = 32,              /* segments that wait: from there on they are cut less often */
	LINGER_MAX_MS = 30 * 1000, /* … but not less often than this */
	OVERTAKEN_MS = 500,
};

/*
 * Our own checkpoints wait for capture. So the next notice is about to come; or another process has let the WAL begin
 * anew, and what was in it stands in the database alone.
 */
static void note_overtaken(struct shipper *shipper)
{
	uint64_t now_us = clock_now_us();
	if (shipper->overtaken_us == 0 || shipper->overtaken_commit != shipper->notice.commit_no) {
		shipper->overtaken_us = now_us;
		shipper->overtaken_commit = shipper->notice.commit_no;
	} else if (now_us - shipper->overtaken_us >= OVERTAKEN_MS * 1000ull) {
		shipper->overtaken_us = 0;
		shipper_give_up_chain(shipper, "the WAL lacks what was committed last");
	}
}

int shipper_advance(struct shipper *shipper)
{
	int rc = CAPTURE_LATER;
	for (int i = 0; rc == CAPTURE_LATER && i < SHIPPER_LATER_MAX; i++) {
		board_notice(shipper->board, &shipper->notice);
		rc = capture_advance(shipper->capture, &shipper->notice);
	}
	if (rc != CAPTURE_LATER) {
		shipper->overtaken_us = 0;
		return rc;
	}
	note_overtaken(shipper);
	return -EAGAIN;
}

uint64_t shipper_linger_us(struct shipper *shipper)
{
	uint64_t waiting = 0;
	uint64_t newest = capture_last_cut(shipper->capture)->txid;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		uint64_t confirmed = uploader_confirmed(shipper->uploaders[i]);
		if (uploader_state(shipper->uploaders[i]) == UPLOADER_SHIPPING &&
			newest > confirmed && newest - confirmed > waiting) {
			waiting = newest - confirmed;
		}
	}
	uint64_t ms = shipper->options->linger_ms * (1 + waiting / BACKLOG);
	return 1000 * (ms < LINGER_MAX_MS ? ms : LINGER_MAX_MS);
}

/* Segments are not cut while an image is made from where the last one ended: it needs no more. */
int shipper_cut(struct shipper *shipper)
{
	struct record record;
	int rc = capture_cut(shipper->capture, shipper->writer, shipper_now_ms(), &record);
	if (rc == 0) {
		shipper->uncut_us = 0;
		shipper_offer_all(shipper);
	}
	return rc;
}

int shipper_capture_step(struct shipper *shipper)
{
	const struct position *at = capture_at(shipper->capture);
	const struct position *last = capture_last_cut(shipper->capture);
	uint64_t now_us = clock_now_us();
	if (shipper->uncut_us == 0 && shipper->notice.commit_no > last->commit_no) {
		shipper->uncut_us = now_us;
	}
	bool secure =
		board_wanted_spooled(shipper->board) > capture_secured_commit(shipper->capture);
	bool due = shipper->uncut_us != 0 &&
		(now_us - shipper->uncut_us >= shipper_linger_us(shipper) ||
			board_wanted_shipped(shipper->board) > last->commit_no ||
			board_stopping(shipper->board) ||
			capture_pending_pages(shipper->capture) >= PAGES_MAX);
	if (!secure && !due) {
		return 0;
	}
	int rc = shipper_advance(shipper);
	if (rc == 0 && secure) {
		rc = capture_secure(shipper->capture);
		shipper_tell(shipper);
	}
	if (rc == 0 && due && at->commit_no > last->commit_no) {
		rc = shipper_cut(shipper);
		shipper_tell(shipper);
	}
	return rc;
}
