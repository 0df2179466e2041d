/* SPDX-License-Identifier: MIT */

/* Replies of the client library as rows and as JSON. Keys are an interface: they are only added. */

#include "server/cli/answer.h"

#include "server/cli/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static const char *const outcomes[] = {"ok", "failed", "unknown"};
static const char *const applied[] = {"no", "yes", "unknown"};

struct print_value answer_value(const lf_reply *reply, size_t step, size_t row, size_t column)
{
	struct print_value value = {.type = lf_reply_type(reply, step, row, column)};
	if (value.type == LF_INTEGER) {
		value.integer = lf_reply_int64(reply, step, row, column);
	} else if (value.type == LF_FLOAT) {
		value.real = lf_reply_double(reply, step, row, column);
	} else if (value.type != LF_NULL) {
		value.data = lf_reply_text(reply, step, row, column, &value.len);
	}
	return value;
}

int answer_rows(const lf_reply *reply, size_t step, enum print_format format, bool header)
{
	size_t columns = lf_reply_columns(reply, step);
	struct printer printer = {0};
	struct print_value *values = calloc(columns + 1, sizeof(*values));
	const char **names = calloc(columns + 1, sizeof(*names));
	int rc = values == NULL || names == NULL ? -ENOMEM : 0;
	for (size_t i = 0; rc == 0 && i < columns; i++) {
		names[i] = lf_reply_column(reply, step, i);
	}
	if (rc == 0) {
		rc = printer_init(&printer, stdout, format, header, (unsigned)columns, names);
	}
	for (size_t row = 0; rc == 0 && row < lf_reply_rows(reply, step); row++) {
		for (size_t i = 0; i < columns; i++) {
			values[i] = answer_value(reply, step, row, i);
		}
		rc = printer_row(&printer, values);
	}
	rc = rc == 0 ? printer_end(&printer) : rc;
	printer_finish(&printer);
	free(values);
	free(names);
	return rc;
}

/* ---- JSON ---- */

static void json_names(const lf_reply *reply, size_t step)
{
	fputs(",\"columns\":[", stdout);
	for (size_t i = 0; i < lf_reply_columns(reply, step); i++) {
		fputs(i > 0 ? "," : "", stdout);
		text_json_cstr(stdout, lf_reply_column(reply, step, i));
	}
	fputs("],\"types\":[", stdout);
	for (size_t i = 0; i < lf_reply_columns(reply, step); i++) {
		const char *type = lf_reply_decltype(reply, step, i);
		fputs(i > 0 ? "," : "", stdout);
		if (type != NULL) {
			text_json_cstr(stdout, type);
		} else {
			fputs("null", stdout);
		}
	}
	fputc(']', stdout);
}

static void json_rows(const lf_reply *reply, size_t step)
{
	fputs(",\"rows\":[", stdout);
	for (size_t row = 0; row < lf_reply_rows(reply, step); row++) {
		fputs(row > 0 ? ",[" : "[", stdout);
		for (size_t i = 0; i < lf_reply_columns(reply, step); i++) {
			struct print_value value = answer_value(reply, step, row, i);
			fputs(i > 0 ? "," : "", stdout);
			print_json_value(stdout, &value);
		}
		fputc(']', stdout);
	}
	fputs(lf_reply_truncated(reply, step) ? "],\"truncated\":true" : "]", stdout);
}

static void json_steps(const lf_reply *reply)
{
	fputs(",\"steps\":[", stdout);
	for (size_t step = 0; step < lf_reply_steps(reply); step++) {
		printf("%s{\"changes\":%" PRId64 ",\"total\":%" PRId64 ",\"rowid\":%" PRId64,
			step > 0 ? "," : "", lf_reply_changes(reply, step),
			lf_reply_total(reply, step), lf_reply_rowid(reply, step));
		if (lf_reply_columns(reply, step) > 0) {
			json_names(reply, step);
			json_rows(reply, step);
		}
		fputc('}', stdout);
	}
	fputc(']', stdout);
}

static void json_done(const lf_reply *reply)
{
	const uint8_t *epoch = lf_reply_epoch(reply);
	printf(",\"commit\":%" PRIu64 ",\"epoch\":", lf_reply_commit(reply));
	if (epoch != NULL) {
		fputc('"', stdout);
		text_hex(stdout, epoch, 16);
		fputc('"', stdout);
	} else {
		fputs("null", stdout);
	}
	fputs(",\"durability\":", stdout);
	text_json_cstr(stdout, lf_reply_durability(reply));
	json_steps(reply);
	printf("%s%s,\"queued_us\":%" PRIu64 ",\"exec_us\":%" PRIu64 ",\"commit_us\":%" PRIu64
	       ",\"group\":%" PRIu64,
		lf_reply_repeat(reply) ? ",\"repeat\":true" : "",
		lf_reply_rows_lost(reply) ? ",\"rows_lost\":true" : "", lf_reply_queued_us(reply),
		lf_reply_exec_us(reply), lf_reply_commit_us(reply), lf_reply_group(reply));
}

static void json_begin(enum lf_outcome outcome, uint64_t line)
{
	fputc('{', stdout);
	if (line > 0) {
		printf("\"line\":%" PRIu64 ",", line);
	}
	printf("\"outcome\":\"%s\"", outcomes[outcome]);
}

static void json_error(const lf_reply *reply)
{
	fputs(",\"code\":", stdout);
	text_json_cstr(stdout, lf_reply_code(reply));
	fputs(",\"message\":", stdout);
	text_json_cstr(stdout, lf_reply_message(reply));
	printf(",\"applied\":\"%s\",\"retry\":%s", applied[lf_reply_applied(reply)],
		lf_reply_retry(reply) ? "true" : "false");
	if (lf_reply_sqlite_code(reply) != 0) {
		printf(",\"sqlite\":%d", lf_reply_sqlite_code(reply));
	}
	if (lf_reply_failed_step(reply) >= 0) {
		printf(",\"step\":%" PRId64, lf_reply_failed_step(reply));
	}
	if (lf_reply_failed_row(reply) >= 0) {
		printf(",\"row\":%" PRId64, lf_reply_failed_row(reply));
	}
}

void answer_json(const lf_reply *reply, uint64_t line)
{
	json_begin(lf_reply_outcome(reply), line);
	if (lf_reply_outcome(reply) == LF_OK) {
		json_done(reply);
	}
	if (lf_reply_code(reply)[0] != '\0') {
		json_error(reply);
	}
	fputs("}\n", stdout);
}

void answer_json_refused(const char *code, const char *message, uint64_t line)
{
	json_begin(LF_FAILED, line);
	fputs(",\"code\":", stdout);
	text_json_cstr(stdout, code);
	fputs(",\"message\":", stdout);
	text_json_cstr(stdout, message);
	fputs(",\"applied\":\"no\",\"retry\":false}\n", stdout);
}
