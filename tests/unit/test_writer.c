/* SPDX-License-Identifier: MIT */

/* The beginning and the end of the writer's thread. What it does in between is tested by daemons. */

#include "server/base/log.h"
#include "server/funnel/writer.h"
#include "tests/unit/bed.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LONG_MS = 600 * 1000 };

/* How far the wall clock goes back with each look at it. */
static _Atomic time_t wall_step_s;

/* In place of the C library's, with its names. */
int clock_gettime(clockid_t __clock_id, struct timespec *__tp)
{
	static _Atomic time_t stepped_s;
	int rc = (int)syscall(SYS_clock_gettime, __clock_id, __tp);
	if (__clock_id == CLOCK_REALTIME) {
		time_t step_s = atomic_load(&wall_step_s);
		__tp->tv_sec -= atomic_fetch_add(&stepped_s, step_s) + step_s;
	}
	return rc;
}

static void poisoned(void *ctx, const char *reason)
{
	(void)ctx;
	fail_msg("%s", reason);
}

static void wake(void *ctx)
{
	(void)ctx;
}

static void test_its_end_is_waited_for_whatever_the_wall_clock_says(void **state)
{
	struct bed bed;
	struct config config;
	struct queue *queue = NULL;
	struct writer *writer = NULL;
	struct list waiting;
	(void)state;
	bed_make(&bed);
	log_setup(STDERR_FILENO, LOG_LEVEL_ERROR, LOG_FORMAT_LOGFMT);
	assert_int_equal(config_init(&config), 0);
	assert_int_equal(queue_new(wake, NULL, &queue), 0);
	struct writer_options options = {.store = bed.store,
		.queue = queue,
		.config = &config,
		.db = bed.path,
		.reserve = bed_file(&bed, "-reserve"),
		.poisoned = poisoned};
	assert_int_equal(writer_start(&options, &writer), 0);
	assert_int_equal(writer_join(writer, 1), -ETIMEDOUT); /* nobody has told it to end */
	atomic_store(&wall_step_s, 3600);
	list_init(&waiting);
	queue_stop(queue, &waiting);
	assert_int_equal(writer_join(writer, LONG_MS), 0);
	writer_free(writer);
	queue_free(queue);
	config_finish(&config);
	bed_remove(&bed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_its_end_is_waited_for_whatever_the_wall_clock_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
