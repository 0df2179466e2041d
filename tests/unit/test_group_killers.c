/* SPDX-License-Identifier: MIT */

/*
 * Batches that cost the others their transaction: whatever one does to it, each of the others gets the
 * answer that it would have got alone, exactly once.
 */

#include "server/funnel/group.h"
#include "tests/unit/group_bed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- group killers ---- */

static const struct {
	const char *name;
	const char *sql;
	int sqlite;
} killers[] = {
	{"or rollback", "INSERT OR ROLLBACK INTO t VALUES (1)", SQLITE_CONSTRAINT_PRIMARYKEY},
	{"on conflict rollback", "INSERT INTO harsh VALUES (2), (1)", SQLITE_CONSTRAINT_UNIQUE},
	{"raise rollback", "INSERT INTO watched VALUES (1)", SQLITE_CONSTRAINT_TRIGGER},
	{"in its second step", "INSERT INTO plain VALUES (5)\nINSERT OR ROLLBACK INTO t VALUES (1)",
		SQLITE_CONSTRAINT_PRIMARYKEY},
	{"update or rollback", "UPDATE OR ROLLBACK t SET a = 1", SQLITE_CONSTRAINT_ROWID},
};
enum { KILLERS = sizeof(killers) / sizeof(killers[0]) };

/* Each killer at each place of a group, alone and with others of its kind. */
static void test_group_killers(void **state)
{
	enum { GROUP = 7 };
	int value = 1000;
	int64_t rows = 2;
	(void)state;
	insert(1);
	insert(2);
	assert_int_equal(run(), 0);
	for (size_t k = 0; k < KILLERS; k++) {
		for (unsigned places = 1; places < 1u << GROUP;
			places = places * 2 + (places % 5 == 0)) {
			struct request *requests[GROUP];
			uint64_t before = store_commit_no(bed.store);
			for (unsigned i = 0; i < GROUP; i++) {
				bool killer = (places >> i & 1) != 0;
				requests[i] =
					killer ? push(batch(killers[k].sql)) : insert(value++);
				rows += !killer;
			}
			assert_int_equal(run(), 0);
			for (unsigned i = 0; i < GROUP; i++) {
				if ((places >> i & 1) == 0) {
					is_ok(requests[i]);
					continue;
				}
				assert_int_equal(requests[i]->outcome, OUTCOME_FAILED);
				assert_int_equal(requests[i]->failure.code, FAILURE_SQL);
				assert_int_equal(requests[i]->failure.applied, APPLIED_NO);
				assert_false(requests[i]->failure.retry);
			}
			if (count_of("t") != rows || count_of("plain") != 0) {
				fail_msg("%s, places %x", killers[k].name, places);
			}
			assert_true(result.replays >= 1);
			assert_true(store_commit_no(bed.store) > before);
			assert_int_equal(result.batches, GROUP);
		}
	}
}

static void test_one_killer_costs_one_replay(void **state)
{
	uint64_t before = store_commit_no(bed.store);
	(void)state;
	insert(1);
	struct request *killer = push(batch("INSERT INTO plain VALUES (1)\n"
					    "INSERT OR ROLLBACK INTO t VALUES (1)"));
	insert(2);
	insert(3);
	assert_int_equal(run(), 0);
	assert_int_equal(result.replays, 1);
	assert_int_equal(result.commits, 1);
	assert_true(killer->condemned);
	is_failed(killer, FAILURE_SQL, SQLITE_CONSTRAINT_PRIMARYKEY);
	assert_int_equal(killer->failure.step, 1);
	assert_int_equal(store_commit_no(bed.store), before + 1);
}

/* Two of them: the second is met in the replay, and the rest run one by one. */
static void test_two_killers_make_everybody_run_alone(void **state)
{
	uint64_t before = store_commit_no(bed.store);
	struct request *good[4];
	(void)state;
	good[0] = insert(1);
	push(batch("INSERT OR ROLLBACK INTO t VALUES (1)"));
	good[1] = insert(2);
	push(batch("INSERT OR ROLLBACK INTO t VALUES (2)"));
	good[2] = insert(3);
	good[3] = insert(4);
	assert_int_equal(run(), 0);
	assert_int_equal(result.replays, 2);
	for (size_t i = 0; i < 4; i++) {
		is_ok(good[i]);
		assert_int_equal(good[i]->group, 1);
		assert_int_equal(good[i]->commit_no, before + 1 + i); /* a commit each, in order */
	}
	assert_int_equal(result.commits, 4);
	assert_int_equal(count_of("t"), 4);
}

