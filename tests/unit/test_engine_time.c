/* SPDX-License-Identifier: MIT */

/* Conversations with the engine about time: deadlines, answers that say "later", and giving up. */

#include "tests/unit/engine_talk.h"

/* ---- deadlines ------------------------------------------------------------------------------- */

static void never_sent_is_failed_at_the_deadline(void)
{
	uint64_t a = submit(&write_ask);
	assert_int_equal(engine_due_ms(&peer.engine), peer.now_ms + 1000);
	peer.now_ms += 999;
	engine_tick(&peer.engine, peer.now_ms);
	is_open(a);
	peer.now_ms += 1;
	engine_tick(&peer.engine, peer.now_ms);
	is_failed(a, "deadline");
	assert_int_equal(engine_due_ms(&peer.engine), UINT64_MAX);
}

static void sent_is_unknown_at_the_deadline(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	uint32_t id = peer.heard[0].id;
	peer.now_ms += 1000;
	engine_tick(&peer.engine, peer.now_ms);
	is_open(a); /* the daemon's own "deadline" may be on its way */
	peer.now_ms = engine_due_ms(&peer.engine);
	assert_int_equal(hear_all(&peer), 1);
	assert_string_equal(peer.heard[0].method, "cancel");
	assert_int_equal(peer.heard[0].cancel_id, id);
	is_unknown(a);
	assert_int_equal(applied(&peer, id, 5), 0); /* too late, and harmless */
	assert_null(engine_take(&peer.engine, 0));
	uint64_t b = submit(&write_ask);
	hear_all(&peer);
	assert_int_equal(peer.heard[0].done, 1);
	applied(&peer, peer.heard[0].id, 6);
	is_ok(b);
}

static void daemons_deadline_arrives_in_the_grace(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	peer.now_ms += 1001;
	engine_tick(&peer.engine, peer.now_ms);
	refused(&peer, peer.heard[0].id, "deadline", "no", true, 0);
	is_failed(a, "deadline");
}

/* What nobody can ask again, and what ends at its deadline as a rule, is waited for much longer. */
static void an_answer_that_will_come_is_waited_for(void)
{
	const struct ask sync_ask = {.kind = PENDING_ADMIN, .method = "sync"};
	const struct ask shipped_ask = {.kind = PENDING_WRITE, .bytes = 5, .ack_shipped = true};
	connect_peer(1);
	uint64_t a = submit(&sync_ask);
	uint64_t b = submit(&shipped_ask);
	assert_int_equal(hear_all(&peer), 2);
	assert_int_equal(peer.heard[0].deadline_ms, 1000);
	assert_int_equal(peer.heard[1].deadline_ms, 1000);
	peer.now_ms += 5000;
	engine_tick(&peer.engine, peer.now_ms);
	refused(&peer, peer.heard[0].id, "not_shipped", "yes", false, -1);
	refused(&peer, peer.heard[1].id, "not_shipped", "yes", false, -1);
	outcome_is(a, LF_OK, "not_shipped", LF_APPLIED_YES);
	outcome_is(b, LF_OK, "not_shipped", LF_APPLIED_YES);
	uint64_t c = submit(&sync_ask);
	hear_all(&peer);
	peer.now_ms = engine_due_ms(&peer.engine);
	engine_tick(&peer.engine, peer.now_ms);
	is_unknown(c);
}

static void lost_is_unknown_at_the_deadline(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	lose();
	peer.now_ms += 1000;
	engine_tick(&peer.engine, peer.now_ms);
	is_unknown(a);
}

/* Packed for the socket, but the kernel took nothing: it is taken back, and never sent. */
static void unsent_output_is_withdrawn(void)
{
	const struct ask hasty = {.kind = PENDING_WRITE, .deadline_ms = 10, .bytes = 50};
	const uint8_t *data = NULL;
	size_t len = 0;
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	uint64_t b = submit(&hasty);
	uint64_t c = submit(&write_ask);
	assert_int_equal(engine_output(&peer.engine, peer.now_ms, &data, &len), 0);
	assert_true(len > 0);
	peer.now_ms += 10;
	assert_int_equal(hear_all(&peer), 2);
	assert_int_equal(peer.heard[0].seq, 1);
	assert_int_equal(peer.heard[1].seq, 3); /* numbers may have holes */
	is_failed(b, "deadline");
	applied(&peer, peer.heard[1].id, 2);
	applied(&peer, peer.heard[0].id, 1);
	is_ok(a);
	is_ok(c);
}

