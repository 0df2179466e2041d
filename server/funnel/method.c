/* SPDX-License-Identifier: MIT */

/*
 * From a frame to what it asks for: the table of methods, each with the role that it needs and the
 * function that begins it. What needs the database becomes a request in the queue; the rest is
 * answered at once. Nothing here blocks.
 */

#include "proto/scan.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/funnel/batch.h"
#include "server/funnel/call.h"
#include "server/funnel/lease.h"
#include "server/funnel/many_task.h"
#include "server/funnel/reply.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { DEADLINE_MAX_MS = 600000, SHOW_LIKE_MAX = 127 };

void method_refuse(struct peer *peer, uint32_t id, struct failure *failure)
{
	reply_error(&peer->out, id, failure);
	failure_clear(failure);
}

void call_answer_empty(struct call *call)
{
	msgpack_packer packer;
	size_t mark = message_begin_result(&call->peer->out, call->message->id);
	buffer_packer(&call->peer->out, &packer);
	msgpack_pack_map(&packer, 0);
	frame_end(&call->peer->out, mark);
}

/* ---- params ---- */

bool call_take_text(struct call *call, const char *key, char *to)
{
	const struct field *field = message_field(call->message, key);
	struct span text;
	if (field == NULL) {
		return true;
	}
	if (!object_str(field->value, &text) || text.len > PEER_NAME_MAX ||
		memchr(text.data, 0, text.len) != NULL || !utf8_valid(text.data, text.len)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"%s is a string of at most 128 bytes of UTF-8 without NUL", key);
		return false;
	}
	memcpy(to, text.data, text.len);
	to[text.len] = 0;
	return true;
}

bool call_take_class(struct call *call, enum request_class *ret_class)
{
	const struct field *field = message_field(call->message, "class");
	struct span name;
	if (field == NULL ||
		(object_str(field->value, &name) && request_class_parse(name, ret_class))) {
		return true;
	}
	failure_set(&call->failure, FAILURE_BAD_REQUEST, "class is interactive, normal or bulk");
	return false;
}

bool call_take_deadline(struct call *call, uint64_t *ret_deadline_us)
{
	const struct field *field = message_field(call->message, "deadline_ms");
	uint64_t ms = config_number(call->funnel->options->config, SETTING_DEADLINE);
	if (field != NULL && !object_uint64(field->value, &ms)) {
		failure_set(
			&call->failure, FAILURE_BAD_REQUEST, "deadline_ms is an unsigned integer");
		return false;
	}
	*ret_deadline_us = clock_now_us() + (ms < DEADLINE_MAX_MS ? ms : DEADLINE_MAX_MS) * 1000;
	return true;
}

/* Whether writes of a class wait for shipping without being told to (setting ack_shipped). */
static bool class_acks_shipped(const struct config *config, enum request_class class)
{
	const char *list = config_text(config, SETTING_ACK_SHIPPED);
	const char *name = request_class_name(class);
	const char *at = strstr(list, name);
	size_t len = strlen(name);
	return at != NULL && (at == list || at[-1] == ',' || at[-1] == ' ') &&
		(at[len] == 0 || at[len] == ',' || at[len] == ' ');
}

bool call_take_ack(struct call *call, struct request *request)
{
	const struct field *field = message_field(call->message, "ack");
	bool replicas = call->funnel->shipping != NULL;
	struct span ack;
	if (field == NULL) {
		request->ack = replicas &&
				class_acks_shipped(call->funnel->options->config, request->class)
			? ACK_SHIPPED
			: ACK_COMMITTED;
		return true;
	}
	bool text = object_str(field->value, &ack);
	if (text && (span_equal(ack, "committed") || (replicas && span_equal(ack, "shipped")))) {
		request->ack = span_equal(ack, "shipped") ? ACK_SHIPPED : ACK_COMMITTED;
		return true;
	}
	failure_set(&call->failure, FAILURE_BAD_REQUEST,
		text && span_equal(ack, "shipped")
			? "ack \"shipped\" needs a replica, and none is configured (setting replica)"
			: "ack is \"committed\" or \"shipped\"");
	return false;
}

