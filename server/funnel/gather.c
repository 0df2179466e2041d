/* SPDX-License-Identifier: MIT */

/*
 * Whom it pays to wait for. Everybody is believed to write again at once until once that was not so;
 * who was waited for in vain is not for a while, twice as long each time.
 */

#include "server/funnel/gather.h"

enum { MISSES_MAX = 10 };

void gather_init(struct gather *gather)
{
	list_init(&gather->expected);
}

void gather_mark_init(struct gather_mark *mark)
{
	*mark = (struct gather_mark){0};
	list_init(&mark->node);
}

void gather_answered(struct gather *gather, struct gather_mark *mark, uint64_t now_us)
{
	list_remove(&mark->node);
	if (mark->doubt > 0) {
		mark->doubt--;
		return;
	}
	mark->answered_us = now_us;
	list_push_back(&gather->expected, &mark->node);
}

void gather_arrived(struct gather_mark *mark)
{
	if (!list_empty(&mark->node)) {
		mark->misses = 0;
		list_remove(&mark->node);
	}
}

void gather_forget(struct gather_mark *mark)
{
	list_remove(&mark->node);
}

static void missed(struct gather_mark *mark)
{
	if (mark->misses < MISSES_MAX) {
		mark->misses++;
	}
	mark->doubt = 1u << mark->misses;
	list_remove(&mark->node);
}

bool gather_waits(struct gather *gather, uint64_t now_us, uint64_t patience_us)
{
	while (!list_empty(&gather->expected)) {
		struct gather_mark *mark =
			container_of(gather->expected.next, struct gather_mark, node);
		if (now_us < mark->answered_us + patience_us) {
			return true;
		}
		missed(mark);
	}
	return false;
}
