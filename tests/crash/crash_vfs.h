/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A layer between SQLite and its unix VFS that can do three things to the files of one database:
 *
 *  - write down on a tape all that changes them, and what was acknowledged when;
 *  - let the k-th call of a kind fail, once or from then on;
 *  - be dead, as after a crash: nothing reaches the files any more.
 *
 * The -shm is never taped: it is rebuilt by whoever opens the database first. One process, one
 * database, one thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum db_file { FILE_DB, FILE_WAL, FILE_JOURNAL, FILE_COUNT, FILE_OTHER = FILE_COUNT };
extern const char *const db_file_suffix[FILE_COUNT];

enum tape_kind {
	TAPE_CREATE,   /* the name of a new, empty file */
	TAPE_DELETE,   /* the name is gone */
	TAPE_DIR_SYNC, /* all names so far are on the disk */
	TAPE_WRITE,
	TAPE_TRUNCATE,
	TAPE_SYNC,        /* all writes to that file so far are on the disk */
	TAPE_SYNC_FAILED, /* … may be, each for itself, and no later sync will bring them there */
	TAPE_SENT,        /* batches below that number have been sent */
	TAPE_ACKED,       /* everything up to a commit number has been acknowledged */
	TAPE_CHECKPOINT,  /* a checkpoint begins (number 1) or has ended (number 0) */
};

struct tape_entry {
	enum tape_kind kind;
	enum db_file file;
	uint64_t number; /* offset of a write, size of a truncation, commit number of an ack */
	size_t len;
	size_t at; /* of the written bytes in tape::bytes */
};

struct tape {
	struct tape_entry *entries;
	size_t count;
	size_t cap;
	uint8_t *bytes;
	size_t bytes_len;
	size_t bytes_cap;
};

void tape_clear(struct tape *tape);
void tape_finish(struct tape *tape);
void tape_mark(struct tape *tape, enum tape_kind kind, uint64_t number); /* accepts NULL */

enum vfs_op {
	VFS_OPEN,
	VFS_READ,
	VFS_WRITE,
	VFS_TRUNCATE,
	VFS_SYNC,
	VFS_DELETE,
	VFS_SIZE,
	VFS_SHM_MAP,
	VFS_SHM_LOCK,
	VFS_OP_COUNT,
};
const char *vfs_op_name(enum vfs_op op);

struct vfs_fault {
	enum vfs_op op;
	uint64_t at;  /* the first call is 1 */
	bool sticky;  /* … and every later one */
	bool partial; /* a part of the write is done, or of the read comes */
	bool trap;    /* SIGTRAP where it strikes first, for a debugger */
	int code;     /* what SQLite is told */
};

/* Registers the layer as the default VFS. Before the first database is opened. */
void crash_vfs_install(void);

/* Where to write down; NULL: nowhere. */
void crash_vfs_tape(struct tape *tape);

/* Syncs are answered with OK and not done, as with PRAGMA synchronous = OFF. */
void crash_vfs_ignore_syncs(bool ignore);

/* The seed of what SQLite takes for randomness. */
void crash_vfs_seed(uint64_t seed);

/* Counts calls from zero, and fails those that the fault names. NULL: none. */
void crash_vfs_fault(const struct vfs_fault *fault);

struct vfs_fired {
	uint64_t times;    /* calls that failed */
	enum db_file file; /* of the first of them */
	bool in_commit;    /* it happened while the probe said so */
};
struct vfs_fired crash_vfs_fired(void);
uint64_t crash_vfs_calls(enum vfs_op op);

/* Asked when a fault strikes: is a COMMIT running? NULL: no. */
void crash_vfs_probe(bool (*in_commit)(void *ctx), void *ctx);

void crash_vfs_die(bool dead);
