/* SPDX-License-Identifier: MIT */

/* The loop that changes hands: one thread lends it, another minds it. */

#include "server/funnel/loop.h"
#include "tests/unit/cmocka_all.h"

#include <pthread.h>
#include <semaphore.h>

/* What a loop's thread does once that can take long, and another thread that minds the loop meanwhile. */
struct bed {
	struct loop *loop;
	struct loop_timer *timer;
	pthread_t other;
	sem_t lent;      /* by the loop's own thread */
	sem_t timer_ran; /* in whichever thread */
	pthread_t ran_in;
	int turns;
	bool stop_early; /* the timer stops the loop */
	bool was_lent;
};

static void timer_ran(void *ctx)
{
	struct bed *bed = ctx;
	bed->ran_in = pthread_self();
	if (bed->stop_early) {
		loop_stop(bed->loop);
	}
	sem_post(&bed->timer_ran);
}

static void woken(void *ctx)
{
	(void)ctx;
}

/* The first turn lends the loop, and takes it back when its timer has run although it was away. */
static bool turn(void *ctx)
{
	struct bed *bed = ctx;
	bed->turns++;
	if (bed->was_lent) {
		if (!pthread_equal(pthread_self(), bed->other)) {
			loop_stop(bed->loop); /* it is back */
		}
		return false;
	}
	bed->was_lent = true;
	loop_timer_start(bed->timer, 1000);
	loop_lend(bed->loop);
	sem_post(&bed->lent);
	sem_wait(&bed->timer_ran);
	loop_take_back(bed->loop);
	return true; /* a turn more, at once */
}

static void *mind(void *ctx)
{
	struct bed *bed = ctx;
	sem_wait(&bed->lent);
	loop_mind(bed->loop);
	return NULL;
}

static void bed_init(struct bed *bed, bool stop_early)
{
	*bed = (struct bed){.stop_early = stop_early};
	assert_int_equal(loop_new(&bed->loop), 0);
	assert_int_equal(loop_on_wake(bed->loop, woken, bed), 0);
	bed->timer = loop_timer_new(bed->loop, timer_ran, bed);
	assert_non_null(bed->timer);
	sem_init(&bed->lent, 0, 0);
	sem_init(&bed->timer_ran, 0, 0);
	loop_on_turn(bed->loop, turn, bed);
	loop_wake(bed->loop);
}

static void bed_run(struct bed *bed)
{
	assert_int_equal(pthread_create(&bed->other, NULL, mind, bed), 0);
	assert_int_equal(loop_run(bed->loop), 0);
	assert_int_equal(pthread_join(bed->other, NULL), 0);
	assert_true(pthread_equal(bed->ran_in, bed->other));
}

static void bed_finish(struct bed *bed)
{
	loop_timer_free(bed->timer);
	loop_free(bed->loop);
	sem_destroy(&bed->lent);
	sem_destroy(&bed->timer_ran);
}

static void test_another_thread_minds_what_is_lent(void **state)
{
	struct bed bed;
	(void)state;
	bed_init(&bed, false);
	bed_run(&bed);
	assert_true(bed.turns > 1);
	bed_finish(&bed);
}

static void test_stopped_while_it_was_lent(void **state)
{
	struct bed bed;
	(void)state;
	bed_init(&bed, true);
	bed_run(&bed);
	bed_finish(&bed);
}

static void *mind_at_once(void *ctx)
{
	struct bed *bed = ctx;
	loop_mind(bed->loop);
	return NULL;
}

static void try_to_mind(void *ctx)
{
	struct bed *bed = ctx;
	assert_int_equal(pthread_create(&bed->other, NULL, mind_at_once, bed), 0);
	assert_int_equal(pthread_join(bed->other, NULL), 0);
	loop_stop(bed->loop);
	bed->ran_in = pthread_self();
}

static void test_what_is_not_lent_is_not_minded(void **state)
{
	struct bed bed;
	(void)state;
	bed_init(&bed, false);
	loop_on_turn(bed.loop, NULL, NULL);
	loop_timer_free(bed.timer);
	bed.timer = loop_timer_new(bed.loop, try_to_mind, &bed);
	loop_timer_start(bed.timer, 1000);
	assert_int_equal(loop_run(bed.loop), 0);
	assert_true(pthread_equal(bed.ran_in, pthread_self()));
	bed_finish(&bed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_another_thread_minds_what_is_lent),
		cmocka_unit_test(test_stopped_while_it_was_lent),
		cmocka_unit_test(test_what_is_not_lent_is_not_minded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
