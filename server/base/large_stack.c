/* SPDX-License-Identifier: MIT */

/* One mapping, whose lowest page is never touched: a call that is too deep even for this ends there. */

#include "server/base/large_stack.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

/* Sanitizers look at each byte of a stack. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STACK_BYTES ((size_t)256 << 20)
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define STACK_BYTES ((size_t)256 << 20)
#endif
#endif
#ifndef STACK_BYTES
#define STACK_BYTES ((size_t)2 << 30)
#endif

enum { STACK_BYTES_MIN = 16 << 20, GUARD_BYTES = 64 << 10, KEEP_BYTES = 1 << 20 };

/* The most that can be had. */
static void reserve(struct large_stack *stack)
{
	for (size_t bytes = STACK_BYTES; bytes >= STACK_BYTES_MIN; bytes /= 2) {
		void *low = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
		if (low != MAP_FAILED) {
			(void)mprotect(low, GUARD_BYTES, PROT_NONE);
			*stack = (struct large_stack){low, bytes};
			return;
		}
	}
	*stack = (struct large_stack){NULL, 0};
}

int large_stack_start(
	struct large_stack *stack, pthread_t *ret_thread, void *(*main)(void *ctx), void *ctx)
{
	pthread_attr_t attributes;
	int rc = pthread_attr_init(&attributes);
	if (rc != 0) {
		return -rc;
	}
	reserve(stack);
	if (stack->low != NULL) {
		rc = pthread_attr_setstack(&attributes, stack->low, stack->bytes);
	}
	rc = rc == 0 ? pthread_create(ret_thread, &attributes, main, ctx) : rc;
	pthread_attr_destroy(&attributes);
	if (rc != 0) {
		large_stack_free(stack);
	}
	return -rc;
}

void large_stack_free(struct large_stack *stack)
{
	if (stack->low != NULL) {
		(void)munmap(stack->low, stack->bytes);
	}
	*stack = (struct large_stack){NULL, 0};
}

void large_stack_trim(const struct large_stack *stack)
{
	char here;
	uintptr_t low = (uintptr_t)stack->low + GUARD_BYTES;
	uintptr_t now = (uintptr_t)&here;
	if (stack->low == NULL || now < low + KEEP_BYTES ||
		now > (uintptr_t)stack->low + stack->bytes) {
		return;
	}
	uintptr_t end = (now - KEEP_BYTES) & ~((uintptr_t)GUARD_BYTES - 1);
	if (end > low) {
		(void)madvise((char *)stack->low + GUARD_BYTES, end - low, MADV_DONTNEED);
	}
}
