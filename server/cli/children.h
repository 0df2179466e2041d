/* SPDX-License-Identifier: MIT */
#pragma once

/* The processes that serve starts beside itself. */

#include "server/base/config.h"
#include "server/base/notice.h"

#include <sys/types.h>

/* Starts `litefunnel shipper` on that board. 0 or negative errno; *ret_fd tells of its end. */
int shipper_start(const struct config *config, const char *db, const char *spool,
	const struct board *board, pid_t *ret_pid, int *ret_fd);

/* Starts `litefunnel drill-child`, which waits for orders on that descriptor (base/drill.h). */
int drill_child_start(pid_t *ret_pid, int *ret_fd);
