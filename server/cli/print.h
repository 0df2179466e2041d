/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Rows, as they come: constant memory whatever their number.
 *
 *	PRINT_TABLE   aligned columns for people, by the first rows; control characters are escaped
 *	PRINT_TSV     a line a row, tabs between; \t \n \r \\ \0 in a value, \N is NULL, else its bytes
 *	PRINT_JSON    one array of objects
 *	PRINT_NDJSON  an object a line
 *
 * A blob is x'00ff' in the first two and {"blob": base64} in JSON; text that is no UTF-8 is
 * {"text": base64} there, infinity 1e999. Two columns of one name are "name" and "name:2" in JSON.
 */

#include "client/litefunnel.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum print_format { PRINT_TABLE, PRINT_TSV, PRINT_JSON, PRINT_NDJSON };

struct print_value {
	enum lf_type type;
	int64_t integer;
	double real;
	const char *data; /* text or blob */
	size_t len;
};

struct print_cell {
	char *text;
	size_t width;
	bool number;
};

struct printer {
	FILE *out;
	enum print_format format;
	bool header;
	unsigned columns;
	char **names;
	size_t *widths;
	struct print_cell *held; /* PRINT_TABLE: rows until the widths are known */
	size_t held_rows;
	size_t held_bytes;
	bool laid_out;
	uint64_t rows;
};

/* PRINT_TABLE if `out` is a terminal, else PRINT_TSV. */
enum print_format print_format_for(FILE *out);

/* 0 or -ENOMEM; printer_finish() in any case. */
int printer_init(struct printer *printer, FILE *out, enum print_format format, bool header,
	unsigned columns, const char *const *names);
/* 0, -ENOMEM, or -EIO: nobody reads what we print. */
int printer_row(struct printer *printer, const struct print_value *values);
/* The end of the output. As printer_row(). */
int printer_end(struct printer *printer);
/* Frees. Accepts a zeroed printer. */
void printer_finish(struct printer *printer);

void print_json_value(FILE *out, const struct print_value *value);

/* 0, or -EIO with a message if not all of stdout could be written. */
int print_flush(const char *command);
