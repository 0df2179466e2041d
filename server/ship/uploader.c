/* SPDX-License-Identifier: MIT */

/*
 * A thread that brings one replica what the spool holds. It waits out every outage; only a replica
 * that turns out to be somebody else's ends it.
 */

#include "server/ship/uploader.h"

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/ship/backoff.h"
#include "server/ship/uploader_inside.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BACKOFF_MS = 100, LOG_AGAIN_MS = 60000 };

int64_t uploader_now_ms(void)
{
	return (int64_t)(clock_wall_us() / 1000);
}

/* ---- what others ask ---- */

enum uploader_state uploader_state(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	enum uploader_state state = uploader->state;
	pthread_mutex_unlock(&uploader->lock);
	return state;
}

bool uploader_fails(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	bool fails = uploader->report.state == REPLICA_FAILING;
	pthread_mutex_unlock(&uploader->lock);
	return fails;
}

bool uploader_gone(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	bool gone = uploader->report.gone;
	pthread_mutex_unlock(&uploader->lock);
	return gone;
}

bool uploader_awaited(struct uploader *uploader)
{
	char name[SPOOL_USED_BYTES];
	return uploader_state(uploader) == UPLOADER_LOOKING &&
		(!uploader_fails(uploader) ||
			spool_was_used(
				uploader->options.spool, replica_url(uploader->replica), name));
}

struct chain_head uploader_head(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	struct chain_head head = uploader->head;
	pthread_mutex_unlock(&uploader->lock);
	return head;
}

uint64_t uploader_confirmed(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	uint64_t confirmed = uploader->confirmed;
	pthread_mutex_unlock(&uploader->lock);
	return confirmed;
}

int64_t uploader_snapshot_ms(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	int64_t snapshot_ms = uploader->snapshot_ms;
	pthread_mutex_unlock(&uploader->lock);
	return snapshot_ms;
}

/* ---- what is told; the lock is held ---- */

void uploader_publish(struct uploader *uploader)
{
	struct replica_report *report = &uploader->report;
	struct replica_stats stats = {.bytes_sent = 0};
	if (uploader->replica != NULL) {
		stats = replica_stats(uploader->replica);
	}
	report->requests = 0;
	for (size_t i = 0; i < sizeof(stats.requests) / sizeof(stats.requests[0]); i++) {
		report->requests += stats.requests[i];
	}
	report->bytes_sent = stats.bytes_sent;
	report->txid = uploader->confirmed;
	report->waiting =
		uploader->newest > uploader->confirmed ? uploader->newest - uploader->confirmed : 0;
	board_report_replica(uploader->options.board, uploader->options.index, report);
	board_wake_loop(uploader->options.board);
}

void uploader_note_had(struct uploader *uploader, uint64_t commit_no, int64_t committed_ms)
{
	struct spool_had had = {.commit_no = commit_no, .committed_ms = committed_ms};
	uploader->report.had_commit_no = commit_no;
	uploader->report.had_ms = committed_ms;
	int rc = spool_note_had(uploader->options.spool, replica_url(uploader->replica), &had);
	if (rc != 0) {
		log_debug("not noted what a replica has", log_str("replica", uploader->report.url),
			log_str("error", strerror(-rc)));
	}
}

void uploader_move(struct uploader *uploader, enum uploader_state state)
{
	static const unsigned allowed[] = {
		[UPLOADER_LOOKING] = 1u << UPLOADER_WAITING | 1u << UPLOADER_REFUSED,
		[UPLOADER_WAITING] = 1u << UPLOADER_SHIPPING | 1u << UPLOADER_REFUSED,
		[UPLOADER_SHIPPING] = 1u << UPLOADER_LACKING | 1u << UPLOADER_REFUSED,
		[UPLOADER_LACKING] = 1u << UPLOADER_SHIPPING | 1u << UPLOADER_REFUSED,
		[UPLOADER_REFUSED] = 0,
	};
	assert((allowed[uploader->state] & 1u << state) != 0);
	uploader->state = state;
}

