/* SPDX-License-Identifier: MIT */
#pragma once

/* A table that is being packed, row by row, for `show`. */

#include "server/funnel/funnel.h"

struct table {
	struct buffer *out;
	msgpack_packer packer;
	uint32_t rows;
	const char *like;              /* a pattern for the column that names the row, or NULL */
	const struct credentials *who; /* whose eyes it is for */
};

/* Whether a row of that name is asked for. */
bool table_wants(const struct table *table, const char *name);

/* Begins a row of so many cells, which follow. */
void table_row(struct table *table, unsigned columns);
void table_text(struct table *table, const char *value); /* NULL: nil */
void table_number(struct table *table, uint64_t value);

/* What fills a table: show.c lists them. */
void show_classes(struct funnel *funnel, struct table *table);
void show_waits(struct funnel *funnel, struct table *table);
void show_readers(struct funnel *funnel, struct table *table);

/* "pid 12 (python3): 5210 pages for 35 s": the reader that holds back most of the WAL, or "". */
void show_who_pins(struct funnel *funnel, char *ret_text, size_t bytes);

extern const char *const classes_columns[9];
extern const char *const waits_columns[13];
extern const char *const readers_columns[8];
