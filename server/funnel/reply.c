/* SPDX-License-Identifier: MIT */

/* Packs results and errors. It decides nothing but what they look like. */

#include "server/funnel/reply.h"

#include "proto/frame.h"
#include "proto/scan.h"
#include "server/funnel/holder.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	ROWS_KEY_BYTES = sizeof("rows"), /* as a fixstr */
	STEP_NODES = 16, /* values of a step result beside columns and rows, or more */
	ANSWER_NODES_MAX = SCAN_NODES_MAX - 64,
	MESSAGE_BYTES_MAX = 4096,
	RETRY_AFTER_MS = 200,
	SQLITE_CODE_FULL = 13,
};

/* ---- results of steps ---- */

/* One entry of packing::spans: where the rows of a step lie in the payload. */
struct row_span {
	size_t map_at; /* the step's map */
	size_t from;   /* the key "rows" */
	size_t to;
};

void packing_init(struct packing *packing, struct buffer *payload, size_t bytes_max)
{
	static const uint8_t kind = PAYLOAD_STEPS;
	*packing = (struct packing){.payload = payload, .bytes_max = bytes_max};
	buffer_init(&packing->spans, 0);
	buffer_clear(payload);
	buffer_append(payload, &kind, 1);
	packing->steps_at = pack_array_begin(payload);
}

void packing_finish(struct packing *packing)
{
	buffer_finish(&packing->spans);
}

void packing_begin_step(struct packing *packing)
{
	static const uint8_t map = 0x80; /* a fixmap; its count is patched in at the end */
	packing->map_at = packing->payload->len;
	packing->rows_at = 0;
	packing->rows = 0;
	packing->nodes += STEP_NODES;
	packing->steps++;
	buffer_append(packing->payload, &map, 1);
}

void packing_columns(void *ctx, const struct columns *columns)
{
	struct packing *packing = ctx;
	msgpack_packer packer;
	buffer_packer(packing->payload, &packer);
	pack_cstr(&packer, "columns");
	msgpack_pack_array(&packer, columns->count);
	for (unsigned i = 0; i < columns->count; i++) {
		pack_cstr(&packer, columns->names[i] != NULL ? columns->names[i] : "");
	}
	pack_cstr(&packer, "types");
	msgpack_pack_array(&packer, columns->count);
	for (unsigned i = 0; i < columns->count; i++) {
		if (columns->types[i] != NULL) {
			pack_cstr(&packer, columns->types[i]);
		} else {
			msgpack_pack_nil(&packer);
		}
	}
	packing->nodes += 2 * (size_t)columns->count;
	pack_cstr(&packer, "rows");
	packing->rows_at = pack_array_begin(packing->payload);
}

static void pack_value(msgpack_packer *packer, const struct value *value)
{
	switch (value->type) {
	case VALUE_INTEGER:
		msgpack_pack_int64(packer, value->integer);
		break;
	case VALUE_FLOAT:
		msgpack_pack_double(packer, value->real);
		break;
	case VALUE_TEXT:
		pack_str(packer, value->bytes.data, value->bytes.len);
		break;
	case VALUE_BLOB:
		pack_bin(packer, value->bytes.data, value->bytes.len);
		break;
	default:
		msgpack_pack_nil(packer);
		break;
	}
}

int packing_row(void *ctx, const struct value *values, unsigned count)
{
	struct packing *packing = ctx;
	struct buffer *payload = packing->payload;
	msgpack_packer packer;
	size_t before = payload->len;
	/* One row may be huge: refuse it by its parts before it is copied. */
	size_t bytes = 0;
	for (unsigned i = 0; i < count; i++) {
		bytes += values[i].type >= VALUE_TEXT ? values[i].bytes.len : 9;
	}
	if (bytes > packing->bytes_max || before > packing->bytes_max - bytes ||
		packing->nodes + count + 1 > ANSWER_NODES_MAX) {
		return 1;
	}
	buffer_packer(payload, &packer);
	msgpack_pack_array(&packer, count);
	for (unsigned i = 0; i < count; i++) {
		pack_value(&packer, &values[i]);
	}
	if (payload->len > packing->bytes_max) {
		buffer_truncate(payload, before);
		return 1;
	}
	packing->rows++;
	packing->nodes += count + 1;
	return 0;
}

