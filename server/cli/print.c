/* SPDX-License-Identifier: MIT */

/*
 * Rows on stdout. It knows values, not where they come from. Nothing that a database holds reaches
 * a terminal as a control sequence.
 */

#include "server/cli/print.h"

#include "server/cli/cli.h"
#include "server/cli/text.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum {
	HELD_ROWS_MAX = 200,
	HELD_BYTES_MAX = 1024 * 1024,
	WIDTH_MAX = 60, /* longer values stick out */
	GAP = 2,
};

enum print_format print_format_for(FILE *out)
{
	return isatty(fileno(out)) ? PRINT_TABLE : PRINT_TSV;
}

int print_flush(const char *command)
{
	if (fflush(stdout) == 0 && !ferror(stdout)) {
		return 0;
	}
	cli_fail(command, "cannot write the output: %s", strerror(errno != 0 ? errno : EIO));
	return -EIO;
}

/* ---- JSON ---- */

void print_json_value(FILE *out, const struct print_value *value)
{
	char real[TEXT_REAL_BYTES];
	bool text = value->type == LF_TEXT;
	switch (value->type) {
	case LF_INTEGER:
		fprintf(out, "%" PRId64, value->integer);
		return;
	case LF_FLOAT:
		text_from_real(value->real, real);
		fputs(isnan(value->real)             ? "null"
				: isinf(value->real) ? (value->real < 0 ? "-1e999" : "1e999")
						     : real,
			out);
		return;
	case LF_TEXT:
	case LF_BLOB:
		if (text && text_is_utf8(value->data, value->len)) {
			text_json(out, value->data, value->len);
			return;
		}
		fputs(text ? "{\"text\":\"" : "{\"blob\":\"", out);
		text_base64(out, value->data, value->len);
		fputs("\"}", out);
		return;
	default:
		fputs("null", out);
		return;
	}
}

static void json_row(struct printer *printer, const struct print_value *values)
{
	FILE *out = printer->out;
	if (printer->format == PRINT_JSON) {
		fputs(printer->rows == 0 ? "[" : ",\n ", out);
	}
	fputc('{', out);
	for (unsigned i = 0; i < printer->columns; i++) {
		fputs(i > 0 ? "," : "", out);
		text_json_cstr(out, printer->names[i]);
		fputc(':', out);
		print_json_value(out, &values[i]);
	}
	fputs(printer->format == PRINT_JSON ? "}" : "}\n", out);
}

/* ---- lines of tabs ---- */

static void tsv_text(FILE *out, const char *data, size_t len)
{
	static const char special[] = "\t\n\r\\";
	static const char letters[] = "tnr\\";
	for (size_t i = 0; i < len; i++) {
		const char *at = data[i] != '\0' ? strchr(special, data[i]) : NULL;
		if (data[i] == '\0') {
			fputs("\\0", out);
		} else if (at != NULL) {
			fputc('\\', out);
			fputc(letters[at - special], out);
		} else {
			fputc(data[i], out);
		}
	}
}

/* What is no text looks the same in a table. */
static void plain_value(FILE *out, const struct print_value *value)
{
	char real[TEXT_REAL_BYTES];
	if (value->type == LF_INTEGER) {
		fprintf(out, "%" PRId64, value->integer);
	} else if (value->type == LF_FLOAT) {
		text_from_real(value->real, real);
		fputs(real, out);
	} else if (value->type == LF_BLOB) {
		fputs("x'", out);
		text_hex(out, value->data, value->len);
		fputc('\'', out);
	}
}

static void tsv_row(const struct printer *printer, const struct print_value *values)
{
	for (unsigned i = 0; i < printer->columns; i++) {
		const struct print_value *value = &values[i];
		fputs(i > 0 ? "\t" : "", printer->out);
		if (value->type == LF_TEXT) {
			tsv_text(printer->out, value->data, value->len);
		} else if (value->type == LF_NULL) {
			fputs("\\N", printer->out);
		} else {
			plain_value(printer->out, value);
		}
	}
	fputc('\n', printer->out);
}

