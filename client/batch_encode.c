/* SPDX-License-Identifier: MIT */

/*
 * A finished batch as MessagePack: the values that stand in a request. It knows the shape of a step, as
 * batch.c does, which builds it; equal batches give equal bytes.
 */

#include "client/batch.h"

#include <errno.h>

int builder_buffer_error(const struct buffer *buf, size_t more)
{
	return buf->len > BATCH_BYTES_MAX || more > BATCH_BYTES_MAX - buf->len ? -EMSGSIZE
									       : -ENOMEM;
}

static void header_array(struct buffer *buf, size_t count)
{
	msgpack_packer packer;
	buffer_packer(buf, &packer);
	msgpack_pack_array(&packer, count);
}

static void header_map(struct buffer *buf, size_t count)
{
	msgpack_packer packer;
	buffer_packer(buf, &packer);
	msgpack_pack_map(&packer, count);
}

void builder_row_header(struct buffer *to, enum row_form form, uint32_t values)
{
	if (form == ROW_MAP) {
		header_map(to, values);
	} else {
		header_array(to, values);
	}
}

/* params: nil, one row, or with `many` an array of rows. */
static size_t put_params(const lf_batch *batch, struct buffer *to)
{
	const struct step *step = &batch->step;
	bool last_row = step->row_values > 0;
	msgpack_packer packer;

	if (step->many) {
		header_array(to, (size_t)step->rows_count + (last_row ? 1 : 0));
		buffer_append(to, batch->rows.data, batch->rows.len);
	} else if (!last_row) {
		buffer_packer(to, &packer);
		msgpack_pack_nil(&packer);
		return 1;
	}
	if (last_row) {
		builder_row_header(to, step->form, step->row_values);
		buffer_append(to, batch->row.data, batch->row.len);
	}
	return (step->many ? 1u : 0u) + (last_row ? 1u : 0u);
}

static size_t opts_count(const struct step *step)
{
	return (step->many ? 1u : 0u) + (step->expect != NULL ? 1u : 0u) +
		(step->rows_max_set ? 1u : 0u) + (step->truncate ? 1u : 0u) +
		(step->sliced ? 1u : 0u) + (step->script ? 1u : 0u);
}

static void put_flag(msgpack_packer *packer, const char *name)
{
	pack_cstr(packer, name);
	msgpack_pack_true(packer);
}

static size_t put_opts(const struct step *step, struct buffer *to)
{
	size_t count = opts_count(step);
	msgpack_packer packer;

	buffer_packer(to, &packer);
	msgpack_pack_map(&packer, count);
	if (step->many) {
		put_flag(&packer, "many");
	}
	if (step->sliced) {
		pack_cstr(&packer, "atomic");
		msgpack_pack_false(&packer);
	}
	if (step->expect != NULL) {
		pack_cstr(&packer, "expect");
		msgpack_pack_map(&packer, 1);
		pack_cstr(&packer, step->expect);
		msgpack_pack_int64(&packer, step->expect_count);
	}
	if (step->rows_max_set) {
		pack_cstr(&packer, "rows");
		msgpack_pack_uint32(&packer, step->rows_max);
	}
	if (step->truncate) {
		put_flag(&packer, "truncate");
	}
	if (step->script) {
		put_flag(&packer, "script");
	}
	return 1 + 2 * count + (step->expect != NULL ? 2u : 0u);
}

/* Appends the open step as one value to `to`; returns how many MessagePack values that took. */
static size_t put_open_step(const lf_batch *batch, struct buffer *to)
{
	const struct step *step = &batch->step;
	bool opts = opts_count(step) > 0;
	bool params = opts || step->row_values > 0;
	size_t nodes = 1 + step->nodes;

	header_array(to, 1u + (params ? 1u : 0u) + (opts ? 1u : 0u));
	buffer_append(to, batch->sql.data, batch->sql.len);
	if (params) {
		nodes += put_params(batch, to);
	}
	if (opts) {
		nodes += put_opts(step, to);
	}
	return nodes;
}

