/* SPDX-License-Identifier: MIT */

/* A hash table of pages. It knows nothing of what the values mean. */

#include "server/ship/page_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CAPACITY_MIN = 1024, CAPACITY_KEEP = 1 << 17 };

static size_t slot(const struct page_map *map, uint32_t page_no)
{
	/* Fibonacci hashing: neighbours are spread, and a multiplication is all it takes. */
	uint64_t hash = (uint64_t)page_no * 0x9e3779b97f4a7c15u;
	size_t at = (size_t)(hash >> 32) & (map->capacity - 1);
	while (map->entries[at].page_no != 0 && map->entries[at].page_no != page_no) {
		at = (at + 1) & (map->capacity - 1);
	}
	return at;
}

void page_map_finish(struct page_map *map)
{
	free(map->entries);
	*map = (struct page_map){0};
}

void page_map_clear(struct page_map *map)
{
	if (map->capacity > CAPACITY_KEEP && map->count < map->capacity / 8) {
		page_map_finish(map);
	} else if (map->entries != NULL) {
		memset(map->entries, 0, map->capacity * sizeof(*map->entries));
		map->count = 0;
	}
}

uint64_t *page_map_get(const struct page_map *map, uint32_t page_no)
{
	if (map->count == 0) {
		return NULL;
	}
	struct page_entry *entry = &map->entries[slot(map, page_no)];
	return entry->page_no == page_no ? &entry->value : NULL;
}

static int grow(struct page_map *map)
{
	struct page_map bigger = {
		.capacity = map->capacity > 0 ? 2 * map->capacity : CAPACITY_MIN,
		.count = map->count,
	};
	bigger.entries = calloc(bigger.capacity, sizeof(*bigger.entries));
	if (bigger.entries == NULL) {
		return -ENOMEM;
	}
	for (size_t i = 0; i < map->capacity; i++) {
		if (map->entries[i].page_no != 0) {
			bigger.entries[slot(&bigger, map->entries[i].page_no)] = map->entries[i];
		}
	}
	free(map->entries);
	*map = bigger;
	return 0;
}

int page_map_put(struct page_map *map, uint32_t page_no, uint64_t value)
{
	if (4 * (map->count + 1) > 3 * map->capacity && grow(map) != 0) {
		return -ENOMEM;
	}
	struct page_entry *entry = &map->entries[slot(map, page_no)];
	map->count += entry->page_no == 0;
	*entry = (struct page_entry){page_no, value};
	return 0;
}

int page_map_copy(const struct page_map *map, struct page_map *ret_map)
{
	*ret_map = *map;
	ret_map->entries = NULL;
	if (map->capacity == 0) {
		return 0;
	}
	ret_map->entries = malloc(map->capacity * sizeof(*map->entries));
	if (ret_map->entries == NULL) {
		*ret_map = (struct page_map){0};
		return -ENOMEM;
	}
	memcpy(ret_map->entries, map->entries, map->capacity * sizeof(*map->entries));
	return 0;
}

static int by_page(const void *a, const void *b)
{
	uint32_t left = ((const struct page_entry *)a)->page_no;
	uint32_t right = ((const struct page_entry *)b)->page_no;
	return (left > right) - (left < right);
}

struct page_entry *page_map_sorted(const struct page_map *map)
{
	struct page_entry *sorted = calloc(map->count + 1, sizeof(*sorted));
	size_t count = 0;
	if (sorted == NULL) {
		return NULL;
	}
	for (size_t i = 0; i < map->capacity; i++) {
		if (map->entries[i].page_no != 0) {
			sorted[count++] = map->entries[i];
		}
	}
	qsort(sorted, count, sizeof(*sorted), by_page);
	return sorted;
}
