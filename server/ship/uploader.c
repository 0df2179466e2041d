/* SPDX-License-Identifier: MIT */

/*
 * A thread that brings one replica what the spool holds. It waits out every outage; only a replica
 * that turns out to be somebody else's ends it. Snapshots go up beside it, in a thread and over a
 * connection of their own, so that nobody waits for gigabytes.
 */

#include "server/ship/uploader.h"

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/ship/keeper.h"
#include "server/ship/replica.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { BACKOFF_MS = 100, BACKOFF_MAX_MS = 20000, LOG_AGAIN_MS = 60000, SNAPSHOT_TRIES = 10 };

struct uploader {
	struct uploader_options options;
	char *url; /* without ack=1 */
	struct replica *replica;
	pthread_t thread;
	pthread_t snapshot_thread;
	bool has_snapshot_thread;
	struct keeper *keeper; /* compaction and retention, beside it too */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wake;
	enum uploader_state state;
	bool stopping;
	struct chain_head head;
	int64_t snapshot_ms;
	uint64_t confirmed;
	uint64_t newest;
	uint64_t snapshot; /* txid of the image that is to go up as a snapshot; 0: none */
	struct replica_report report;

	unsigned failures; /* in a row; the thread's own */
	int64_t logged_ms;
};

static int64_t now_ms(void)
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

static void publish(struct uploader *uploader)
{
	struct replica_report *report = &uploader->report;
	struct replica_stats stats = replica_stats(uploader->replica);
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

static void move(struct uploader *uploader, enum uploader_state state)
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
	move(uploader, UPLOADER_REFUSED);
	uploader->report.state = REPLICA_REFUSED;
	snprintf(uploader->report.error, sizeof(uploader->report.error), "%s", reason);
	log_error("replica refused", log_str("replica", uploader->report.url),
		log_str("error", reason));
	publish(uploader);
	pthread_cond_broadcast(&uploader->wake);
}