static void tsv_header(const struct printer *printer)
{
	for (unsigned i = 0; i < printer->columns; i++) {
		fputs(i > 0 ? "\t" : "", printer->out);
		tsv_text(printer->out, printer->names[i], strlen(printer->names[i]));
	}
	fputc('\n', printer->out);
}

/* ---- aligned columns ---- */

/* Text without anything that a terminal would obey. Returns its width in columns. */
static size_t table_text(FILE *out, const char *data, size_t len)
{
	size_t width = 0;
	for (size_t at = 0; at < len;) {
		uint32_t code = 0;
		size_t step = text_utf8(data + at, len - at, &code);
		int columns = step > 0 && code != 0 ? wcwidth((wchar_t)code) : -1;
		if (columns >= 0) {
			fwrite(data + at, 1, step, out);
			width += (size_t)columns;
		} else if (step > 0 && (code == '\n' || code == '\t' || code == '\r')) {
			fprintf(out, "\\%c", code == '\n' ? 'n' : code == '\t' ? 't' : 'r');
			width += 2;
		} else if (step > 1) {
			width += (size_t)fprintf(out, "\\u{%x}", (unsigned)code);
		} else {
			width += (size_t)fprintf(out, "\\x%02x", (unsigned)(unsigned char)data[at]);
		}
		at += step > 0 ? step : 1;
	}
	return width;
}

static int cell_make(const struct print_value *value, struct print_cell *ret_cell)
{
	size_t bytes = 0;
	*ret_cell =
		(struct print_cell){.number = value->type == LF_INTEGER || value->type == LF_FLOAT};
	FILE *out = open_memstream(&ret_cell->text, &bytes);
	if (out == NULL) {
		return -ENOMEM;
	}
	if (value->type == LF_TEXT) {
		ret_cell->width = table_text(out, value->data, value->len);
	} else if (value->type == LF_NULL) {
		fputs("NULL", out);
		ret_cell->width = 4;
	} else {
		plain_value(out, value);
		fflush(out);
		ret_cell->width = bytes;
	}
	return fclose(out) == 0 ? 0 : -ENOMEM;
}

static void pad(FILE *out, size_t from, size_t to)
{
	for (; from < to; from++) {
		fputc(' ', out);
	}
}

static void table_line(const struct printer *printer, const struct print_cell *cells)
{
	for (unsigned i = 0; i < printer->columns; i++) {
		const struct print_cell *cell = &cells[i];
		bool last = i + 1 == printer->columns;
		if (cell->number) {
			pad(printer->out, cell->width, printer->widths[i]);
		}
		fputs(cell->text, printer->out);
		if (!last) {
			size_t done = cell->number ? printer->widths[i] : cell->width;
			pad(printer->out, done, printer->widths[i]);
			pad(printer->out, 0, GAP);
		}
	}
	fputc('\n', printer->out);
}

static void cells_free(struct print_cell *cells, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(cells[i].text);
		cells[i].text = NULL;
	}
}

static int table_header(struct printer *printer)
{
	struct print_cell *names = calloc(printer->columns + 1u, sizeof(*names));
	int rc = names == NULL ? -ENOMEM : 0;
	for (unsigned i = 0; rc == 0 && i < printer->columns; i++) {
		struct print_value name = {.type = LF_TEXT,
			.data = printer->names[i],
			.len = strlen(printer->names[i])};
		rc = cell_make(&name, &names[i]);
		if (names[i].width > printer->widths[i]) {
			printer->widths[i] = names[i].width;
		}
	}
	if (rc == 0) {
		table_line(printer, names);
		for (unsigned i = 0; i < printer->columns; i++) {
			for (size_t k = 0; k < printer->widths[i]; k++) {
				fputc('-', printer->out);
			}
			pad(printer->out, 0, i + 1 < printer->columns ? GAP : 0);
		}
		fputc('\n', printer->out);
	}
	if (names != NULL) {
		cells_free(names, printer->columns);
	}
	free(names);
	return rc;
}

