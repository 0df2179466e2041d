/* SPDX-License-Identifier: MIT */

/*
 * Commit groups with a real store and a real queue: whatever one batch does to the transaction that
 * it shares, each of the others gets the answer that it would have got alone, exactly once.
 */

#include "server/base/clock.h"
#include "server/funnel/group.h"
#include "tests/unit/group_bed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the ordinary group ---- */

static void test_one_group_one_commit(void **state)
{
	uint64_t before = store_commit_no(bed.store);
	struct request *requests[10];
	(void)state;
	for (int i = 0; i < 10; i++) {
		requests[i] = insert(i);
		requests[i]->received_us = bed_now_us;
	}
	bed_now_us += 50;
	assert_int_equal(run(), 0);
	assert_int_equal(result.batches, 10);
	assert_int_equal(result.commits, 1);
	assert_int_equal(result.replays, 0);
	for (int i = 0; i < 10; i++) {
		is_ok(requests[i]);
		assert_int_equal(requests[i]->commit_no, before + 1);
		assert_int_equal(requests[i]->group, 10);
		assert_int_equal(requests[i]->taken_us - requests[i]->received_us, 50);
	}
	assert_int_equal(store_commit_no(bed.store), before + 1);
	assert_int_equal(count_of("t"), 10);
	/* Nothing waits: nothing happens. */
	assert_int_equal(run(), 0);
	assert_int_equal(result.batches, 0);
	assert_int_equal(result.commits, 0);
	assert_int_equal(store_commit_no(bed.store), before + 1);
}

static void test_readers_alone_take_no_number(void **state)
{
	uint64_t before = store_commit_no(bed.store);
	(void)state;
	struct request *select = push(batch("SELECT count(*) FROM t"));
	struct request *failing = push(batch("SELECT * FROM nowhere"));
	assert_int_equal(run(), 0);
	is_ok(select);
	is_failed(failing, FAILURE_SQL, SQLITE_ERROR);
	assert_int_equal(select->commit_no, before);
	assert_int_equal(result.commits, 0);
	assert_int_equal(store_commit_no(bed.store), before);
	/* With a seq it is remembered, and that is a commit. */
	push(with_seq(batch("SELECT 1"), 1));
	assert_int_equal(run(), 0);
	assert_int_equal(store_commit_no(bed.store), before + 1);
}

static void test_a_failed_batch_leaves_the_others_alone(void **state)
{
	static const char *const failures[] = {
		"INSERT INTO t VALUES (1)",
		"INSERT INTO t VALUES (50), (1)",
		"INSERT INTO t VALUES (50)\nINSERT INTO t VALUES (1)",
		"INSERT INTO t VALUES (50)\nSELECT * FROM nowhere",
		"INSERT INTO t VALUES (50)\nCREATE TABLE x(a)\nINSERT INTO x VALUES (1)\nnonsense",
		"INSERT OR FAIL INTO t VALUES (50), (1)",
		"INSERT OR REPLACE INTO plain VALUES (50), ('abc')",
		"INSERT INTO plain VALUES (50)\nDELETE FROM plain RETURNING abs(a - 9223372036854775807 - 51)",
		"INSERT INTO c VALUES (99)",
		"INSERT INTO c VALUES (99)\nSELECT 1",
		"INSERT INTO t VALUES (50)\nCOMMIT",
	};
	(void)state;
	insert(1);
	assert_int_equal(run(), 0);
	int64_t rows = 1;
	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
		struct request *before = insert(100 + (int)i * 2);
		struct request *bad = push(batch(failures[i]));
		struct request *after = insert(101 + (int)i * 2);
		assert_int_equal(run(), 0);
		is_ok(before);
		is_ok(after);
		if (bad->outcome != OUTCOME_FAILED) {
			fail_msg("%s did not fail", failures[i]);
		}
		assert_int_equal(bad->failure.applied, APPLIED_NO);
		assert_false(bad->failure.retry);
		/* A batch of several steps has its savepoint: it costs nobody a second run. */
		assert_true(strchr(failures[i], '\n') == NULL || result.replays == 0);
		rows += 2;
		assert_int_equal(count_of("t"), rows);
		assert_int_equal(count_of("plain"), 0);
		assert_int_equal(count_of("c"), 0);
		assert_int_equal(after->commit_no, before->commit_no);
	}
}

