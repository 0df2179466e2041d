/* SPDX-License-Identifier: MIT */

/* The queue: limits, order, and the ways out of it; then both threads at once. */

#include "server/base/clock.h"
#include "server/funnel/queue.h"
#include "tests/unit/cmocka_all.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct queue *queue;
static atomic_uint wakes;
static struct {
	pthread_t thread;
	bool runs;
} writer;
static const struct queue_limits wide = {1000000, 1u << 30};

static void wake(void *ctx)
{
	assert_ptr_equal(ctx, &wakes);
	atomic_fetch_add(&wakes, 1);
}

static struct request *made(uint32_t id, enum request_class class)
{
	void *room = NULL;
	struct request *request = request_new(REQUEST_WRITE, 0, &room);
	assert_non_null(request);
	request->id = id;
	request->class = class;
	request->bytes = 100;
	request->deadline_us = UINT64_MAX;
	request->received_us = 1000 + id;
	return request;
}

static struct request *pushed(uint32_t id, enum request_class class)
{
	struct request *request = made(id, class);
	assert_int_equal(queue_push(queue, request, &wide), 0);
	return request;
}

static void start_writer(void *(*fn)(void *ctx), void *ctx)
{
	assert_int_equal(pthread_create(&writer.thread, NULL, fn, ctx), 0);
	writer.runs = true;
}

static void end_writer(struct list *ret_waiting)
{
	queue_stop(queue, ret_waiting);
	pthread_join(writer.thread, NULL);
	writer.runs = false;
}

/* The ids in order. */
static const char *ids(const struct list *list)
{
	static char text[256];
	size_t len = 0;
	text[0] = 0;
	list_for_each(node, (struct list *)(uintptr_t)list) {
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%u ",
			container_of(node, struct request, node)->id);
	}
	return text;
}

static void free_list(struct list *list)
{
	list_for_each_safe(node, list) {
		request_free(container_of(node, struct request, node));
	}
}

/* The writer's whole round: takes and answers. */
static void take_and_answer(const char *want)
{
	struct list taken;
	list_init(&taken);
	(void)queue_take(queue, SIZE_MAX, SIZE_MAX, &taken);
	assert_string_equal(ids(&taken), want);
	queue_answer(queue, &taken);
	assert_true(list_empty(&taken));
	queue_collect(queue, &taken);
	assert_string_equal(ids(&taken), want);
	free_list(&taken);
}

/* ---- limits ---- */

static void test_count_and_bytes_are_limited(void **state)
{
	const struct queue_limits few = {3, wide.bytes_max};
	const struct queue_limits small = {wide.count_max, 350};
	(void)state;
	for (int how = 0; how < 2; how++) {
		const struct queue_limits *limits = how == 0 ? &few : &small;
		for (uint32_t i = 0; i < 3; i++) {
			assert_int_equal(queue_push(queue, made(i, CLASS_NORMAL), limits), 0);
		}
		struct request *more = made(9, CLASS_INTERACTIVE);
		assert_int_equal(queue_push(queue, more, limits), QUEUE_FULL);
		assert_true(list_empty(&more->node)); /* it stays the caller's */
		struct queue_facts facts = queue_facts(queue);
		assert_int_equal(facts.count, 3);
		assert_int_equal(facts.bytes, 300);
		take_and_answer("0 1 2 ");
		assert_int_equal(queue_push(queue, more, limits), 0);
		take_and_answer("9 ");
	}
}

/* A request larger than all the room there is may still come alone, or it never would. */
static void test_one_large_request_fits_an_empty_queue(void **state)
{
	const struct queue_limits small = {10, 50};
	(void)state;
	assert_int_equal(queue_push(queue, made(1, CLASS_NORMAL), &small), 0);
	struct request *second = made(2, CLASS_NORMAL);
	assert_int_equal(queue_push(queue, second, &small), QUEUE_FULL);
	request_free(second);
	take_and_answer("1 ");
}

