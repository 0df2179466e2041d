/* SPDX-License-Identifier: MIT */

/*
 * A thread that looks every few seconds whether something is due. It asks nothing of a replica in
 * which nothing has changed, and ever less often of one that fails.
 */

#include "server/ship/keeper.h"

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/ship/backoff.h"
#include "server/ship/compact.h"
#include "server/ship/retain.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	LOOK_MS = 5000,
	LOG_AGAIN_MS = 60 * 60 * 1000,
	KEEP_PERIODS = 10,  /* of level 0 */
	FAILED_PERIODS = 2, /* until one that failed is tried again, and a back-off */
	BACKOFF_MS = 100,
	BACKOFF_MAX_MS = 60 * 1000, /* nothing but the bill depends on it */
};
static const uint64_t level_periods[COMPACT_LEVELS] = {1, 10, 120};

struct keeper {
	struct keeper_options options;
	struct replica *replica;
	struct compact *compact;
	pthread_t thread;
	pthread_mutex_t lock; /* guards `stopping` */
	pthread_cond_t wake;
	bool stopping;
	uint64_t begun_anew; /* as far as is known here */
	int64_t retained_ms; /* the snapshot after which retention was done */
	int64_t logged_ms;
	unsigned failures; /* in a row */
};

static int take_local(void *ctx, uint64_t min_txid, uint64_t max_txid, int *ret_fd)
{
	struct keeper *keeper = ctx;
	struct record record;
	uint64_t bytes = 0;
	return spool_get(
		keeper->options.spool, SPOOL_SEGMENTS, min_txid, max_txid, ret_fd, &bytes, &record);
}

static int retain(struct keeper *keeper, const struct keeper_facts *facts, int64_t now_ms,
	struct replica_error *error)
{
	struct retain_options options = {
		.replica = keeper->replica, .retention_ms = keeper->options.retention_ms};
	struct retain_result result;
	memcpy(options.writer, keeper->options.writer, sizeof options.writer);
	int rc = retain_pass(&options, facts->confirmed, now_ms, &result, error);
	if (result.removed > 0) {
		compact_forget_known(keeper->compact);
		log_info("retention", log_str("replica", replica_url(keeper->replica)),
			log_uint("removed", result.removed),
			log_uint("bytes", result.removed_bytes));
	}
	if (rc == 0) {
		keeper->retained_ms = facts->snapshot_ms;
	}
	return rc;
}

static int look_after(struct keeper *keeper, struct replica_error *error)
{
	const struct keeper_facts facts = keeper->options.facts(keeper->options.ctx);
	int64_t now_ms = (int64_t)(clock_wall_us() / 1000);
	if (!facts.ours) {
		return 0;
	}
	if (facts.begun_anew != keeper->begun_anew) {
		keeper->begun_anew = facts.begun_anew;
		compact_forget(keeper->compact);
		replica_forget(keeper->replica);
	}
	bool vanished = replica_vanished(keeper->replica);
	keeper->options.lost(keeper->options.ctx, vanished, false);
	if (vanished) {
		return 0;
	}
	int rc = compact_pass(keeper->compact, facts.confirmed, now_ms, error);
	if (rc != 0 && error->gone) {
		replica_forget(keeper->replica); /* it makes no directory for what is not there */
		vanished = replica_vanished(keeper->replica);
		keeper->options.lost(keeper->options.ctx, vanished, !vanished);
		return 0; /* said by the uploader */
	}
	if (rc == 0 && facts.snapshot_ms != keeper->retained_ms) {
		rc = retain(keeper, &facts, now_ms, error);
	}
	/* We may just have got further: the uploader finds out whether it was somebody else. */
	return rc == REPLICA_EXISTS ? 0 : rc;
}

