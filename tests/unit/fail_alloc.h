/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Allocation failures on order. The executable is linked with --wrap=malloc, --wrap=calloc and
 * --wrap=realloc, and with static msgpack-c, so that its allocations are counted too.
 *
 *	fail_alloc_at(0);      count only
 *	fail_alloc_at(3);      the third allocation from now on fails, once
 */

#include <stddef.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *at, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *at, size_t size);

static unsigned fail_alloc_count; /* allocations since fail_alloc_at() */
static unsigned fail_alloc_which;

static void fail_alloc_at(unsigned which)
{
	fail_alloc_count = 0;
	fail_alloc_which = which;
}

static int fail_alloc_now(void)
{
	return ++fail_alloc_count == fail_alloc_which;
}

void *__wrap_malloc(size_t size)
{
	return fail_alloc_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	return fail_alloc_now() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *at, size_t size)
{
	return fail_alloc_now() ? NULL : __real_realloc(at, size);
}
