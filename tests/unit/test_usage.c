/* SPDX-License-Identifier: MIT */

/* Counts over days and months, of several processes, and in a file that was torn. */

#include "cmocka_all.h"

#include "server/base/usage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define URL     "s3://bucket/prefix"
#define DAY_MS  (24 * 3600 * 1000ll)
#define NOON_MS 1795348800000ll /* 2026-11-22T12:00:00Z */

struct bed {
	char dir[64];
};

static int set_up(void **state)
{
	struct bed *bed = calloc(1, sizeof *bed);
	strcpy(bed->dir, "/tmp/usage-XXXXXX");
	assert_non_null(mkdtemp(bed->dir));
	*state = bed;
	return 0;
}

static int tear_down(void **state)
{
	struct bed *bed = *state;
	char command[100];
	snprintf(command, sizeof command, "rm -r %s", bed->dir);
	assert_int_equal(system(command), 0);
	free(bed);
	return 0;
}

static struct usage_meter *opened(const struct bed *bed, const char *url)
{
	struct usage_meter *meter = NULL;
	assert_int_equal(usage_meter_open(bed->dir, url, &meter), 0);
	return meter;
}

static void add(const struct bed *bed, int64_t now_ms, uint64_t puts, uint64_t lists)
{
	struct usage_meter *meter = opened(bed, URL);
	const struct usage_counts counts = {.requests = {[USAGE_PUT] = puts, [USAGE_LIST] = lists},
		.bytes_sent = 10 * puts,
		.bytes_received = 7};
	assert_int_equal(usage_meter_add(meter, &counts, now_ms), 0);
	usage_meter_close(meter);
}

static void test_nothing_was_asked(void **state)
{
	const struct bed *bed = *state;
	const struct usage nothing = {.today = {.bytes_sent = 0}};
	struct usage usage = usage_read(bed->dir, URL, NOON_MS);
	assert_memory_equal(&usage, &nothing, sizeof usage);
	usage_meter_close(opened(bed, URL)); /* an empty file is nothing, too */
	usage = usage_read(bed->dir, URL, NOON_MS);
	assert_memory_equal(&usage, &nothing, sizeof usage);
}

static void test_days_and_months_end(void **state)
{
	const struct bed *bed = *state;
	add(bed, NOON_MS, 3, 1);
	add(bed, NOON_MS + DAY_MS / 2 - 1, 2, 0); /* the last moment of the day */
	struct usage usage = usage_read(bed->dir, URL, NOON_MS);
	assert_int_equal(usage.today.requests[USAGE_PUT], 5);
	assert_int_equal(usage.today.requests[USAGE_LIST], 1);
	assert_int_equal(usage.today.bytes_sent, 50);
	assert_int_equal(usage.today.bytes_received, 14);
	assert_memory_equal(&usage.today, &usage.month, sizeof usage.today);

	/* A day later nobody has asked anything yet, and a reader sees it. */
	usage = usage_read(bed->dir, URL, NOON_MS + DAY_MS / 2);
	assert_int_equal(usage.today.requests[USAGE_PUT], 0);
	assert_int_equal(usage.month.requests[USAGE_PUT], 5);
	add(bed, NOON_MS + DAY_MS, 1, 0);
	usage = usage_read(bed->dir, URL, NOON_MS + DAY_MS);
	assert_int_equal(usage.today.requests[USAGE_PUT], 1);
	assert_int_equal(usage.month.requests[USAGE_PUT], 6);

	/* The 1st of December, and the same month a year later. */
	usage = usage_read(bed->dir, URL, NOON_MS + 9 * DAY_MS);
	assert_int_equal(usage.month.requests[USAGE_PUT], 0);
	usage = usage_read(bed->dir, URL, NOON_MS + 365 * DAY_MS);
	assert_int_equal(usage.month.requests[USAGE_PUT], 0);
}

static void test_each_replica_has_its_own(void **state)
{
	const struct bed *bed = *state;
	add(bed, NOON_MS, 3, 1);
	struct usage usage = usage_read(bed->dir, "s3://bucket/other", NOON_MS);
	assert_int_equal(usage.month.requests[USAGE_PUT], 0);
}

static void test_processes_take_turns(void **state)
{
	enum { PROCESSES = 4, EACH = 300 };
	const struct bed *bed = *state;
	const struct usage_counts one = {.requests = {1, 1, 1, 1}, .bytes_sent = 1};
	for (int i = 0; i < PROCESSES; i++) {
		if (fork() == 0) {
			struct usage_meter *meter = opened(bed, URL);
			for (int n = 0; n < EACH; n++) {
				while (usage_meter_add(meter, &one, NOON_MS) != 0) {
				}
			}
			_exit(0);
		}
	}
	uint64_t last = 0;
	for (int left = PROCESSES; left > 0;) {
		struct usage usage = usage_read(bed->dir, URL, NOON_MS);
		uint64_t now = usage.today.requests[USAGE_DELETE];
		assert_true(now >= last || now == 0); /* 0: it was never read whole */
		last = now > last ? now : last;
		left -= waitpid(-1, NULL, WNOHANG) > 0;
	}
	struct usage usage = usage_read(bed->dir, URL, NOON_MS);
	for (size_t i = 0; i < USAGE_KINDS; i++) {
		assert_int_equal(usage.today.requests[i], PROCESSES * EACH);
	}
	assert_int_equal(usage.month.bytes_sent, PROCESSES * EACH);
}

static void test_a_torn_file_begins_anew(void **state)
{
	const struct bed *bed = *state;
	char command[200];
	add(bed, NOON_MS, 3, 1);
	snprintf(command, sizeof command,
		"for f in %s/usage-*; do printf x | dd of=$f bs=1 seek=40 conv=notrunc status=none; done",
		bed->dir);
	assert_int_equal(system(command), 0);
	struct usage usage = usage_read(bed->dir, URL, NOON_MS);
	assert_int_equal(usage.month.requests[USAGE_PUT], 0);
	add(bed, NOON_MS, 2, 0);
	usage = usage_read(bed->dir, URL, NOON_MS);
	assert_int_equal(usage.month.requests[USAGE_PUT], 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nothing_was_asked, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_days_and_months_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_each_replica_has_its_own, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_processes_take_turns, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_torn_file_begins_anew, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
