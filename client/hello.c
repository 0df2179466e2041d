/* SPDX-License-Identifier: MIT */

/*
 * The first exchange on each connection: who we are, which session and epoch we come with, and what
 * the daemon answers. Here a session begins, and here it is found that the database was restored.
 */

#include "client/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void pack_seen(const struct engine *engine, msgpack_packer *packer)
{
	pack_cstr(packer, "seen");
	msgpack_pack_map(packer, 2);
	pack_cstr(packer, "epoch");
	pack_bin(packer, engine->epoch, sizeof(engine->epoch));
	pack_cstr(packer, "commit");
	msgpack_pack_uint64(packer, engine->commit);
}

static void pack_hello(const struct engine *engine, struct buffer *out)
{
	const struct engine_config *config = &engine->config;
	bool label = config->label[0] != '\0';
	bool classed = config->request_class[0] != '\0';
	bool session = !config->no_retry;
	msgpack_packer packer;

	size_t mark = message_begin_request(out, engine->hello_id, "hello");
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer,
		2u + (label ? 1u : 0u) + (classed ? 1u : 0u) + (session ? 1u : 0u) +
			(engine->epoch_known ? 1u : 0u));
	pack_cstr(&packer, "proto");
	msgpack_pack_array(&packer, 2);
	msgpack_pack_int(&packer, PROTO_VERSION);
	msgpack_pack_int(&packer, PROTO_VERSION);
	pack_cstr(&packer, "client");
	pack_cstr(&packer, config->client);
	if (label) {
		pack_cstr(&packer, "label");
		pack_cstr(&packer, config->label);
	}
	if (classed) {
		pack_cstr(&packer, "class");
		pack_cstr(&packer, config->request_class);
	}
	if (session) {
		pack_cstr(&packer, "session");
		pack_bin(&packer, engine->session, sizeof(engine->session));
	}
	if (engine->epoch_known) {
		pack_seen(engine, &packer);
	}
	frame_end(out, mark);
}

int engine_connected(struct engine *engine)
{
	if (engine_session_over(engine)) {
		engine_session_end(engine, false);
	}
	if (!engine->session_made && !engine->config.no_retry) {
		int r = engine->config.random(engine->session, sizeof(engine->session));
		if (r != 0) {
			return r;
		}
		engine->session_made = true;
	}
	engine->next_id = 1;
	engine->hello_id = engine->next_id++;
	engine->answered_here = false;
	engine->hello_refused = false;
	engine->reconnect_after_ms = 0;
	pack_hello(engine, &engine->out);
	int r = engine_packed(&engine->out, 0);
	if (r == 0) {
		engine->link = LINK_HELLO;
	}
	return r;
}

static uint64_t hello_limit(const struct lf_reply *hello, const char *name, uint64_t otherwise)
{
	const msgpack_object *limits = object_get(hello->result, "limits");
	const msgpack_object *limit = limits != NULL ? object_get(limits, name) : NULL;
	uint64_t value = 0;
	return limit != NULL && object_uint64(limit, &value) && value > 0 ? value : otherwise;
}

static void hello_limits(struct engine *engine, const struct lf_reply *hello)
{
	uint64_t ttl_max_s = UINT64_MAX / 1000;
	uint64_t ttl_s = hello_limit(hello, "session_ttl_s", engine->session_ttl_ms / 1000);
	uint64_t key_ttl_s = hello_limit(hello, "key_ttl_s", engine->key_ttl_ms / 1000);

	engine->limit_frame = hello_limit(hello, "frame", engine->limit_frame);
	engine->limit_nodes = hello_limit(hello, "nodes", engine->limit_nodes);
	engine->limit_in_flight = hello_limit(hello, "in_flight", engine->limit_in_flight);
	engine->session_window = hello_limit(hello, "session_window", engine->session_window);
	engine->session_ttl_ms = 1000 * (ttl_s < ttl_max_s ? ttl_s : ttl_max_s);
	engine->key_ttl_ms = 1000 * (key_ttl_s < ttl_max_s ? key_ttl_s : ttl_max_s);
}

/* Another lineage of the database: what was sent in the old one stays unknown for ever. */
static void hello_epoch(struct engine *engine, const struct lf_reply *hello)
{
	if (hello->epoch == NULL) {
		return;
	}
	/* Who showed no epoch cannot have seen another one. */
	bool changed = engine->epoch_known &&
		(memcmp(engine->epoch, hello->epoch, 16) != 0 ||
			object_get(hello->result, "epoch_changed") != NULL);
	memcpy(engine->epoch, hello->epoch, 16);
	engine->epoch_known = true;
	engine->commit = hello->commit;
	if (changed) {
		engine_session_end(engine, true);
		/* This connection was introduced with the old session. */
		engine->session_stale = !engine->config.no_retry;
	}
}

/* Nobody is served as long as hello is refused: say so to all, instead of waiting for the deadline.
 */
static int hello_refused(struct engine *engine, const struct lf_reply *reply)
{
	struct pending *pending;
	char text[ENGINE_WHY_MAX];

	(void)snprintf(text, sizeof(text), "%s: %s", reply->code, reply->message);
	engine_set_why(engine, text);
	engine->hello_refused = true;
	if (reply->retry) {
		engine->reconnect_after_ms =
			reply->retry_after_ms > 0 ? (uint64_t)reply->retry_after_ms : 0;
		return ENGINE_CLOSE;
	}
	while ((pending = TAILQ_FIRST(&engine->open)) != NULL) {
		/* Behind a refused hello the daemon executes nothing. */
		pending->sent = false;
		engine_give_up(engine, pending, reply->code, text);
	}
	return ENGINE_CLOSE;
}

int engine_hello_answered(struct engine *engine, struct lf_reply *reply)
{
	if (reply->outcome != LF_OK) {
		int r = hello_refused(engine, reply);
		lf_reply_free(reply);
		return r;
	}
	lf_reply_free(engine->hello);
	engine->hello = reply;
	engine->link = LINK_READY;
	engine->why[0] = '\0';
	hello_limits(engine, reply);
	hello_epoch(engine, reply);
	return 0;
}