static void refuse(struct uploader *uploader, const char *reason)
{
	if (uploader->state == UPLOADER_REFUSED) {
		return;
	}
	uploader_move(uploader, UPLOADER_REFUSED);
	uploader->report.state = REPLICA_REFUSED;
	snprintf(uploader->report.error, sizeof(uploader->report.error), "%s", reason);
	log_error("replica refused", log_str("replica", uploader->report.url),
		log_str("error", reason));
	uploader_publish(uploader);
	pthread_cond_broadcast(&uploader->wake);
}

void uploader_begin(struct uploader *uploader, uint64_t confirmed, bool apart,
	const uint8_t epoch[RECORD_ID_BYTES])
{
	pthread_mutex_lock(&uploader->lock);
	if (uploader->state == UPLOADER_WAITING) {
		uploader->confirmed = confirmed;
		uploader->apart = apart;
		const struct record *record = &uploader->head.record;
		bool same = uploader->head.known &&
			memcmp(record->epoch, epoch, sizeof(record->epoch)) == 0;
		uploader->report.commit_no = same ? record->commit_last : 0;
		if (same) {
			uploader_note_had(uploader, record->commit_last, record->committed_ms);
		} else if (!uploader->head.known) {
			uploader_note_had(uploader, 0, 0);
		}
		uploader->report.percent = same ? 100 : 0;
		uploader_move(uploader, UPLOADER_SHIPPING);
		uploader->report.state = REPLICA_SHIPPING;
		uploader_publish(uploader);
		pthread_cond_broadcast(&uploader->wake);
	}
	pthread_mutex_unlock(&uploader->lock);
}

void uploader_refuse(struct uploader *uploader, const char *reason)
{
	pthread_mutex_lock(&uploader->lock);
	refuse(uploader, reason);
	pthread_mutex_unlock(&uploader->lock);
}

void uploader_offer(struct uploader *uploader, uint64_t newest)
{
	pthread_mutex_lock(&uploader->lock);
	uploader->newest = newest > uploader->newest ? newest : uploader->newest;
	uploader_publish(uploader); /* before the shipper says that all is cut */
	pthread_cond_broadcast(&uploader->wake);
	pthread_mutex_unlock(&uploader->lock);
}

void uploader_supply(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	if (uploader->state == UPLOADER_LACKING) {
		uploader_move(uploader, UPLOADER_SHIPPING);
		pthread_cond_broadcast(&uploader->wake);
	}
	pthread_mutex_unlock(&uploader->lock);
}

void uploader_progress(struct uploader *uploader, uint64_t percent)
{
	pthread_mutex_lock(&uploader->lock);
	if (uploader->report.commit_no == 0 && uploader->report.percent != percent) {
		uploader->report.percent = percent;
		uploader_publish(uploader);
	}
	pthread_mutex_unlock(&uploader->lock);
}

/* ---- failing and waiting ---- */

bool uploader_stopping(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	bool stop = uploader->stopping || uploader->state == UPLOADER_REFUSED;
	pthread_mutex_unlock(&uploader->lock);
	return stop;
}

/* Sleeps, unless somebody wants the thread to end. The lock is held. */
void uploader_sleep_ms(struct uploader *uploader, uint64_t ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!uploader->stopping &&
		pthread_cond_timedwait(&uploader->wake, &uploader->lock, &until) == 0) {
	}
}

