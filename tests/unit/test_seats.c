/* SPDX-License-Identifier: MIT */

/* Who must go when there is no seat for all: peers are made up, only their users and what they do count. */

#include "server/funnel/peer.h"
#include "server/funnel/seats.h"
#include "tests/unit/cmocka_all.h"

enum { PEERS = 16, ALICE = 1001, BOB = 1002, ROOT = 0 };

struct hall {
	struct seats seats;
	struct peer peers[PEERS];
	struct credentials who[PEERS];
	size_t count;
};

static void open_hall(struct hall *hall)
{
	*hall = (struct hall){0};
	seats_init(&hall->seats);
}

/* One more, with its seat. */
static struct peer *come(struct hall *hall, uid_t uid)
{
	struct peer *peer = &hall->peers[hall->count];
	struct credentials *who = &hall->who[hall->count++];
	assert_true(hall->count <= PEERS);
	who->uid = uid;
	who->role = uid == ROOT ? ROLE_ADMIN : ROLE_DDL;
	peer->credentials = who;
	peer->state = PEER_OPEN;
	list_init(&peer->seat);
	list_init(&peer->leases);
	assert_int_equal(seats_take(&hall->seats, peer), 0);
	return peer;
}

static void close_hall(struct hall *hall)
{
	for (size_t i = 0; i < hall->count; i++) {
		seats_leave(&hall->seats, &hall->peers[i]);
		seats_leave(&hall->seats, &hall->peers[i]); /* harmless */
	}
	assert_int_equal(hall->seats.taken, 0);
	assert_true(list_empty(&hall->seats.users));
}

static void test_one_user_may_have_every_seat(void **state)
{
	struct hall hall;
	(void)state;
	open_hall(&hall);
	for (int i = 0; i < 4; i++) {
		assert_null(seats_one_too_many(&hall.seats, come(&hall, ALICE), 4, 0));
	}
	struct peer *fifth = come(&hall, ALICE);
	assert_ptr_equal(seats_one_too_many(&hall.seats, fifth, 4, 0), fifth);
	close_hall(&hall);
}

static void test_who_has_fewer_gets_one_of_who_has_most(void **state)
{
	struct hall hall;
	(void)state;
	open_hall(&hall);
	for (int i = 0; i < 4; i++) {
		(void)come(&hall, ALICE);
	}
	struct peer *first = come(&hall, BOB);
	assert_ptr_equal(seats_one_too_many(&hall.seats, first, 4, 0), &hall.peers[3]);
	seats_leave(&hall.seats, &hall.peers[3]);
	struct peer *second = come(&hall, BOB);
	assert_ptr_equal(seats_one_too_many(&hall.seats, second, 4, 0), &hall.peers[2]);
	seats_leave(&hall.seats, &hall.peers[2]);
	/* Two and two: whoever comes now would only push another out. */
	struct peer *third = come(&hall, BOB);
	assert_ptr_equal(seats_one_too_many(&hall.seats, third, 4, 0), third);
	seats_leave(&hall.seats, third);
	struct peer *again = come(&hall, ALICE);
	assert_ptr_equal(seats_one_too_many(&hall.seats, again, 4, 0), again);
	close_hall(&hall);
}

static void test_the_newest_goes_that_it_costs_nothing(void **state)
{
	struct hall hall;
	(void)state;
	open_hall(&hall);
	for (int i = 0; i < 4; i++) {
		(void)come(&hall, ALICE);
	}
	struct list lease;
	list_init(&lease);
	hall.peers[3].in_flight_count = 1;
	list_push_back(&hall.peers[2].leases, &lease);
	struct peer *bob = come(&hall, BOB);
	assert_ptr_equal(seats_one_too_many(&hall.seats, bob, 4, 0), &hall.peers[1]);
	hall.peers[1].out.len = 1;
	assert_ptr_equal(seats_one_too_many(&hall.seats, bob, 4, 0), &hall.peers[0]);
	hall.peers[0].in_flight_count = 1; /* everybody works: then somebody must be cut off */
	assert_ptr_equal(seats_one_too_many(&hall.seats, bob, 4, 0), &hall.peers[3]);
	hall.peers[0].state = PEER_CLOSING; /* has been told already */
	assert_ptr_equal(seats_one_too_many(&hall.seats, bob, 4, 0), &hall.peers[0]);
	close_hall(&hall);
}

static void test_administrators_always_find_a_seat(void **state)
{
	struct hall hall;
	(void)state;
	open_hall(&hall);
	for (int i = 0; i < 6; i++) { /* four seats, and the two that are theirs */
		assert_null(seats_one_too_many(&hall.seats, come(&hall, ROOT), 4, 2));
	}
	struct peer *late = come(&hall, ROOT);
	assert_ptr_equal(seats_one_too_many(&hall.seats, late, 4, 2), &hall.peers[5]);
	for (int i = 0; i < 6; i++) {
		hall.peers[i].in_flight_count = 1;
	}
	assert_ptr_equal(seats_one_too_many(&hall.seats, late, 4, 2), late);
	seats_leave(&hall.seats, late);
	struct peer *alice =
		come(&hall, ALICE); /* their seats are not hers, but theirs are too many */
	assert_ptr_equal(seats_one_too_many(&hall.seats, alice, 4, 2), &hall.peers[5]);
	close_hall(&hall);
}

static void test_administrators_disturb_nobody_while_they_have_seats(void **state)
{
	struct hall hall;
	(void)state;
	open_hall(&hall);
	for (int i = 0; i < 4; i++) {
		(void)come(&hall, ALICE);
	}
	assert_null(seats_one_too_many(&hall.seats, come(&hall, ROOT), 4, 1));
	struct peer *second = come(&hall, ROOT);
	assert_ptr_equal(seats_one_too_many(&hall.seats, second, 4, 1), &hall.peers[3]);
	seats_leave(&hall.seats, &hall.peers[3]);
	close_hall(&hall);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_user_may_have_every_seat),
		cmocka_unit_test(test_who_has_fewer_gets_one_of_who_has_most),
		cmocka_unit_test(test_the_newest_goes_that_it_costs_nothing),
		cmocka_unit_test(test_administrators_always_find_a_seat),
		cmocka_unit_test(test_administrators_disturb_nobody_while_they_have_seats),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