static void test_what_is_taken_has_limits(void **state)
{
	struct list taken;
	(void)state;
	list_init(&taken);
	for (uint32_t i = 0; i < 10; i++) {
		pushed(i, CLASS_NORMAL);
	}
	assert_int_equal(queue_take(queue, 0, SIZE_MAX, &taken), 0);
	assert_int_equal(queue_take(queue, SIZE_MAX, 0, &taken), 0);
	assert_int_equal(queue_take(queue, 2, SIZE_MAX, &taken), 2);
	assert_int_equal(queue_take(queue, SIZE_MAX, 250, &taken), 3); /* the last goes over */
	assert_int_equal(queue_take(queue, SIZE_MAX, 1, &taken), 1);
	assert_string_equal(ids(&taken), "0 1 2 3 4 5 ");
	struct queue_facts facts = queue_facts(queue);
	assert_int_equal(facts.count, 4);
	assert_int_equal(facts.bytes, 400);
	assert_int_equal(facts.taken, 6);
	queue_answer(queue, &taken);
	assert_int_equal(queue_facts(queue).taken, 0);
	assert_true(queue_facts(queue).answered);
	queue_collect(queue, &taken);
	assert_false(queue_facts(queue).answered);
	free_list(&taken);
}

/* ---- order ---- */

static void test_classes_then_age(void **state)
{
	(void)state;
	pushed(1, CLASS_BULK);
	pushed(2, CLASS_NORMAL);
	pushed(3, CLASS_INTERACTIVE);
	pushed(4, CLASS_BULK);
	pushed(5, CLASS_INTERACTIVE);
	pushed(6, CLASS_NORMAL);
	struct queue_facts facts = queue_facts(queue);
	assert_int_equal(facts.classes[CLASS_INTERACTIVE].waiting, 2);
	assert_int_equal(facts.classes[CLASS_NORMAL].waiting, 2);
	assert_int_equal(facts.classes[CLASS_BULK].waiting, 2);
	assert_int_equal(facts.oldest_us, 1001);
	take_and_answer("3 5 2 6 ");
	take_and_answer("1 4 "); /* bulk has turns of its own */
	facts = queue_facts(queue);
	assert_int_equal(facts.count, 0);
	assert_int_equal(facts.oldest_us, 0);
	assert_true(queue_is_empty(queue));
}

static void test_what_is_given_back_stands_where_it_stood(void **state)
{
	struct list taken;
	(void)state;
	list_init(&taken);
	pushed(1, CLASS_BULK);
	pushed(2, CLASS_NORMAL);
	pushed(3, CLASS_NORMAL);
	pushed(4, CLASS_INTERACTIVE);
	(void)queue_take(queue, SIZE_MAX, SIZE_MAX, &taken);
	/* Meanwhile others came. */
	pushed(5, CLASS_NORMAL);
	pushed(6, CLASS_INTERACTIVE);
	queue_give_back(queue, &taken);
	assert_true(list_empty(&taken));
	struct queue_facts facts = queue_facts(queue);
	assert_int_equal(facts.count, 6);
	assert_int_equal(facts.bytes, 600);
	assert_int_equal(facts.taken, 0);
	assert_int_equal(facts.classes[CLASS_NORMAL].waiting, 3);
	take_and_answer("4 6 2 3 5 ");
	take_and_answer("1 ");
}

/* ---- the ways out ---- */

static void test_withdrawing(void **state)
{
	struct list taken;
	(void)state;
	list_init(&taken);
	struct request *one = pushed(1, CLASS_NORMAL);
	struct request *two = pushed(2, CLASS_NORMAL);
	pushed(3, CLASS_NORMAL);
	assert_true(queue_withdraw(queue, two));
	request_free(two);
	assert_int_equal(queue_facts(queue).count, 2);
	assert_int_equal(queue_take(queue, 1, SIZE_MAX, &taken), 1);
	assert_false(queue_withdraw(queue, one)); /* the writer has it */
	queue_give_back(queue, &taken);
	assert_true(queue_withdraw(queue, one)); /* and now no longer */
	request_free(one);
	(void)queue_take(queue, 1, SIZE_MAX, &taken);
	struct request *three = container_of(taken.next, struct request, node);
	queue_answer(queue, &taken);
	assert_false(queue_withdraw(queue, three)); /* answered, not collected */
	queue_collect(queue, &taken);
	free_list(&taken);
	assert_int_equal(queue_facts(queue).bytes, 0);
}

static void test_deadlines(void **state)
{
	struct list expired;
	(void)state;
	list_init(&expired);
	pushed(1, CLASS_BULK)->deadline_us = 50;
	pushed(2, CLASS_NORMAL)->deadline_us = 51;
	pushed(3, CLASS_INTERACTIVE)->deadline_us = 50;
	pushed(4, CLASS_NORMAL)->deadline_us = 10;
	queue_expire(queue, 9, &expired);
	assert_string_equal(ids(&expired), "");
	queue_expire(queue, 10, &expired);
	assert_string_equal(ids(&expired), "4 ");
	queue_expire(queue, 50, &expired);
	assert_string_equal(ids(&expired), "4 1 3 ");
	assert_int_equal(queue_facts(queue).count, 1);
	free_list(&expired);
	take_and_answer("2 ");
}

