/* SPDX-License-Identifier: MIT */

/*
 * The writer's look around. The ladder to a full disk: a WAL that grows is named in the log; its size
 * alone refuses nothing. At the floor the WAL is cut, and batches that write are refused, while those
 * that read, and answers that are remembered, go on. What must be written all the same, a checkpoint,
 * takes the reserve. When room returns it goes on by itself.
 *
 * Another hand in the database: all waits while what it did is checked, then goes on under a new
 * epoch; what cannot be served like that is refused, with the cure.
 */

#include "server/funnel/lookout.h"

#include "server/base/clock.h"
#include "server/base/disk.h"
#include "server/base/locks.h"
#include "server/base/log.h"

#include <errno.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SQLITE_CODE_FULL = 13, SQLITE_CODE_IOERR = 10 };

#define LOG_AGAIN_US (60ull * 1000 * 1000)
#define BUSY_US      (100ull * 1000)      /* a lock that is held longer is looked for */
#define BUSY_LOOK_US (1000ull * 1000)     /* … and again */
#define CUT_US       (1000ull * 1000)     /* between two attempts to cut a WAL while room is low */
#define GROUND_US    (200ull * 1000)      /* between two looks at the files */
#define RECHECK_US   (5ull * 1000 * 1000) /* between two checks of what did not pass one */

struct lookout {
	struct lookout_options options;
	struct disk disk;
	char dir[4096];
	char refusal[LOOKOUT_TEXT_BYTES];  /* empty: none */
	char standing[LOOKOUT_TEXT_BYTES]; /* why nothing is served, or empty */
	char busy[LOOKOUT_TEXT_BYTES];     /* who holds a lock that we need, or empty */
	uint64_t busy_since_us;
	uint64_t busy_next_us;
	uint64_t next_ground_us;
	uint64_t next_cut_us;
	uint64_t next_recheck_us;
	uint64_t foreign_seen;
	uint64_t epochs;
	uint64_t wal_logged_us;
	uint64_t low_total;
	pthread_mutex_t lock; /* guards facts */
	struct lookout_facts facts;
};

int lookout_new(const struct lookout_options *options, struct lookout **ret_lookout)
{
	struct lookout *lookout = calloc(1, sizeof(*lookout));
	if (lookout == NULL) {
		return -ENOMEM;
	}
	lookout->options = *options;
	snprintf(lookout->dir, sizeof(lookout->dir), "%s", options->db);
	lookout->foreign_seen = store_foreign_count(options->store);
	disk_init(&lookout->disk, dirname(lookout->dir), options->reserve);
	pthread_mutex_init(&lookout->lock, NULL);
	*ret_lookout = lookout;
	return 0;
}

void lookout_free(struct lookout *lookout)
{
	if (lookout != NULL) {
		pthread_mutex_destroy(&lookout->lock);
		free(lookout);
	}
}

static uint64_t number(const struct lookout *lookout, enum setting_id id)
{
	return config_number(lookout->options.config, id);
}

struct lookout_facts lookout_facts(struct lookout *lookout)
{
	pthread_mutex_lock(&lookout->lock);
	struct lookout_facts facts = lookout->facts;
	pthread_mutex_unlock(&lookout->lock);
	return facts;
}

static void publish(struct lookout *lookout)
{
	const struct disk *disk = &lookout->disk;
	struct lookout_facts *facts = &lookout->facts;
	pthread_mutex_lock(&lookout->lock);
	facts->disk_low = disk->low;
	facts->disk_low_total = lookout->low_total;
	facts->disk_free = disk->free;
	facts->disk_floor = disk->floor;
	facts->reserve = disk->reserve;
	facts->foreign_total = lookout->foreign_seen;
	facts->busy_since_us = lookout->busy_since_us;
	facts->stopped = lookout->standing[0] != 0;
	snprintf(facts->trouble, sizeof(facts->trouble), "%s",
		facts->stopped                  ? lookout->standing
			: lookout->busy[0] != 0 ? lookout->busy
						: lookout->refusal);
	pthread_mutex_unlock(&lookout->lock);
}

/* ---- checkpoints ---- */

static bool checkpoint_failed(struct lookout *lookout, struct store_error *error)
{
	bool full = (error->sqlite & 0xff) == SQLITE_CODE_FULL;
	if ((error->sqlite & 0xff) == SQLITE_CODE_IOERR) {
		/* A failed fsync may have marked the pages clean: no second try. */
		lookout->options.poisoned(lookout->options.ctx, error->message);
	}
	log_warn("checkpoint failed", log_str("error", error->message));
	store_error_clear(error);
	return full;
}

