/* SPDX-License-Identifier: MIT */

/*
 * Leases in the engine: what is written in which order, and what each request comes to when answers,
 * connections or time are lost. Each conversation is held twice: whole, and byte by byte.
 */

#include "tests/unit/engine_peer.h"

#include <errno.h>

static struct peer peer; /* too large for a stack */

/* ---- asking ---- */

static uint64_t ask(enum pending_kind kind, const char *method, uint64_t lease, const char *key,
	uint32_t deadline_ms)
{
	struct buffer body;
	msgpack_packer packer;
	uint64_t ticket = 0;
	struct pending_spec spec = {.kind = kind,
		.method = method,
		.body = &body,
		.body_keys = 1,
		.nodes = 3,
		.key = key,
		.deadline_ms = deadline_ms,
		.lease = lease,
		.lease_number = lease,
		.lease_over = lease != 0 && !engine_lease_open(&peer.engine, lease)};
	buffer_init(&body, 0);
	buffer_packer(&body, &packer);
	if (kind == PENDING_COMMIT) {
		msgpack_pack_uint64(&packer, lease);
	} else {
		pack_key_uint(&packer, "lease", lease);
	}
	assert_false(body.failed);
	assert_int_equal(engine_submit(&peer.engine, peer.now_ms, &spec, &ticket), 0);
	buffer_finish(&body);
	return ticket;
}

static uint64_t begin(uint64_t *ret_lease)
{
	assert_int_equal(engine_lease_new(&peer.engine, ret_lease), 0);
	return ask(PENDING_BEGIN, "begin", *ret_lease, NULL, 0);
}

static uint64_t step(uint64_t lease)
{
	return ask(PENDING_STEP, "step", lease, NULL, 0);
}

static uint64_t commit(uint64_t lease)
{
	uint64_t ticket = ask(PENDING_COMMIT, "commit", lease, NULL, 0);
	engine_lease_close(&peer.engine, lease);
	return ticket;
}

static uint64_t write_one(void)
{
	const struct ask write_ask = {.kind = PENDING_WRITE};
	uint64_t ticket = 0;
	assert_int_equal(ask_engine(&peer, &write_ask, &ticket), 0);
	return ticket;
}

/* ---- the daemon's side ---- */

static void connect_peer(uint8_t epoch)
{
	assert_int_equal(engine_connected(&peer.engine), 0);
	assert_true(hear_all(&peer) >= 1);
	assert_string_equal(peer.heard[0].method, "hello");
	assert_int_equal(hello_says(&peer, peer.heard[0].id, epoch, NULL, 0), 0);
}

static void lose(void)
{
	engine_disconnected(&peer.engine, "gone");
	frame_reader_finish(&peer.reader);
	frame_reader_init(&peer.reader, FRAME_MAX_LIMIT);
}

/* What is heard now, as "method method …". */
static void hears(const char *expected)
{
	char said[256] = "";
	size_t count = hear_all(&peer);
	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(said);
		(void)snprintf(said + len, sizeof(said) - len, "%s%s", i > 0 ? " " : "",
			peer.heard[i].method);
	}
	assert_string_equal(said, expected);
}

static void answers(uint32_t id, bool open)
{
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_result(&buf, id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 2);
	pack_key_uint(&packer, "rowid", 5);
	pack_cstr(&packer, "open");
	if (open) {
		msgpack_pack_true(&packer);
	} else {
		msgpack_pack_false(&packer);
	}
	frame_end(&buf, mark);
	assert_int_equal(feed(&peer, &buf), 0);
}

static void fails(uint32_t id, const char *code, bool retry, int open)
{
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_error(&buf, id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, open >= 0 ? 5 : 4);
	pack_key_str(&packer, "code", code);
	pack_key_str(&packer, "message", "words of the daemon");
	pack_key_str(&packer, "applied", "no");
	pack_cstr(&packer, "retry");
	if (retry) {
		msgpack_pack_true(&packer);
	} else {
		msgpack_pack_false(&packer);
	}
	if (open >= 0) {
		pack_cstr(&packer, "open");
		if (open > 0) {
			msgpack_pack_true(&packer);
		} else {
			msgpack_pack_false(&packer);
		}
	}
	msgpack_pack_nil(&packer);
	frame_end(&buf, mark);
	assert_int_equal(feed(&peer, &buf), 0);
}

