/* SPDX-License-Identifier: MIT */

/*
 * Segments, in order, one request after another. What it keeps true: nothing is sent that does not
 * continue what the replica has, and a number that somebody else has taken ends it.
 */

#include "server/ship/uploader_inside.h"

#include "server/base/cleanup.h"
#include "server/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The file of the spool that continues what the replica has. SPOOL_MISSING: there is none. */
static int find_next(struct uploader *uploader, uint64_t confirmed, enum spool_kind *ret_kind,
	struct spool_file *ret_file)
{
	enum spool_kind first = uploader->apart ? SPOOL_IMAGES : SPOOL_SEGMENTS;
	for (enum spool_kind kind = first; kind <= SPOOL_IMAGES; kind++) {
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
int uploader_ship_file(struct uploader *uploader, int level, enum spool_kind kind,
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

static void shipped(
	struct uploader *uploader, const struct spool_file *file, const struct record *record)
{
	pthread_mutex_lock(&uploader->lock);
	uploader->confirmed = file->max_txid;
	uploader->apart = false;
	if (file->min_txid == 1) {
		uploader->snapshot_ms = uploader_now_ms(); /* it is one, at whatever level */
	}
	uploader_works_again(uploader);
	uploader->report.state = REPLICA_SHIPPING;
	uploader->report.error[0] = 0;
	uploader->held_commit = record->commit_last;
	uploader->held_ms = record->committed_ms;
	if (!uploader->bare || file->min_txid == 1) {
		uploader_restorable(uploader, record);
	}
	uploader_publish(uploader);
	pthread_mutex_unlock(&uploader->lock);
	if (!uploader->used) { /* from now on an empty replica is no new one; else the next file says so */
		uploader->used = spool_mark_used(uploader->options.spool,
					 replica_url(uploader->replica)) == 0;
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

void uploader_ship_next(struct uploader *uploader, uint64_t confirmed)
{
	enum spool_kind kind = SPOOL_SEGMENTS;
	struct spool_file file;
	struct record record;
	struct replica_error error = {.text = ""};
	int rc = find_next(uploader, confirmed, &kind, &file);
	rc = rc == SPOOL_MISSING ? -ENOENT : rc;
	rc = rc == 0 ? check_unclaimed(uploader, &file, &error) : rc;
	rc = rc == 0
		? uploader_ship_file(uploader, 0, kind, &file, uploader->replica, &record, &error)
		: rc;
	if (rc == 0) {
		shipped(uploader, &file, &record);
	} else if (rc == REPLICA_EXISTS) {
		fenced(uploader, &file);
	} else if (rc == -ENOENT) {
		pthread_mutex_lock(&uploader->lock);
		if (uploader->state == UPLOADER_SHIPPING) {
			uploader_move(uploader, UPLOADER_LACKING);
		}
		pthread_mutex_unlock(&uploader->lock);
		uploader->options.changed(uploader->options.ctx);
	} else if (rc == REPLICA_AGAIN && error.gone && !uploader_emptied(uploader, &error)) {
		bool wholly = replica_vanished(uploader->replica);
		replica_forget(uploader->replica);
		if (wholly) { /* else a snapshot has made its directory already */
			uploader_lost(uploader, true, false);
		}
	} else {
		if (rc < 0) {
			snprintf(error.text, sizeof(error.text), "spool: %s", strerror(-rc));
		}
		uploader_wait_out(uploader, &error);
	}
}
