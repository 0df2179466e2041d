/* SPDX-License-Identifier: MIT */
#pragma once

/* Whether this process is still the one that it was, without asking the kernel each time. */

#include <stdbool.h>
#include <sys/types.h>

struct fork_mark {
	unsigned char *page; /* its first byte is 0 in a child; NULL: this kernel cannot do that */
	pid_t pid;
};

void fork_mark_init(struct fork_mark *mark);
void fork_mark_finish(struct fork_mark *mark);

/* True in a child of the process that last called fork_mark_set(). */
bool fork_mark_forked(const struct fork_mark *mark);

/* From now on it is this process. */
void fork_mark_set(struct fork_mark *mark);