/* A request failed in a way that may pass: says so once in a while, waits, with full jitter. */
void uploader_wait_out(struct uploader *uploader, const struct replica_error *error)
{
	uint64_t ms = error->retry_after_ms +
		backoff_ms(uploader->failures, BACKOFF_MS, UPLOADER_BACKOFF_MAX_MS);
	if (uploader_stopping(uploader)) {
		return;
	}
	uploader->failures++;
	if (uploader->logged_ms == 0 || uploader_now_ms() - uploader->logged_ms > LOG_AGAIN_MS) {
		uploader->logged_ms = uploader_now_ms();
		log_warn("replica fails", log_str("replica", uploader->report.url),
			log_str("error", error->text));
	}
	pthread_mutex_lock(&uploader->lock);
	if (uploader->report.state != REPLICA_FAILING) {
		uploader->report.failing_since_ms = uploader_now_ms();
		uploader->report.state = REPLICA_FAILING;
		uploader->options.changed(
			uploader->options.ctx); /* whoever waits for it need not */
	}
	uploader->report.gone = error->gone;
	snprintf(uploader->report.error, sizeof(uploader->report.error), "%s", error->text);
	uploader_publish(uploader);
	uploader_sleep_ms(uploader, ms);
	pthread_mutex_unlock(&uploader->lock);
}

void uploader_works_again(struct uploader *uploader)
{
	if (uploader->failures > 0 && uploader->logged_ms != 0) {
		log_info("replica works again", log_str("replica", uploader->report.url));
	}
	uploader->failures = 0;
	uploader->logged_ms = 0;
	uploader->report.gone = false;
	if (uploader->report.state == REPLICA_FAILING) {
		uploader->report.state =
			uploader->state == UPLOADER_SHIPPING ? REPLICA_SHIPPING : REPLICA_STARTING;
		uploader->report.failing_since_ms = 0;
	}
}

/* ---- the thread ---- */

/* Waits until there is something to ship. False: stop. */
static bool wait_for_work(struct uploader *uploader, uint64_t *ret_confirmed)
{
	pthread_mutex_lock(&uploader->lock);
	for (;;) {
		bool paused = board_paused(uploader->options.board);
		if (uploader->stopping || uploader->state == UPLOADER_REFUSED) {
			break;
		}
		if (uploader->state == UPLOADER_SHIPPING && !paused &&
			uploader->newest > uploader->confirmed) {
			break;
		}
		if (paused) {
			uploader_sleep_ms(uploader, BACKOFF_MS);
		} else {
			pthread_cond_wait(&uploader->wake, &uploader->lock);
		}
	}
	bool go_on = !uploader->stopping && uploader->state != UPLOADER_REFUSED;
	*ret_confirmed = uploader->confirmed;
	pthread_mutex_unlock(&uploader->lock);
	return go_on;
}

static void *uploader_main(void *ctx)
{
	struct uploader *uploader = ctx;
	struct replica_error error = {.text = ""};
	int rc = REPLICA_AGAIN;
	while (rc != 0 && !uploader_stopping(uploader)) {
		if (board_paused(uploader->options.board)) {
			pthread_mutex_lock(&uploader->lock);
			uploader_sleep_ms(uploader, BACKOFF_MS);
			pthread_mutex_unlock(&uploader->lock);
			continue;
		}
		error = (struct replica_error){.text = ""};
		rc = uploader_look(uploader, &error);
		if (rc == REPLICA_EXISTS || rc == REPLICA_UNFENCED) {
			uploader_refuse(uploader, error.text);
		} else if (rc != 0) {
			uploader_wait_out(uploader, &error);
		}
	}
	uploader->options.changed(uploader->options.ctx);
	uint64_t confirmed = 0;
	while (wait_for_work(uploader, &confirmed)) {
		uploader_ship_next(uploader, confirmed);
	}
	return NULL;
}

/* ---- life ---- */

static struct keeper_facts facts_for_keeper(void *ctx)
{
	struct uploader *uploader = ctx;
	pthread_mutex_lock(&uploader->lock);
	struct keeper_facts facts = {
		.ours = uploader->state == UPLOADER_SHIPPING && uploader->confirmed > 0 &&
			!board_paused(uploader->options.board),
		.confirmed = uploader->confirmed,
		.begun_anew = uploader->begun_anew,
		.snapshot_ms = uploader->snapshot_ms,
	};
	pthread_mutex_unlock(&uploader->lock);
	return facts;
}