/* What the writer has is not expired under it. */
static void test_deadlines_spare_what_is_taken(void **state)
{
	struct list taken;
	struct list expired;
	(void)state;
	list_init(&taken);
	list_init(&expired);
	pushed(1, CLASS_NORMAL)->deadline_us = 50;
	(void)queue_take(queue, 1, SIZE_MAX, &taken);
	queue_expire(queue, 1000, &expired);
	assert_true(list_empty(&expired));
	queue_give_back(queue, &taken);
	queue_expire(queue, 1000, &expired);
	assert_string_equal(ids(&expired), "1 ");
	free_list(&expired);
}

static void test_closing_and_stopping(void **state)
{
	struct list waiting;
	(void)state;
	list_init(&waiting);
	pushed(1, CLASS_BULK);
	pushed(2, CLASS_INTERACTIVE);
	queue_close(queue);
	struct request *late = made(3, CLASS_NORMAL);
	assert_int_equal(queue_push(queue, late, &wide), QUEUE_CLOSED);
	/* What waits is still served. */
	assert_true(queue_wait(queue, 1000000000));
	assert_true(queue_pause(queue, 1));
	struct list taken;
	list_init(&taken);
	assert_int_equal(queue_take(queue, 1, SIZE_MAX, &taken), 1);
	assert_string_equal(ids(&taken), "2 ");
	queue_stop(queue, &waiting);
	assert_string_equal(ids(&waiting), "1 ");
	assert_int_equal(queue_facts(queue).count, 0);
	assert_int_equal(queue_facts(queue).bytes, 0);
	assert_int_equal(queue_facts(queue).classes[CLASS_BULK].waiting, 0);
	assert_false(queue_wait(queue, 1000000000));
	assert_false(queue_pause(queue, 10 * 1000 * 1000)); /* at once */
	/* The writer may still answer what it has. */
	queue_answer(queue, &taken);
	queue_collect(queue, &taken);
	assert_string_equal(ids(&taken), "2 ");
	free_list(&taken);
	free_list(&waiting);
	request_free(late);
}

/* Requests that nobody collected go with the queue: the leak check is the judge. */
/* Large answers that the loop has not taken: the writer gives it some time, and no more than that. */
static void test_the_writer_waits_for_a_slow_loop(void **state)
{
	enum { LARGE = 20 * 1024 * 1024, MOMENT_US = 100 * 1000 };
	struct list taken;
	struct list answered;
	(void)state;
	list_init(&taken);
	list_init(&answered);
	struct request *large = pushed(1, CLASS_NORMAL);
	(void)pushed(2, CLASS_NORMAL);
	assert_int_equal(queue_take(queue, 1, wide.bytes_max, &taken), 1);
	buffer_reserve(&large->reply, LARGE);
	assert_false(large->reply.failed);
	large->reply.len = LARGE;
	queue_answer(queue, &taken);

	uint64_t began_us = clock_now_us();
	assert_int_equal(queue_wait(queue, 0), QUEUE_WORK);
	assert_true(clock_now_us() - began_us >= MOMENT_US);

	queue_collect(queue, &answered);
	assert_string_equal(ids(&answered), "1 ");
	free_list(&answered);
	uint64_t least_us = UINT64_MAX; /* a machine may be busy, but not each time */
	for (int i = 0; i < 20; i++) {
		began_us = clock_now_us();
		assert_int_equal(queue_wait(queue, 0), QUEUE_WORK);
		uint64_t us = clock_now_us() - began_us;
		least_us = us < least_us ? us : least_us;
	}
	assert_true(least_us < MOMENT_US);
}

static void test_freeing_frees_what_waits_and_what_is_answered(void **state)
{
	struct list taken;
	(void)state;
	list_init(&taken);
	pushed(1, CLASS_NORMAL);
	(void)queue_take(queue, 1, SIZE_MAX, &taken);
	queue_answer(queue, &taken);
	pushed(2, CLASS_BULK);
	queue_free(NULL);
}

