/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The files beside a database, and whether that place is safe.
 *
 * Nothing here opens the database or its -shm: closing such a descriptor would drop the POSIX locks
 * that SQLite holds in this process. Only stat, statfs and /proc/self/mountinfo are asked.
 *
 * Results are 0, a negative errno value, or one of the conditions below together with one line of
 * text that names the thing, the cause and the cure.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum place_condition {
	PLACE_REFUSED = 1, /* not here, or not like this */
	PLACE_MISSING = 2, /* the place is good, but there is no database yet */
	PLACE_LOCKED = 3,  /* another daemon serves this database */
};

/* sun_path holds 108 bytes with the NUL. */
#define PLACE_SOCKET_BYTES_MAX 107
#define PLACE_TEXT_BYTES       1024

/* All paths are absolute. `db` is the real path of the directory plus the name as it was given. */
struct place {
	char *dir;
	char *name; /* the last component of `db` */
	char *db;
	char *wal;
	char *shm;
	char *socket;
	char *lock;
	char *ship;
	char *reserve;
	char *poisoned;
	char *restored; /* left by `restore`: the next start begins a new epoch */
	char *adopted;  /* what `adopt` found, for `leave` */
};

/* What place_check() saw. */
struct place_report {
	char error[PLACE_TEXT_BYTES];   /* cause and cure, empty if the place is good */
	char warning[PLACE_TEXT_BYTES]; /* worth one line in the log, empty if there is none */
	char fstype[64];                /* "ext4"; empty if mountinfo does not tell */
	dev_t dev;                      /* identity of the database, 0 if it is missing */
	ino_t ino;
};

/*
 * Finds the files beside the database `db_arg`. The socket is, in this order: `socket_option`,
 * LITEFUNNEL_SOCKET, the real path of the database plus "-funnel". The database need not exist, its
 * directory must. On PLACE_REFUSED the text is in `ret_error`; `ret` then holds nothing.
 */
int place_resolve(const char *db_arg, const char *socket_option, struct place *ret, char *ret_error,
	size_t error_bytes);

/* Accepts a zeroed place. */
void place_finish(struct place *place);

/*
 * Whether a daemon that runs as `daemon_uid` and `daemon_gid` may serve the database here. 0, or
 * PLACE_REFUSED, or PLACE_MISSING (then everything else about the directory is good), or -errno.
 *
 * Who may write the directory: its owner must be the daemon or root, "others" must not, and its
 * group may only if it is the daemon's own primary group (a private group, as umask 002 makes it in
 * a developer's directory). The database file has no such exception: no group may write it.
 */
int place_check(
	const struct place *place, uid_t daemon_uid, gid_t daemon_gid, struct place_report *ret);

/*
 * The part of place_check() that no change of owner or mode can cure: the filesystem, and what kind
 * of file the database is.
 */
int place_check_ground(const struct place *place, struct place_report *ret);

/*
 * Takes the lock that makes this process the only daemon of the database, and writes its pid into
 * the file. It is held as long as `ret_fd` is open (forked children must not keep it: O_CLOEXEC)
 * and the file is never unlinked. PLACE_LOCKED names the pid of the other one. One lock for a path
 * is enough, because place_check() refuses hard links and symbolic links: one inode has one path.
 */
int place_lock(const struct place *place, int *ret_fd, char *ret_error, size_t error_bytes);

/* The parts of place_check() that need no real mount, for tests. */
enum place_fs {
	PLACE_FS_LOCAL = 0,
	PLACE_FS_OVERLAY = 1, /* local, but gone with the container */
	PLACE_FS_REMOTE = 2,  /* shared with another kernel or served by another process */
};

enum place_fs place_fs_by_name(const char *fstype);
enum place_fs place_fs_by_magic(uint64_t magic);

/*
 * The filesystem type under `path` by the text of a mountinfo file: of mount `mount_id`, or, where
 * that is 0, of the longest mount point above `path`, the last one winning. False if none is found.
 */
bool place_fs_by_mountinfo(FILE *mountinfo, uint64_t mount_id, const char *path, char *ret_fstype,
	size_t fstype_bytes);
