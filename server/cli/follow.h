/* SPDX-License-Identifier: MIT */
#pragma once

/* `restore --follow`: keeps a copy that was restored up to date, until it is told to end. */

#include "server/base/place.h"
#include "server/cli/follow_note.h"
#include "server/cli/replicas.h"

#include <stdbool.h>

struct following {
	const struct place *place; /* its lock is held */
	const struct replicas *replicas;
	size_t replica; /* which of them is asked first */
	struct follow_note note;
	bool fresh; /* just restored, and proven */
	unsigned interval_ms;
	bool json;
};

/* Until SIGTERM, SIGINT or SIGHUP: CLI_DONE. CLI_FAILED, said so: the copy cannot go on. */
int follow_run(struct following *following);
