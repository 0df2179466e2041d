/* SPDX-License-Identifier: MIT */

/*
 * A busy writer is always ahead of the shipper, and SQLite cannot checkpoint a part of the WAL that
 * somebody names. So the writer stops for a moment, here, until the shipper has caught up. What it
 * must not do is wait for long: then the WAL grows a little more, and it comes back.
 */

#include "server/funnel/gate.h"

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/funnel/commit_clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
	WAIT_MS = 3, /* while the WAL is short there will be another moment */
	HAND_OVER_MS = 500,
	WAIT_MS_MAX = 1000, /* at a WAL of several hundred thresholds: it must not grow for ever */
	BREAK_THRESHOLDS =
		64, /* of WAL that no shipper has looked at: it will not come back soon */
};

struct gate {
	struct board *board;
	char *spool;
	uint64_t next_attempt; /* frames */
	uint64_t breaks;
	bool broken;          /* since the last shipper that said anything */
	_Atomic bool kept;    /* gate_keep() */
	pthread_mutex_t lock; /* guards what follows */
	struct gate_stats stats;
	struct commit_clock clock;
};

int gate_new(struct board *board, const char *spool, uint64_t commit_no, struct gate **ret_gate)
{
	struct gate *gate = calloc(1, sizeof(*gate));
	if (gate == NULL) {
		return -ENOMEM;
	}
	pthread_mutex_init(&gate->lock, NULL);
	gate->board = board;
	commit_clock_start(&gate->clock, commit_no, clock_now_us());
	gate->spool = strdup(spool);
	if (gate->spool == NULL) {
		gate_free(gate);
		return -ENOMEM;
	}
	*ret_gate = gate;
	return 0;
}

void gate_free(struct gate *gate)
{
	if (gate != NULL) {
		pthread_mutex_destroy(&gate->lock);
		free(gate->spool);
		free(gate);
	}
}

struct gate_stats gate_stats(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	struct gate_stats stats = gate->stats;
	pthread_mutex_unlock(&gate->lock);
	return stats;
}

void gate_date(struct gate *gate, const struct store *store)
{
	pthread_mutex_lock(&gate->lock);
	commit_clock_note(&gate->clock, store_commit_no(store), clock_now_us());
	pthread_mutex_unlock(&gate->lock);
}

void gate_committed(struct gate *gate, struct store *store)
{
	struct notice notice = {
		.commit_no = store_commit_no(store),
		.page_size = store_page_size(store),
		.committed_ms = (int64_t)(clock_wall_us() / 1000),
		.breaks = gate->breaks,
	};
	struct wal_end end;
	memcpy(notice.epoch, store_epoch(store), sizeof(notice.epoch));
	int rc = store_wal_end(store, &end);
	if (rc != 0) {
		/* The shipper goes by the next one; nothing is checkpointed in between. */
		log_warn("cannot read the end of the WAL", log_str("error", strerror(-rc)));
		return;
	}
	notice.frames = end.frames;
	notice.pages = end.pages;
	memcpy(notice.salt, end.salt, sizeof(notice.salt));
	memcpy(notice.checksum, end.checksum, sizeof(notice.checksum));
	board_tell(gate->board, &notice);
	board_nudge_shipper(gate->board);
}

struct gate_arrears gate_arrears(struct gate *gate, const struct replica_report *report)
{
	struct gate_arrears arrears = {.behind = 0};
	uint64_t now_ms = clock_wall_us() / 1000;
	bool known = false;
	pthread_mutex_lock(&gate->lock);
	uint64_t newest = gate->clock.newest;
	/* Numbers beyond the newest are of another history. */
	bool had = report->had_commit_no <= newest;
	uint64_t commit_no = had ? report->had_commit_no : 0;
	uint64_t had_ms = had && report->had_ms > 0 ? (uint64_t)report->had_ms : 0;
	if (report->commit_no < newest) {
		arrears.behind = newest - report->commit_no;
		arrears.lag_ms =
			commit_clock_age(&gate->clock, commit_no + 1, clock_now_us(), &known) /
			1000;
	}
	pthread_mutex_unlock(&gate->lock);
	if (arrears.behind > 0 && !known && had_ms != 0 && now_ms > had_ms + arrears.lag_ms) {
		arrears.lag_ms = now_ms - had_ms;
	}
	return arrears;
}

