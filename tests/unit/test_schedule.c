/* SPDX-License-Identifier: MIT */

/*
 * The schedule, driven by a writer that takes what it is given and by clients that send again when
 * they are answered. Time is counted, not measured, so that shares are exact.
 */

#include "server/funnel/schedule.h"
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

enum { COMMIT_COST_US = 150, GROUP_US_MAX = 10000, CLIENTS_MAX = 128, SLICE_US = 10000 };

/* A client that keeps `depth` requests in flight, each of which costs so much. */
struct client {
	uint64_t peer_id;
	uint32_t uid;
	enum request_class class;
	unsigned depth;
	uint64_t cost_us;
	bool task;
	/* What it got. */
	uint64_t served;
	uint64_t spent_us; /* its part of the commits included */
	uint64_t wait_us_max;
};

static struct schedule schedule;
static struct client clients[CLIENTS_MAX];
static size_t clients_count;
static uint64_t now_us;
static uint64_t longest_turn_us[CLASS_COUNT];

static struct client *client(
	uint32_t uid, enum request_class class, unsigned depth, uint64_t cost_us)
{
	struct client *made = &clients[clients_count++];
	*made = (struct client){.peer_id = clients_count,
		.uid = uid,
		.class = class,
		.depth = depth,
		.cost_us = cost_us};
	return made;
}

static struct request *send_one(struct client *from)
{
	void *room = NULL;
	struct request *request = request_new(REQUEST_WRITE, 0, &room);
	assert_non_null(request);
	request->peer_id = from->peer_id;
	request->identity.uid = from->uid;
	request->class = from->class;
	request->bytes = 100;
	request->received_us = now_us;
	request->task.what = from->task ? "chunk" : NULL;
	assert_int_equal(schedule_add(&schedule, request), 0);
	return request;
}

static void serve(struct request *request)
{
	struct client *from = &clients[request->peer_id - 1];
	uint64_t waited_us = now_us - request->received_us;
	request->taken_us = now_us;
	request->cost_us = from->cost_us;
	now_us += from->cost_us;
	from->served++;
	from->wait_us_max = waited_us > from->wait_us_max ? waited_us : from->wait_us_max;
}

/* One turn: a task, or a commit group after which everybody sends again. */
static void turn(void)
{
	struct request *group[4096];
	size_t count = 0;
	uint64_t began_us = now_us;
	schedule_open(&schedule, now_us);
	struct request *request = schedule_next_task(&schedule, now_us);
	if (request != NULL) {
		serve(request);
		group[count++] = request;
	} else {
		while (count < 4096 && now_us - began_us < GROUP_US_MAX &&
			(request = schedule_next(&schedule, now_us)) != NULL) {
			serve(request);
			group[count++] = request;
		}
		now_us += COMMIT_COST_US;
	}
	assert_true(count > 0);
	enum request_class class = group[0]->class;
	if (now_us - began_us > longest_turn_us[class]) {
		longest_turn_us[class] = now_us - began_us;
	}
	for (size_t i = 0; i < count; i++) {
		group[i]->cost_us += group[i]->task.what == NULL ? COMMIT_COST_US / count : 0;
		schedule_charge(&schedule, group[i], now_us);
		schedule_leave(&schedule, group[i]);
	}
	schedule_close(&schedule);
	for (size_t i = 0; i < count; i++) {
		struct client *from = &clients[group[i]->peer_id - 1];
		from->spent_us += group[i]->cost_us;
		list_remove(&group[i]->node);
		request_free(group[i]);
		send_one(from);
	}
}

static void run_for(uint64_t us)
{
	for (size_t i = 0; i < clients_count; i++) {
		for (unsigned k = 0; k < clients[i].depth; k++) {
			send_one(&clients[i]);
		}
	}
	uint64_t until_us = now_us + us;
	while (now_us < until_us) {
		turn();
	}
}

static void free_waiting(void)
{
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		list_for_each_safe(node, &schedule.ranks[i].ready) {
			struct share *share = container_of(node, struct share, node);
			list_for_each_safe(at, &share->lines) {
				struct line *line = container_of(at, struct line, node);
				list_for_each_safe(waiting, &line->waiting) {
					request_free(container_of(waiting, struct request, node));
				}
			}
		}
	}
}