void packing_end_step(struct packing *packing, const struct step_result *result)
{
	struct buffer *payload = packing->payload;
	msgpack_packer packer;
	unsigned keys = 3;
	if (packing->rows_at != 0) {
		pack_array_end(payload, packing->rows_at, packing->rows);
		struct row_span span = {
			packing->map_at, packing->rows_at - ROWS_KEY_BYTES, payload->len};
		buffer_append(&packing->spans, &span, sizeof(span));
		keys += 3;
	}
	buffer_packer(payload, &packer);
	pack_cstr(&packer, "changes");
	msgpack_pack_int64(&packer, result->changes);
	pack_cstr(&packer, "total");
	msgpack_pack_int64(&packer, result->total);
	pack_cstr(&packer, "rowid");
	msgpack_pack_int64(&packer, result->rowid);
	if (result->truncated) {
		pack_key_bool(&packer, "truncated", true);
		keys++;
	}
	if (!payload->failed) {
		payload->data[packing->map_at] = (uint8_t)(0x80 | keys);
	}
}

bool packing_fits(const struct packing *packing)
{
	return packing->nodes <= ANSWER_NODES_MAX && packing->payload->len <= packing->bytes_max;
}

bool packing_end(struct packing *packing)
{
	pack_array_end(packing->payload, packing->steps_at, packing->steps);
	return !packing->payload->failed && !packing->spans.failed;
}

struct bytes packing_stored(struct packing *packing, struct buffer *spare)
{
	const struct buffer *payload = packing->payload;
	struct bytes whole = {payload->data, payload->len};
	if (payload->len <= PAYLOAD_STORED_MAX) {
		return whole;
	}
	size_t done = 0;
	buffer_clear(spare);
	for (size_t at = 0; at < packing->spans.len; at += sizeof(struct row_span)) {
		struct row_span span;
		memcpy(&span, packing->spans.data + at, sizeof(span));
		size_t map_at = spare->len + (span.map_at - done);
		buffer_append(spare, payload->data + done, span.from - done);
		if (!spare->failed) {
			spare->data[map_at]--; /* one key less */
		}
		done = span.to;
	}
	buffer_append(spare, payload->data + done, payload->len - done);
	if (spare->failed) {
		return whole;
	}
	spare->data[0] = PAYLOAD_STEPS_CUT;
	return (struct bytes){spare->data, spare->len};
}

void reply_pack_description(struct packing *packing, const struct description *description)
{
	/* The columns were packed as those of a step: a map with no rows. Add what is missing. */
	struct buffer *payload = packing->payload;
	msgpack_packer packer;
	if (payload->failed) {
		return;
	}
	buffer_truncate(payload, packing->rows_at - ROWS_KEY_BYTES);
	buffer_packer(payload, &packer);
	pack_key_uint(&packer, "params", description->params);
	pack_key_bool(&packer, "readonly", description->readonly);
	pack_cstr(&packer, "tail");
	if (description->tail >= 0) {
		msgpack_pack_int64(&packer, description->tail);
	} else {
		msgpack_pack_nil(&packer);
	}
	if (!payload->failed) {
		payload->data[packing->map_at] = 0x85;
		buffer_cut(payload, 0, packing->map_at - 1);
		payload->data[0] = PAYLOAD_RESULT;
	}
}

/* ---- leases ---- */

