/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who else has locks on the database's shared memory: readers, and processes that write, checkpoint
 * or recover without us. Nothing is opened: closing any descriptor of the -shm would drop SQLite's own
 * locks. What it looks at is /proc/locks, and the descriptor that SQLite itself has open.
 *
 * Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { SHM_READ_SLOTS = 5, SHM_LOCKS_MAX = 64, SHM_COMMAND_BYTES = 64 };

enum shm_lock_kind { SHM_WRITE, SHM_CHECKPOINT, SHM_RECOVER, SHM_READ };
const char *shm_lock_kind_name(enum shm_lock_kind kind);

struct shm_lock {
	enum shm_lock_kind kind;
	unsigned slot;                   /* SHM_READ */
	pid_t pid;                       /* 0: it cannot be seen from here */
	bool other_namespace;            /* of pids: it lives in a container, or we do */
	char command[SHM_COMMAND_BYTES]; /* empty: not known */
	uint64_t mark;   /* SHM_READ: the last frame that it sees; 0 in slot 0: none at all */
	uint64_t pinned; /* SHM_READ: frames that cannot be copied while it reads */
};

struct shm_facts {
	uint64_t frames;     /* in the WAL */
	uint64_t backfilled; /* of these, in the database */
	size_t count;
	struct shm_lock locks[SHM_LOCKS_MAX]; /* of other processes */
};

/* 0, or negative: the shared memory is not there, or cannot be looked at. */
int shm_look(const char *db, struct shm_facts *ret_facts);

/* The process other than ours that has the write lock; 0: none, or it cannot be seen. */
pid_t shm_foreign_writer(const char *db, char ret_command[SHM_COMMAND_BYTES]);
