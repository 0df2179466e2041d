/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The other end of an engine in memory: reads what it writes into a list of messages, and feeds it
 * answers, whole or byte by byte.
 */

#include "client/engine.h"
#include "tests/unit/cmocka_all.h"

#include <stdio.h>
#include <string.h>

enum { HEARD_MAX = 4096 };

struct heard {
	char method[MESSAGE_METHOD_MAX + 1];
	enum message_type type;
	uint32_t id;
	uint64_t seq; /* 0: none */
	uint64_t done;
	uint64_t deadline_ms;
	uint64_t cancel_id;
	uint64_t lease; /* 0: none */
	char key[64];
	char ack[16];
	char request_class[16];
	uint8_t session[16];
	bool has_session;
	bool has_seen;
	uint8_t batch_hash[8]; /* of the bytes of `batch` */
	size_t batch_len;
	uint64_t batch_ticket; /* ask_engine() puts the ticket first into a batch */
};

struct peer {
	struct engine engine;
	uint64_t now_ms;
	bool bytewise;
	struct frame_reader reader;
	struct heard heard[HEARD_MAX]; /* since the last hear_all() */
	size_t count;
	uint8_t next_session; /* what the next "random" session begins with */
};

/* Called with true before the engine runs and with false after: to fail its allocations only. */
static void (*peer_enters)(bool engine);

static void enter(bool engine)
{
	if (peer_enters != NULL) {
		peer_enters(engine);
	}
}

static struct peer *peer_now; /* for the engine's random function, which has no argument */

static int peer_random(void *ret_bytes, size_t len)
{
	memset(ret_bytes, 0, len);
	*(uint8_t *)ret_bytes = ++peer_now->next_session;
	return 0;
}

static inline void peer_init(struct peer *peer, bool bytewise, bool no_retry)
{
	struct engine_config config = {.client = "test/1",
		.deadline_ms = 1000,
		.no_retry = no_retry,
		.random = peer_random};
	memset(peer, 0, sizeof(*peer));
	peer_now = peer;
	peer->bytewise = bytewise;
	peer->now_ms = 1000000;
	frame_reader_init(&peer->reader, FRAME_MAX_LIMIT);
	engine_init(&peer->engine, &config);
}

static inline void peer_finish(struct peer *peer)
{
	engine_finish(&peer->engine);
	frame_reader_finish(&peer->reader);
}

/* ---- what the engine says ---- */

static void hear_uint(const struct message *message, const char *key, uint64_t *ret_value)
{
	const struct field *field = message_field(message, key);
	if (field != NULL) {
		assert_true(object_uint64(field->value, ret_value));
	}
}

static void hear_text(const struct message *message, const char *key, char *ret_text, size_t bytes)
{
	const struct field *field = message_field(message, key);
	struct span span;
	if (field != NULL) {
		assert_true(object_str(field->value, &span));
		assert_true(span.len < bytes);
		memcpy(ret_text, span.data, span.len);
		ret_text[span.len] = '\0';
	}
}

static void hear_batch(const struct message *message, struct heard *heard)
{
	const struct field *field = message_field(message, "batch");
	uint64_t hash = UINT64_C(14695981039346656037);
	for (size_t i = 0; field != NULL && i < field->raw.len; i++) {
		hash = (hash ^ field->raw.data[i]) * UINT64_C(1099511628211);
	}
	heard->batch_len = field != NULL ? field->raw.len : 0;
	memcpy(heard->batch_hash, &hash, 8);
	if (field != NULL) {
		assert_int_equal(field->value->type, MSGPACK_OBJECT_ARRAY);
		assert_true(object_uint64(field->value->via.array.ptr, &heard->batch_ticket));
	}
}

