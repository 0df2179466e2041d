/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * CLEANUP(fn) frees a local when its scope ends. Handing over is two visible lines: store into
 * *ret_…, set the local to NULL. A function uses this or goto, never both.
 */

#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(fn) __attribute__((cleanup(fn)))

static inline void free_ptr(void *at)
{
	free(*(void **)at);
}

static inline void close_fd(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
	}
}

#define CLEANUP_FREE CLEANUP(free_ptr)
#define CLEANUP_FD   CLEANUP(close_fd)
