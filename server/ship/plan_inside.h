/* SPDX-License-Identifier: MIT */
#pragma once

/* What plan.c, the way to a point, and plan_aim.c, the point that is meant, share. */

#include "server/ship/plan.h"

struct way {
	size_t *files;
	size_t count;
	size_t room;
};

struct plan {
	plan_look look;
	void *ctx;
	struct plan_file *files; /* sorted by level, min, max */
	size_t count;
	size_t room;
	bool sorted;
	size_t level_end[REPLICA_LEVEL_MAX + 1];
	uint64_t *furthest; /* of the files of its level up to this one, the greatest max_txid */
	bool *dead;         /* no way leads on from there */
	size_t *points; /* one file for each max_txid, ascending; the lowest level that has it */
	size_t point_count;
	struct plan_file *doubt; /* see plan_doubt() */
	struct way way;          /* being searched */
	struct way best;         /* what was found */
};

/* Puts the files in order, once. -ENOMEM. */
int plan_sort(struct plan *plan);

/* Looks at a file, if nobody has. 0, also if it is bad then; or what the look returned. */
int plan_know(struct plan *plan, struct plan_file *file, struct replica_error *ret_error);