static void test_the_step_that_failed_is_named(void **state)
{
	(void)state;
	struct request *third = push(batch("SELECT 1\nSELECT 2\nINSERT INTO t VALUES (1), (1)"));
	struct request *deferred = push(batch("INSERT INTO c VALUES (99)\nSELECT 1"));
	struct request *guard = batch("SELECT 1\nUPDATE t SET a = 1");
	guard->steps[1].expect_changes = 7;
	push(guard);
	struct request *denied = batch("SELECT 1\nINSERT INTO t VALUES (5)");
	denied->credentials = credentials_ref(&reader);
	push(denied);
	assert_int_equal(run(), 0);
	is_failed(third, FAILURE_SQL, SQLITE_CONSTRAINT_PRIMARYKEY);
	assert_int_equal(third->failure.step, 2);
	assert_int_equal(third->failure.row, -1);
	is_failed(deferred, FAILURE_SQL, SQLITE_CONSTRAINT_FOREIGNKEY);
	assert_int_equal(deferred->failure.step, -1);
	assert_int_equal(guard->failure.code, FAILURE_GUARD);
	assert_int_equal(guard->failure.step, 1);
	assert_int_equal(denied->failure.code, FAILURE_DENIED);
	assert_int_equal(denied->failure.step, 1);
	assert_non_null(strstr(denied->failure.message, "uid 2"));
}

/* ---- exactly once ---- */

static void test_repeats(void **state)
{
	(void)state;
	struct request *first = push(with_seq(batch("INSERT INTO t VALUES (1)"), 1));
	struct request *twin = push(with_seq(batch("INSERT INTO t VALUES (1)"), 1));
	assert_int_equal(run(), 0);
	is_ok(first);
	assert_int_equal(twin->outcome, OUTCOME_REPEAT);
	assert_int_equal(twin->commit_no, first->commit_no);
	assert_int_equal(twin->payload.len, first->payload.len);
	assert_memory_equal(twin->payload.data, first->payload.data, first->payload.len);
	uint64_t commits = store_commit_no(bed.store);
	/* Later, and after a restart; a repeat alone takes no number. */
	for (int i = 0; i < 2; i++) {
		struct request *again = push(with_seq(batch("INSERT INTO t VALUES (1)"), 1));
		assert_int_equal(run(), 0);
		assert_int_equal(again->outcome, OUTCOME_REPEAT);
		assert_int_equal(again->commit_no, first->commit_no);
		assert_int_equal(store_commit_no(bed.store), commits);
		bed_reopen(&bed);
		commits++; /* the start */
	}
	assert_int_equal(count_of("t"), 1);
	struct request *other = push(with_seq(batch("INSERT INTO t VALUES (2)"), 1));
	assert_int_equal(run(), 0);
	is_failed(other, FAILURE_KEY_MISMATCH, 0);
}

static void test_failures_are_remembered(void **state)
{
	static const char sql[] = "INSERT INTO plain VALUES (1)\nINSERT INTO t VALUES (1)";
	(void)state;
	insert(1);
	struct request *failed = push(with_seq(batch(sql), 1));
	assert_int_equal(run(), 0);
	is_failed(failed, FAILURE_SQL, SQLITE_CONSTRAINT_PRIMARYKEY);
	/* What would work now still has the answer that it had. */
	push(batch("DELETE FROM t"));
	struct request *again = push(with_seq(batch(sql), 1));
	assert_int_equal(run(), 0);
	assert_int_equal(again->outcome, OUTCOME_REPEAT);
	assert_int_equal(again->payload.data[0], PAYLOAD_ERROR);
	assert_int_equal(count_of("plain"), 0);
}

static void test_failures_that_may_go_away_are_not_remembered(void **state)
{
	static const char sql[] = "INSERT INTO plain WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
				  "SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n";
	(void)state;
	struct request *late = with_seq(batch("INSERT INTO t VALUES (1)"), 1);
	late->deadline_us = bed_now_us;
	push(late);
	limits.exec_timeout_us = 1000;
	bed_tick_us = 10;
	struct request *slow = push(with_seq(batch(sql), 2));
	slow->deadline_us = UINT64_MAX;
	assert_int_equal(run(), 0);
	bed_tick_us = 0;
	is_failed(late, FAILURE_DEADLINE, 5);
	assert_int_equal(slow->failure.code, FAILURE_DEADLINE);
	struct request *again = push(with_seq(batch("INSERT INTO t VALUES (1)"), 1));
	struct request *faster = push(with_seq(batch(sql), 2));
	assert_int_equal(run(), 0);
	is_ok(again);
	is_ok(faster);
	assert_int_equal(count_of("t"), 1);
}

/* A large answer goes out whole the first time and is kept without its rows. */
static void test_large_answers_are_kept_without_rows(void **state)
{
	static const char sql[] =
		"INSERT INTO plain WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
		"LIMIT 20000) SELECT i FROM n RETURNING a";
	(void)state;
	struct request *first = push(with_seq(batch(sql), 1));
	assert_int_equal(run(), 0);
	is_ok(first);
	assert_true(first->payload.len > PAYLOAD_STORED_MAX);
	struct request *again = push(with_seq(batch(sql), 1));
	assert_int_equal(run(), 0);
	assert_int_equal(again->outcome, OUTCOME_REPEAT);
	assert_int_equal(again->payload.data[0], PAYLOAD_STEPS_CUT);
	assert_true(again->payload.len < 100);
	assert_int_equal(count_of("plain"), 20000);
}

