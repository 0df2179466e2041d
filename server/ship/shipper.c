/* SPDX-License-Identifier: MIT */

/*
 * The conductor. The way of a commit out of the machine:
 *
 *	notice.h      the funnel says: committed, up to this frame
 *	capture.c     wal.c reads frames; parts.c makes pages durable, so that a checkpoint may
 *	              follow; a segment is cut when commits have lingered or somebody waits
 *	spool.c       where segments and images stand until every replica has them
 *	chain.c       may this replica have them?
 *	uploader.c    a thread for each replica: replica.c, replica_file.c, replica_s3.c
 *	image.c       all pages: the first file of a chain, and whatever a replica has missed
 *
 * This thread never waits for a replica. It sleeps until there is a notice, a wish of the funnel's,
 * or time for a segment.
 */

#include "server/ship/shipper.h"

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/ship/capture.h"
#include "server/ship/chain.h"
#include "server/ship/image.h"
#include "server/ship/snapshot.h"
#include "server/ship/uploader.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	IDLE_MS = 1000,
	IMAGE_AGAIN_MS = 10 * 1000,
	LOOK_MS = 5000,            /* how long replicas have to say what they hold */
	PAGES_MAX = 16384,         /* of one segment, if its commits allow it */
	BACKLOG = 32,              /* segments that wait: from there on they are cut less often */
	LINGER_MAX_MS = 30 * 1000, /* … but not less often than this */
	SEGMENTS_KEPT = 100,       /* that every replica has: for compaction */
	LATER_MAX = 100,
	FAILURES_MAX = 10, /* of capture, a second each, before the chain is given up */
};

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
	bool looked;     /* whether the spool holds one is known */
	uint64_t breaks; /* of the chain, by the funnel, that we know of */
	uint64_t started_us;
	uint64_t uncut_us; /* since when there are commits that are in no segment; 0: none */
	uint64_t trimmed_us;
	uint64_t image_again_us; /* one that failed is not tried again before */
	unsigned failures;
	uint64_t failed_us;
};

static int64_t now_ms(void)
{
	return (int64_t)(clock_wall_us() / 1000);
}

/* ---- telling ---- */

static void tell(struct shipper *shipper)
{
	struct ship_report *report = &shipper->report;
	report->known = true;
	/* Until it is known whether there is a chain, the gate must hold as if there were one. */
	report->chained = shipper->chained || !shipper->looked;
	report->building = shipper->snapshot != NULL && snapshot_building(shipper->snapshot);
	if (shipper->chained) {
		report->spooled_commit = capture_secured_commit(shipper->capture);
		report->segments = capture_last_cut(shipper->capture)->txid;
	}
	board_report(shipper->board, report);
	board_wake_writer(shipper->board);
}

static void trouble(struct shipper *shipper, const char *text)
{
	if (strcmp(shipper->report.trouble, text) != 0) {
		snprintf(shipper->report.trouble, sizeof(shipper->report.trouble), "%s", text);
		if (text[0] != 0) {
			log_warn("shipping is in trouble", log_str("error", text));
		}
	}
	tell(shipper);
}

static void uploader_changed(void *ctx)
{
	struct shipper *shipper = ctx;
	board_wake_shipper(shipper->board);
}

/* ---- replicas ---- */

static int start_uploaders(struct shipper *shipper)
{
	char *list = strdup(shipper->options->replicas);
	char error[NOTICE_TEXT_BYTES] = "";
	char *rest = list;
	bool acks = list != NULL && strstr(list, "ack=1") != NULL;
	int rc = list != NULL ? 0 : -ENOMEM;
	for (char *url = NULL; rc == 0 && (url = strsep(&rest, " \t,")) != NULL;) {
		if (url[0] == 0) {
			continue;
		}
		if (shipper->uploaders_count == NOTICE_REPLICAS_MAX) {
			trouble(shipper, "more replicas than 8");
			rc = -EINVAL;
			break;
		}
		size_t index = shipper->uploaders_count;
		struct uploader_options options = {
			.url = url,
			.acks = acks ? strstr(url, "ack=1") != NULL : index == 0,
			.index = index,
			.board = shipper->board,
			.spool = shipper->spool,
			.retention_ms = shipper->options->retention_ms,
			.changed = uploader_changed,
			.ctx = shipper,
		};
		memcpy(options.writer, shipper->writer, sizeof(options.writer));
		rc = uploader_start(&options, &shipper->uploaders[index], error);
		if (rc != 0) {
			trouble(shipper, error);
		} else {
			shipper->uploaders_count++;
		}
	}
	free(list);
	return rc;
}

