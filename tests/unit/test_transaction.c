/* SPDX-License-Identifier: MIT */

/* The store: numbered commits, savepoints, rollbacks, and what other processes see of them. */

#include "tests/unit/store_bed.h"

/* ---- transactions ---- */

static void test_each_commit_takes_one_number(void **state)
{
	uint64_t first = store_commit_no(bed.store);
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a)");
	assert_int_equal(store_commit_no(bed.store), first + 1);
	for (uint64_t i = 1; i <= 20; i++) {
		bed_begin(bed.store);
		bed_do(bed.store, "INSERT INTO t VALUES (1)");
		assert_true(store_in_transaction(bed.store));
		assert_true(store_dirty(bed.store));
		/* Nobody sees it before, everybody after, with its number. */
		assert_int_equal(other_number("SELECT count(*) FROM t"), (int64_t)i - 1);
		bed_commit(bed.store);
		assert_false(store_in_transaction(bed.store));
		assert_int_equal(store_commit_no(bed.store), first + 1 + i);
		assert_int_equal(other_number("SELECT count(*) FROM t"), (int64_t)i);
		assert_int_equal(
			other_number("SELECT commit_no FROM _lf_state"), (int64_t)(first + 1 + i));
		/* What is rolled back takes none. */
		bed_begin(bed.store);
		bed_do(bed.store, "DELETE FROM t");
		store_rollback(bed.store);
		assert_int_equal(store_commit_no(bed.store), first + 1 + i);
	}
}

static void test_savepoints(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a)");
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO t VALUES (1)");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(store_savepoint(bed.store, &error), 0);
		bed_do(bed.store, "INSERT INTO t VALUES (2)");
		bed_do(bed.store, "CREATE TABLE u(x)");
		bed_do(bed.store, "INSERT INTO u VALUES (1)");
		assert_int_equal(store_rollback_to(bed.store, &error), 0);
		assert_true(store_in_transaction(bed.store));
		assert_int_equal(bed_number(bed.store, "SELECT count(*) FROM t"), 1);
	}
	assert_int_equal(store_savepoint(bed.store, &error), 0);
	bed_do(bed.store, "INSERT INTO t VALUES (3)");
	assert_int_equal(store_release(bed.store, &error), 0);
	bed_commit(bed.store);
	assert_int_equal(other_number("SELECT sum(a) FROM t"), 4);
}

/* Statements compiled against a schema that was undone are not used again. */
static void test_a_schema_that_was_undone(void **state)
{
	struct store_error error = {.row = -1};
	struct step select = bed_step_of("SELECT x FROM u");
	(void)state;
	for (int how = 0; how < 2; how++) {
		bed_begin(bed.store);
		assert_int_equal(store_savepoint(bed.store, &error), 0);
		bed_do(bed.store, "CREATE TABLE u(x)");
		assert_int_equal(bed_step(bed.store, ROLE_DDL, &select, &shown), 0);
		if (how == 0) {
			assert_int_equal(store_rollback_to(bed.store, &error), 0);
		} else {
			store_rollback(bed.store);
			bed_begin(bed.store);
		}
		assert_int_equal(bed_step(bed.store, ROLE_DDL, &select, &shown), STORE_SQL);
		assert_non_null(strstr(shown.error.message, "no such table: u"));
		bed_do(bed.store, "CREATE TABLE u(y, x)");
		assert_int_equal(bed_step(bed.store, ROLE_DDL, &select, &shown), 0);
		store_rollback(bed.store);
	}
}

static void test_rollback_after_sqlite_did_it_itself(void **state)
{
	struct step killer = bed_step_of("INSERT OR ROLLBACK INTO t VALUES (1)");
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1)");
	uint64_t before = store_commit_no(bed.store);
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO t VALUES (2)");
	assert_int_equal(bed_step(bed.store, ROLE_DDL, &killer, &shown), STORE_SQL);
	assert_false(store_in_transaction(bed.store));
	store_rollback(bed.store);
	assert_false(store_in_transaction(bed.store));
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO t VALUES (3)");
	bed_commit(bed.store);
	assert_int_equal(store_commit_no(bed.store), before + 1);
	assert_int_equal(other_number("SELECT sum(a) FROM t"), 4);
}

