/* SPDX-License-Identifier: MIT */

/* Random, so that those whom one outage has stopped do not all come back at once. */

#include "server/ship/backoff.h"

#include <sys/random.h>

enum { DOUBLINGS_MAX = 20 };

uint64_t backoff_ms(unsigned failures, uint64_t first_ms, uint64_t max_ms)
{
	uint32_t random = 0;
	uint64_t bound_ms = first_ms << (failures < DOUBLINGS_MAX ? failures : DOUBLINGS_MAX);
	bound_ms = bound_ms < max_ms ? bound_ms : max_ms;
	(void)!getrandom(
		&random, sizeof(random), 0); /* without it, everybody waits the same time */
	return random % (bound_ms + 1);
}