static uint64_t spent_by(uint32_t uid)
{
	uint64_t us = 0;
	for (size_t i = 0; i < clients_count; i++) {
		us += clients[i].uid == uid ? clients[i].spent_us : 0;
	}
	return us;
}

/* Within 10 %. */
static void assert_near(uint64_t is, uint64_t want)
{
	if (is < want - want / 10 || is > want + want / 10) {
		fail_msg("%lu is not near %lu", (unsigned long)is, (unsigned long)want);
	}
}

/* ---- shares ---- */

static void test_equal_clients_get_equal_shares(void **state)
{
	uint64_t all = 0;
	(void)state;
	for (int i = 0; i < 12; i++) {
		client(1, CLASS_NORMAL, i % 3 == 0 ? 64 : 8, 20);
	}
	run_for(2000000);
	for (size_t i = 0; i < clients_count; i++) {
		all += clients[i].spent_us;
	}
	assert_true(all > 1000000); /* and the commits did not eat the time */
}

/* More than a commit group holds: then it is the writer's time that is shared. */
static void test_time_is_shared_and_not_requests(void **state)
{
	(void)state;
	struct client *light = client(1, CLASS_NORMAL, 900, 20);
	struct client *heavy = client(1, CLASS_NORMAL, 900, 700);
	run_for(4000000);
	assert_near(heavy->spent_us, light->spent_us);
	assert_true(light->served > 20 * heavy->served);
}

static void test_fifty_connections_are_no_more_than_one(void **state)
{
	static const unsigned depths[] = {1, 64};
	(void)state;
	for (size_t how = 0; how < 2; how++) {
		clients_count = 0;
		client(1000, CLASS_NORMAL, depths[how], 20);
		for (int i = 0; i < 50; i++) {
			client(1001, CLASS_NORMAL, depths[how], 20);
		}
		run_for(2000000);
		assert_near(spent_by(1000), spent_by(1001));
		free_waiting();
		schedule_finish(&schedule);
		schedule_init(&schedule);
	}
}

static void test_users_share_by_time_too(void **state)
{
	(void)state;
	client(1000, CLASS_NORMAL, 4, 20);
	client(1001, CLASS_NORMAL, 4, 500);
	client(1002, CLASS_NORMAL, 4, 100);
	run_for(4000000);
	assert_near(spent_by(1000), spent_by(1002));
	assert_near(spent_by(1001), spent_by(1002));
}

/* Who was silent does not come back with savings, nor with old debts of more than a second. */
static void test_silence_saves_nothing(void **state)
{
	(void)state;
	client(1000, CLASS_NORMAL, 8, 50);
	run_for(3000000);
	uint64_t before_us = spent_by(1000);
	struct client *late = client(1001, CLASS_NORMAL, 8, 50);
	for (int i = 0; i < 8; i++) {
		send_one(late);
	}
	uint64_t until_us = now_us + 1000000;
	while (now_us < until_us) {
		turn();
	}
	assert_near(spent_by(1001), spent_by(1000) - before_us);
}

/* ---- classes ---- */

static void test_higher_classes_go_first(void **state)
{
	(void)state;
	struct client *bulk = client(1, CLASS_BULK, 1000, 20);
	struct client *quick = client(1, CLASS_INTERACTIVE, 1, 20);
	run_for(200000);
	assert_true(quick->wait_us_max < SLICE_US);
	assert_true(bulk->served > 1000);
}

/* Beside higher classes that never pause, the lower ones get their quarter, and no more. */
static void test_nobody_starves(void **state)
{
	(void)state;
	struct client *quick = client(1, CLASS_INTERACTIVE, 600, 20);
	struct client *normal = client(1, CLASS_NORMAL, 600, 20);
	struct client *bulk = client(1, CLASS_BULK, 600, 20);
	run_for(8000000);
	assert_true(normal->spent_us > 8000000 / 6);
	assert_near(bulk->spent_us, 8000000 / 4);
	assert_true(quick->spent_us > normal->spent_us);
	assert_true(longest_turn_us[CLASS_BULK] <= SLICE_US);
	assert_true(quick->wait_us_max < 3 * SLICE_US);
}

