/* SPDX-License-Identifier: MIT */

/*
 * Snapshots of level 9, in a thread and over a connection of their own, so that no segment waits for
 * gigabytes.
 */

#include "server/ship/uploader_inside.h"

#include "server/base/log.h"

#include <errno.h>

enum { SNAPSHOT_TRIES = 10 };

/* For whoever ends the uploader in the middle of gigabytes. */
static void use_replica(struct uploader *uploader, struct replica *replica)
{
	pthread_mutex_lock(&uploader->lock);
	uploader->snapshot_replica = replica;
	if (replica != NULL && uploader->stopping) {
		replica_interrupt(replica);
	}
	pthread_mutex_unlock(&uploader->lock);
}

static int ship_snapshot(struct uploader *uploader, uint64_t txid, struct record *ret_record)
{
	struct replica *replica = NULL;
	struct replica_error error = {.text = ""};
	const struct spool_file file = {.min_txid = 1, .max_txid = txid};
	int rc = replica_open(uploader->url, &replica, &error);
	use_replica(uploader, replica);
	if (rc == 0 && replica_vanished(replica) && uploader_emptied(uploader, &error)) {
		rc = REPLICA_AGAIN; /* what would be made under its name may be on another disk */
	}
	rc = rc == 0 ? uploader_ship_file(uploader, REPLICA_SNAPSHOT_LEVEL, SPOOL_IMAGES, &file,
			       replica, ret_record, &error)
		     : rc;
	use_replica(uploader, NULL);
	replica_free(replica);
	if (rc == 0) {
		log_info("snapshot shipped", log_str("replica", uploader->report.url),
			log_uint("segment", txid));
	} else if (rc != -ENOENT && !uploader_stopping(uploader)) {
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
	struct record record;
	int rc = REPLICA_AGAIN;
	for (int tries = 0;
		rc == REPLICA_AGAIN && tries < SNAPSHOT_TRIES && !uploader_stopping(uploader);
		tries++) {
		rc = ship_snapshot(uploader, txid, &record);
		if (rc == REPLICA_AGAIN) {
			pthread_mutex_lock(&uploader->lock);
			uploader_sleep_ms(uploader, UPLOADER_BACKOFF_MAX_MS);
			pthread_mutex_unlock(&uploader->lock);
		}
	}
	(void)spool_remove(uploader->options.spool, SPOOL_IMAGES, 1, txid);
	pthread_mutex_lock(&uploader->lock);
	/* One that failed is not tried again at once: the next is due after the usual time … */
	uploader->snapshot_ms = uploader_now_ms();
	if (rc == 0) {
		uploader_restorable(uploader, &record);
	} else if (uploader->bare) {
		uploader_sleep_ms(uploader, UPLOADER_BACKOFF_MAX_MS);
		uploader->snapshot_ms = 0; /* … unless without it there is nothing */
	}
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
		uploader->snapshot_ms =
			uploader_now_ms(); /* under way: the next one is due later */
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
