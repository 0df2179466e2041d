/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What to do with a replica, seen from what is beside the database and what is in the replica: go
 * on, bring it up to date with an image, begin a new chain behind what is there, or keep away from
 * it. One function of facts, so that every case can be tried; no I/O.
 */

#include "server/ship/record.h"
#include "server/ship/spool.h"

#include <stdbool.h>

/* What was found in a replica. */
struct chain_head {
	uint64_t txid; /* the highest number in it, at any level; 0: it is empty */
	bool known;    /* the file with that number has a record of ours */
	bool ours;     /* … and its writer is one that this spool has had (spool_has_writer()) */
	uint64_t
		past_txid; /* in the record's epoch the spool has had a chain, up to here; 0: none */
	struct record record;
};

/* What there is beside the database. */
struct chain_local {
	bool has_position; /* the spool holds a chain */
	struct position position;
	uint64_t first_txid;            /* the first segment that is still in the spool; 0: none */
	uint8_t epoch[RECORD_ID_BYTES]; /* of the database now */
	uint64_t commit_no;
	uint64_t begun_commit; /* the spool had no chain, and one was begun here, before the replica
				  had been asked; 0: not so */
	bool has_parent; /* it was restored from a chain of this epoch, which ended with this number */
	uint8_t parent[RECORD_ID_BYTES];
	uint64_t parent_txid;
	bool continue_litestream;
};

enum chain_action {
	CHAIN_CONTINUE, /* its next segment is in the spool, or will be */
	CHAIN_IMAGE,    /* it lacks segments that are gone: an image from head.txid + 1 on */
	CHAIN_BEGIN,    /* a new chain, with an image from head.txid + 1 on */
	CHAIN_REFUSE,   /* it is not ours to write to */
};

enum { CHAIN_REASON_BYTES = 300 };

/* ret_reason says why for people; with CHAIN_REFUSE it names the cure. */
enum chain_action chain_decide(const struct chain_local *local, const struct chain_head *head,
	char ret_reason[CHAIN_REASON_BYTES]);
