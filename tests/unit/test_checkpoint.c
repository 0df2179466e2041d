/* SPDX-License-Identifier: MIT */

/* Checkpoints: when they run, what a reader holds back, and that the WAL does not grow for ever. */

#include "tests/unit/bed.h"

#include <string.h>
#include <sys/stat.h>

enum { THRESHOLD = 40 };

static struct bed bed;

static void write_rows(int count)
{
	for (int i = 0; i < count; i++) {
		bed_begin(bed.store);
		bed_do(bed.store, "INSERT INTO t VALUES (randomblob(3000))");
		bed_commit(bed.store);
	}
}

static uint64_t wal_bytes(void)
{
	struct stat status;
	assert_int_equal(stat(bed_file(&bed, "-wal"), &status), 0);
	return (uint64_t)status.st_size;
}

static struct checkpoint_stats checkpoint(void)
{
	struct store_error error = {.row = -1};
	if (store_checkpoint_if_due(bed.store, THRESHOLD, &error) != 0) {
		fail_msg("%s", error.message);
	}
	return store_checkpoint_stats(bed.store);
}

static sqlite3 *open_reader(void)
{
	sqlite3 *reader = NULL;
	assert_int_equal(sqlite3_open_v2(bed.path, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	return reader;
}

/* Opens a snapshot and keeps it. */
static void pin(sqlite3 *reader)
{
	assert_int_equal(
		sqlite3_exec(reader, "BEGIN; SELECT count(*) FROM t", NULL, NULL, NULL), SQLITE_OK);
}

static void unpin(sqlite3 *reader)
{
	assert_int_equal(sqlite3_exec(reader, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
}

static void test_frames_are_counted(void **state)
{
	(void)state;
	struct checkpoint_stats before = store_checkpoint_stats(bed.store);
	write_rows(5);
	struct checkpoint_stats after = store_checkpoint_stats(bed.store);
	assert_true(after.wal_frames >= before.wal_frames + 10);
	assert_true(wal_bytes() >= 32 + after.wal_frames * (4096 + 24));
	assert_int_equal(after.checkpoints, 0);
}

static void test_it_waits_for_the_threshold(void **state)
{
	(void)state;
	while (store_checkpoint_stats(bed.store).wal_frames < THRESHOLD) {
		assert_int_equal(checkpoint().checkpoints, 0);
		write_rows(1);
	}
	struct checkpoint_stats stats = checkpoint();
	assert_int_equal(stats.checkpoints, 1);
	assert_int_equal(stats.backfilled, stats.wal_frames);
	/* Not again with nothing new, nor after each small write. */
	assert_int_equal(checkpoint().checkpoints, 1);
	/* The next write begins the WAL anew. */
	write_rows(1);
	assert_true(store_checkpoint_stats(bed.store).wal_frames < 10);
	assert_int_equal(store_checkpoint_stats(bed.store).backfilled, 0);
}

/* Without readers the file stays at about the size of the threshold, however long it goes on. */
static void test_the_wal_is_used_again(void **state)
{
	(void)state;
	for (int i = 0; i < 300; i++) {
		write_rows(1);
		(void)checkpoint();
	}
	struct checkpoint_stats stats = store_checkpoint_stats(bed.store);
	assert_true(stats.checkpoints >= 10);
	assert_true(stats.checkpoints <= 40);
	assert_int_equal(stats.restarts, 0);
	assert_true(wal_bytes() < 3 * THRESHOLD * 4120);
	assert_int_equal(bed_number(bed.store, "SELECT count(*) FROM t"), 300);
}

static void test_a_reader_holds_frames_back(void **state)
{
	(void)state;
	sqlite3 *reader = open_reader();
	pin(reader);
	write_rows(30);
	struct checkpoint_stats stats = checkpoint();
	assert_int_equal(stats.checkpoints, 1);
	assert_int_equal(stats.pinned, 1);
	assert_true(stats.backfilled < stats.wal_frames);
	/* It tries again after some more writes, not after each. */
	write_rows(1);
	assert_int_equal(checkpoint().checkpoints, 1);
	write_rows(THRESHOLD / 4);
	assert_int_equal(checkpoint().checkpoints, 2);
	unpin(reader);
	write_rows(THRESHOLD / 4);
	stats = checkpoint();
	assert_true(stats.checkpoints >= 3);
	assert_int_equal(stats.backfilled, stats.wal_frames);
	sqlite3_close(reader);
}

/* Two readers whose snapshots always overlap: RESTART finds a moment, or asks again. */
static void test_readers_that_never_pause(void **state)
{
	sqlite3 *readers[2] = {open_reader(), open_reader()};
	(void)state;
	pin(readers[0]);
	struct checkpoint_stats stats = {0};
	for (int i = 0; i < 46; i++) {
		write_rows(1);
		/* The new snapshot begins before the old one ends. */
		pin(readers[(i + 1) % 2]);
		unpin(readers[i % 2]);
		stats = checkpoint();
	}
	assert_true(stats.restarts > 0);
	/* Bounded attempts: one in a quarter of the threshold's frames. */
	assert_true(stats.checkpoints < 40);
	unpin(readers[0]);
	sqlite3_close(readers[0]);
	sqlite3_close(readers[1]);
	/* As soon as they pause, all is copied and the WAL begins anew. */
	write_rows(THRESHOLD / 2);
	(void)checkpoint();
	write_rows(1);
	assert_true(store_checkpoint_stats(bed.store).wal_frames < THRESHOLD);
}

/* A file far past its use is cut when it can be. */
static void test_a_huge_wal_is_cut(void **state)
{
	(void)state;
	sqlite3 *reader = open_reader();
	pin(reader);
	write_rows(THRESHOLD * 20 / 2);
	(void)checkpoint();
	assert_true(wal_bytes() > 16 * THRESHOLD * 4120);
	unpin(reader);
	sqlite3_close(reader);
	write_rows(THRESHOLD);
	(void)checkpoint();
	write_rows(1);
	assert_true(wal_bytes() < 3 * THRESHOLD * 4120);
}

/* Many frames that one reader held back, and that it holds no more. */
static void write_long_wal(void)
{
	sqlite3 *reader = open_reader();
	pin(reader);
	for (int i = 0; i < 4; i++) {
		bed_begin(bed.store);
		bed_do(bed.store,
			"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
			" INSERT INTO t SELECT randomblob(3000) FROM n");
		bed_do(bed.store, "UPDATE first SET a = a + 1");
		bed_commit(bed.store);
	}
	unpin(reader);
	sqlite3_close(reader);
}

static sqlite3_int64 sum_of(sqlite3 *reader)
{
	sqlite3_stmt *stmt = NULL;
	assert_int_equal(
		sqlite3_prepare_v2(reader, "SELECT (SELECT count(*) FROM t) * 100 + a FROM first",
			-1, &stmt, NULL),
		SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	sqlite3_int64 sum = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return sum;
}

/*
 * What was held back is copied in parts. Whoever reads in between, by a snapshot of before, of then, or of
 * after a commit beside it, sees what was committed.
 */
static void test_a_long_wal_is_copied_in_parts(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE first(a); INSERT INTO first VALUES (0)");
	write_long_wal();
	sqlite3 *old = open_reader();
	pin(old);
	uint64_t frames = store_checkpoint_stats(bed.store).wal_frames;
	struct checkpoint_stats stats = checkpoint();
	assert_int_equal(stats.parts, 1);
	assert_true(stats.backfilled >= 500 && stats.backfilled < frames / 2);
	assert_true(store_checkpoint_rests(bed.store));
	/* Commits have their turn in between. */
	assert_false(store_checkpoint_is_due(bed.store, THRESHOLD));
	for (int row = 1; store_checkpoint_rests(bed.store); row++) {
		uint64_t before = stats.backfilled;
		sqlite3 *reader = open_reader();
		assert_int_equal(sum_of(reader), 1200000 + (row - 1) * 100 + 4);
		write_rows(1);
		assert_int_equal(sum_of(reader), 1200000 + row * 100 + 4);
		sqlite3_close(reader);
		assert_int_equal(sum_of(old), 1200004);
		bed_now_us += 1000;
		assert_true(store_checkpoint_is_due(bed.store, THRESHOLD));
		stats = checkpoint();
		assert_true(stats.backfilled > before);
		assert_int_equal(stats.pinned, 0 + !store_checkpoint_rests(bed.store));
	}
	assert_true(stats.parts >= 2);
	assert_true(stats.backfilled < stats.wal_frames); /* the old snapshot */
	unpin(old);
	sqlite3_close(old);
	write_rows(THRESHOLD);
	(void)checkpoint(); /* the rest, and it is cut */
	write_rows(1);
	assert_true(store_checkpoint_stats(bed.store).wal_frames < THRESHOLD);
	assert_int_equal(bed_number(bed.store, "SELECT a FROM first"), 4);
}

/* All read marks are taken: it is copied as far as they let it, in one. */
static void test_without_a_read_mark_it_is_copied_at_once(void **state)
{
	sqlite3 *readers[4];
	(void)state;
	bed_script(bed.store, "CREATE TABLE first(a); INSERT INTO first VALUES (0)");
	write_long_wal();
	for (int i = 0; i < 4; i++) {
		readers[i] = open_reader();
		pin(readers[i]);
		write_rows(1);
	}
	struct checkpoint_stats stats = checkpoint();
	assert_int_equal(stats.parts, 0);
	assert_true(stats.backfilled > stats.wal_frames - 20);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(sum_of(readers[i]), 1200000 + i * 100 + 4);
		unpin(readers[i]);
		sqlite3_close(readers[i]);
	}
}

/* A daemon that is started anew in the middle of it finds all. */
static void test_an_end_between_two_parts(void **state)
{
	static const char sound[] =
		"SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'";
	(void)state;
	bed_script(bed.store, "CREATE TABLE first(a); INSERT INTO first VALUES (0)");
	write_long_wal();
	assert_int_equal(checkpoint().parts, 1);
	bed_reopen(&bed);
	assert_int_equal(bed_number(bed.store, "SELECT count(*) FROM t"), 12000);
	assert_int_equal(bed_number(bed.store, sound), 1);
	write_rows(THRESHOLD);
	struct checkpoint_stats stats = checkpoint();
	for (int i = 0; i < 100 && stats.backfilled < stats.wal_frames; i++) {
		bed_now_us += 1000;
		write_rows(1);
		stats = checkpoint();
	}
	assert_int_equal(stats.backfilled, stats.wal_frames);
	assert_true(stats.parts > 0);
	assert_int_equal(bed_number(bed.store, sound), 1);
}

/* Another process's lock is no error: it is tried again. */
static void test_another_checkpointer_is_no_error(void **state)
{
	(void)state;
	write_rows(THRESHOLD);
	sqlite3 *other = NULL;
	assert_int_equal(sqlite3_open(bed.path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	(void)checkpoint();
	assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(other);
	write_rows(THRESHOLD);
	struct checkpoint_stats stats = checkpoint();
	assert_int_equal(stats.backfilled, stats.wal_frames);
}

/* After a burst an empty read moves the mark, so that a reader's snapshot does not hold it back. */
static void test_settling(void **state)
{
	(void)state;
	sqlite3 *reader = open_reader();
	write_rows(THRESHOLD);
	store_settle(bed.store);
	assert_false(store_in_transaction(bed.store));
	pin(reader);
	struct checkpoint_stats stats = checkpoint();
	assert_int_equal(stats.backfilled, stats.wal_frames);
	assert_int_equal(stats.pinned, 0);
	unpin(reader);
	sqlite3_close(reader);
}

static int set_up(void **state)
{
	(void)state;
	bed_make(&bed);
	bed_script(bed.store, "CREATE TABLE t(a)");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	bed_remove(&bed);
	return 0;
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_frames_are_counted),
		TEST(test_it_waits_for_the_threshold),
		TEST(test_the_wal_is_used_again),
		TEST(test_a_reader_holds_frames_back),
		TEST(test_readers_that_never_pause),
		TEST(test_a_huge_wal_is_cut),
		TEST(test_a_long_wal_is_copied_in_parts),
		TEST(test_without_a_read_mark_it_is_copied_at_once),
		TEST(test_an_end_between_two_parts),
		TEST(test_another_checkpointer_is_no_error),
		TEST(test_settling),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
