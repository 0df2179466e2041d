/* SPDX-License-Identifier: MIT */

/* The method `drill`: one of every replica, now, answered when the last of them is over. */

#include "server/base/clock.h"
#include "server/funnel/call.h"

/* A drill takes as long as a restore does: without a deadline of its own, whoever asks waits. */
static bool take_deadline(struct call *call, uint64_t *ret_deadline_us)
{
	const struct field *field = message_field(call->message, "deadline_ms");
	uint64_t ms = 0;
	*ret_deadline_us = UINT64_MAX;
	if (field == NULL) {
		return true;
	}
	if (!object_uint64(field->value, &ms)) {
		failure_set(
			&call->failure, FAILURE_BAD_REQUEST, "deadline_ms is an unsigned integer");
		return false;
	}
	*ret_deadline_us = ms < INT64_MAX / 1000 ? clock_now_us() + ms * 1000 : UINT64_MAX;
	return true;
}

bool drill_begin(struct call *call)
{
	void *room = NULL;
	if (call->funnel->drills == NULL) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"there is no replica to restore from (setting replica)");
		return false;
	}
	struct request *request = request_new(REQUEST_DRILL, sizeof(struct drill_ask), &room);
	if (request == NULL) {
		failure_set(&call->failure, FAILURE_INTERNAL, "out of memory");
		return false;
	}
	request->id = call->message->id;
	request->received_us = clock_now_us();
	request->credentials = credentials_ref(call->peer->credentials);
	if (!take_deadline(call, &request->deadline_us) ||
		!drill_desk_hold(call->funnel->drills, request, room, &call->failure)) {
		request_free(request);
		return false;
	}
	peer_add(call->peer, request);
	return true;
}
