/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the two files of directories as replicas share: replica_file.c, which opens, reads, lists
 * and deletes, and replica_file_put.c, which creates.
 */

#include "server/ship/replica_inside.h"

#include <linux/limits.h>

struct replica_dir {
	struct replica replica;
	char root[PATH_MAX];
	bool swept[REPLICA_LEVEL_MAX + 1];        /* of what crashes left behind */
	_Atomic bool seen[REPLICA_LEVEL_MAX + 1]; /* by this handle */
};

/*
 * The open directory of a level, or negative errno. A directory that is missing is made if `make`;
 * what was left behind by a crash over a day ago is removed when the first file is put. One that was
 * there and is not any more is -ENODEV, and so is one whose place is gone while another of them was there:
 * nobody of ours removes them, so their disk was unmounted, and what would be written under their name
 * would be on another one.
 */
int replica_dir_level(struct replica_dir *place, int level, bool make);

/* Which condition an errno is, with its sentence "WHAT NAME: errno". */
int replica_dir_fail(const struct replica *replica, struct replica_error *error, int number,
	const char *what, const char *name);

/* As in replica.h. */
int replica_dir_put(struct replica *replica, int level, const char *name, int fd, uint64_t size,
	int64_t timestamp_ms, const struct record *record, struct replica_error *ret_error);
int replica_dir_probe(struct replica *replica, struct replica_error *ret_error);