static bool any_in(struct shipper *shipper, enum uploader_state state)
{
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		if (uploader_state(shipper->uploaders[i]) == state) {
			return true;
		}
	}
	return false;
}

/* A database that was restored says of which epoch's chain (DB-ship/restored, left by the start). */
static bool read_parent(const struct shipper *shipper, uint8_t ret_epoch[RECORD_ID_BYTES])
{
	static const char key[] = "epoch: ";
	char path[4200];
	char line[1024];
	bool found = false;
	snprintf(path, sizeof(path), "%s/restored", shipper->options->spool);
	FILE *file = fopen(path, "re");
	while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
		const char *hex = line + strlen(key);
		found = strncmp(line, key, strlen(key)) == 0;
		for (size_t i = 0; found && i < RECORD_ID_BYTES; i++) {
			unsigned byte = 0;
			found = sscanf(hex + 2 * i, "%2x", &byte) == 1;
			ret_epoch[i] = (uint8_t)byte;
		}
	}
	if (file != NULL) {
		fclose(file);
	}
	return found;
}

static struct chain_local local_facts(const struct shipper *shipper)
{
	struct chain_local local = {
		.has_position = shipper->chained,
		.commit_no = shipper->notice.commit_no,
		.continue_litestream = shipper->options->continue_litestream,
	};
	CLEANUP_FREE struct spool_file *files = NULL;
	size_t count = 0;
	if (shipper->chained) {
		local.position = *capture_last_cut(shipper->capture);
	}
	if (spool_list(shipper->spool, SPOOL_SEGMENTS, &files, &count) == 0 && count > 0) {
		local.first_txid = files[0].min_txid;
	}
	memcpy(local.epoch, shipper->notice.epoch, sizeof(local.epoch));
	local.has_parent = read_parent(shipper, local.parent);
	return local;
}

/*
 * Answers the replicas that have said what they hold. *ret_begin: a new chain is needed, behind
 * the number *ret_txid.
 */
static void answer_heads(struct shipper *shipper, bool *ret_begin, uint64_t *ret_txid)
{
	struct chain_local local = local_facts(shipper);
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		struct uploader *uploader = shipper->uploaders[i];
		char reason[CHAIN_REASON_BYTES] = "";
		if (uploader_state(uploader) != UPLOADER_WAITING) {
			continue;
		}
		struct chain_head head = uploader_head(uploader);
		head.ours = head.known && spool_has_writer(shipper->spool, head.record.writer);
		enum chain_action action = chain_decide(&local, &head, reason);
		bool behind = shipper->chained && head.txid <= local.position.txid;
		if (action == CHAIN_REFUSE) {
			uploader_refuse(uploader, reason);
		} else if (action == CHAIN_BEGIN && !behind) {
			*ret_begin = true;
			*ret_txid = head.txid > *ret_txid ? head.txid : *ret_txid;
		} else {
			uploader_begin(uploader, head.txid, shipper->notice.epoch);
			uploader_offer(uploader, local.position.txid);
		}
	}
}

/* ---- a new chain ---- */

static int image_progress(void *ctx, uint64_t pages, uint64_t of)
{
	struct shipper *shipper = ctx;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		uploader_progress(shipper->uploaders[i], pages * 100 / of);
	}
	return board_stopping(shipper->board) ? -ECANCELED : 0;
}

static void close_gate(struct shipper *shipper)
{
	board_gate_close(shipper->board);
	while (board_gate_entered(shipper->board)) {
		usleep(200); /* a checkpoint is under way */
	}
}

