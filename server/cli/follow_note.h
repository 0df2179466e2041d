/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * OUT-restored of a copy that follows a replica: where it stands, and, while a commit is being made,
 * where it will stand once that commit counts. Whoever finds it after a crash asks the WAL which of
 * both it is. A daemon that serves the copy later takes it for what it is: a database that was
 * restored.
 */

#include "server/base/place.h"
#include "server/ship/follow.h"
#include "server/store/copy.h"

#include <stdbool.h>

struct follow_note {
	struct follow_point at;
	struct copy_mark where; /* of it, in the WAL: another end than that is somebody else's */
	bool has_next;          /* valid: what follows */
	struct follow_point next;
	struct copy_mark mark; /* of next, in the WAL */
};

/* Durable when it returns: 0, or negative errno. */
int follow_note_write(
	const struct place *place, const struct follow_note *note, const char *replica);

/* False: there is none, or none of a copy that follows. */
bool follow_note_read(const struct place *place, struct follow_note *ret_note);