static void hear(struct heard *heard, const struct message *message)
{
	const struct field *session = message_field(message, "session");
	struct span bytes;
	*heard = (struct heard){.type = message->type, .id = message->id};
	assert_true(message->method.len < sizeof(heard->method));
	memcpy(heard->method, message->method.data, message->method.len);
	hear_uint(message, "seq", &heard->seq);
	hear_uint(message, "done", &heard->done);
	hear_uint(message, "deadline_ms", &heard->deadline_ms);
	hear_uint(message, "id", &heard->cancel_id);
	hear_uint(message, "lease", &heard->lease);
	hear_text(message, "key", heard->key, sizeof(heard->key));
	hear_text(message, "ack", heard->ack, sizeof(heard->ack));
	hear_text(message, "class", heard->request_class, sizeof(heard->request_class));
	heard->has_seen = message_field(message, "seen") != NULL;
	if (session != NULL) {
		assert_true(object_bin(session->value, &bytes));
		assert_int_equal(bytes.len, 16);
		memcpy(heard->session, bytes.data, 16);
		heard->has_session = true;
	}
	hear_batch(message, heard);
}

/* Appends every whole message in the reader to peer->heard. */
static void peer_parse(struct peer *peer)
{
	const uint8_t *payload = NULL;
	size_t len = 0;
	while (frame_reader_next(&peer->reader, &payload, &len) == 0) {
		struct message message;
		msgpack_zone zone;
		assert_true(msgpack_zone_init(&zone, 1024));
		assert_int_equal(message_parse(payload, len, &zone, &message), 0);
		assert_true(peer->count < HEARD_MAX);
		hear(&peer->heard[peer->count++], &message);
		msgpack_zone_destroy(&zone);
	}
}

/* Takes at most `max` bytes of the engine's output. Returns how many it took. */
static size_t peer_take(struct peer *peer, size_t max)
{
	const uint8_t *data = NULL;
	uint8_t *room = NULL;
	size_t len = 0;
	size_t room_bytes = 0;
	enter(true);
	(void)engine_output(&peer->engine, peer->now_ms, &data, &len);
	enter(false);
	len = len < max ? len : max;
	if (len > 0) {
		assert_int_equal(frame_reader_room(&peer->reader, len, &room, &room_bytes), 0);
		memcpy(room, data, len);
		frame_reader_fed(&peer->reader, len);
		engine_sent(&peer->engine, peer->now_ms, len);
	}
	return len;
}

/* Everything the engine has to say now; returns the number of messages. */
static inline size_t hear_all(struct peer *peer)
{
	size_t step = peer->bytewise ? 1 : SIZE_MAX;
	peer->count = 0;
	enter(true);
	engine_tick(&peer->engine, peer->now_ms);
	enter(false);
	while (peer_take(peer, step) > 0) {
		peer_parse(peer);
	}
	return peer->count;
}

/* ---- what the engine is told ---- */

static int feed(struct peer *peer, struct buffer *buf)
{
	int r = 0;
	size_t step = peer->bytewise ? 1 : buf->len;
	assert_false(buf->failed);
	for (size_t at = 0; r == 0 && at < buf->len; at += step) {
		uint8_t *room = NULL;
		size_t bytes = 0;
		enter(true);
		r = engine_room(&peer->engine, &room, &bytes);
		if (r == 0) {
			assert_true(bytes >= step);
			memcpy(room, buf->data + at, step);
			r = engine_fed(&peer->engine, peer->now_ms, step);
		}
		enter(false);
	}
	buffer_finish(buf);
	return r;
}

/* A key and a number, for the limits of a hello. */
struct limit {
	const char *name;
	uint64_t value;
};

