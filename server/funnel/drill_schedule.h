/* SPDX-License-Identifier: MIT */
#pragma once

/* What a drill goes by: when it is due, where, how far behind the replica was. No state of its own. */

#include "server/base/config.h"
#include "server/funnel/drill_memory.h"
#include "server/funnel/gate.h"

/*
 * Microseconds until a drill is due, 0: it is, UINT64_MAX: never, and of which replica. The first
 * of a daemon, or of a replica, leaves it some minutes.
 */
uint64_t drill_next(const struct config *config, const struct board *board, uint64_t started_us,
	const struct drill_memory *memory, size_t *ret_replica);

/* How many replicas the settings name. */
size_t drill_replicas(const struct config *config);

/* What the replica does not have at that moment: `behind` and `rpo_ms` of the record. */
void drill_measure_lag(
	const struct board *board, struct gate *gate, size_t replica, struct drill_record *record);

/* How many bytes the WAL may reach while checkpoints are held back. */
uint64_t drill_wal_bytes_max(const struct config *config, const struct board *board);

/*
 * The restore's order but its step: where from and to, and what is asked. 0, or -ENAMETOOLONG.
 * `spool` is DB-ship.
 */
int drill_fill_order(const struct config *config, size_t replica, const char *db, const char *spool,
	struct drill_order *order);
