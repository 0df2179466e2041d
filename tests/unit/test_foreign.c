/* SPDX-License-Identifier: MIT */

/* The store when other hands write, checkpoint, replace or remove its files. */

#include "tests/unit/store_bed.h"

/* ---- other hands ---- */

static uint8_t known_epoch[STORE_EPOCH_BYTES];

static void know_the_epoch(void)
{
	memcpy(known_epoch, store_epoch(bed.store), sizeof(known_epoch));
}

static bool epoch_is_new(void)
{
	return memcmp(known_epoch, store_epoch(bed.store), sizeof(known_epoch)) != 0;
}

static enum store_recheck_end recheck(const char *says)
{
	struct store_recheck recheck;
	store_recheck(bed.store, &recheck);
	if (says != NULL && strstr(recheck.text, says) == NULL) {
		fail_msg("\"%s\" does not say: %s", recheck.text, says);
	}
	return recheck.end;
}

static void begin_is_busy(enum store_doubt doubt)
{
	struct store_error error = {.row = -1};
	assert_int_equal(store_begin(bed.store, &error), STORE_BUSY);
	assert_int_equal(store_doubt(bed.store), doubt);
	assert_false(store_in_transaction(bed.store));
	store_error_clear(&error);
}

/* Nothing is committed on top of what another has written before it was checked. */
static void test_a_foreign_write_begins_an_epoch(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	for (int i = 0; i < 3; i++) {
		uint64_t before = store_commit_no(bed.store);
		know_the_epoch();
		assert_int_equal(other_exec("INSERT INTO t VALUES (2)"), SQLITE_OK);
		begin_is_busy(STORE_DOUBT_WRITTEN);
		begin_is_busy(STORE_DOUBT_WRITTEN);
		assert_int_equal(recheck(NULL), STORE_RECHECK_GOES_ON);
		assert_true(epoch_is_new());
		assert_int_equal(store_commit_no(bed.store), before + 1);
		assert_int_equal(store_foreign_count(bed.store), i + 1);
		bed_script(bed.store, "INSERT INTO t VALUES (3)");
		assert_int_equal(other_number("SELECT count(*) FROM t"), 1 + 2 * (i + 1));
		assert_int_equal(
			other_number("SELECT count(DISTINCT commit_no) FROM _lf_state"), 1);
	}
}

