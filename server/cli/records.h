/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Records of a file, one at a time, in bounded memory:
 *
 *	RECORDS_CSV     RFC 4180: commas, "quotes" with "" inside, LF or CRLF. Nothing between two
 *	                commas is NULL, "" is the empty text. A quote that does not stand at the
 *	                beginning of a value is a character like others
 *	RECORDS_TSV     tabs; \t \n \r \\ \0 in a value, \N is NULL: as the commands print it
 *	RECORDS_NDJSON  a JSON object, or array, a line
 *
 * A byte order mark at the start is skipped, and so are empty lines.
 */

#include "server/cli/print.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum records_format { RECORDS_CSV, RECORDS_TSV, RECORDS_NDJSON };

enum {
	RECORDS_END = 1, /* there are no more */
	RECORDS_BAD =
		2, /* this one cannot be read: record.raw and `why` tell; the next may be good */
};

enum {
	RECORDS_BYTES_MAX = 16 * 1024 * 1024,
	RECORDS_WHY_BYTES = 256,
	RECORDS_HEAD_BYTES = 64 * 1024,
	RECORDS_SIGN_BYTES = 17,
};

struct record {
	const struct print_value *values;
	const char *const *names; /* NDJSON objects: the keys; else NULL */
	size_t count;
	uint64_t line; /* of its first byte, from 1 */
	uint64_t from; /* where it lies in the file */
	uint64_t to;
	const char *raw; /* its bytes, without the end of the line */
	size_t raw_len;
};

struct records {
	int fd;
	enum records_format format;
	char *data; /* what is kept of the file: from offset `start` on */
	size_t len;
	size_t cap;
	uint64_t start;
	uint64_t at;   /* the next record begins there */
	uint64_t line; /* … in that line */
	uint64_t keep; /* nothing from here on is given up: records_rewind() may want it */
	bool end;      /* the file is read to its end */
	char *head;    /* how the file begins: RECORDS_HEAD_BYTES at most */
	size_t head_len;

	struct print_value *values;
	size_t values_cap;
	char *scratch; /* values that had to be changed */
	size_t scratch_len;
	size_t scratch_cap;
	void *json; /* of the last NDJSON record */
	const char **names;
	char why[RECORDS_WHY_BYTES];
};

void records_init(struct records *records, int fd, enum records_format format);
void records_finish(struct records *records);

/* 0, RECORDS_END, RECORDS_BAD, or negative errno. The record is valid until the next call. */
int records_next(struct records *records, struct record *ret_record);

/*
 * How the file begins, up to that offset and no more than RECORDS_HEAD_BYTES: what a stream is known again
 * by. 0, or -ENODATA (the file is shorter), or another errno.
 */
int records_sign(struct records *records, uint64_t to, char ret_sign[RECORDS_SIGN_BYTES]);

/* Everything before that offset is done with. */
void records_done(struct records *records, uint64_t offset);

/* Back to a record that was met, and is not done with. */
void records_rewind(struct records *records, uint64_t offset, uint64_t line);

/* Forward to an offset, counting lines. 0, -ENODATA (the file is shorter), or another errno. */
int records_skip(struct records *records, uint64_t offset);