static void note_wal(struct lookout *lookout)
{
	/* Not the size of the file, which costs a system call and may be of earlier days. */
	uint64_t bytes = store_checkpoint_stats(lookout->options.store).wal_frames *
		store_page_size(lookout->options.store);
	uint64_t warn = number(lookout, SETTING_WAL_WARN_BYTES);
	bool large = warn > 0 && bytes >= warn;
	uint64_t now_us = clock_now_us();
	if (large &&
		(lookout->wal_logged_us == 0 || now_us - lookout->wal_logged_us >= LOG_AGAIN_US)) {
		lookout->wal_logged_us = now_us;
		log_warn("the WAL is large: a reader that stays in its transaction keeps it",
			log_str("db", lookout->options.db), log_uint("wal_bytes", bytes));
	}
	pthread_mutex_lock(&lookout->lock);
	lookout->facts.wal_large = large;
	pthread_mutex_unlock(&lookout->lock);
}

/* Only what stands in the spool may leave the WAL. */
static bool enter_gate(struct lookout *lookout)
{
	return lookout->options.gate == NULL ||
		gate_enter(lookout->options.gate, lookout->options.store,
			number(lookout, SETTING_CHECKPOINT_FRAMES));
}

static void leave_gate(struct lookout *lookout)
{
	if (lookout->options.gate != NULL) {
		gate_leave(lookout->options.gate);
	}
}

void lookout_checkpoint(struct lookout *lookout)
{
	struct store_error error = {.row = -1};
	uint64_t frames = number(lookout, SETTING_CHECKPOINT_FRAMES);
	if (store_checkpoint_is_due(lookout->options.store, frames) && enter_gate(lookout)) {
		int rc = store_checkpoint_if_due(lookout->options.store, frames, &error);
		leave_gate(lookout);
		if (rc != 0 && checkpoint_failed(lookout, &error)) {
			lookout_met_full(lookout);
		}
	}
	note_wal(lookout);
}

/* Gives back what the WAL takes, with the help of the reserve where there is no room for that. */
static void cut_wal(struct lookout *lookout)
{
	for (int tries = 0; tries < 2 && enter_gate(lookout); tries++) {
		struct store_error error = {.row = -1};
		int rc = store_checkpoint_cut(lookout->options.store, &error);
		leave_gate(lookout);
		if (rc == 0 || !checkpoint_failed(lookout, &error)) {
			break;
		}
		lookout->low_total += !lookout->disk.low;
		if (!disk_is_full(&lookout->disk)) {
			break;
		}
		log_warn("the disk is full; the reserve is given up for a checkpoint",
			log_str("reserve", lookout->options.reserve));
	}
	note_wal(lookout);
}

/* ---- the disk ---- */

static void show_disk(struct lookout *lookout)
{
	const struct disk *disk = &lookout->disk;
	double mib = 1024.0 * 1024;
	if (disk->low) {
		snprintf(lookout->refusal, sizeof(lookout->refusal),
			"disk: %.2f MiB are free in %.300s, and %.2f MiB are needed (settings disk_floor, "
			"reserve_bytes): writes go on by themselves when there is room",
			(double)disk->free / mib, disk->dir, (double)disk->needed / mib);
	} else {
		lookout->refusal[0] = 0;
	}
	publish(lookout);
}

static void look_at_disk(struct lookout *lookout)
{
	struct disk *disk = &lookout->disk;
	uint64_t now_us = clock_now_us();
	if (now_us < disk->next_look_us) {
		return;
	}
	enum disk_change change = disk_look(disk, now_us, number(lookout, SETTING_DISK_FLOOR),
		number(lookout, SETTING_RESERVE_BYTES));
	if (change == DISK_LOW) {
		lookout->low_total++;
		log_warn("little room on the disk: writes are refused", log_str("dir", disk->dir),
			log_uint("free", disk->free), log_uint("needed", disk->needed));
	} else if (change == DISK_WELL) {
		log_info("room on the disk again: writes go on", log_str("dir", disk->dir),
			log_uint("free", disk->free), log_uint("reserve", disk->reserve));
	}
	if (disk->low && (change == DISK_LOW || now_us >= lookout->next_cut_us)) {
		cut_wal(lookout); /* again and again, for a reader may have stood in it */
		lookout->next_cut_us = now_us + CUT_US;
	}
	show_disk(lookout);
}

/* ---- other hands ---- */

static void name_writer(const struct lookout *lookout, char ret_name[LOCKS_NAME_BYTES])
{
	char wal[4096];
	const char *paths[] = {lookout->options.db, wal};
	snprintf(wal, sizeof(wal), "%s-wal", lookout->options.db);
	pid_t pid = locks_find_writer(paths, sizeof(paths) / sizeof(paths[0]));
	if (pid > 0) {
		locks_name_process(pid, ret_name);
	} else {
		snprintf(ret_name, LOCKS_NAME_BYTES, "gone, or not to be seen");
	}
}

static void stand(struct lookout *lookout, const struct store_recheck *recheck)
{
	char who[LOCKS_NAME_BYTES];
	if (strcmp(lookout->standing, recheck->text) != 0) {
		name_writer(lookout, who);
		log_error("nothing is served until somebody has acted",
			log_str("db", lookout->options.db), log_str("error", recheck->text),
			log_str("writer", who));
	}
	snprintf(lookout->standing, sizeof(lookout->standing), "%s", recheck->text);
	lookout->next_recheck_us = clock_now_us() + RECHECK_US;
}