/* Whom the request waited for, if anybody is to be named. */
static void pack_waited_for(msgpack_packer *packer, const struct request *request)
{
	const struct holder *holder = request->waited_for;
	char digest[HOLDER_SQL_BYTES + 4];
	pack_cstr(packer, "waited_for");
	msgpack_pack_map(packer, 5);
	pack_key_str(packer, "what", holder->what);
	pack_key_uint(packer, "pid", (uint64_t)holder->pid);
	pack_key_uint(packer, "uid", holder->uid);
	pack_key_str(packer, "label", holder->known.label);
	pack_cstr(packer, "sql");
	if (!holder->known.has_sql) {
		msgpack_pack_nil(packer);
	} else if (request_may_see(request->credentials, holder->uid)) {
		pack_cstr(packer, holder->known.sql);
	} else {
		snprintf(digest, sizeof(digest), HOLDER_DIGEST_FORMAT, holder->known.digest);
		pack_cstr(packer, digest);
	}
}

void reply_pack_begin(struct request *request, uint64_t lease, uint64_t commit_no)
{
	static const uint8_t kind = PAYLOAD_RESULT;
	msgpack_packer packer;
	buffer_clear(&request->payload);
	buffer_append(&request->payload, &kind, 1);
	buffer_packer(&request->payload, &packer);
	msgpack_pack_map(&packer, 3u + (request->waited_for != NULL));
	pack_key_uint(&packer, "lease", lease);
	pack_key_uint(&packer, "commit", commit_no);
	pack_key_bool(&packer, "open", true);
	if (request->waited_for != NULL) {
		pack_waited_for(&packer, request);
	}
}

/* Makes the map of the one step, grown by so many keys, the whole result. */
static void step_becomes_result(struct packing *packing, unsigned keys)
{
	struct buffer *payload = packing->payload;
	if (!payload->failed) {
		payload->data[packing->map_at] = (uint8_t)(payload->data[packing->map_at] + keys);
		buffer_cut(payload, 0, packing->map_at - 1);
		payload->data[0] = PAYLOAD_RESULT;
	}
}

void reply_pack_lease_step(struct packing *packing, bool has_cursor, uint64_t cursor, bool more)
{
	msgpack_packer packer;
	buffer_packer(packing->payload, &packer);
	pack_key_bool(&packer, "open", true);
	if (has_cursor) {
		pack_key_bool(&packer, "more", more);
	}
	if (has_cursor && more) {
		pack_key_uint(&packer, "cursor", cursor);
	}
	step_becomes_result(packing, 1u + has_cursor + (has_cursor && more));
}

void reply_pack_fetch(struct packing *packing, bool more)
{
	struct buffer *payload = packing->payload;
	msgpack_packer packer;
	pack_array_end(payload, packing->rows_at, packing->rows);
	buffer_packer(payload, &packer);
	pack_key_bool(&packer, "more", more);
	pack_key_bool(&packer, "open", true);
	if (!payload->failed) {
		payload->data[packing->map_at] = 0x85; /* columns, types, rows and these */
	}
	step_becomes_result(packing, 0);
}

/* ---- errors ---- */

/* Ends a text at that many bytes, before a character that would be cut. */
static void cut_text(char *text, size_t bytes)
{
	if (strlen(text) > bytes) {
		while (bytes > 0 && ((unsigned char)text[bytes] & 0xc0) == 0x80) {
			bytes--;
		}
		text[bytes] = 0;
	}
}

