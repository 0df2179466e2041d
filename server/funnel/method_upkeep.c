/* SPDX-License-Identifier: MIT */

/*
 * The methods `vacuum` and `optimize`: turns of the writer for the database's own sake. Whoever comes
 * meanwhile waits.
 */

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/funnel/call.h"
#include "server/funnel/reply.h"
#include "server/store/upkeep.h"

struct upkeep_ask {
	bool vacuum;
	bool look; /* only what it would cost */
};

static enum task_end failed(struct request *request, int rc, struct store_error *error)
{
	if (rc == STORE_UNKNOWN) {
		failure_set(&request->failure, FAILURE_INTERNAL, "%s",
			error->message != NULL ? error->message : "COMMIT");
		store_error_clear(error);
		return TASK_UNKNOWN;
	}
	if (rc ==
		STORE_BUSY) { /* another process is writing, or has written: when that was looked at */
		failure_set(&request->failure, FAILURE_INTERNAL, "%s",
			error->message != NULL ? error->message : "the database is locked");
		store_error_clear(error);
		return TASK_BUSY;
	}
	reply_fail_from_store(request, error, -1);
	request->outcome = OUTCOME_FAILED;
	store_error_clear(error);
	return TASK_DONE;
}

static enum task_end run_upkeep(struct request *request, struct store *store, uint64_t budget_us)
{
	static const uint8_t kind = PAYLOAD_RESULT;
	const struct upkeep_ask *ask = request->task.ctx;
	struct store_error error = {.row = -1};
	struct upkeep_facts before = {0};
	struct upkeep_facts after = {0};
	uint64_t began_us = clock_now_us();
	msgpack_packer packer;
	(void)budget_us;
	int rc = store_upkeep_look(store, &before, &error);
	if (rc == 0 && !ask->look) {
		log_info(request->task.what, log_uint("bytes", before.bytes),
			log_str("by", request->credentials->text));
		rc = ask->vacuum ? store_vacuum(store, &error) : store_optimize(store, &error);
	}
	rc = rc == 0 ? store_upkeep_look(store, &after, &error) : rc;
	if (rc != 0) {
		return failed(request, rc, &error);
	}
	buffer_clear(&request->payload);
	buffer_append(&request->payload, &kind, 1);
	buffer_packer(&request->payload, &packer);
	msgpack_pack_map(&packer, 6);
	pack_key_uint(&packer, "bytes", after.bytes);
	pack_key_uint(&packer, "bytes_before", before.bytes);
	pack_key_uint(&packer, "free_bytes", after.free_bytes);
	pack_key_uint(&packer, "disk_free", after.disk_free);
	pack_key_uint(&packer, "took_ms", (clock_now_us() - began_us) / 1000);
	pack_key_uint(&packer, "commit", store_commit_no(store));
	request->outcome = OUTCOME_OK;
	return TASK_DONE;
}

static bool begin(struct call *call, const char *what, bool vacuum)
{
	const struct field *field = message_field(call->message, "look");
	uint64_t look = 0;
	void *room = NULL;
	if (field != NULL && (!object_uint64(field->value, &look) || look > 1)) {
		failure_set(&call->failure, FAILURE_BAD_REQUEST, "look is 0 or 1");
		return false;
	}
	struct request *request = request_new(REQUEST_TASK, sizeof(struct upkeep_ask), &room);
	if (request == NULL) {
		failure_set(&call->failure, FAILURE_INTERNAL, "out of memory");
		return false;
	}
	*(struct upkeep_ask *)room = (struct upkeep_ask){.vacuum = vacuum, .look = look != 0};
	request->task = (struct task){.what = what, .run = run_upkeep, .ctx = room};
	return call_enqueue_decoded(call, request);
}

bool vacuum_begin(struct call *call)
{
	return begin(call, "vacuum", true);
}

bool optimize_begin(struct call *call)
{
	return begin(call, "optimize", false);
}
