/* SPDX-License-Identifier: MIT */

/* Conversations with the engine: what is said, resent, and never said again. */

#include "tests/unit/engine_talk.h"
#include "tests/unit/fail_alloc.h"

/* ---- hello and pipelining -------------------------------------------------------------------- */

static void first_requests_go_with_hello(void)
{
	uint64_t a = submit(&write_ask);
	uint64_t b = submit(&write_ask);
	assert_int_equal(engine_connected(&peer.engine), 0);
	assert_int_equal(hear_all(&peer), 3);
	assert_string_equal(peer.heard[0].method, "hello");
	assert_true(peer.heard[0].has_session);
	assert_false(peer.heard[0].has_seen);
	assert_int_equal(peer.heard[1].seq, 1);
	assert_int_equal(peer.heard[2].seq, 2);
	assert_int_equal(hello_says(&peer, peer.heard[0].id, 1, NULL, 0), 0);
	assert_int_equal(applied(&peer, peer.heard[2].id, 9), 0);
	assert_int_equal(applied(&peer, peer.heard[1].id, 8), 0);
	assert_true(engine_healthy(&peer.engine));
	is_ok(b);
	is_ok(a);
	assert_int_equal(peer.engine.commit, 9);
}

static void large_first_request_waits_for_hello(void)
{
	const struct ask large = {.kind = PENDING_WRITE, .bytes = 65000};
	uint64_t a = submit(&write_ask);
	uint64_t b = submit(&large);
	uint64_t c = submit(&write_ask);
	connect_peer(1);
	assert_int_equal(peer.count, 2);
	assert_int_equal(hear_all(&peer), 2);
	assert_int_equal(peer.heard[0].seq, 2); /* nothing small went past it */
	assert_int_equal(peer.heard[1].seq, 3);
	assert_true(peer.heard[0].batch_len > 65000);
	is_open(a);
	is_open(b);
	is_open(c);
}

static void reconnect_shows_the_epoch_and_waits(void)
{
	uint64_t a = submit(&write_ask);
	connect_peer(1);
	lose();
	assert_int_equal(engine_connected(&peer.engine), 0);
	assert_int_equal(hear_all(&peer), 1);
	assert_true(peer.heard[0].has_seen);
	assert_int_equal(peer.heard[0].session[0], 1);
	is_open(a);
}

static void refused_hello_fails_what_was_never_sent(void)
{
	uint64_t a = submit(&write_ask);
	uint64_t b = submit(&write_ask);
	assert_int_equal(engine_connected(&peer.engine), 0);
	hear_all(
		&peer); /* a and b go behind hello, but a daemon that refuses it executes nothing */
	assert_int_equal(refused(&peer, peer.heard[0].id, "denied", "no", false, -1), ENGINE_CLOSE);
	is_failed(a, "denied");
	is_failed(b, "denied");
}

static void refused_hello_leaves_lost_ones_unknown(void)
{
	uint64_t a = submit(&write_ask);
	connect_peer(1);
	lose();
	uint64_t b = submit(&write_ask);
	assert_int_equal(engine_connected(&peer.engine), 0);
	hear_all(&peer);
	assert_int_equal(refused(&peer, peer.heard[0].id, "unsupported_proto", "no", false, -1),
		ENGINE_CLOSE);
	is_unknown(a);
	is_failed(b, "unsupported_proto");
}

static void overloaded_hello_is_tried_again(void)
{
	uint64_t a = submit(&write_ask);
	assert_int_equal(engine_connected(&peer.engine), 0);
	hear_all(&peer);
	assert_int_equal(
		refused(&peer, peer.heard[0].id, "overloaded", "no", true, 300), ENGINE_CLOSE);
	assert_int_equal(peer.engine.reconnect_after_ms, 300);
	lose();
	peer.now_ms += 2000;
	hear_all(&peer);
	is_failed(a, "deadline"); /* never executed: not in doubt */
}

/* ---- seq, done, window ----------------------------------------------------------------------- */