/* ---- limits ---- */

static void test_the_group_has_limits(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++) {
		insert(i);
	}
	limits.count_max = 4;
	assert_int_equal(run(), 0);
	assert_int_equal(result.batches, 4);
	assert_int_equal(queue_facts(queue).count, 6);
	assert_int_equal(queue_facts(queue).taken, 0);
	limits.count_max = 1000;
	limits.bytes_max = 1;
	assert_int_equal(run(), 0);
	assert_int_equal(result.batches, 1); /* one always goes */
	limits.bytes_max = 1 << 20;
	limits.time_max_us = 100;
	bed_tick_us = 30; /* each look at the clock */
	assert_int_equal(run(), 0);
	bed_tick_us = 0;
	assert_true(result.batches >= 1 && result.batches < 5);
	limits.time_max_us = 1000000;
	assert_int_equal(run(), 0);
	assert_int_equal(count_of("t"), 10);
	assert_int_equal(queue_facts(queue).taken, 0);
}

static void test_rows_and_bytes_of_answers_are_limited(void **state)
{
	static const char five[] = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
				   "LIMIT 5) SELECT i FROM n";
	(void)state;
	limits.rows_max = 4;
	struct request *many = push(batch(five));
	struct request *own = batch(five);
	own->steps[0].rows_max = 1000; /* a client cannot raise the daemon's limit */
	push(own);
	struct request *cut = batch(five);
	cut->steps[0].truncate = true;
	push(cut);
	assert_int_equal(run(), 0);
	is_failed(many, FAILURE_TOO_LARGE, 0);
	is_failed(own, FAILURE_TOO_LARGE, 0);
	is_ok(cut);
	limits.rows_max = 1000;
	limits.result_bytes_max = 2000;
	struct request *large =
		push(batch("INSERT INTO plain VALUES (1)\nSELECT randomblob(3000)"));
	struct request *small = push(batch("SELECT randomblob(1000)"));
	assert_int_equal(run(), 0);
	is_failed(large, FAILURE_TOO_LARGE, 0);
	assert_int_equal(large->failure.step, 1);
	is_ok(small);
	assert_int_equal(count_of("plain"), 0);
}

static void test_deadlines(void **state)
{
	(void)state;
	struct request *late = insert(1);
	late->deadline_us = bed_now_us;
	struct request *good = insert(2);
	good->deadline_us = bed_now_us + 1;
	assert_int_equal(run(), 0);
	is_failed(late, FAILURE_DEADLINE, 5);
	assert_true(late->failure.retry);
	is_ok(good);
	assert_int_equal(count_of("t"), 1);
}

/* ---- another process, and describe ---- */