/* ---- hello ---- */

static bool take_proto(struct call *call)
{
	const struct field *field = message_field(call->message, "proto");
	uint64_t low = 0;
	uint64_t high = 0;
	const msgpack_object *value = field != NULL ? field->value : NULL;
	bool good = value != NULL && object_uint64(value, &low);
	high = low;
	if (!good && value != NULL && value->type == MSGPACK_OBJECT_ARRAY &&
		value->via.array.size == 2) {
		good = object_uint64(&value->via.array.ptr[0], &low) &&
			object_uint64(&value->via.array.ptr[1], &high) && low <= high;
	}
	if (!good) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "proto is a number or [min, max]");
		return false;
	}
	if (low > PROTO_VERSION || high < PROTO_VERSION) {
		failure_set(&call->failure, FAILURE_UNSUPPORTED_PROTO,
			"this daemon speaks protocol %d: use a client or a daemon that shares one",
			PROTO_VERSION);
		return false;
	}
	return true;
}

/* What a hello says; it becomes the peer's only if all of it is good. */
struct greeting {
	char client[PEER_NAME_MAX + 1];
	char label[PEER_NAME_MAX + 1];
	enum request_class class; /* CLASS_COUNT: it names none */
	bool has_session;
	uint8_t session[DEDUPE_SESSION_BYTES];
	bool epoch_changed;
	struct span was; /* the epoch that the client knows */
};

static bool take_client(struct call *call, struct greeting *greeting)
{
	if (message_field(call->message, "client") == NULL) {
		failure_set(
			&call->failure, FAILURE_BAD_REQUEST, "hello needs client, as \"name/1.0\"");
		return false;
	}
	return call_take_text(call, "client", greeting->client) &&
		call_take_text(call, "label", greeting->label);
}

static bool take_session(struct call *call, struct greeting *greeting)
{
	const struct field *field = message_field(call->message, "session");
	struct span session;
	if (field == NULL) {
		return true;
	}
	if (!object_bin(field->value, &session) || session.len != DEDUPE_SESSION_BYTES) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "session is a binary of 16 bytes");
		return false;
	}
	memcpy(greeting->session, session.data, session.len);
	greeting->has_session = true;
	return true;
}

/* What the client has seen may be of another lineage of the database. */
static bool take_seen(struct call *call, struct greeting *greeting)
{
	const struct field *field = message_field(call->message, "seen");
	const msgpack_object *epoch = field != NULL ? object_get(field->value, "epoch") : NULL;
	const msgpack_object *commit = field != NULL ? object_get(field->value, "commit") : NULL;
	uint64_t commit_no = 0;
	if (field == NULL) {
		return true;
	}
	if (epoch == NULL || commit == NULL || !object_uint64(commit, &commit_no) ||
		!object_bin(epoch, &greeting->was) || greeting->was.len != STORE_EPOCH_BYTES) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"seen is {epoch, commit} as an answer gave them");
		return false;
	}
	greeting->epoch_changed =
		memcmp(greeting->was.data, call->funnel->epoch, STORE_EPOCH_BYTES) != 0;
	return true;
}

static void pack_limits(msgpack_packer *packer, const struct config *config)
{
	const struct {
		const char *name;
		uint64_t number;
	} limits[] = {
		{"frame", config_number(config, SETTING_FRAME_BYTES_MAX)},
		{"nodes", 262144},
		{"depth", 16},
		{"steps", BATCH_STEPS_MAX},
		{"sql_bytes", SQL_BYTES_MAX},
		{"in_flight", config_number(config, SETTING_IN_FLIGHT_MAX)},
		{"rows", config_number(config, SETTING_ROWS_MAX)},
		{"result_bytes", config_number(config, SETTING_RESULT_BYTES_MAX)},
		{"session_window", config_number(config, SETTING_SESSION_WINDOW)},
		{"session_ttl_s", config_number(config, SETTING_SESSION_TTL) / 1000},
		{"key_ttl_s", config_number(config, SETTING_KEY_TTL) / 1000},
		{"key_bytes", DEDUPE_KEY_BYTES_MAX},
		{"deadline_ms", config_number(config, SETTING_DEADLINE)},
	};
	pack_cstr(packer, "limits");
	msgpack_pack_map(packer, sizeof(limits) / sizeof(limits[0]));
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		pack_key_uint(packer, limits[i].name, limits[i].number);
	}
}