static void count_wait(struct gate *gate, uint64_t us, bool reached)
{
	pthread_mutex_lock(&gate->lock);
	struct gate_stats *stats = &gate->stats;
	stats->waits++;
	stats->waited_us += us;
	stats->waited_max_us = us > stats->waited_max_us ? us : stats->waited_max_us;
	stats->skipped += !reached;
	pthread_mutex_unlock(&gate->lock);
}

static bool put_off(struct gate *gate, uint64_t frames, uint64_t threshold)
{
	gate->next_attempt = frames + threshold / 4 + 1;
	return false;
}

/*
 * No shipper stays alive. The chain is taken away first, durably; only then may frames go that
 * nobody has read. The next shipper begins with all pages.
 */
static bool give_up_chain(struct gate *gate, const struct store *store)
{
	int rc = chain_break(gate->spool);
	if (rc != 0) {
		return false;
	}
	struct notice notice;
	gate->breaks++;
	gate->broken = true;
	board_notice(gate->board, &notice);
	notice.breaks = gate->breaks;
	board_tell(gate->board, &notice);
	log_error("no shipper stays alive: its chain is given up so that the WAL does not grow for "
		  "ever",
		log_uint("commit", store_commit_no(store)));
	pthread_mutex_lock(&gate->lock);
	gate->stats.breaks++;
	pthread_mutex_unlock(&gate->lock);
	return true;
}

/* True: the spool has everything up to this commit, or there is nothing to be lost. */
static bool wait_for_spool(struct gate *gate, const struct store *store, uint64_t wait_ms)
{
	uint64_t commit_no = store_commit_no(store);
	struct ship_report report = board_ship_report(gate->board);
	if (report.known && (!report.chained || report.spooled_commit >= commit_no)) {
		return true;
	}
	uint64_t began_us = clock_now_us();
	uint64_t until_us = began_us + wait_ms * 1000;
	board_want_spooled(gate->board, commit_no);
	board_wake_shipper(gate->board);
	bool reached = false;
	for (uint64_t now_us = began_us; !reached && now_us < until_us; now_us = clock_now_us()) {
		(void)board_wait_gate(gate->board, (int)((until_us - now_us) / 1000) + 1);
		report = board_ship_report(gate->board);
		reached = report.known && (!report.chained || report.spooled_commit >= commit_no);
	}
	count_wait(gate, clock_now_us() - began_us, reached);
	return reached;
}

void gate_hand_over(struct gate *gate, const struct store *store)
{
	(void)wait_for_spool(gate, store, HAND_OVER_MS);
}

bool gate_enter(struct gate *gate, const struct store *store, uint64_t threshold)
{
	uint64_t frames = store_checkpoint_stats(store).wal_frames;
	uint64_t excess_ms = frames / threshold * WAIT_MS;
	if (frames < gate->next_attempt && gate->next_attempt - frames <= threshold) {
		return false; /* unless the WAL has started over since */
	}
	gate->next_attempt = 0;
	if (atomic_load(&gate->kept)) {
		return put_off(gate, frames, threshold);
	}
	struct ship_report report = board_ship_report(gate->board);
	gate->broken = gate->broken && !report.known;
	if (!report.known && !gate->broken &&
		(frames < BREAK_THRESHOLDS * threshold || !give_up_chain(gate, store))) {
		return put_off(gate, frames, threshold);
	}
	if (report.known &&
		!wait_for_spool(gate, store, excess_ms < WAIT_MS_MAX ? excess_ms : WAIT_MS_MAX)) {
		return put_off(gate, frames, threshold);
	}
	if (!board_gate_enter(gate->board)) {
		pthread_mutex_lock(&gate->lock);
		gate->stats.skipped++;
		pthread_mutex_unlock(&gate->lock);
		return put_off(gate, frames, threshold);
	}
	/* A new chain may have begun between the answer and the door. */
	report = board_ship_report(gate->board);
	if (report.known && report.chained && report.spooled_commit < store_commit_no(store)) {
		board_gate_leave(gate->board);
		return put_off(gate, frames, threshold);
	}
	return true;
}

void gate_keep(struct gate *gate)
{
	atomic_store(&gate->kept, true);
}

void gate_let_go(struct gate *gate)
{
	atomic_store(&gate->kept, false);
}

void gate_again(struct gate *gate)
{
	gate->next_attempt = 0;
}

void gate_leave(struct gate *gate)
{
	board_gate_leave(gate->board);
}
