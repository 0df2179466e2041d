/* SPDX-License-Identifier: MIT */

/* Whom it pays to wait for: times are made up, the order of events is what counts. */

#include "server/funnel/gather.h"
#include "tests/unit/cmocka_all.h"

enum { PATIENCE = 100, CLIENTS = 4 };

struct bench {
	struct gather gather;
	struct gather_mark marks[CLIENTS];
};

static void begin(struct bench *bench)
{
	gather_init(&bench->gather);
	for (unsigned i = 0; i < CLIENTS; i++) {
		gather_mark_init(&bench->marks[i]);
	}
}

static void test_nobody_is_waited_for_who_was_not_answered(void **state)
{
	struct bench bench;
	(void)state;
	begin(&bench);
	assert_false(gather_waits(&bench.gather, 1000, PATIENCE));
	gather_arrived(&bench.marks[0]);
	assert_false(gather_waits(&bench.gather, 1000, PATIENCE));
}

static void test_whoever_was_answered_is_waited_for_until_it_writes(void **state)
{
	struct bench bench;
	(void)state;
	begin(&bench);
	for (unsigned i = 0; i < CLIENTS; i++) {
		gather_answered(&bench.gather, &bench.marks[i], 1000 + i);
	}
	for (unsigned i = 0; i < CLIENTS; i++) {
		assert_true(gather_waits(&bench.gather, 1050, PATIENCE));
		gather_arrived(&bench.marks[CLIENTS - 1 - i]);
	}
	assert_false(gather_waits(&bench.gather, 1050, PATIENCE));
}

static void test_patience_ends(void **state)
{
	struct bench bench;
	(void)state;
	begin(&bench);
	gather_answered(&bench.gather, &bench.marks[0], 1000);
	gather_answered(&bench.gather, &bench.marks[1], 1060);
	assert_true(gather_waits(&bench.gather, 1099, PATIENCE));
	assert_true(gather_waits(&bench.gather, 1100, PATIENCE)); /* still for the second */
	assert_false(gather_waits(&bench.gather, 1160, PATIENCE));
	gather_answered(&bench.gather, &bench.marks[2], 2000);
	assert_false(gather_waits(&bench.gather, 2000, 0));
}

static unsigned answers_until_waited_for(struct bench *bench, uint64_t *now_us)
{
	for (unsigned count = 1;; count++) {
		*now_us += 1000;
		gather_answered(&bench->gather, &bench->marks[0], *now_us);
		if (gather_waits(&bench->gather, *now_us, PATIENCE)) {
			return count;
		}
	}
}

static void test_who_keeps_us_waiting_is_waited_for_ever_more_rarely(void **state)
{
	struct bench bench;
	uint64_t now_us = 0;
	unsigned before = 0;
	(void)state;
	begin(&bench);
	for (unsigned misses = 0; misses < 20; misses++) {
		unsigned count = answers_until_waited_for(&bench, &now_us);
		assert_true(count >= before);
		assert_true(misses == 0 ? count == 1 : misses > 10 || count > before);
		assert_true(count <= 1025);
		before = count;
		now_us += PATIENCE;
		assert_false(gather_waits(&bench.gather, now_us, PATIENCE)); /* in vain */
	}
	/* One that comes in time at last is trusted like all. */
	(void)answers_until_waited_for(&bench, &now_us);
	gather_arrived(&bench.marks[0]);
	assert_int_equal(answers_until_waited_for(&bench, &now_us), 1);
	assert_false(gather_waits(&bench.gather, now_us + PATIENCE, PATIENCE));
	assert_int_equal(answers_until_waited_for(&bench, &now_us), 3);
}

static void test_who_has_gone_is_not_waited_for(void **state)
{
	struct bench bench;
	(void)state;
	begin(&bench);
	gather_answered(&bench.gather, &bench.marks[0], 1000);
	gather_forget(&bench.marks[0]);
	assert_false(gather_waits(&bench.gather, 1000, PATIENCE));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_is_waited_for_who_was_not_answered),
		cmocka_unit_test(test_whoever_was_answered_is_waited_for_until_it_writes),
		cmocka_unit_test(test_patience_ends),
		cmocka_unit_test(test_who_keeps_us_waiting_is_waited_for_ever_more_rarely),
		cmocka_unit_test(test_who_has_gone_is_not_waited_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
