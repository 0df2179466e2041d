/* SPDX-License-Identifier: MIT */

/*
 * JSON into batches. It refuses what it does not know, so that a guard that is misspelt never goes
 * unnoticed, and knows nothing of lines, files or connections.
 */

#include "server/cli/steps.h"

#include "server/base/cleanup.h"
#include "server/cli/param.h"
#include "server/cli/text.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <string.h>

struct reading {
	lf_batch *batch;
	char *error;
	size_t step; /* the one that is read, for messages */
};

struct step_opts {
	bool many;
	bool script;
	bool truncate;
	bool atomic;
	json_int_t rows; /* -1: none */
	json_int_t expect;
	const char *expect_what; /* NULL: none */
};

static void json_free(json_t **json)
{
	json_decref(*json);
}

__attribute__((format(printf, 2, 3))) static int fail(
	const struct reading *reading, const char *format, ...)
{
	va_list args;
	size_t used = 0;
	if (reading->step > 0) {
		used = (size_t)snprintf(
			reading->error, STEPS_ERROR_BYTES, "step %zu: ", reading->step);
	}
	va_start(args, format);
	vsnprintf(reading->error + used, STEPS_ERROR_BYTES - used, format, args);
	va_end(args);
	return -EINVAL;
}

/* ---- values ---- */

/* {"blob": "…"} or {"text": "…"} */
static int bind_encoded(const struct reading *reading, json_t *value)
{
	bool blob = json_object_get(value, "blob") != NULL;
	const json_t *base64 = json_object_get(value, blob ? "blob" : "text");
	if (json_object_size(value) != 1 || !json_is_string(base64)) {
		return fail(
			reading, "an object as value is {\"blob\": base64} or {\"text\": base64}");
	}
	size_t len = json_string_length(base64);
	CLEANUP_FREE char *data = malloc(len + 1);
	if (data == NULL) {
		return -ENOMEM;
	}
	if (!text_from_base64(json_string_value(base64), len, data, &len)) {
		return fail(reading, "a value is not base64");
	}
	struct print_value bytes = {.type = blob ? LF_BLOB : LF_TEXT, .data = data, .len = len};
	param_bind(reading->batch, &bytes);
	return 0;
}

static int bind_value(const struct reading *reading, json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_NULL:
		lf_bind_null(reading->batch);
		return 0;
	case JSON_TRUE:
	case JSON_FALSE:
		lf_bind_int64(reading->batch, json_is_true(value) ? 1 : 0);
		return 0;
	case JSON_INTEGER:
		lf_bind_int64(reading->batch, json_integer_value(value));
		return 0;
	case JSON_REAL:
		lf_bind_double(reading->batch, json_real_value(value));
		return 0;
	case JSON_STRING:
		lf_bind_text(reading->batch, json_string_value(value),
			(ssize_t)json_string_length(value));
		return 0;
	case JSON_OBJECT:
		return bind_encoded(reading, value);
	default:
		return fail(reading,
			"a value is null, a bool, a number, a string or {\"blob\": base64}");
	}
}

/* One row: an array, or an object of names. */
static int bind_row(const struct reading *reading, json_t *row)
{
	size_t index = 0;
	const char *name = NULL;
	json_t *value = NULL;
	int rc = 0;
	if (json_is_array(row)) {
		json_array_foreach(row, index, value)
		{
			rc = rc == 0 ? bind_value(reading, value) : rc;
		}
		return rc;
	}
	if (!json_is_object(row)) {
		return fail(reading, "params are an array, or an object of names");
	}
	json_object_foreach(row, name, value)
	{
		if (rc == 0) {
			lf_bind_name(reading->batch, name);
			rc = bind_value(reading, value);
		}
	}
	return rc;
}

