/* SPDX-License-Identifier: MIT */

/*
 * The tables, the statements on them, and the count at the end. Each workload leaves a trace that
 * can be counted: a write that was answered and lost, or done twice, shows.
 */

#include "server/cli/bench_workload.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TELLERS = 10, TEXTS = 26 };

static const char *const statements[STATEMENTS] = {
	[STATEMENT_INSERT] = "INSERT INTO bench_row(n, body) VALUES (?1, ?2)",
	[STATEMENT_UPDATE] = "UPDATE bench_row SET n = n + 1, body = ?2 WHERE id = ?1",
	[STATEMENT_UPSERT] = "INSERT INTO bench_key(key, n, body) VALUES (?1, 1, ?2) "
			     "ON CONFLICT(key) DO UPDATE SET n = n + 1, body = excluded.body",
	[STATEMENT_ACCOUNT] = "UPDATE bench_account SET balance = balance + ?2 WHERE id = ?1",
	[STATEMENT_BALANCE] = "SELECT balance FROM bench_account WHERE id = ?1",
	[STATEMENT_TELLER] = "UPDATE bench_teller SET balance = balance + ?2 WHERE id = ?1",
	[STATEMENT_BRANCH] = "UPDATE bench_branch SET balance = balance + ?1 WHERE id = 1",
	[STATEMENT_HISTORY] = "INSERT INTO bench_history(account, teller, delta, at) "
			      "VALUES (?1, ?2, ?3, datetime())",
	[STATEMENT_ENQUEUE] = "INSERT INTO bench_job(worker, body) VALUES (?1, ?2)",
	[STATEMENT_TAKE] = "DELETE FROM bench_job "
			   "WHERE id = (SELECT id FROM bench_job ORDER BY id LIMIT 1) "
			   "RETURNING id, body",
	[STATEMENT_IMPORT] = "INSERT INTO bench_import(worker, body) VALUES (?1, ?2)",
};

static const char schema[] =
	"PRAGMA journal_mode = WAL;"
	"PRAGMA synchronous = OFF;" /* whoever closes the file syncs it */
	"CREATE TABLE bench_row(id INTEGER PRIMARY KEY, n INTEGER, body TEXT);"
	"CREATE TABLE bench_key(key INTEGER PRIMARY KEY, n INTEGER, body TEXT);"
	"CREATE TABLE bench_account(id INTEGER PRIMARY KEY, balance INTEGER, filler TEXT);"
	"CREATE TABLE bench_teller(id INTEGER PRIMARY KEY, balance INTEGER, filler TEXT);"
	"CREATE TABLE bench_branch(id INTEGER PRIMARY KEY, balance INTEGER, filler TEXT);"
	"CREATE TABLE bench_history(id INTEGER PRIMARY KEY, account INTEGER, teller INTEGER, "
	" delta INTEGER, at TEXT);"
	"CREATE TABLE bench_job(id INTEGER PRIMARY KEY, worker INTEGER, body TEXT);"
	"CREATE TABLE bench_import(id INTEGER PRIMARY KEY, worker INTEGER, body TEXT);";

/* ?1: rows, ?2: bytes of text in a row. n counts the updates, and is 0 before. */
static const char *const fills[] = {
	"WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < ?1) "
	"INSERT INTO bench_row(n, body) SELECT 0, substr(hex(zeroblob(?2 / 2 + 1)), 1, ?2) FROM i",
	"WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < ?1) "
	"INSERT INTO bench_account(balance, filler) "
	"SELECT 0, substr(hex(zeroblob(?2 / 2 + 1)), 1, ?2) FROM i",
};

/* What one row of a kind changes, and what counts it. The first answer is a number of changes. */
static const struct count {
	const char *sql;
	const char *what;
} counts[KINDS] = {
	[KIND_INSERT] = {"SELECT max(id) - ?1 FROM bench_row", "rows inserted"},
	[KIND_UPDATE] = {"SELECT sum(n) FROM bench_row WHERE id <= ?1", "rows updated"},
	[KIND_UPSERT] = {"SELECT ifnull(sum(n), 0) + 0 * ?1 FROM bench_key", "rows upserted"},
	[KIND_TPCB] = {"SELECT 4 * count(*) + 0 * ?1 FROM bench_history", "rows of TPC-B changed"},
	[KIND_ENQUEUE] = {"SELECT count(*) + 0 * ?1 FROM bench_job", "jobs left"},
	[KIND_IMPORT] = {"SELECT count(*) + 0 * ?1 FROM bench_import", "rows imported"},
};

