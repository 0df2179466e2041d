/* SPDX-License-Identifier: MIT */
#pragma once

/* The drills that are remembered in the database. Between transactions only. */

#include "server/base/drill.h"
#include "server/store/store.h"

/*
 * One more, in a commit of its own; the oldest goes when there are too many, but for the newest that
 * passed. Sets record->id. 0; STORE_BUSY and STORE_RESOURCE: later; STORE_UNKNOWN as store_commit().
 */
int store_drill_add(struct store *store, struct drill_record *record, struct store_error *error);

/* Calls fn for each, oldest first. 0, or STORE_RESOURCE. */
int store_drills(struct store *store, void (*fn)(void *ctx, const struct drill_record *record),
	void *ctx, struct store_error *error);
