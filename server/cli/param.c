/* SPDX-License-Identifier: MIT */

/* Parameters of a command line. Keeps true that what is a number prints as it was typed. */

#include "server/cli/param.h"

#include "server/base/cleanup.h"
#include "server/cli/text.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static int fail(char *ret_error, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(ret_error, PARAM_ERROR_BYTES, format, args);
	va_end(args);
	return -EINVAL;
}

static bool read_number(const char *text, struct print_value *ret_value)
{
	char back[TEXT_REAL_BYTES];
	char *end = NULL;
	if (!isdigit((unsigned char)text[text[0] == '-' ? 1 : 0])) {
		return false;
	}
	errno = 0;
	long long integer = strtoll(text, &end, 10);
	snprintf(back, sizeof(back), "%lld", integer);
	if (errno == 0 && *end == '\0' && strcmp(back, text) == 0) {
		*ret_value = (struct print_value){.type = LF_INTEGER, .integer = integer};
		return true;
	}
	double real = strtod(text, &end);
	text_from_real(real, back);
	if (*end == '\0' && isfinite(real) && strcmp(back, text) == 0) {
		*ret_value = (struct print_value){.type = LF_FLOAT, .real = real};
		return true;
	}
	return false;
}

/* Grows *data as the file comes, for a pipe has no size. */
static int read_all(FILE *file, char **data, size_t *ret_len)
{
	size_t cap = 0;
	size_t len = 0;
	for (;;) {
		if (len == cap) {
			cap = cap > 0 ? 2 * cap : 65536;
			char *more = realloc(*data, cap);
			if (more == NULL) {
				return -ENOMEM;
			}
			*data = more;
		}
		size_t count = fread(*data + len, 1, cap - len, file);
		len += count;
		if (len > PARAM_BYTES_MAX) {
			return -EFBIG;
		}
		if (count == 0) {
			*ret_len = len;
			return ferror(file) ? -EIO : 0;
		}
	}
}

static int read_file(const char *path, struct param *param, char *ret_error)
{
	size_t len = 0;
	FILE *file = fopen(path, "re");
	if (file == NULL) {
		return fail(ret_error, "cannot read %s: %s (for text that begins with @: --text)",
			path, strerror(errno));
	}
	int rc = read_all(file, &param->owned, &len);
	fclose(file);
	param->value = (struct print_value){.type = LF_BLOB, .data = param->owned, .len = len};
	return rc == -ENOMEM ? rc
		: rc < 0     ? fail(ret_error, "cannot read %s: %s", path, strerror(-rc))
			     : 0;
}

/* x'00ff'. False: it is not that. */
static bool read_hex(const char *text, struct param *param, int *ret_rc)
{
	size_t len = strlen(text);
	*ret_rc = 0;
	if (len < 3 || (text[0] != 'x' && text[0] != 'X') || text[1] != '\'' ||
		text[len - 1] != '\'') {
		return false;
	}
	param->owned = malloc(len);
	if (param->owned == NULL) {
		*ret_rc = -ENOMEM;
		return true;
	}
	if (!text_from_hex(text + 2, len - 3, param->owned)) {
		free(param->owned);
		param->owned = NULL;
		return false;
	}
	param->value =
		(struct print_value){.type = LF_BLOB, .data = param->owned, .len = (len - 3) / 2};
	return true;
}

/* The length of the name in ":name=", or 0. */
static size_t name_length(const char *text)
{
	size_t len = 0;
	if (text[0] != ':' || isdigit((unsigned char)text[1])) {
		return 0;
	}
	for (const char *at = text + 1; *at != '\0' && *at != '='; at++, len++) {
		unsigned char byte = (unsigned char)*at;
		if (!isalnum(byte) && byte != '_' && byte < 0x80) {
			return 0;
		}
	}
	return text[1 + len] == '=' ? len : 0;
}

static int read_value(const char *text, struct param *param, char *ret_error)
{
	int rc = 0;
	if (strcmp(text, "NULL") == 0) {
		param->value = (struct print_value){.type = LF_NULL};
	} else if (text[0] == '@' && text[1] != '\0') {
		return read_file(text + 1, param, ret_error);
	} else if (!read_hex(text, param, &rc) && !read_number(text, &param->value)) {
		param->value =
			(struct print_value){.type = LF_TEXT, .data = text, .len = strlen(text)};
	}
	return rc;
}

static int read_param(const char *text, struct param *param, char *ret_error)
{
	size_t name = name_length(text);
	if (name > 0) {
		param->name = strndup(text + 1, name);
		if (param->name == NULL) {
			return -ENOMEM;
		}
		text += name + 2;
	}
	return read_value(text, param, ret_error);
}

int params_read(struct params *params, const char *const *texts, int count, bool text,
	char ret_error[PARAM_ERROR_BYTES])
{
	int rc = 0;
	snprintf(ret_error, PARAM_ERROR_BYTES, "out of memory");
	*params = (struct params){.list = calloc((size_t)count + 1, sizeof(*params->list))};
	if (params->list == NULL) {
		return -ENOMEM;
	}
	for (int i = 0; rc == 0 && i < count; i++) {
		struct param *param = &params->list[params->count++];
		if (text) {
			param->value = (struct print_value){
				.type = LF_TEXT, .data = texts[i], .len = strlen(texts[i])};
		} else {
			rc = read_param(texts[i], param, ret_error);
		}
		if (rc == 0 && (param->name == NULL) != (params->list[0].name == NULL)) {
			rc = fail(ret_error,
				"name all parameters or none: \"%s\" (for text that looks like :name=value: "
				"--text)",
				texts[i]);
		}
	}
	return rc;
}

void params_finish(struct params *params)
{
	for (unsigned i = 0; i < params->count; i++) {
		free(params->list[i].name);
		free(params->list[i].owned);
	}
	free(params->list);
	*params = (struct params){0};
}

void param_bind(lf_batch *batch, const struct print_value *value)
{
	switch (value->type) {
	case LF_INTEGER:
		lf_bind_int64(batch, value->integer);
		break;
	case LF_FLOAT:
		lf_bind_double(batch, value->real);
		break;
	case LF_TEXT:
		lf_bind_text(batch, value->data, (ssize_t)value->len);
		break;
	case LF_BLOB:
		lf_bind_blob(batch, value->data, value->len);
		break;
	default:
		lf_bind_null(batch);
		break;
	}
}
