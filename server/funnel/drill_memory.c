/* SPDX-License-Identifier: MIT */

/* Copies of rows. What is dropped here is what the database drops. */

#include "server/funnel/drill_memory.h"

#include "server/store/drill.h"

#include <stdlib.h>
#include <string.h>

static void note(struct drill_memory *memory)
{
	memory->last = memory->count > 0 ? memory->kept[memory->count - 1] : NULL;
	memory->last_pass = NULL;
	for (size_t i = 0; i < memory->count; i++) {
		if (memory->kept[i]->verdict == DRILL_PASS) {
			memory->last_pass = memory->kept[i];
		}
	}
}

void drill_memory_add(struct drill_memory *memory, const struct drill_record *record)
{
	struct drill_record *copy = malloc(sizeof(*copy));
	if (copy == NULL) {
		return; /* it stands in the database */
	}
	*copy = *record;
	if (memory->count == DRILLS_KEPT) {
		size_t oldest = memory->kept[0] == memory->last_pass ? 1 : 0;
		free(memory->kept[oldest]);
		memory->count--;
		memmove(&memory->kept[oldest], &memory->kept[oldest + 1],
			(memory->count - oldest) * sizeof(memory->kept[0]));
	}
	memory->kept[memory->count++] = copy;
	note(memory);
}

static void add(void *ctx, const struct drill_record *record)
{
	drill_memory_add(ctx, record);
}

int drill_memory_load(struct drill_memory *memory, struct store *store, struct store_error *error)
{
	return store_drills(store, add, memory, error);
}

void drill_memory_finish(struct drill_memory *memory)
{
	for (size_t i = 0; i < memory->count; i++) {
		free(memory->kept[i]);
	}
	*memory = (struct drill_memory){0};
}

const struct drill_record *drill_memory_of(const struct drill_memory *memory, const char *replica)
{
	for (size_t i = memory->count; i-- > 0;) {
		if (strcmp(memory->kept[i]->replica, replica) == 0) {
			return memory->kept[i];
		}
	}
	return NULL;
}