static void test_a_wake_for_the_first_answer_only(void **state)
{
	struct list taken;
	(void)state;
	list_init(&taken);
	unsigned before = wakes;
	queue_answer(queue, &taken); /* of nothing */
	assert_int_equal(wakes, before);
	for (uint32_t i = 0; i < 3; i++) {
		pushed(i, CLASS_NORMAL);
		(void)queue_take(queue, 1, SIZE_MAX, &taken);
		queue_answer(queue, &taken);
	}
	assert_int_equal(wakes, before + 1);
	queue_collect(queue, &taken);
	assert_string_equal(ids(&taken), "0 1 2 ");
	free_list(&taken);
	pushed(3, CLASS_NORMAL);
	(void)queue_take(queue, 1, SIZE_MAX, &taken);
	queue_answer(queue, &taken);
	assert_int_equal(wakes, before + 2);
}

static void test_pausing_ends_by_itself(void **state)
{
	struct timespec began;
	struct timespec ended;
	(void)state;
	pushed(1, CLASS_NORMAL); /* new work is no reason to go on sooner */
	clock_gettime(CLOCK_MONOTONIC, &began);
	assert_true(queue_pause(queue, 20000));
	clock_gettime(CLOCK_MONOTONIC, &ended);
	int64_t us =
		(ended.tv_sec - began.tv_sec) * 1000000 + (ended.tv_nsec - began.tv_nsec) / 1000;
	assert_true(us >= 20000);
}

/* ---- the loop in the writer's place ---- */

static void *sleeping_writer(void *ctx)
{
	size_t *calls = ctx;
	for (enum queue_call call; (call = queue_wait(queue, 1000000000)) != QUEUE_STOP;) {
		struct list taken;
		list_init(&taken);
		calls[call]++;
		(void)queue_take(queue, SIZE_MAX, SIZE_MAX, &taken);
		queue_answer(queue, &taken);
	}
	return NULL;
}

/* Pushes two, and stands in for the writer; one that was awake may take one or both: again then. */
static void push_and_stand_in(void)
{
	for (;;) {
		struct list answered;
		list_init(&answered);
		pushed(1, CLASS_NORMAL);
		pushed(2, CLASS_NORMAL);
		while (queue_facts(queue).count > 0) {
			if (queue_stand_in(queue, 4, 400)) {
				if (queue_facts(queue).count == 2) {
					return;
				}
				queue_step_back(queue);
			}
			sched_yield();
		}
		while (queue_facts(queue).taken > 0) {
			sched_yield();
		}
		queue_collect(queue, &answered);
		free_list(&answered);
	}
}

static void test_standing_in_for_a_writer_that_sleeps(void **state)
{
	static size_t calls[QUEUE_NUDGED + 1]; /* the thread may outlive a test that fails */
	struct list rest;
	(void)state;
	list_init(&rest);
	queue_gather(queue, 100);
	pushed(1, CLASS_NORMAL);
	assert_false(queue_stand_in(queue, 4, 400)); /* nobody sleeps */
	take_and_answer("1 ");
	start_writer(sleeping_writer, calls);
	for (uint32_t round = 0; round < 100; round++) {
		push_and_stand_in();
		unsigned before = atomic_load(&wakes);
		queue_nudge(queue); /* it sleeps on */
		take_and_answer("1 2 ");
		assert_int_equal(atomic_load(&wakes), before); /* the loop does not wake itself */
		queue_step_back(queue);
	}
	push_and_stand_in(); /* it sleeps, with nothing left to do */
	take_and_answer("1 2 ");
	queue_step_back(queue);
	assert_false(queue_stand_in(queue, 4, 400)); /* nothing waits */
	for (uint32_t id = 1; id <= 5; id++) {
		pushed(id, CLASS_NORMAL);
	}
	assert_false(queue_stand_in(queue, 4, 1000)); /* too many */
	assert_false(queue_stand_in(queue, 8, 400));  /* too large */
	queue_kick(queue);
	while (queue_facts(queue).count > 0 || queue_facts(queue).taken > 0) {
		sched_yield();
	}
	queue_collect(queue, &rest);
	assert_string_equal(ids(&rest), "1 2 3 4 5 ");
	free_list(&rest);

	struct request *task = made(6, CLASS_NORMAL);
	task->kind = REQUEST_TASK;
	assert_int_equal(queue_push(queue, task, &wide), 0);
	assert_false(queue_stand_in(queue, 4, 400)); /* tasks are the writer's own */
	end_writer(&rest);
	free_list(&rest);
	assert_true(calls[QUEUE_WORK] > 0);
	assert_true(calls[QUEUE_NUDGED] <= 100);
}