int builder_close_step(lf_batch *batch)
{
	if (!batch->step.open) {
		return 0;
	}
	if (batch->step.name_pending) {
		return -EINVAL;
	}
	batch->nodes += put_open_step(batch, &batch->steps);
	if (batch->steps.failed) {
		return builder_buffer_error(&batch->steps, batch->sql.len + batch->rows.len);
	}
	batch->steps_count++;
	batch->step = (struct step){0};
	return 0;
}

int builder_encode(const struct lf_batch *batch, struct buffer *ret_bytes, size_t *ret_nodes)
{
	size_t count = lf_batch_steps(batch);
	if (batch->failure != 0) {
		return batch->failure;
	}
	if (count == 0 || batch->step.name_pending) {
		return -EINVAL;
	}
	header_array(ret_bytes, count);
	buffer_append(ret_bytes, batch->steps.data, batch->steps.len);
	*ret_nodes = 1 + batch->nodes;
	if (batch->step.open) {
		*ret_nodes += put_open_step(batch, ret_bytes);
	}
	if (ret_bytes->failed) {
		return builder_buffer_error(
			ret_bytes, batch->sql.len + batch->rows.len + batch->row.len);
	}
	return 0;
}

int builder_encode_step(const struct lf_batch *batch, uint32_t cursor_rows,
	struct buffer *ret_pairs, unsigned *ret_keys, size_t *ret_nodes)
{
	const struct step *step = &batch->step;
	bool opts = opts_count(step) > 0;
	msgpack_packer packer;
	if (batch->failure != 0) {
		return batch->failure;
	}
	if (batch->steps_count != 0 || !step->open || step->name_pending ||
		(cursor_rows > 0 && opts)) {
		return -EINVAL;
	}
	buffer_packer(ret_pairs, &packer);
	pack_cstr(&packer, "sql");
	buffer_append(ret_pairs, batch->sql.data, batch->sql.len);
	pack_cstr(&packer, "params");
	*ret_nodes = 2 + step->nodes + put_params(batch, ret_pairs);
	*ret_keys = 2;
	if (opts || cursor_rows > 0) {
		pack_cstr(&packer, "opts");
		*ret_nodes += 1;
		*ret_keys += 1;
	}
	if (opts) {
		*ret_nodes += put_opts(step, ret_pairs);
	} else if (cursor_rows > 0) {
		msgpack_pack_map(&packer, 1);
		pack_cstr(&packer, "cursor");
		msgpack_pack_uint32(&packer, cursor_rows);
		*ret_nodes += 3;
	}
	return ret_pairs->failed
		? builder_buffer_error(ret_pairs, batch->sql.len + batch->rows.len + batch->row.len)
		: 0;
}

int builder_encode_guard(const struct lf_batch *batch, struct buffer *ret_bytes, size_t *ret_nodes)
{
	msgpack_packer packer;
	size_t tables = batch->guard_tables_count;
	*ret_nodes = 0;
	if (!batch->guarded) {
		return 0;
	}
	buffer_packer(ret_bytes, &packer);
	msgpack_pack_map(&packer, tables > 0 ? 2 : 1);
	if (tables > 0) {
		pack_cstr(&packer, "tables");
		msgpack_pack_array(&packer, tables);
		buffer_append(ret_bytes, batch->guard_tables.data, batch->guard_tables.len);
	}
	pack_cstr(&packer, "at");
	msgpack_pack_map(&packer, 2);
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, batch->guard_epoch, sizeof(batch->guard_epoch));
	pack_cstr(&packer, "commit");
	msgpack_pack_uint64(&packer, batch->guard_commit);
	*ret_nodes = 7 + (tables > 0 ? 2 + tables : 0);
	return ret_bytes->failed ? -ENOMEM : 0;
}