static const char balances[] = "WITH totals(of_all) AS (SELECT total(balance) FROM bench_account "
			       " UNION ALL SELECT total(balance) FROM bench_teller "
			       " UNION ALL SELECT total(balance) FROM bench_branch "
			       " UNION ALL SELECT total(delta) FROM bench_history) "
			       "SELECT min(of_all) = max(of_all) FROM totals";

const char *workload_sql(enum bench_statement statement)
{
	return statements[statement];
}

bool workload_returns_rows(enum bench_statement statement)
{
	return statement == STATEMENT_BALANCE || statement == STATEMENT_TAKE;
}

/* ---- requests ---- */

int workload_init(struct workload *workload, const struct bench_options *options, unsigned worker,
	unsigned rows, bool import)
{
	*workload = (struct workload){
		.options = options,
		.worker = worker,
		.import = import,
		.random = (worker + 1) * UINT64_C(0x9e3779b97f4a7c15),
		.text = malloc(options->row_bytes + 1),
		.work = {.rows = rows},
	};
	workload->work.acts =
		calloc((size_t)rows * ACTS_OF_A_ROW_MAX, sizeof(*workload->work.acts));
	if (workload->text == NULL || workload->work.acts == NULL) {
		workload_finish(workload);
		return -ENOMEM;
	}
	memset(workload->text, 'a' + (int)(worker % TEXTS), options->row_bytes);
	workload->text[options->row_bytes] = '\0';
	return 0;
}

void workload_finish(struct workload *workload)
{
	free(workload->text);
	free(workload->work.acts);
}

uint64_t workload_random(struct workload *workload, uint64_t max)
{
	uint64_t x = workload->random; /* xorshift64* */
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	workload->random = x;
	return 1 + (x * UINT64_C(0x2545f4914f6cdd1d) >> 11) % max;
}

static void add_act(struct work *work, enum bench_statement statement, unsigned count,
	int64_t first, int64_t second, bool text)
{
	work->acts[work->count++] = (struct act){
		.statement = statement,
		.values_count = count,
		.values = {first, second},
		.text = text,
	};
}

/* One transaction of pgbench's TPC-B, at scale 1. */
static void add_tpcb(struct workload *workload, struct work *work)
{
	int64_t account = (int64_t)workload_random(workload, workload->options->table_rows);
	int64_t teller = (int64_t)workload_random(workload, TELLERS);
	int64_t delta = (int64_t)workload_random(workload, 10001) - 5001;
	add_act(work, STATEMENT_ACCOUNT, 2, account, delta, false);
	add_act(work, STATEMENT_BALANCE, 1, account, 0, false);
	add_act(work, STATEMENT_TELLER, 2, teller, delta, false);
	add_act(work, STATEMENT_BRANCH, 1, delta, 0, false);
	add_act(work, STATEMENT_HISTORY, 3, account, teller, false);
	work->acts[work->count - 1].values[2] = delta;
}

static void add_row(struct workload *workload, struct work *work)
{
	uint64_t there = workload->options->table_rows;
	int64_t worker = (int64_t)workload->worker;
	switch (work->kind) {
	case KIND_INSERT:
		add_act(work, STATEMENT_INSERT, 1, worker, 0, true);
		break;
	case KIND_UPDATE:
		add_act(work, STATEMENT_UPDATE, 1, (int64_t)workload_random(workload, there), 0,
			true);
		break;
	case KIND_UPSERT:
		/* Half of the keys are new for long. */
		add_act(work, STATEMENT_UPSERT, 1, (int64_t)workload_random(workload, 2 * there), 0,
			true);
		break;
	case KIND_TPCB:
		add_tpcb(workload, work);
		break;
	case KIND_ENQUEUE:
		add_act(work, STATEMENT_ENQUEUE, 1, worker, 0, true);
		break;
	case KIND_TAKE:
		add_act(work, STATEMENT_TAKE, 0, 0, 0, false);
		break;
	case KIND_IMPORT:
	default:
		add_act(work, STATEMENT_IMPORT, 1, worker, 0, true);
		break;
	}
}

/* Of a hundred requests: 50 inserts, 25 updates, 15 upserts, 10 TPC-B. */
static enum bench_kind mixed_kind(struct workload *workload)
{
	uint64_t dice = workload_random(workload, 100);
	return dice <= 50    ? KIND_INSERT
		: dice <= 75 ? KIND_UPDATE
		: dice <= 90 ? KIND_UPSERT
			     : KIND_TPCB;
}

