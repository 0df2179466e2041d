/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The files of one level of a replica, in the order of their names, as compaction and retention
 * need them; and whether the replica is still ours.
 */

#include "server/ship/replica.h"

struct catalog {
	struct replica_file *files;
	size_t count;
	size_t room;
	size_t limit;
};

/* At most `limit` files from `from` on: those with the lowest numbers. */
int catalog_read(struct replica *replica, int level, uint64_t from, size_t limit,
	struct catalog *ret_catalog, struct replica_error *ret_error);
void catalog_finish(struct catalog *catalog);

/*
 * REPLICA_EXISTS if level 0 holds numbers above `confirmed` that `writer` has not written: then
 * another daemon has taken the replica over, or our own has just got further than `confirmed` says.
 *
 * `known` (or NULL): a file of level 0 that must be there, since nobody of ours removes it; max_txid 0:
 * none is known. If it is not, REPLICA_AGAIN with `gone`; else it becomes the newest confirmed one.
 */
int catalog_ours(struct replica *replica, struct replica_file *known, uint64_t confirmed,
	const uint8_t writer[RECORD_ID_BYTES], struct replica_error *ret_error);
