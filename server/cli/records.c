/* SPDX-License-Identifier: MIT */

/*
 * Parsing of files. The bytes of a record stay as they are in the buffer; what must be changed, such
 * as doubled quotes, is copied. It knows neither tables nor daemons.
 */

#include "server/cli/records.h"

#include "server/cli/text.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { READ_BYTES = 256 * 1024 };

void records_init(struct records *records, int fd, enum records_format format)
{
	*records = (struct records){.fd = fd, .format = format, .line = 1};
}

void records_finish(struct records *records)
{
	free(records->data);
	free(records->head);
	free(records->values);
	free(records->scratch);
	free(records->names);
	json_decref(records->json);
	*records = (struct records){.fd = -1};
}

/* ---- the buffer ---- */

static const char *here(const struct records *records)
{
	return records->data + (records->at - records->start);
}

static size_t left(const struct records *records)
{
	return records->len - (size_t)(records->at - records->start);
}

/* Gives up what is done with, and makes room for another read. */
static int make_room(struct records *records)
{
	uint64_t first = records->keep < records->at ? records->keep : records->at;
	size_t done = (size_t)(first - records->start);
	if (done > 0) {
		memmove(records->data, records->data + done, records->len - done);
		records->len -= done;
		records->start = first;
	}
	if (records->cap - records->len >= READ_BYTES) {
		return 0;
	}
	if (left(records) > RECORDS_BYTES_MAX) {
		return -EFBIG;
	}
	size_t cap = 2 * records->cap + READ_BYTES;
	char *data = realloc(records->data, cap);
	if (data == NULL) {
		return -ENOMEM;
	}
	records->data = data;
	records->cap = cap;
	return 0;
}

static int keep_head(struct records *records, const char *data, size_t len)
{
	size_t room = RECORDS_HEAD_BYTES - records->head_len;
	records->head = records->head != NULL ? records->head : malloc(RECORDS_HEAD_BYTES);
	if (records->head == NULL) {
		return -ENOMEM;
	}
	len = len < room ? len : room;
	memcpy(records->head + records->head_len, data, len);
	records->head_len += len;
	return 0;
}

static int fill(struct records *records)
{
	int rc = make_room(records);
	if (rc != 0) {
		return rc;
	}
	ssize_t count = read(records->fd, records->data + records->len, READ_BYTES);
	if (count < 0) {
		return errno == EINTR ? 0 : -errno;
	}
	rc = keep_head(records, records->data + records->len, (size_t)count);
	records->len += (size_t)count;
	records->end = count == 0;
	return rc;
}

int records_sign(struct records *records, uint64_t to, char ret_sign[RECORDS_SIGN_BYTES])
{
	size_t wanted = to < RECORDS_HEAD_BYTES ? (size_t)to : RECORDS_HEAD_BYTES;
	while (records->head_len < wanted) {
		int rc = records->end ? -ENODATA : fill(records);
		if (rc != 0) {
			return rc;
		}
	}
	snprintf(ret_sign, RECORDS_SIGN_BYTES, "%016" PRIx64,
		(uint64_t)XXH3_64bits(records->head != NULL ? records->head : "", wanted));
	return 0;
}

void records_done(struct records *records, uint64_t offset)
{
	records->keep = offset;
}

void records_rewind(struct records *records, uint64_t offset, uint64_t line)
{
	records->at = offset;
	records->line = line;
}

int records_skip(struct records *records, uint64_t offset)
{
	while (records->at < offset) {
		if (left(records) == 0) {
			records->keep = records->at;
			int rc = records->end ? -ENODATA : fill(records);
			if (rc != 0) {
				return rc;
			}
			continue;
		}
		uint64_t wanted = offset - records->at;
		size_t count = left(records) < wanted ? left(records) : (size_t)wanted;
		const char *text = here(records);
		for (const char *to = text + count;
			(text = memchr(text, '\n', (size_t)(to - text))) != NULL; text++) {
			records->line++;
		}
		records->at += count;
	}
	records->keep = records->at;
	return 0;
}

/* ---- where a record ends ---- */

static const char byte_order_mark[] = "\xef\xbb\xbf";
enum { MARK_BYTES = sizeof(byte_order_mark) - 1 };

static bool has_mark(const struct records *records)
{
	return records->at == 0 && left(records) >= MARK_BYTES &&
		memcmp(here(records), byte_order_mark, MARK_BYTES) == 0;
}