static void pack_settings(msgpack_packer *packer, const struct funnel *funnel)
{
	pack_cstr(packer, "settings");
	msgpack_pack_map(packer, 4);
	pack_key_bool(packer, "foreign_keys", funnel->foreign_keys);
	pack_key_uint(packer, "page_size", funnel->page_size);
	pack_key_str(packer, "encoding", funnel->encoding);
	pack_key_str(packer, "sync", funnel->sync_full ? "full" : "normal");
}

static void pack_features(msgpack_packer *packer)
{
	static const char *const features[] = {"write", "describe", "cancel", "sessions", "keys",
		"show", "if_commit", "watch", "chunk", "atomic", "lease", "pause", "checkpoint",
		"kill", "drill", "vacuum", "optimize"};
	pack_cstr(packer, "features");
	msgpack_pack_array(packer, sizeof(features) / sizeof(features[0]));
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		pack_cstr(packer, features[i]);
	}
}

static void answer_hello(struct call *call, const struct greeting *greeting)
{
	struct funnel *funnel = call->funnel;
	struct peer *peer = call->peer;
	uint64_t commit_no = writer_commit_no(funnel->writer);
	msgpack_packer packer;
	size_t mark = message_begin_result(&peer->out, call->message->id);
	buffer_packer(&peer->out, &packer);
	msgpack_pack_map(&packer, 12u + peer->has_session + greeting->epoch_changed);
	pack_key_uint(&packer, "proto", PROTO_VERSION);
	pack_key_str(&packer, "server", "litefunnel/" LITEFUNNEL_VERSION);
	pack_key_str(&packer, "sqlite", store_engine_version());
	pack_key_str(&packer, "role", role_name(peer->credentials->role));
	pack_key_str(&packer, "class", request_class_name(peer->class));
	pack_key_str(&packer, "db", funnel->options->db);
	pack_key_uint(&packer, "pid", (uint64_t)getpid());
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, funnel->epoch, STORE_EPOCH_BYTES);
	pack_key_uint(&packer, "commit", commit_no);
	pack_settings(&packer, funnel);
	pack_features(&packer);
	pack_limits(&packer, funnel->options->config);
	if (peer->has_session) {
		uint64_t max_seq = 0;
		bool known = dedupe_peek(
			funnel->dedupe, (uint32_t)peer->credentials->uid, peer->session, &max_seq);
		pack_cstr(&packer, "session");
		msgpack_pack_map(&packer, 2);
		pack_key_bool(&packer, "known", known);
		pack_key_uint(&packer, "max_seq", max_seq);
	}
	if (greeting->epoch_changed) {
		pack_cstr(&packer, "epoch_changed");
		msgpack_pack_map(&packer, 2);
		pack_cstr(&packer, "was");
		pack_bin(&packer, greeting->was.data, greeting->was.len);
		pack_key_uint(&packer, "restored_to", commit_no);
	}
	frame_end(&peer->out, mark);
}

static bool do_hello(struct call *call)
{
	struct peer *peer = call->peer;
	struct greeting greeting = {.class = CLASS_COUNT};
	if (peer->state != PEER_GREETING) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "hello has been said");
		return false;
	}
	if (peer->credentials->role == ROLE_NONE) {
		const char *why = "";
		if (peer->credentials->overflow) {
			why = ": that uid stands for users without a name here (cure: run the client, "
			      "and the daemon, under a user of their own)";
		} else if (peer->credentials->foreign_root) {
			why = ": it is root of another user namespace";
		}
		failure_set(&call->failure, FAILURE_DENIED,
			"%s matches no role (settings roles_…)%s", peer->credentials->text, why);
		method_refuse(peer, call->message->id, &call->failure);
		peer_close(peer, FAILURE_DENIED, "no role");
		return true;
	}
	if (!take_proto(call) || !take_client(call, &greeting) ||
		!call_take_class(call, &greeting.class) || !take_session(call, &greeting) ||
		!take_seen(call, &greeting)) {
		return false;
	}
	/* No request shares the credentials yet. */
	memcpy(peer->credentials->label, greeting.label, sizeof(greeting.label));
	memcpy(peer->credentials->client, greeting.client, sizeof(greeting.client));
	memcpy(peer->session, greeting.session, sizeof(peer->session));
	peer->class_asked = greeting.class;
	peer_grant_class(peer);
	peer->has_session = greeting.has_session;
	peer_move(peer, PEER_OPEN);
	answer_hello(call, &greeting);
	return true;
}