/* What a killer did not do alone, it is not charged with: its row is there only with the others. */
static void test_a_killer_that_is_innocent_alone(void **state)
{
	(void)state;
	struct request *first = insert(5);
	struct request *killer = push(batch("INSERT OR ROLLBACK INTO t VALUES (5)"));
	assert_int_equal(run(), 0);
	is_ok(first); /* it came first, so it wins */
	is_failed(killer, FAILURE_SQL, SQLITE_CONSTRAINT_PRIMARYKEY);
	assert_int_equal(count_of("t"), 1);
}

/* A condition that takes many looks at the clock. */
#define LATER                                                                                      \
	" WHERE (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) "    \
	"SELECT count(*) FROM n)"

/* Nor what stands there no more: when the transaction is run again, the first one comes too late. */
static void test_a_failure_does_not_outlive_its_reason(void **state)
{
	(void)state;
	struct request *first = insert(5);
	struct request *killer =
		push(with_seq(batch("INSERT OR ROLLBACK INTO t SELECT 5" LATER), 1));
	first->deadline_us = bed_now_us + 500;
	bed_tick_us = 1;
	assert_int_equal(run(), 0);
	bed_tick_us = 0;
	assert_int_equal(result.replays, 1);
	is_failed(first, FAILURE_DEADLINE, SQLITE_BUSY);
	is_ok(killer);
	assert_int_equal(count_of("t"), 1);
}

/* The same where everybody runs alone: it comes too late only then. */
static void test_a_failure_does_not_outlive_its_reason_alone(void **state)
{
	(void)state;
	struct request *good = insert(4);
	struct request *first = insert(5);
	struct request *killer = push(batch("INSERT OR ROLLBACK INTO t VALUES (5)"));
	struct request *guilty = push(batch("INSERT OR ROLLBACK INTO t SELECT 4" LATER));
	first->deadline_us = bed_now_us + 500;
	bed_tick_us = 1;
	assert_int_equal(run(), 0);
	bed_tick_us = 0;
	assert_int_equal(result.replays, 2);
	is_ok(good);
	is_failed(first, FAILURE_DEADLINE, SQLITE_BUSY);
	is_ok(killer);
	is_failed(guilty, FAILURE_SQL, SQLITE_CONSTRAINT_PRIMARYKEY);
	assert_int_equal(count_of("t"), 2);
}

static void test_an_interrupted_write_is_a_killer(void **state)
{
	(void)state;
	struct request *good = insert(1);
	struct request *endless = push(batch("INSERT INTO plain WITH RECURSIVE n(i) AS (SELECT 1 "
					     "UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"));
	struct request *also = insert(2);
	limits.exec_timeout_us = 100000;
	bed_tick_us = 10;
	assert_int_equal(run(), 0);
	bed_tick_us = 0;
	is_ok(good);
	is_ok(also);
	assert_int_equal(endless->outcome, OUTCOME_FAILED);
	assert_int_equal(endless->failure.code, FAILURE_DEADLINE);
	assert_int_equal(endless->failure.applied, APPLIED_NO);
	assert_int_equal(count_of("plain"), 0);
	assert_int_equal(count_of("t"), 2);
}

static void test_an_interrupted_reader_is_not(void **state)
{
	(void)state;
	insert(1);
	struct request *endless = push(batch("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT "
					     "i + 1 FROM n) SELECT count(*) FROM n"));
	insert(2);
	limits.exec_timeout_us = 100000;
	bed_tick_us = 10;
	assert_int_equal(run(), 0);
	bed_tick_us = 0;
	assert_int_equal(endless->failure.code, FAILURE_DEADLINE);
	assert_int_equal(result.replays, 0);
	assert_int_equal(count_of("t"), 2);
}

/* One that is too large for the limit of the file fails alone, for good, and the others go on. */
static void test_a_full_file(void **state)
{
	(void)state;
	struct request *good = insert(1);
	struct request *large = push(batch("INSERT INTO plain VALUES (1)\n"
					   "CREATE TABLE blobs AS SELECT zeroblob(1000000) AS b"));
	struct request *also = insert(2);
	char limit[64];
	(void)snprintf(limit, sizeof(limit), "PRAGMA max_page_count = %lld",
		(long long)bed_number(bed.store, "PRAGMA page_count") + 20);
	assert_int_equal(own_exec(bed.store, limit), SQLITE_OK);
	assert_int_equal(run(), 0);
	assert_int_equal(own_exec(bed.store, "PRAGMA max_page_count = 1000000"), SQLITE_OK);
	is_ok(good);
	is_ok(also);
	assert_int_equal(large->outcome, OUTCOME_FAILED);
	assert_false(large->failure.retry); /* it is the file's limit, not the disk's */
	assert_int_equal(large->failure.applied, APPLIED_NO);
	assert_int_equal(count_of("t"), 2);
	assert_int_equal(count_of("plain"), 0);
}

