/* SPDX-License-Identifier: MIT */

/*
 * Reading a reply. answer.c has looked at everything when it arrived; these only index, and an
 * index out of range or a value of another type reads as 0 or NULL.
 */

#include "client/reply.h"

#include <string.h>

enum lf_outcome lf_reply_outcome(const lf_reply *reply)
{
	return reply->outcome;
}

uint64_t lf_reply_ticket(const lf_reply *reply)
{
	return reply->ticket;
}

const char *lf_reply_code(const lf_reply *reply)
{
	return reply->code;
}

const char *lf_reply_message(const lf_reply *reply)
{
	return reply->message;
}

enum lf_applied lf_reply_applied(const lf_reply *reply)
{
	return reply->applied;
}

bool lf_reply_retry(const lf_reply *reply)
{
	return reply->retry;
}

int lf_reply_sqlite_code(const lf_reply *reply)
{
	return reply->sqlite;
}

int64_t lf_reply_failed_step(const lf_reply *reply)
{
	return reply->failed_step;
}

int64_t lf_reply_failed_row(const lf_reply *reply)
{
	return reply->failed_row;
}

uint64_t lf_reply_commit(const lf_reply *reply)
{
	return reply->commit;
}

const uint8_t *lf_reply_epoch(const lf_reply *reply)
{
	return reply->epoch;
}

const char *lf_reply_durability(const lf_reply *reply)
{
	return reply->durability;
}

bool lf_reply_repeat(const lf_reply *reply)
{
	return reply->repeat;
}

bool lf_reply_rows_lost(const lf_reply *reply)
{
	return reply->rows_lost;
}

uint64_t lf_reply_queued_us(const lf_reply *reply)
{
	return reply->queued_us;
}

uint64_t lf_reply_exec_us(const lf_reply *reply)
{
	return reply->exec_us;
}

uint64_t lf_reply_commit_us(const lf_reply *reply)
{
	return reply->commit_us;
}

uint64_t lf_reply_group(const lf_reply *reply)
{
	return reply->group;
}

/* ---- step results ---------------------------------------------------------------------------- */

static const struct reply_step *step_at(const lf_reply *reply, size_t step)
{
	static const struct reply_step none;
	return step < reply->steps_count ? &reply->steps[step] : &none;
}

size_t lf_reply_steps(const lf_reply *reply)
{
	return reply->steps_count;
}

int64_t lf_reply_changes(const lf_reply *reply, size_t step)
{
	return step_at(reply, step)->changes;
}

int64_t lf_reply_total(const lf_reply *reply, size_t step)
{
	return step_at(reply, step)->total;
}

int64_t lf_reply_rowid(const lf_reply *reply, size_t step)
{
	return step_at(reply, step)->rowid;
}

bool lf_reply_truncated(const lf_reply *reply, size_t step)
{
	return step_at(reply, step)->truncated;
}

static size_t array_size(const msgpack_object_array *array)
{
	return array != NULL ? array->size : 0;
}

static const msgpack_object *array_at(const msgpack_object_array *array, size_t index)
{
	return index < array_size(array) ? &array->ptr[index] : NULL;
}

/* Strings in here were terminated when the step was decoded. */
static const char *text_at(const msgpack_object_array *array, size_t index)
{
	const msgpack_object *object = array_at(array, index);
	struct span span;
	if (object == NULL || !object_str(object, &span)) {
		return NULL;
	}
	return span.len > 0 ? (const char *)span.data : "";
}

size_t lf_reply_columns(const lf_reply *reply, size_t step)
{
	return array_size(step_at(reply, step)->columns);
}

const char *lf_reply_column(const lf_reply *reply, size_t step, size_t column)
{
	return text_at(step_at(reply, step)->columns, column);
}

const char *lf_reply_decltype(const lf_reply *reply, size_t step, size_t column)
{
	return text_at(step_at(reply, step)->types, column);
}

size_t lf_reply_rows(const lf_reply *reply, size_t step)
{
	return array_size(step_at(reply, step)->rows);
}

/* NULL: no such value. */
static const msgpack_object *cell(const lf_reply *reply, size_t step, size_t row, size_t column)
{
	const msgpack_object *object = array_at(step_at(reply, step)->rows, row);
	if (object == NULL || object->type != MSGPACK_OBJECT_ARRAY) {
		return NULL;
	}
	return array_at(&object->via.array, column);
}

