/* SPDX-License-Identifier: MIT */
#pragma once

/* Turns of the writer for the database's own sake. Between transactions only. */

#include "server/store/store.h"

struct upkeep_facts {
	uint64_t bytes;      /* of the database file, the WAL not counted */
	uint64_t free_bytes; /* of that, pages that nothing uses */
	uint64_t disk_free;  /* where it lies */
	bool chunk_open;
};

int store_upkeep_look(
	struct store *store, struct upkeep_facts *ret_facts, struct store_error *error);

/*
 * Writes the whole database anew, without its free pages. It takes as long as that takes, and up to
 * four times the room: STORE_BAD_REQUEST if there is less, or a chunk is open. Its commit takes two
 * numbers, for SQLite's own commit has none. STORE_UNKNOWN as store_commit().
 */
int store_vacuum(struct store *store, struct store_error *error);

/* Fresh statistics for the planner, from samples of every index. As store_commit(). */
int store_optimize(struct store *store, struct store_error *error);
