/* SPDX-License-Identifier: MIT */

/* The only file that asks the system for the time. */

#include "server/base/clock.h"

#include <stddef.h>
#include <time.h>

static uint64_t read_clock(clockid_t id)
{
	struct timespec now;
	clock_gettime(id, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t system_monotonic_us(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

static uint64_t system_wall_us(void)
{
	return read_clock(CLOCK_REALTIME);
}

static const struct clock_source system_source = {system_monotonic_us, system_wall_us};
static const struct clock_source *current = &system_source;

void clock_set_source(const struct clock_source *source)
{
	current = source != NULL ? source : &system_source;
}

uint64_t clock_now_us(void)
{
	return current->monotonic_us();
}

uint64_t clock_wall_us(void)
{
	return current->wall_us();
}

uint64_t clock_thread_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