static int first_image(struct shipper *shipper, struct record *ret_record, int64_t *ret_ms)
{
	const struct position *at = capture_at(shipper->capture);
	struct image_plan plan = {
		.db = shipper->options->db,
		.spool = shipper->spool,
		.at = *at,
		.min_txid = at->txid,
		.commit_first = at->commit_no,
		.timestamp_ms = now_ms(),
		.sync_wal = shipper->options->sync_wal,
		.progress = image_progress,
		.ctx = shipper,
	};
	memcpy(plan.writer, shipper->writer, sizeof(plan.writer));
	*ret_ms = plan.timestamp_ms;
	int rc = capture_layout(shipper->capture, &plan.frames);
	return rc == 0 ? image_build(&plan, ret_record) : rc;
}

/* The whole database as the first file, with the gate closed until it is known as such. */
static int begin_chain(struct shipper *shipper, uint64_t behind)
{
	struct record record;
	int64_t timestamp_ms = 0;
	int rc = CAPTURE_LATER;
	uint64_t began_us = clock_now_us();
	close_gate(shipper);
	for (int i = 0; rc == CAPTURE_LATER && i < LATER_MAX; i++) {
		board_notice(shipper->board, &shipper->notice);
		rc = capture_begin(shipper->capture, &shipper->notice, behind + 1);
	}
	rc = rc == 0 ? first_image(shipper, &record, &timestamp_ms) : rc;
	rc = rc == 0 ? capture_begun(shipper->capture, &record, timestamp_ms) : rc;
	shipper->chained = rc == 0;
	tell(shipper);
	board_gate_open(shipper->board);
	if (rc == 0) {
		log_info("a chain begins", log_uint("segment", behind + 1),
			log_uint("commit", record.commit_last),
			log_uint("pages", capture_at(shipper->capture)->pages),
			log_uint("ms", (clock_now_us() - began_us) / 1000));
	}
	return rc > 0 ? -EAGAIN : rc;
}

static void offer_all(struct shipper *shipper)
{
	uint64_t newest = capture_last_cut(shipper->capture)->txid;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		enum uploader_state state = uploader_state(shipper->uploaders[i]);
		if (state == UPLOADER_SHIPPING || state == UPLOADER_LACKING) {
			uploader_offer(shipper->uploaders[i], newest);
		}
	}
}

/* Replicas that wait for a chain take part in it from what they hold. */
static void admit_waiting(struct shipper *shipper)
{
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		if (uploader_state(shipper->uploaders[i]) == UPLOADER_WAITING) {
			uploader_begin(shipper->uploaders[i],
				uploader_head(shipper->uploaders[i]).txid, shipper->notice.epoch);
		}
	}
	offer_all(shipper);
}

/* The highest number that any replica, or the chain so far, has used. */
static uint64_t highest_txid(struct shipper *shipper, uint64_t known)
{
	uint64_t highest = known;
	uint64_t cut = capture_last_cut(shipper->capture)->txid;
	highest = cut > highest ? cut : highest;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		uint64_t confirmed = uploader_confirmed(shipper->uploaders[i]);
		highest = confirmed > highest ? confirmed : highest;
	}
	return highest;
}

static int see_to_chain(struct shipper *shipper)
{
	bool begin = false;
	uint64_t txid = 0;
	if (snapshot_building(shipper->snapshot)) {
		return 0; /* the gate is its own until it is done */
	}
	answer_heads(shipper, &begin, &txid);
	bool ready =
		begin || any_in(shipper, UPLOADER_SHIPPING) || any_in(shipper, UPLOADER_LACKING);
	bool late = clock_now_us() - shipper->started_us > LOOK_MS * 1000ull;
	if ((!begin && shipper->chained) || !ready ||
		(any_in(shipper, UPLOADER_LOOKING) && !late)) {
		return 0;
	}
	int rc = begin_chain(shipper, highest_txid(shipper, txid));
	if (rc == 0) {
		admit_waiting(shipper);
	}
	return rc;
}

/* ---- capture ---- */

static int advance(struct shipper *shipper)
{
	int rc = CAPTURE_LATER;
	for (int i = 0; rc == CAPTURE_LATER && i < LATER_MAX; i++) {
		board_notice(shipper->board, &shipper->notice);
		rc = capture_advance(shipper->capture, &shipper->notice);
	}
	return rc == CAPTURE_LATER ? -EAGAIN : rc;
}