/* In the statements of a virtual table; the next of them stand in no transaction, and SQLite ends it. */
static void test_only_our_commit_commits(void **state)
{
	struct step step = bed_step_of("INSERT OR FAIL INTO v VALUES (36, 34, 39)");
	char *message = NULL;
	(void)state;
	bed_script(bed.store,
		"CREATE TABLE t(a); CREATE TABLE left(a); CREATE VIRTUAL TABLE v USING rtree(id, x0, x1)");
	/* What a client may not make. */
	bed_begin(bed.store);
	assert_int_equal(
		sqlite3_exec(bed.store->handle,
			"CREATE TRIGGER r BEFORE INSERT ON v_rowid BEGIN SELECT RAISE(ROLLBACK, 'r'); END;"
			"CREATE TRIGGER n AFTER INSERT ON v_node BEGIN INSERT INTO left VALUES (1); END",
			NULL, NULL, &message),
		SQLITE_OK);
	bed.store->dirty = true;
	bed_commit(bed.store);
	for (int i = 0; i < 3; i++) {
		uint64_t before = store_commit_no(bed.store);
		bed_begin(bed.store);
		bed_do(bed.store, "INSERT INTO t VALUES (1)");
		assert_int_equal(bed_step(bed.store, ROLE_DDL, &step, &shown), STORE_SQL);
		assert_false(store_in_transaction(bed.store));
		store_rollback(bed.store);
		assert_int_equal(other_number("SELECT count(*) FROM left"), 0);
		assert_int_equal(other_number("SELECT count(*) FROM t"), i);
		bed_begin(bed.store);
		bed_do(bed.store, "INSERT INTO t VALUES (2)");
		bed_commit(bed.store);
		assert_int_equal(store_commit_no(bed.store), before + 1);
	}
	assert_int_equal(other_number("SELECT sum(a) FROM t"), 6);
}

static void test_deferred_violations(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	bed_script(bed.store,
		"CREATE TABLE p(a INTEGER PRIMARY KEY); "
		"CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)");
	uint64_t before = store_commit_no(bed.store);
	bed_begin(bed.store);
	assert_false(store_deferred_violations(bed.store));
	bed_do(bed.store, "INSERT INTO c VALUES (7)");
	assert_true(store_deferred_violations(bed.store));
	/* COMMIT says no, and the transaction stands. */
	assert_int_equal(store_commit(bed.store, &error), STORE_SQL);
	assert_int_equal(error.sqlite, SQLITE_CONSTRAINT_FOREIGNKEY);
	store_error_clear(&error);
	assert_true(store_in_transaction(bed.store));
	store_rollback(bed.store);
	assert_int_equal(store_commit_no(bed.store), before);
	/* Put right before the end, it is none. */
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO c VALUES (7)");
	bed_do(bed.store, "INSERT INTO p VALUES (7)");
	assert_false(store_deferred_violations(bed.store));
	bed_commit(bed.store);
	assert_int_equal(store_commit_no(bed.store), before + 1);
}

static void test_another_writer(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	sqlite3 *other = open_other(SQLITE_OPEN_READWRITE);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(store_begin(bed.store, &error), STORE_BUSY);
	assert_int_equal(error.sqlite & 0xff, SQLITE_BUSY);
	assert_false(store_in_transaction(bed.store));
	store_error_clear(&error);
	/* Nor can a second daemon start. */
	struct store *second = NULL;
	char reason[STORE_ERROR_BYTES] = "";
	assert_int_equal(store_open(&bed.options, &second, reason), -EINVAL);
	assert_non_null(strstr(reason, "another process"));
	assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	bed_begin(bed.store);
	/* While we write, the other may read but not write. */
	assert_int_equal(
		sqlite3_exec(other, "SELECT * FROM _lf_state", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_BUSY);
	store_rollback(bed.store);
	sqlite3_close(other);
}

/* A disk that takes no more writes to the WAL; `lies`: they arrive all the same. */
static struct {
	sqlite3_io_methods methods;
	const sqlite3_io_methods *real;
	bool full;
	bool lies;
} disk;

static int disk_write(sqlite3_file *file, const void *data, int bytes, sqlite3_int64 offset)
{
	if (disk.full && !disk.lies) {
		return SQLITE_FULL;
	}
	int rc = disk.real->xWrite(file, data, bytes, offset);
	return disk.full && bytes > 100 ? SQLITE_FULL : rc;
}

static int refuse_truncate(sqlite3_file *file, sqlite3_int64 bytes)
{
	(void)file;
	(void)bytes;
	return SQLITE_IOERR_TRUNCATE;
}

static void disk_under_the_wal(bool lies)
{
	disk.real = bed.store->wal_file.methods;
	disk.methods = *disk.real;
	disk.methods.xWrite = disk_write;
	disk.full = false;
	disk.lies = lies;
	bed.store->wal_file.methods = &disk.methods;
}

/* A disk that is full: the transaction is undone, the answer may be tried again. */
static void test_a_full_disk(void **state)
{
	struct step step = bed_step_of("INSERT INTO t VALUES (zeroblob(1000000))");
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a)");
	assert_int_equal(own_exec(bed.store, "PRAGMA cache_size = 10"), SQLITE_OK);
	disk_under_the_wal(false);
	bed_begin(bed.store);
	disk.full = true;
	assert_int_equal(bed_step(bed.store, ROLE_DDL, &step, &shown), STORE_RESOURCE);
	assert_int_equal(shown.error.sqlite, SQLITE_FULL);
	store_rollback(bed.store);
	disk.full = false;
	bed_begin(bed.store);
	assert_int_equal(bed_step(bed.store, ROLE_DDL, &step, &shown), 0);
	bed_commit(bed.store);
}