/*
 * The end of a CSV record that begins at text[at], behind its LF; 0: it is not there. A quote counts at the
 * beginning of a value only. `open` is where one stands that was not closed, or len.
 */
static size_t csv_end(const char *text, size_t len, size_t at, size_t *ret_open)
{
	enum { FIRST, PLAIN, QUOTED, CLOSED } state = FIRST;
	*ret_open = len;
	for (size_t i = at; i < len; i++) {
		char c = text[i];
		if (state == QUOTED) {
			state = c == '"' ? CLOSED : QUOTED;
		} else if (c == '"' && state == CLOSED) {
			state = QUOTED; /* it was one of two */
		} else if (c == '"' && state == FIRST) {
			state = QUOTED;
			*ret_open = i;
		} else if (c == '\n') {
			*ret_open = len;
			return i + 1;
		} else {
			state = c == ',' ? FIRST : PLAIN;
		}
	}
	*ret_open = state == QUOTED ? *ret_open : len;
	return 0;
}

/* The bytes of the next record with its end of line; 0: it is not there as a whole. */
static size_t record_bytes(const struct records *records)
{
	const char *text = here(records);
	size_t len = left(records);
	if (records->format != RECORDS_CSV) {
		const char *newline = memchr(text, '\n', len);
		return newline != NULL ? (size_t)(newline - text) + 1 : records->end ? len : 0;
	}
	size_t open = 0;
	size_t end = csv_end(text, len, has_mark(records) ? MARK_BYTES : 0, &open);
	return end == 0 && records->end ? len : end;
}

/* The whole of the next record is in the buffer: 0, RECORDS_END or negative errno. */
static int find_record(struct records *records, size_t *ret_bytes)
{
	for (;;) {
		*ret_bytes = left(records) > 0 ? record_bytes(records) : 0;
		if (*ret_bytes > 0) {
			return 0;
		}
		if (records->end) {
			return RECORDS_END;
		}
		int rc = fill(records);
		if (rc != 0) {
			return rc;
		}
	}
}

static uint64_t count_lines(const char *text, size_t len)
{
	uint64_t lines = 0;
	const char *to = text + len;
	while (text < to && (text = memchr(text, '\n', (size_t)(to - text))) != NULL) {
		lines++;
		text++;
	}
	return lines;
}

/* ---- values ---- */

static int bad(struct records *records, const char *why)
{
	snprintf(records->why, sizeof(records->why), "%s", why);
	return RECORDS_BAD;
}

static int add_value(struct records *records, size_t count, struct print_value value)
{
	if (count >= records->values_cap) {
		size_t cap = 2 * records->values_cap + 16;
		struct print_value *values =
			reallocarray(records->values, cap, sizeof(*records->values));
		if (values == NULL) {
			return -ENOMEM;
		}
		records->values = values;
		records->values_cap = cap;
	}
	records->values[count] = value;
	return 0;
}

/* Room for a record's changed values, made once: what points into it must not move. */
static int make_scratch(struct records *records, size_t len)
{
	records->scratch_len = 0;
	if (records->scratch_cap >= len) {
		return 0;
	}
	char *scratch = realloc(records->scratch, len);
	if (scratch == NULL) {
		return -ENOMEM;
	}
	records->scratch = scratch;
	records->scratch_cap = len;
	return 0;
}

static struct print_value text_value(const char *data, size_t len)
{
	return (struct print_value){.type = LF_TEXT, .data = data, .len = len};
}

/* ---- CSV ---- */

/* A quoted value that begins at text[at]: the offset behind its closing quote, or 0. */
static size_t csv_quoted(struct records *records, const char *text, size_t len, size_t at,
	struct print_value *ret_value)
{
	size_t first = at + 1;
	bool doubled = false;
	size_t i = first;
	for (; i < len; i++) {
		if (text[i] == '"' && i + 1 < len && text[i + 1] == '"') {
			doubled = true;
			i++;
		} else if (text[i] == '"') {
			break;
		}
	}
	if (i >= len) {
		return 0;
	}
	*ret_value = text_value(text + first, i - first);
	if (doubled) {
		char *to = records->scratch + records->scratch_len;
		size_t count = 0;
		for (size_t from = first; from < i; from++) {
			to[count++] = text[from];
			from += text[from] == '"';
		}
		records->scratch_len += count;
		*ret_value = text_value(to, count);
	}
	return i + 1;
}