static void outcome_is(uint64_t ticket, enum lf_outcome outcome, const char *code)
{
	struct lf_reply *reply = engine_take(&peer.engine, ticket);
	assert_non_null(reply);
	assert_string_equal(lf_reply_code(reply), code);
	assert_int_equal(lf_reply_outcome(reply), outcome);
	assert_int_equal(lf_reply_applied(reply),
		outcome == LF_OK               ? LF_APPLIED_YES
			: outcome == LF_FAILED ? LF_APPLIED_NO
					       : LF_APPLIED_UNKNOWN);
	lf_reply_free(reply);
}

static void is_ok(uint64_t ticket)
{
	outcome_is(ticket, LF_OK, "");
}

static void is_waited_for(uint64_t ticket)
{
	assert_null(engine_take(&peer.engine, ticket));
	assert_true(engine_knows(&peer.engine, ticket));
}

/* ---- order ----------------------------------------------------------------------------------- */

static void all_of_it_goes_with_hello(void)
{
	uint64_t lease = 0;
	uint64_t before = write_one();
	uint64_t a = begin(&lease);
	uint64_t b = step(lease);
	uint64_t c = commit(lease);
	uint64_t after = write_one();
	assert_int_equal(engine_connected(&peer.engine), 0);
	hears("hello write begin step commit write");
	assert_int_equal(peer.heard[2].lease, lease);
	assert_int_equal(peer.heard[4].lease, lease);
	assert_true(peer.heard[2].deadline_ms > 0 && peer.heard[3].deadline_ms > 0);
	assert_int_equal(peer.heard[1].seq, 1);
	assert_int_equal(peer.heard[4].seq, 2);
	assert_int_equal(peer.heard[5].seq, 3);
	assert_int_equal(hello_says(&peer, peer.heard[0].id, 1, NULL, 0), 0);
	assert_int_equal(applied(&peer, peer.heard[1].id, 8), 0);
	answers(peer.heard[2].id, true);
	answers(peer.heard[3].id, true);
	answers(peer.heard[4].id, false);
	assert_int_equal(applied(&peer, peer.heard[5].id, 10), 0);
	is_ok(before);
	is_ok(a);
	is_ok(b);
	is_ok(c);
	is_ok(after);
	assert_false(engine_lease_open(&peer.engine, lease));
}

static void one_is_open_at_a_time(void)
{
	uint64_t lease = 0;
	uint64_t other = 0;
	(void)begin(&lease);
	assert_int_equal(engine_lease_new(&peer.engine, &other), -EBUSY);
	(void)commit(lease);
	(void)begin(&other);
	assert_int_not_equal(lease, other);
	connect_peer(1);
	assert_int_equal(peer.count, 4);
	assert_string_equal(peer.heard[3].method, "begin");
	assert_int_equal(peer.heard[3].lease, other);
}

/* A write that is to be tried again must not come into the middle of a lease. */
static void a_write_waits_for_the_end(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t w = write_one();
	uint64_t a = begin(&lease);
	hears("write begin");
	uint32_t begin_id = peer.heard[1].id;
	assert_int_equal(refused(&peer, peer.heard[0].id, "overloaded", "no", true, 0), 0);
	answers(begin_id, true);
	uint64_t b = step(lease);
	peer.now_ms += 10;
	hears("step");
	answers(peer.heard[0].id, true);
	uint64_t c = commit(lease);
	hears("commit write");
	answers(peer.heard[0].id, false);
	assert_int_equal(applied(&peer, peer.heard[1].id, 9), 0);
	is_ok(w);
	is_ok(a);
	is_ok(b);
	is_ok(c);
}

