/* SPDX-License-Identifier: MIT */

/*
 * Takes a frame's payload apart into type, id, method and params. The scan of each params value is
 * also what tells where its bytes begin and end, so the bytes are looked at once before they are
 * unpacked.
 */

#include "proto/message.h"

#include "proto/frame.h"
#include "proto/scan.h"

#include <errno.h>
#include <string.h>

/* A forward reader over a payload; `broken` is the first thing that was wrong. */
struct cursor {
	const uint8_t *data;
	size_t len;
	size_t at;
	size_t nodes;
	const char *broken;
};

static struct span cursor_value(struct cursor *cursor, unsigned depth)
{
	struct span span = {0};
	if (cursor->broken != NULL) {
		return span;
	}
	size_t len = 0;
	int condition = scan_value(cursor->data + cursor->at, cursor->len - cursor->at,
		SCAN_DEPTH_MAX - depth, &cursor->nodes, &len);
	if (condition != 0) {
		cursor->broken = scan_strerror(condition);
		return span;
	}
	span = (struct span){cursor->data + cursor->at, len};
	cursor->at += len;
	return span;
}

/* A container's header alone: the number of children, or `broken`. */
static size_t cursor_enter(struct cursor *cursor, bool map)
{
	size_t left = cursor->len - cursor->at;
	const uint8_t *at = cursor->data + cursor->at;
	uint8_t fix = map ? 0x80 : 0x90;
	uint8_t wide = map ? 0xde : 0xdc;
	if (cursor->broken != NULL || left == 0) {
		cursor->broken = cursor->broken != NULL ? cursor->broken : "an empty frame";
		return 0;
	}
	cursor->nodes++;
	if ((at[0] & 0xf0) == fix) {
		cursor->at += 1;
		return at[0] & 0x0f;
	}
	if (at[0] == wide && left >= 3) {
		cursor->at += 3;
		return (size_t)at[1] << 8 | at[2];
	}
	if (at[0] == wide + 1 && left >= 5) {
		cursor->at += 5;
		return be32_get(at + 1);
	}
	cursor->broken = map ? "params must be a map" : "a message must be an array";
	return 0;
}

static const msgpack_object *element(const msgpack_object *array, size_t index)
{
	return &array->via.array.ptr[index];
}

/*
 * Scans the params map and notes where each value lies. The values are filled in after unpacking.
 */
static void scan_params(struct cursor *cursor, struct message *message)
{
	size_t count = cursor_enter(cursor, true);
	if (cursor->broken == NULL && count > cursor->len - cursor->at) {
		cursor->broken = "a length or count reaches past the end of the frame";
	}
	for (size_t i = 0; cursor->broken == NULL && i < count; i++) {
		struct span key = cursor_value(cursor, 2);
		struct span raw = cursor_value(cursor, 2);
		if (i < MESSAGE_FIELDS_MAX) {
			message->fields[i] = (struct field){.key = key, .raw = raw};
		}
	}
	message->fields_count = count;
}

/* The shape of [type, id, method, params] and its sisters, and where the params lie. */
static void scan_message(struct cursor *cursor, struct message *message)
{
	size_t count = cursor_enter(cursor, false);
	struct span type = cursor_value(cursor, 1);
	if (cursor->broken != NULL) {
		return;
	}
	if (type.data[0] > MESSAGE_NOTICE) {
		cursor->broken = "the type of a message is 0, 1 or 2";
		return;
	}
	message->type = (enum message_type)type.data[0];
	if (count != (message->type == MESSAGE_NOTICE ? 3u : 4u)) {
		cursor->broken = "a request and a reply have four elements, a notice has three";
		return;
	}
	if (message->type != MESSAGE_NOTICE) {
		(void)cursor_value(cursor, 1); /* id */
	}
	if (message->type == MESSAGE_REPLY) {
		(void)cursor_value(cursor, 1); /* error */
		(void)cursor_value(cursor, 1); /* result */
	} else {
		(void)cursor_value(cursor, 1); /* method */
		const char *before = cursor->broken;
		size_t params_at = cursor->at;
		size_t nodes = cursor->nodes;
		scan_params(cursor, message);
		if (before == NULL && cursor->broken != NULL) {
			/*
			 * Params that are no map are still one good value: then the id can be
			 * answered. Look again as at any value.
			 */
			const char *reason = cursor->broken;
			cursor->broken = NULL;
			cursor->at = params_at;
			cursor->nodes = nodes;
			(void)cursor_value(cursor, 1);
			message->reason = cursor->broken == NULL ? reason : NULL;
			message->fields_count = 0;
		}
	}
	if (cursor->broken == NULL && cursor->at != cursor->len) {
		cursor->broken = "bytes follow the message in its frame";
	}
}

/* Joins the noted spans with the unpacked values; keys must be strings and may not repeat. */
static const char *join_params(struct message *message, const msgpack_object *params)
{
	if (message->fields_count > MESSAGE_FIELDS_MAX) {
		message->fields_count = 0;
		return "params have more than 32 keys";
	}
	for (size_t i = 0; i < message->fields_count; i++) {
		struct field *field = &message->fields[i];
		const msgpack_object_kv *pair = &params->via.map.ptr[i];
		if (!object_str(&pair->key, &field->key)) {
			return "a key of params is not a string";
		}
		field->value = &pair->val;
		for (size_t j = 0; j < i; j++) {
			const struct span *other = &message->fields[j].key;
			if (other->len == field->key.len &&
				memcmp(other->data, field->key.data, other->len) == 0) {
				return "a key of params stands twice";
			}
		}
	}
	return NULL;
}