enum lf_type lf_reply_type(const lf_reply *reply, size_t step, size_t row, size_t column)
{
	const msgpack_object *object = cell(reply, step, row, column);
	if (object == NULL) {
		return LF_NULL;
	}
	switch (object->type) {
	case MSGPACK_OBJECT_BOOLEAN:
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		return LF_INTEGER;
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		return LF_FLOAT;
	case MSGPACK_OBJECT_STR:
		return LF_TEXT;
	case MSGPACK_OBJECT_BIN:
		return LF_BLOB;
	default:
		return LF_NULL;
	}
}

/* As SQLite casts a REAL: towards zero, and to the nearest end of the range beyond it. */
static int64_t int64_from_double(double value)
{
	if (value >= 9223372036854775808.0) {
		return INT64_MAX;
	}
	if (value <= -9223372036854775808.0) {
		return INT64_MIN;
	}
	return value == value ? (int64_t)value : 0;
}

int64_t lf_reply_int64(const lf_reply *reply, size_t step, size_t row, size_t column)
{
	const msgpack_object *object = cell(reply, step, row, column);
	int64_t value = 0;
	bool flag = false;
	if (object == NULL) {
		return 0;
	}
	if (object->type == MSGPACK_OBJECT_FLOAT32 || object->type == MSGPACK_OBJECT_FLOAT64) {
		return int64_from_double(object->via.f64);
	}
	if (object_bool(object, &flag)) {
		return flag ? 1 : 0;
	}
	return object_int64(object, &value) ? value : 0;
}

double lf_reply_double(const lf_reply *reply, size_t step, size_t row, size_t column)
{
	const msgpack_object *object = cell(reply, step, row, column);
	if (object != NULL &&
		(object->type == MSGPACK_OBJECT_FLOAT32 ||
			object->type == MSGPACK_OBJECT_FLOAT64)) {
		return object->via.f64;
	}
	return (double)lf_reply_int64(reply, step, row, column);
}

const void *lf_reply_blob(
	const lf_reply *reply, size_t step, size_t row, size_t column, size_t *ret_len)
{
	const msgpack_object *object = cell(reply, step, row, column);
	struct span span = {0};
	bool bytes = object != NULL && (object_str(object, &span) || object_bin(object, &span));
	if (ret_len != NULL) {
		*ret_len = span.len;
	}
	return !bytes ? NULL : span.len > 0 ? (const void *)span.data : "";
}

const char *lf_reply_text(
	const lf_reply *reply, size_t step, size_t row, size_t column, size_t *ret_len)
{
	return lf_reply_blob(reply, step, row, column, ret_len);
}

/* ---- other keys ------------------------------------------------------------------------------ */

static const msgpack_object *result_get(const lf_reply *reply, const char *key)
{
	const msgpack_object *map = reply->result != NULL ? reply->result : reply->error;
	const char *dot = strchr(key, '.');
	char outer[32];
	if (dot != NULL && (size_t)(dot - key) < sizeof(outer)) {
		memcpy(outer, key, (size_t)(dot - key));
		outer[dot - key] = 0;
		map = map != NULL ? object_get(map, outer) : NULL;
		key = dot + 1;
	}
	return map != NULL ? object_get(map, key) : NULL;
}

bool lf_reply_field_int64(const lf_reply *reply, const char *key, int64_t *ret_value)
{
	const msgpack_object *object = result_get(reply, key);
	bool flag = false;
	if (object != NULL && object_bool(object, &flag)) {
		*ret_value = flag ? 1 : 0;
		return true;
	}
	return object != NULL && object_int64(object, ret_value);
}

bool lf_reply_field_text(
	const lf_reply *reply, const char *key, const char **ret_text, size_t *ret_len)
{
	const msgpack_object *object = result_get(reply, key);
	struct span span;
	if (object == NULL || !object_str(object, &span)) {
		return false;
	}
	*ret_text = span.len > 0 ? (const char *)span.data : "";
	if (ret_len != NULL) {
		*ret_len = span.len;
	}
	return true;
}
