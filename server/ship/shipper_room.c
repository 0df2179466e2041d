/* SPDX-License-Identifier: MIT */

/*
 * What the spool keeps, and for how long: segments that replicas still lack, some more for
 * compaction, and nothing that a shipper which died left half-made.
 */

#include "server/ship/shipper_inside.h"

#include "server/base/cleanup.h"
#include "server/base/log.h"

#include <stdlib.h>
#include <sys/statvfs.h>

enum { SEGMENTS_KEPT = 100 /* that every replica has: for compaction */ };

/* The number up to which every replica that may still want segments has them. */
static uint64_t confirmed_by_all(struct shipper *shipper)
{
	uint64_t least = UINT64_MAX;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		if (uploader_state(shipper->uploaders[i]) != UPLOADER_REFUSED) {
			uint64_t confirmed = uploader_confirmed(shipper->uploaders[i]);
			least = confirmed < least ? confirmed : least;
		}
	}
	return least;
}

/* On a small file system, as for writes, the floor is a sixteenth of it at most. */
static uint64_t bytes_short(const struct shipper *shipper)
{
	struct statvfs fs;
	if (statvfs(shipper->options->spool, &fs) != 0) {
		return 0;
	}
	uint64_t floor = shipper->options->disk_floor;
	uint64_t most = (uint64_t)fs.f_blocks * fs.f_frsize / 16;
	uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
	floor = floor < most ? floor : most;
	return left < floor ? floor - left : 0;
}

void shipper_trim(struct shipper *shipper, uint64_t bytes_max)
{
	CLEANUP_FREE struct spool_file *files = NULL;
	size_t count = 0;
	uint64_t bytes = 0;
	uint64_t dropped = 0;
	uint64_t confirmed = confirmed_by_all(shipper);
	if (spool_list(shipper->spool, SPOOL_SEGMENTS, &files, &count) != 0) {
		return;
	}
	for (size_t i = 0; i < count; i++) {
		bytes += files[i].bytes;
	}
	uint64_t wanted = bytes_short(shipper);
	if (wanted > 0) { /* what writes need comes before what waits to be shipped */
		uint64_t rest = bytes > wanted ? bytes - wanted : 0;
		bytes_max = rest < bytes_max ? rest : bytes_max;
	}
	for (size_t i = 0; i < count; i++) {
		bool unused = files[i].max_txid <= confirmed && count - i > SEGMENTS_KEPT;
		if (!unused && bytes <= bytes_max) {
			break;
		}
		dropped += files[i].max_txid > confirmed;
		bytes -= files[i].bytes;
		(void)spool_remove(
			shipper->spool, SPOOL_SEGMENTS, files[i].min_txid, files[i].max_txid);
	}
	if (dropped > 0) {
		log_warn("segments were dropped before they were shipped: no restore points "
			 "there, and a whole image follows",
			log_uint("segments", dropped));
	}
	shipper->report.spool_bytes = bytes;
}

/* What a shipper left that died between a segment and the position that makes it count. */
void shipper_drop_uncounted(struct shipper *shipper)
{
	CLEANUP_FREE struct spool_file *files = NULL;
	size_t count = 0;
	uint64_t last = shipper->chained ? capture_last_cut(shipper->capture)->txid : 0;
	if (spool_list(shipper->spool, SPOOL_SEGMENTS, &files, &count) != 0) {
		return;
	}
	for (size_t i = 0; i < count; i++) {
		if (files[i].max_txid > last) {
			(void)spool_remove(shipper->spool, SPOOL_SEGMENTS, files[i].min_txid,
				files[i].max_txid);
		}
	}
}

void shipper_drop_images(struct shipper *shipper)
{
	CLEANUP_FREE struct spool_file *files = NULL;
	size_t count = 0;
	uint64_t last = shipper->chained ? capture_last_cut(shipper->capture)->txid : 0;
	if (spool_list(shipper->spool, SPOOL_IMAGES, &files, &count) != 0) {
		return;
	}
	for (size_t i = 0; i < count; i++) {
		/* The first file of the chain is still wanted; others are made again if need be. */
		if (files[i].max_txid > last || files[i].min_txid != files[i].max_txid) {
			(void)spool_remove(
				shipper->spool, SPOOL_IMAGES, files[i].min_txid, files[i].max_txid);
		}
	}
}

void shipper_trim_images(struct shipper *shipper)
{
	CLEANUP_FREE struct spool_file *images = NULL;
	CLEANUP_FREE struct spool_file *segments = NULL;
	size_t count = 0;
	size_t segments_count = 0;
	uint64_t confirmed = confirmed_by_all(shipper);
	if (!shipper->chained || spool_list(shipper->spool, SPOOL_IMAGES, &images, &count) != 0 ||
		spool_list(shipper->spool, SPOOL_SEGMENTS, &segments, &segments_count) != 0) {
		return;
	}
	uint64_t last = capture_last_cut(shipper->capture)->txid;
	uint64_t first = segments_count > 0 ? segments[0].min_txid : last + 1;
	for (size_t i = 0; i < count; i++) {
		/* From 1 on they are snapshots, and the upload removes them; except the very first. */
		bool snapshot = images[i].min_txid == 1 && images[i].max_txid != 1;
		bool leads = images[i].max_txid + 1 >= first;
		if (!snapshot && (images[i].max_txid <= confirmed || !leads)) {
			(void)spool_remove(shipper->spool, SPOOL_IMAGES, images[i].min_txid,
				images[i].max_txid);
		}
	}
}
