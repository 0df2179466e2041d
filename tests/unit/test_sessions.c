/* SPDX-License-Identifier: MIT */

/* The index of remembered answers: order, windows, counts; checked against a plain model. */

#include "server/store/sessions.h"
#include "tests/unit/bed.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t id_a[DEDUPE_SESSION_BYTES] = "session-a";
static const uint8_t id_b[DEDUPE_SESSION_BYTES] = "session-b";

static void test_a_session_is_known_by_uid_and_id(void **state)
{
	struct sessions sessions;
	(void)state;
	sessions_init(&sessions, 4);
	assert_null(session_find(&sessions, 1, id_a));
	struct session *a = session_add(&sessions, 1, id_a);
	struct session *b = session_add(&sessions, 1, id_b);
	struct session *other = session_add(&sessions, 2, id_a);
	assert_ptr_equal(session_find(&sessions, 1, id_a), a);
	assert_ptr_equal(session_find(&sessions, 1, id_b), b);
	assert_ptr_equal(session_find(&sessions, 2, id_a), other);
	assert_null(session_find(&sessions, 2, id_b));
	assert_int_equal(sessions.shares.total, 3);
	session_remove(&sessions, a);
	assert_null(session_find(&sessions, 1, id_a));
	assert_ptr_equal(session_find(&sessions, 2, id_a), other);
	assert_int_equal(sessions.shares.total, 2);
	sessions_finish(&sessions);
	assert_int_equal(sessions.shares.total, 0);
}

/* More sessions than buckets, and removal from the middle of a bucket. */
static void test_many_sessions(void **state)
{
	enum { COUNT = 3 * SESSIONS_BUCKETS };
	struct sessions sessions;
	(void)state;
	sessions_init(&sessions, 4);
	for (uint32_t i = 0; i < COUNT; i++) {
		uint8_t id[DEDUPE_SESSION_BYTES] = {0};
		memcpy(id, &i, sizeof(i));
		assert_non_null(session_add(&sessions, 7, id));
	}
	for (uint32_t i = 0; i < COUNT; i += 2) {
		uint8_t id[DEDUPE_SESSION_BYTES] = {0};
		memcpy(id, &i, sizeof(i));
		session_remove(&sessions, session_find(&sessions, 7, id));
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		uint8_t id[DEDUPE_SESSION_BYTES] = {0};
		memcpy(id, &i, sizeof(i));
		assert_int_equal(session_find(&sessions, 7, id) != NULL, i % 2 == 1);
	}
	assert_int_equal(sessions.shares.total, COUNT / 2);
	sessions_finish(&sessions);
}

static void test_the_least_recently_used_stands_first(void **state)
{
	struct sessions sessions;
	(void)state;
	bed_set_clocks();
	sessions_init(&sessions, 4);
	struct session *a = session_add(&sessions, 1, id_a);
	struct session *b = session_add(&sessions, 1, id_b);
	assert_ptr_equal(sessions.recent.next, &a->recent);
	uint64_t before_us = a->last_used_us;
	bed_now_us += 5;
	session_touch(&sessions, a);
	assert_int_equal(a->last_used_us, before_us + 5);
	assert_int_equal(b->last_used_us, before_us);
	assert_ptr_equal(sessions.recent.next, &b->recent);
	assert_ptr_equal(sessions.recent.prev, &a->recent);
	sessions_finish(&sessions);
}

static void test_floors(void **state)
{
	struct sessions sessions;
	(void)state;
	sessions_init(&sessions, 1024);
	struct session *session = session_add(&sessions, 1, id_a);
	assert_int_equal(session_floor(&sessions, session), 0);
	session->max_seq = 1024;
	assert_int_equal(session_floor(&sessions, session), 0);
	session->max_seq = 1025;
	assert_int_equal(session_floor(&sessions, session), 1);
	session->done = 1000;
	assert_int_equal(session_floor(&sessions, session), 1000);
	session->max_seq = INT64_MAX;
	assert_int_equal(session_floor(&sessions, session), (uint64_t)INT64_MAX - 1024);
	session->done = UINT64_MAX;
	assert_int_equal(session_floor(&sessions, session), UINT64_MAX);
	sessions_finish(&sessions);
}

/* Random insertions, removals and drops beside a table of booleans. */
static void test_entries_agree_with_a_model(void **state)
{
	enum { SEQS = 200, ROUNDS = 20000 };
	struct sessions sessions;
	bool model[SEQS + 1] = {false};
	unsigned seed = 12345;
	(void)state;
	sessions_init(&sessions, 64);
	struct session *session = session_add(&sessions, 1, id_a);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t seq = 1 + (unsigned)rand_r(&seed) % SEQS;
		unsigned what = (unsigned)rand_r(&seed) % 100;
		if (what < 60) {
			if (!model[seq]) {
				struct entry entry = {.seq = seq, .commit_no = seq * 3};
				assert_int_equal(entry_insert(&sessions, session, &entry), 0);
				model[seq] = true;
			}
		} else if (what < 90) {
			entry_remove(&sessions, session, seq); /* there or not */
			model[seq] = false;
		} else if (what < 93) {
			uint64_t floor = seq / 3;
			session_drop_below(&sessions, session, floor);
			for (uint64_t i = 0; i <= floor; i++) {
				model[i] = false;
			}
		}
		const struct entry *entry = entry_find(session, seq);
		assert_int_equal(entry != NULL, model[seq]);
		assert_true(entry == NULL || (entry->seq == seq && entry->commit_no == seq * 3));
		if (round % 100 == 0) {
			uint64_t count = 0;
			for (uint64_t i = 1; i <= SEQS; i++) {
				count += model[i];
				assert_int_equal(entry_find(session, i) != NULL, model[i]);
			}
			assert_int_equal(session->count, count);
			assert_int_equal(sessions.replies, count);
		}
	}
	/* The array stays small: what was dropped in front is used again. */
	assert_true(session->cap <= 512);
	session_remove(&sessions, session);
	assert_int_equal(sessions.replies, 0);
	sessions_finish(&sessions);
}

/* A client that answers in order for ever holds one window's worth of memory. */
static void test_a_long_life_in_bounded_memory(void **state)
{
	struct sessions sessions;
	(void)state;
	sessions_init(&sessions, 64);
	struct session *session = session_add(&sessions, 1, id_a);
	for (uint64_t seq = 1; seq <= 100000; seq++) {
		struct entry entry = {.seq = seq};
		assert_int_equal(entry_insert(&sessions, session, &entry), 0);
		session->max_seq = seq;
		session_drop_below(&sessions, session, session_floor(&sessions, session));
	}
	assert_int_equal(session->count, 64);
	assert_true(session->cap <= 256);
	assert_null(entry_find(session, 100000 - 64));
	assert_non_null(entry_find(session, 100000 - 63));
	sessions_finish(&sessions);
}

static void test_arrays_grow(void **state)
{
	void *array = NULL;
	size_t cap = 0;
	(void)state;
	for (size_t count = 0; count < 100; count++) {
		assert_int_equal(array_grow(&array, &cap, count, sizeof(uint64_t)), 0);
		assert_true(cap > count);
		((uint64_t *)array)[count] = count;
	}
	assert_int_equal(((uint64_t *)array)[50], 50);
	free(array);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_session_is_known_by_uid_and_id),
		cmocka_unit_test(test_many_sessions),
		cmocka_unit_test(test_the_least_recently_used_stands_first),
		cmocka_unit_test(test_floors),
		cmocka_unit_test(test_entries_agree_with_a_model),
		cmocka_unit_test(test_a_long_life_in_bounded_memory),
		cmocka_unit_test(test_arrays_grow),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