static int bind_params(const struct reading *reading, json_t *params, const struct step_opts *opts)
{
	size_t index = 0;
	json_t *row = NULL;
	bool none = params == NULL || json_is_null(params);
	if (opts->script) {
		return none || (json_is_array(params) && json_array_size(params) == 0)
			? 0
			: fail(reading, "a script takes no params");
	}
	if (!opts->many) {
		return none ? 0 : bind_row(reading, params);
	}
	if (!json_is_array(params) || json_array_size(params) == 0) {
		return fail(reading, "with many, params are an array of one row or more");
	}
	json_array_foreach(params, index, row)
	{
		int rc = bind_row(reading, row);
		if (rc != 0) {
			return rc;
		}
		lf_batch_row(reading->batch);
	}
	return 0;
}

/* ---- options of a step ---- */

static int read_expect(const struct reading *reading, json_t *expect, struct step_opts *opts)
{
	const json_t *changes = json_object_get(expect, "changes");
	const json_t *rows = json_object_get(expect, "rows");
	const json_t *count = changes != NULL ? changes : rows;
	if (json_object_size(expect) != 1 || !json_is_integer(count) ||
		json_integer_value(count) < 0) {
		return fail(reading, "expect is {\"changes\": N} or {\"rows\": N}");
	}
	opts->expect_what = changes != NULL ? "changes" : "rows";
	opts->expect = json_integer_value(count);
	return 0;
}

static int read_opt(
	const struct reading *reading, const char *name, json_t *value, struct step_opts *opts)
{
	bool *flag = strcmp(name, "many") == 0  ? &opts->many
		: strcmp(name, "script") == 0   ? &opts->script
		: strcmp(name, "truncate") == 0 ? &opts->truncate
		: strcmp(name, "atomic") == 0   ? &opts->atomic
						: NULL;
	if (flag != NULL) {
		*flag = json_is_true(value);
		return json_is_boolean(value) ? 0 : fail(reading, "%s is true or false", name);
	}
	if (strcmp(name, "expect") == 0) {
		return read_expect(reading, value, opts);
	}
	if (strcmp(name, "rows") != 0) {
		return fail(reading,
			"no option \"%s\": there are many, atomic, expect, rows, truncate, script",
			name);
	}
	opts->rows = json_is_integer(value) ? json_integer_value(value) : -1;
	return opts->rows >= 0 && opts->rows < UINT32_MAX
		? 0
		: fail(reading, "rows is an integer from 0 on");
}

static int read_opts(const struct reading *reading, json_t *json, struct step_opts *opts)
{
	const char *name = NULL;
	json_t *value = NULL;
	*opts = (struct step_opts){.rows = -1, .atomic = true};
	if (json == NULL) {
		return 0;
	}
	if (!json_is_object(json)) {
		return fail(reading, "the options of a step are an object");
	}
	json_object_foreach(json, name, value)
	{
		int rc = read_opt(reading, name, value, opts);
		if (rc != 0) {
			return rc;
		}
	}
	return opts->truncate && opts->rows < 0 ? fail(reading, "truncate needs rows: N") : 0;
}

static void put_opts(const struct reading *reading, const struct step_opts *opts)
{
	if (opts->expect_what != NULL && strcmp(opts->expect_what, "changes") == 0) {
		lf_expect_changes(reading->batch, opts->expect);
	} else if (opts->expect_what != NULL) {
		lf_expect_rows(reading->batch, opts->expect);
	}
	if (!opts->atomic) {
		lf_batch_sliced(reading->batch);
	}
	if (opts->rows >= 0) {
		lf_rows_max(reading->batch, (uint32_t)opts->rows, opts->truncate);
	}
}

/* ---- steps and batches ---- */