static uint64_t linger_us(struct shipper *shipper)
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
static int cut(struct shipper *shipper)
{
	struct record record;
	int rc = capture_cut(shipper->capture, shipper->writer, now_ms(), &record);
	if (rc == 0) {
		shipper->uncut_us = 0;
		shipper->report.uncut_since_ms = 0;
		offer_all(shipper);
	}
	return rc;
}

static int capture_step(struct shipper *shipper)
{
	const struct position *at = capture_at(shipper->capture);
	const struct position *last = capture_last_cut(shipper->capture);
	uint64_t now_us = clock_now_us();
	if (shipper->uncut_us == 0 && shipper->notice.commit_no > last->commit_no) {
		shipper->uncut_us = now_us;
		shipper->report.uncut_since_ms = now_ms();
		tell(shipper);
	}
	bool secure =
		board_wanted_spooled(shipper->board) > capture_secured_commit(shipper->capture);
	bool due = shipper->uncut_us != 0 &&
		(now_us - shipper->uncut_us >= linger_us(shipper) ||
			board_wanted_shipped(shipper->board) > last->commit_no ||
			board_stopping(shipper->board) ||
			capture_pending_pages(shipper->capture) >= PAGES_MAX);
	if (!secure && !due) {
		return 0;
	}
	int rc = advance(shipper);
	if (rc == 0 && secure) {
		rc = capture_secure(shipper->capture);
		tell(shipper);
	}
	if (rc == 0 && due && at->commit_no > last->commit_no) {
		rc = cut(shipper);
		tell(shipper);
	}
	return rc;
}

static void give_up_chain(struct shipper *shipper, const char *why)
{
	int rc = chain_break(shipper->options->spool);
	log_warn("the chain ends; a new one begins with all pages", log_str("reason", why));
	shipper->looked =
		rc == 0; /* else the gate stays closed: a restart would take it up again */
	shipper->chained = false;
	tell(shipper);
}

/* ---- images for those who lack something ---- */

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
	close_gate(shipper);
	if (capture_layout(shipper->capture, &plan.frames) != 0 ||
		snapshot_start(shipper->snapshot, &plan, kind, shipper->uploaders[index]) != 0) {
		page_map_finish(&plan.frames);
		board_gate_open(shipper->board);
	}
	tell(shipper);
}

