/* SPDX-License-Identifier: MIT */

/*
 * The cases, most dangerous first: somebody else's replica; one that knows more than the database;
 * then those in which only work is at stake.
 */

#include "server/ship/chain.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool same(const uint8_t a[RECORD_ID_BYTES], const uint8_t b[RECORD_ID_BYTES])
{
	return memcmp(a, b, RECORD_ID_BYTES) == 0;
}

static enum chain_action say(char *ret_reason, enum chain_action action, const char *reason)
{
	snprintf(ret_reason, CHAIN_REASON_BYTES, "%s", reason);
	return action;
}

/* A replica that Litestream wrote, or whose records were lost. */
static enum chain_action decide_unknown(
	const struct chain_local *local, const struct chain_head *head, char *ret_reason)
{
	if (local->continue_litestream) {
		return say(ret_reason, CHAIN_BEGIN, "continues a replica of Litestream");
	}
	snprintf(ret_reason, CHAIN_REASON_BYTES,
		"it holds segments up to %" PRIu64
		" that litefunnel did not write: use an empty prefix, or continue_litestream = on "
		"to go on behind them",
		head->txid);
	return CHAIN_REFUSE;
}

/*
 * The parent's chain. Whoever has gone on in it since the restore may have called that shipped: it is
 * not for this database to make it undone.
 */
static enum chain_action decide_parent(
	const struct chain_local *local, const struct chain_head *head, char *ret_reason)
{
	if (head->txid <= local->parent_txid) {
		return say(ret_reason, CHAIN_BEGIN, "the database was restored from it");
	}
	snprintf(ret_reason, CHAIN_REASON_BYTES,
		"another daemon has gone on since the database was restored from it: up to segment "
		"%" PRIu64 ", commit %" PRIu64 ", after %" PRIu64
		": stop that one and restore again, or use a prefix of its own",
		head->txid, head->record.commit_last, local->parent_txid);
	return CHAIN_REFUSE;
}

/* A replica of another lineage. */
static enum chain_action decide_foreign(
	const struct chain_local *local, const struct chain_head *head, char *ret_reason)
{
	if (local->has_parent && same(head->record.epoch, local->parent)) {
		return decide_parent(local, head, ret_reason);
	}
	uint64_t known_txid = head->past_txid;
	if (local->has_position && same(head->record.epoch, local->position.epoch) &&
		known_txid < local->position.txid) {
		known_txid = local->position.txid;
	}
	if (head->txid <= known_txid) {
		return say(ret_reason, CHAIN_BEGIN, "the database has a new epoch");
	}
	snprintf(ret_reason, CHAIN_REASON_BYTES,
		"it belongs to another database (segments up to %" PRIu64 ", commit %" PRIu64
		"): use an empty prefix, or restore that database from it first",
		head->txid, head->record.commit_last);
	return CHAIN_REFUSE;
}

/*
 * Nothing is ever shipped that the spool does not know first. Commit numbers prove nothing here: a
 * copy of the database counts the same ones.
 */
static enum chain_action another_daemon(const struct chain_head *head, char *ret_reason)
{
	snprintf(ret_reason, CHAIN_REASON_BYTES,
		"another daemon, with a copy of this database, has shipped segment %" PRIu64
		" to it: stop that one for good, then remove the spool (DB-ship) and start again; "
		"or use a prefix of its own",
		head->txid);
	return CHAIN_REFUSE;
}

static enum chain_action known_to_the_database(char *ret_reason)
{
	return say(ret_reason, CHAIN_BEGIN,
		"the spool does not know its newest segments; the database does");
}

/* The same lineage, but the replica has numbers that the spool does not know. */
static enum chain_action decide_ahead(const struct chain_local *local,
	const struct chain_head *head, bool chained, char *ret_reason)
{
	if (head->record.commit_last <= local->commit_no) {
		return chained ? another_daemon(head, ret_reason)
			       : known_to_the_database(ret_reason);
	}
	snprintf(ret_reason, CHAIN_REASON_BYTES,
		"it is ahead of the database: it holds commit %" PRIu64
		", the database ends at %" PRIu64
		": restore the database from it (the newer commits come back), or give the "
		"database a new epoch by restoring it with --commit %" PRIu64,
		head->record.commit_last, local->commit_no, local->commit_no);
	return CHAIN_REFUSE;
}

enum chain_action chain_decide(const struct chain_local *local, const struct chain_head *head,
	char ret_reason[CHAIN_REASON_BYTES])
{
	bool chained = local->has_position && same(local->position.epoch, local->epoch);
	if (head->txid > 0 && !head->known) {
		return decide_unknown(local, head, ret_reason);
	}
	if (head->txid > 0 && !same(head->record.epoch, local->epoch)) {
		return decide_foreign(local, head, ret_reason);
	}
	/* The chain says nothing of a replica that it did not wait for: what was true then decides. */
	if (head->txid > 0 && head->record.commit_last <= local->begun_commit) {
		return known_to_the_database(ret_reason);
	}
	if (head->txid > 0 && (!chained || head->txid > local->position.txid)) {
		return decide_ahead(local, head, chained, ret_reason);
	}
	if (!chained) {
		return say(ret_reason, CHAIN_BEGIN, "there is no chain yet");
	}
	if (head->txid > 0 && !head->ours) {
		return another_daemon(head, ret_reason);
	}
	if (head->txid == local->position.txid) {
		return say(ret_reason, CHAIN_CONTINUE, "");
	}
	if (local->first_txid > 0 && local->first_txid <= head->txid + 1) {
		return say(ret_reason, CHAIN_CONTINUE, "it lacks segments that wait in the spool");
	}
	return say(ret_reason, CHAIN_IMAGE, "it lacks segments that are no longer in the spool");
}
