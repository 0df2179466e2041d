/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Which files of a replica make a restore. A plan knows the files by their names, and learns what
 * else it needs of one (its record) only when that matters, because each look is a request.
 *
 * The way to a point is Litestream's: from the newest snapshot on, always the file that reaches
 * furthest. Where records are there, a file also has to fit: its digest_before must be the
 * digest_after of the file before it. One that does not fit, or was found to be damaged, is gone
 * around if other files lead to the same point.
 *
 * A restore point is the end of a file, except of a fuzzy base, whose record has no digest.
 *
 * Results: 0; a positive plan_condition, or a replica_condition as a look returned it; negative
 * errno.
 */

#include "server/ship/replica.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum plan_condition {
	PLAN_NONE = 100, /* no restore point at or before what was asked for */
	PLAN_BROKEN, /* the way ends before it: plan_steps() are the furthest that is possible */
};

enum { PLAN_FILES_MAX = 2000000 };

struct plan_file {
	struct replica_file file;
	struct record record; /* if known */
	bool looked;          /* record and known are valid */
	bool known;           /* it has a record of ours */
	bool bad;             /* never to be used: what it holds is not what it should be */
};

enum plan_target_kind { PLAN_LATEST, PLAN_TXID, PLAN_COMMIT, PLAN_TIME };

struct plan_target {
	enum plan_target_kind kind;
	uint64_t number; /* txid or commit number */
	int64_t time_ms; /* since 1970 */
};

/*
 * Completes file->record, known and looked. 0, or a replica_condition; after REPLICA_CORRUPT the
 * file counts as bad and the search goes on.
 */
typedef int (*plan_look)(void *ctx, struct plan_file *file, struct replica_error *ret_error);

struct plan;

/* -ENOMEM. */
int plan_new(plan_look look, void *ctx, struct plan **ret_plan);
void plan_free(struct plan *plan);

/* Before the first plan_aim(). -ENOMEM, or -E2BIG: more than PLAN_FILES_MAX. */
int plan_add(struct plan *plan, const struct replica_file *file);
/* Adds all files of all levels: 0, a replica_condition, or negative errno. */
int plan_read(struct plan *plan, struct replica *replica, struct replica_error *ret_error);

/* All files, by level and then name. */
size_t plan_files(const struct plan *plan);
struct plan_file *plan_file(struct plan *plan, size_t index);

/*
 * The restore point that a target means: for PLAN_LATEST the newest of all, for PLAN_TXID that one,
 * else the newest at or before the commit number or the time, in the newest epoch that has one.
 * 0, PLAN_NONE with a sentence, or what a look returned.
 */
int plan_aim(struct plan *plan, const struct plan_target *target, uint64_t *ret_txid,
	struct replica_error *ret_error);

/*
 * After plan_aim() at a commit: the first file behind the point found whose record is lost or cannot
 * be read, and whose end may be the one that was meant. NULL: there is none.
 */
struct plan_file *plan_doubt(const struct plan *plan);

/* The files that lead to `txid`, as far as is known: 0, PLAN_BROKEN, or -ENOMEM. */
int plan_find(struct plan *plan, uint64_t txid);

/*
 * For a broken way: looks at the files up to `txid`, so that full ones are known, from which a way
 * may begin too, and what does not fit. 0, or what a look returned; a missing file is no error.
 */
int plan_learn(struct plan *plan, uint64_t txid, struct replica_error *ret_error);

/* What plan_find() found, in the order in which they are applied. */
size_t plan_steps(const struct plan *plan);
struct plan_file *plan_step(struct plan *plan, size_t index);

/* False if the records of two files that follow each other contradict: `after` was not made on top. */
bool plan_fits(const struct plan_file *before, const struct plan_file *after);

/* True unless it is known that the end of this file is no restore point. */
bool plan_is_point(const struct plan_file *file);
