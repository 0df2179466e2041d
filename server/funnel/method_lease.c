/* SPDX-License-Identifier: MIT */

/*
 * The methods of leases. Each finds its lease among those of its connection and hands it the request;
 * what is for none, or for one that is over, is answered at once.
 */

#include "server/base/clock.h"
#include "server/funnel/batch.h"
#include "server/funnel/call.h"
#include "server/funnel/lease.h"

#include <errno.h>
#include <string.h>

static bool take_uint(struct call *call, const char *key, uint64_t *ret_value)
{
	const struct field *field = message_field(call->message, key);
	if (field == NULL || !object_uint64(field->value, ret_value) || *ret_value > INT64_MAX) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "%s is an unsigned integer", key);
		return false;
	}
	return true;
}

/* The newest of that number. */
static struct lease *find_lease(const struct peer *peer, uint64_t number)
{
	for (struct list *at = peer->leases.prev; at != &peer->leases; at = at->prev) {
		struct lease *lease = container_of(at, struct lease, node);
		if (lease->number == number) {
			return lease;
		}
	}
	return NULL;
}

bool lease_forbids(struct call *call)
{
	list_for_each(node, &call->peer->leases) {
		if (lease_holds(container_of(node, struct lease, node))) {
			failure_set(&call->failure, FAILURE_BAD_REQUEST,
				"this connection has an open lease: commit it, roll it back, or use "
				"another connection");
			return true;
		}
	}
	return false;
}

static void gone(struct call *call)
{
	failure_set(&call->failure, FAILURE_LEASE_GONE,
		"there is no such lease: it has ended, or never begun");
	call->failure.open = 0;
}

static void expired(struct call *call, const struct lease *lease)
{
	char told[LEASE_LIMITS_TOLD_BYTES];
	failure_set(&call->failure, FAILURE_LEASE_EXPIRED, "%s",
		lease_limits_told(&lease->limits, told));
	call->failure.open = 0;
}

/* Hands it on. False: it is freed, and call->failure says why. */
static bool hand_on(struct call *call, struct lease *lease, struct request *request)
{
	struct peer *peer = call->peer;
	enum failure_code end = FAILURE_LEASE_GONE;
	request->class = lease->class;
	request->lease.of = lease;
	call_admit(call, request);
	int rc = lease_push(lease, request, &end);
	if (rc == 0) {
		return true;
	}
	peer_remove(peer, request);
	request_free(request);
	if (rc == LEASE_OVER && end == FAILURE_LEASE_EXPIRED) {
		expired(call, lease);
	} else if (rc == LEASE_OVER) {
		gone(call);
	} else {
		failure_set(&call->failure, FAILURE_OVERLOADED,
			"too much is sent ahead for this lease: wait for some answers");
		call->failure.open = 1;
	}
	return false;
}

/* ---- begin ---- */

static bool take_setting(
	struct call *call, const msgpack_object *set, const char *name, int *ret_value)
{
	const msgpack_object *value = object_get(set, name);
	bool on = false;
	*ret_value = -1;
	if (value != NULL && !object_bool(value, &on)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "set: %s is true or false", name);
		return false;
	}
	*ret_value = value != NULL ? on : -1;
	return true;
}

static bool take_settings(struct call *call, struct lease_settings *ret_settings)
{
	const struct field *set = message_field(call->message, "set");
	*ret_settings = (struct lease_settings){-1, -1, -1};
	if (set == NULL) {
		return true;
	}
	if (set->value->type != MSGPACK_OBJECT_MAP) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "set is a map");
		return false;
	}
	if (!take_setting(call, set->value, "foreign_keys", &ret_settings->foreign_keys) ||
		!take_setting(call, set->value, "defer_foreign_keys",
			&ret_settings->defer_foreign_keys) ||
		!take_setting(call, set->value, "recursive_triggers",
			&ret_settings->recursive_triggers)) {
		return false;
	}
	unsigned known = (ret_settings->foreign_keys >= 0 ? 1u : 0u) +
		(ret_settings->defer_foreign_keys >= 0 ? 1u : 0u) +
		(ret_settings->recursive_triggers >= 0 ? 1u : 0u);
	if (known != set->value->via.map.size) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"set takes foreign_keys, defer_foreign_keys and recursive_triggers, each once");
		return false;
	}
	return true;
}

/* Leases that are over need not be known any longer. */
static void forget_over(struct peer *peer)
{
	list_for_each_safe(node, &peer->leases) {
		struct lease *lease = container_of(node, struct lease, node);
		if (lease->task == NULL) {
			list_remove(node);
			lease_unref(lease);
		}
	}
}

