/* SPDX-License-Identifier: MIT */
#pragma once

/* The last drills, as the database has them, for the loop. */

#include "server/base/drill.h"
#include "server/store/store.h"

#include <stddef.h>

struct drill_memory {
	struct drill_record *kept[DRILLS_KEPT]; /* oldest first */
	size_t count;
	const struct drill_record *last;      /* NULL: there was none */
	const struct drill_record *last_pass; /* … that passed */
};

/* What the store remembers. 0, or a condition of the store. */
int drill_memory_load(struct drill_memory *memory, struct store *store, struct store_error *error);
void drill_memory_finish(struct drill_memory *memory);

/* A copy of it; the oldest goes when there are too many, but for the newest that passed. */
void drill_memory_add(struct drill_memory *memory, const struct drill_record *record);

/* The last one of a replica, or NULL. */
const struct drill_record *drill_memory_of(const struct drill_memory *memory, const char *replica);
