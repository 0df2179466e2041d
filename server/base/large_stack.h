/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A thread for what calls itself as deep as its input says: SQLite's compiler does so for each level of an expression,
 * and names of views, clauses and generated columns put one expression into the next. The stack is reserved, not used:
 * it costs what is touched.
 */

#include <pthread.h>
#include <stddef.h>

struct large_stack {
	void *low; /* its end; NULL: the system's own size was all that could be had */
	size_t bytes;
};

/* Starts a thread that has it. 0 or -errno; large_stack_free() when the thread is gone. */
int large_stack_start(
	struct large_stack *stack, pthread_t *ret_thread, void *(*main)(void *ctx), void *ctx);
void large_stack_free(struct large_stack *stack);

/* Gives back what a deep call has left behind, if the calling thread is the one that has the stack. */
void large_stack_trim(const struct large_stack *stack);