static void deliver(void *ctx, struct request *request)
{
	funnel_answer(ctx, request);
}

/* The lease, known to its peer, and its task in the queue. */
static bool start(struct call *call, struct lease *lease, struct request *request)
{
	struct peer *peer = call->peer;
	const struct config *config = call->funnel->options->config;
	struct queue_limits limits = {config_number(config, SETTING_QUEUE_MAX),
		config_number(config, SETTING_QUEUE_BYTES_MAX)};
	struct request *task = lease->task;
	lease->peer_id = peer->id;
	lease->credentials = credentials_ref(peer->credentials);
	lease->class = request->class;
	lease->limits = lease_limits(
		peer->credentials, lease->known.label, lease->class, call->funnel->options->config);
	lease->deliver = deliver;
	lease->ctx = call->funnel;
	list_push_back(&peer->leases, &lease->node);
	if (!hand_on(call, lease, request)) {
		request_free(task);
		return false;
	}
	task->peer_id = peer->id;
	task->class = lease->class;
	task->credentials = credentials_ref(peer->credentials);
	task->identity.uid = (uint32_t)peer->credentials->uid;
	task->received_us = clock_now_us();
	int rc = queue_push(call->funnel->queue, task, &limits);
	if (rc != 0) {
		list_remove(&request->node);
		peer_remove(peer, request);
		request_free(request);
		lease->state = LEASE_ENDED;
		request_free(task);
		call_queue_refused(call, rc);
		call->failure.open = 0;
		return false;
	}
	funnel_watch_times(call->funnel);
	return true;
}

bool begin_begin(struct call *call)
{
	uint64_t number = 0;
	struct lease *lease = NULL;
	char label[PEER_NAME_MAX + 1];
	enum request_class class = call->peer->class;
	uint64_t deadline_us = 0;
	memcpy(label, call->peer->credentials->label, sizeof(label));
	if (!take_uint(call, "lease", &number) || !call_take_text(call, "label", label) ||
		!call_take_class(call, &class) || !call_take_deadline(call, &deadline_us) ||
		lease_forbids(call)) {
		return false;
	}
	struct request *request = begin_decode(call->message, &call->failure);
	if (request == NULL) {
		return false;
	}
	if (!take_settings(call, &request->lease.settings)) {
		request_free(request);
		return false;
	}
	forget_over(call->peer);
	if (lease_new(call->funnel->options->config, call->funnel->queue, &lease) < 0) {
		request_free(request);
		failure_set(&call->failure, FAILURE_INTERNAL, "out of memory");
		return false;
	}
	lease->number = number;
	memcpy(lease->known.label, label, sizeof(lease->known.label));
	request->lease.op = LEASE_OP_BEGIN;
	request->class = class;
	request->deadline_us = deadline_us;
	return start(call, lease, request);
}

/* ---- the others ---- */

/* The lease that is meant. False: call->failure is the answer. */
static bool take_lease(struct call *call, struct lease **ret_lease)
{
	uint64_t number = 0;
	if (!take_uint(call, "lease", &number)) {
		return false;
	}
	*ret_lease = find_lease(call->peer, number);
	if (*ret_lease == NULL) {
		gone(call);
	}
	return *ret_lease != NULL;
}

static bool with_deadline(struct call *call, struct lease *lease, struct request *request)
{
	if (!call_take_deadline(call, &request->deadline_us)) {
		request_free(request);
		return false;
	}
	request->own_deadline = message_field(call->message, "deadline_ms") != NULL;
	return hand_on(call, lease, request);
}

bool step_begin(struct call *call)
{
	struct lease *lease = NULL;
	if (!take_lease(call, &lease)) {
		return false;
	}
	struct request *request = step_decode(call->message, &call->failure);
	if (request == NULL) {
		call->failure.open = lease_holds(lease);
		return false;
	}
	return with_deadline(call, lease, request);
}

static struct request *plain(struct call *call, enum lease_op op)
{
	void *room = NULL;
	struct request *request = request_new(REQUEST_LEASE, 0, &room);
	if (request == NULL) {
		failure_set(&call->failure, FAILURE_INTERNAL, "out of memory");
		return NULL;
	}
	request->lease.op = op;
	return request;
}

