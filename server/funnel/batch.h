/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * From the params of a message to a request with steps: what the shape of a batch is, and nothing
 * of what it does. The request owns copies of everything.
 */

#include "proto/message.h"
#include "server/funnel/request.h"

enum {
	BATCH_STEPS_MAX = 10000,
	SQL_BYTES_MAX = 1000000,
	GUARD_TABLES_MAX = 1000,
};

/*
 * The params of `write`, in memory of the shelf (see request_from()). NULL with the failure set:
 * bad_request, or internal without memory.
 */
struct request *batch_decode(
	const struct message *message, struct request_shelf *shelf, struct failure *failure);

/* The params of `describe`. */
struct request *describe_decode(const struct message *message, struct failure *failure);

/*
 * A task with one step, made of the params `sql` and `params`; its hash is that of both. Room for
 * `extra` bytes comes with it.
 */
struct request *statement_decode(
	const struct message *message, size_t extra, void **ret_extra, struct failure *failure);
/* The params of `begin`, of `step`, and of `commit`; all but what the methods have in common. */
struct request *begin_decode(const struct message *message, struct failure *failure);
struct request *step_decode(const struct message *message, struct failure *failure);
struct request *commit_decode(
	const struct message *message, uint64_t lease, struct failure *failure);