static void go_on(struct lookout *lookout, const struct store_recheck *recheck, const char *doubt,
	const char *who)
{
	lookout->standing[0] = 0;
	lookout->foreign_seen = store_foreign_count(lookout->options.store);
	lookout->epochs++;
	log_warn(recheck->halt
			? "the command of a halt has written; the database was checked, and goes on"
			: "another process has written; the database was checked, and has a new epoch",
		log_str("db", lookout->options.db), log_str("what", doubt), log_str("writer", who),
		log_str("foreign_keys", recheck->orphans ? "violated" : "hold"),
		log_str("check", recheck->unchecked ? "given up for lack of time" : "passed"),
		log_uint("commit", store_commit_no(lookout->options.store)));
}

bool lookout_clear(struct lookout *lookout, const char **ret_why)
{
	struct store *store = lookout->options.store;
	*ret_why = NULL;
	if (store_doubt(store) == STORE_DOUBT_NONE) {
		return true;
	}
	if (lookout->standing[0] == 0 || clock_now_us() >= lookout->next_recheck_us) {
		struct store_recheck recheck;
		char doubt[STORE_ERROR_BYTES];
		char who[LOCKS_NAME_BYTES];
		snprintf(doubt, sizeof(doubt), "%s", store_doubt_text(store));
		name_writer(lookout, who);
		store_recheck(store, &recheck);
		if (recheck.end == STORE_RECHECK_LEAVE) {
			lookout->options.poisoned(lookout->options.ctx, recheck.text);
		} else if (recheck.end == STORE_RECHECK_STANDS) {
			stand(lookout, &recheck);
		} else if (recheck.end == STORE_RECHECK_GOES_ON) {
			go_on(lookout, &recheck, doubt, who);
		}
		publish(lookout);
	}
	*ret_why = lookout->standing[0] != 0 ? lookout->standing : NULL;
	return store_doubt(store) == STORE_DOUBT_NONE;
}

void lookout_busy(struct lookout *lookout, const char *reason)
{
	char file[STORE_ERROR_BYTES];
	char who[LOCKS_NAME_BYTES] = "";
	uint64_t now_us = clock_now_us();
	if (lookout->busy_since_us == 0) {
		lookout->busy_since_us = now_us;
		lookout->busy_next_us = now_us + BUSY_US;
		publish(lookout);
	}
	if (now_us < lookout->busy_next_us) {
		return;
	}
	lookout->busy_next_us = now_us + BUSY_LOOK_US;
	pid_t pid = store_find_blocker(lookout->options.store, file);
	if (pid >= 0) {
		locks_name_process(pid, who);
		snprintf(lookout->busy, sizeof(lookout->busy),
			"writes wait: %s holds a lock on %.300s", who, file);
	} else {
		snprintf(lookout->busy, sizeof(lookout->busy), "writes wait: %.300s",
			reason != NULL ? reason : "the database is locked");
	}
	log_warn("no transaction can begin; writes wait", log_str("error", reason),
		log_str("holder", who),
		log_uint("since_ms", (now_us - lookout->busy_since_us) / 1000));
	publish(lookout);
}

void lookout_free_again(struct lookout *lookout)
{
	if (lookout->busy_since_us != 0) {
		lookout->busy_since_us = 0;
		lookout->busy[0] = 0;
		publish(lookout);
	}
}

uint64_t lookout_epochs(const struct lookout *lookout)
{
	return lookout->epochs;
}

static void look_at_ground(struct lookout *lookout)
{
	struct store *store = lookout->options.store;
	uint64_t now_us = clock_now_us();
	if (now_us < lookout->next_ground_us) {
		return;
	}
	lookout->next_ground_us = now_us + GROUND_US;
	store_look_around(store);
	if (store_foreign_count(store) != lookout->foreign_seen) {
		lookout->foreign_seen = store_foreign_count(store);
		log_warn("another process has made a checkpoint",
			log_str("db", lookout->options.db));
	}
}

void lookout_look(struct lookout *lookout)
{
	const char *why = NULL;
	look_at_disk(lookout);
	look_at_ground(lookout);
	(void)lookout_clear(lookout, &why);
}

const char *lookout_refusal(const struct lookout *lookout)
{
	return lookout->refusal[0] != 0 ? lookout->refusal : NULL;
}

bool lookout_quiet(struct lookout *lookout)
{
	return lookout->refusal[0] == 0 &&
		store_doubt(lookout->options.store) == STORE_DOUBT_NONE &&
		!disk_is_short(&lookout->disk, clock_now_us());
}

void lookout_met_full(struct lookout *lookout)
{
	cut_wal(lookout);
	lookout->disk.next_look_us = 0;
	look_at_disk(lookout);
}