static void done_is_below_the_oldest_unanswered(void)
{
	uint64_t tickets[4];
	connect_peer(1);
	for (int i = 0; i < 3; i++) {
		tickets[i] = submit(&write_ask);
	}
	hear_all(&peer);
	assert_int_equal(peer.heard[2].seq, 3);
	assert_int_equal(peer.heard[2].done, 0);
	uint32_t first = peer.heard[0].id;
	applied(&peer, peer.heard[1].id, 1);
	submit(&write_ask);
	assert_int_equal(hear_all(&peer), 1);
	assert_int_equal(peer.heard[0].done, 0);
	applied(&peer, first, 2);
	submit(&write_ask);
	assert_int_equal(hear_all(&peer), 1);
	assert_int_equal(peer.heard[0].seq, 5);
	assert_int_equal(peer.heard[0].done, 2);
	is_ok(tickets[0]);
	is_ok(tickets[1]);
	is_open(tickets[2]);
}

static void window_is_by_number(void)
{
	const struct limit limits[] = {{"session_window", 4}};
	uint64_t ticket = 0;
	connect_limited(1, limits, 1);
	submit(&write_ask);
	submit(&write_ask);
	submit(&write_ask);
	hear_all(&peer);
	uint32_t oldest = peer.heard[0].id;
	applied(&peer, peer.heard[1].id, 1);
	applied(&peer, peer.heard[2].id, 2);
	submit(&write_ask); /* 4: one is unanswered, and 4 - 1 < 4 */
	assert_int_equal(ask_engine(&peer, &write_ask, &ticket), 1);
	hear_all(&peer);
	assert_int_equal(ask_engine(&peer, &write_ask, &ticket), 1);
	applied(&peer, oldest, 3);
	assert_int_equal(ask_engine(&peer, &write_ask, &ticket), 0);
}

static void smaller_window_holds_what_was_submitted_before(void)
{
	const struct ask large = {.kind = PENDING_WRITE, .bytes = 65000};
	const struct limit limits[] = {{"session_window", 2}};
	submit(&large);
	for (int i = 0; i < 5; i++) {
		submit(&write_ask);
	}
	connect_limited(1, limits, 1);
	assert_int_equal(hear_all(&peer), 2);
	applied(&peer, peer.heard[0].id, 1);
	assert_int_equal(hear_all(&peer), 1);
	assert_int_equal(peer.heard[0].seq, 3);
}

static void in_flight_limit_holds(void)
{
	const struct limit limits[] = {{"in_flight", 2}};
	connect_limited(1, limits, 1);
	for (int i = 0; i < 5; i++) {
		submit(&write_ask);
	}
	assert_true(engine_wants_output(&peer.engine)); /* what lf_events() tells an event loop */
	assert_int_equal(hear_all(&peer), 2);
	assert_false(engine_wants_output(&peer.engine)); /* or it would spin */
	applied(&peer, peer.heard[1].id, 1);
	assert_true(engine_wants_output(&peer.engine));
	assert_int_equal(hear_all(&peer), 1);
	assert_int_equal(peer.heard[0].seq, 3);
	assert_int_equal(engine_unsent(&peer.engine), 2);
}

/* ---- resending ------------------------------------------------------------------------------- */

static void resend_is_the_same_and_first(void)
{
	struct heard before[3];
	connect_peer(1);
	submit(&write_ask);
	submit(&write_ask);
	submit(&write_ask);
	hear_all(&peer);
	memcpy(before, peer.heard, sizeof(before));
	applied(&peer, peer.heard[1].id, 1);
	lose();
	uint64_t newer = submit(&write_ask);
	peer.now_ms += 100;
	connect_peer(1);
	assert_int_equal(peer.count, 1);
	assert_int_equal(hear_all(&peer), 3);
	assert_int_equal(peer.heard[0].seq, 1);
	assert_int_equal(peer.heard[1].seq, 3);
	assert_int_equal(peer.heard[2].seq, 4);
	assert_memory_equal(peer.heard[0].batch_hash, before[0].batch_hash, 8);
	assert_memory_equal(peer.heard[1].batch_hash, before[2].batch_hash, 8);
	assert_int_equal(before[0].deadline_ms, 1000);
	assert_int_equal(peer.heard[0].deadline_ms, 900);
	assert_int_equal(peer.heard[2].deadline_ms, 900);
	assert_int_equal(peer.heard[0].done, 0);
	is_open(newer);
}

