/* SPDX-License-Identifier: MIT */

/* When commits were made: never later than they were, and nearly then. */

#include "server/funnel/commit_clock.h"
#include "tests/unit/cmocka_all.h"

enum { START_US = 1000000, STEP_US = 10000, COMMITS = 200000 };

/* Below the limit; the same in each run. */
static uint64_t draw(uint64_t *state, uint64_t limit)
{
	*state = *state * 6364136223846793005U + 1442695040888963407U;
	return (*state >> 33) % limit;
}

static uint64_t age(const struct commit_clock *clock, uint64_t commit_no, uint64_t now_us)
{
	bool known = false;
	uint64_t us = commit_clock_age(clock, commit_no, now_us, &known);
	assert_true(known);
	return us;
}

static void test_before_the_start_nothing_is_known(void **state)
{
	struct commit_clock clock;
	bool known = true;
	(void)state;
	commit_clock_start(&clock, 7, START_US);
	assert_int_equal(commit_clock_age(&clock, 7, START_US + 500, &known), 500);
	assert_false(known);
	commit_clock_note(&clock, 7, START_US + 600); /* the start says it once more */
	commit_clock_note(&clock, 8, START_US + 700);
	assert_int_equal(age(&clock, 8, START_US + 1000), 300);
	assert_int_equal(commit_clock_age(&clock, 6, START_US + 1000, &known), 1000);
	assert_false(known);
}

static void test_after_a_long_rest_it_is_exact(void **state)
{
	struct commit_clock clock;
	uint64_t hour_us = 3600000000;
	(void)state;
	commit_clock_start(&clock, 0, START_US);
	commit_clock_note(&clock, 1, START_US + 10);
	commit_clock_note(&clock, 2, START_US + 20); /* within the step of the one before */
	commit_clock_note(&clock, 3, START_US + hour_us);
	assert_int_equal(age(&clock, 2, START_US + 30), 20);
	assert_int_equal(age(&clock, 3, START_US + hour_us + 5), 5);
	assert_int_equal(age(&clock, 4, START_US + hour_us + 5), 5);
}

static void test_an_older_commit_begins_another_history(void **state)
{
	struct commit_clock clock;
	bool known = true;
	(void)state;
	commit_clock_start(&clock, 0, START_US);
	commit_clock_note(&clock, 1, START_US + 10);
	commit_clock_note(&clock, 9, START_US + 20 + STEP_US);
	commit_clock_note(&clock, 4, START_US + 30 + STEP_US);
	(void)commit_clock_age(&clock, 4, START_US + 40 + STEP_US, &known);
	assert_false(known);
}

/* However many there were: the older, the less exact, by a share of the age. */
static void test_many_commits(void **state)
{
	static uint64_t at_us[COMMITS + 1];
	static const uint64_t gaps_us[] = {50, 300, 20000, 2000000};
	struct commit_clock clock;
	uint64_t seed = 11;
	uint64_t now_us = START_US;
	(void)state;
	commit_clock_start(&clock, 0, now_us);
	for (uint64_t i = 1; i <= COMMITS; i++) {
		uint64_t kind = draw(&seed, 100);
		now_us += 1 +
			draw(&seed,
				gaps_us[kind < 60           ? 0
						: kind < 95 ? 1
						: kind < 99 ? 2
							    : 3]);
		at_us[i] = now_us;
		commit_clock_note(&clock, i, now_us);
		assert_true(clock.count <= COMMIT_CLOCK_MAX);
		for (int asked = 0; asked < 3; asked++) {
			uint64_t commit = 1 + draw(&seed, i);
			uint64_t true_us = now_us - at_us[commit];
			uint64_t said_us = age(&clock, commit, now_us);
			assert_true(said_us >= true_us);
			assert_true(said_us - true_us <= STEP_US + true_us / 5);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_before_the_start_nothing_is_known),
		cmocka_unit_test(test_after_a_long_rest_it_is_exact),
		cmocka_unit_test(test_an_older_commit_begins_another_history),
		cmocka_unit_test(test_many_commits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
