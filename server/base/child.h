/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A child process that is this very program again: executed from /proc/self/exe, so that it is the
 * same build even after an upgrade has replaced the file. It inherits nothing but the standard
 * descriptors and those that are named.
 *
 * Each end learns of the other's death by the end of a socket pair; the child also dies by signal
 * when the thread that started it is gone.
 */

#include <stddef.h>
#include <sys/types.h>

enum { CHILD_FD_FIRST = 3, CHILD_FDS_MAX = 8 };

/*
 * Starts it with that argument vector. In the child, descriptor CHILD_FD_FIRST is its end of the
 * socket pair, and fds[i] is CHILD_FD_FIRST + 1 + i. 0 or negative errno; *ret_fd is ours to close.
 */
int child_start(
	const char *const *argv, const int *fds, size_t fds_count, pid_t *ret_pid, int *ret_fd);

/* The child's first act: dies with its parent. */
void child_bind_to_parent(void);

/* Waits at most that long for its end: 0, or -ETIMEDOUT. */
int child_wait(pid_t pid, int fd, int timeout_ms);