/* Fixes the widths by what is held, and prints that. */
static int lay_out(struct printer *printer)
{
	size_t cells = printer->held_rows * printer->columns;
	for (size_t i = 0; i < cells; i++) {
		size_t *width = &printer->widths[i % printer->columns];
		size_t wanted =
			printer->held[i].width < WIDTH_MAX ? printer->held[i].width : WIDTH_MAX;
		*width = wanted > *width ? wanted : *width;
	}
	int rc = printer->header ? table_header(printer) : 0;
	for (size_t row = 0; rc == 0 && row < printer->held_rows; row++) {
		table_line(printer, printer->held + row * printer->columns);
	}
	cells_free(printer->held, cells);
	printer->held_rows = 0;
	printer->laid_out = true;
	return rc;
}

static int table_row(struct printer *printer, const struct print_value *values)
{
	struct print_cell *cells = printer->held + printer->held_rows * printer->columns;
	int rc = 0;
	for (unsigned i = 0; i < printer->columns; i++) {
		int made = cell_make(&values[i], &cells[i]);
		rc = rc == 0 ? made : rc;
		printer->held_bytes += cells[i].width;
	}
	if (rc != 0 || printer->laid_out) {
		if (rc == 0) {
			table_line(printer, cells);
		}
		cells_free(cells, printer->columns);
		return rc;
	}
	printer->held_rows++;
	bool full = printer->held_rows == HELD_ROWS_MAX || printer->held_bytes > HELD_BYTES_MAX;
	return full ? lay_out(printer) : 0;
}

/* ---- the printer ---- */

/* The name as it is, or numbered if a column before has it: keys of an object must differ. */
static char *unique_name(const struct printer *printer, unsigned column, const char *name)
{
	char *text = strdup(name);
	unsigned number = 2;
	for (unsigned i = 0; text != NULL && i < column;) {
		if (strcmp(printer->names[i], text) != 0) {
			i++;
			continue;
		}
		free(text);
		if (asprintf(&text, "%s:%u", name, number++) < 0) {
			return NULL;
		}
		i = 0;
	}
	return text;
}

int printer_init(struct printer *printer, FILE *out, enum print_format format, bool header,
	unsigned columns, const char *const *names)
{
	bool json = format == PRINT_JSON || format == PRINT_NDJSON;
	*printer = (struct printer){.out = out, .format = format, .header = header};
	printer->names = calloc(columns + 1u, sizeof(*printer->names));
	printer->widths = calloc(columns + 1u, sizeof(*printer->widths));
	if (format == PRINT_TABLE) {
		setlocale(LC_CTYPE, "C.UTF-8"); /* for wcwidth() */
		printer->held = calloc((size_t)HELD_ROWS_MAX * columns + 1, sizeof(*printer->held));
	}
	if (printer->names == NULL || printer->widths == NULL ||
		(format == PRINT_TABLE && printer->held == NULL)) {
		return -ENOMEM;
	}
	for (; printer->columns < columns; printer->columns++) {
		unsigned column = printer->columns;
		const char *name = names[column] != NULL ? names[column] : "";
		char *copy = json ? unique_name(printer, column, name) : strdup(name);
		if (copy == NULL) {
			return -ENOMEM;
		}
		printer->names[column] = copy;
	}
	if (format == PRINT_TSV && header) {
		tsv_header(printer);
	}
	return 0;
}

int printer_row(struct printer *printer, const struct print_value *values)
{
	int rc = 0;
	if (printer->format == PRINT_TABLE) {
		rc = table_row(printer, values);
	} else if (printer->format == PRINT_TSV) {
		tsv_row(printer, values);
	} else {
		json_row(printer, values);
	}
	printer->rows++;
	return rc != 0 ? rc : ferror(printer->out) ? -EIO : 0;
}

int printer_end(struct printer *printer)
{
	int rc = printer->format == PRINT_TABLE && !printer->laid_out ? lay_out(printer) : 0;
	if (printer->format == PRINT_JSON) {
		fputs(printer->rows == 0 ? "[]\n" : "]\n", printer->out);
	}
	return rc != 0 ? rc : ferror(printer->out) ? -EIO : 0;
}

void printer_finish(struct printer *printer)
{
	for (unsigned i = 0; i < printer->columns; i++) {
		free(printer->names[i]);
	}
	if (printer->held != NULL) {
		cells_free(printer->held, printer->held_rows * printer->columns);
	}
	free(printer->names);
	free(printer->widths);
	free(printer->held);
	*printer = (struct printer){0};
}
