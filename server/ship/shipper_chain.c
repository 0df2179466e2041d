/* SPDX-License-Identifier: MIT */

/*
 * What replicas may have. It asks chain.h about each that has been looked at, and begins a chain,
 * with the gate closed, when one of them needs it.
 */

#include "server/ship/shipper_inside.h"

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/ship/chain.h"
#include "server/ship/image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_MS = 5000 /* how long replicas that matter have to say what they hold */ };

/* ---- what replicas may have ---- */

static bool read_id(const char *hex, uint8_t ret_id[RECORD_ID_BYTES])
{
	bool whole = true;
	for (size_t i = 0; whole && i < RECORD_ID_BYTES; i++) {
		unsigned byte = 0;
		whole = sscanf(hex + 2 * i, "%2x", &byte) == 1;
		ret_id[i] = (uint8_t)byte;
	}
	return whole;
}

/*
 * A database that was restored says of which epoch's chain, and how far that went then
 * (DB-ship/restored, left by the start).
 */
static void read_parent(const struct shipper *shipper, struct chain_local *local)
{
	static const char epoch[] = "epoch: ";
	char path[4200];
	char line[1024];
	bool has_epoch = false;
	bool has_newest = false;
	snprintf(path, sizeof(path), "%s/restored", shipper->options->spool);
	FILE *file = fopen(path, "re");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		if (strncmp(line, epoch, strlen(epoch)) == 0) {
			has_epoch = read_id(line + strlen(epoch), local->parent);
		} else if (sscanf(line, "newest: %" SCNx64, &local->parent_txid) == 1) {
			has_newest = true;
		}
	}
	if (file != NULL) {
		fclose(file);
	}
	local->has_parent = has_epoch && has_newest;
}

static struct chain_local local_facts(const struct shipper *shipper)
{
	struct chain_local local = {
		.has_position = shipper->chained,
		.commit_no = shipper->notice.commit_no,
		.begun_commit = shipper->begun_commit,
		.continue_litestream = shipper->options->continue_litestream,
	};
	CLEANUP_FREE struct spool_file *files = NULL;
	size_t count = 0;
	if (shipper->chained) {
		local.position = *capture_last_cut(shipper->capture);
	}
	if (spool_list(shipper->spool, SPOOL_SEGMENTS, &files, &count) == 0 && count > 0) {
		local.first_txid = files[0].min_txid;
	}
	memcpy(local.epoch, shipper->notice.epoch, sizeof(local.epoch));
	read_parent(shipper, &local);
	return local;
}

/*
 * Whether what the chain has next for a replica begins with the pages that the replica ends with. A
 * number alone does not say so: the chain may have begun without the replica, at a number below its
 * newest one.
 */
static bool leads_on(struct shipper *shipper, const struct chain_head *head)
{
	const struct position *last = capture_last_cut(shipper->capture);
	const uint8_t *after = head->record.digest_after;
	struct record next;
	uint64_t bytes = 0;
	CLEANUP_FD int fd = -1;
	bool has_digest = head->known && head->record.has_digest;
	if (head->txid == 0) {
		return true;
	}
	if (head->txid == last->txid) {
		return has_digest && memcmp(after, last->digest.bytes, RECORD_DIGEST_BYTES) == 0;
	}
	int rc = spool_get(
		shipper->spool, SPOOL_SEGMENTS, head->txid + 1, head->txid + 1, &fd, &bytes, &next);
	if (rc != 0) {
		return rc == SPOOL_MISSING; /* then an image comes next */
	}
	return next.full ||
		(has_digest && memcmp(after, next.digest_before, RECORD_DIGEST_BYTES) == 0);
}

/* The replica takes part from what it holds. */
static void admit(struct shipper *shipper, struct uploader *uploader, const struct chain_head *head)
{
	uploader_begin(uploader, head->txid, !leads_on(shipper, head), shipper->notice.epoch);
}

/*
 * Answers the replicas that have said what they hold. *ret_begin: a new chain is needed, behind
 * the number *ret_txid.
 */
static void answer_heads(struct shipper *shipper, bool *ret_begin, uint64_t *ret_txid)
{
	struct chain_local local = local_facts(shipper);
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		struct uploader *uploader = shipper->uploaders[i];
		char reason[CHAIN_REASON_BYTES] = "";
		if (uploader_state(uploader) != UPLOADER_WAITING) {
			continue;
		}
		struct chain_head head = uploader_head(uploader);
		head.past_txid =
			head.known ? spool_buried_txid(shipper->spool, head.record.epoch) : 0;
		head.ours = head.known && spool_has_writer(shipper->spool, head.record.writer);
		enum chain_action action = chain_decide(&local, &head, reason);
		bool behind = shipper->chained &&
			(head.txid < local.position.txid ||
				(head.txid == local.position.txid && leads_on(shipper, &head)));
		if (action == CHAIN_REFUSE) {
			uploader_refuse(uploader, reason);
		} else if (!behind) {
			*ret_begin = true;
			*ret_txid = head.txid > *ret_txid ? head.txid : *ret_txid;
		} else {
			admit(shipper, uploader, &head);
			uploader_offer(uploader, local.position.txid);
		}
	}
}

/* ---- a new chain ---- */