void uploader_begin(
	struct uploader *uploader, uint64_t confirmed, const uint8_t epoch[RECORD_ID_BYTES])
{
	pthread_mutex_lock(&uploader->lock);
	if (uploader->state == UPLOADER_WAITING) {
		uploader->confirmed = confirmed;
		const struct record *record = &uploader->head.record;
		bool same = uploader->head.known &&
			memcmp(record->epoch, epoch, sizeof(record->epoch)) == 0;
		uploader->report.commit_no = same ? record->commit_last : 0;
		uploader->report.committed_ms = same ? record->committed_ms : 0;
		uploader->report.percent = same ? 100 : 0;
		move(uploader, UPLOADER_SHIPPING);
		uploader->report.state = REPLICA_SHIPPING;
		publish(uploader);
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
	if (uploader->report.waiting_since_ms == 0 && newest > uploader->confirmed) {
		uploader->report.waiting_since_ms = now_ms();
	}
	uploader->newest = newest > uploader->newest ? newest : uploader->newest;
	pthread_cond_broadcast(&uploader->wake);
	pthread_mutex_unlock(&uploader->lock);
}

void uploader_supply(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	if (uploader->state == UPLOADER_LACKING) {
		move(uploader, UPLOADER_SHIPPING);
		pthread_cond_broadcast(&uploader->wake);
	}
	pthread_mutex_unlock(&uploader->lock);
}

void uploader_progress(struct uploader *uploader, uint64_t percent)
{
	pthread_mutex_lock(&uploader->lock);
	if (uploader->report.commit_no == 0 && uploader->report.percent != percent) {
		uploader->report.percent = percent;
		publish(uploader);
	}
	pthread_mutex_unlock(&uploader->lock);
}

/* ---- failing and waiting ---- */

static bool stopping(struct uploader *uploader)
{
	pthread_mutex_lock(&uploader->lock);
	bool stop = uploader->stopping || uploader->state == UPLOADER_REFUSED;
	pthread_mutex_unlock(&uploader->lock);
	return stop;
}

/* Sleeps, unless somebody wants the thread to end. The lock is held. */
static void sleep_ms(struct uploader *uploader, uint64_t ms)
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

static uint64_t jitter(uint64_t limit_ms)
{
	uint32_t random = 0;
	ssize_t got = getrandom(&random, sizeof(random), 0);
	(void)got; /* without it, everybody waits the same time */
	return random % (limit_ms + 1);
}

/* A request failed in a way that may pass: says so once in a while, waits, with full jitter. */
static void wait_out(struct uploader *uploader, const struct replica_error *error)
{
	uint64_t limit_ms = (uint64_t)BACKOFF_MS
		<< (uploader->failures < 8 ? uploader->failures : 8);
	limit_ms = limit_ms < BACKOFF_MAX_MS ? limit_ms : BACKOFF_MAX_MS;
	uint64_t ms = error->retry_after_ms + jitter(limit_ms);
	if (stopping(uploader)) {
		return;
	}
	uploader->failures++;
	if (uploader->logged_ms == 0 || now_ms() - uploader->logged_ms > LOG_AGAIN_MS) {
		uploader->logged_ms = now_ms();
		log_warn("replica fails", log_str("replica", uploader->report.url),
			log_str("error", error->text));
	}
	pthread_mutex_lock(&uploader->lock);
	if (uploader->report.state != REPLICA_FAILING) {
		uploader->report.failing_since_ms = now_ms();
		uploader->report.state = REPLICA_FAILING;
	}
	snprintf(uploader->report.error, sizeof(uploader->report.error), "%s", error->text);
	publish(uploader);
	sleep_ms(uploader, ms);
	pthread_mutex_unlock(&uploader->lock);
}

static void works_again(struct uploader *uploader)
{
	if (uploader->failures > 0 && uploader->logged_ms != 0) {
		log_info("replica works again", log_str("replica", uploader->report.url));
	}
	uploader->failures = 0;
	uploader->logged_ms = 0;
	if (uploader->report.state == REPLICA_FAILING) {
		uploader->report.state =
			uploader->state == UPLOADER_SHIPPING ? REPLICA_SHIPPING : REPLICA_STARTING;
		uploader->report.failing_since_ms = 0;
	}
}

/* ---- looking ---- */

struct highest {
	uint64_t min_txid;
	uint64_t max_txid;
	int level;
	int64_t snapshot_ms;
};

static int note_file(void *ctx, const struct replica_file *file)
{
	struct highest *highest = ctx;
	if (file->max_txid > highest->max_txid) {
		highest->max_txid = file->max_txid;
		highest->min_txid = file->min_txid;
		highest->level = file->level;
	}
	if (file->min_txid == 1 && file->created_ms > highest->snapshot_ms) {
		highest->snapshot_ms = file->created_ms;
	}
	return 0;
}

static int look(struct uploader *uploader, struct replica_error *error)
{
	struct highest highest = {0};
	struct chain_head head = {0};
	bool has_generations = false;
	int rc = replica_probe(uploader->replica, error);
	rc = rc == 0 ? replica_has_generations(uploader->replica, &has_generations, error) : rc;
	if (rc == 0 && has_generations) {
		snprintf(error->text, sizeof(error->text),
			"it holds `generations/` of Litestream 0.3, which stock restore would "
			"prefer: use an empty prefix");
		return REPLICA_EXISTS;
	}
	for (int level = 0; rc == 0 && level <= REPLICA_LEVEL_MAX; level++) {
		rc = replica_list(uploader->replica, level, 0, note_file, &highest, error);
	}
	if (rc == 0 && highest.max_txid > 0) {
		head.txid = highest.max_txid;
		rc = replica_look(uploader->replica, highest.level, highest.min_txid,
			highest.max_txid, NULL, &head.record, &head.known, error);
		rc = rc == REPLICA_MISSING ? REPLICA_AGAIN : rc; /* it was compacted: look anew */
	}
	if (rc == 0) {
		pthread_mutex_lock(&uploader->lock);
		uploader->head = head;
		uploader->snapshot_ms = highest.snapshot_ms;
		works_again(uploader);
		if (uploader->state == UPLOADER_LOOKING) {
			move(uploader, UPLOADER_WAITING);
		}
		pthread_mutex_unlock(&uploader->lock);
	}
	return rc;
}

/* ---- shipping ---- */

/* The file of the spool that continues what the replica has. SPOOL_MISSING: there is none. */
static int find_next(struct uploader *uploader, uint64_t confirmed, enum spool_kind *ret_kind,
	struct spool_file *ret_file)
{
	for (enum spool_kind kind = SPOOL_SEGMENTS; kind <= SPOOL_IMAGES; kind++) {
		CLEANUP_FREE struct spool_file *files = NULL;
		size_t count = 0;
		int rc = spool_list(uploader->options.spool, kind, &files, &count);
		if (rc != 0) {
			return rc;
		}
		for (size_t i = 0; i < count; i++) {
			if (files[i].min_txid == confirmed + 1) {
				*ret_kind = kind;
				*ret_file = files[i];
				return 0;
			}
		}
	}
	return SPOOL_MISSING;
}

/* 0: shipped; else a replica_condition, or SPOOL_MISSING as -ENOENT. */
static int ship_file(struct uploader *uploader, int level, enum spool_kind kind,
	const struct spool_file *file, struct replica *replica, struct record *ret_record,
	struct replica_error *error)
{
	CLEANUP_FD int fd = -1;
	uint64_t bytes = 0;
	int rc = spool_get(uploader->options.spool, kind, file->min_txid, file->max_txid, &fd,
		&bytes, ret_record);
	if (rc != 0) {
		return rc == SPOOL_MISSING ? -ENOENT : rc;
	}
	uint8_t header[LTX_HEADER_BYTES];
	if (pread(fd, header, sizeof(header), 0) != (ssize_t)sizeof(header)) {
		return -EIO;
	}
	int64_t timestamp_ms = 0;
	for (size_t i = 32; i < 40; i++) {
		timestamp_ms = (int64_t)((uint64_t)timestamp_ms << 8 | header[i]);
	}
	return replica_put(replica, level, file->min_txid, file->max_txid, fd, bytes, timestamp_ms,
		ret_record, error);
}

static void shipped(struct uploader *uploader, enum spool_kind kind, const struct spool_file *file,
	const struct record *record)
{
	pthread_mutex_lock(&uploader->lock);
	uploader->confirmed = file->max_txid;
	if (file->min_txid == 1) {
		uploader->snapshot_ms = now_ms(); /* it is one, at whatever level */
	}
	works_again(uploader);
	uploader->report.state = REPLICA_SHIPPING;
	uploader->report.error[0] = 0;
	uploader->report.commit_no = record->commit_last;
	uploader->report.committed_ms = record->committed_ms;
	uploader->report.percent = 100;
	uploader->report.waiting_since_ms =
		uploader->newest > uploader->confirmed ? record->committed_ms : 0;
	publish(uploader);
	pthread_mutex_unlock(&uploader->lock);
	if (kind == SPOOL_IMAGES) {
		(void)spool_remove(uploader->options.spool, kind, file->min_txid, file->max_txid);
	}
	uploader->options.changed(uploader->options.ctx);
}

/*
 * Somebody else has created the number that would have been ours. Only the record tells who; there
 * is nothing to be gained by trying again.
 */
static void fenced(struct uploader *uploader, const struct spool_file *file)
{
	char reason[NOTICE_TEXT_BYTES];
	struct record record;
	struct replica_error error = {.text = ""};
	bool known = false;
	int rc = replica_look(uploader->replica, 0, file->min_txid, file->max_txid, NULL, &record,
		&known, &error);
	char writer[2 * RECORD_ID_BYTES + 1] = "unknown";
	for (size_t i = 0; rc == 0 && known && i < RECORD_ID_BYTES; i++) {
		snprintf(writer + 2 * i, 3, "%02x", record.writer[i]);
	}
	snprintf(reason, sizeof(reason),
		"another daemon ships to it: segment %" PRIu64
		" was written by %s. Stop that one, or give this one a prefix of its own",
		file->min_txid, writer);
	uploader_refuse(uploader, reason);
	uploader->options.changed(uploader->options.ctx);
}

struct claim {
	const struct spool_file *ours;
	bool any;
};

/* Our own image may be there already: its answer was lost, and the put will recognise it. */
static int note_claim(void *ctx, const struct replica_file *file)
{
	struct claim *claim = ctx;
	claim->any |=
		file->min_txid != claim->ours->min_txid || file->max_txid != claim->ours->max_txid;
	return 0;
}

/*
 * Creating a name is what fences, and an image has a name of its own: whoever else has gone on from
 * the same number must be looked for.
 */
static int check_unclaimed(
	struct uploader *uploader, const struct spool_file *file, struct replica_error *error)
{
	struct claim claim = {.ours = file};
	if (file->min_txid == file->max_txid) {
		return 0;
	}
	int rc = replica_list(uploader->replica, 0, file->min_txid, note_claim, &claim, error);
	return rc == 0 && claim.any ? REPLICA_EXISTS : rc;
}

static void ship_next(struct uploader *uploader, uint64_t confirmed)
{
	enum spool_kind kind = SPOOL_SEGMENTS;
	struct spool_file file;
	struct record record;
	struct replica_error error = {.text = ""};
	int rc = find_next(uploader, confirmed, &kind, &file);
	rc = rc == SPOOL_MISSING ? -ENOENT : rc;
	rc = rc == 0 ? check_unclaimed(uploader, &file, &error) : rc;
	rc = rc == 0 ? ship_file(uploader, 0, kind, &file, uploader->replica, &record, &error) : rc;
	if (rc == 0) {
		shipped(uploader, kind, &file, &record);
	} else if (rc == REPLICA_EXISTS) {
		fenced(uploader, &file);
	} else if (rc == -ENOENT) {
		pthread_mutex_lock(&uploader->lock);
		if (uploader->state == UPLOADER_SHIPPING) {
			move(uploader, UPLOADER_LACKING);
		}
		pthread_mutex_unlock(&uploader->lock);
		uploader->options.changed(uploader->options.ctx);
	} else {
		if (rc < 0) {
			snprintf(error.text, sizeof(error.text), "spool: %s", strerror(-rc));
		}
		wait_out(uploader, &error);
	}
}

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
			sleep_ms(uploader, BACKOFF_MS);
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
	while (rc != 0 && !stopping(uploader)) {
		error = (struct replica_error){.text = ""};
		rc = look(uploader, &error);
		if (rc == REPLICA_EXISTS || rc == REPLICA_UNFENCED) {
			uploader_refuse(uploader, error.text);
		} else if (rc != 0) {
			wait_out(uploader, &error);
		}
	}
	uploader->options.changed(uploader->options.ctx);
	uint64_t confirmed = 0;
	while (wait_for_work(uploader, &confirmed)) {
		ship_next(uploader, confirmed);
	}
	return NULL;
}