/* ---- requests for the writer ---- */

void call_queue_refused(struct call *call, int condition)
{
	const struct config *config = call->funnel->options->config;
	bool closed = condition == QUEUE_CLOSED;
	if (closed) {
		failure_set(&call->failure, FAILURE_SHUTTING_DOWN, "the daemon is shutting down");
	} else {
		failure_set(&call->failure, FAILURE_OVERLOADED,
			"the queue is full: it takes %llu batches (setting queue_max) and %llu bytes "
			"(setting queue_bytes_max), and of one user a share",
			(unsigned long long)config_number(config, SETTING_QUEUE_MAX),
			(unsigned long long)config_number(config, SETTING_QUEUE_BYTES_MAX));
	}
	call->failure.retry_after_ms = closed ? 200 : 50;
}

void call_admit(struct call *call, struct request *request)
{
	struct peer *peer = call->peer;
	request->id = call->message->id;
	request->class = class_within(&peer->grant, request->class);
	request->credentials = credentials_ref(peer->credentials);
	request->identity.uid = (uint32_t)peer->credentials->uid;
	memcpy(request->identity.session, peer->session, DEDUPE_SESSION_BYTES);
	request->received_us = clock_now_us();
	peer_add(peer, request);
}

bool call_enqueue(struct call *call, struct request *request)
{
	struct peer *peer = call->peer;
	const struct config *config = call->funnel->options->config;
	struct queue_limits limits = {config_number(config, SETTING_QUEUE_MAX),
		config_number(config, SETTING_QUEUE_BYTES_MAX)};
	call_admit(call, request);
	gather_arrived(&peer->gather);
	int rc = queue_push(call->funnel->queue, request, &limits);
	if (rc == 0) {
		funnel_watch_times(call->funnel);
		return true;
	}
	peer_remove(peer, request);
	request_free(request);
	call_queue_refused(call, rc);
	return false;
}

bool call_enqueue_decoded(struct call *call, struct request *request)
{
	if (request == NULL) {
		return false;
	}
	request->class = call->peer->class;
	if (!call_take_class(call, &request->class) ||
		!call_take_deadline(call, &request->deadline_us) ||
		(request->kind == REQUEST_WRITE && !call_take_ack(call, request))) {
		request_free(request);
		return false;
	}
	request->own_deadline = message_field(call->message, "deadline_ms") != NULL;
	return call_enqueue(call, request);
}

static bool do_write(struct call *call)
{
	if (message_field(call->message, "seq") != NULL && !call->peer->has_session) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "seq needs a session in hello");
		return false;
	}
	if (lease_forbids(call)) {
		return false;
	}
	struct request *request = batch_decode(call->message, &call->funnel->shelf, &call->failure);
	if (request != NULL && request->steps[0].sliced) {
		const struct config *config = call->funnel->options->config;
		request->exec_timeout_us = config_number(config, SETTING_EXEC_TIMEOUT) * 1000;
		request->task = (struct task){.what = "write", .run = many_task_slice};
	}
	return call_enqueue_decoded(call, request);
}

static bool do_describe(struct call *call)
{
	if (message_field(call->message, "lease") != NULL) {
		return describe_in_lease(call);
	}
	if (lease_forbids(call)) { /* it would wait for itself */
		return false;
	}
	return call_enqueue_decoded(call, describe_decode(call->message, &call->failure));
}

