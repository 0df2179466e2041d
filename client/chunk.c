/* SPDX-License-Identifier: MIT */

/*
 * Chunks: the requests about long statements. Each may be sent any number of times, because a chunk
 * is found by its name; so they survive a daemon that restarts like writes do.
 */

#include "client/batch.h"
#include "client/client.h"

#include <errno.h>
#include <string.h>

/* The batch as one statement with its values, unless it is more than that. */
static bool is_one_statement(const struct lf_batch *batch)
{
	const struct step *step = &batch->step;
	return batch->steps_count == 0 && step->open && !step->script && !step->many &&
		step->expect == NULL && !step->rows_max_set && !step->name_pending;
}

static void pack_statement(struct buffer *body, const struct lf_batch *batch)
{
	const struct step *step = &batch->step;
	msgpack_packer packer;
	buffer_packer(body, &packer);
	pack_cstr(&packer, "sql");
	buffer_append(body, batch->sql.data, batch->sql.len);
	pack_cstr(&packer, "params");
	if (step->form == ROW_MAP) {
		msgpack_pack_map(&packer, step->row_values);
	} else {
		msgpack_pack_array(&packer, step->row_values);
	}
	buffer_append(body, batch->row.data, batch->row.len);
}

int lf_chunk(lf_db *db, const char *name, const lf_batch *batch,
	const struct lf_chunk_options *options, lf_reply **ret_reply)
{
	struct lf_chunk_options chosen = LF_CHUNK_OPTIONS_INIT;
	struct buffer body;
	msgpack_packer packer;
	db_enter(db);
	if (options != NULL) {
		size_t size = options->size < sizeof(chosen) ? options->size : sizeof(chosen);
		memcpy(&chosen, options, size);
	}
	if (batch->failure != 0) {
		return db_error(db, batch->failure, "the batch could not be built");
	}
	if (name == NULL || name[0] == '\0' || !is_one_statement(batch)) {
		return db_error(db, -EINVAL,
			"lf_chunk: it takes a name, and a batch of one step without options");
	}
	buffer_init(&body, BATCH_BYTES_MAX);
	buffer_packer(&body, &packer);
	pack_key_str(&packer, "name", name);
	pack_statement(&body, batch);
	if (chosen.by != NULL) {
		pack_key_str(&packer, "by", chosen.by);
	}
	if (chosen.slice_ms > 0) {
		pack_key_uint(&packer, "slice_ms", chosen.slice_ms);
	}
	if (chosen.rate > 0) {
		pack_key_uint(&packer, "rate", chosen.rate);
	}
	unsigned keys = 3u + (chosen.by != NULL) + (chosen.slice_ms > 0) + (chosen.rate > 0);
	return db_ask(db, PENDING_READ, "chunk", &body, keys, 16 + batch->step.nodes, 0, ret_reply);
}

static int control(lf_db *db, const char *name, const char *op, const char *key, uint64_t number,
	uint32_t deadline_ms, lf_reply **ret_reply)
{
	struct buffer body;
	msgpack_packer packer;
	buffer_init(&body, BATCH_BYTES_MAX);
	buffer_packer(&body, &packer);
	pack_key_str(&packer, "chunk", name);
	pack_key_str(&packer, "op", op);
	if (key != NULL) {
		pack_key_uint(&packer, key, number);
	}
	return db_ask(db, PENDING_READ, "chunk_ctl", &body, 2u + (key != NULL), 16, deadline_ms,
		ret_reply);
}

int lf_chunk_control(
	lf_db *db, const char *name, const char *op, uint32_t rate, lf_reply **ret_reply)
{
	db_enter(db);
	if (name == NULL || op == NULL) {
		return db_error(db, -EINVAL, "lf_chunk_control: name or op is missing");
	}
	return control(db, name, op, rate > 0 ? "rate" : NULL, rate, 0, ret_reply);
}

int lf_chunk_wait(lf_db *db, const char *name, uint32_t wait_ms, lf_reply **ret_reply)
{
	db_enter(db);
	if (name == NULL) {
		return db_error(db, -EINVAL, "lf_chunk_wait: name is missing");
	}
	uint32_t deadline_ms = db->engine.config.deadline_ms;
	uint32_t room_ms = UINT32_MAX - deadline_ms;
	return control(db, name, "wait", "wait_ms", wait_ms,
		deadline_ms + (wait_ms < room_ms ? wait_ms : room_ms), ret_reply);
}
