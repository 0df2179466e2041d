/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A request that has just arrived, for the functions that begin it: those of method.c, and of the
 * files beside it that hold the methods of one subject each.
 */

#include "server/funnel/conduct.h"

/* A message that is being looked at, and where to answer. */
struct call {
	struct funnel *funnel;
	struct peer *peer;
	const struct message *message;
	struct failure failure;
};

/* Each begins a method. False: call->failure is the answer. */
bool watch_begin(struct call *call);
bool unwatch_begin(struct call *call);
bool sync_begin(struct call *call);
bool chunk_begin(struct call *call);
bool chunk_ctl_begin(struct call *call);
bool vacuum_begin(struct call *call);
bool optimize_begin(struct call *call);
bool pause_begin(struct call *call);
bool resume_begin(struct call *call);
bool checkpoint_begin(struct call *call);
bool kill_begin(struct call *call);
bool drill_begin(struct call *call);
bool begin_begin(struct call *call);
bool step_begin(struct call *call);
bool fetch_begin(struct call *call);
bool close_begin(struct call *call);
bool commit_begin(struct call *call);
bool rollback_begin(struct call *call);
bool describe_in_lease(struct call *call); /* `describe` with a lease */

/* True: the connection has an open lease, and call->failure says so. */
bool lease_forbids(struct call *call);
/* True: it was withdrawn, and is the caller's to answer. */
bool lease_cancel_request(struct request *request);

/* The result {}. */
void call_answer_empty(struct call *call);

/*
 * Params that many methods have. An absent one leaves what it is read into as it is; a wrong one is
 * `bad_request`, and false. Texts have PEER_NAME_MAX bytes at most; the deadline is absolute.
 */
bool call_take_text(struct call *call, const char *key, char *to);
bool call_take_class(struct call *call, enum request_class *ret_class);
bool call_take_deadline(struct call *call, uint64_t *ret_deadline_us);

bool call_take_ack(struct call *call, struct request *request);

/* What a condition of queue_push() means. */
void call_queue_refused(struct call *call, int condition);

/*
 * Puts a request of this call's into the queue; its class and deadline are set. From here on it is
 * answered by the writer. False: it is freed, and call->failure says why.
 */
bool call_enqueue(struct call *call, struct request *request);

/* The same for one that has just been decoded, or not (NULL): takes class and deadline first. */
bool call_enqueue_decoded(struct call *call, struct request *request);

/* From here on the request is in flight on its connection, but in no queue. */
void call_admit(struct call *call, struct request *request);