/* One at a time, and only where nothing is pending: an image shows the end of a segment. */
static int see_to_images(struct shipper *shipper)
{
	int result = snapshot_take_result(shipper->snapshot);
	if (result == IMAGE_DIFFERS) {
		give_up_chain(shipper, "the database is not what its segments say");
		return 0;
	}
	if (result != 0) {
		shipper->image_again_us = clock_now_us() + IMAGE_AGAIN_MS * 1000ull;
	}
	if (!shipper->chained || snapshot_building(shipper->snapshot) ||
		board_stopping(shipper->board) || clock_now_us() < shipper->image_again_us) {
		return 0;
	}
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		struct uploader *uploader = shipper->uploaders[i];
		enum uploader_state state = uploader_state(uploader);
		bool lacks = state == UPLOADER_LACKING;
		bool due = state == UPLOADER_SHIPPING && uploader_confirmed(uploader) > 0 &&
			now_ms() - uploader_snapshot_ms(uploader) >
				(int64_t)shipper->options->snapshot_every_ms;
		if (!lacks && !due) {
			continue;
		}
		int rc = advance(shipper);
		if (rc == 0 && capture_pending_pages(shipper->capture) > 0) {
			rc = cut(shipper);
			tell(shipper);
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

/* ---- room ---- */

/* The number up to which every replica that may still want segments has them. */
static uint64_t confirmed_by_all(struct shipper *shipper)
{
	uint64_t least = UINT64_MAX;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		if (uploader_state(shipper->uploaders[i]) != UPLOADER_REFUSED) {
			uint64_t confirmed = uploader_confirmed(shipper->uploaders[i]);
			least = confirmed < least ? confirmed : least;
		}
	}
	return least;
}

static void trim(struct shipper *shipper, uint64_t bytes_max)
{
	CLEANUP_FREE struct spool_file *files = NULL;
	size_t count = 0;
	uint64_t bytes = 0;
	uint64_t dropped = 0;
	uint64_t confirmed = confirmed_by_all(shipper);
	if (spool_list(shipper->spool, SPOOL_SEGMENTS, &files, &count) != 0) {
		return;
	}
	for (size_t i = 0; i < count; i++) {
		bytes += files[i].bytes;
	}
	for (size_t i = 0; i < count; i++) {
		bool unused = files[i].max_txid <= confirmed && count - i > SEGMENTS_KEPT;
		if (!unused && bytes <= bytes_max) {
			break;
		}
		dropped += files[i].max_txid > confirmed;
		bytes -= files[i].bytes;
		(void)spool_remove(
			shipper->spool, SPOOL_SEGMENTS, files[i].min_txid, files[i].max_txid);
	}
	if (dropped > 0) {
		log_warn("segments were dropped before they were shipped: no restore points "
			 "there, and a whole image follows",
			log_uint("segments", dropped));
	}
	shipper->report.spool_bytes = bytes;
}

/* ---- the loop ---- */

static void failed(struct shipper *shipper, int rc)
{
	if (rc == CAPTURE_BROKEN) {
		give_up_chain(shipper, capture_why(shipper->capture));
		return;
	}
	if (rc == -EAGAIN || rc == -ECANCELED) {
		return;
	}
	char text[NOTICE_TEXT_BYTES];
	snprintf(text, sizeof(text), "%s: %s", shipper->options->spool, strerror(-rc));
	trouble(shipper, text);
	shipper->failed_us = clock_now_us();
	shipper->failures++;
	if (rc == -ENOSPC) {
		trim(shipper, 0);
	}
	if (shipper->failures >= FAILURES_MAX && shipper->chained) {
		give_up_chain(shipper, text);
	}
}

static bool everything_shipped(struct shipper *shipper)
{
	uint64_t newest = capture_last_cut(shipper->capture)->txid;
	if (shipper->chained &&
		capture_last_cut(shipper->capture)->commit_no < shipper->notice.commit_no) {
		return false;
	}
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		if (uploader_state(shipper->uploaders[i]) != UPLOADER_REFUSED &&
			(!shipper->chained || uploader_confirmed(shipper->uploaders[i]) < newest)) {
			return false;
		}
	}
	return true;
}

static int sleep_time_ms(struct shipper *shipper, bool *ret_idle)
{
	*ret_idle = !shipper->chained || shipper->uncut_us == 0;
	if (*ret_idle || shipper->failed_us != 0) {
		return IDLE_MS;
	}
	uint64_t due_us = shipper->uncut_us + linger_us(shipper);
	uint64_t now_us = clock_now_us();
	return due_us > now_us ? (int)((due_us - now_us) / 1000) + 1 : 0;
}

static void step(struct shipper *shipper)
{
	board_notice(shipper->board, &shipper->notice);
	if (shipper->failed_us != 0 && clock_now_us() - shipper->failed_us < IDLE_MS * 1000ull) {
		return;
	}
	if (shipper->notice.breaks != shipper->breaks) {
		shipper->breaks = shipper->notice.breaks;
		give_up_chain(shipper, "the funnel has taken it away");
	}
	int rc = see_to_chain(shipper);
	rc = rc == 0 && shipper->chained ? capture_step(shipper) : rc;
	rc = rc == 0 ? see_to_images(shipper) : rc;
	if (rc != 0) {
		failed(shipper, rc);
	} else if (shipper->failed_us != 0) {
		shipper->failed_us = 0;
		shipper->failures = 0;
		trouble(shipper, "");
	}
	if (clock_now_us() - shipper->trimmed_us > IDLE_MS * 1000ull) {
		shipper->trimmed_us = clock_now_us();
		trim(shipper, shipper->options->spool_bytes_max);
		tell(shipper);
	}
}

static int loop(struct shipper *shipper)
{
	for (;;) {
		bool idle = true;
		bool stopping =
			board_stopping(shipper->board); /* then the notice is the last one */
		step(shipper);
		if (stopping && everything_shipped(shipper)) {
			shipper->report.stopped = true;
			tell(shipper);
			return 0;
		}
		int ms = sleep_time_ms(shipper, &idle);
		if (board_sleep(shipper->board, shipper->options->parent_fd, ms, idle,
			    &shipper->notice) < 0) {
			/*
			 * The funnel is gone. Whoever comes next takes up the chain from the spool;
			 * nothing of this process is worth a careful end.
			 */
			_exit(0);
		}
	}
}

