/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Rows one by one in one transaction, a lease: one that is refused leaves the others alone. So the many bad
 * rows of a piece cost one commit together, where batches, which are all or nothing, cost one for each.
 *
 * It holds the writer for as long as its rows take: give it few.
 */

#include "client/litefunnel.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIFT_ROWS = 256, SIFT_AHEAD = 16, SIFT_WHY_BYTES = 256 };

struct sift {
	lf_db *db;
	lf_lease *lease;
	uint64_t tickets[SIFT_AHEAD]; /* a ring: in the order sent */
	size_t sent;
	size_t answered;
	bool broken; /* something else than a row went wrong: nothing of it is kept */
	struct sift_refusal {
		size_t row; /* as they were given, from 0 on */
		char why[SIFT_WHY_BYTES];
	} refused[SIFT_ROWS];
	size_t refused_count;
	uint64_t changes;
	bool unshipped;
};

/* Begins, if the mark stands there. All return 0 or negative errno; finish in any case. */
int sift_begin(struct sift *sift, lf_db *db, const char *mark, uint64_t from);
int sift_row(struct sift *sift, const lf_batch *row);

/* What became of the rows is known; nothing is committed. */
int sift_look(struct sift *sift);

enum sift_end { SIFT_DONE, SIFT_BROKEN, SIFT_UNKNOWN };

/* A last step, and the commit. Broken: nothing is applied. */
int sift_commit(struct sift *sift, const lf_batch *last, enum sift_end *ret_end);
void sift_finish(struct sift *sift); /* rolls back what is not committed */
