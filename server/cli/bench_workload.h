/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What is written: requests as lists of acts, an act being one statement with its values. The same
 * acts go through the funnel and into plain SQLite.
 */

#include "server/cli/bench_options.h"

#include <stddef.h>

struct sqlite3;

enum bench_statement {
	STATEMENT_INSERT,
	STATEMENT_UPDATE,
	STATEMENT_UPSERT,
	STATEMENT_ACCOUNT,
	STATEMENT_BALANCE,
	STATEMENT_TELLER,
	STATEMENT_BRANCH,
	STATEMENT_HISTORY,
	STATEMENT_ENQUEUE,
	STATEMENT_TAKE,
	STATEMENT_IMPORT,
	STATEMENTS,
};

/* What a request does; all that it changed is counted under this. */
enum bench_kind {
	KIND_INSERT,
	KIND_UPDATE,
	KIND_UPSERT,
	KIND_TPCB,
	KIND_ENQUEUE,
	KIND_TAKE,
	KIND_IMPORT,
	KINDS,
};

enum { ACT_VALUES_MAX = 3, ACTS_OF_A_ROW_MAX = 5 };

struct act {
	enum bench_statement statement;
	unsigned values_count;
	int64_t values[ACT_VALUES_MAX]; /* parameters 1 to values_count */
	bool text;                      /* and the row's text behind them */
};

struct work {
	enum bench_kind kind;
	unsigned rows;
	size_t count;
	struct act *acts;
};

/* Of one process; what it does follows from its number. */
struct workload {
	const struct bench_options *options;
	unsigned worker;
	bool import;
	uint64_t random;
	uint64_t turn;
	char *text; /* options->row_bytes characters */
	struct work work;
};

const char *workload_sql(enum bench_statement statement);

/* It returns rows: it cannot run once for many rows of values. */
bool workload_returns_rows(enum bench_statement statement);

/* Writes the requests of that process, of `rows` rows each; the importer's, with `import`. */
int workload_init(struct workload *workload, const struct bench_options *options, unsigned worker,
	unsigned rows, bool import);
void workload_finish(struct workload *workload);

/* The next request, valid until the one after it. */
const struct work *workload_next(struct workload *workload);

/* A random number from 1 to `max`. */
uint64_t workload_random(struct workload *workload, uint64_t max);

/* Makes and fills the tables, in WAL mode. An SQLite code. */
int workload_create(struct sqlite3 *handle, const struct bench_options *options);

/*
 * Whether the database holds what was answered: changed[] are the answered changes by kind. An SQLite
 * code; ret_text says what was counted, or what is wrong.
 */
int workload_check(struct sqlite3 *handle, const struct bench_options *options,
	const uint64_t changed[KINDS], bool *ret_right, char *ret_text, size_t text_bytes);