static bool do_bye(struct call *call)
{
	void *room = NULL;
	if (!call->peer->has_session) {
		call_answer_empty(call); /* nothing to forget */
		return true;
	}
	struct request *request = request_new(REQUEST_BYE, 0, &room);
	if (request == NULL) {
		failure_set(&call->failure, FAILURE_INTERNAL, "out of memory");
		return false;
	}
	request->class = call->peer->class; /* in order, behind the writes of this connection */
	request->deadline_us = UINT64_MAX;
	return call_enqueue(call, request);
}

static void do_cancel(struct call *call)
{
	const struct field *field = message_field(call->message, "id");
	uint64_t id = 0;
	if (field == NULL || !object_uint64(field->value, &id) || id > UINT32_MAX) {
		return;
	}
	struct request *request = peer_find(call->peer, (uint32_t)id);
	bool lease = request != NULL && request->kind == REQUEST_LEASE;
	if (request == NULL || (lease && !lease_cancel_request(request)) ||
		(!lease && !chunk_desk_holds(request) && request->kind != REQUEST_SYNC &&
			request->kind != REQUEST_DRILL &&
			!queue_withdraw(call->funnel->queue, request))) {
		return; /* it runs, or is answered: the answer tells */
	}
	peer_remove(call->peer, request);
	failure_set(&call->failure, FAILURE_CANCELLED,
		chunk_desk_holds(request) ? "it is waited for no more"
					  : "cancelled before it began");
	call->failure.open = lease ? lease_holds(request->lease.of) : -1;
	method_refuse(call->peer, request->id, &call->failure);
	request_free(request);
}

/* ---- answered at once ---- */

static bool do_ping(struct call *call)
{
	msgpack_packer packer;
	size_t mark = message_begin_result(&call->peer->out, call->message->id);
	buffer_packer(&call->peer->out, &packer);
	msgpack_pack_map(&packer, 2);
	pack_key_uint(&packer, "commit", writer_commit_no(call->funnel->writer));
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, call->funnel->epoch, STORE_EPOCH_BYTES);
	frame_end(&call->peer->out, mark);
	return true;
}

static bool do_show(struct call *call)
{
	const struct field *what = message_field(call->message, "what");
	const struct field *like = message_field(call->message, "like");
	struct buffer *out = &call->peer->out;
	struct span name;
	struct span pattern = {0};
	const char *names = "";
	if (what == NULL || !object_str(what->value, &name) ||
		(like != NULL &&
			(!object_str(like->value, &pattern) || pattern.len > SHOW_LIKE_MAX))) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"what, and like if given, are strings of at most 127 bytes");
		return false;
	}
	size_t before = out->len;
	size_t mark = message_begin_result(out, call->message->id);
	if (!call->funnel->options->show(
		    call->funnel, name, pattern, call->peer->credentials, out, &names)) {
		buffer_truncate(out, before);
		failure_set(&call->failure, FAILURE_NOT_FOUND,
			"no table \"%.*s\" to show: there are %s",
			(int)(name.len < 64 ? name.len : 64), (const char *)name.data, names);
		return false;
	}
	frame_end(out, mark);
	return true;
}

static bool do_reload(struct call *call)
{
	char error[CONFIG_ERROR_BYTES] = "";
	struct buffer *out = &call->peer->out;
	msgpack_packer packer;
	size_t before = out->len;
	size_t mark = message_begin_result(out, call->message->id);
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 1);
	pack_cstr(&packer, "changed");
	if (funnel_reload(call->funnel, out, error) < 0) {
		buffer_truncate(out, before);
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "nothing was changed: %s", error);
		return false;
	}
	frame_end(out, mark);
	/* Behind the answer: it may take the role of whoever asked, and close its connection. */
	funnel_assign_roles(call->funnel);
	return true;
}

static bool do_shutdown(struct call *call)
{
	call_answer_empty(call);
	log_info("shutdown requested", log_str("by", call->peer->credentials->text));
	funnel_drain(call->funnel);
	return true;
}

/* ---- the table ---- */

