/* SPDX-License-Identifier: MIT */

/*
 * Watching, seen from the client: it asks again on each connection with what it knows, tells changes in
 * order, and what does not fit becomes a range.
 */

#include "tests/unit/engine_peer.h"

static struct peer peer;
static struct watch *watch;

static int set_up(void **state)
{
	struct buffer wish;
	msgpack_packer packer;
	(void)state;
	peer_init(&peer, true, false);
	buffer_init(&wish, 0);
	buffer_packer(&wish, &packer);
	pack_cstr(&packer, "channels");
	msgpack_pack_array(&packer, 1);
	pack_cstr(&packer, "mail");
	assert_int_equal(engine_watch_add(&peer.engine, &wish, 1, &watch), 0);
	buffer_finish(&wish);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	peer_finish(&peer);
	return 0;
}

/* Connects, answers hello, and returns the id of the `watch` that follows. */
static uint32_t connect_peer(uint8_t epoch)
{
	assert_int_equal(engine_connected(&peer.engine), 0);
	assert_true(hear_all(&peer) == 1);
	assert_int_equal(hello_says(&peer, peer.heard[0].id, epoch, NULL, 0), 0);
	assert_true(engine_wants_output(&peer.engine));
	assert_int_equal(hear_all(&peer), 1);
	assert_string_equal(peer.heard[0].method, "watch");
	assert_int_equal(watch->state, WATCH_ASKED);
	return peer.heard[0].id;
}

static void lose(void)
{
	engine_disconnected(&peer.engine, "gone");
	frame_reader_finish(&peer.reader);
	frame_reader_init(&peer.reader, FRAME_MAX_LIMIT);
}

static void answer(uint32_t id, uint8_t epoch, uint64_t remote, uint64_t commit)
{
	uint8_t bytes[16] = {epoch};
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_result(&buf, id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 3);
	pack_key_uint(&packer, "watch", remote);
	pack_key_uint(&packer, "commit", commit);
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, bytes, 16);
	frame_end(&buf, mark);
	assert_int_equal(feed(&peer, &buf), 0);
	assert_int_equal(watch->state, WATCH_ON);
}

static void notice(const char *method, uint64_t remote, uint64_t from, uint64_t to)
{
	struct buffer buf;
	msgpack_packer packer;
	bool missed = strcmp(method, "missed") == 0;
	buffer_init(&buf, 0);
	size_t mark = message_begin_notice(&buf, method);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 3);
	pack_key_uint(&packer, "watch", remote);
	if (missed) {
		pack_key_uint(&packer, "from", from);
		pack_key_uint(&packer, "to", to);
	} else {
		pack_key_uint(&packer, "commit", to);
		pack_cstr(&packer, "channels");
		msgpack_pack_array(&packer, 1);
		pack_cstr(&packer, "mail");
	}
	frame_end(&buf, mark);
	assert_int_equal(feed(&peer, &buf), 0);
}

static void next_is(enum lf_change_kind kind, uint64_t from, uint64_t to)
{
	struct lf_change *change = engine_take_change(&peer.engine);
	assert_non_null(change);
	assert_int_equal(lf_change_kind(change), kind);
	assert_int_equal(lf_change_watch(change), watch->number);
	assert_int_equal(lf_change_from(change), from);
	assert_int_equal(lf_change_commit(change), to);
	if (kind == LF_CHANGE_COMMIT) {
		assert_int_equal(lf_change_channels(change), 1);
		assert_string_equal(lf_change_channel(change, 0), "mail");
		assert_null(lf_change_channel(change, 1));
	}
	assert_int_equal(lf_change_tables(change), 0);
	lf_change_free(change);
}

static void nothing_more(void)
{
	assert_null(engine_take_change(&peer.engine));
}

