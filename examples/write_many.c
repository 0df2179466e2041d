/* SPDX-License-Identifier: MIT */

/*
 * Many rows, fast: 200 batches of 100 rows each, up to 32 of them on their way at a time.
 *
 * Shows: lf_batch_row(), RETURNING, and pipelining with lf_submit() and lf_wait(). The daemon
 * commits what arrives together in one transaction, so that a client that does not wait for each
 * answer costs few fsyncs.
 *
 *	example_write_many /srv/app/app.db
 *
 * Exits 0 if every row is in the database exactly once, 1 if not.
 */

#include <litefunnel.h>
#include <sqlite3.h>
#include <stdio.h>

enum { BATCHES = 200, ROWS = 100, AHEAD = 32 };

static void fill_batch(lf_batch *batch, int64_t run, int64_t number)
{
	lf_batch_clear(batch);
	lf_batch_step(batch,
		"INSERT INTO example_reading(run, number, value) VALUES (?, ?, ?) "
		"RETURNING number");
	for (int64_t row = 0; row < ROWS; row++) {
		lf_bind_int64(batch, run);
		lf_bind_int64(batch, number * ROWS + row);
		lf_bind_double(batch, (double)row / 10);
		lf_batch_row(batch);
	}
	lf_expect_changes(batch, ROWS);
}

/* The answer to a batch holds the rows that RETURNING gave, in the order in which they went in. */
static int check_reply(const lf_reply *reply, int64_t number)
{
	if (lf_reply_outcome(reply) != LF_OK) {
		(void)fprintf(
			stderr, "batch %lld: %s\n", (long long)number, lf_reply_message(reply));
		return 1;
	}
	if (lf_reply_rows_lost(reply)) {
		return 0; /* it was applied before a reconnect, and its rows were too many to keep
			   */
	}
	for (size_t row = 0; row < ROWS; row++) {
		if (lf_reply_int64(reply, 0, row, 0) != number * ROWS + (int64_t)row) {
			(void)fprintf(stderr, "batch %lld: a row is missing\n", (long long)number);
			return 1;
		}
	}
	return 0;
}

static int write_all(lf_db *db, lf_batch *batch, int64_t run)
{
	uint64_t tickets[AHEAD] = {0};
	lf_reply *reply = NULL;
	for (int64_t number = 0; number < BATCHES + AHEAD; number++) {
		uint64_t *ticket = &tickets[number % AHEAD];
		if (number >= AHEAD) {
			if (lf_wait(db, *ticket, &reply) < 0) {
				return 1;
			}
			int failed = check_reply(reply, number - AHEAD);
			lf_reply_free(reply);
			if (failed) {
				return 1;
			}
		}
		if (number >= BATCHES) {
			continue;
		}
		fill_batch(batch, run, number);
		/* Never more than AHEAD are open, so that "1: the window is full" cannot happen. */
		if (lf_submit(db, batch, ticket) != 0) {
			(void)fprintf(stderr, "submit: %s\n", lf_errmsg(db));
			return 1;
		}
	}
	return 0;
}

static int verify(lf_db *db, int64_t run)
{
	static const char sql[] = "SELECT count(*), count(DISTINCT number), max(number) "
				  "FROM example_reading WHERE run = ?";
	sqlite3 *reader = NULL;
	sqlite3_stmt *stmt = NULL;
	int failed = 1;
	if (lf_reader(db, &reader) < 0) {
		(void)fprintf(stderr, "read: %s\n", lf_errmsg(db));
		return 1;
	}
	if (sqlite3_prepare_v2(reader, sql, -1, &stmt, NULL) == SQLITE_OK &&
		sqlite3_bind_int64(stmt, 1, run) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
		(void)printf("%d rows\n", sqlite3_column_int(stmt, 0));
		failed = sqlite3_column_int(stmt, 0) != BATCHES * ROWS ||
			sqlite3_column_int(stmt, 1) != BATCHES * ROWS ||
			sqlite3_column_int(stmt, 2) != BATCHES * ROWS - 1;
	}
	(void)sqlite3_finalize(stmt);
	return failed;
}

/* A number of this run's own, so that the example can be run again on the same database. */
static int begin_run(lf_db *db, int64_t *ret_run)
{
	lf_reply *reply = NULL;
	int r = lf_exec(db,
		"CREATE TABLE IF NOT EXISTS example_reading("
		"run INTEGER, number INTEGER, value REAL)",
		NULL);
	if (r == LF_OK) {
		r = lf_exec(
			db, "CREATE TABLE IF NOT EXISTS example_run(id INTEGER PRIMARY KEY)", NULL);
	}
	if (r == LF_OK) {
		r = lf_exec(db, "INSERT INTO example_run DEFAULT VALUES", &reply);
	}
	if (r != LF_OK) {
		(void)fprintf(stderr, "create: %s\n",
			reply != NULL ? lf_reply_message(reply) : lf_errmsg(db));
	} else {
		*ret_run = lf_reply_rowid(reply, 0);
	}
	lf_reply_free(reply);
	return r == LF_OK ? 0 : 1;
}

int main(int argc, char **argv)
{
	lf_db *db = NULL;
	int64_t run = 0;
	if (argc != 2) {
		(void)fprintf(stderr, "usage: %s DB\n", argv[0]);
		return 2;
	}
	lf_batch *batch = lf_batch_new();
	if (batch == NULL || lf_open(argv[1], NULL, &db) != 0) {
		(void)fprintf(stderr, "cannot open %s\n", argv[1]);
		lf_batch_free(batch);
		return 1;
	}
	int failed =
		begin_run(db, &run) != 0 || write_all(db, batch, run) != 0 || verify(db, run) != 0;
	lf_batch_free(batch);
	lf_close(db);
	return failed ? 1 : 0;
}
