/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who holds which locks on a file, and who has it open, as the kernel tells in /proc. No file is
 * opened for that but those of /proc: opening and closing a database would drop SQLite's own locks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct lock_seen {
	pid_t pid; /* 0 or less: of another pid namespace, or of an open file description */
	bool write;
	bool waits; /* for the lock; it does not hold it */
	uint64_t first;
	uint64_t last; /* UINT64_MAX: the end of the file, wherever that is */
};

/*
 * Calls `fn` for each lock on the file: POSIX ones and those of open file descriptions. dev 0 stands
 * for any device: some file systems give stat() another number than the kernel's tables hold. 0, or
 * -errno: /proc/locks cannot be read.
 */
int locks_each(
	dev_t dev, ino_t ino, void (*fn)(void *ctx, const struct lock_seen *lock), void *ctx);

enum { LOCKS_NAME_BYTES = 96 };

/* "pid 7 (sqlite3, uid 1000)", as far as it can be found out. */
void locks_name_process(pid_t pid, char ret_name[LOCKS_NAME_BYTES]);

/* Another process that has one of these files open for writing, or 0: none, or none that we may see. */
pid_t locks_find_writer(const char *const *paths, size_t count);
