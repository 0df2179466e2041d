/* SPDX-License-Identifier: MIT */
#pragma once

/* A directory for a database that is made only to be looked at, and removed again. */

#include <stdint.h>

struct scratch {
	char *dir;
	char *file; /* a path in it */
};

/* `where`, or TMPDIR, or /var/tmp. 0, or an exit code, said so on stderr. */
int scratch_begin(struct scratch *scratch, const char *command, const char *where);

/*
 * That very directory, for us alone. One of ours that is there already is emptied: it was left behind.
 * 0 or negative errno.
 */
int scratch_begin_at(struct scratch *scratch, const char *dir);

/* Removes it with what is in it. Accepts a zeroed one. */
void scratch_finish(struct scratch *scratch);

/* Bytes that are free there for this user; UINT64_MAX if nobody can tell. */
uint64_t scratch_free_bytes(const struct scratch *scratch);