/* What a shipper left that died between a segment and the position that makes it count. */
static void drop_uncounted(struct shipper *shipper)
{
	CLEANUP_FREE struct spool_file *files = NULL;
	size_t count = 0;
	uint64_t last = shipper->chained ? capture_last_cut(shipper->capture)->txid : 0;
	if (spool_list(shipper->spool, SPOOL_SEGMENTS, &files, &count) != 0) {
		return;
	}
	for (size_t i = 0; i < count; i++) {
		if (files[i].max_txid > last) {
			(void)spool_remove(shipper->spool, SPOOL_SEGMENTS, files[i].min_txid,
				files[i].max_txid);
		}
	}
}

static void drop_images(struct shipper *shipper)
{
	CLEANUP_FREE struct spool_file *files = NULL;
	size_t count = 0;
	uint64_t last = shipper->chained ? capture_last_cut(shipper->capture)->txid : 0;
	if (spool_list(shipper->spool, SPOOL_IMAGES, &files, &count) != 0) {
		return;
	}
	for (size_t i = 0; i < count; i++) {
		/* The first file of the chain is still wanted; others are made again if need be. */
		if (files[i].max_txid > last || files[i].min_txid != files[i].max_txid) {
			(void)spool_remove(
				shipper->spool, SPOOL_IMAGES, files[i].min_txid, files[i].max_txid);
		}
	}
}

static int wait_for_notice(struct shipper *shipper)
{
	struct notice none = {.commit_no = 0};
	while (!board_notice(shipper->board, &shipper->notice)) {
		if (board_sleep(shipper->board, shipper->options->parent_fd, IDLE_MS, true, &none) <
				0 ||
			board_stopping(shipper->board)) {
			return -ECANCELED;
		}
	}
	return 0;
}

static int set_up(struct shipper *shipper)
{
	const struct shipper_options *options = shipper->options;
	if (getrandom(shipper->writer, sizeof(shipper->writer), 0) !=
		(ssize_t)sizeof(shipper->writer)) {
		return -EIO;
	}
	int rc = spool_open(options->spool, &shipper->spool);
	if (rc == SPOOL_LOCKED) {
		/* The last one is about to end: its parent is gone. */
		rc = -EBUSY;
	}
	rc = rc == 0 ? spool_add_writer(shipper->spool, shipper->writer) : rc;
	rc = rc == 0 ? wait_for_notice(shipper) : rc;
	rc = rc == 0 ? capture_new(options->db, shipper->spool, shipper->notice.page_size,
			       options->sync_wal, &shipper->capture)
		     : rc;
	rc = rc == 0 ? snapshot_new(shipper->board, &shipper->snapshot) : rc;
	if (rc != 0) {
		return rc;
	}
	shipper->breaks = shipper->notice.breaks;
	rc = capture_resume(shipper->capture);
	shipper->chained = rc == 0;
	if (rc == CAPTURE_BROKEN) {
		log_info("no chain to continue", log_str("reason", capture_why(shipper->capture)));
		rc = chain_break(shipper->options->spool);
	}
	shipper->looked = rc == 0;
	if (rc == 0) {
		drop_uncounted(shipper);
		drop_images(shipper);
		tell(shipper);
		rc = start_uploaders(shipper);
	}
	return rc;
}

int shipper_run(const struct shipper_options *options)
{
	struct shipper shipper = {
		.options = options,
		.board = options->board,
		.started_us = clock_now_us(),
	};
	int rc = set_up(&shipper);
	if (rc < 0 && rc != -ECANCELED) {
		if (shipper.report.trouble[0] == 0) {
			char text[NOTICE_TEXT_BYTES];
			snprintf(text, sizeof(text), "%s: %s", options->spool, strerror(-rc));
			trouble(&shipper, text);
		}
	}
	rc = rc == 0 ? loop(&shipper) : rc;
	snapshot_free(shipper.snapshot); /* it hands its image to an uploader */
	for (size_t i = 0; i < shipper.uploaders_count; i++) {
		uploader_free(shipper.uploaders[i]);
	}
	capture_free(shipper.capture);
	spool_free(shipper.spool);
	return rc;
}