/* A checkpoint by another hand changes nothing that is to be read; whoever ships must know of it. */
static void test_foreign_checkpoints_are_counted(void **state)
{
	static const char *const modes[] = {"PASSIVE", "RESTART", "TRUNCATE"};
	(void)state;
	know_the_epoch();
	for (unsigned i = 0; i < 3; i++) {
		char sql[64];
		bed_script(bed.store, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (1)");
		(void)snprintf(sql, sizeof(sql), "PRAGMA wal_checkpoint(%s)", modes[i]);
		uint64_t before = store_foreign_count(bed.store);
		assert_int_equal(other_exec(sql), SQLITE_OK);
		store_look_around(bed.store);
		assert_int_equal(store_doubt(bed.store), STORE_DOUBT_NONE);
		bed_script(bed.store, "INSERT INTO t VALUES (2)");
		assert_true(store_foreign_count(bed.store) > before);
	}
	assert_false(epoch_is_new());
	/* Our own are none of others. */
	struct store_error error = {.row = -1};
	uint64_t before = store_foreign_count(bed.store);
	for (unsigned i = 0; i < 50; i++) {
		bed_script(bed.store, "INSERT INTO t VALUES (zeroblob(20000))");
		assert_int_equal(store_checkpoint_if_due(bed.store, i % 7 + 1, &error), 0);
		if (i % 10 == 0) {
			assert_int_equal(store_checkpoint_cut(bed.store, &error), 0);
		}
		store_look_around(bed.store);
	}
	assert_int_equal(store_foreign_count(bed.store), before);
	assert_int_equal(store_doubt(bed.store), STORE_DOUBT_NONE);
}

static void test_a_foreign_write_that_does_harm(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	bed_script(
		bed.store, "CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1)");
	know_the_epoch();
	assert_int_equal(other_exec("PRAGMA writable_schema = ON;"
				    "UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'i'"),
		SQLITE_OK);
	begin_is_busy(STORE_DOUBT_WRITTEN);
	assert_int_equal(recheck("repair or restore"), STORE_RECHECK_STANDS);
	begin_is_busy(STORE_DOUBT_WRITTEN);
	assert_false(epoch_is_new());
	(void)store_begin(bed.store, &error);
	store_error_clear(&error);
}

static void test_another_state_takes_the_place(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	assert_int_equal(other_exec("UPDATE _lf_state SET commit_no = 1"), SQLITE_OK);
	begin_is_busy(STORE_DOUBT_WRITTEN);
	assert_int_equal(recheck("foreign:"), STORE_RECHECK_LEAVE);
}

/* What can be told at a start, and what cannot. */
static void test_foreign_writes_while_no_daemon_ran(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a)");
	know_the_epoch();
	bed_reopen(&bed);
	assert_false(epoch_is_new());
	/* By one that left it in the WAL. */
	bed_close(&bed);
	assert_int_equal(other_exec_in_wal("INSERT INTO t VALUES (1)"), SQLITE_OK);
	bed_open(&bed);
	assert_true(epoch_is_new());
	assert_non_null(strstr(store_lineage_note(bed.store), "has written"));
	know_the_epoch();
	/* What was found once is not found again. */
	bed_reopen(&bed);
	assert_int_equal(store_foreign_count(bed.store), 0);
	assert_false(epoch_is_new());
	/* By one that closed it as the last one, and so removed the WAL. */
	bed_close(&bed);
	assert_int_equal(other_exec("INSERT INTO t VALUES (2)"), SQLITE_OK);
	bed_open(&bed);
	assert_true(epoch_is_new());
	assert_non_null(strstr(store_lineage_note(bed.store), "removed"));
	assert_int_equal(other_number("SELECT count(*) FROM t"), 2);
}

static void move(const char *suffix, bool back)
{
	char from[800];
	char to[800];
	(void)snprintf(from, sizeof(from), "%s%s", bed.path, suffix);
	(void)snprintf(to, sizeof(to), "%s/elsewhere%s", bed.dir, suffix);
	assert_int_equal(back ? rename(to, from) : rename(from, to), 0);
}

/* Files that are moved away are missed; nothing that was committed stays in the WAL alone. */
static void test_files_that_go_away(void **state)
{
	static const char *const suffixes[] = {"-wal", "-shm", ""};
	char moved[800];
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	for (unsigned i = 0; i < 3; i++) {
		bool db = suffixes[i][0] == 0;
		know_the_epoch();
		bed_script(bed.store, "INSERT INTO t VALUES (2)");
		move(suffixes[i], false);
		store_look_around(bed.store);
		begin_is_busy(STORE_DOUBT_FILES);
		assert_int_equal(recheck("moved"), db ? STORE_RECHECK_STANDS : STORE_RECHECK_LEAVE);
		assert_non_null(
			strstr(store_doubt_text(bed.store), db ? "elsewhere" : suffixes[i]));
		if (db) {
			/* Alone, without a WAL, it holds everything. */
			sqlite3 *other = NULL;
			(void)snprintf(
				moved, sizeof(moved), "file:%s/elsewhere?immutable=1", bed.dir);
			assert_int_equal(sqlite3_open_v2(moved, &other,
						 SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL),
				SQLITE_OK);
			assert_int_equal(
				sqlite3_exec(other,
					"SELECT 1 / (count(*) = 4) FROM t WHERE a IN (1, 2)", NULL,
					NULL, NULL),
				SQLITE_OK);
			sqlite3_close(other);
		}
		move(suffixes[i], true);
		assert_int_equal(recheck(NULL), STORE_RECHECK_GOES_ON);
		assert_true(epoch_is_new());
		bed_script(bed.store, "SELECT 1");
	}
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_a_foreign_write_begins_an_epoch),
		TEST(test_foreign_checkpoints_are_counted),
		TEST(test_a_foreign_write_that_does_harm),
		TEST(test_another_state_takes_the_place),
		TEST(test_foreign_writes_while_no_daemon_ran),
		TEST(test_files_that_go_away),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
