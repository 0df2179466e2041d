/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * MessagePack-RPC messages: request [0, id, method, params], reply [1, id, error, result],
 * notice [2, method, params]; params and results are maps with string keys.
 *
 * message_parse() scans, unpacks and takes a payload apart; the daemon and every client use it.
 * Nothing is copied: a message points into the payload and into the zone, and lives as long as
 * both do.
 */

#include "proto/buffer.h"

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
	PROTO_VERSION = 1,
	MESSAGE_FIELDS_MAX = 32, /* keys of a params map */
	MESSAGE_METHOD_MAX = 64, /* bytes of a method name */
};

enum message_type {
	MESSAGE_REQUEST = 0,
	MESSAGE_REPLY = 1,
	MESSAGE_NOTICE = 2,
};

/* Conditions of message_parse(). */
enum {
	/* Not a message at all. There is no id to answer: close the connection. */
	MESSAGE_BROKEN = 1,
	/* A request whose id is known but whose method or params are wrong: answer bad_request. */
	MESSAGE_BAD_REQUEST = 2,
};

struct span {
	const uint8_t *data;
	size_t len;
};

/* One key of a params map: what it holds, and the bytes in which that was sent. */
struct field {
	struct span key;
	struct span raw;
	const msgpack_object *value;
};

struct message {
	enum message_type type;
	uint32_t id;                             /* requests and replies */
	struct span method;                      /* requests and notices */
	struct field fields[MESSAGE_FIELDS_MAX]; /* requests and notices: params */
	size_t fields_count;
	const msgpack_object *error;  /* replies; nil = success */
	const msgpack_object *result; /* replies */
	size_t nodes;                 /* values in the whole payload: bounds what a decoder needs */
	const char *reason;           /* static text, set with every condition */
};

/* 0, -ENOMEM, or a condition from above. `zone` must be initialised; the caller clears it. */
int message_parse(
	const uint8_t *payload, size_t len, msgpack_zone *zone, struct message *ret_message);

/* The field with that key, or NULL. */
const struct field *message_find(const struct message *message, const char *key, size_t key_len);
static inline const struct field *message_field(const struct message *message, const char *key)
{
	return message_find(message, key, strlen(key));
}

/* Inline, so that the length of a literal is no work. */
static inline bool span_equal(struct span span, const char *str)
{
	size_t len = strlen(str);
	return span.len == len && memcmp(span.data, str, len) == 0;
}

/*
 * Readers of single values. They return false if the object has another type or does not fit;
 * nothing is converted except bool to 0/1 and float32 to double where that is said.
 */
bool object_int64(const msgpack_object *object, int64_t *ret_value);
bool object_uint64(const msgpack_object *object, uint64_t *ret_value);
bool object_bool(const msgpack_object *object, bool *ret_value);
bool object_str(const msgpack_object *object, struct span *ret_value);
bool object_bin(const msgpack_object *object, struct span *ret_value);
/* The value of a key of a map, or NULL. */
const msgpack_object *object_find(const msgpack_object *map, const char *key, size_t key_len);
static inline const msgpack_object *object_get(const msgpack_object *map, const char *key)
{
	return object_find(map, key, strlen(key));
}

/*
 * Writing. Each begin opens a frame and returns its mark for frame_end(); what the caller packs in
 * between is the params map, the error map or the result map.
 */
size_t message_begin_request(struct buffer *buf, uint32_t id, const char *method);
size_t message_begin_notice(struct buffer *buf, const char *method);
size_t message_begin_error(struct buffer *buf, uint32_t id);  /* pack the error, then nil */
size_t message_begin_result(struct buffer *buf, uint32_t id); /* pack the result */
