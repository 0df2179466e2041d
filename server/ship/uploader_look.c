/* SPDX-License-Identifier: MIT */

/* What a replica holds: asked once, before anything is sent, and again only by a new shipper. */

#include "server/ship/uploader_inside.h"

#include "server/base/log.h"

#include <stdio.h>
#include <string.h>

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

bool uploader_emptied(struct uploader *uploader, struct replica_error *error)
{
	char name[SPOOL_USED_BYTES];
	const char *url = replica_url(uploader->replica);
	if (!spool_was_used(uploader->options.spool, url, name)) {
		return false;
	}
	error->gone = true;
	snprintf(error->text, sizeof(error->text),
		"%s is empty, but held segments of this database: is its disk mounted? (cure: mount "
		"it; or, to fill it anew, remove %s/%s)",
		url, spool_dir(uploader->options.spool), name);
	return true;
}

/*
 * An empty replica that was none: a bucket was emptied, and gets all pages again. A directory may be
 * that of a disk which is not mounted; then a new chain would fill up another disk, and nobody would
 * miss the old one before it is needed.
 */
static int check_emptied(struct uploader *uploader, struct replica_error *error)
{
	char name[SPOOL_USED_BYTES];
	const char *url = replica_url(uploader->replica);
	if (!spool_was_used(uploader->options.spool, url, name)) {
		return 0;
	}
	if (strncmp(url, "file://", strlen("file://")) != 0) {
		log_warn("the replica was emptied; it gets all pages again",
			log_str("replica", url));
		return 0;
	}
	return uploader_emptied(uploader, error) ? REPLICA_AGAIN : 0;
}

int uploader_look(struct uploader *uploader, struct replica_error *error)
{
	struct highest highest = {0};
	struct chain_head head = {0};
	bool has_generations = false;
	int rc = replica_has_generations(uploader->replica, &has_generations, error);
	if (rc == 0 && has_generations) {
		snprintf(error->text, sizeof(error->text),
			"it holds `generations/` of Litestream 0.3, which stock restore would "
			"prefer: use an empty prefix");
		return REPLICA_EXISTS;
	}
	for (int level = 0; rc == 0 && level <= REPLICA_LEVEL_MAX; level++) {
		rc = replica_list(uploader->replica, level, 0, note_file, &highest, error);
	}
	rc = rc == 0 && highest.max_txid == 0 ? check_emptied(uploader, error) : rc;
	rc = rc == 0 ? replica_probe(uploader->replica, error) : rc;
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
		uploader_works_again(uploader);
		if (uploader->state == UPLOADER_LOOKING) {
			uploader_move(uploader, UPLOADER_WAITING);
		}
		pthread_mutex_unlock(&uploader->lock);
	}
	return rc;
}
