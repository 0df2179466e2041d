/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Whom it pays to wait for. A client that is answered and writes again at once would just miss the
 * commit group that begins meanwhile, and clients would share commits in two halves that take turns.
 * A moment's patience, always shorter than the commit that it saves, brings them into one.
 *
 * Everything belongs to the loop's thread.
 */

#include "server/base/list.h"

#include <stdbool.h>
#include <stdint.h>

/* What is known of one connection. */
struct gather_mark {
	struct list node; /* gather::expected */
	uint64_t answered_us;
	uint32_t doubt;  /* so many answers more it is not waited for */
	uint32_t misses; /* in a row */
};

struct gather {
	struct list expected; /* marks, by answered_us */
};

void gather_init(struct gather *gather);
void gather_mark_init(struct gather_mark *mark);

/* It has its answer, and nothing more in flight. */
void gather_answered(struct gather *gather, struct gather_mark *mark, uint64_t now_us);

/* It has written again. */
void gather_arrived(struct gather_mark *mark);

/* It will not write again. */
void gather_forget(struct gather_mark *mark);

/* Whether somebody who was answered less than patience_us ago is still to be waited for. */
bool gather_waits(struct gather *gather, uint64_t now_us, uint64_t patience_us);
