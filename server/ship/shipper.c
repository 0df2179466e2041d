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

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/ship/replica.h"
#include "server/ship/shipper_inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	IDLE_MS = 1000,
	FAILURES_MAX = 10, /* of capture, a second each, before the chain is given up */
};

int64_t shipper_now_ms(void)
{
	return (int64_t)(clock_wall_us() / 1000);
}

/* ---- telling ---- */

void shipper_tell(struct shipper *shipper)
{
	struct ship_report *report = &shipper->report;
	report->known = true;
	/* Until it is known whether there is a chain, the gate must hold as if there were one. */
	report->chained = shipper->chained || !shipper->looked;
	report->building = shipper->snapshot != NULL && snapshot_building(shipper->snapshot);
	if (shipper->chained) {
		report->spooled_commit = capture_secured_commit(shipper->capture);
		report->segments = capture_last_cut(shipper->capture)->txid;
		report->cut_commit = capture_last_cut(shipper->capture)->commit_no;
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
	shipper_tell(shipper);
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
			trouble(shipper, "more than 8 replicas: the others get nothing");
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
			.compact_every_ms = shipper->options->compact_every_ms,
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

bool shipper_any_in(struct shipper *shipper, enum uploader_state state)
{
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		if (uploader_state(shipper->uploaders[i]) == state) {
			return true;
		}
	}
	return false;
}

/* ---- the loop ---- */

static void failed(struct shipper *shipper, int rc)
{
	if (rc == CAPTURE_BROKEN) {
		shipper_give_up_chain(shipper, capture_why(shipper->capture));
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
		shipper_trim(shipper, 0);
	}
	if (shipper->failures >= FAILURES_MAX && shipper->chained) {
		shipper_give_up_chain(shipper, text);
	}
}

/* A small database gets its first image even in a stop; a large one says in the middle that it cannot. */
static bool chain_may_begin(struct shipper *shipper)
{
	bool may = false;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		enum uploader_state state = uploader_state(shipper->uploaders[i]);
		may |= state == UPLOADER_LOOKING && !uploader_fails(shipper->uploaders[i]);
		may |= state == UPLOADER_WAITING;
	}
	return may && !shipper->image_put_off && !board_paused(shipper->board);
}

/*
 * A stop waits for segments that are on their way, and for nothing that needs an image: none is begun
 * any more, and the next start makes it.
 */
static bool nothing_to_wait_for(struct shipper *shipper)
{
	const struct position *last = capture_last_cut(shipper->capture);
	if (!shipper->chained) {
		return !chain_may_begin(shipper);
	}
	if (last->commit_no < shipper->notice.commit_no) {
		return false;
	}
	for (size_t i = 0; !board_paused(shipper->board) && i < shipper->uploaders_count; i++) {
		enum uploader_state state = uploader_state(shipper->uploaders[i]);
		if (state != UPLOADER_REFUSED && state != UPLOADER_LACKING &&
			!uploader_gone(shipper->uploaders[i]) &&
			uploader_confirmed(shipper->uploaders[i]) < last->txid) {
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
	uint64_t due_us = shipper->uncut_us + shipper_linger_us(shipper);
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
		shipper_give_up_chain(shipper, "the funnel has taken it away");
	}
	int rc = shipper_see_to_chain(shipper);
	rc = rc == 0 && shipper->chained ? shipper_capture_step(shipper) : rc;
	rc = rc == 0 ? shipper_see_to_images(shipper) : rc;
	if (rc != 0) {
		failed(shipper, rc);
	} else if (shipper->failed_us != 0) {
		shipper->failed_us = 0;
		shipper->failures = 0;
		trouble(shipper, "");
	}
	if (clock_now_us() - shipper->trimmed_us > IDLE_MS * 1000ull) {
		shipper->trimmed_us = clock_now_us();
		shipper_trim(shipper, shipper->options->spool_bytes_max);
		shipper_trim_images(shipper);
		shipper_tell(shipper);
	}
}

static int loop(struct shipper *shipper)
{
	for (;;) {
		bool idle = true;
		bool stopping =
			board_stopping(shipper->board); /* then the notice is the last one */
		step(shipper);
		if (stopping && nothing_to_wait_for(shipper)) {
			shipper->report.stopped = true;
			shipper_tell(shipper);
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

/* ---- life ---- */

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
	replica_count_usage(options->spool);
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
	shipper->found = shipper->chained;
	if (rc == CAPTURE_BROKEN) {
		log_info("no chain to continue", log_str("reason", capture_why(shipper->capture)));
		rc = capture_end_chain(shipper->capture);
	}
	shipper->looked = rc == 0;
	if (rc == 0) {
		shipper_drop_uncounted(shipper);
		shipper_drop_images(shipper);
		shipper_tell(shipper);
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