static bool cursor_begin(struct call *call, enum lease_op op)
{
	struct lease *lease = NULL;
	uint64_t cursor = 0;
	uint64_t rows = 1;
	if (!take_lease(call, &lease) || !take_uint(call, "cursor", &cursor) ||
		(op == LEASE_OP_FETCH && !take_uint(call, "rows", &rows))) {
		return false;
	}
	if (rows < 1 || rows >= UINT32_MAX) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "rows is a number from 1");
		return false;
	}
	struct request *request = plain(call, op);
	if (request == NULL) {
		return false;
	}
	request->lease.cursor = cursor;
	request->lease.rows = (uint32_t)rows;
	return with_deadline(call, lease, request);
}

bool fetch_begin(struct call *call)
{
	return cursor_begin(call, LEASE_OP_FETCH);
}

bool close_begin(struct call *call)
{
	return cursor_begin(call, LEASE_OP_CLOSE);
}

/* One that comes again, on another connection or after a restart: the answer may be remembered. */
static bool commit_again(struct call *call, struct request *request)
{
	if (request->identity.kind == IDENTITY_NONE) {
		request_free(request);
		gone(call);
		return false;
	}
	request->kind = REQUEST_COMMIT;
	return call_enqueue(call, request);
}

bool commit_begin(struct call *call)
{
	uint64_t number = 0;
	if (!take_uint(call, "lease", &number)) {
		return false;
	}
	if (message_field(call->message, "seq") != NULL && !call->peer->has_session) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "seq needs a session in hello");
		return false;
	}
	struct request *request = commit_decode(call->message, number, &call->failure);
	if (request == NULL) {
		return false;
	}
	struct lease *lease = find_lease(call->peer, number);
	request->class = lease != NULL ? lease->class : call->peer->class;
	if (!call_take_deadline(call, &request->deadline_us) || !call_take_ack(call, request)) {
		request_free(request);
		return false;
	}
	bool known = lease != NULL &&
		(request->identity.kind == IDENTITY_NONE ||
			lease_facts(lease).state != LEASE_ENDED);
	return known ? hand_on(call, lease, request) : commit_again(call, request);
}

bool rollback_begin(struct call *call)
{
	struct lease *lease = NULL;
	struct request *request = NULL;
	if (!take_lease(call, &lease) || (request = plain(call, LEASE_OP_ROLLBACK)) == NULL) {
		return false;
	}
	return hand_on(call, lease, request);
}

bool describe_in_lease(struct call *call)
{
	struct lease *lease = NULL;
	if (!take_lease(call, &lease)) {
		return false;
	}
	struct request *request = describe_decode(call->message, &call->failure);
	if (request == NULL) {
		return false;
	}
	request->kind = REQUEST_LEASE;
	request->lease.op = LEASE_OP_DESCRIBE;
	return with_deadline(call, lease, request);
}

/* ---- from outside ---- */

void leases_of_closed_peer(struct peer *peer)
{
	list_for_each_safe(node, &peer->leases) {
		struct lease *lease = container_of(node, struct lease, node);
		list_remove(node);
		if (!lease_withdraw(lease, FAILURE_LEASE_GONE, "the connection is gone")) {
			lease_abandon(lease);
		}
		lease_unref(lease);
	}
}

void leases_of_gone_peer(struct peer *peer)
{
	list_for_each(node, &peer->leases) {
		struct lease *lease = container_of(node, struct lease, node);
		if (lease_holds(lease) &&
			!lease_withdraw(lease, FAILURE_LEASE_GONE, "the client is gone")) {
			lease_abandon(lease);
		}
	}
}

void leases_refuse_waiting(struct peer *peer)
{
	list_for_each(node, &peer->leases) {
		(void)lease_withdraw(container_of(node, struct lease, node), FAILURE_SHUTTING_DOWN,
			"the daemon is shutting down");
	}
}

void leases_abandon(struct peer *peer)
{
	list_for_each(node, &peer->leases) {
		lease_abandon(container_of(node, struct lease, node));
	}
}

bool leases_check_times(struct peer *peer, uint64_t now_us)
{
	bool again = false;
	list_for_each(node, &peer->leases) {
		struct lease *lease = container_of(node, struct lease, node);
		uint64_t deadline_us = lease_deadline_us(lease);
		if (deadline_us <= now_us &&
			lease_withdraw(lease, FAILURE_DEADLINE,
				"the deadline passed while the lease waited for its turn")) {
			continue;
		}
		again |= deadline_us != UINT64_MAX;
	}
	return again;
}

bool lease_cancel_request(struct request *request)
{
	struct lease *lease = request->lease.of;
	if (request->lease.op == LEASE_OP_BEGIN &&
		lease_withdraw(lease, FAILURE_CANCELLED, "cancelled before it began")) {
		return false; /* answered already */
	}
	return lease_cancel(lease, request);
}
