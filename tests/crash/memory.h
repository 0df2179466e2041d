/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Allocations that fail on order, and a list of those that nobody has freed. The executable is
 * linked with --wrap for the allocating functions; SQLite is given allocators of ours. Only what
 * the product allocates counts: see world_watch_product().
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Before SQLite is used. */
void memory_install(void);

/* Counts from zero; the `at`-th allocation fails, and with `sticky` every later one. 0: none. */
void memory_fail_at(uint64_t at, bool sticky);
/* Raises SIGTRAP where the first failure strikes, for a debugger. */
void memory_trap(void);
void memory_watch(bool inside);

uint64_t memory_calls(void);
uint64_t memory_failed(void);

/* Allocations of the product that are still there; *ret_where is the code that made one of them. */
size_t memory_live(const void **ret_where);