static void say(struct keeper *keeper, int rc, const struct replica_error *error)
{
	int64_t now_ms = (int64_t)(clock_wall_us() / 1000);
	if (keeper->logged_ms == 0 || now_ms - keeper->logged_ms > LOG_AGAIN_MS) {
		keeper->logged_ms = now_ms;
		log_warn("a replica cannot be compacted",
			log_str("replica", replica_url(keeper->replica)),
			log_str("error", error->text[0] != '\0' ? error->text : strerror(-rc)));
	}
}

/* To be interrupted at its end is no failure. */
static bool stopping(struct keeper *keeper)
{
	pthread_mutex_lock(&keeper->lock);
	bool stopping = keeper->stopping;
	pthread_mutex_unlock(&keeper->lock);
	return stopping;
}

/* False: it is to end. */
static bool rest(struct keeper *keeper, uint64_t ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&keeper->lock);
	while (!keeper->stopping &&
		pthread_cond_timedwait(&keeper->wake, &keeper->lock, &until) == 0) {
	}
	bool go_on = !keeper->stopping;
	pthread_mutex_unlock(&keeper->lock);
	return go_on;
}

static void *keeper_main(void *ctx)
{
	struct keeper *keeper = ctx;
	uint64_t every_ms = keeper->options.compact_every_ms;
	uint64_t look_ms = every_ms < LOOK_MS ? every_ms : LOOK_MS;
	uint64_t ms = look_ms;
	while (rest(keeper, ms)) {
		struct replica_error error = {.text = ""};
		int rc = look_after(keeper, &error);
		if (rc == 0) {
			keeper->logged_ms = 0;
			keeper->failures = 0;
			ms = look_ms;
			continue;
		}
		if (stopping(keeper)) {
			break;
		}
		say(keeper, rc, &error);
		ms = every_ms * FAILED_PERIODS + error.retry_after_ms +
			backoff_ms(keeper->failures++, BACKOFF_MS, BACKOFF_MAX_MS);
	}
	return NULL;
}

static int set_up(struct keeper *keeper)
{
	struct replica_error error;
	struct compact_options options = {
		.dir = spool_dir(keeper->options.spool), .local = take_local, .ctx = keeper};
	uint64_t every_ms = keeper->options.compact_every_ms;
	for (int i = 0; i < COMPACT_LEVELS; i++) {
		options.every_ms[i] = every_ms * level_periods[i];
	}
	options.keep_level0_ms = every_ms * KEEP_PERIODS;
	int rc = replica_open(keeper->options.url, &keeper->replica, &error);
	if (rc != 0) {
		return rc;
	}
	options.replica = keeper->replica;
	memcpy(options.writer, keeper->options.writer, sizeof options.writer);
	rc = compact_new(&options, &keeper->compact);
	return rc == 0 ? -pthread_create(&keeper->thread, NULL, keeper_main, keeper) : rc;
}

static void destroy(struct keeper *keeper)
{
	compact_free(keeper->compact);
	replica_free(keeper->replica);
	pthread_cond_destroy(&keeper->wake);
	pthread_mutex_destroy(&keeper->lock);
	free(keeper);
}

int keeper_start(const struct keeper_options *options, struct keeper **ret_keeper)
{
	struct keeper *keeper = calloc(1, sizeof *keeper);
	pthread_condattr_t monotonic;
	if (keeper == NULL) {
		return -ENOMEM;
	}
	keeper->options = *options;
	pthread_mutex_init(&keeper->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&keeper->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	int rc = set_up(keeper);
	if (rc != 0) {
		destroy(keeper);
		return rc;
	}
	*ret_keeper = keeper;
	return 0;
}

void keeper_free(struct keeper *keeper)
{
	if (keeper == NULL) {
		return;
	}
	pthread_mutex_lock(&keeper->lock);
	keeper->stopping = true;
	pthread_cond_broadcast(&keeper->wake);
	pthread_mutex_unlock(&keeper->lock);
	replica_interrupt(keeper->replica);
	pthread_join(keeper->thread, NULL);
	destroy(keeper);
}