static void partly_sent_is_unknown(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	assert_int_equal(peer_take(&peer, 10), 10);
	peer.now_ms += 1000;
	engine_tick(&peer.engine, peer.now_ms);
	is_unknown(a);
	peer.count = 0;
	hear_all(&peer);
	assert_int_equal(peer.count, 2); /* the rest of it, and a wish to forget it */
	assert_int_equal(peer.heard[0].seq, 1);
	assert_string_equal(peer.heard[1].method, "cancel");
}

static void partly_sent_on_a_lost_connection_was_not_sent(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	assert_int_equal(peer_take(&peer, 10), 10);
	lose();
	peer.now_ms += 1000;
	engine_tick(&peer.engine, peer.now_ms);
	is_failed(a, "deadline");
}

/* ---- retry:true ------------------------------------------------------------------------------ */

static void retry_waits_and_keeps_the_number(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	struct heard first = peer.heard[0];
	refused(&peer, first.id, "overloaded", "no", true, 50);
	uint64_t b = submit(&write_ask);
	assert_int_equal(hear_all(&peer), 0); /* b does not overtake a */
	assert_int_equal(engine_due_ms(&peer.engine), peer.now_ms + 50);
	peer.now_ms += 50;
	assert_int_equal(hear_all(&peer), 2);
	assert_int_equal(peer.heard[0].seq, first.seq);
	assert_memory_equal(peer.heard[0].batch_hash, first.batch_hash, 8);
	applied(&peer, peer.heard[0].id, 1);
	applied(&peer, peer.heard[1].id, 2);
	is_ok(a);
	is_ok(b);
}

static void retry_without_a_time_backs_off(void)
{
	uint64_t waits[4];
	connect_peer(1);
	submit(&write_ask);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(hear_all(&peer), 1);
		refused(&peer, peer.heard[0].id, "sql", "no", true, -1);
		waits[i] = engine_due_ms(&peer.engine) - peer.now_ms;
		peer.now_ms += waits[i];
	}
	assert_int_equal(waits[0], 10);
	assert_int_equal(waits[3], 80);
}

static void retry_beyond_the_deadline_ends_with_the_daemons_words(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	refused(&peer, peer.heard[0].id, "disk_low", "no", true, 1000);
	is_failed(a, "disk_low");
	uint64_t b = submit(&write_ask);
	hear_all(&peer);
	refused(&peer, peer.heard[0].id, "disk_low", "no", true, 900);
	lose();
	peer.now_ms += 1000;
	engine_tick(&peer.engine, peer.now_ms);
	is_failed(b, "disk_low");
}

static void retry_after_a_lost_copy_ends_unknown(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	lose();
	connect_peer(1);
	hear_all(&peer);
	refused(&peer, peer.heard[0].id, "overloaded", "no", true, 5000);
	is_unknown(a); /* "not now" says nothing of the copy that went before */
}

static void lost_copy_settled_by_a_stored_answer(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	lose();
	connect_peer(1);
	hear_all(&peer);
	refused(&peer, peer.heard[0].id, "guard", "no", false, -1);
	is_failed(a, "guard");
}

static void waiting_ones_go_first_after_a_reconnect(void)
{
	connect_peer(1);
	submit(&write_ask);
	hear_all(&peer);
	refused(&peer, peer.heard[0].id, "shutting_down", "no", true, 200);
	assert_int_equal(closing(&peer, "shutting_down", -1), ENGINE_CLOSE);
	assert_string_equal(peer.engine.why, "the daemon closed the connection: the last words");
	lose();
	submit(&write_ask);
	connect_peer(1);
	assert_int_equal(hear_all(&peer), 2);
	assert_int_equal(peer.heard[0].seq, 1);
	assert_int_equal(peer.heard[1].seq, 2);
}