static enum bench_kind next_kind(struct workload *workload)
{
	static const enum bench_kind kinds[WORKLOADS] = {
		[WORKLOAD_INSERT] = KIND_INSERT,
		[WORKLOAD_UPDATE] = KIND_UPDATE,
		[WORKLOAD_UPSERT] = KIND_UPSERT,
		[WORKLOAD_TPCB] = KIND_TPCB,
	};
	if (workload->import) {
		return KIND_IMPORT;
	}
	switch (workload->options->workload) {
	case WORKLOAD_JOBS:
		return workload->turn++ % 2 == 0 ? KIND_ENQUEUE : KIND_TAKE;
	case WORKLOAD_MIXED:
		return mixed_kind(workload);
	default:
		return kinds[workload->options->workload];
	}
}

const struct work *workload_next(struct workload *workload)
{
	struct work *work = &workload->work;
	work->kind = next_kind(workload);
	work->count = 0;
	for (unsigned i = 0; i < work->rows; i++) {
		add_row(workload, work);
	}
	return work;
}

/* ---- the tables ---- */

static int fill(sqlite3 *handle, const char *sql, const struct bench_options *options)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(handle, sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_bind_int64(stmt, 1, (sqlite3_int64)options->table_rows);
		sqlite3_bind_int64(stmt, 2, options->row_bytes);
		sqlite3_step(stmt);
	}
	int finalized = sqlite3_finalize(stmt);
	return rc == SQLITE_OK ? finalized : rc;
}

int workload_create(sqlite3 *handle, const struct bench_options *options)
{
	bool accounts = options->workload == WORKLOAD_TPCB || options->workload == WORKLOAD_MIXED;
	int rc = sqlite3_exec(handle, schema, NULL, NULL, NULL);
	rc = rc == SQLITE_OK ? sqlite3_exec(handle, "BEGIN", NULL, NULL, NULL) : rc;
	rc = rc == SQLITE_OK ? fill(handle, fills[0], options) : rc;
	rc = rc == SQLITE_OK && accounts ? fill(handle, fills[1], options) : rc;
	for (int i = 1; rc == SQLITE_OK && i <= TELLERS; i++) {
		rc = sqlite3_exec(handle,
			"INSERT INTO bench_teller(balance, filler) VALUES (0, '')", NULL, NULL,
			NULL);
	}
	return rc == SQLITE_OK
		? sqlite3_exec(handle, "INSERT INTO bench_branch VALUES (1, 0, ''); COMMIT", NULL,
			  NULL, NULL)
		: rc;
}

/* ---- the count at the end ---- */

static int ask(
	sqlite3 *handle, const char *sql, const struct bench_options *options, uint64_t *ret_number)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(handle, sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK) {
		if (sqlite3_bind_parameter_count(stmt) > 0) {
			sqlite3_bind_int64(stmt, 1, (sqlite3_int64)options->table_rows);
		}
		rc = sqlite3_step(stmt);
		*ret_number = (uint64_t)sqlite3_column_int64(stmt, 0);
		rc = rc == SQLITE_ROW ? SQLITE_OK : rc;
	}
	sqlite3_finalize(stmt);
	return rc;
}

int workload_check(sqlite3 *handle, const struct bench_options *options,
	const uint64_t changed[KINDS], bool *ret_right, char *ret_text, size_t text_bytes)
{
	size_t len = 0;
	uint64_t number = 0;
	*ret_right = true;
	ret_text[0] = '\0';
	for (int kind = 0; kind < KINDS; kind++) {
		if (counts[kind].sql == NULL || changed[kind] == 0) {
			continue;
		}
		int rc = ask(handle, counts[kind].sql, options, &number);
		if (rc != SQLITE_OK) {
			return rc;
		}
		uint64_t wanted = changed[kind] - (kind == KIND_ENQUEUE ? changed[KIND_TAKE] : 0);
		if (number == wanted) {
			len += (size_t)snprintf(ret_text + len, text_bytes - len, "%s%llu %s",
				len > 0 ? ", " : "", (unsigned long long)number, counts[kind].what);
			continue;
		}
		*ret_right = false;
		snprintf(ret_text, text_bytes, "%llu %s in the database, %llu answered",
			(unsigned long long)number, counts[kind].what, (unsigned long long)wanted);
		return SQLITE_OK;
	}
	int rc = ask(handle, balances, options, &number);
	if (rc == SQLITE_OK && number != 1) {
		*ret_right = false;
		snprintf(ret_text, text_bytes, "the balances of TPC-B do not agree");
	}
	return rc;
}