/* SQLite says the same of limits that are no disk's; there trying again does not help. */
static void test_a_limit_is_no_full_disk(void **state)
{
	struct step step = bed_step_of("INSERT INTO t VALUES (NULL)");
	(void)state;
	bed_script(bed.store,
		"CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT);"
		"INSERT INTO t VALUES (9223372036854775807)");
	bed_begin(bed.store);
	assert_int_equal(bed_step(bed.store, ROLE_DDL, &step, &shown), STORE_SQL);
	assert_int_equal(shown.error.sqlite, SQLITE_FULL);
	store_rollback(bed.store);
}

static void copy_file(const char *from, const char *to)
{
	char command[2048];
	snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
	assert_int_equal(system(command), 0);
}

/* What other processes would find after a loss of power right now. */
static int64_t number_after_a_crash(const char *sql)
{
	static char db[768];
	static char wal[800];
	char from[768];
	sqlite3 *other = NULL;
	sqlite3_stmt *stmt = NULL;
	snprintf(db, sizeof(db), "%s/crashed.db", bed.dir);
	snprintf(wal, sizeof(wal), "%s-wal", db);
	snprintf(from, sizeof(from), "%s-wal", bed.path);
	copy_file(bed.path, db);
	copy_file(from, wal);
	assert_int_equal(sqlite3_open(db, &other), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(other, sql, -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	int64_t number = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	sqlite3_close(other);
	unlink(db);
	unlink(wal);
	return number;
}

/*
 * A write that failed may be whole on the disk: on a file system that copies on write, what stood in
 * its place can complete it. The batch is answered "not applied", so it must not come back.
 */
static void test_a_full_disk_leaves_no_frame_behind(void **state)
{
	struct store_error error = {.row = -1};
	struct checkpoint_stats stats;
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	disk_under_the_wal(true);
	for (int restarted = 0; restarted < 2; restarted++) {
		bed_begin(bed.store);
		bed_do(bed.store, "INSERT INTO t VALUES (2)");
		disk.full = true;
		assert_int_equal(store_commit(bed.store, &error), STORE_RESOURCE);
		disk.full = false;
		store_error_clear(&error);
		assert_int_equal(number_after_a_crash("SELECT count(*) FROM t"), 1);
		assert_int_equal(other_number("SELECT count(*) FROM t"), 1);
		/* The second time at the very beginning of the file. */
		assert_int_equal(store_checkpoint_if_due(bed.store, 1, &error), 0);
		stats = store_checkpoint_stats(bed.store);
		assert_int_equal(stats.backfilled, stats.wal_frames);
	}
	bed_script(bed.store, "INSERT INTO t VALUES (3)");
	assert_int_equal(number_after_a_crash("SELECT count(*) FROM t"), 2);
	/* No room even to take it back: nobody can tell. */
	disk.lies = false;
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO t VALUES (4)");
	disk.full = true;
	bed.store->wal_file.noting.xTruncate = refuse_truncate;
	assert_int_equal(store_commit(bed.store, &error), STORE_UNKNOWN);
	store_error_clear(&error);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_each_commit_takes_one_number),
		TEST(test_savepoints),
		TEST(test_a_schema_that_was_undone),
		TEST(test_rollback_after_sqlite_did_it_itself),
		TEST(test_only_our_commit_commits),
		TEST(test_deferred_violations),
		TEST(test_another_writer),
		TEST(test_a_full_disk),
		TEST(test_a_limit_is_no_full_disk),
		TEST(test_a_full_disk_leaves_no_frame_behind),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