/* ---- two threads ---- */

enum { REQUESTS = 20000, BURST = 50 };

static void *writer_thread(void *ctx)
{
	unsigned seed = 7;
	size_t *answered = ctx;
	while (queue_wait(queue, 1000000000)) {
		struct list taken;
		list_init(&taken);
		size_t count =
			queue_take(queue, 1 + (unsigned)rand_r(&seed) % 40, SIZE_MAX, &taken);
		if (rand_r(&seed) % 8 == 0) {
			queue_give_back(queue, &taken);
			(void)queue_pause(queue, 10);
			continue;
		}
		list_for_each(node, &taken) {
			container_of(node, struct request, node)->outcome = OUTCOME_OK;
		}
		*answered += count;
		queue_answer(queue, &taken);
		(void)queue_is_empty(queue);
	}
	return NULL;
}

static size_t collect(size_t *last_normal)
{
	struct list answered;
	size_t count = 0;
	list_init(&answered);
	queue_collect(queue, &answered);
	list_for_each(node, &answered) {
		const struct request *request = container_of(node, struct request, node);
		assert_int_equal(request->outcome, OUTCOME_OK);
		if (request->class == CLASS_NORMAL) {
			assert_true(request->id > *last_normal); /* age within a class holds */
			*last_normal = request->id;
		}
		count++;
	}
	free_list(&answered);
	return count;
}

/* Every request is answered, withdrawn, expired or handed out at the stop: exactly once. */
static void test_both_threads(void **state)
{
	static size_t by_writer;
	unsigned seed = 99;
	size_t collected = 0;
	size_t elsewhere = 0;
	size_t last_normal = 0;
	struct list rest;
	(void)state;
	list_init(&rest);
	start_writer(writer_thread, &by_writer);
	for (uint32_t i = 1; i <= REQUESTS; i++) {
		enum request_class class =
			(enum request_class)((unsigned)rand_r(&seed) % CLASS_COUNT);
		struct request *request = made(i, class);
		request->deadline_us = rand_r(&seed) % 50 == 0 ? 5 : UINT64_MAX;
		assert_int_equal(queue_push(queue, request, &wide), 0);
		/* It is not freed while it may be answered, for only we collect. */
		if (rand_r(&seed) % 20 == 0 && queue_withdraw(queue, request)) {
			request_free(request);
			elsewhere++;
		}
		if (i % BURST == 0) {
			struct list expired;
			list_init(&expired);
			queue_expire(queue, 10, &expired);
			list_for_each(node, &expired) {
				elsewhere++;
			}
			free_list(&expired);
			collected += collect(&last_normal);
			(void)queue_facts(queue);
			sched_yield();
		}
	}
	end_writer(&rest);
	queue_stop(queue, &rest); /* what the writer gave back at the very end waits again */
	list_for_each(node, &rest) {
		elsewhere++;
	}
	collected += collect(&last_normal);
	assert_int_equal(collected, by_writer);
	assert_int_equal(collected + elsewhere, REQUESTS);
	free_list(&rest);
}

static int set_up(void **state)
{
	(void)state;
	return queue_new(wake, &wakes, &queue);
}

static int tear_down(void **state)
{
	struct list waiting;
	(void)state;
	list_init(&waiting);
	if (writer.runs) { /* a check has failed: nobody may wait in what is freed */
		end_writer(&waiting);
	}
	free_list(&waiting);
	queue_free(queue);
	return 0;
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_count_and_bytes_are_limited),
		TEST(test_one_large_request_fits_an_empty_queue),
		TEST(test_what_is_taken_has_limits),
		TEST(test_classes_then_age),
		TEST(test_what_is_given_back_stands_where_it_stood),
		TEST(test_withdrawing),
		TEST(test_deadlines),
		TEST(test_deadlines_spare_what_is_taken),
		TEST(test_closing_and_stopping),
		TEST(test_the_writer_waits_for_a_slow_loop),
		TEST(test_freeing_frees_what_waits_and_what_is_answered),
		TEST(test_a_wake_for_the_first_answer_only),
		TEST(test_pausing_ends_by_itself),
		TEST(test_standing_in_for_a_writer_that_sleeps),
		TEST(test_both_threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
