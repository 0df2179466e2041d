/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One request on its way: made by the loop from a message, queued, run by the writer in a commit
 * group, answered, freed by the loop. It is one allocation with its steps and values; it names its
 * peer by id, for the client may leave while it runs.
 *
 *	   made ──▶ queued ──▶ taken ──▶ answered ──▶ freed
 *	             │  ▲         │
 *	   cancelled ┘  └─────────┘ given back: the commit group was full, or the file was busy
 *
 * Between queue_push() and queue_collect() the request is the writer's, but for the fields that are
 * marked as the loop's.
 */

#include "proto/buffer.h"
#include "proto/message.h"
#include "server/base/list.h"
#include "server/funnel/credentials.h"
#include "server/funnel/failure.h"
#include "server/store/dedupe.h"
#include "server/store/store.h"

enum request_kind { REQUEST_WRITE, REQUEST_DESCRIBE, REQUEST_BYE };

/* In the order in which they are served. */
enum request_class { CLASS_INTERACTIVE, CLASS_NORMAL, CLASS_BULK, CLASS_COUNT };
const char *request_class_name(enum request_class class);
bool request_class_parse(struct span name, enum request_class *ret_class);

/* How a request ended. */
enum outcome { OUTCOME_OPEN, OUTCOME_OK, OUTCOME_FAILED, OUTCOME_REPEAT };

struct request {
	struct list node; /* in a queue, a commit group, or among the answered */
	bool taken;       /* the queue's, under its lock: the writer has it */

	/* The loop's. */
	struct list in_flight; /* peer::in_flight[] */
	uint64_t peer_id;

	uint32_t id; /* on the wire */
	enum request_kind kind;
	enum request_class class;
	struct credentials *credentials; /* counted by the loop; the writer only reads */
	size_t bytes;                    /* what it counts in the queue */
	uint64_t received_us;
	uint64_t deadline_us; /* not begun by then: answered `deadline` */

	struct identity identity;
	struct guard guard; /* its epoch is NULL if there is none */
	struct step *steps; /* REQUEST_WRITE; of REQUEST_DESCRIBE only the sql of the first */
	size_t steps_count;

	/* The writer's. */
	bool use_savepoint; /* learned when it ran without one */
	bool condemned; /* it threw a transaction away: its failure stands, do not run it again */
	enum outcome outcome;
	struct failure failure;
	struct buffer payload; /* what is remembered and answered: see reply.h */
	uint64_t commit_no;
	uint64_t taken_us;
	uint64_t exec_us;
	uint64_t commit_us;
	uint64_t group; /* batches in its commit group */

	struct buffer reply; /* the frame that answers it */
};

/* Room behind the struct for `extra` bytes, aligned for anything. NULL: no memory. */
struct request *request_new(enum request_kind kind, size_t extra, void **ret_extra);
void request_free(struct request *request); /* accepts NULL; the loop's */