static int start_keeper(struct uploader *uploader)
{
	struct keeper_options options = {
		.url = uploader->url,
		.spool = uploader->options.spool,
		.retention_ms = uploader->options.retention_ms,
		.compact_every_ms = uploader->options.compact_every_ms,
		.facts = facts_for_keeper,
		.lost = uploader_lost,
		.ctx = uploader,
	};
	memcpy(options.writer, uploader->options.writer, sizeof(options.writer));
	return keeper_start(&options, &uploader->keeper);
}

/*
 * A URL that is none is this replica's affair alone: it is refused like one that is somebody else's.
 * Only the path of a directory is shown; anything else may hold a key.
 */
static void refuse_url(struct uploader *uploader, const char *reason)
{
	const char *url = uploader->url;
	const char *path = strstr(url, "://");
	size_t len = path != NULL ? (size_t)(path - url) + strlen("://") : 0;
	if (strncmp(url, "file://", strlen("file://")) == 0) {
		len = strcspn(url, "?#");
	}
	snprintf(uploader->report.url, sizeof(uploader->report.url), "%.*s%s", (int)len, url,
		url[len] != 0 ? "..." : "");
	pthread_mutex_lock(&uploader->lock);
	refuse(uploader, reason);
	pthread_mutex_unlock(&uploader->lock);
}

int uploader_start(const struct uploader_options *options, struct uploader **ret_uploader,
	char ret_error[NOTICE_TEXT_BYTES])
{
	struct uploader *uploader = calloc(1, sizeof(*uploader));
	struct replica_error error = {.text = ""};
	pthread_condattr_t monotonic;
	if (uploader == NULL) {
		return -ENOMEM;
	}
	uploader->options = *options;
	uploader->report.acks = options->acks;
	uploader->url = strdup(options->url);
	pthread_mutex_init(&uploader->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&uploader->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	int rc = uploader->url != NULL ? replica_open(uploader->url, &uploader->replica, &error)
				       : -ENOMEM;
	if (rc == -EINVAL) {
		refuse_url(uploader, error.text);
		*ret_uploader = uploader;
		return 0;
	}
	if (rc == 0) {
		snprintf(uploader->report.url, sizeof(uploader->report.url), "%s",
			replica_url(uploader->replica));
		struct spool_had had = spool_had(options->spool, replica_url(uploader->replica));
		uploader->report.had_commit_no = had.commit_no;
		uploader->report.had_ms = had.committed_ms;
		uploader_publish(uploader);
		rc = start_keeper(uploader);
	}
	if (rc == 0) {
		rc = -pthread_create(&uploader->thread, NULL, uploader_main, uploader);
	}
	if (rc != 0) {
		snprintf(ret_error, NOTICE_TEXT_BYTES, "%s",
			error.text[0] != 0 ? error.text : strerror(rc < 0 ? -rc : EINVAL));
		keeper_free(uploader->keeper);
		uploader->keeper = NULL;
		replica_free(uploader->replica);
		uploader->replica = NULL;
		uploader_free(uploader);
		return rc < 0 ? rc : -EINVAL;
	}
	*ret_uploader = uploader;
	return 0;
}

void uploader_free(struct uploader *uploader)
{
	if (uploader == NULL) {
		return;
	}
	if (uploader->replica != NULL) {
		pthread_mutex_lock(&uploader->lock);
		uploader->stopping = true;
		pthread_cond_broadcast(&uploader->wake);
		if (uploader->snapshot_replica != NULL) {
			replica_interrupt(uploader->snapshot_replica);
		}
		pthread_mutex_unlock(&uploader->lock);
		replica_interrupt(uploader->replica);
		keeper_free(uploader->keeper);
		pthread_join(uploader->thread, NULL);
		if (uploader->has_snapshot_thread) {
			pthread_join(uploader->snapshot_thread, NULL);
		}
		replica_free(uploader->replica);
	}
	pthread_mutex_destroy(&uploader->lock);
	pthread_cond_destroy(&uploader->wake);
	free(uploader->url);
	free(uploader);
}