static void unknown_words_are_not_taken_for_no(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	uint64_t b = submit(&write_ask);
	hear_all(&peer);
	refused(&peer, peer.heard[0].id, "novel", "perhaps", false, -1);
	refused(&peer, peer.heard[1].id, "not_shipped", "yes", false, -1);
	outcome_is(a, LF_UNKNOWN, "novel", LF_APPLIED_UNKNOWN);
	outcome_is(b, LF_OK, "not_shipped", LF_APPLIED_YES);
}

/* ---- cancel ---------------------------------------------------------------------------------- */

static void cancel_wherever_it_stands(void)
{
	uint64_t a = submit(&write_ask);
	assert_int_equal(engine_cancel(&peer.engine, a), 0);
	is_failed(a, "cancelled");
	assert_int_equal(engine_cancel(&peer.engine, a), -ENOENT);
	connect_peer(1);
	uint64_t b = submit(&write_ask);
	hear_all(&peer);
	uint32_t id = peer.heard[0].id;
	assert_int_equal(engine_cancel(&peer.engine, b), 0);
	assert_int_equal(hear_all(&peer), 1);
	assert_int_equal(peer.heard[0].type, MESSAGE_NOTICE);
	assert_int_equal(peer.heard[0].cancel_id, id);
	lose(); /* nobody knows: so it is sent again, with its cancel behind it */
	is_open(b);
	connect_peer(1);
	assert_int_equal(hear_all(&peer), 2);
	assert_int_equal(peer.heard[0].seq, 1);
	assert_int_equal(peer.heard[1].cancel_id, peer.heard[0].id);
	refused(&peer, peer.heard[0].id, "cancelled", "no", false, -1);
	is_unknown(b); /* this copy was stopped; what became of the first, it does not say */
	uint64_t c = submit(&write_ask);
	hear_all(&peer);
	assert_int_equal(engine_cancel(&peer.engine, c), 0);
	refused(&peer, peer.heard[0].id, "cancelled", "no", false, -1);
	is_failed(c, "cancelled");
}

static void cancel_ends_the_waiting_for_a_retry(void)
{
	connect_peer(1);
	uint64_t a = submit(&write_ask);
	hear_all(&peer);
	refused(&peer, peer.heard[0].id, "overloaded", "no", true, 500);
	assert_int_equal(engine_cancel(&peer.engine, a), 0);
	is_failed(a, "cancelled");
	uint64_t b = submit(&write_ask);
	hear_all(&peer);
	assert_int_equal(engine_cancel(&peer.engine, b), 0);
	refused(&peer, peer.heard[0].id, "overloaded", "no", true, 500);
	is_failed(b, "overloaded");
}

/* ---- running --------------------------------------------------------------------------------- */

static const struct conversation conversations[] = {
	CONVERSATION(never_sent_is_failed_at_the_deadline),
	CONVERSATION(sent_is_unknown_at_the_deadline),
	CONVERSATION(daemons_deadline_arrives_in_the_grace),
	CONVERSATION(an_answer_that_will_come_is_waited_for),
	CONVERSATION(lost_is_unknown_at_the_deadline),
	CONVERSATION(unsent_output_is_withdrawn),
	CONVERSATION(partly_sent_is_unknown),
	CONVERSATION(partly_sent_on_a_lost_connection_was_not_sent),
	CONVERSATION(retry_waits_and_keeps_the_number),
	CONVERSATION(retry_without_a_time_backs_off),
	CONVERSATION(retry_beyond_the_deadline_ends_with_the_daemons_words),
	CONVERSATION(retry_after_a_lost_copy_ends_unknown),
	CONVERSATION(lost_copy_settled_by_a_stored_answer),
	CONVERSATION(waiting_ones_go_first_after_a_reconnect),
	CONVERSATION(unknown_words_are_not_taken_for_no),
	CONVERSATION(cancel_wherever_it_stands),
	CONVERSATION(cancel_ends_the_waiting_for_a_retry),
};

enum { CONVERSATIONS = sizeof(conversations) / sizeof(conversations[0]) };

int main(void)
{
	struct CMUnitTest tests[CONVERSATIONS];
	for (size_t i = 0; i < CONVERSATIONS; i++) {
		tests[i] = conversation_test(&conversations[i]);
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