/* ---- begin ----------------------------------------------------------------------------------- */

static void begin_alone_is_tried_again(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	hears("begin");
	fails(peer.heard[0].id, "overloaded", true, 0);
	uint64_t b = step(lease); /* waits for it */
	hears("");
	peer.now_ms += 1000;
	assert_int_equal(peer.engine.open_count, 2);
	(void)engine_cancel(&peer.engine, b);
	outcome_is(b, LF_FAILED, "cancelled");
	outcome_is(a, LF_FAILED, "lease_gone");

	a = begin(&lease);
	hears("begin");
	fails(peer.heard[0].id, "overloaded", true, 0);
	peer.now_ms += 100;
	hears("begin");
	answers(peer.heard[0].id, true);
	is_ok(a);
	assert_true(engine_lease_open(&peer.engine, lease));
}

static void behind_a_begin_that_failed_all_fails(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	uint64_t b = step(lease);
	hears("begin step");
	uint32_t step_id = peer.heard[1].id;
	fails(peer.heard[0].id, "overloaded", true, 0);
	outcome_is(a, LF_FAILED, "overloaded"); /* not again: the step went with it */
	assert_false(engine_lease_open(&peer.engine, lease));
	uint64_t c = step(lease);
	outcome_is(c, LF_FAILED, "lease_gone");
	is_waited_for(b);
	fails(step_id, "lease_gone", false, 0);
	outcome_is(b, LF_FAILED, "lease_gone");
	hears("");
	(void)begin(&lease);
	hears("begin");
}

/* ---- lost connections ------------------------------------------------------------------------ */

static void what_has_no_answer_begins_again(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	uint64_t b = step(lease);
	hears("begin step");
	lose();
	assert_true(engine_lease_open(&peer.engine, lease));
	connect_peer(1);
	uint64_t c = commit(lease);
	hears("begin step commit");
	answers(peer.heard[0].id, true);
	answers(peer.heard[1].id, true);
	answers(peer.heard[2].id, false);
	is_ok(a);
	is_ok(b);
	is_ok(c);
}

static void a_lease_ends_with_its_connection(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	hears("begin");
	answers(peer.heard[0].id, true);
	is_ok(a);
	uint64_t b = step(lease);
	hears("step");
	lose();
	outcome_is(b, LF_FAILED, "lease_gone");
	assert_false(engine_lease_open(&peer.engine, lease));
	uint64_t c = commit(lease);
	outcome_is(c, LF_FAILED, "lease_gone");
	connect_peer(1);
	hears("");
}

static void a_commit_that_was_sent_is_asked_for_again(void)
{
	for (int gone = 0; gone < 2; gone++) {
		uint64_t lease = 0;
		uint64_t other = 0;
		connect_peer(1);
		uint64_t a = begin(&lease);
		uint64_t b = step(lease);
		uint64_t c = commit(lease);
		uint64_t d = begin(&other);
		hears("begin step commit begin");
		uint64_t seq = peer.heard[2].seq;
		answers(peer.heard[0].id, true);
		lose();
		is_ok(a);
		outcome_is(b, LF_UNKNOWN, "unknown"); /* its commit tells */
		is_waited_for(c);
		is_waited_for(d);
		connect_peer(1);
		hears("commit begin");
		assert_int_equal(peer.heard[0].seq, seq);
		assert_int_equal(peer.heard[0].lease, lease);
		uint32_t begin_id = peer.heard[1].id;
		if (gone) {
			fails(peer.heard[0].id, "lease_gone", false, -1);
			outcome_is(c, LF_FAILED, "lease_gone");
		} else {
			answers(peer.heard[0].id, false);
			is_ok(c);
		}
		answers(begin_id, true);
		is_ok(d);
		engine_lease_leave(&peer.engine, other, other);
		hears("rollback");
		lose();
	}
}

static void another_epoch_makes_a_sent_commit_unknown(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	(void)begin(&lease);
	uint64_t c = commit(lease);
	hears("begin commit");
	lose();
	connect_peer(2);
	outcome_is(c, LF_UNKNOWN, "unknown");
}