/* ---- snapshots ---- */

static int ship_snapshot(struct uploader *uploader, uint64_t txid)
{
	struct replica *replica = NULL;
	struct replica_error error = {.text = ""};
	struct record record;
	const struct spool_file file = {.min_txid = 1, .max_txid = txid};
	int rc = replica_open(uploader->url, &replica, &error);
	rc = rc == 0 ? ship_file(uploader, REPLICA_SNAPSHOT_LEVEL, SPOOL_IMAGES, &file, replica,
			       &record, &error)
		     : rc;
	replica_free(replica);
	if (rc == 0) {
		log_info("snapshot shipped", log_str("replica", uploader->report.url),
			log_uint("segment", txid));
	} else if (rc != -ENOENT) {
		log_warn("a snapshot could not be shipped",
			log_str("replica", uploader->report.url), log_str("error", error.text));
	}
	return rc;
}

static void *snapshot_main(void *ctx)
{
	struct uploader *uploader = ctx;
	pthread_mutex_lock(&uploader->lock);
	uint64_t txid = uploader->snapshot;
	pthread_mutex_unlock(&uploader->lock);
	int rc = REPLICA_AGAIN;
	for (int tries = 0; rc == REPLICA_AGAIN && tries < SNAPSHOT_TRIES && !stopping(uploader);
		tries++) {
		rc = ship_snapshot(uploader, txid);
		if (rc == REPLICA_AGAIN) {
			pthread_mutex_lock(&uploader->lock);
			sleep_ms(uploader, BACKOFF_MAX_MS);
			pthread_mutex_unlock(&uploader->lock);
		}
	}
	(void)spool_remove(uploader->options.spool, SPOOL_IMAGES, 1, txid);
	pthread_mutex_lock(&uploader->lock);
	/* One that failed is not tried again at once: the next is due after the usual time. */
	uploader->snapshot_ms = now_ms();
	uploader->snapshot = 0;
	pthread_mutex_unlock(&uploader->lock);
	uploader->options.changed(uploader->options.ctx);
	return NULL;
}