static int image_progress(void *ctx, uint64_t pages, uint64_t of)
{
	struct shipper *shipper = ctx;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		uploader_progress(shipper->uploaders[i], pages * 100 / of);
	}
	return board_stopping(shipper->board) ? -ECANCELED : 0;
}

void shipper_close_gate(struct shipper *shipper)
{
	board_gate_close(shipper->board);
	while (board_gate_entered(shipper->board)) {
		usleep(200); /* a checkpoint is under way */
	}
}

static int first_image(struct shipper *shipper, struct record *ret_record, int64_t *ret_ms)
{
	const struct position *at = capture_at(shipper->capture);
	struct image_plan plan = {
		.db = shipper->options->db,
		.spool = shipper->spool,
		.at = *at,
		.min_txid = at->txid,
		.commit_first = at->commit_no,
		.timestamp_ms = shipper_now_ms(),
		.sync_wal = shipper->options->sync_wal,
		.progress = image_progress,
		.ctx = shipper,
	};
	memcpy(plan.writer, shipper->writer, sizeof(plan.writer));
	*ret_ms = plan.timestamp_ms;
	int rc = capture_layout(shipper->capture, &plan.frames);
	return rc == 0 ? image_build(&plan, ret_record) : rc;
}

/* The whole database as the first file, with the gate closed until it is known as such. */
static int begin_chain(struct shipper *shipper, uint64_t behind)
{
	struct record record;
	int64_t timestamp_ms = 0;
	int rc = CAPTURE_LATER;
	uint64_t began_us = clock_now_us();
	shipper_close_gate(shipper);
	for (int i = 0; rc == CAPTURE_LATER && i < SHIPPER_LATER_MAX; i++) {
		board_notice(shipper->board, &shipper->notice);
		rc = capture_begin(shipper->capture, &shipper->notice, behind + 1);
	}
	rc = rc == 0 ? first_image(shipper, &record, &timestamp_ms) : rc;
	rc = rc == 0 ? capture_begun(shipper->capture, &record, timestamp_ms) : rc;
	shipper->chained = rc == 0;
	shipper->uncut_us = 0; /* of the chain before */
	shipper_tell(shipper);
	board_gate_open(shipper->board);
	if (rc == 0) {
		bool first = !shipper->found && shipper->begun_commit == 0;
		shipper->begun_commit = first ? record.commit_last : shipper->begun_commit;
		log_info("a chain begins", log_uint("segment", behind + 1),
			log_uint("commit", record.commit_last),
			log_uint("pages", capture_at(shipper->capture)->pages),
			log_uint("ms", (clock_now_us() - began_us) / 1000));
	}
	return rc > 0 ? -EAGAIN : rc;
}

void shipper_offer_all(struct shipper *shipper)
{
	uint64_t newest = capture_last_cut(shipper->capture)->txid;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		enum uploader_state state = uploader_state(shipper->uploaders[i]);
		if (state == UPLOADER_SHIPPING || state == UPLOADER_LACKING) {
			uploader_offer(shipper->uploaders[i], newest);
		}
	}
}

/* Replicas that wait for a chain take part in it from what they hold. */
static void admit_waiting(struct shipper *shipper)
{
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		if (uploader_state(shipper->uploaders[i]) == UPLOADER_WAITING) {
			struct chain_head head = uploader_head(shipper->uploaders[i]);
			admit(shipper, shipper->uploaders[i], &head);
		}
	}
	shipper_offer_all(shipper);
}

/* The highest number that any replica, or the chain so far, has used. */
static uint64_t highest_txid(struct shipper *shipper, uint64_t known)
{
	uint64_t highest = known;
	uint64_t cut = capture_last_cut(shipper->capture)->txid;
	highest = cut > highest ? cut : highest;
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		uint64_t confirmed = uploader_confirmed(shipper->uploaders[i]);
		highest = confirmed > highest ? confirmed : highest;
	}
	return highest;
}

static bool awaits_any(struct shipper *shipper)
{
	for (size_t i = 0; i < shipper->uploaders_count; i++) {
		if (uploader_awaited(shipper->uploaders[i])) {
			return true;
		}
	}
	return false;
}

int shipper_see_to_chain(struct shipper *shipper)
{
	bool begin = false;
	uint64_t txid = 0;
	if (snapshot_building(shipper->snapshot)) {
		return 0; /* the gate is its own until it is done */
	}
	answer_heads(shipper, &begin, &txid);
	bool ready = begin || shipper_any_in(shipper, UPLOADER_SHIPPING) ||
		shipper_any_in(shipper, UPLOADER_LACKING);
	bool late = clock_now_us() - shipper->started_us > LOOK_MS * 1000ull;
	if ((!begin && shipper->chained) || !ready || (!late && awaits_any(shipper))) {
		return 0;
	}
	if (!shipper_image_may_begin(shipper)) {
		return 0;
	}
	int rc = begin_chain(shipper, highest_txid(shipper, txid));
	if (rc != -EAGAIN) {
		shipper_image_result(shipper, rc);
	}
	if (rc == 0) {
		admit_waiting(shipper);
	}
	return rc;
}

void shipper_give_up_chain(struct shipper *shipper, const char *why)
{
	int rc = capture_end_chain(shipper->capture);
	log_warn("the chain ends; a new one begins with all pages", log_str("reason", why));
	shipper->looked =
		rc == 0; /* else the gate stays closed: a restart would take it up again */
	shipper->chained = false;
	shipper_tell(shipper);
}