int message_parse(
	const uint8_t *payload, size_t len, msgpack_zone *zone, struct message *ret_message)
{
	struct cursor cursor = {.data = payload, .len = len};
	msgpack_object root;
	size_t at = 0;
	uint64_t id = 0;

	/* Field by field: the table is large and only its used part is ever read. */
	ret_message->type = MESSAGE_REQUEST;
	ret_message->id = 0;
	ret_message->method = (struct span){0};
	ret_message->fields_count = 0;
	ret_message->error = NULL;
	ret_message->result = NULL;
	ret_message->reason = NULL;

	scan_message(&cursor, ret_message);
	ret_message->nodes = cursor.nodes;
	if (cursor.broken != NULL) {
		ret_message->reason = cursor.broken;
		return MESSAGE_BROKEN;
	}
	if (msgpack_unpack((const char *)payload, len, &at, zone, &root) !=
		MSGPACK_UNPACK_SUCCESS) {
		return -ENOMEM; /* the scan has proven the bytes: only memory can be missing */
	}
	if (ret_message->type != MESSAGE_NOTICE) {
		if (!object_uint64(element(&root, 1), &id) || id > UINT32_MAX) {
			ret_message->reason = "the id of a message is a uint32";
			return MESSAGE_BROKEN;
		}
		ret_message->id = (uint32_t)id;
	}
	if (ret_message->type == MESSAGE_REPLY) {
		ret_message->error = element(&root, 2);
		ret_message->result = element(&root, 3);
		return 0;
	}
	size_t first = ret_message->type == MESSAGE_REQUEST ? 2 : 1;
	if (!object_str(element(&root, first), &ret_message->method) ||
		ret_message->method.len > MESSAGE_METHOD_MAX) {
		ret_message->reason = "a method is a string of at most 64 bytes";
	} else if (ret_message->reason == NULL) {
		ret_message->reason = join_params(ret_message, element(&root, first + 1));
	}
	if (ret_message->reason != NULL) {
		ret_message->fields_count = 0; /* what was found so far must not be used */
		return MESSAGE_BAD_REQUEST;
	}
	return 0;
}

const struct field *message_find(const struct message *message, const char *key, size_t key_len)
{
	for (size_t i = 0; i < message->fields_count; i++) {
		struct span name = message->fields[i].key;
		if (name.len == key_len && memcmp(name.data, key, key_len) == 0) {
			return &message->fields[i];
		}
	}
	return NULL;
}

bool object_int64(const msgpack_object *object, int64_t *ret_value)
{
	if (object->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
		*ret_value = object->via.i64;
		return true;
	}
	if (object->type == MSGPACK_OBJECT_POSITIVE_INTEGER && object->via.u64 <= INT64_MAX) {
		*ret_value = (int64_t)object->via.u64;
		return true;
	}
	return false;
}

bool object_uint64(const msgpack_object *object, uint64_t *ret_value)
{
	if (object->type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
		return false;
	}
	*ret_value = object->via.u64;
	return true;
}

bool object_bool(const msgpack_object *object, bool *ret_value)
{
	if (object->type != MSGPACK_OBJECT_BOOLEAN) {
		return false;
	}
	*ret_value = object->via.boolean;
	return true;
}

bool object_str(const msgpack_object *object, struct span *ret_value)
{
	if (object->type != MSGPACK_OBJECT_STR) {
		return false;
	}
	*ret_value = (struct span){(const uint8_t *)object->via.str.ptr, object->via.str.size};
	return true;
}

bool object_bin(const msgpack_object *object, struct span *ret_value)
{
	if (object->type != MSGPACK_OBJECT_BIN) {
		return false;
	}
	*ret_value = (struct span){(const uint8_t *)object->via.bin.ptr, object->via.bin.size};
	return true;
}

const msgpack_object *object_find(const msgpack_object *map, const char *key, size_t key_len)
{
	if (map->type != MSGPACK_OBJECT_MAP) {
		return NULL;
	}
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object *name = &map->via.map.ptr[i].key;
		if (name->type == MSGPACK_OBJECT_STR && name->via.str.size == key_len &&
			memcmp(name->via.str.ptr, key, key_len) == 0) {
			return &map->via.map.ptr[i].val;
		}
	}
	return NULL;
}

static size_t message_begin(struct buffer *buf, unsigned elements, enum message_type type)
{
	msgpack_packer packer;
	size_t mark = frame_begin(buf);
	buffer_packer(buf, &packer);
	msgpack_pack_array(&packer, elements);
	msgpack_pack_int(&packer, (int)type);
	return mark;
}

size_t message_begin_request(struct buffer *buf, uint32_t id, const char *method)
{
	msgpack_packer packer;
	size_t mark = message_begin(buf, 4, MESSAGE_REQUEST);
	buffer_packer(buf, &packer);
	msgpack_pack_uint32(&packer, id);
	pack_cstr(&packer, method);
	return mark;
}

size_t message_begin_notice(struct buffer *buf, const char *method)
{
	msgpack_packer packer;
	size_t mark = message_begin(buf, 3, MESSAGE_NOTICE);
	buffer_packer(buf, &packer);
	pack_cstr(&packer, method);
	return mark;
}

size_t message_begin_error(struct buffer *buf, uint32_t id)
{
	msgpack_packer packer;
	size_t mark = message_begin(buf, 4, MESSAGE_REPLY);
	buffer_packer(buf, &packer);
	msgpack_pack_uint32(&packer, id);
	return mark;
}

size_t message_begin_result(struct buffer *buf, uint32_t id)
{
	msgpack_packer packer;
	size_t mark = message_begin_error(buf, id);
	buffer_packer(buf, &packer);
	msgpack_pack_nil(&packer);
	return mark;
}