static void changes_come_in_order(void **state)
{
	(void)state;
	uint32_t id = connect_peer(1);
	assert_false(watch->begun);
	answer(id, 1, 5, 10);
	notice("commit", 5, 0, 11);
	notice("commit", 6, 0, 12); /* of no watch of ours */
	notice("commit", 5, 0, 13);
	notice("missed", 5, 14, 20);
	notice("elephants", 5, 0, 21);
	next_is(LF_CHANGE_COMMIT, 11, 11);
	next_is(LF_CHANGE_COMMIT, 13, 13);
	next_is(LF_CHANGE_MISSED, 14, 20);
	nothing_more();
}

static void each_connection_is_asked_again(void **state)
{
	(void)state;
	answer(connect_peer(1), 1, 5, 10);
	notice("commit", 5, 0, 11);
	lose();
	assert_true(engine_watches_wanted(&peer.engine));
	uint32_t id = connect_peer(1);
	assert_int_equal(watch->seen, 11);
	answer(id, 1, 1, 15);
	/* Lost before the range was told: it is asked for once more. */
	lose();
	id = connect_peer(1);
	assert_int_equal(watch->seen, 11);
	answer(id, 1, 2, 15);
	notice("missed", 2, 12, 15);
	/* A restored database begins anew. */
	lose();
	answer(connect_peer(2), 2, 3, 4);
	notice("missed", 3, 1, 4);
	notice("commit", 3, 0, 5);
	next_is(LF_CHANGE_COMMIT, 11, 11);
	next_is(LF_CHANGE_MISSED, 12, 15);
	next_is(LF_CHANGE_MISSED, 1, 4);
	next_is(LF_CHANGE_COMMIT, 5, 5);
	nothing_more();
}

static void what_does_not_fit_is_a_range(void **state)
{
	(void)state;
	answer(connect_peer(1), 1, 5, 0);
	for (uint64_t commit = 1; commit <= WATCH_CHANGES_MAX + 100; commit++) {
		notice("commit", 5, 0, commit);
	}
	for (uint64_t commit = 1; commit <= WATCH_CHANGES_MAX; commit++) {
		next_is(LF_CHANGE_COMMIT, commit, commit);
	}
	next_is(LF_CHANGE_MISSED, WATCH_CHANGES_MAX + 1, WATCH_CHANGES_MAX + 100);
	nothing_more();
	notice("commit", 5, 0, WATCH_CHANGES_MAX + 101);
	next_is(LF_CHANGE_COMMIT, WATCH_CHANGES_MAX + 101, WATCH_CHANGES_MAX + 101);
}

static void a_refusal_ends_it(void **state)
{
	(void)state;
	answer(connect_peer(1), 1, 5, 10);
	lose();
	assert_int_equal(refused(&peer, connect_peer(1), "denied", "no", false, -1), 0);
	struct lf_change *change = engine_take_change(&peer.engine);
	assert_int_equal(lf_change_kind(change), LF_CHANGE_ENDED);
	assert_string_equal(lf_change_message(change), "denied: words of the daemon");
	lf_change_free(change);
	lose();
	assert_false(engine_watches_wanted(&peer.engine));
}

static void an_end_is_said(void **state)
{
	(void)state;
	answer(connect_peer(1), 1, 5, 10);
	engine_watch_remove(&peer.engine, watch);
	assert_int_equal(hear_all(&peer), 1);
	assert_string_equal(peer.heard[0].method, "unwatch");
	notice("commit", 5, 0, 11); /* it was on its way */
	nothing_more();
}

static void a_child_has_none(void **state)
{
	(void)state;
	answer(connect_peer(1), 1, 5, 10);
	notice("commit", 5, 0, 11);
	engine_forked(&peer.engine);
	nothing_more();
	assert_false(engine_watches_wanted(&peer.engine));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(changes_come_in_order, set_up, tear_down),
		cmocka_unit_test_setup_teardown(each_connection_is_asked_again, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_does_not_fit_is_a_range, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_refusal_ends_it, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_end_is_said, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_child_has_none, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