static const struct method {
	const char *name;
	enum role role;
	bool (*begin)(struct call *call); /* false: call->failure is the answer */
} methods[] = {
	{"hello", ROLE_NONE, do_hello},
	{"write", ROLE_QUERY, do_write},
	{"describe", ROLE_QUERY, do_describe},
	{"begin", ROLE_QUERY, begin_begin},
	{"step", ROLE_QUERY, step_begin},
	{"fetch", ROLE_QUERY, fetch_begin},
	{"close", ROLE_QUERY, close_begin},
	{"commit", ROLE_QUERY, commit_begin},
	{"rollback", ROLE_QUERY, rollback_begin},
	{"watch", ROLE_QUERY, watch_begin},
	{"unwatch", ROLE_QUERY, unwatch_begin},
	{"chunk", ROLE_WRITE, chunk_begin},
	{"chunk_ctl", ROLE_WRITE, chunk_ctl_begin},
	{"vacuum", ROLE_ADMIN, vacuum_begin},
	{"optimize", ROLE_ADMIN, optimize_begin},
	{"ping", ROLE_STATS, do_ping},
	{"bye", ROLE_STATS, do_bye},
	{"show", ROLE_STATS, do_show},
	{"sync", ROLE_ADMIN, sync_begin},
	{"pause", ROLE_ADMIN, pause_begin},
	{"resume", ROLE_ADMIN, resume_begin},
	{"checkpoint", ROLE_ADMIN, checkpoint_begin},
	{"kill", ROLE_ADMIN, kill_begin},
	{"drill", ROLE_ADMIN, drill_begin},
	{"reload", ROLE_ADMIN, do_reload},
	{"shutdown", ROLE_ADMIN, do_shutdown},
};

static const struct method *find_method(struct span name)
{
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		if (span_equal(name, methods[i].name)) {
			return &methods[i];
		}
	}
	return NULL;
}

/* False: call->failure is the answer. */
static bool dispatch(struct call *call)
{
	struct peer *peer = call->peer;
	const struct method *method = find_method(call->message->method);
	if (peer->state == PEER_GREETING && (method == NULL || method->begin != do_hello)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "the first request must be hello");
		method_refuse(peer, call->message->id, &call->failure);
		peer_close(peer, FAILURE_BAD_REQUEST, "the first request must be hello");
		return true;
	}
	if (method == NULL) {
		failure_set(&call->failure, FAILURE_UNKNOWN_METHOD, "unknown method \"%.*s\"",
			(int)call->message->method.len, (const char *)call->message->method.data);
		return false;
	}
	if (peer->credentials->role < method->role) {
		failure_set(&call->failure, FAILURE_DENIED,
			"%s needs the role %s: %s has the role %s", method->name,
			role_name(method->role), peer->credentials->text,
			role_name(peer->credentials->role));
		return false;
	}
	if (peer_find(peer, call->message->id) != NULL) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"a request with this id has no answer yet");
		return false;
	}
	return method->begin(call);
}

static void handle(struct call *call, int parsed)
{
	const struct message *message = call->message;
	bool request = message->type == MESSAGE_REQUEST;
	if (parsed == MESSAGE_BROKEN || parsed < 0) {
		peer_close(call->peer, parsed < 0 ? FAILURE_OVERLOADED : FAILURE_BAD_REQUEST,
			parsed < 0 ? "out of memory" : message->reason);
	} else if (parsed == MESSAGE_BAD_REQUEST && request) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "%s", message->reason);
		method_refuse(call->peer, message->id, &call->failure);
	} else if (message->type == MESSAGE_NOTICE && parsed == 0 &&
		span_equal(message->method, "cancel")) {
		do_cancel(call);
	} else if (request && !dispatch(call)) {
		method_refuse(call->peer, message->id, &call->failure);
	}
	/* Other notices, and replies to questions that were never asked, are ignored. */
}

void method_frame(void *ctx, struct peer *peer, const uint8_t *payload, size_t len)
{
	struct message message;
	struct call call = {.funnel = ctx, .peer = peer, .message = &message};
	failure_init(&call.failure);
	handle(&call, message_parse(payload, len, &call.funnel->zone, &message));
	failure_clear(&call.failure);
	msgpack_zone_clear(&call.funnel->zone);
}
