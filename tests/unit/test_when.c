/* SPDX-License-Identifier: MIT */

/* Moments as people write them. */

#include "server/cli/when.h"
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NOW INT64_C(1795343655247) /* 2026-11-22T10:34:15.247Z */

static const struct {
	const char *text;
	int64_t ms;
} good[] = {
	{"now", NOW},
	{"2026-11-22T10:34:15.247Z", NOW},
	{"2026-11-22t10:34:15z", NOW - 247},
	{"2026-11-22 11:34:15+01:00", NOW - 247},
	{"2026-11-22T05:04:15.5-0530", NOW - 247 + 500},
	{"2026-11-22T10:34Z", NOW - 15247},
	{"2026-11-22", NOW - 247 - 15000 - 34 * 60000 - 10 * 3600000}, /* UTC is local here */
	{"10:34", NOW - 15247},
	{"10:34:15.247", NOW},
	{"10:35", NOW - 15247 + 60000 - 86400000}, /* yesterday's */
	{"2 hours ago", NOW - 7200000},
	{"90s ago", NOW - 90000},
	{"1 day 2 hours ago", NOW - 93600000},
	{"3 weeks  ago", NOW - INT64_C(3) * 7 * 86400000},
	{"1970-01-01T00:00:00Z", 0},
	{"2024-02-29T00:00:00Z", INT64_C(1709164800000)},
};

static void test_moments(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		int64_t ms = -1;
		if (!when_parse(good[i].text, NOW, &ms) || ms != good[i].ms) {
			fail_msg("\"%s\" is %lld, not %lld", good[i].text, (long long)ms,
				(long long)good[i].ms);
		}
	}
}

static void test_what_is_no_moment(void **state)
{
	static const char *const bad[] = {"", "yesterday", "2 hours", "ago", "hours ago",
		"2 fortnights ago", "2026-13-01", "2026-02-30T00:00:00Z", "2026-11-22T25:00:00Z",
		"2026-11-22T10:34:15.Z", "2026-11-22T10:34:15Zulu", "2026-11-22T10:34:15+1",
		"26-11-22", "10:3", "10:34:15 more", "-2 hours ago",
		"99999999999999999999 hours ago", "17953436"};
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		int64_t ms = 0;
		if (when_parse(bad[i], NOW, &ms)) {
			fail_msg("\"%s\" is taken for %lld", bad[i], (long long)ms);
		}
	}
}

static void test_the_way_back(void **state)
{
	char text[WHEN_TEXT_BYTES];
	(void)state;
	when_text(NOW, text);
	assert_string_equal(text, "2026-11-22T10:34:15.247Z");
	when_text(NOW - 247, text);
	assert_string_equal(text, "2026-11-22T10:34:15Z");
	when_span(1500, text);
	assert_string_equal(text, "1.5 s");
	when_span(INT64_C(3) * 86400000, text);
	assert_string_equal(text, "3 days");
}

int main(void)
{
	setenv("TZ", "UTC", 1);
	tzset();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moments),
		cmocka_unit_test(test_what_is_no_moment),
		cmocka_unit_test(test_the_way_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