/* A killer with a seq: its failure is remembered in the commit of the others. */
static void test_a_condemned_batch_is_remembered(void **state)
{
	(void)state;
	insert(1);
	struct request *killer = push(with_seq(batch("INSERT OR ROLLBACK INTO t VALUES (1)"), 1));
	struct request *twin = push(with_seq(batch("INSERT OR ROLLBACK INTO t VALUES (1)"), 1));
	insert(2);
	assert_int_equal(run(), 0);
	is_failed(killer, FAILURE_SQL, SQLITE_CONSTRAINT_PRIMARYKEY);
	assert_int_equal(twin->outcome, OUTCOME_REPEAT);
	bed_reopen(&bed);
	push(batch("DELETE FROM t"));
	struct request *again = push(with_seq(batch("INSERT OR ROLLBACK INTO t VALUES (1)"), 1));
	assert_int_equal(run(), 0);
	assert_int_equal(again->outcome, OUTCOME_REPEAT);
	assert_int_equal(again->payload.data[0], PAYLOAD_ERROR);
	assert_int_equal(count_of("t"), 0);
}

/* Repeats, keyed batches, byes and killers in one group: each seq is applied once. */
static void test_repeats_among_killers(void **state)
{
	(void)state;
	push(with_seq(batch("INSERT INTO plain VALUES (1)"), 1));
	assert_int_equal(run(), 0);
	void *room = NULL;
	struct request *bye = request_new(REQUEST_BYE, 0, &room);
	struct request *repeat = push(with_seq(batch("INSERT INTO plain VALUES (1)"), 1));
	struct request *fresh = push(with_seq(batch("INSERT INTO plain VALUES (2)"), 2));
	push(batch("INSERT OR ROLLBACK INTO t VALUES (1), (1)"));
	struct request *again = push(with_seq(batch("INSERT INTO plain VALUES (2)"), 2));
	push(batch("INSERT OR ROLLBACK INTO t VALUES (2), (2)"));
	bye->credentials = credentials_ref(&writer);
	bye->class = CLASS_NORMAL;
	bye->deadline_us = UINT64_MAX;
	bye->identity = repeat->identity;
	push(bye);
	push(batch("INSERT OR ROLLBACK INTO t VALUES (3), (3)"));
	assert_int_equal(run(), 0);
	assert_int_equal(repeat->outcome, OUTCOME_REPEAT);
	is_ok(fresh);
	assert_int_equal(again->outcome, OUTCOME_REPEAT);
	assert_int_equal(bye->outcome, OUTCOME_OK);
	assert_int_equal(bye->payload.data[0], PAYLOAD_RESULT);
	assert_int_equal(count_of("plain"), 2);
}

/* ---- random groups beside the same batches alone ---- */

static const char *const pool[] = {
	"INSERT INTO t VALUES (%d)",
	"INSERT INTO t VALUES (%d), (%d)",
	"INSERT INTO plain VALUES (%d)\nINSERT INTO t VALUES (%d)",
	"INSERT OR ROLLBACK INTO t VALUES (%d)",
	"INSERT OR FAIL INTO t VALUES (%d), (%d)",
	"INSERT OR REPLACE INTO plain VALUES (%d), ('x')",
	"INSERT INTO harsh VALUES (%d), (%d)",
	"INSERT INTO watched VALUES (%d %% 5)",
	"INSERT INTO c VALUES (%d)",
	"INSERT INTO p VALUES (%d)",
	"DELETE FROM t WHERE a = %d RETURNING a",
	"UPDATE t SET a = a + 1 WHERE a > %d",
	"SELECT changes(), last_insert_rowid(), count(*), %d FROM t",
	"DELETE FROM p WHERE a = %d",
};

/* The pool's text with its numbers put in. */
static void text_of(unsigned *seed, char *text, size_t size)
{
	const char *form = pool[(unsigned)rand_r(seed) % (sizeof(pool) / sizeof(pool[0]))];
	size_t len = 0;
	for (; *form != 0 && len + 8 < size; form++) {
		if (form[0] == '%' && form[1] == 'd') {
			len += (size_t)snprintf(text + len, size - len, "%d", rand_r(seed) % 20);
			form++;
		} else if (form[0] == '%') {
			text[len++] = '%';
			form++;
		} else {
			text[len++] = *form;
		}
	}
	text[len] = 0;
}

