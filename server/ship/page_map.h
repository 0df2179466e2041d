/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A table from page numbers to a 64-bit value each: open addressing, grown by doubling. Page 0 is
 * none. A struct that is all zeros is an empty map.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct page_map {
	struct page_entry *entries;
	size_t capacity; /* a power of two, or 0 */
	size_t count;
};

struct page_entry {
	uint32_t page_no; /* 0: free */
	uint64_t value;
};

void page_map_finish(struct page_map *map);

/* Empties it and keeps the memory, unless it is much more than was used. */
void page_map_clear(struct page_map *map);

/* The value's place, or NULL. Good until the next put. */
uint64_t *page_map_get(const struct page_map *map, uint32_t page_no);

/* Sets the value. 0 or -ENOMEM. */
int page_map_put(struct page_map *map, uint32_t page_no, uint64_t value);

/* A copy of its own. 0 or -ENOMEM. */
int page_map_copy(const struct page_map *map, struct page_map *ret_map);

/* All entries in the order of their pages; free() it. NULL: no memory, or none. */
struct page_entry *page_map_sorted(const struct page_map *map);
