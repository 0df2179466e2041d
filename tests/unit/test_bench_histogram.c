/* SPDX-License-Identifier: MIT */

/* The histogram of the bench, against the sorted values themselves. */

#include "server/cli/bench_histogram.h"
#include "tests/crash/random.h"
#include "tests/unit/cmocka_all.h"

#include <math.h>
#include <stdlib.h>

enum { VALUES = 20000 };

static struct histogram histogram;
static struct histogram other;

static int by_size(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a;
	uint64_t right = *(const uint64_t *)b;
	return (left > right) - (left < right);
}

static void test_an_empty_one_says_nothing(void **state)
{
	(void)state;
	histogram_init(&histogram);
	assert_int_equal(histogram_quantile_ns(&histogram, 0.5), 0);
	assert_int_equal(histogram_mean_ns(&histogram), 0);
}

static void test_small_values_are_exact(void **state)
{
	(void)state;
	histogram_init(&histogram);
	for (uint64_t ns = 0; ns < 256; ns++) {
		histogram_add(&histogram, ns);
	}
	assert_int_equal(histogram_quantile_ns(&histogram, 0.0), 0);
	assert_int_equal(histogram_quantile_ns(&histogram, 0.25), 63);
	assert_int_equal(histogram_quantile_ns(&histogram, 0.5), 127);
	assert_int_equal(histogram_quantile_ns(&histogram, 1.0), 255);
}

/* Never below the true value, and at most 1/128 above it. */
static void assert_near(uint64_t told, uint64_t truth)
{
	assert_true(told >= truth);
	assert_true(told <= truth + truth / 128);
}

static void test_quantiles_are_near_the_true_ones(void **state)
{
	static const double parts[] = {0.0001, 0.01, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0};
	static uint64_t values[VALUES];
	struct random random;
	(void)state;
	random_seed(&random, 7);
	histogram_init(&histogram);
	for (size_t i = 0; i < VALUES; i++) {
		/* Every magnitude from nanoseconds to minutes. */
		values[i] = random_next(&random) >> (26 + random_below(&random, 36));
		histogram_add(&histogram, values[i]);
	}
	qsort(values, VALUES, sizeof(values[0]), by_size);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		size_t at = (size_t)ceil(parts[i] * VALUES) - 1;
		assert_near(histogram_quantile_ns(&histogram, parts[i]), values[at]);
	}
	assert_int_equal(histogram.min_ns, values[0]);
	assert_int_equal(histogram.max_ns, values[VALUES - 1]);
	assert_int_equal(histogram.count, VALUES);
}

static void test_merged_is_as_if_added_to_one(void **state)
{
	static struct histogram whole;
	struct random random;
	(void)state;
	random_seed(&random, 9);
	histogram_init(&histogram);
	histogram_init(&other);
	histogram_init(&whole);
	for (size_t i = 0; i < VALUES; i++) {
		uint64_t ns = random_next(&random) >> (30 + random_below(&random, 30));
		histogram_add(i % 3 == 0 ? &histogram : &other, ns);
		histogram_add(&whole, ns);
	}
	histogram_merge(&histogram, &other);
	assert_memory_equal(&histogram, &whole, sizeof(whole));
}

static void test_an_empty_one_merges_into_nothing(void **state)
{
	(void)state;
	histogram_init(&histogram);
	histogram_init(&other);
	histogram_add(&histogram, 5);
	histogram_merge(&histogram, &other);
	assert_int_equal(histogram.min_ns, 5);
	assert_int_equal(histogram.max_ns, 5);
}

static void test_what_is_too_long_counts_as_the_longest(void **state)
{
	(void)state;
	histogram_init(&histogram);
	histogram_add(&histogram, UINT64_MAX / 2);
	histogram_add(&histogram, 1);
	assert_int_equal(histogram.max_ns, UINT64_MAX / 2);
	assert_true(histogram_quantile_ns(&histogram, 1.0) >= UINT64_C(1) << 38);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_empty_one_says_nothing),
		cmocka_unit_test(test_small_values_are_exact),
		cmocka_unit_test(test_quantiles_are_near_the_true_ones),
		cmocka_unit_test(test_merged_is_as_if_added_to_one),
		cmocka_unit_test(test_an_empty_one_merges_into_nothing),
		cmocka_unit_test(test_what_is_too_long_counts_as_the_longest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
