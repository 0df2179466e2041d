/* SPDX-License-Identifier: MIT */

/*
 * The writer's look around. The ladder to a full disk: a WAL that grows is named in the log; its size
 * alone refuses nothing. At the floor the WAL is cut, and batches that write are refused, while those
 * that read, and answers that are remembered, go on. What must be written all the same, a checkpoint,
 * takes the reserve. When room returns it goes on by itself.
 */

#include "server/funnel/lookout.h"

#include "server/base/clock.h"
#include "server/base/disk.h"
#include "server/base/log.h"

#include <errno.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SQLITE_CODE_FULL = 13, SQLITE_CODE_IOERR = 10 };

#define LOG_AGAIN_US (60ull * 1000 * 1000)

struct lookout {
	struct lookout_options options;
	struct disk disk;
	char dir[4096];
	char refusal[LOOKOUT_TEXT_BYTES]; /* empty: none */
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
	pthread_mutex_lock(&lookout->lock);
	lookout->facts.disk_low = disk->low;
	lookout->facts.disk_low_total = lookout->low_total;
	lookout->facts.disk_free = disk->free;
	lookout->facts.disk_floor = disk->floor;
	lookout->facts.reserve = disk->reserve;
	memcpy(lookout->facts.trouble, lookout->refusal, sizeof(lookout->refusal));
	pthread_mutex_unlock(&lookout->lock);
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
		cut_wal(lookout);
	} else if (change == DISK_WELL) {
		log_info("room on the disk again: writes go on", log_str("dir", disk->dir),
			log_uint("free", disk->free), log_uint("reserve", disk->reserve));
	}
	show_disk(lookout);
}

void lookout_look(struct lookout *lookout)
{
	look_at_disk(lookout);
}

const char *lookout_refusal(const struct lookout *lookout)
{
	return lookout->refusal[0] != 0 ? lookout->refusal : NULL;
}

void lookout_met_full(struct lookout *lookout)
{
	cut_wal(lookout);
	lookout->disk.next_look_us = 0;
	look_at_disk(lookout);
}