void uploader_offer_snapshot(struct uploader *uploader, uint64_t txid)
{
	pthread_mutex_lock(&uploader->lock);
	bool busy = uploader->snapshot != 0;
	if (!busy) {
		uploader->snapshot = txid;
		uploader->snapshot_ms = now_ms(); /* under way: the next one is due later */
	}
	pthread_mutex_unlock(&uploader->lock);
	if (busy) {
		return;
	}
	if (uploader->has_snapshot_thread) {
		pthread_join(uploader->snapshot_thread, NULL);
	}
	uploader->has_snapshot_thread =
		pthread_create(&uploader->snapshot_thread, NULL, snapshot_main, uploader) == 0;
	if (!uploader->has_snapshot_thread) {
		pthread_mutex_lock(&uploader->lock);
		uploader->snapshot = 0;
		pthread_mutex_unlock(&uploader->lock);
	}
}

/* ---- life ---- */

static struct keeper_facts facts_for_keeper(void *ctx)
{
	struct uploader *uploader = ctx;
	pthread_mutex_lock(&uploader->lock);
	struct keeper_facts facts = {
		.ours = uploader->state == UPLOADER_SHIPPING && uploader->confirmed > 0,
		.confirmed = uploader->confirmed,
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
		.facts = facts_for_keeper,
		.ctx = uploader,
	};
	memcpy(options.writer, uploader->options.writer, sizeof(options.writer));
	return keeper_start(&options, &uploader->keeper);
}

/* The URL for the replica's own code, without what is said to us. */
static char *without_ack(const char *url)
{
	char *copy = strdup(url);
	char *at = copy != NULL ? strstr(copy, "ack=1") : NULL;
	if (at != NULL && at > copy && (at[-1] == '?' || at[-1] == '&')) {
		char *rest = at + strlen("ack=1");
		if (*rest == '&') {
			memmove(at, rest + 1, strlen(rest + 1) + 1);
		} else if (*rest == 0) {
			at[-1] = 0;
		}
	}
	return copy;
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
	uploader->url = without_ack(options->url);
	pthread_mutex_init(&uploader->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&uploader->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	int rc = uploader->url != NULL ? replica_open(uploader->url, &uploader->replica, &error)
				       : -ENOMEM;
	if (rc == 0) {
		snprintf(uploader->report.url, sizeof(uploader->report.url), "%s",
			replica_url(uploader->replica));
		publish(uploader);
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