static int csv_values(struct records *records, const char *text, size_t len, size_t *ret_count)
{
	size_t at = 0;
	size_t count = 0;
	for (;;) {
		struct print_value value = {.type = LF_NULL};
		if (at < len && text[at] == '"') {
			at = csv_quoted(records, text, len, at, &value);
			if (at == 0) {
				return bad(records, "a quote is not closed");
			}
			if (at < len && text[at] != ',') {
				return bad(records, "something follows a closing quote");
			}
		} else {
			const char *comma = memchr(text + at, ',', len - at);
			size_t end = comma != NULL ? (size_t)(comma - text) : len;
			if (end > at) {
				value = text_value(text + at, end - at);
			}
			at = end;
		}
		if (add_value(records, count++, value) != 0) {
			return -ENOMEM;
		}
		if (at >= len) {
			*ret_count = count;
			return 0;
		}
		at++; /* the comma */
	}
}

/* ---- TSV ---- */

static int tsv_value(
	struct records *records, const char *text, size_t len, struct print_value *ret_value)
{
	static const char from[] = "tnr\\0";
	static const char to[] = "\t\n\r\\";
	*ret_value = text_value(text, len);
	if (memchr(text, '\\', len) == NULL) {
		return 0;
	}
	if (len == 2 && memcmp(text, "\\N", 2) == 0) {
		*ret_value = (struct print_value){.type = LF_NULL};
		return 0;
	}
	char *out = records->scratch + records->scratch_len;
	size_t count = 0;
	for (size_t i = 0; i < len; i++) {
		if (text[i] != '\\') {
			out[count++] = text[i];
			continue;
		}
		const char *found = ++i < len && text[i] != 0 ? strchr(from, text[i]) : NULL;
		if (found == NULL) {
			return bad(records, "a backslash before what it does not change");
		}
		out[count++] = to[found - from];
	}
	records->scratch_len += count;
	*ret_value = text_value(out, count);
	return 0;
}

static int tsv_values(struct records *records, const char *text, size_t len, size_t *ret_count)
{
	size_t at = 0;
	*ret_count = 0;
	for (;;) {
		const char *tab = memchr(text + at, '\t', len - at);
		size_t end = tab != NULL ? (size_t)(tab - text) : len;
		struct print_value value;
		int rc = tsv_value(records, text + at, end - at, &value);
		rc = rc == 0 ? add_value(records, (*ret_count)++, value) : rc;
		if (rc != 0 || tab == NULL) {
			return rc;
		}
		at = end + 1;
	}
}

/* ---- NDJSON ---- */

static int json_value(struct records *records, json_t *json, size_t count)
{
	struct print_value value = {.type = LF_NULL};
	switch (json_typeof(json)) {
	case JSON_TRUE:
	case JSON_FALSE:
		value = (struct print_value){.type = LF_INTEGER, .integer = json_is_true(json)};
		break;
	case JSON_INTEGER:
		value = (struct print_value){
			.type = LF_INTEGER, .integer = json_integer_value(json)};
		break;
	case JSON_REAL:
		value = (struct print_value){.type = LF_FLOAT, .real = json_real_value(json)};
		break;
	case JSON_STRING:
		value = text_value(json_string_value(json), json_string_length(json));
		break;
	case JSON_NULL:
		break;
	default:
		return bad(records, "a value is an object or an array: give it as a string");
	}
	return add_value(records, count, value);
}