void reply_fail_from_store(struct request *request, const struct store_error *error, int64_t step)
{
	static const enum failure_code meaning[] = {
		[STORE_SQL] = FAILURE_SQL,
		[STORE_BAD_REQUEST] = FAILURE_BAD_REQUEST,
		[STORE_DENIED] = FAILURE_DENIED,
		[STORE_GUARD] = FAILURE_GUARD,
		[STORE_TOO_LARGE] = FAILURE_TOO_LARGE,
		[STORE_TIMEOUT] = FAILURE_DEADLINE,
		[STORE_RESOURCE] = FAILURE_SQL,
		[STORE_BUSY] = FAILURE_FOREIGN_WRITER,
		[STORE_UNKNOWN] = FAILURE_INTERNAL,
		[STORE_SNAPSHOT] = FAILURE_SNAPSHOT_CHANGED,
		[STORE_EPOCH] = FAILURE_EPOCH_CHANGED,
		[STORE_NOT_FOUND] = FAILURE_NOT_FOUND,
		[STORE_MISMATCH] = FAILURE_KEY_MISMATCH,
	};
	struct failure *failure = &request->failure;
	const char *message = error->message != NULL ? error->message : "out of memory";
	if (error->message != NULL) {
		cut_text(error->message,
			MESSAGE_BYTES_MAX); /* RAISE can make it as long as a value */
	}
	if (error->condition == STORE_DENIED && error->needed == ROLE_NONE) {
		failure_set(failure, FAILURE_DENIED,
			"not allowed through litefunnel: %s (%s, role %s)", message,
			request->credentials->text, role_name(request->credentials->role));
	} else if (error->condition == STORE_DENIED) {
		failure_set(failure, FAILURE_DENIED, "%s needs the role %s: %s has the role %s",
			message, role_name(error->needed), request->credentials->text,
			role_name(request->credentials->role));
	} else {
		failure_set(failure, meaning[error->condition], "%s", message);
	}
	if (error->condition == STORE_RESOURCE && (error->sqlite & 0xff) == SQLITE_CODE_FULL) {
		failure_set(failure, FAILURE_DISK_LOW,
			"the disk is full, and nothing of the batch was applied: writes go on when there is "
			"room (%s)",
			message);
	}
	if (error->condition == STORE_TIMEOUT) {
		failure->retry = false; /* it would only take as long again */
	} else if (error->condition == STORE_RESOURCE) {
		failure->retry = true;
	}
	failure->retry_after_ms = failure->retry ? RETRY_AFTER_MS : 0;
	failure->sqlite = error->sqlite != 0 ? error->sqlite : failure->sqlite;
	failure->step = step;
	failure->row = error->row;
}

/*
 * `request` may be NULL: the failure alone, as it is remembered. `keys_more`: entries that the caller
 * packs behind these.
 */
static void pack_failure(msgpack_packer *packer, const struct failure *failure,
	const struct request *request, unsigned keys_more)
{
	bool waited = request != NULL && request->waited_for != NULL;
	static const char *const applied[] = {"no", "yes", "unknown"};
	unsigned keys = 4u + (failure->retry_after_ms != 0) + (failure->sqlite != 0) +
		(failure->step >= 0) + (failure->row >= 0) + (failure->open >= 0) + waited;
	msgpack_pack_map(packer, keys + keys_more);
	pack_key_str(packer, "code", failure_code_name(failure->code));
	pack_key_str(
		packer, "message", failure->message != NULL ? failure->message : "out of memory");
	pack_key_str(packer, "applied", applied[failure->applied]);
	pack_key_bool(packer, "retry", failure->retry);
	if (failure->retry_after_ms != 0) {
		pack_key_uint(packer, "retry_after_ms", failure->retry_after_ms);
	}
	if (failure->sqlite != 0) {
		pack_key_uint(packer, "sqlite", (uint64_t)failure->sqlite);
	}
	if (failure->step >= 0) {
		pack_key_uint(packer, "step", (uint64_t)failure->step);
	}
	if (failure->row >= 0) {
		pack_key_uint(packer, "row", (uint64_t)failure->row);
	}
	if (failure->open >= 0) {
		pack_key_bool(packer, "open", failure->open != 0);
	}
	if (waited) {
		pack_waited_for(packer, request);
	}
}

