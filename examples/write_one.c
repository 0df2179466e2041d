/* SPDX-License-Identifier: MIT */

/*
 * One write, and one read of what was written.
 *
 * Shows: a batch of two steps that are applied together, the three outcomes, and that the local
 * reader sees an acknowledged write at once.
 *
 *	litefunnel serve --create /srv/app/app.db &
 *	example_write_one /srv/app/app.db
 *
 * Exits 0 if the visit was counted, 1 if anything went wrong.
 */

#include <litefunnel.h>
#include <sqlite3.h>
#include <stdio.h>
#include <time.h>

static int report(const lf_db *db, const char *what, int result, const lf_reply *reply)
{
	if (result < 0) {
		(void)fprintf(stderr, "%s: not sent: %s\n", what, lf_errmsg(db));
	} else {
		(void)fprintf(stderr, "%s: %s: %s (%s)\n", what,
			result == LF_UNKNOWN ? "nobody knows whether it was applied"
					     : "not applied",
			lf_reply_message(reply), lf_reply_code(reply));
	}
	return 1;
}

static int create_tables(lf_db *db)
{
	lf_batch *batch = lf_batch_new();
	lf_reply *reply = NULL;
	if (batch == NULL) {
		return 1;
	}
	lf_batch_script(batch,
		"CREATE TABLE IF NOT EXISTS example_visit(id INTEGER PRIMARY KEY, path TEXT, at "
		"INTEGER);"
		"CREATE TABLE IF NOT EXISTS example_count(path TEXT PRIMARY KEY, visits INTEGER)");
	int r = lf_write(db, batch, &reply);
	int failed = r == LF_OK ? 0 : report(db, "create", r, reply);
	lf_reply_free(reply);
	lf_batch_free(batch);
	return failed;
}

/* Both rows, or none: also if the machine dies in between. */
static int write_visit(lf_db *db, const char *path, int64_t *ret_id, int64_t *ret_visits)
{
	lf_batch *batch = lf_batch_new();
	lf_reply *reply = NULL;
	if (batch == NULL) {
		return 1;
	}
	lf_batch_step(batch, "INSERT INTO example_visit(path, at) VALUES (?, ?)");
	lf_bind_text(batch, path, -1);
	lf_bind_int64(batch, (int64_t)time(NULL));
	lf_expect_changes(batch, 1);
	lf_batch_step(batch,
		"INSERT INTO example_count(path, visits) VALUES (:path, 1) "
		"ON CONFLICT(path) DO UPDATE SET visits = visits + 1 RETURNING visits");
	lf_bind_name(batch, "path");
	lf_bind_text(batch, path, -1);
	int r = lf_write(db, batch, &reply);
	int failed = r == LF_OK ? 0 : report(db, "write", r, reply);
	if (!failed) {
		*ret_id = lf_reply_rowid(reply, 0);
		*ret_visits = lf_reply_int64(reply, 1, 0, 0);
		(void)printf("visit %lld, commit %llu, durable: %s\n", (long long)*ret_id,
			(unsigned long long)lf_reply_commit(reply), lf_reply_durability(reply));
	}
	lf_reply_free(reply);
	lf_batch_free(batch);
	return failed;
}

static int read_back(lf_db *db, int64_t id, int64_t visits)
{
	static const char sql[] = "SELECT v.path, c.visits FROM example_visit AS v "
				  "JOIN example_count AS c USING (path) WHERE v.id = ?";
	sqlite3 *reader = NULL;
	sqlite3_stmt *stmt = NULL;
	int failed = 1;
	if (lf_reader(db, &reader) < 0) {
		(void)fprintf(stderr, "read: %s\n", lf_errmsg(db));
		return 1;
	}
	if (sqlite3_prepare_v2(reader, sql, -1, &stmt, NULL) == SQLITE_OK &&
		sqlite3_bind_int64(stmt, 1, id) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
		(void)printf("%s was visited %lld times\n",
			(const char *)sqlite3_column_text(stmt, 0),
			(long long)sqlite3_column_int64(stmt, 1));
		/* Another process may have counted on since; less than ours would be a lie. */
		failed = sqlite3_column_int64(stmt, 1) < visits;
	}
	(void)sqlite3_finalize(stmt);
	return failed;
}

int main(int argc, char **argv)
{
	lf_db *db = NULL;
	int64_t id = 0;
	int64_t visits = 0;
	if (argc != 2) {
		(void)fprintf(stderr, "usage: %s DB\n", argv[0]);
		return 2;
	}
	if (lf_open(argv[1], NULL, &db) != 0) {
		(void)fprintf(stderr, "cannot open %s\n", argv[1]);
		return 1;
	}
	int failed = create_tables(db) != 0 || write_visit(db, "/home", &id, &visits) != 0 ||
		read_back(db, id, visits) != 0;
	lf_close(db);
	return failed ? 1 : 0;
}