static void keyed_is_resent_without_a_number(void)
{
	const struct ask keyed = {.kind = PENDING_WRITE, .key = "order-1"};
	connect_peer(1);
	uint64_t a = submit(&keyed);
	hear_all(&peer);
	assert_string_equal(peer.heard[0].key, "order-1");
	assert_int_equal(peer.heard[0].seq, 0);
	lose();
	connect_peer(1);
	assert_int_equal(hear_all(&peer), 1);
	assert_string_equal(peer.heard[0].key, "order-1");
	applied(&peer, peer.heard[0].id, 4);
	is_ok(a);
}

static void reads_are_resent_and_admin_is_not(void)
{
	const struct ask ping = {.kind = PENDING_READ, .method = "ping"};
	const struct ask admin = {.kind = PENDING_ADMIN, .method = "shutdown"};
	connect_peer(1);
	uint64_t a = submit(&ping);
	uint64_t b = submit(&admin);
	assert_int_equal(hear_all(&peer), 2);
	lose();
	is_unknown(b);
	uint64_t c = submit(&admin); /* not sent yet: nothing speaks against sending it */
	connect_peer(1);
	assert_int_equal(hear_all(&peer), 2);
	assert_string_equal(peer.heard[0].method, "ping");
	assert_string_equal(peer.heard[1].method, "shutdown");
	applied(&peer, peer.heard[0].id, 1);
	applied(&peer, peer.heard[1].id, 1);
	is_ok(a);
	is_ok(c);
}

static void too_old_is_not_resent(void)
{
	const struct ask patient = {.kind = PENDING_WRITE, .deadline_ms = 100000};
	const struct ask keyed = {.kind = PENDING_WRITE, .deadline_ms = 100000, .key = "k"};
	const struct limit limits[] = {{"session_ttl_s", 10}, {"key_ttl_s", 20}};
	connect_limited(1, limits, 2);
	uint64_t a = submit(&patient);
	uint64_t k = submit(&keyed);
	hear_all(&peer);
	lose();
	uint64_t never_sent = submit(&patient);
	peer.now_ms += 9999;
	connect_limited(1, limits, 2);
	assert_int_equal(hear_all(&peer), 3);
	lose();
	peer.now_ms += 1;
	connect_limited(1, limits, 2);
	assert_int_equal(hear_all(&peer), 2);
	is_unknown(a);
	is_open(k);
	is_open(never_sent);
	lose();
	peer.now_ms += 9999;
	connect_limited(1, limits, 2);
	assert_int_equal(hear_all(&peer), 1); /* 9999 ms since it was first sent */
	lose();
	peer.now_ms += 1;
	connect_limited(1, limits, 2);
	assert_int_equal(hear_all(&peer), 0);
	is_unknown(k);
	is_unknown(never_sent);
}

/* ---- epochs and sessions --------------------------------------------------------------------- */

static void other_epoch_makes_lost_ones_unknown(void)
{
	const struct ask keyed = {.kind = PENDING_WRITE, .key = "k"};
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	uint64_t k = submit(&keyed);
	hear_all(&peer);
	uint64_t r = submit(&write_ask);
	hear_all(&peer);
	refused(&peer, peer.heard[0].id, "overloaded", "no", true, 500);
	lose();
	uint64_t b = submit(&write_ask);
	connect_peer(2);
	is_unknown(a);
	is_unknown(k);
	is_open(r); /* answered "no": sure, so it may go into the next session */
	is_open(b);
	assert_int_equal(hear_all(&peer), 0);
	assert_true(engine_wants_reconnect(&peer.engine));
	lose();
	connect_peer(2);
	assert_int_equal(peer.heard[0].session[0], 2);
	assert_false(engine_wants_reconnect(&peer.engine));
	assert_int_equal(hear_all(&peer), 2);
	assert_int_equal(peer.heard[0].seq, 1);
	assert_int_equal(peer.heard[1].seq, 2);
	applied(&peer, peer.heard[0].id, 1);
	applied(&peer, peer.heard[1].id, 2);
	is_ok(r);
	is_ok(b);
}

