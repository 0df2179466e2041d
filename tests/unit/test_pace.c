/* SPDX-License-Identifier: MIT */

/* How long groups may execute: where the writer stood still behind one, the next ends earlier. */

#include "server/funnel/pace.h"
#include "tests/unit/cmocka_all.h"

enum { COMMIT = 300, MAX = 100000, USUAL = 5 * COMMIT };

/* A group that executed so long, after the writer had nothing to do for so long. Returns its end. */
static uint64_t group(struct pace *pace, uint64_t now_us, uint64_t idle_us, uint64_t exec_us)
{
	pace_begin(pace, now_us + idle_us, COMMIT);
	now_us += idle_us + exec_us + COMMIT;
	pace_end(pace, now_us, exec_us);
	return now_us;
}

static void test_a_group_is_worth_several_commits(void **state)
{
	struct pace pace = {0};
	(void)state;
	assert_int_equal(pace_limit(&pace, COMMIT, MAX), USUAL);
	assert_int_equal(pace_limit(&pace, COMMIT, 700), 700);
	assert_int_equal(pace_limit(&pace, 10, MAX), 500);
	uint64_t now_us = group(&pace, 1000, 5000, 900); /* the first: behind nothing */
	(void)group(&pace, now_us, 10, 900);             /* behind a full queue */
	assert_int_equal(pace_limit(&pace, COMMIT, MAX), USUAL);
}

static void test_who_stood_still_cuts_groups(void **state)
{
	struct pace pace = {0};
	(void)state;
	uint64_t now_us = group(&pace, 1000, 0, 1000);
	now_us = group(&pace, now_us, COMMIT + 100, 1000);
	assert_int_equal(pace_limit(&pace, COMMIT, MAX), 750);
	assert_int_equal(pace_limit(&pace, COMMIT, 600), 600);
	now_us = group(&pace, now_us, 2 * COMMIT, 400);
	now_us = group(&pace, now_us, 2 * COMMIT, 310);
	(void)group(&pace, now_us, 2 * COMMIT, 310);
	assert_int_equal(pace_limit(&pace, COMMIT, MAX), COMMIT); /* a shorter one does not pay */
}

static void test_groups_grow_again(void **state)
{
	struct pace pace = {0};
	(void)state;
	uint64_t now_us = group(&pace, 1000, 0, 1000);
	now_us = group(&pace, now_us, 2 * COMMIT, 750);
	uint64_t before_us = pace_limit(&pace, COMMIT, MAX);
	unsigned groups = 0;
	for (; pace_limit(&pace, COMMIT, MAX) < USUAL; groups++) {
		now_us = group(&pace, now_us, 0, before_us);
		assert_true(pace_limit(&pace, COMMIT, MAX) > before_us);
		before_us = pace_limit(&pace, COMMIT, MAX);
	}
	assert_in_range(groups, 20, 100);
	assert_int_equal(pace.cut_us, 0);
}

static void test_what_is_no_standstill(void **state)
{
	struct pace pace = {0};
	(void)state;
	uint64_t now_us = group(&pace, 1000, 0, COMMIT - 1);
	now_us = group(&pace, now_us, 2 * COMMIT, 1000);   /* the group was short already */
	now_us = group(&pace, now_us, COMMIT, 1000);       /* the wait was */
	now_us = group(&pace, now_us, 100 * COMMIT, 1000); /* nobody was at work */
	(void)group(&pace, now_us, 0, 1000);
	assert_int_equal(pace_limit(&pace, COMMIT, MAX), USUAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_group_is_worth_several_commits),
		cmocka_unit_test(test_who_stood_still_cuts_groups),
		cmocka_unit_test(test_groups_grow_again),
		cmocka_unit_test(test_what_is_no_standstill),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