static void test_a_group_answers_as_each_alone(void **state)
{
	enum { GROUPS = 60, SIZE = 12 };
	struct bed twin;
	unsigned seed = 2024;
	(void)state;
	bed_make(&twin);
	bed_script(twin.store,
		bed_text(bed.store,
			"SELECT group_concat(sql, ';') FROM sqlite_schema "
			"WHERE name NOT LIKE '~_lf~_%' ESCAPE '~' "
			"AND sql IS NOT NULL"));
	bed_script(twin.store, "INSERT INTO harsh VALUES (1); INSERT INTO p VALUES (1)");
	struct store *together = bed.store;
	for (int round = 0; round < GROUPS; round++) {
		char texts[SIZE][256];
		struct request *grouped[SIZE];
		struct request *alone[SIZE];
		for (int i = 0; i < SIZE; i++) {
			text_of(&seed, texts[i], sizeof(texts[i]));
			grouped[i] = push(batch(texts[i]));
		}
		assert_int_equal(run(), 0);
		bed.store = twin.store;
		for (int i = 0; i < SIZE; i++) {
			alone[i] = push(batch(texts[i]));
			assert_int_equal(run(), 0);
		}
		bed.store = together;
		for (int i = 0; i < SIZE; i++) {
			bool same = grouped[i]->outcome == alone[i]->outcome &&
				grouped[i]->failure.code == alone[i]->failure.code &&
				grouped[i]->failure.sqlite == alone[i]->failure.sqlite &&
				grouped[i]->failure.step == alone[i]->failure.step &&
				(grouped[i]->outcome == OUTCOME_FAILED ||
					(grouped[i]->payload.len == alone[i]->payload.len &&
						memcmp(grouped[i]->payload.data,
							alone[i]->payload.data,
							alone[i]->payload.len) == 0));
			if (!same) {
				fail_msg("round %d, batch %d: %s: %d %d, alone %d %d", round, i,
					texts[i], grouped[i]->outcome, grouped[i]->failure.sqlite,
					alone[i]->outcome, alone[i]->failure.sqlite);
			}
		}
		char *here = bed_dump(bed.store);
		char *there = bed_dump(twin.store);
		assert_string_equal(here, there);
		free(here);
		free(there);
	}
	bed_remove(&twin);
}

/* What an attempt heard of `done` is not heard yet when the group runs again. */
static void test_done_is_said_in_its_place(void **state)
{
	(void)state;
	struct request *first = push(with_seq(batch("INSERT INTO plain VALUES (1)"), 1));
	assert_int_equal(run(), 0);
	is_ok(first);
	struct request *repeat = push(with_seq(batch("INSERT INTO plain VALUES (1)"), 1));
	struct request *next = with_seq(batch("INSERT INTO plain VALUES (2)"), 2);
	next->identity.done = 1;
	push(next);
	push(batch("INSERT OR ROLLBACK INTO t VALUES (1), (1)"));
	assert_int_equal(run(), 0);
	assert_true(result.replays > 0);
	struct request *late = push(with_seq(batch("INSERT INTO plain VALUES (1)"), 1));
	assert_int_equal(run(), 0);
	assert_int_equal(repeat->outcome, OUTCOME_REPEAT);
	is_ok(next);
	assert_int_equal(late->outcome, OUTCOME_FAILED);
	assert_int_equal(late->failure.code, FAILURE_SESSION_EXPIRED);
	assert_int_equal(dedupe_stats(store_dedupe(bed.store)).replies, 1);
	assert_int_equal(count_of("plain"), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		GROUP_TEST(test_group_killers),
		GROUP_TEST(test_one_killer_costs_one_replay),
		GROUP_TEST(test_two_killers_make_everybody_run_alone),
		GROUP_TEST(test_a_killer_that_is_innocent_alone),
		GROUP_TEST(test_a_failure_does_not_outlive_its_reason),
		GROUP_TEST(test_a_failure_does_not_outlive_its_reason_alone),
		GROUP_TEST(test_an_interrupted_write_is_a_killer),
		GROUP_TEST(test_an_interrupted_reader_is_not),
		GROUP_TEST(test_a_full_file),
		GROUP_TEST(test_a_condemned_batch_is_remembered),
		GROUP_TEST(test_repeats_among_killers),
		GROUP_TEST(test_done_is_said_in_its_place),
		GROUP_TEST(test_a_group_answers_as_each_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
