/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What a copy of a database lacks, from a replica: the segments behind the point where it stands, or,
 * if these do not lead on (retention has passed it by, another epoch has begun), everything from a
 * snapshot on. Each file is checked as in a restore, and the copy's digest carried along; nothing is
 * handed on as a commit that did not prove true.
 *
 * It knows no SQLite: the copy is a table of functions.
 *
 * Results: 0; a follow_condition with a sentence; negative errno, or what the copy's functions
 * returned, for what happened on this side.
 */

#include "server/ship/replica.h"
#include "server/ship/restore.h"

#include <stdbool.h>
#include <stdint.h>

struct follow;

enum follow_condition {
	FOLLOW_UNREACHABLE = 500, /* it does not answer, or not with what it stored: later */
	FOLLOW_BEHIND,            /* what it holds ends before the point where the copy stands */
	FOLLOW_DAMAGED,           /* no way leads on: what is there does not prove true */
};

/* Where a copy stands. */
struct follow_point {
	struct restore_point at;
	uint32_t pages;
};

/* The copy. Each function: 0, or a result that ends the step and is passed up. */
struct follow_copy {
	int (*begin)(void *ctx);
	/* The page as it is, with what was added since the beginning. */
	int (*read)(void *ctx, uint32_t page_no, uint8_t *page);
	int (*add)(void *ctx, uint32_t page_no, const uint8_t *page);
	/* All that was added since the beginning is visible from now on, and durable. */
	int (*commit)(void *ctx, const struct follow_point *reached);
	/* Nothing of it. Called after a failure of any kind. */
	void (*abandon)(void *ctx);
	bool (*stopping)(void *ctx);
	void *ctx;
	uint32_t page_size;
};

/* What a step has found and done. */
struct follow_news {
	size_t files;
	uint64_t bytes;
	bool anew;              /* it had to begin with a snapshot */
	bool new_epoch;         /* the lineage has changed */
	bool more;              /* there is more to be had at once */
	uint64_t newest_txid;   /* of the replica, as far as is known */
	uint64_t newest_commit; /* of the replica; 0: not known */
};

int follow_new(const char *url, const struct follow_copy *copy, const struct follow_point *at,
	struct follow **ret_follow, struct replica_error *ret_error);
void follow_free(struct follow *follow); /* accepts NULL */
const struct follow_point *follow_at(const struct follow *follow);

/* Reads the whole copy. *ret_equal: it has the digest of its point; false also if that is not known. */
int follow_verify(struct follow *follow, bool *ret_equal);

/* The copy may not be what it should be at its point: the next step begins with a snapshot. */
void follow_doubt(struct follow *follow);

/* One look, and what follows from it. One request while there is nothing new. */
int follow_step(
	struct follow *follow, struct follow_news *ret_news, struct replica_error *ret_error);

/* From any thread: ends a request that is under way. For stopping. */
void follow_interrupt(struct follow *follow);
