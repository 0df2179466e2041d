/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The shipper: a process of its own beside the funnel, without SQLite. It reads the database file
 * and the WAL, keeps the spool, and brings replicas what they lack. It may die at any moment: the
 * next one goes on where the spool says.
 */

#include "server/base/notice.h"

#include <stdbool.h>
#include <stdint.h>

struct shipper_options {
	const char *db;       /* real path */
	const char *spool;    /* directory */
	const char *replicas; /* URLs, separated by spaces */
	struct board *board;
	int parent_fd; /* closed when the funnel is gone */
	bool sync_wal; /* commits are not durable by themselves (sync = normal) */
	bool continue_litestream;
	uint64_t linger_ms;
	uint64_t spool_bytes_max;
	uint64_t disk_floor; /* free bytes below which the spool gives up what it holds */
	uint64_t snapshot_every_ms;
	uint64_t retention_ms;
	uint64_t compact_every_ms;
};

/* Until the funnel stops it or is gone: 0; negative errno: it cannot run (logged and reported). */
int shipper_run(const struct shipper_options *options);
