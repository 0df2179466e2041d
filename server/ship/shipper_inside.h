/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the conductor's files share: shipper.c has the loop, shipper_chain.c decides what replicas
 * may have and begins chains, shipper_cut.c makes segments, shipper_images.c files of all pages,
 * shipper_room.c keeps the spool within its bounds. All of it is one thread's.
 */

#include "server/ship/capture.h"
#include "server/ship/shipper.h"
#include "server/ship/snapshot.h"
#include "server/ship/uploader.h"

enum { SHIPPER_LATER_MAX = 100 };

struct shipper {
	const struct shipper_options *options;
	struct board *board;
	struct spool *spool;
	struct capture *capture;
	struct uploader *uploaders[NOTICE_REPLICAS_MAX];
	size_t uploaders_count;
	struct snapshot *snapshot; /* images that are made beside capture */
	uint8_t writer[RECORD_ID_BYTES];
	struct notice notice;
	struct ship_report report;
	bool chained;
	bool looked;           /* whether the spool holds one is known */
	bool found;            /* it did, at the start */
	uint64_t begun_commit; /* at which the first chain began, where it did not */
	uint64_t breaks;       /* of the chain, by the funnel, that we know of */
	uint64_t started_us;
	uint64_t uncut_us; /* since when there are commits that are in no segment; 0: none */
	uint64_t trimmed_us;
	uint64_t image_again_us; /* one that failed is not tried again before */
	unsigned image_failures;
	bool image_put_off; /* it would have taken longer than a stop may wait */
	unsigned failures;
	uint64_t failed_us;
	uint64_t overtaken_us; /* since when the WAL lacks overtaken_commit; 0: it does not */
	uint64_t overtaken_commit;
};

int64_t shipper_now_ms(void);

/* Puts the report on the board. */
void shipper_tell(struct shipper *shipper);

bool shipper_any_in(struct shipper *shipper, enum uploader_state state);

/* ---- chain ---- */

/* Answers the replicas that have said what they hold, and begins a chain if one is needed. */
int shipper_see_to_chain(struct shipper *shipper);
void shipper_give_up_chain(struct shipper *shipper, const char *why);

/* Tells those who take part how far the segments go. */
void shipper_offer_all(struct shipper *shipper);

/* Until no checkpoint is under way, and none can begin. */
void shipper_close_gate(struct shipper *shipper);

/* ---- cut ---- */

/* Up to the newest notice. */
int shipper_advance(struct shipper *shipper);
int shipper_cut(struct shipper *shipper);

/* Secures and cuts what is due. */
int shipper_capture_step(struct shipper *shipper);
uint64_t shipper_linger_us(struct shipper *shipper);

/* ---- images ---- */

/* One at a time, and only where nothing is pending: an image shows the end of a segment. */
int shipper_see_to_images(struct shipper *shipper);

/* What became of one. Each that fails fills the disk for nothing, so the next one waits ever longer. */
void shipper_image_result(struct shipper *shipper, int rc);
bool shipper_image_may_begin(const struct shipper *shipper);

/* ---- room ---- */

void shipper_trim(struct shipper *shipper, uint64_t bytes_max);

/* At a start: what a shipper left that died in the middle. */
void shipper_drop_uncounted(struct shipper *shipper);
void shipper_drop_images(struct shipper *shipper);

/* Images that all have, or that lead to segments which are gone. */
void shipper_trim_images(struct shipper *shipper);