static int read_step(const struct reading *reading, json_t *step)
{
	struct step_opts opts;
	json_t *sql = json_array_get(step, 0);
	size_t size = json_array_size(step);
	if (!json_is_array(step) || !json_is_string(sql) || size > 3) {
		return fail(reading,
			"a step is [\"SQL\"], [\"SQL\", params] or [\"SQL\", params, options], "
			"and a line an array of steps");
	}
	if (strlen(json_string_value(sql)) != json_string_length(sql)) {
		return fail(reading, "the SQL holds a NUL");
	}
	int rc = read_opts(reading, json_array_get(step, 2), &opts);
	if (rc != 0) {
		return rc;
	}
	if (opts.script) {
		lf_batch_script(reading->batch, json_string_value(sql));
	} else {
		lf_batch_step(reading->batch, json_string_value(sql));
	}
	put_opts(reading, &opts);
	return bind_params(reading, json_array_get(step, 1), &opts);
}

static int read_steps(struct reading *reading, json_t *steps)
{
	size_t index = 0;
	json_t *step = NULL;
	if (!json_is_array(steps) || json_array_size(steps) == 0) {
		return fail(reading,
			"a batch is an array of one step or more: [[\"SQL\", [params]], …]");
	}
	json_array_foreach(steps, index, step)
	{
		reading->step = index + 1;
		int rc = read_step(reading, step);
		if (rc != 0) {
			return rc;
		}
	}
	reading->step = 0;
	return 0;
}

static bool is_one_of(const char *text, const char *const *words)
{
	for (; *words != NULL; words++) {
		if (text != NULL && strcmp(text, *words) == 0) {
			return true;
		}
	}
	return false;
}

static int read_key(const struct reading *reading, const char *name, json_t *value)
{
	static const char *const classes[] = {"interactive", "normal", "bulk", NULL};
	const char *text = json_string_value(value);
	if (strcmp(name, "batch") == 0) {
		return 0;
	}
	if (strcmp(name, "key") == 0) {
		size_t len = json_string_length(value);
		if (len == 0 || len > 255 || strlen(text) != len) {
			return fail(reading, "key is a string of 1 to 255 bytes");
		}
		lf_batch_key(reading->batch, text);
	} else if (strcmp(name, "deadline_ms") == 0) {
		json_int_t ms = json_integer_value(value);
		if (ms < 1 || ms > UINT32_MAX) {
			return fail(reading, "deadline_ms is an integer from 1 on");
		}
		lf_batch_deadline(reading->batch, (uint32_t)ms);
	} else if (strcmp(name, "class") == 0) {
		if (!is_one_of(text, classes)) {
			return fail(reading, "class is interactive, normal or bulk");
		}
		lf_batch_class(reading->batch, text);
	} else if (strcmp(name, "ack") == 0) {
		bool shipped = text != NULL && strcmp(text, "shipped") == 0;
		if (!shipped && (text == NULL || strcmp(text, "committed") != 0)) {
			return fail(reading, "ack is committed or shipped");
		}
		if (shipped) {
			lf_batch_ack_shipped(reading->batch);
		}
	} else {
		return fail(reading, "no key \"%s\": there are batch, key, deadline_ms, class, ack",
			name);
	}
	return 0;
}

static int read_object(struct reading *reading, json_t *root)
{
	const char *name = NULL;
	json_t *value = NULL;
	json_object_foreach(root, name, value)
	{
		int rc = read_key(reading, name, value);
		if (rc != 0) {
			return rc;
		}
	}
	return read_steps(reading, json_object_get(root, "batch"));
}

int steps_read(const char *json, size_t len, lf_batch *batch, char ret_error[STEPS_ERROR_BYTES])
{
	json_error_t error;
	struct reading reading = {.batch = batch, .error = ret_error};
	CLEANUP(json_free)
	json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
	snprintf(ret_error, STEPS_ERROR_BYTES, "out of memory");
	if (root == NULL && json_error_code(&error) == json_error_out_of_memory) {
		return -ENOMEM;
	}
	if (root == NULL) {
		return fail(&reading, "not JSON: %s (column %d)", error.text, error.column);
	}
	if (json_is_object(root)) {
		return read_object(&reading, root);
	}
	return read_steps(&reading, root);
}
