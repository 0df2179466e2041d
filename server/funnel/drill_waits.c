/* SPDX-License-Identifier: MIT */

/*
 * Answers that grow row by row. The answer to `drill` and the table of `show drills` have the same
 * rows. Names of columns are an interface: they are added to and never changed.
 */

#include "server/funnel/drill_waits.h"

#include "server/funnel/drill.h"
#include "server/funnel/reply.h"

#include <stdio.h>

const char *const drill_columns[DRILL_COLUMNS] = {"id", "replica", "verdict", "reason", "scheduled",
	"began_ms", "ended_ms", "commit", "segment", "digest", "behind", "rpo_ms", "ship_ms",
	"rto_ms", "bytes", "database_bytes", "violations", "assertions", "tables"};

void drill_pack_row(msgpack_packer *packer, const struct drill_record *record)
{
	char digest[2 * DRILL_DIGEST_BYTES + 1] = "";
	for (size_t i = 0; record->has_digest && i < DRILL_DIGEST_BYTES; i++) {
		snprintf(digest + 2 * i, 3, "%02x", record->digest[i]);
	}
	msgpack_pack_array(packer, DRILL_COLUMNS);
	msgpack_pack_uint64(packer, record->id);
	pack_cstr(packer, record->replica);
	pack_cstr(packer, drill_verdict_name(record->verdict));
	pack_cstr(packer, record->reason);
	msgpack_pack_uint64(packer, record->scheduled);
	msgpack_pack_int64(packer, record->began_ms);
	msgpack_pack_int64(packer, record->ended_ms);
	msgpack_pack_uint64(packer, record->commit_no);
	msgpack_pack_uint64(packer, record->txid);
	pack_cstr(packer, digest);
	msgpack_pack_uint64(packer, record->behind);
	msgpack_pack_int64(packer, record->rpo_ms);
	msgpack_pack_int64(packer, record->ship_ms);
	msgpack_pack_int64(packer, record->rto_ms);
	msgpack_pack_uint64(packer, record->bytes);
	msgpack_pack_uint64(packer, record->database_bytes);
	msgpack_pack_uint64(packer, record->violations);
	msgpack_pack_uint64(packer, record->assertions);
	pack_cstr(packer, record->tables);
}

static struct drill_ask *ask_of(const struct request *request)
{
	return request->task.ctx;
}

static struct request *request_of(struct list *node)
{
	return container_of(node, struct request, node);
}

void drill_waits_add(struct drill_waits *waits, struct request *request, struct drill_ask *ask)
{
	static const uint8_t kind = PAYLOAD_RESULT;
	msgpack_packer packer;
	request->task.ctx = ask;
	buffer_append(&request->payload, &kind, 1);
	buffer_packer(&request->payload, &packer);
	msgpack_pack_map(&packer, 2);
	pack_cstr(&packer, "columns");
	msgpack_pack_array(&packer, DRILL_COLUMNS);
	for (size_t i = 0; i < DRILL_COLUMNS; i++) {
		pack_cstr(&packer, drill_columns[i]);
	}
	pack_cstr(&packer, "rows");
	ask->at = pack_array_begin(&request->payload);
	list_push_back(&waits->list, &request->node);
}

bool drill_waits_want(const struct drill_waits *waits, size_t replica)
{
	list_for_each(node, (struct list *)(uintptr_t)&waits->list) {
		if (ask_of(request_of(node))->left[replica]) {
			return true;
		}
	}
	return false;
}

static bool is_over(const struct drill_ask *ask)
{
	for (size_t i = 0; i < NOTICE_REPLICAS_MAX; i++) {
		if (ask->left[i]) {
			return false;
		}
	}
	return true;
}

static void answer(struct drill_waits *waits, struct request *request)
{
	const struct reply_facts facts = {.epoch = NULL};
	list_remove(&request->node);
	pack_array_end(&request->payload, ask_of(request)->at, ask_of(request)->rows);
	request->outcome = OUTCOME_OK;
	reply_build(request, &facts);
	waits->answered(waits->ctx, request);
}

void drill_waits_tell(struct drill_waits *waits, size_t replica, uint64_t began_us,
	const struct drill_record *record)
{
	list_for_each_safe(node, &waits->list) {
		struct request *request = request_of(node);
		struct drill_ask *ask = ask_of(request);
		msgpack_packer packer;
		if (!ask->left[replica] || request->received_us > began_us) {
			continue;
		}
		ask->left[replica] = false;
		ask->rows++;
		buffer_packer(&request->payload, &packer);
		drill_pack_row(&packer, record);
		if (is_over(ask)) {
			answer(waits, request);
		}
	}
}

static void refuse(struct drill_waits *waits, struct request *request, enum failure_code code,
	const char *message)
{
	list_remove(&request->node);
	failure_set(&request->failure, code, "%s", message);
	request->failure.retry_after_ms = code == FAILURE_SHUTTING_DOWN ? 200 : 0;
	reply_error(&request->reply, request->id, &request->failure);
	waits->answered(waits->ctx, request);
}

void drill_waits_expire(struct drill_waits *waits, uint64_t now_us)
{
	list_for_each_safe(node, &waits->list) {
		if (now_us >= request_of(node)->deadline_us) {
			refuse(waits, request_of(node), FAILURE_DEADLINE,
				"the drill goes on; what comes of it is in the table `drills`");
		}
	}
}

void drill_waits_refuse(struct drill_waits *waits, enum failure_code code, const char *message)
{
	list_for_each_safe(node, &waits->list) {
		refuse(waits, request_of(node), code, message);
	}
}

void drill_waits_forget(struct drill_waits *waits, uint64_t peer_id)
{
	list_for_each_safe(node, &waits->list) {
		if (request_of(node)->peer_id == peer_id) {
			request_free(request_of(node));
		}
	}
}
