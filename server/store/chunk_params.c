/* SPDX-License-Identifier: MIT */

/*
 * The values of a chunk's statement as they are kept in its row: for each its name (or none), its
 * type and its bytes, in the byte order of the machine, for the file stays on it.
 */

#include "server/store/chunk_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_NAME UINT32_MAX

static void append_bytes(sqlite3_str *out, const void *data, size_t len)
{
	uint32_t count = (uint32_t)len;
	sqlite3_str_append(out, (const char *)&count, sizeof(count));
	sqlite3_str_append(out, len > 0 ? data : "", (int)len);
}

char *chunk_params_pack(const struct step *step, size_t *ret_len)
{
	sqlite3_str *out = sqlite3_str_new(NULL);
	sqlite3_str_append(out, (const char *)&step->values_per_run, sizeof(step->values_per_run));
	for (uint32_t i = 0; i < step->values_per_run; i++) {
		const struct value *value = &step->values[i];
		if (step->names != NULL) {
			append_bytes(out, step->names[i].data, step->names[i].len);
		} else {
			uint32_t none = NO_NAME;
			sqlite3_str_append(out, (const char *)&none, sizeof(none));
		}
		sqlite3_str_appendchar(out, 1, (char)value->type);
		if (value->type >= VALUE_TEXT) {
			append_bytes(out, value->bytes.data, value->bytes.len);
		} else if (value->type != VALUE_NULL) {
			sqlite3_str_append(out, (const char *)&value->integer, 8);
		}
	}
	*ret_len = (size_t)sqlite3_str_length(out);
	return sqlite3_str_finish(out);
}

/* What is left to read of a blob. */
struct rest {
	const uint8_t *at;
	size_t len;
};

static bool take(struct rest *rest, void *to, size_t len)
{
	if (rest->len < len) {
		return false;
	}
	memcpy(to, rest->at, len);
	rest->at += len;
	rest->len -= len;
	return true;
}

static bool take_bytes(struct rest *rest, uint32_t len, struct bytes *ret_bytes)
{
	if (rest->len < len) {
		return false;
	}
	*ret_bytes = (struct bytes){rest->at, len};
	rest->at += len;
	rest->len -= len;
	return true;
}

static bool take_value(struct rest *rest, struct value *ret_value)
{
	uint8_t type = 0;
	uint32_t len = 0;
	*ret_value = (struct value){.type = VALUE_NULL};
	if (!take(rest, &type, 1) || type > VALUE_BLOB) {
		return false;
	}
	ret_value->type = (enum value_type)type;
	if (type >= VALUE_TEXT) {
		return take(rest, &len, sizeof(len)) && take_bytes(rest, len, &ret_value->bytes);
	}
	return type == VALUE_NULL || take(rest, &ret_value->integer, 8);
}

int chunk_params_unpack(const void *data, size_t len, struct chunk_params *ret_params)
{
	struct rest rest = {data, len};
	uint32_t count = 0;
	*ret_params = (struct chunk_params){0};
	if (!take(&rest, &count, sizeof(count)) || count > rest.len) {
		return -EINVAL;
	}
	ret_params->values = calloc((size_t)count + 1, sizeof(*ret_params->values));
	ret_params->names = calloc((size_t)count + 1, sizeof(*ret_params->names));
	if (ret_params->values == NULL || ret_params->names == NULL) {
		chunk_params_finish(ret_params);
		return -ENOMEM;
	}
	bool named = false;
	bool good = true;
	for (uint32_t i = 0; good && i < count; i++) {
		uint32_t name = 0;
		good = take(&rest, &name, sizeof(name));
		named = good && name != NO_NAME;
		good = good && (!named || take_bytes(&rest, name, &ret_params->names[i]));
		good = good && take_value(&rest, &ret_params->values[i]);
	}
	if (!good) {
		chunk_params_finish(ret_params);
		return -EINVAL;
	}
	ret_params->step = (struct step){.runs = 1,
		.values_per_run = count,
		.values = ret_params->values,
		.names = named ? ret_params->names : NULL};
	return 0;
}

void chunk_params_finish(struct chunk_params *params)
{
	free(params->values);
	free(params->names);
	*params = (struct chunk_params){0};
}