static inline int hello_says(
	struct peer *peer, uint32_t id, uint8_t epoch, const struct limit *limits, size_t count)
{
	uint8_t bytes[16] = {epoch};
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_result(&buf, id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 6);
	pack_cstr(&packer, "proto");
	msgpack_pack_int(&packer, 1);
	pack_cstr(&packer, "server");
	pack_cstr(&packer, "litefunnel/0.1.0");
	pack_cstr(&packer, "role");
	pack_cstr(&packer, "ddl");
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, bytes, 16);
	pack_cstr(&packer, "commit");
	msgpack_pack_int(&packer, 7);
	pack_cstr(&packer, "limits");
	msgpack_pack_map(&packer, count);
	for (size_t i = 0; i < count; i++) {
		pack_cstr(&packer, limits[i].name);
		msgpack_pack_uint64(&packer, limits[i].value);
	}
	frame_end(&buf, mark);
	return feed(peer, &buf);
}

static inline int applied(struct peer *peer, uint32_t id, uint64_t commit)
{
	uint8_t bytes[16] = {1};
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_result(&buf, id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 3);
	pack_cstr(&packer, "commit");
	msgpack_pack_uint64(&packer, commit);
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, bytes, 16);
	pack_cstr(&packer, "durability");
	pack_cstr(&packer, "full");
	frame_end(&buf, mark);
	return feed(peer, &buf);
}

static inline int refused(struct peer *peer, uint32_t id, const char *code,
	const char *applied_word, bool retry, int64_t retry_after_ms)
{
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_error(&buf, id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, retry_after_ms >= 0 ? 5 : 4);
	pack_cstr(&packer, "code");
	pack_cstr(&packer, code);
	pack_cstr(&packer, "message");
	pack_cstr(&packer, "words of the daemon");
	pack_cstr(&packer, "applied");
	pack_cstr(&packer, applied_word);
	pack_cstr(&packer, "retry");
	if (retry) {
		msgpack_pack_true(&packer);
	} else {
		msgpack_pack_false(&packer);
	}
	if (retry_after_ms >= 0) {
		pack_cstr(&packer, "retry_after_ms");
		msgpack_pack_int64(&packer, retry_after_ms);
	}
	msgpack_pack_nil(&packer);
	frame_end(&buf, mark);
	return feed(peer, &buf);
}

static inline int closing(struct peer *peer, const char *code, int64_t id)
{
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_notice(&buf, "closing");
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, id >= 0 ? 3 : 2);
	pack_cstr(&packer, "code");
	pack_cstr(&packer, code);
	pack_cstr(&packer, "message");
	pack_cstr(&packer, "the last words");
	if (id >= 0) {
		pack_cstr(&packer, "id");
		msgpack_pack_int64(&packer, id);
	}
	frame_end(&buf, mark);
	return feed(peer, &buf);
}

/* ---- requests ---- */

struct ask {
	enum pending_kind kind;
	const char *method; /* NULL: write */
	size_t bytes;       /* of a text in the batch */
	const char *key;
	uint32_t deadline_ms;
	bool ack_shipped;
};

static inline int ask_engine(struct peer *peer, const struct ask *ask, uint64_t *ret_ticket)
{
	struct buffer body;
	msgpack_packer packer;
	buffer_init(&body, 0);
	buffer_packer(&body, &packer);
	if (ask->method == NULL) {
		/* Each request has a text of its own, so that a resend can be told from another. */
		msgpack_pack_array(&packer, 2);
		msgpack_pack_uint64(&packer, peer->engine.next_ticket);
		msgpack_pack_str(&packer, ask->bytes);
		for (size_t i = 0; i < ask->bytes; i++) {
			buffer_append(&body, "x", 1);
		}
	}
	struct pending_spec spec = {
		.kind = ask->kind,
		.method = ask->method != NULL ? ask->method : "write",
		.body = &body,
		.nodes = ask->method != NULL ? 0 : 3,
		.key = ask->key,
		.deadline_ms = ask->deadline_ms,
		.ack_shipped = ask->ack_shipped,
	};
	assert_false(body.failed);
	enter(true);
	int r = engine_submit(&peer->engine, peer->now_ms, &spec, ret_ticket);
	enter(false);
	buffer_finish(&body);
	return r;
}