static int json_members(struct records *records, json_t *object, struct record *record)
{
	const char *key = NULL;
	json_t *value = NULL;
	const char **names =
		reallocarray(records->names, json_object_size(object) + 1, sizeof(*names));
	if (names == NULL) {
		return -ENOMEM;
	}
	records->names = names;
	record->names = names;
	json_object_foreach(object, key, value)
	{
		names[record->count] = key;
		int rc = json_value(records, value, record->count++);
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

/* Where a number ends that begins there. */
static const char *number_end(const char *text, const char *to)
{
	while (text < to && *text != 0 && strchr("+-.0123456789eE", *text) != NULL) {
		text++;
	}
	return text;
}

/* Whether neither an integer of 64 bits nor a double holds it. */
static bool is_beyond(const char *text, const char *to)
{
	char number[512];
	size_t len = (size_t)(to - text);
	if (len >= sizeof(number)) {
		return true;
	}
	memcpy(number, text, len);
	number[len] = '\0';
	errno = 0;
	if (strpbrk(number, ".eE") == NULL) {
		(void)strtoll(number, NULL, 10);
		return errno == ERANGE;
	}
	return isinf(strtod(number, NULL));
}

/*
 * The record once more, with strings for numbers that are too large: the column's affinity then makes
 * of them what it makes of them in CSV, and no digit is lost where they stay text. 0 or -ENOMEM.
 */
static int quote_numbers(struct records *records, const char *text, size_t len, size_t *ret_len)
{
	const char *to = text + len;
	bool string = false;
	/* A number that is too large has 19 digits, or at least an exponent: "1e309". */
	int rc = make_scratch(records, 2 * len + 1);
	if (rc != 0) {
		return rc;
	}
	char *out = records->scratch;
	while (text < to) {
		const char *end = string ? text : number_end(text, to);
		if (end > text) {
			bool beyond = is_beyond(text, end);
			out += beyond ? (*out = '"', 1) : 0;
			memcpy(out, text, (size_t)(end - text));
			out += end - text;
			out += beyond ? (*out = '"', 1) : 0;
			text = end;
			continue;
		}
		if (string && *text == '\\' && text + 1 < to) {
			*out++ = *text++;
		} else if (*text == '"') {
			string = !string;
		}
		*out++ = *text++;
	}
	*ret_len = (size_t)(out - records->scratch);
	return 0;
}

static int json_values(struct records *records, const char *text, size_t len, struct record *record)
{
	json_error_t error;
	json_decref(records->json);
	json_t *json = json_loadb(text, len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
	if (json == NULL && json_error_code(&error) == json_error_numeric_overflow) {
		int rc = quote_numbers(records, text, len, &len);
		if (rc != 0) {
			records->json = NULL;
			return rc;
		}
		json = json_loadb(
			records->scratch, len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
	}
	records->json = json;
	if (json == NULL) {
		return bad(records, error.text);
	}
	if (json_is_object(json)) {
		return json_members(records, json, record);
	}
	int rc = json_is_array(json) ? 0 : bad(records, "neither an object nor an array");
	for (size_t i = 0; rc == 0 && i < json_array_size(json); i++) {
		rc = json_value(records, json_array_get(json, i), record->count++);
	}
	return rc;
}

/* ---- records ---- */

/* The line in which a quote opens that swallows the rest of the file; 0: there is none. */
static uint64_t open_quote(const struct record *record)
{
	size_t open = 0;
	(void)csv_end(record->raw, record->raw_len, 0, &open);
	return open == record->raw_len ? 0 : record->line + count_lines(record->raw, open);
}

static int read_values(struct records *records, struct record *record)
{
	uint64_t line = records->format == RECORDS_CSV ? open_quote(record) : 0;
	int rc = make_scratch(records, record->raw_len + 1);
	if (rc == 0 && line > 0) {
		snprintf(records->why, sizeof(records->why),
			"a quote is not closed: it opens in line %" PRIu64
			", and all behind it would be one value",
			line);
		return RECORDS_BAD;
	}
	if (rc == 0 && !text_is_utf8(record->raw, record->raw_len)) {
		rc = bad(records, "not UTF-8");
	}
	if (rc == 0 && records->format == RECORDS_CSV) {
		rc = csv_values(records, record->raw, record->raw_len, &record->count);
	} else if (rc == 0 && records->format == RECORDS_TSV) {
		rc = tsv_values(records, record->raw, record->raw_len, &record->count);
	} else if (rc == 0) {
		rc = json_values(records, record->raw, record->raw_len, record);
	}
	record->values = records->values;
	return rc;
}

static void skip_mark(struct records *records)
{
	if (has_mark(records)) {
		records->at = MARK_BYTES;
	}
}

int records_next(struct records *records, struct record *ret_record)
{
	size_t bytes = 0;
	for (;;) {
		int rc = find_record(records, &bytes);
		if (rc != 0) {
			return rc;
		}
		size_t before = (size_t)records->at;
		skip_mark(records);
		bytes -= (size_t)records->at - before;
		const char *text = here(records);
		size_t len = bytes;
		len -= len > 0 && text[len - 1] == '\n';
		len -= len > 0 && text[len - 1] == '\r';
		*ret_record = (struct record){.line = records->line,
			.from = records->at,
			.to = records->at + bytes,
			.raw = text,
			.raw_len = len};
		records->line += count_lines(text, bytes);
		records->at += bytes;
		if (len > 0) {
			return read_values(records, ret_record);
		}
	}
}
