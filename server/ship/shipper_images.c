/* SPDX-License-Identifier: MIT */

/*
 * Files of all pages, for replicas that lack segments and for those whose snapshot is due. The image is
 * built beside capture (snapshot.h), from the end of the segment that is cut for it.
 */

#include "server/ship/shipper_inside.h"

#include "server/base/clock.h"

#include <errno.h>
#include <string.h>

enum { AGAIN_MS = 10 * 1000, AGAIN_DOUBLINGS = 9 /* an hour and a half */ };

void shipper_image_result(struct shipper *shipper, int rc)
{
	shipper->image_put_off |= rc == -ECANCELED;
	if (rc == 0 || rc == -ECANCELED) {
		shipper->image_failures = 0;
		return;
	}
	unsigned doublings = shipper->image_failures < AGAIN_DOUBLINGS ? shipper->image_failures
								       : AGAIN_DOUBLINGS;
	shipper->image_failures += rc == -ENOSPC; /* what else fails may pass soon */
	shipper->image_again_us = clock_now_us() + (AGAIN_MS * 1000ull << doublings);
}

bool shipper_image_may_begin(const struct shipper *shipper)
{
	return !board_paused(shipper->board) && !shipper->image_put_off &&
		clock_now_us() >= shipper->image_again_us;
}

static void start_snapshot(
	struct shipper *shipper, size_t index, enum snapshot_kind kind, uint64_t min_txid)
{
	const struct position *at = capture_at(shipper->capture);
	struct image_plan plan = {
		.db = shipper->options->db,
		.spool = shipper->spool,
		.at = *at,
		.min_txid = min_txid,
		.commit_first = at->commit_no,
		.timestamp_ms = at->timestamp_ms,
		.sync_wal = shipper->options->sync_wal,
		.check = true,
	};
	memcpy(plan.writer, shipper->writer, sizeof(plan.writer));
	shipper_close_gate(shipper);
	if (capture_layout(shipper->capture, &plan.frames) != 0 ||
		snapshot_start(shipper->snapshot, &plan, kind, shipper->uploaders[index]) != 0) {
		page_map_finish(&plan.frames);
		board_gate_open(shipper->board);
	}
	shipper_tell(shipper);
}

/* One at a time, and only where nothing is pending: an image shows the end of a segment. */
int shipper_see_to_images(struct shipper *shipper)
{
	int result = snapshot_take_result(shipper->snapshot);
	if (result == IMAGE_DIFFERS) {
		shipper_give_up_chain(shipper, "the database is not what its segments say");
		return 0;
	}
	if (result != 0) {
		shipper_image_result(shipper, result);
	}
	if (!shipper->chained || snapshot_building(shipper->snapshot) ||
		board_stopping(shipper->board) || !shipper_image_may_begin(shipper)) {
		return 0;
	}
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		struct uploader *uploader = shipper->uploaders[i];
		enum uploader_state state = uploader_state(uploader);
		bool lacks = state == UPLOADER_LACKING;
		bool due = state == UPLOADER_SHIPPING && uploader_confirmed(uploader) > 0 &&
			shipper_now_ms() - uploader_snapshot_ms(uploader) >
				(int64_t)shipper->options->snapshot_every_ms;
		if (!lacks && !due) {
			continue;
		}
		int rc = shipper_advance(shipper);
		if (rc == 0 && capture_pending_pages(shipper->capture) > 0) {
			rc = shipper_cut(shipper);
			shipper_tell(shipper);
		}
		if (rc != 0) {
			return rc;
		}
		start_snapshot(shipper, i, lacks ? SNAPSHOT_LACKING : SNAPSHOT_DUE,
			lacks ? uploader_confirmed(uploader) + 1 : 1);
		return 0;
	}
	return 0;
}
