/* SPDX-License-Identifier: MIT */

/*
 * The requests that are no writes, and what the daemon said about itself in its hello.
 */

#include "client/client.h"

#include <errno.h>
#include <string.h>

int db_ask(struct lf_db *db, enum pending_kind kind, const char *method, struct buffer *body,
	unsigned keys, size_t nodes, uint32_t deadline_ms, lf_reply **ret_reply)
{
	struct pending_spec spec = {.kind = kind,
		.method = method,
		.body = body,
		.body_keys = keys,
		.nodes = nodes,
		.deadline_ms = deadline_ms};
	uint64_t ticket = 0;
	int r = 1;
	if (body->failed) {
		buffer_finish(body);
		return db_error(db, -ENOMEM, "out of memory");
	}
	while ((r = engine_submit(&db->engine, db_now_ms(), &spec, &ticket)) == 1) {
		db_turn_and_wait(db, -1);
	}
	buffer_finish(body);
	return r != 0 ? db_error(db, -ENOMEM, "out of memory")
		      : db_wait_ticket(db, ticket, ret_reply);
}

/* A request whose params are up to two strings; a NULL value leaves its key out. */
static int ask(struct lf_db *db, enum pending_kind kind, const char *method,
	const char *const keys[2], const char *const values[2], lf_reply **ret_reply)
{
	struct buffer body;
	msgpack_packer packer;
	unsigned given = 0;

	db_enter(db);
	buffer_init(&body, BATCH_BYTES_MAX);
	buffer_packer(&body, &packer);
	for (int i = 0; i < 2; i++) {
		if (values[i] != NULL) {
			pack_cstr(&packer, keys[i]);
			pack_cstr(&packer, values[i]);
			given++;
		}
	}
	return db_ask(db, kind, method, &body, given, 2 * given, 0, ret_reply);
}

int lf_ping(lf_db *db, lf_reply **ret_reply)
{
	const char *const none[2] = {NULL, NULL};
	return ask(db, PENDING_READ, "ping", none, none, ret_reply);
}

int lf_show(lf_db *db, const char *what, const char *like, lf_reply **ret_reply)
{
	const char *const keys[2] = {"what", "like"};
	const char *const values[2] = {what, like};
	if (what == NULL) {
		return db_error(db, -EINVAL, "lf_show: what is missing");
	}
	return ask(db, PENDING_READ, "show", keys, values, ret_reply);
}

int lf_describe(lf_db *db, const char *sql, lf_reply **ret_reply)
{
	const char *const keys[2] = {"sql", NULL};
	const char *const values[2] = {sql, NULL};
	if (sql == NULL) {
		return db_error(db, -EINVAL, "lf_describe: sql is missing");
	}
	return ask(db, PENDING_READ, "describe", keys, values, ret_reply);
}

int lf_admin(lf_db *db, const char *verb, lf_reply **ret_reply)
{
	const char *const none[2] = {NULL, NULL};
	if (verb == NULL || verb[0] == '\0' || strlen(verb) > MESSAGE_METHOD_MAX) {
		return db_error(db, -EINVAL, "lf_admin: a verb has 1 to 64 bytes");
	}
	return ask(db, PENDING_ADMIN, verb, none, none, ret_reply);
}

int lf_admin_int64(
	lf_db *db, const char *verb, const char *key, int64_t value, lf_reply **ret_reply)
{
	struct buffer body;
	msgpack_packer packer;
	if (verb == NULL || verb[0] == '\0' || strlen(verb) > MESSAGE_METHOD_MAX || key == NULL) {
		return db_error(db, -EINVAL, "lf_admin_int64: a verb of 1 to 64 bytes, and a key");
	}
	db_enter(db);
	buffer_init(&body, BATCH_BYTES_MAX);
	buffer_packer(&body, &packer);
	pack_cstr(&packer, key);
	msgpack_pack_int64(&packer, value);
	return db_ask(db, PENDING_ADMIN, verb, &body, 1, 2, 0, ret_reply);
}

/* ---- what hello said ------------------------------------------------------------------------- */

static const msgpack_object *hello_get(const struct lf_db *db, const char *key)
{
	const struct lf_reply *hello = db->engine.hello;
	return hello != NULL ? object_get(hello->result, key) : NULL;
}

const char *lf_server_version(const lf_db *db)
{
	return db->engine.hello != NULL ? db->engine.hello->server : "";
}

const char *lf_server_role(const lf_db *db)
{
	return db->engine.hello != NULL ? db->engine.hello->role : "";
}

bool lf_server_feature(const lf_db *db, const char *feature)
{
	const msgpack_object *features = hello_get(db, "features");
	struct span name;
	if (features == NULL || features->type != MSGPACK_OBJECT_ARRAY) {
		return false;
	}
	for (uint32_t i = 0; i < features->via.array.size; i++) {
		if (object_str(&features->via.array.ptr[i], &name) && span_equal(name, feature)) {
			return true;
		}
	}
	return false;
}

uint64_t lf_server_limit(const lf_db *db, const char *name)
{
	const msgpack_object *limits = hello_get(db, "limits");
	const msgpack_object *limit = limits != NULL ? object_get(limits, name) : NULL;
	uint64_t value = 0;
	return limit != NULL && object_uint64(limit, &value) ? value : 0;
}