/* One small batch of bulk need not wait until a whole slice is owed. */
static void test_a_small_bulk_batch_waits_for_a_moment(void **state)
{
	(void)state;
	client(1, CLASS_NORMAL, 8, 20);
	struct client *bulk = client(1, CLASS_BULK, 1, 20);
	run_for(1000000);
	assert_true(bulk->wait_us_max < 5000);
	assert_true(bulk->served > 500);
}

static void test_slices_of_a_task_and_the_others(void **state)
{
	(void)state;
	struct client *normal = client(1, CLASS_NORMAL, 8, 20);
	struct client *chunk = client(1, CLASS_BULK, 1, SLICE_US);
	chunk->task = true;
	run_for(8000000);
	assert_near(chunk->spent_us, 8000000 / 4);
	assert_true(normal->wait_us_max < 2 * SLICE_US);
}

/* A task of a user competes with the batches of others in its class, by time. */
static void test_a_task_has_its_place_in_the_class(void **state)
{
	(void)state;
	struct client *task = client(1000, CLASS_NORMAL, 1, 3000);
	task->task = true;
	client(1001, CLASS_NORMAL, 8, 20);
	run_for(4000000);
	assert_near(task->spent_us, spent_by(1001));
}

/* ---- order ---- */

static void test_a_line_keeps_its_order(void **state)
{
	uint32_t next[4] = {0};
	uint32_t sent[4] = {0};
	unsigned seed = 5;
	(void)state;
	for (int i = 0; i < 4; i++) {
		client((uint32_t)i / 2, CLASS_NORMAL, 1, 20);
	}
	for (int round = 0; round < 2000; round++) {
		size_t who = (size_t)rand_r(&seed) % 4;
		send_one(&clients[who])->id = sent[who]++;
		if (round % 3 != 0) {
			continue;
		}
		struct request *taken[8];
		size_t count = 0;
		schedule_open(&schedule, now_us);
		while (count < 8 && (taken[count] = schedule_next(&schedule, now_us)) != NULL) {
			count++;
		}
		/* Some begin, the rest goes back. */
		size_t begun = count == 0 ? 0 : (size_t)rand_r(&seed) % count + 1;
		while (count > begun) {
			schedule_return(&schedule, taken[--count]);
		}
		for (size_t i = 0; i < begun; i++) {
			assert_int_equal(taken[i]->id, next[taken[i]->peer_id - 1]++);
			taken[i]->cost_us = 20;
			schedule_charge(&schedule, taken[i], now_us);
			schedule_leave(&schedule, taken[i]);
			request_free(taken[i]);
		}
		schedule_close(&schedule);
	}
}

/* ---- offenders ---- */

static void test_an_offender_runs_alone_and_last(void **state)
{
	(void)state;
	struct client *good = client(1, CLASS_NORMAL, 1, 20);
	struct client *bad = client(1, CLASS_NORMAL, 1, 20);
	struct request *first = send_one(bad);
	schedule_open(&schedule, now_us);
	assert_ptr_equal(schedule_next(&schedule, now_us), first);
	first->cost_us = 20;
	first->offended = true;
	schedule_charge(&schedule, first, now_us);
	schedule_leave(&schedule, first);
	schedule_close(&schedule);
	request_free(first);

	struct request *second = send_one(bad);
	struct request *theirs = send_one(good);
	schedule_open(&schedule, now_us);
	assert_ptr_equal(schedule_next(&schedule, now_us), theirs);
	assert_null(schedule_next(&schedule, now_us)); /* not together with anybody */
	schedule_close(&schedule);
	struct request *third = send_one(good);
	int turns = 1;
	for (; schedule.ranks[CLASS_NORMAL].waiting == 2 && turns < 100; turns++) {
		schedule_open(&schedule, now_us);
		struct request *taken = schedule_next(&schedule, now_us);
		if (taken == third) {
			schedule_return(&schedule, taken); /* another one would be there again */
		} else {
			assert_ptr_equal(taken, second);
			assert_null(schedule_next(&schedule, now_us));
		}
		schedule_close(&schedule);
	}
	assert_true(turns > 10 && turns < 30); /* last, but not never */
	/* It was for a while only. */
	second->cost_us = 20;
	schedule_charge(&schedule, second, now_us);
	schedule_leave(&schedule, second);
	request_free(second);
	now_us += 60000001;
	struct request *fourth = send_one(bad);
	schedule_open(&schedule, now_us);
	assert_non_null(schedule_next(&schedule, now_us));
	assert_non_null(schedule_next(&schedule, now_us));
	assert_true(third->taken && fourth->taken);
	request_free(theirs);
	request_free(third);
	request_free(fourth);
}