bool reply_pack_failure(const struct failure *failure, struct buffer *payload)
{
	static const uint8_t kind = PAYLOAD_ERROR;
	msgpack_packer packer;
	buffer_clear(payload);
	buffer_append(payload, &kind, 1);
	buffer_packer(payload, &packer);
	pack_failure(&packer, failure, NULL, 0);
	return !payload->failed;
}

static void build_error(struct buffer *out, uint32_t id, const struct failure *failure,
	const struct request *request)
{
	msgpack_packer packer;
	size_t mark = message_begin_error(out, id);
	buffer_packer(out, &packer);
	pack_failure(&packer, failure, request, 0);
	msgpack_pack_nil(&packer);
	frame_end(out, mark);
}

void reply_error(struct buffer *out, uint32_t id, const struct failure *failure)
{
	build_error(out, id, failure, NULL);
}

void reply_failed(struct request *request)
{
	build_error(&request->reply, request->id, &request->failure, request);
}

void reply_closing(struct buffer *out, enum failure_code code, const char *message)
{
	msgpack_packer packer;
	size_t mark = message_begin_notice(out, "closing");
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 2);
	pack_cstr(&packer, "code");
	pack_cstr(&packer, failure_code_name(code));
	pack_cstr(&packer, "message");
	pack_cstr(&packer, message);
	frame_end(out, mark);
}

enum { MSGPACK_NIL = 0xc0 };

/* Where the result begins in a frame that message_begin_result() began: behind [1, id, nil. */
static size_t result_at(const struct buffer *frame)
{
	static const uint8_t id_bytes[] = {[0] = 2, [1] = 3, [2] = 5}; /* uint 8, 16, 32 */
	uint8_t id = frame->data[FRAME_HEADER_BYTES + 2];
	return FRAME_HEADER_BYTES + 2u + (id < 0x80 ? 1u : id_bytes[id - 0xcc]) + 1u;
}

bool reply_is_result(const struct request *request)
{
	return (request->outcome == OUTCOME_OK || request->outcome == OUTCOME_REPEAT) &&
		request->payload.len > 0 && request->payload.data[0] != PAYLOAD_ERROR &&
		!request->payload.failed;
}

void reply_not_shipped(
	struct request *request, const struct reply_facts *facts, const char *message)
{
	request->ack = ACK_COMMITTED; /* that is all that the result may say now */
	reply_build(request, facts);
	struct buffer frame = request->reply;
	struct failure failure;
	msgpack_packer packer;
	failure_init(&failure);
	failure_set(&failure, FAILURE_NOT_SHIPPED, "%s", message);
	buffer_init(&request->reply, 0);
	/* If there was no memory for the result, there is none in the frame. */
	size_t at = frame.failed ? 0 : result_at(&frame);
	bool whole = at != 0 && frame.data[at - 1] == MSGPACK_NIL;
	if (whole) {
		size_t mark = message_begin_error(&request->reply, request->id);
		buffer_packer(&request->reply, &packer);
		pack_failure(&packer, &failure, NULL, 1);
		pack_cstr(&packer, "result");
		buffer_append(&request->reply, frame.data + at, frame.len - at);
		msgpack_pack_nil(&packer);
		frame_end(&request->reply, mark);
	}
	if (!whole || request->reply.failed) {
		buffer_finish(&request->reply);
		buffer_init(&request->reply, 0);
		reply_error(&request->reply, request->id, &failure);
	}
	failure_clear(&failure);
	buffer_finish(&frame);
}

/* ---- frames ---- */

