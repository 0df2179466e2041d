/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A database file that was made elsewhere, put into the place of another one without a moment in
 * which a crash would leave a mixture: a -wal of the old database beside the new one would bring old
 * rows back.
 *
 * Results: 0, or INSTALL_REFUSED or negative errno, with a sentence.
 */

#include "server/base/place.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum install_condition {
	INSTALL_REFUSED = 1,
	INSTALL_EXISTS, /* there is something, and it was not said to replace it */
};

enum { INSTALL_ERROR_BYTES = PLACE_TEXT_BYTES };

struct install {
	struct place place;
	int lock_fd;
	char *dir;    /* OUT.restore-tmp, ours alone */
	char *file;   /* the path in it where the new database is to be made */
	char *before; /* OUT.before-<time>, once something was moved there */
	bool exists;  /* OUT, or something that belongs to it */
	uid_t uid;    /* what the new one gets */
	gid_t gid;
	mode_t mode;
};

/*
 * Takes the lock of the daemon and makes the directory of work, empty. With `force` what is there may
 * be replaced, unless a daemon or anybody else has it open.
 */
int install_begin(
	struct install *install, const char *out, bool force, char ret_error[INSTALL_ERROR_BYTES]);

/*
 * Moves the old files aside and the new one into their place, on the disk when it returns. `note`,
 * if not NULL, becomes the content of OUT-restored, which makes the next start begin a new epoch.
 */
int install_commit(struct install *install, const char *note, char ret_error[INSTALL_ERROR_BYTES]);

/* Removes the directory of work and lets go of the lock. Accepts a zeroed one with lock_fd -1. */
void install_finish(struct install *install);
