/* SPDX-License-Identifier: MIT */
#pragma once

/* The child that does a drill, as the loop sees it: orders go down, reports come up, or it ends. */

#include "server/base/drill.h"
#include "server/funnel/loop.h"

#include <sys/types.h>

struct drill_process {
	struct loop *loop;
	/* A report is whole, or the child has ended. */
	void (*news)(void *ctx);
	void *ctx;

	pid_t pid; /* 0: there is none */
	int fd;
	struct loop_watch *watch;
	size_t got; /* bytes of `report` */
	bool reported;
	bool ended;
	struct drill_report report;
};

/* Takes over a child that was started. 0 or -ENOMEM. */
int drill_process_take(struct drill_process *process, pid_t pid, int fd);

/* Sends it an order; `reported` is false from here on. 0 or negative errno. */
int drill_process_order(struct drill_process *process, const struct drill_order *order);

/* Ends it, whatever it does. Does nothing if there is none. */
void drill_process_end(struct drill_process *process);
