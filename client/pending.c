/* SPDX-License-Identifier: MIT */

/*
 * One request: its memory, and its frame. A resend packs the same body again, so that the daemon
 * sees the same bytes under the same number; only `done` and the time that is left differ.
 */

#include "client/pending.h"

#include "proto/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char *copy_of(const char *text)
{
	size_t bytes = strlen(text) + 1;
	char *copy = malloc(bytes);
	if (copy != NULL) {
		memcpy(copy, text, bytes);
	}
	return copy;
}

int pending_new(const struct pending_spec *spec, struct pending **ret_pending)
{
	bool keyed = spec->key != NULL && spec->key[0] != '\0';
	struct pending *pending = calloc(1, sizeof(*pending));
	if (pending == NULL) {
		return -ENOMEM;
	}
	pending->reply = answer_new();
	pending->key = keyed ? copy_of(spec->key) : NULL;
	if (pending->reply == NULL || (keyed && pending->key == NULL)) {
		pending_free(pending);
		return -ENOMEM;
	}
	pending->kind = spec->kind;
	(void)strncpy(pending->method, spec->method, sizeof(pending->method) - 1);
	if (spec->class_name != NULL) {
		(void)strncpy(pending->class_name, spec->class_name, CLASS_NAME_MAX);
	}
	pending->ack_shipped = spec->ack_shipped;
	pending->nodes = spec->nodes;
	pending->deadline_ms = spec->deadline_ms;
	pending->lease = spec->lease;
	pending->lease_number = spec->lease_number;
	pending->lease_over = spec->lease_over;
	pending->body_keys = spec->body_keys;
	pending->body = *spec->body;
	buffer_init(spec->body, 0);
	if (spec->guard != NULL) {
		pending->guard = *spec->guard;
		buffer_init(spec->guard, 0);
	}
	*ret_pending = pending;
	return 0;
}

void pending_free(struct pending *pending)
{
	if (pending == NULL) {
		return;
	}
	buffer_finish(&pending->body);
	buffer_finish(&pending->guard);
	lf_reply_free(pending->retry_reply);
	lf_reply_free(pending->reply);
	free(pending->key);
	free(pending);
}

bool pending_keeps(const struct pending *pending)
{
	return pending->kind == PENDING_WRITE || pending->kind == PENDING_COMMIT;
}

/* The params of a write or commit; returns how many keys they have. */
static size_t pack_write_params(
	const struct pending *pending, struct buffer *out, uint64_t done, uint64_t deadline_left_ms)
{
	bool numbered = pending->seq != 0;
	bool keyed = pending->key != NULL;
	bool classed = pending->class_name[0] != '\0';
	bool guarded = pending->guard.len > 0;
	size_t keys = 2u + (guarded ? 1u : 0u) + (numbered ? 1u : 0u) + (keyed ? 1u : 0u) +
		(done > 0 ? 1u : 0u) + (classed ? 1u : 0u) + (pending->ack_shipped ? 1u : 0u);
	msgpack_packer packer;

	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, keys);
	pack_cstr(&packer, pending->kind == PENDING_COMMIT ? "lease" : "batch");
	buffer_append(out, pending->body.data, pending->body.len);
	if (guarded) {
		pack_cstr(&packer, "if_commit");
		buffer_append(out, pending->guard.data, pending->guard.len);
	}
	if (numbered) {
		pack_cstr(&packer, "seq");
		msgpack_pack_uint64(&packer, pending->seq);
	}
	if (keyed) {
		pack_cstr(&packer, "key");
		pack_cstr(&packer, pending->key);
	}
	if (done > 0) {
		pack_cstr(&packer, "done");
		msgpack_pack_uint64(&packer, done);
	}
	pack_cstr(&packer, "deadline_ms");
	msgpack_pack_uint64(&packer, deadline_left_ms);
	if (classed) {
		pack_cstr(&packer, "class");
		pack_cstr(&packer, pending->class_name);
	}
	if (pending->ack_shipped) {
		pack_cstr(&packer, "ack");
		pack_cstr(&packer, "shipped");
	}
	return keys;
}

/* The params of a request that is no write: its pairs, and how long the daemon may take. */
static void pack_params(
	const struct pending *pending, struct buffer *out, uint64_t deadline_left_ms)
{
	msgpack_packer packer;
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, pending->body_keys + 1);
	buffer_append(out, pending->body.data, pending->body.len);
	pack_cstr(&packer, "deadline_ms");
	msgpack_pack_uint64(&packer, deadline_left_ms);
}

void pending_pack(const struct pending *pending, struct buffer *out, uint64_t done,
	uint64_t deadline_left_ms, size_t *ret_nodes)
{
	size_t mark = message_begin_request(out, pending->id, pending->method);
	size_t nodes = 4 + pending->nodes; /* the message, its type, id and method */
	if (pending_keeps(pending)) {
		/* the map, and for each key itself and its value: some are counted already */
		nodes += 2 * pack_write_params(pending, out, done, deadline_left_ms);
	} else {
		pack_params(pending, out, deadline_left_ms);
		nodes += 3; /* the map, and one pair more */
	}
	frame_end(out, mark);
	*ret_nodes = nodes;
}

void pending_pack_cancel(const struct pending *pending, struct buffer *out)
{
	msgpack_packer packer;
	size_t mark = message_begin_notice(out, "cancel");
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 1);
	pack_cstr(&packer, "id");
	msgpack_pack_uint32(&packer, pending->id);
	frame_end(out, mark);
}
