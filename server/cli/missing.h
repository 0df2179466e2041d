/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A database that is not there when its daemon starts, and one that came from a replica. The
 * restore itself is a child process: the funnel never holds credentials of a store.
 */

#include "server/base/place.h"

/*
 * Restores the database from the replicas (URLs separated by spaces), before its lock is taken.
 * CLI_DONE: it is there, or the replicas answered and hold nothing. Otherwise an exit code, said so
 * on stderr; also when SIGTERM or SIGINT came, which must be blocked.
 */
int missing_restore(const struct place *place, const char *replicas);

/*
 * The new epoch has begun: takes the marker DB-restored away, to DB-ship/restored, where it tells
 * the shipper from which segment of which epoch this database descends.
 */
void missing_forget(const struct place *place);
