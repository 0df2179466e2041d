/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Large steps of many rows that their client lets us cut (`atomic:false`): how many of the rows are
 * applied stands in _lf_chunk, written in the transaction that applied them, under the identity of
 * the request. Whoever sends it again, after whatever end of the daemon, goes on there.
 *
 * Everything belongs to the writer's thread, inside a transaction.
 */

#include "server/store/dedupe.h"
#include "server/store/store.h"

struct many_progress {
	uint64_t rows; /* applied; 0: none yet */
	int64_t changes;
	int64_t total;
	int64_t rowid;
};

/* 0; STORE_MISMATCH: it was begun with other content; STORE_RESOURCE. */
int store_many_read(struct store *store, const struct identity *identity,
	struct many_progress *ret_progress, struct store_error *error);

/* The same of a request that is not applied in slices; quick as long as there are none. */
int store_many_look(
	struct store *store, const struct identity *identity, struct store_error *error);

/*
 * Whether a step may be cut at all: STORE_BAD_REQUEST if it names rowids that VACUUM, between two slices, gives to
 * other rows, or asks for the counts of the statements before.
 */
int store_many_check(
	struct store *store, enum role role, const struct step *step, struct store_error *error);

/* Writes down how far it is; `over`: forgets it, for the answer is remembered. 0 or STORE_RESOURCE. */
int store_many_save(struct store *store, const struct identity *identity,
	const struct many_progress *progress, bool over, struct store_error *error);
