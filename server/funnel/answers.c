/* SPDX-License-Identifier: MIT */

/*
 * What becomes of an answer: to its peer, if that is still there, at once or when its commit is shipped.
 * Each request that was taken is answered exactly once, and freed here.
 */

#include "server/base/clock.h"
#include "server/funnel/conduct.h"
#include "server/funnel/hoard.h"
#include "server/funnel/lease.h"
#include "server/funnel/reply.h"

/* Hands an answered request's frame to its peer and frees the request. */
void funnel_deliver(struct funnel *funnel, struct request *request)
{
	struct peer *peer = funnel_find_peer(funnel, request->peer_id);
	if (request->kind == REQUEST_LEASE && request->outcome == OUTCOME_FAILED) {
		lease_answered(request->lease.of, request);
	}
	if (peer != NULL) {
		bool owed = !list_empty(&request->in_flight); /* a task is nobody's to answer */
		peer_remove(peer, request);
		if (request->reply.failed || (owed && request->reply.len == 0)) {
			/* There was no memory for its answer, and to wait for it would be in vain. */
			peer->out.failed = true;
			funnel_touch(funnel, peer);
		} else if (hoard_is_too_much(peer) && peer->state != PEER_CLOSED) {
			hoard_give_up(peer);
		} else if (peer->state < PEER_CLOSING && request->reply.len > 0) {
			buffer_append(&peer->out, request->reply.data, request->reply.len);
			funnel->delivered += request->reply.len;
			funnel_touch(funnel, peer);
			if (peer->in_flight_count == 0) {
				gather_answered(&funnel->gather, &peer->gather, clock_now_us());
			}
		}
	}
	request_free(request);
}

void funnel_refuse(
	struct funnel *funnel, struct request *request, enum failure_code code, const char *message)
{
	failure_set(&request->failure, code, "%s", message);
	request->failure.applied =
		request->begun ? APPLIED_UNKNOWN : request->failure.applied; /* in part */
	request->failure.retry_after_ms = code == FAILURE_SHUTTING_DOWN ? 200 : 0;
	request->outcome = OUTCOME_FAILED;
	reply_failed(request);
	funnel_deliver(funnel, request);
}

/* Requests that the loop itself answers with a failure. */
void funnel_refuse_all(
	struct funnel *funnel, struct list *requests, enum failure_code code, const char *message)
{
	list_for_each_safe(node, requests) {
		list_remove(node);
		funnel_refuse(funnel, container_of(node, struct request, node), code, message);
	}
}

/* True: it is committed, and its answer is to wait until it is shipped. */
static bool waits_for_shipping(const struct funnel *funnel, const struct request *request)
{
	return request->ack != ACK_COMMITTED && funnel->shipping != NULL &&
		reply_is_result(request) &&
		shipping_commit(funnel->shipping, false) < request->commit_no;
}

void funnel_answer(struct funnel *funnel, struct request *request)
{
	if (waits_for_shipping(funnel, request)) {
		shipping_hold(funnel->shipping, request);
		funnel_watch_times(funnel);
	} else {
		funnel_deliver(funnel, request);
	}
}

/* Lets go of answers whose commits are shipped, or whose time is up. `all`: no more waiting. */
void funnel_release_shipped(struct funnel *funnel, bool all)
{
	struct list shipped;
	struct list late;
	const struct reply_facts facts = {
		.epoch = funnel->epoch,
		.durability = funnel->sync_full ? "full" : "normal",
	};
	if (funnel->shipping == NULL) {
		return;
	}
	list_init(&shipped);
	list_init(&late);
	shipping_collect(funnel->shipping, clock_now_us(), all, &shipped, &late);
	list_for_each_safe(node, &late) {
		struct request *request = container_of(node, struct request, node);
		reply_not_shipped(request, &facts,
			all ? "it is committed; the daemon shuts down before it was shipped"
			    : "it is committed, but was not shipped within the deadline "
			      "(see `litefunnel show DB replicas`)");
		list_remove(node);
		list_push_back(&shipped, node);
	}
	list_for_each_safe(node, &shipped) {
		list_remove(node);
		funnel_deliver(funnel, container_of(node, struct request, node));
	}
	funnel_flush(funnel);
}

/* Hands on everything that the writer has answered. */
void funnel_collect(struct funnel *funnel)
{
	struct list answered;
	list_init(&answered);
	queue_collect(funnel->queue, &answered);
	list_for_each_safe(node, &answered) {
		list_remove(node);
		funnel_answer(funnel, container_of(node, struct request, node));
	}
	watches_collect(&funnel->watches);
	funnel_flush(funnel);
	hoard_bound_unread(funnel);
}

void funnel_answers_arrived(void *ctx)
{
	struct funnel *funnel = ctx;
	(void)writer_epoch(funnel->writer, &funnel->epochs, funnel->epoch);
	funnel_collect(funnel);
	chunk_desk_turn(funnel->chunks);
	funnel_flush(funnel);
	funnel_watch_times(funnel); /* the writer has put something off */
	funnel_check_drained(funnel);
	funnel_settle(funnel);
}

void funnel_shipping_arrived(void *ctx)
{
	struct funnel *funnel = ctx;
	funnel_release_shipped(funnel, false);
	funnel_check_drained(funnel);
	funnel_settle(funnel);
}