static void expired_session_is_replaced(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	uint64_t b = submit(&write_ask);
	hear_all(&peer);
	uint32_t second = peer.heard[1].id;
	refused(&peer, peer.heard[0].id, "session_expired", "unknown", false, -1);
	outcome_is(a, LF_UNKNOWN, "session_expired", LF_APPLIED_UNKNOWN);
	uint64_t c = submit(&write_ask);
	assert_int_equal(hear_all(&peer), 0); /* nothing new goes into it */
	assert_false(engine_wants_reconnect(&peer.engine));
	applied(&peer, second, 1);
	is_ok(b);
	assert_true(engine_wants_reconnect(&peer.engine));
	lose();
	connect_peer(1);
	assert_int_equal(peer.heard[0].session[0], 2);
	assert_int_equal(hear_all(&peer), 1);
	assert_int_equal(peer.heard[0].seq, 1);
	applied(&peer, peer.heard[0].id, 2);
	is_ok(c);
}

static void forked_child_begins_anew(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	uint64_t b = submit(&write_ask);
	engine_forked(&peer.engine);
	is_unknown(a);
	is_unknown(b); /* the parent sends it */
	uint64_t c = submit(&write_ask);
	connect_peer(1);
	assert_int_equal(peer.heard[0].session[0], 2);
	assert_int_equal(hear_all(&peer), 1);
	assert_int_equal(peer.heard[0].seq, 1);
	is_open(c);
}

static void bye_only_when_all_is_answered(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	uint32_t id = peer.heard[0].id;
	engine_bye(&peer.engine);
	assert_int_equal(hear_all(&peer), 0);
	applied(&peer, id, 1);
	engine_bye(&peer.engine);
	assert_int_equal(hear_all(&peer), 1);
	assert_string_equal(peer.heard[0].method, "bye");
	is_ok(a);
}

/* ---- no_retry -------------------------------------------------------------------------------- */

static void without_retry_nothing_is_numbered_or_repeated(void)
{
	peer_finish(&peer);
	peer_init(&peer, peer.bytewise, true);
	uint64_t a = submit(&write_ask);
	connect_peer(1);
	assert_false(peer.heard[0].has_session);
	assert_int_equal(peer.heard[1].seq, 0);
	assert_int_equal(peer.heard[1].done, 0);
	lose();
	is_unknown(a);
	uint64_t b = submit(&write_ask);
	connect_peer(1);
	assert_int_equal(hear_all(&peer), 1);
	refused(&peer, peer.heard[0].id, "overloaded", "no", true, 1);
	is_failed(b, "overloaded");
	uint64_t c = submit(&write_ask);
	lose(); /* before a byte was sent */
	connect_peer(1);
	assert_int_equal(hear_all(&peer), 1);
	applied(&peer, peer.heard[0].id, 1);
	is_ok(c);
	engine_bye(&peer.engine);
	assert_int_equal(hear_all(&peer), 0);
}

static void without_retry_an_epoch_changes_nothing(void)
{
	peer_finish(&peer);
	peer_init(&peer, peer.bytewise, true);
	connect_peer(1);
	lose();
	uint64_t a = submit(&write_ask);
	connect_peer(2);
	assert_false(engine_wants_reconnect(&peer.engine));
	assert_int_equal(hear_all(&peer), 1);
	is_open(a);
}

/* ---- limits and broken peers ----------------------------------------------------------------- */