static void build_write_result(struct request *request, const struct reply_facts *facts)
{
	const struct buffer *payload = &request->payload;
	struct buffer *out = &request->reply;
	bool repeat = request->outcome == OUTCOME_REPEAT;
	bool cut = payload->data[0] == PAYLOAD_STEPS_CUT;
	msgpack_packer packer;
	size_t mark = message_begin_result(out, request->id);
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 8u + repeat + cut + (request->waited_for != NULL));
	pack_key_uint(&packer, "commit", request->commit_no);
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, facts->epoch, STORE_EPOCH_BYTES);
	pack_cstr(&packer, "durability");
	pack_cstr(&packer, request->ack == ACK_SHIPPED ? "shipped" : facts->durability);
	pack_cstr(&packer, "steps");
	buffer_append(out, payload->data + 1, payload->len - 1);
	if (repeat) {
		pack_key_bool(&packer, "repeat", true);
	}
	if (cut) {
		pack_key_bool(&packer, "rows_lost", true);
	}
	pack_key_uint(&packer, "queued_us", request->taken_us - request->received_us);
	pack_key_uint(&packer, "exec_us", request->exec_us);
	pack_key_uint(&packer, "commit_us", request->commit_us);
	pack_key_uint(&packer, "group", request->group);
	if (request->waited_for != NULL) {
		pack_waited_for(&packer, request);
	}
	frame_end(out, mark);
}

/* The end of a lease, by its method or by a step that said so. */
static void build_commit_result(struct request *request, const struct reply_facts *facts)
{
	struct buffer *out = &request->reply;
	bool repeat = request->outcome == OUTCOME_REPEAT;
	bool step = request->kind == REQUEST_LEASE && request->lease.op == LEASE_OP_STEP;
	msgpack_packer packer;
	size_t mark = message_begin_result(out, request->id);
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 8u + repeat + (step ? 3u : 0u));
	pack_key_uint(&packer, "commit", request->commit_no);
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, facts->epoch, STORE_EPOCH_BYTES);
	pack_key_str(
		&packer, "durability", request->ack == ACK_SHIPPED ? "shipped" : facts->durability);
	if (step) {
		pack_key_uint(&packer, "changes", 0);
		pack_key_uint(&packer, "total", 0);
		pack_key_uint(&packer, "rowid", 0);
	}
	if (repeat) {
		pack_key_bool(&packer, "repeat", true);
	}
	pack_key_uint(&packer, "queued_us", request->taken_us - request->received_us);
	pack_key_uint(&packer, "exec_us", request->exec_us);
	pack_key_uint(&packer, "commit_us", request->commit_us);
	pack_key_uint(&packer, "group", request->group);
	pack_key_bool(&packer, "open", false);
	frame_end(out, mark);
}

/* An answer that stands in the payload as it goes out: an error map or a result map. */
static void build_verbatim(struct request *request, bool error)
{
	const struct buffer *payload = &request->payload;
	struct buffer *out = &request->reply;
	msgpack_packer packer;
	size_t mark = error ? message_begin_error(out, request->id)
			    : message_begin_result(out, request->id);
	buffer_append(out, payload->data + 1, payload->len - 1);
	if (error) {
		buffer_packer(out, &packer);
		msgpack_pack_nil(&packer);
	}
	frame_end(out, mark);
}

void reply_build(struct request *request, const struct reply_facts *facts)
{
	buffer_clear(&request->reply);
	if (request->outcome == OUTCOME_FAILED || request->payload.len == 0) {
		reply_failed(request);
	} else if (request->payload.data[0] == PAYLOAD_ERROR) {
		build_verbatim(request, true);
	} else if (request->payload.data[0] == PAYLOAD_RESULT) {
		build_verbatim(request, false);
	} else if (request->payload.data[0] == PAYLOAD_COMMIT) {
		build_commit_result(request, facts);
	} else {
		build_write_result(request, facts);
	}
	if (request->reply.failed) {
		/*
		 * Too little memory for the answer to what is done: say so in as few bytes as
		 * possible.
		 */
		struct failure failure;
		failure_init(&failure);
		failure.code = FAILURE_INTERNAL;
		failure.applied = request->outcome == OUTCOME_FAILED ? APPLIED_NO : APPLIED_UNKNOWN;
		failure.retry = true;
		buffer_finish(&request->reply);
		reply_error(&request->reply, request->id, &failure);
	}
}