/* ---- room ---- */

static void test_the_next_user_finds_room(void **state)
{
	enum { ROOM = 10000 };
	size_t waiting = 0;
	(void)state;
	for (uint32_t uid = 1; uid <= 3; uid++) {
		struct client *hostile = client(uid, CLASS_BULK, 1, 20);
		size_t held = 0;
		while (schedule_fits(&schedule, uid, 100, ROOM - waiting, SIZE_MAX / 2)) {
			send_one(hostile);
			waiting++;
			held++;
			assert_true(waiting < ROOM);
		}
		assert_true(uid > 1 || held > ROOM * 8 / 10); /* alone it has nearly all */
	}
	assert_true(schedule_fits(&schedule, 99, 100, ROOM - waiting, SIZE_MAX / 2));
	/* Bytes are counted likewise. */
	assert_false(schedule_fits(&schedule, 1, 100, ROOM, 100));
	assert_true(schedule_fits(&schedule, 99, 100, ROOM, 100));
}

/* ---- memory ---- */

/* Connections and users that are gone leave nothing: the leak check and the counts are the judges. */
static void test_lines_go_with_their_connections(void **state)
{
	(void)state;
	for (int i = 0; i < 100; i++) {
		client((uint32_t)i, CLASS_NORMAL, 1, 20);
		send_one(&clients[i]);
		schedule_forget(&schedule, clients[i].peer_id); /* before it was served */
	}
	for (int i = 0; i < 100; i++) {
		schedule_open(&schedule, now_us);
		struct request *request = schedule_next(&schedule, now_us);
		schedule_charge(&schedule, request, now_us);
		schedule_leave(&schedule, request);
		schedule_close(&schedule);
		request_free(request);
	}
	for (size_t i = 0; i < SCHEDULE_BUCKETS; i++) {
		assert_true(list_empty(&schedule.lines[i]));
	}
	/* Users are remembered, but not for ever. */
	for (uint32_t i = 0; i < 5000; i++) {
		clients[0].uid = 100000 + i;
		struct request *request = send_one(&clients[0]);
		schedule_remove(&schedule, request);
		schedule_forget(&schedule, clients[0].peer_id);
		request_free(request);
	}
	assert_true(schedule.tenants_count <= 1024);
}

static int set_up(void **state)
{
	(void)state;
	schedule_init(&schedule);
	schedule_set_times(&schedule, SLICE_US, 60000000);
	clients_count = 0;
	now_us = 1000000;
	memset(longest_turn_us, 0, sizeof(longest_turn_us));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free_waiting();
	schedule_finish(&schedule);
	return 0;
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_equal_clients_get_equal_shares),
		TEST(test_time_is_shared_and_not_requests),
		TEST(test_fifty_connections_are_no_more_than_one),
		TEST(test_users_share_by_time_too),
		TEST(test_silence_saves_nothing),
		TEST(test_higher_classes_go_first),
		TEST(test_nobody_starves),
		TEST(test_a_small_bulk_batch_waits_for_a_moment),
		TEST(test_slices_of_a_task_and_the_others),
		TEST(test_a_task_has_its_place_in_the_class),
		TEST(test_a_line_keeps_its_order),
		TEST(test_an_offender_runs_alone_and_last),
		TEST(test_the_next_user_finds_room),
		TEST(test_lines_go_with_their_connections),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