static void too_large_is_told_without_sending(void)
{
	const struct limit limits[] = {{"frame", 1000}, {"nodes", 20}};
	const struct ask large = {.kind = PENDING_WRITE, .bytes = 1000};
	connect_limited(1, limits, 2);
	uint64_t a = submit(&large);
	uint64_t b = submit(&write_ask);
	assert_int_equal(hear_all(&peer), 1);
	is_failed(a, "too_large");
	assert_int_equal(peer.heard[0].seq, 1);
	is_open(b);
	peer.engine.limit_nodes = 12;
	uint64_t c = submit(&write_ask);
	assert_int_equal(hear_all(&peer), 0);
	is_failed(c, "too_large");
}

static void closing_with_an_id_ends_that_request(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	uint64_t b = submit(&write_ask);
	hear_all(&peer);
	assert_int_equal(closing(&peer, "too_large", peer.heard[0].id), ENGINE_CLOSE);
	is_failed(a, "too_large");
	is_open(b);
}

static void broken_bytes_end_the_connection(void)
{
	static const char *const frames[] = {
		"\xff\xff\xff\xff", "\0\0\0\1\xc1", "\0\0\0\0", "\0\0\0\1\xc0",
		"\0\0\0\5\x94\1\2\xc0\xc0", /* a result that is no map */
	};
	static const size_t lens[] = {4, 5, 4, 5, 9};
	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		struct buffer buf;
		connect_peer(1);
		submit(&write_ask);
		hear_all(&peer);
		buffer_init(&buf, 0);
		buffer_append(&buf, frames[i], lens[i]);
		assert_int_equal(feed(&peer, &buf), ENGINE_CLOSE);
		assert_true(peer.engine.why[0] != '\0');
		lose();
	}
}

static void strange_but_whole_messages_are_ignored(void)
{
	static const char *const frames[] = {"\0\0\0\4\x93\2\xa0\x80", "\0\0\0\5\x94\0\1\xa0\x80",
		"\0\0\0\4\x93\2\xa0\xc0", "\0\0\0\7\x94\1\xcd\x0f\xff\xc0\x80"};
	static const size_t lens[] = {8, 9, 8, 11};
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		struct buffer buf;
		buffer_init(&buf, 0);
		buffer_append(&buf, frames[i], lens[i]);
		assert_int_equal(feed(&peer, &buf), 0);
	}
	applied(&peer, peer.heard[0].id, 1);
	is_ok(a);
}

