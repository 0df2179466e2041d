/* SPDX-License-Identifier: MIT */

/*
 * One user does not take the last of what is remembered from everybody else: sessions and free
 * keys, through rollbacks, sweeps and restarts.
 */

#include "server/store/dedupe_inside.h"
#include "tests/unit/bed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	GREEDY = 1001,
	OTHER = 1002,
	THIRD = 1003,
	MAX = 64,
	ALL_BUT_THE_LAST = 48, /* three quarters */
	FEW = 4,               /* a sixteenth */
};

#define HOUR (3600ull * 1000000)

static const struct dedupe_limits limits = {MAX, HOUR, MAX, HOUR};

static int set_up(void **state)
{
	static struct bed bed;
	bed_make(&bed);
	dedupe_set_limits(store_dedupe(bed.store), &limits);
	*state = &bed;
	return 0;
}

static int tear_down(void **state)
{
	bed_remove(*state);
	return 0;
}

static struct identity identity_of(enum identity_kind kind, uint32_t uid, const char *name)
{
	struct identity identity = {.kind = kind, .uid = uid, .hash = "content"};
	if (kind == IDENTITY_KEY) {
		identity.key = (struct bytes){name, strlen(name)};
	} else {
		identity.seq = 1;
		memcpy(identity.session, name, strlen(name));
	}
	return identity;
}

static int ask(struct bed *bed, const struct identity *identity)
{
	struct dedupe_reply reply;
	int verdict = dedupe_check(store_dedupe(bed->store), identity, &reply);
	free(reply.payload);
	return verdict;
}

/* How many of so many new ones this user gets, in the open transaction. */
static int take(struct bed *bed, enum identity_kind kind, uint32_t uid, int wanted)
{
	static int number;
	int got = 0;
	for (int i = 0; i < wanted; i++) {
		char name[16];
		(void)snprintf(name, sizeof(name), "n%d", number++);
		struct identity identity = identity_of(kind, uid, name);
		int verdict = ask(bed, &identity);
		if (verdict == DEDUPE_NEW) {
			assert_int_equal(dedupe_remember(store_dedupe(bed->store), &identity,
						 (struct bytes){"answer", 6}),
				0);
			got++;
		} else {
			assert_int_equal(verdict, DEDUPE_FULL);
		}
	}
	return got;
}

static int take_and_commit(struct bed *bed, enum identity_kind kind, uint32_t uid, int wanted)
{
	bed_begin(bed->store);
	int got = take(bed, kind, uid, wanted);
	bed_commit(bed->store);
	return got;
}

static void the_last_quarter_is_for_others(struct bed *bed, enum identity_kind kind)
{
	/* What was rolled back is nobody's. */
	bed_begin(bed->store);
	assert_int_equal(take(bed, kind, GREEDY, MAX), ALL_BUT_THE_LAST);
	store_rollback(bed->store);

	assert_int_equal(take_and_commit(bed, kind, GREEDY, MAX), ALL_BUT_THE_LAST);
	assert_int_equal(take_and_commit(bed, kind, OTHER, MAX), FEW);
	bed_reopen(bed);
	dedupe_set_limits(store_dedupe(bed->store), &limits);
	assert_int_equal(take_and_commit(bed, kind, GREEDY, 1), 0);
	assert_int_equal(take_and_commit(bed, kind, OTHER, 1), 0);
	assert_int_equal(take_and_commit(bed, kind, THIRD, MAX), FEW);

	/* They have grown old: all is free again, for whoever comes first. */
	bed_now_us += 2 * HOUR;
	assert_int_equal(take_and_commit(bed, kind, OTHER, MAX), ALL_BUT_THE_LAST);
	assert_int_equal(take_and_commit(bed, kind, GREEDY, MAX), FEW);
}

static void test_sessions(void **state)
{
	the_last_quarter_is_for_others(*state, IDENTITY_SEQ);
}

static void test_free_keys(void **state)
{
	the_last_quarter_is_for_others(*state, IDENTITY_KEY);
}

/* What is known is answered, however much its user has. */
static void test_a_repeat_needs_no_room(void **state)
{
	struct bed *bed = *state;
	struct identity known = identity_of(IDENTITY_KEY, GREEDY, "known");
	bed_begin(bed->store);
	assert_int_equal(ask(bed, &known), DEDUPE_NEW);
	assert_int_equal(
		dedupe_remember(store_dedupe(bed->store), &known, (struct bytes){"a", 1}), 0);
	bed_commit(bed->store);
	assert_int_equal(take_and_commit(bed, IDENTITY_KEY, GREEDY, MAX), ALL_BUT_THE_LAST - 1);
	bed_begin(bed->store);
	assert_int_equal(ask(bed, &known), DEDUPE_REPEAT);
	store_rollback(bed->store);
}

static void test_a_small_limit_is_everybodys(void **state)
{
	struct bed *bed = *state;
	struct dedupe_limits few = limits;
	few.sessions_max = few.keys_max = SHARES_MIN - 1;
	dedupe_set_limits(store_dedupe(bed->store), &few);
	assert_int_equal(take_and_commit(bed, IDENTITY_KEY, GREEDY, MAX), SHARES_MIN - 1);
	assert_int_equal(take_and_commit(bed, IDENTITY_SEQ, GREEDY, MAX), SHARES_MIN - 1);
	assert_int_equal(take_and_commit(bed, IDENTITY_SEQ, OTHER, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_sessions, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_free_keys, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_repeat_needs_no_room, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			test_a_small_limit_is_everybodys, set_up, tear_down),
	};
	bed_set_clocks();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