static void test_busy_gives_everything_back(void **state)
{
	sqlite3 *other = NULL;
	(void)state;
	struct request *first = insert(1);
	struct request *second = push(with_seq(batch("INSERT INTO t VALUES (2)"), 1));
	assert_int_equal(sqlite3_open(bed.path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(run(), GROUP_BUSY);
		assert_int_equal(queue_facts(queue).count, 2);
		assert_int_equal(queue_facts(queue).taken, 0);
		assert_int_equal(first->outcome, OUTCOME_OPEN);
	}
	assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(other);
	assert_int_equal(run(), 0);
	is_ok(first);
	is_ok(second);
	assert_int_equal(count_of("t"), 2);
}

/* Behind a brief group the order may be another, and what a killer failed by may come to nothing. */
static void test_what_is_given_back_has_not_failed(void **state)
{
	const struct group_limits wide = limits;
	(void)state;
	limits.brief = true;
	struct request *first = insert(5);
	struct request *killer = push(with_seq(batch("INSERT OR ROLLBACK INTO t VALUES (5)"), 1));
	assert_int_equal(run(), GROUP_LONG);
	assert_int_equal(killer->outcome, OUTCOME_OPEN);
	limits = wide;
	first->deadline_us = bed_now_us;
	assert_int_equal(run(), 0);
	is_failed(first, FAILURE_DEADLINE, SQLITE_BUSY);
	is_ok(killer);
	assert_int_equal(count_of("t"), 1);
}

/* A brief group is done at once or not at all; what it gives back loses nothing by it. */
static void test_a_brief_group(void **state)
{
	static const char slow_sql[] =
		"INSERT INTO plain WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
		"SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n";
	uint64_t before = store_commit_no(bed.store);
	const struct group_limits wide = limits;
	(void)state;
	limits.brief = true;
	limits.exec_timeout_us = 1000;
	struct request *quick = insert(1);
	assert_int_equal(run(), 0);
	is_ok(quick);

	struct request *first = push(with_seq(batch("INSERT INTO t VALUES (2)"), 1));
	struct request *slow = push(with_seq(batch(slow_sql), 2));
	bed_tick_us = 10;
	assert_int_equal(run(), GROUP_LONG);
	bed_tick_us = 0;
	assert_int_equal(queue_facts(queue).count, 2);
	assert_int_equal(queue_facts(queue).taken, 0);
	assert_int_equal(first->outcome, OUTCOME_OPEN);
	assert_int_equal(slow->outcome, OUTCOME_OPEN);
	assert_false(slow->offended);
	assert_int_equal(store_commit_no(bed.store), before + 1);
	assert_int_equal(count_of("t"), 1);

	limits = wide;
	assert_int_equal(run(), 0);
	is_ok(first);
	is_ok(slow);

	limits.brief = true;
	struct request *killer = push(batch("INSERT INTO harsh VALUES (1)"));
	assert_int_equal(run(), GROUP_LONG);
	limits = wide;
	assert_int_equal(run(), 0);
	is_failed(killer, FAILURE_SQL, SQLITE_CONSTRAINT_UNIQUE);
	assert_int_equal(count_of("t"), 2);
	assert_int_equal(count_of("plain"), 100000);
	assert_int_equal(store_commit_no(bed.store), before + 2);
}

static void test_describe_and_bye(void **state)
{
	void *room = NULL;
	uint64_t before = store_commit_no(bed.store);
	(void)state;
	struct request *describe = batch("SELECT a, ? FROM t; SELECT 2");
	describe->kind = REQUEST_DESCRIBE;
	push(describe);
	struct request *wrong = batch("nonsense");
	wrong->kind = REQUEST_DESCRIBE;
	push(wrong);
	struct request *bye = request_new(REQUEST_BYE, 0, &room);
	bye->credentials = credentials_ref(&writer);
	bye->class = CLASS_NORMAL;
	bye->deadline_us = UINT64_MAX;
	push(bye);
	assert_int_equal(run(), 0);
	assert_int_equal(describe->outcome, OUTCOME_OK);
	assert_int_equal(describe->payload.data[0], PAYLOAD_RESULT);
	is_failed(wrong, FAILURE_SQL, SQLITE_ERROR);
	assert_int_equal(bye->outcome, OUTCOME_OK);
	assert_int_equal(store_commit_no(bed.store), before);
}

/* Schema changes in a group: the next batch sees them, and a failed one's are gone. */
static void test_schema_changes_in_a_group(void **state)
{
	(void)state;
	struct request *requests[] = {
		push(batch("CREATE TABLE fresh(x)")),
		push(batch("INSERT INTO fresh VALUES (1)")),
		push(batch("ALTER TABLE fresh ADD COLUMN y\nnonsense")),
		push(batch("INSERT INTO fresh VALUES (2)")),
		push(batch(
			"CREATE TRIGGER g AFTER INSERT ON fresh BEGIN SELECT RAISE(ROLLBACK, 'no') "
			"WHERE NEW.x = 3; END")),
		push(batch("INSERT INTO fresh VALUES (3)")),
		push(batch("INSERT INTO fresh VALUES (4)")),
	};
	assert_int_equal(run(), 0);
	for (size_t i = 0; i < 7; i++) {
		if (i == 2 || i == 5) {
			assert_int_equal(requests[i]->outcome, OUTCOME_FAILED);
		} else {
			is_ok(requests[i]);
		}
	}
	is_failed(requests[5], FAILURE_SQL, SQLITE_CONSTRAINT_TRIGGER);
	assert_int_equal(bed_number(bed.store, "SELECT sum(x) FROM fresh"), 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		GROUP_TEST(test_one_group_one_commit),
		GROUP_TEST(test_readers_alone_take_no_number),
		GROUP_TEST(test_a_failed_batch_leaves_the_others_alone),
		GROUP_TEST(test_the_step_that_failed_is_named),
		GROUP_TEST(test_repeats),
		GROUP_TEST(test_failures_are_remembered),
		GROUP_TEST(test_failures_that_may_go_away_are_not_remembered),
		GROUP_TEST(test_large_answers_are_kept_without_rows),
		GROUP_TEST(test_the_group_has_limits),
		GROUP_TEST(test_rows_and_bytes_of_answers_are_limited),
		GROUP_TEST(test_deadlines),
		GROUP_TEST(test_busy_gives_everything_back),
		GROUP_TEST(test_what_is_given_back_has_not_failed),
		GROUP_TEST(test_a_brief_group),
		GROUP_TEST(test_describe_and_bye),
		GROUP_TEST(test_schema_changes_in_a_group),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
