/* SPDX-License-Identifier: MIT */

/* The system's clocks, and the hands that a test turns. */

#include "server/base/clock.h"
#include "tests/unit/cmocka_all.h"

#include <time.h>

static uint64_t forty_two(void)
{
	return 42;
}

static uint64_t seven(void)
{
	return 7;
}

static void test_the_system_tells_microseconds(void **state)
{
	(void)state;
	struct timespec before;
	struct timespec after;
	clock_gettime(CLOCK_REALTIME, &before);
	uint64_t wall_us = clock_wall_us();
	clock_gettime(CLOCK_REALTIME, &after);
	assert_in_range(wall_us, (uint64_t)before.tv_sec * 1000000,
		(uint64_t)after.tv_sec * 1000000 + 1000000);
	clock_gettime(CLOCK_MONOTONIC, &before);
	uint64_t first_us = clock_now_us();
	uint64_t second_us = clock_now_us();
	assert_true(first_us / 1000000 >= (uint64_t)before.tv_sec);
	assert_true(second_us >= first_us);
}

static void test_a_test_turns_the_hands(void **state)
{
	static const struct clock_source source = {forty_two, seven};
	(void)state;
	clock_set_source(&source);
	assert_int_equal(clock_now_us(), 42);
	assert_int_equal(clock_wall_us(), 7);
	clock_set_source(NULL);
	assert_true(clock_wall_us() > 1000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_system_tells_microseconds),
		cmocka_unit_test(test_a_test_turns_the_hands),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
