/* SPDX-License-Identifier: MIT */

/*
 * The batch builder: calls in, MessagePack out. It knows the shape of a step and nothing of
 * requests, sessions or connections. It keeps true that equal calls give equal bytes (batch_encode.c
 * puts them together), and that the first failure is remembered and everything after it ignored.
 */

#include "client/batch.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void batch_fail(lf_batch *batch, int error)
{
	if (batch->failure == 0) {
		batch->failure = error;
	}
}

lf_batch *lf_batch_new(void)
{
	lf_batch *batch = calloc(1, sizeof(*batch));
	if (batch != NULL) {
		buffer_init(&batch->steps, BATCH_BYTES_MAX);
		buffer_init(&batch->sql, BATCH_BYTES_MAX);
		buffer_init(&batch->rows, BATCH_BYTES_MAX);
		buffer_init(&batch->row, BATCH_BYTES_MAX);
		buffer_init(&batch->guard_tables, BATCH_BYTES_MAX);
	}
	return batch;
}

void lf_batch_free(lf_batch *batch)
{
	if (batch == NULL) {
		return;
	}
	buffer_finish(&batch->steps);
	buffer_finish(&batch->sql);
	buffer_finish(&batch->rows);
	buffer_finish(&batch->row);
	buffer_finish(&batch->guard_tables);
	free(batch);
}

void lf_batch_clear(lf_batch *batch)
{
	batch->failure = 0;
	batch->steps_count = 0;
	batch->nodes = 0;
	batch->step = (struct step){0};
	batch->key[0] = '\0';
	batch->class_name[0] = '\0';
	batch->deadline_ms = 0;
	batch->ack_shipped = false;
	buffer_clear(&batch->steps);
	buffer_clear(&batch->sql);
	buffer_clear(&batch->rows);
	buffer_clear(&batch->row);
	batch->guarded = false;
	batch->guard_tables_count = 0;
	buffer_clear(&batch->guard_tables);
}

