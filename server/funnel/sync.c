/* SPDX-License-Identifier: MIT */

/*
 * The method `sync`: answered when everything that is committed now is on every replica. It never
 * sees the writer: it is a request that is held from the start.
 */

#include "server/base/clock.h"
#include "server/funnel/call.h"
#include "server/funnel/reply.h"

/* The result, ready to go out: {commit, epoch}. */
static bool build(struct call *call, struct request *request)
{
	static const uint8_t kind = PAYLOAD_RESULT;
	const struct reply_facts facts = {.epoch = call->funnel->epoch};
	msgpack_packer packer;
	buffer_append(&request->payload, &kind, 1);
	buffer_packer(&request->payload, &packer);
	msgpack_pack_map(&packer, 2);
	pack_key_uint(&packer, "commit", request->commit_no);
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, call->funnel->epoch, STORE_EPOCH_BYTES);
	request->outcome = OUTCOME_OK;
	reply_build(request, &facts);
	return !request->payload.failed;
}

bool sync_begin(struct call *call)
{
	void *room = NULL;
	if (call->funnel->shipping == NULL) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"there is no replica to be in step with (setting replica)");
		return false;
	}
	struct request *request = request_new(REQUEST_SYNC, 0, &room);
	if (request == NULL) {
		failure_set(&call->failure, FAILURE_INTERNAL, "out of memory");
		return false;
	}
	request->id = call->message->id;
	request->ack = ACK_EVERYWHERE;
	request->commit_no = writer_commit_no(call->funnel->writer);
	request->received_us = clock_now_us();
	request->credentials = credentials_ref(call->peer->credentials);
	if (!call_take_deadline(call, &request->deadline_us) || !build(call, request)) {
		request_free(request);
		return false;
	}
	peer_add(call->peer, request);
	shipping_hold(call->funnel->shipping, request);
	funnel_watch_times(call->funnel);
	return true;
}
