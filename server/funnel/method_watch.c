/* SPDX-License-Identifier: MIT */

/* The methods `watch` and `unwatch`: what a client wishes to hear of. */

#include "proto/scan.h"
#include "server/funnel/call.h"

#include <errno.h>
#include <string.h>

/* An array of names, if it is there. */
static bool take_names(
	struct call *call, const char *key, const msgpack_object **ret_names, size_t *ret_count)
{
	const struct field *field = message_field(call->message, key);
	bool good = field == NULL || field->value->type == MSGPACK_OBJECT_ARRAY;
	*ret_names = field != NULL ? field->value : NULL;
	for (uint32_t i = 0; good && field != NULL && i < field->value->via.array.size; i++) {
		struct span name;
		good = object_str(&field->value->via.array.ptr[i], &name) && name.len > 0 &&
			name.len <= WATCH_NAME_BYTES_MAX &&
			memchr(name.data, 0, name.len) == NULL && utf8_valid(name.data, name.len);
		*ret_count += 1;
	}
	if (!good || *ret_count > WATCH_NAMES_MAX) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"%s is an array of names of 1 to 255 bytes of UTF-8 without NUL, at most 1000 "
			"together",
			key);
		return false;
	}
	return true;
}

static bool take_since(struct call *call, struct watch_wish *wish)
{
	const struct field *field = message_field(call->message, "since");
	const msgpack_object *epoch = field != NULL ? object_get(field->value, "epoch") : NULL;
	const msgpack_object *commit = field != NULL ? object_get(field->value, "commit") : NULL;
	struct span lineage;
	if (field == NULL) {
		return true;
	}
	if (epoch == NULL || commit == NULL || !object_bin(epoch, &lineage) ||
		lineage.len != STORE_EPOCH_BYTES || !object_uint64(commit, &wish->since_commit) ||
		wish->since_commit >= INT64_MAX) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"since is {epoch, commit} as the database or an answer gave them");
		return false;
	}
	wish->since = true;
	wish->other_epoch = memcmp(lineage.data, call->funnel->epoch, STORE_EPOCH_BYTES) != 0;
	return true;
}

bool watch_begin(struct call *call)
{
	struct watch_wish wish = {0};
	struct watches *watches = &call->funnel->watches;
	struct buffer *out = &call->peer->out;
	msgpack_packer packer;
	uint64_t id = 0;
	uint64_t commit_no = 0;
	size_t names = 0;
	if (!take_names(call, "tables", &wish.tables, &names) ||
		!take_names(call, "channels", &wish.channels, &names) || !take_since(call, &wish)) {
		return false;
	}
	if (names == 0 && (wish.tables != NULL || wish.channels != NULL)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST,
			"tables and channels name nothing: leave both out to hear of everything");
		return false;
	}
	int rc = watches_add(watches, call->peer, &wish, &id, &commit_no);
	if (rc < 0) {
		failure_set(&call->failure, rc == -EMFILE ? FAILURE_BAD_REQUEST : FAILURE_INTERNAL,
			rc == -EMFILE
				? "a connection has at most 64 watches, of 1000 names together"
				: "out of memory");
		return false;
	}
	size_t mark = message_begin_result(out, call->message->id);
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 3);
	pack_key_uint(&packer, "watch", id);
	pack_key_uint(&packer, "commit", commit_no);
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, call->funnel->epoch, STORE_EPOCH_BYTES);
	frame_end(out, mark);
	watches_begin(watches, call->peer, id);
	return true;
}

bool unwatch_begin(struct call *call)
{
	const struct field *field = message_field(call->message, "watch");
	uint64_t id = 0;
	if (field == NULL || !object_uint64(field->value, &id)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "watch is the number of a watch");
		return false;
	}
	if (!watches_remove(&call->funnel->watches, call->peer, id)) {
		failure_set(&call->failure, FAILURE_NOT_FOUND, "this connection has no watch %llu",
			(unsigned long long)id);
		return false;
	}
	call_answer_empty(call);
	return true;
}