size_t lf_batch_steps(const lf_batch *batch)
{
	return batch->steps_count + (batch->step.open ? 1 : 0);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void begin_step(lf_batch *batch, const char *sql, bool script)
{
	msgpack_packer packer;

	if (batch->failure != 0) {
		return;
	}
	int r = builder_close_step(batch);
	if (r != 0 || sql == NULL) {
		batch_fail(batch, r != 0 ? r : -EINVAL);
	}
	if (batch->failure != 0) {
		return;
	}
	buffer_clear(&batch->sql);
	buffer_clear(&batch->rows);
	buffer_clear(&batch->row);
	buffer_packer(&batch->sql, &packer);
	pack_cstr(&packer, sql);
	if (batch->sql.failed) {
		batch_fail(batch, builder_buffer_error(&batch->sql, strlen(sql)));
		return;
	}
	batch->step = (struct step){.open = true, .script = script, .nodes = 1};
}

void lf_batch_step(lf_batch *batch, const char *sql)
{
	begin_step(batch, sql, false);
}

void lf_batch_script(lf_batch *batch, const char *sql)
{
	begin_step(batch, sql, true);
}

/* True if the open step takes values; else remembers the misuse. */
static bool takes_values(lf_batch *batch)
{
	if (batch->failure == 0 && (!batch->step.open || batch->step.script)) {
		batch_fail(batch, -EINVAL);
	}
	return batch->failure == 0;
}

/* Before each value: a row holds names for all of its values or for none. */
static bool begin_value(lf_batch *batch)
{
	struct step *step = &batch->step;
	if (!takes_values(batch)) {
		return false;
	}
	enum row_form form = step->name_pending ? ROW_MAP : ROW_LIST;
	if (step->form != ROW_EMPTY && step->form != form) {
		batch_fail(batch, -EINVAL);
		return false;
	}
	step->form = form;
	step->name_pending = false;
	return true;
}

static void end_value(lf_batch *batch, size_t len)
{
	if (batch->row.failed) {
		batch_fail(batch, builder_buffer_error(&batch->row, len));
		return;
	}
	batch->step.row_values++;
	batch->step.nodes++;
}

void lf_bind_null(lf_batch *batch)
{
	msgpack_packer packer;
	if (begin_value(batch)) {
		buffer_packer(&batch->row, &packer);
		msgpack_pack_nil(&packer);
		end_value(batch, 1);
	}
}

void lf_bind_int64(lf_batch *batch, int64_t value)
{
	msgpack_packer packer;
	if (begin_value(batch)) {
		buffer_packer(&batch->row, &packer);
		msgpack_pack_int64(&packer, value);
		end_value(batch, 9);
	}
}

void lf_bind_double(lf_batch *batch, double value)
{
	msgpack_packer packer;
	if (isnan(value)) {
		lf_bind_null(batch);
		return;
	}
	if (begin_value(batch)) {
		buffer_packer(&batch->row, &packer);
		msgpack_pack_double(&packer, value);
		end_value(batch, 9);
	}
}

void lf_bind_text(lf_batch *batch, const char *text, ssize_t len)
{
	msgpack_packer packer;
	if (text == NULL) {
		lf_bind_null(batch);
		return;
	}
	size_t bytes = len < 0 ? strlen(text) : (size_t)len;
	if (begin_value(batch)) {
		/* Beyond the cap the length would not even fit its header: fail it before. */
		if (bytes > BATCH_BYTES_MAX) {
			batch_fail(batch, -EMSGSIZE);
			return;
		}
		buffer_packer(&batch->row, &packer);
		pack_str(&packer, text, bytes);
		end_value(batch, bytes);
	}
}

void lf_bind_blob(lf_batch *batch, const void *data, size_t len)
{
	msgpack_packer packer;
	if (data == NULL) {
		lf_bind_null(batch);
		return;
	}
	if (begin_value(batch)) {
		if (len > BATCH_BYTES_MAX) {
			batch_fail(batch, -EMSGSIZE);
			return;
		}
		buffer_packer(&batch->row, &packer);
		pack_bin(&packer, data, len);
		end_value(batch, len);
	}
}

void lf_bind_name(lf_batch *batch, const char *name)
{
	msgpack_packer packer;
	if (!takes_values(batch)) {
		return;
	}
	if (name == NULL || batch->step.name_pending || batch->step.form == ROW_LIST) {
		batch_fail(batch, -EINVAL);
		return;
	}
	buffer_packer(&batch->row, &packer);
	pack_cstr(&packer, name);
	if (batch->row.failed) {
		batch_fail(batch, builder_buffer_error(&batch->row, strlen(name)));
		return;
	}
	batch->step.name_pending = true;
	batch->step.nodes++;
}

void lf_batch_row(lf_batch *batch)
{
	struct step *step = &batch->step;
	if (!takes_values(batch)) {
		return;
	}
	if (step->name_pending) {
		batch_fail(batch, -EINVAL);
		return;
	}
	/* The row that begins now exists only once it has a value: a call after the last is
	 * harmless. */
	builder_row_header(&batch->rows, step->form, step->row_values);
	buffer_append(&batch->rows, batch->row.data, batch->row.len);
	if (batch->rows.failed) {
		batch_fail(batch, builder_buffer_error(&batch->rows, batch->row.len));
		return;
	}
	step->many = true;
	step->rows_count++;
	step->nodes++;
	step->row_values = 0;
	step->form = ROW_EMPTY;
	buffer_clear(&batch->row);
}

void lf_batch_sliced(lf_batch *batch)
{
	if (takes_values(batch)) {
		batch->step.many = true; /* also of a single row */
		batch->step.sliced = true;
	}
}

/* ---- options --------------------------------------------------------------------------------- */

static bool step_option(lf_batch *batch, bool valid)
{
	if (batch->failure == 0 && (!batch->step.open || !valid)) {
		batch_fail(batch, -EINVAL);
	}
	return batch->failure == 0;
}

/* A step carries one guard. A second of the other kind is refused: none may vanish silently. */
static void step_expect(lf_batch *batch, const char *what, int64_t count)
{
	const char *before = batch->step.expect;
	if (step_option(batch, count >= 0 && (before == NULL || strcmp(before, what) == 0))) {
		batch->step.expect = what;
		batch->step.expect_count = count;
	}
}

void lf_expect_changes(lf_batch *batch, int64_t changes)
{
	step_expect(batch, "changes", changes);
}

void lf_expect_rows(lf_batch *batch, int64_t rows)
{
	step_expect(batch, "rows", rows);
}

void lf_rows_max(lf_batch *batch, uint32_t max, bool truncate)
{
	if (step_option(batch, true)) {
		batch->step.rows_max_set = true;
		batch->step.rows_max = max;
		batch->step.truncate = truncate;
	}
}

void lf_batch_key(lf_batch *batch, const char *key)
{
	size_t len = key == NULL ? 0 : strlen(key);
	if (len == 0 || len > BATCH_KEY_MAX) {
		batch_fail(batch, -EINVAL);
		return;
	}
	memcpy(batch->key, key, len + 1);
}

void lf_batch_deadline(lf_batch *batch, uint32_t deadline_ms)
{
	batch->deadline_ms = deadline_ms;
}

bool builder_class_valid(const char *name)
{
	return strcmp(name, "interactive") == 0 || strcmp(name, "normal") == 0 ||
		strcmp(name, "bulk") == 0;
}

void lf_batch_class(lf_batch *batch, const char *request_class)
{
	if (request_class == NULL || !builder_class_valid(request_class)) {
		batch_fail(batch, -EINVAL);
		return;
	}
	memcpy(batch->class_name, request_class, strlen(request_class) + 1);
}

void lf_batch_ack_shipped(lf_batch *batch)
{
	batch->ack_shipped = true;
}

/* ---- guards ---------------------------------------------------------------------------------- */

void lf_batch_if_commit(lf_batch *batch, const uint8_t *epoch, uint64_t commit)
{
	if (epoch == NULL || commit > INT64_MAX) {
		batch_fail(batch, -EINVAL);
		return;
	}
	memcpy(batch->guard_epoch, epoch, sizeof(batch->guard_epoch));
	batch->guard_commit = commit;
	batch->guarded = true;
}

void lf_batch_if_table(lf_batch *batch, const char *table)
{
	msgpack_packer packer;
	if (!batch->guarded || table == NULL || table[0] == '\0') {
		batch_fail(batch, -EINVAL);
		return;
	}
	buffer_packer(&batch->guard_tables, &packer);
	pack_cstr(&packer, table);
	if (batch->guard_tables.failed) {
		batch_fail(batch, builder_buffer_error(&batch->guard_tables, strlen(table)));
		return;
	}
	batch->guard_tables_count++;
}