static void answer_before_hello_is_no_litefunnel(void)
{
	submit(&write_ask);
	assert_int_equal(engine_connected(&peer.engine), 0);
	hear_all(&peer);
	assert_int_equal(applied(&peer, peer.heard[1].id, 1), ENGINE_CLOSE);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static unsigned memory_fails_at;
static unsigned memory_asked;

static void memory_enters(bool engine)
{
	if (engine) {
		fail_alloc_at(memory_fails_at);
		fail_alloc_count = memory_asked;
	} else {
		memory_asked = fail_alloc_count;
		fail_alloc_at(0);
	}
}

/* One exchange; false if the connection is of no more use, for which client.c would drop it. */
static bool exchange_short_of_memory(size_t *ret_writes_heard)
{
	struct heard heard[16];
	int r = 0;
	if (peer.engine.link == LINK_DOWN) {
		enter(true);
		r = engine_connected(&peer.engine);
		enter(false);
	}
	if (r != 0) {
		return false;
	}
	hear_all(&peer);
	size_t count = peer.count;
	assert_true(count <= 16);
	memcpy(heard, peer.heard, sizeof(heard));
	for (size_t i = 0; r == 0 && i < count; i++) {
		bool hello = strcmp(heard[i].method, "hello") == 0;
		*ret_writes_heard += hello ? 0 : 1;
		r = hello ? hello_says(&peer, heard[i].id, 1, NULL, 0)
			  : applied(&peer, heard[i].id, 1);
	}
	return r == 0;
}

/*
 * A run that survives one failed allocation wherever it happens. Every ticket must get an outcome,
 * and what the peer answered counts.
 */
static void run_short_of_memory(unsigned which)
{
	uint64_t tickets[4] = {0};
	size_t heard = 0;
	size_t submitted = 0;
	size_t ok = 0;
	peer_init(&peer, false, false);
	memory_fails_at = which;
	memory_asked = 0;
	for (size_t i = 0; i < 4; i++) {
		const struct ask ask = {
			.kind = PENDING_WRITE, .bytes = 30000 * i, .key = i == 3 ? "k" : NULL};
		submitted += ask_engine(&peer, &ask, &tickets[i]) == 0 ? 1 : 0;
	}
	for (int turn = 0; turn < 8; turn++) {
		peer.now_ms += 10;
		if (!exchange_short_of_memory(&heard) || turn == 1) {
			lose();
		}
	}
	for (size_t i = 0; i < 4; i++) {
		struct lf_reply *reply =
			tickets[i] == 0 ? NULL : engine_take(&peer.engine, tickets[i]);
		ok += reply != NULL && reply->outcome == LF_OK ? 1 : 0;
		lf_reply_free(reply);
	}
	assert_int_equal(ok, submitted); /* one failed allocation costs a reconnect, no outcome */
	assert_true(submitted >= 3);
	assert_int_equal(peer.engine.open_count, 0);
	assert_int_equal(peer.engine.in_flight, 0);
	assert_int_equal(peer.engine.unnumbered, 0);
	peer_finish(&peer);
}

static void every_allocation_may_fail(void **state)
{
	(void)state;
	peer_enters = memory_enters;
	run_short_of_memory(0);
	unsigned count = memory_asked;
	assert_true(count > 20);
	for (unsigned i = 1; i <= count; i++) {
		run_short_of_memory(i);
	}
	peer_enters = NULL;
}

/* ---- running --------------------------------------------------------------------------------- */

static const struct conversation conversations[] = {
	CONVERSATION(first_requests_go_with_hello),
	CONVERSATION(large_first_request_waits_for_hello),
	CONVERSATION(reconnect_shows_the_epoch_and_waits),
	CONVERSATION(refused_hello_fails_what_was_never_sent),
	CONVERSATION(refused_hello_leaves_lost_ones_unknown),
	CONVERSATION(overloaded_hello_is_tried_again),
	CONVERSATION(done_is_below_the_oldest_unanswered),
	CONVERSATION(window_is_by_number),
	CONVERSATION(smaller_window_holds_what_was_submitted_before),
	CONVERSATION(in_flight_limit_holds),
	CONVERSATION(resend_is_the_same_and_first),
	CONVERSATION(keyed_is_resent_without_a_number),
	CONVERSATION(reads_are_resent_and_admin_is_not),
	CONVERSATION(too_old_is_not_resent),
	CONVERSATION(other_epoch_makes_lost_ones_unknown),
	CONVERSATION(expired_session_is_replaced),
	CONVERSATION(forked_child_begins_anew),
	CONVERSATION(bye_only_when_all_is_answered),
	CONVERSATION(without_retry_nothing_is_numbered_or_repeated),
	CONVERSATION(without_retry_an_epoch_changes_nothing),
	CONVERSATION(too_large_is_told_without_sending),
	CONVERSATION(closing_with_an_id_ends_that_request),
	CONVERSATION(broken_bytes_end_the_connection),
	CONVERSATION(strange_but_whole_messages_are_ignored),
	CONVERSATION(answer_before_hello_is_no_litefunnel),
};

enum { CONVERSATIONS = sizeof(conversations) / sizeof(conversations[0]) };

int main(void)
{
	struct CMUnitTest tests[CONVERSATIONS + 1];
	for (size_t i = 0; i < CONVERSATIONS; i++) {
		tests[i] = conversation_test(&conversations[i]);
	}
	tests[CONVERSATIONS] = (struct CMUnitTest)cmocka_unit_test(every_allocation_may_fail);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
