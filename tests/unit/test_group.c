/* SPDX-License-Identifier: MIT */

/*
 * Commit groups with a real store and a real queue: whatever one batch does to the transaction that
 * it shares, each of the others gets the answer that it would have got alone, exactly once.
 */

#include "server/base/clock.h"
#include "server/funnel/group.h"
#include "tests/unit/bed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct bed bed;
static struct queue *queue;
static struct group_result result;
static struct group_limits limits;
static struct list answered;
static struct credentials writer = {.references = 1000000, .role = ROLE_DDL, .text = "uid 1"};
static struct credentials reader = {.references = 1000000, .role = ROLE_QUERY, .text = "uid 2"};

static void wake(void *ctx)
{
	(void)ctx;
}

/* ---- requests ---- */

enum { STEPS_MAX = 8 };

/* A batch of the statements that a text holds, one on each line. */
static struct request *batch(const char *text)
{
	void *room = NULL;
	size_t len = strlen(text);
	struct request *request =
		request_new(REQUEST_WRITE, STEPS_MAX * sizeof(struct step) + len + 1, &room);
	char *copy = (char *)room + STEPS_MAX * sizeof(struct step);
	memcpy(copy, text, len + 1);
	request->steps = room;
	for (char *line = copy; *line != 0;) {
		char *end = line + strcspn(line, "\n");
		bool last = *end == 0;
		*end = 0;
		request->steps[request->steps_count++] = bed_step_of(line);
		line = last ? end : end + 1;
	}
	request->credentials = credentials_ref(&writer);
	request->class = CLASS_NORMAL;
	request->deadline_us = UINT64_MAX;
	request->received_us = bed_now_us;
	return request;
}

static struct request *with_seq(struct request *request, uint64_t seq)
{
	request->identity = (struct identity){.kind = IDENTITY_SEQ, .uid = 1, .seq = seq};
	request->identity.session[0] = 1;
	request->identity.hash[0] = (uint8_t)request->steps[0].sql_hash;
	return request;
}

static struct request *push(struct request *request)
{
	const struct queue_limits wide = {100000, 1u << 30};
	assert_int_equal(queue_push(queue, request, &wide), 0);
	return request;
}

static struct request *insert(int value)
{
	char sql[64];
	(void)snprintf(sql, sizeof(sql), "INSERT INTO t VALUES (%d)", value);
	return push(batch(sql));
}

/* Runs one group; everything answered stays in `answered` until the end of the test. */
static int run(void)
{
	struct list fresh;
	char *reason = NULL;
	list_init(&fresh);
	int rc = group_run(bed.store, queue, &limits, &fresh, &result, &reason);
	assert_false(store_in_transaction(bed.store));
	queue_answer(queue, &fresh);
	queue_collect(queue, &answered);
	free(reason);
	return rc;
}

static void is_ok(const struct request *request)
{
	if (request->outcome != OUTCOME_OK) {
		fail_msg("%s: outcome %d: %s", (const char *)request->steps[0].sql.data,
			request->outcome,
			request->failure.message != NULL ? request->failure.message : "");
	}
	assert_int_equal(request->payload.data[0], PAYLOAD_STEPS);
}

static void is_failed(const struct request *request, enum failure_code code, int sqlite)
{
	if (request->outcome != OUTCOME_FAILED || request->failure.code != code ||
		request->failure.sqlite != sqlite) {
		fail_msg("%s: outcome %d, %s %d %s", (const char *)request->steps[0].sql.data,
			request->outcome, failure_code_name(request->failure.code),
			request->failure.sqlite,
			request->failure.message != NULL ? request->failure.message : "");
	}
	assert_int_equal(request->failure.applied, APPLIED_NO);
}

static int64_t count_of(const char *table)
{
	char sql[128];
	(void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s", table);
	return bed_number(bed.store, sql);
}

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

static int set_up(void **state)
{
	(void)state;
	bed_make(&bed);
	bed_script(bed.store,
		"CREATE TABLE t(a INTEGER PRIMARY KEY); CREATE TABLE plain(a INTEGER PRIMARY KEY);"
		"CREATE TABLE harsh(a UNIQUE ON CONFLICT ROLLBACK); INSERT INTO harsh VALUES (1);"
		"CREATE TABLE watched(a); CREATE TRIGGER w BEFORE INSERT ON watched BEGIN "
		"SELECT RAISE(ROLLBACK, 'watched') WHERE NEW.a = 1; END;"
		"CREATE TABLE p(a INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);"
		"CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)");
	limits = (struct group_limits){
		4096, 32 << 20, 1000000000, 1000000000, 4 << 20, 100000, NULL, false};
	list_init(&answered);
	return queue_new(wake, NULL, &queue);
}

static int tear_down(void **state)
{
	(void)state;
	bed_tick_us = 0;
	list_for_each_safe(node, &answered) {
		request_free(container_of(node, struct request, node));
	}
	queue_free(queue);
	bed_remove(&bed);
	return 0;
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_one_group_one_commit),
		TEST(test_readers_alone_take_no_number),
		TEST(test_a_failed_batch_leaves_the_others_alone),
		TEST(test_the_step_that_failed_is_named),
		TEST(test_group_killers),
		TEST(test_one_killer_costs_one_replay),
		TEST(test_two_killers_make_everybody_run_alone),
		TEST(test_a_killer_that_is_innocent_alone),
		TEST(test_a_failure_does_not_outlive_its_reason),
		TEST(test_a_failure_does_not_outlive_its_reason_alone),
		TEST(test_an_interrupted_write_is_a_killer),
		TEST(test_an_interrupted_reader_is_not),
		TEST(test_a_full_file),
		TEST(test_repeats),
		TEST(test_failures_are_remembered),
		TEST(test_failures_that_may_go_away_are_not_remembered),
		TEST(test_a_condemned_batch_is_remembered),
		TEST(test_repeats_among_killers),
		TEST(test_large_answers_are_kept_without_rows),
		TEST(test_the_group_has_limits),
		TEST(test_rows_and_bytes_of_answers_are_limited),
		TEST(test_deadlines),
		TEST(test_busy_gives_everything_back),
		TEST(test_what_is_given_back_has_not_failed),
		TEST(test_a_brief_group),
		TEST(test_describe_and_bye),
		TEST(test_schema_changes_in_a_group),
		TEST(test_a_group_answers_as_each_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
