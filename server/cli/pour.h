/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Records into a table, in pieces of a few milliseconds each, a few of them on their way at once.
 * Each piece moves a mark in its own transaction (lf_mark), so that whoever starts over goes on
 * exactly behind the last piece that was committed.
 */

#include "server/cli/connect.h"
#include "server/cli/progress.h"
#include "server/cli/records.h"

enum { POUR_COLUMNS_MAX = 2000, POUR_SKIP = -1 };

struct pour_options {
	const struct connect *connect;
	lf_db *db;
	struct records *records;
	const char *sql;  /* INSERT … VALUES (?, …) */
	size_t columns;   /* how many values it takes */
	const int *place; /* of the i-th value of a record: its column, or POUR_SKIP */
	size_t places;
	const char *const *names; /* NDJSON: the keys, in that order; else NULL */
	const char *mark;
	uint64_t position;   /* where the mark stands: the records are there */
	uint64_t size;       /* of the file; 0: not known */
	const char *rejects; /* a file, or NULL: the first bad record ends it */
};

struct pour_result {
	uint64_t rows; /* applied by this run */
	uint64_t rejected;
	uint64_t position;
	uint64_t line; /* of the first record that was not applied */
	bool complete;
	bool interrupted;
	bool unshipped; /* the last of it is committed, but was not shipped as it was to be */
	char why[1024]; /* it ended before its end; "" */
	int code;       /* exit code of that */
};

/* 0, or -ENOMEM. */
int pour_run(const struct pour_options *options, struct pour_result *ret_result);