static void in_a_forked_child_it_is_unknown(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	uint64_t b = step(lease);
	hears("begin step");
	engine_forked(&peer.engine);
	outcome_is(a, LF_UNKNOWN, "unknown");
	outcome_is(b, LF_UNKNOWN, "unknown");
	assert_false(engine_lease_open(&peer.engine, lease));
	uint64_t c = step(lease);
	outcome_is(c, LF_FAILED, "lease_gone");
	assert_int_equal(engine_lease_new(&peer.engine, &lease), 0);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void a_failure_says_whether_it_goes_on(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	uint64_t b = step(lease);
	hears("begin step");
	answers(peer.heard[0].id, true);
	fails(peer.heard[1].id, "sql", false, 1);
	outcome_is(b, LF_FAILED, "sql");
	is_ok(a);
	assert_true(engine_lease_open(&peer.engine, lease));
	b = step(lease);
	hears("step");
	fails(peer.heard[0].id, "overloaded", true,
		1); /* what came behind it is done: never again */
	outcome_is(b, LF_FAILED, "overloaded");
	b = step(lease);
	hears("step");
	fails(peer.heard[0].id, "lease_expired", false, 0);
	outcome_is(b, LF_FAILED, "lease_expired");
	assert_false(engine_lease_open(&peer.engine, lease));
	uint64_t w = write_one();
	hears("write");
	assert_int_equal(applied(&peer, peer.heard[0].id, 9), 0);
	is_ok(w);
}

static void deferred_constraints_leave_it_open(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	(void)begin(&lease);
	uint64_t c = commit(lease);
	hears("begin commit");
	uint64_t seq = peer.heard[1].seq;
	answers(peer.heard[0].id, true);
	fails(peer.heard[1].id, "sql", false, 1);
	outcome_is(c, LF_FAILED, "sql");
	assert_true(engine_lease_open(&peer.engine, lease));
	(void)step(lease);
	c = commit(lease);
	hears("step commit");
	assert_true(peer.heard[1].seq > seq);
	answers(peer.heard[1].id, false);
	is_ok(c);
}

static void what_is_left_is_rolled_back(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	engine_lease_leave(&peer.engine, lease, lease); /* nobody knows of it yet */
	outcome_is(a, LF_FAILED, "lease_gone");
	hears("");
	a = begin(&lease);
	uint64_t b = step(lease);
	hears("begin step");
	uint64_t c = step(lease);
	engine_lease_leave(&peer.engine, lease, lease);
	outcome_is(c, LF_FAILED, "lease_gone");
	uint64_t w = write_one();
	uint32_t ids[2] = {peer.heard[0].id, peer.heard[1].id};
	hears("rollback write");
	assert_int_equal(peer.heard[0].lease, lease);
	answers(ids[0], true);
	answers(ids[1], true);
	is_ok(a);
	is_ok(b);
	is_waited_for(w);
}

static void a_step_without_an_answer_ends_it(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	hears("begin");
	answers(peer.heard[0].id, true);
	is_ok(a);
	uint64_t b = step(lease);
	hears("step");
	peer.now_ms += 10000;
	hears("cancel rollback");
	outcome_is(b, LF_FAILED, "deadline");
	assert_false(engine_lease_open(&peer.engine, lease));
}

static void told_of_its_end(uint64_t ticket, const char *what)
{
	struct lf_reply *reply = engine_take(&peer.engine, ticket);
	assert_non_null(reply);
	assert_int_equal(reply->outcome, LF_FAILED);
	assert_string_equal(reply->code, "lease_gone");
	assert_non_null(strstr(reply->message, what));
	lf_reply_free(reply);
}

static void what_comes_late_is_told_what_became_of_the_lease(void)
{
	uint64_t lease = 0;
	uint64_t next = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	uint64_t c = commit(lease);
	told_of_its_end(commit(lease), "its commit is on the way");
	hears("begin commit");
	answers(peer.heard[0].id, true);
	answers(peer.heard[1].id, false);
	is_ok(a);
	is_ok(c);
	told_of_its_end(commit(lease), "it was committed, and that stands");
	told_of_its_end(step(lease), "it was committed, and that stands");
	a = begin(&next);
	uint64_t b = step(next);
	hears("begin step");
	answers(peer.heard[0].id, true);
	answers(peer.heard[1].id, false);
	is_ok(a);
	is_ok(b);
	told_of_its_end(commit(next), "a COMMIT or ROLLBACK that was a step");
	told_of_its_end(commit(lease), "what it committed stands");
	a = begin(&lease);
	uint64_t r = ask(PENDING_ROLLBACK, "rollback", lease, NULL, 0);
	engine_lease_close(&peer.engine, lease);
	hears("begin rollback");
	answers(peer.heard[0].id, true);
	answers(peer.heard[1].id, false);
	is_ok(a);
	is_ok(r);
	told_of_its_end(commit(lease), "nothing of it was kept");
	a = begin(&lease);
	c = commit(lease);
	hears("begin commit");
	answers(peer.heard[0].id, true);
	is_ok(a);
	peer.now_ms += 10000;
	hears("cancel rollback");
	outcome_is(c, LF_UNKNOWN, "unknown");
	told_of_its_end(commit(lease), "nobody can tell");
}

static void a_commit_without_an_answer_is_unknown(void)
{
	uint64_t lease = 0;
	connect_peer(1);
	uint64_t a = begin(&lease);
	uint64_t b = step(lease);
	uint64_t c = commit(lease);
	hears("begin step commit");
	answers(peer.heard[0].id, true);
	is_ok(a);
	peer.now_ms += 10000;
	/* Whatever became of it, the connection is free afterwards. */
	hears("cancel cancel rollback");
	outcome_is(b, LF_UNKNOWN, "unknown");
	outcome_is(c, LF_UNKNOWN, "unknown");
}

/* ---- each of them twice ---------------------------------------------------------------------- */

static int whole(void **state)
{
	(void)state;
	peer_init(&peer, false, false);
	return 0;
}

static int bytewise(void **state)
{
	(void)state;
	peer_init(&peer, true, false);
	return 0;
}

static int finish(void **state)
{
	(void)state;
	peer_finish(&peer);
	return 0;
}

#define CONVERSATIONS(X)                                                                           \
	X(all_of_it_goes_with_hello)                                                               \
	X(one_is_open_at_a_time)                                                                   \
	X(a_write_waits_for_the_end)                                                               \
	X(begin_alone_is_tried_again)                                                              \
	X(behind_a_begin_that_failed_all_fails)                                                    \
	X(what_has_no_answer_begins_again)                                                         \
	X(a_lease_ends_with_its_connection)                                                        \
	X(a_commit_that_was_sent_is_asked_for_again)                                               \
	X(another_epoch_makes_a_sent_commit_unknown)                                               \
	X(in_a_forked_child_it_is_unknown)                                                         \
	X(a_failure_says_whether_it_goes_on)                                                       \
	X(deferred_constraints_leave_it_open)                                                      \
	X(what_is_left_is_rolled_back)                                                             \
	X(a_step_without_an_answer_ends_it)                                                        \
	X(what_comes_late_is_told_what_became_of_the_lease)                                        \
	X(a_commit_without_an_answer_is_unknown)

#define TEST(name)                                                                                 \
	static void test_##name(void **state)                                                      \
	{                                                                                          \
		(void)state;                                                                       \
		name();                                                                            \
	}
#define BOTH(name)                                                                                 \
	{#name, test_##name, whole, finish, NULL},                                                 \
		{#name " (bytewise)", test_##name, bytewise, finish, NULL},

CONVERSATIONS(TEST)

int main(void)
{
	const struct CMUnitTest tests[] = {CONVERSATIONS(BOTH)};
	return cmocka_run_group_tests_name("client_lease", tests, NULL, NULL);
}
