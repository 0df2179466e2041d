/* SPDX-License-Identifier: MIT */

/*
 * The engine against a small model of the daemon, with connections that break anywhere, late
 * answers, refusals, cancels, restarts and restores, all drawn from a seed. What must hold in every
 * run: nothing is ever applied twice; FAILED was not applied and never will be; OK was applied;
 * every request gets an outcome.
 */

#include "tests/unit/engine_peer.h"

#include <stdlib.h>

enum {
	TICKETS_MAX = 256,
	SEQS_MAX = 512,
	SESSIONS_MAX = 64,
	QUEUE_MAX = 512,
	STEPS = 400,
	RUNS = 1500,
};

struct stored {
	bool known;
	uint8_t batch_hash[8];
};

/* What a restore brings back. */
struct database {
	uint8_t epoch;
	bool applied[TICKETS_MAX];
	struct stored by_seq[SESSIONS_MAX][SEQS_MAX];
	uint64_t done[SESSIONS_MAX];
	struct stored by_key[TICKETS_MAX];
};

struct answer {
	uint32_t id;
	char code[16]; /* "" = applied */
};

static struct model {
	struct peer peer;
	uint32_t random;
	struct database now;
	struct database backup;
	bool hello_done;
	uint8_t session; /* of the connection; 0: none */
	struct heard inbox[QUEUE_MAX];
	uint64_t received_ms[QUEUE_MAX];
	size_t inbox_count;
	struct answer outbox[QUEUE_MAX];
	size_t outbox_count;
	bool ever_applied[TICKETS_MAX];
	bool has_outcome[TICKETS_MAX];
	enum lf_outcome outcome[TICKETS_MAX];
	uint64_t submitted; /* tickets are 1 .. submitted */
	uint8_t epochs;
	size_t counts[3]; /* outcomes over all runs, to see that each kind occurs */
} model;

static uint32_t draw(uint32_t below)
{
	uint32_t x = model.random;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	model.random = x;
	return x % below;
}

/* ---- the daemon ------------------------------------------------------------------------------ */

static void answer(uint32_t id, const char *code)
{
	struct answer *to = &model.outbox[model.outbox_count++];
	assert_true(model.outbox_count < QUEUE_MAX);
	to->id = id;
	(void)snprintf(to->code, sizeof(to->code), "%s", code);
}

static void execute(const struct heard *heard)
{
	uint64_t ticket = heard->batch_ticket;
	assert_true(ticket > 0 && ticket < TICKETS_MAX);
	assert_false(model.now.applied[ticket]); /* the second time */
	assert_false(model.has_outcome[ticket] && model.outcome[ticket] == LF_FAILED);
	model.now.applied[ticket] = true;
	model.ever_applied[ticket] = true;
}

static struct stored *slot(const struct heard *heard)
{
	if (heard->key[0] != '\0') {
		return &model.now.by_key[atoi(heard->key)];
	}
	if (heard->seq != 0) {
		assert_true(heard->seq < SEQS_MAX);
		return &model.now.by_seq[model.session][heard->seq];
	}
	return NULL;
}

static void process_write(const struct heard *heard, uint64_t received_ms)
{
	struct stored *stored = slot(heard);
	uint64_t *done = &model.now.done[model.session];
	if (heard->seq != 0 && heard->seq <= *done) {
		answer(heard->id, "session_expired");
		return;
	}
	*done = heard->done > *done ? heard->done : *done;
	if (draw(12) == 0) {
		/* Also for what is stored: a client must not take it for an answer about the past.
		 */
		answer(heard->id, "overloaded");
	} else if (stored != NULL && stored->known) {
		assert_memory_equal(stored->batch_hash, heard->batch_hash, 8);
		answer(heard->id, "");
	} else if (model.peer.now_ms - received_ms > heard->deadline_ms) {
		answer(heard->id, "deadline");
	} else {
		execute(heard);
		answer(heard->id, "");
		if (stored != NULL) {
			stored->known = true;
			memcpy(stored->batch_hash, heard->batch_hash, 8);
		}
	}
}

static void process_one(void)
{
	if (model.inbox_count == 0) {
		return;
	}
	struct heard heard = model.inbox[0];
	uint64_t received_ms = model.received_ms[0];
	model.inbox_count--;
	memmove(model.inbox, model.inbox + 1, model.inbox_count * sizeof(model.inbox[0]));
	memmove(model.received_ms, model.received_ms + 1,
		model.inbox_count * sizeof(model.received_ms[0]));
	if (strcmp(heard.method, "hello") == 0) {
		model.session = heard.has_session ? heard.session[0] : 0;
		assert_true(model.session < SESSIONS_MAX);
		answer(heard.id, "hello");
	} else if (strcmp(heard.method, "write") == 0) {
		process_write(&heard, received_ms);
	} else if (strcmp(heard.method, "cancel") != 0) {
		answer(heard.id, "");
	}
}

static void cancel_queued(uint64_t id)
{
	for (size_t i = 0; i < model.inbox_count; i++) {
		if (model.inbox[i].id == id && strcmp(model.inbox[i].method, "write") == 0) {
			(void)snprintf(model.inbox[i].method, 16, "cancel");
			answer((uint32_t)id, "cancelled");
		}
	}
}

/* Bytes arrive; whole messages go into the inbox. */
static void receive(size_t bytes)
{
	model.peer.count = 0;
	(void)peer_take(&model.peer, bytes);
	peer_parse(&model.peer);
	for (size_t i = 0; i < model.peer.count; i++) {
		const struct heard *heard = &model.peer.heard[i];
		if (strcmp(heard->method, "cancel") == 0) {
			cancel_queued(heard->cancel_id);
			continue;
		}
		assert_true(model.inbox_count < QUEUE_MAX);
		model.received_ms[model.inbox_count] = model.peer.now_ms;
		model.inbox[model.inbox_count++] = *heard;
	}
}

static int deliver(const struct answer *what)
{
	if (strcmp(what->code, "hello") == 0) {
		return hello_says(&model.peer, what->id, model.now.epoch, NULL, 0);
	}
	if (what->code[0] == '\0') {
		return applied(&model.peer, what->id, 1);
	}
	bool unknown = strcmp(what->code, "session_expired") == 0;
	bool retry = strcmp(what->code, "overloaded") == 0 || strcmp(what->code, "deadline") == 0;
	return refused(&model.peer, what->id, what->code, unknown ? "unknown" : "no", retry,
		retry && draw(2) == 0 ? (int64_t)draw(100) : -1);
}

/* ---- the world ------------------------------------------------------------------------------- */

static void collect(void)
{
	struct lf_reply *reply;
	while ((reply = engine_take(&model.peer.engine, 0)) != NULL) {
		uint64_t ticket = reply->ticket;
		assert_false(model.has_outcome[ticket]);
		model.has_outcome[ticket] = true;
		model.outcome[ticket] = reply->outcome;
		model.counts[reply->outcome]++;
		assert_true(reply->outcome != LF_OK || model.ever_applied[ticket]);
		if (reply->outcome == LF_FAILED && model.ever_applied[ticket]) {
			print_message("ticket %d: %s\n", (int)ticket, reply->code);
			fail();
		}
		lf_reply_free(reply);
	}
}

static void disconnect(bool daemon_goes_on)
{
	if (model.peer.engine.link == LINK_DOWN) {
		return;
	}
	engine_disconnected(&model.peer.engine, "gone");
	/* What had arrived may still be executed, unseen; or it died with the daemon. */
	while (daemon_goes_on && model.inbox_count > 0) {
		process_one();
	}
	model.inbox_count = 0;
	model.outbox_count = 0;
	frame_reader_finish(&model.peer.reader);
	frame_reader_init(&model.peer.reader, FRAME_MAX_LIMIT);
}

static void deliver_one(void)
{
	if (model.outbox_count == 0 || model.peer.engine.link == LINK_DOWN) {
		return;
	}
	/* Out of order, except that hello comes first. */
	size_t i =
		strcmp(model.outbox[0].code, "hello") == 0 ? 0 : draw((uint32_t)model.outbox_count);
	struct answer what = model.outbox[i];
	model.outbox_count--;
	memmove(model.outbox + i, model.outbox + i + 1,
		(model.outbox_count - i) * sizeof(model.outbox[0]));
	if (deliver(&what) != 0 || engine_wants_reconnect(&model.peer.engine)) {
		disconnect(true);
	}
}

static void submit_one(void)
{
	char key[16];
	uint64_t ticket = 0;
	if (model.submitted + 1 >= TICKETS_MAX) {
		return;
	}
	(void)snprintf(key, sizeof(key), "%u", (unsigned)(model.submitted + 1));
	struct ask ask = {
		.kind = PENDING_WRITE,
		.bytes = draw(100),
		.key = draw(6) == 0 ? key : NULL,
		.deadline_ms = 1 + draw(3000),
	};
	if (ask_engine(&model.peer, &ask, &ticket) == 0) {
		model.submitted++;
		assert_int_equal(ticket, model.submitted);
	}
}

static void restore(void)
{
	disconnect(draw(2) == 0);
	model.now = model.backup;
	assert_true(model.epochs < 255);
	model.now.epoch = ++model.epochs;
	/* What was undone may not be held against later copies of it, but there must be none. */
}

static void step(void)
{
	switch (draw(16)) {
	case 0:
	case 1:
	case 2:
		submit_one();
		break;
	case 3:
	case 4:
	case 5:
		receive(1 + draw(400));
		break;
	case 6:
	case 7:
	case 8:
		process_one();
		break;
	case 9:
	case 10:
	case 11:
		deliver_one();
		break;
	case 12:
		model.peer.now_ms += draw(300);
		break;
	case 13:
		if (draw(3) == 0 && model.submitted > 0) {
			(void)engine_cancel(
				&model.peer.engine, 1 + draw((uint32_t)model.submitted));
		}
		break;
	case 14:
		if (draw(3) == 0) {
			disconnect(draw(2) == 0);
		} else if (draw(25) == 0) {
			restore();
		} else if (draw(10) == 0) {
			model.backup = model.now;
		}
		break;
	default:
		if (model.peer.engine.link == LINK_DOWN) {
			assert_int_equal(engine_connected(&model.peer.engine), 0);
		}
		break;
	}
	engine_tick(&model.peer.engine, model.peer.now_ms);
	collect();
}

static void run(uint32_t seed, bool no_retry)
{
	size_t counts[3];
	memcpy(counts, model.counts, sizeof(counts));
	memset(&model, 0, sizeof(model));
	memcpy(model.counts, counts, sizeof(counts));
	peer_init(&model.peer, false, no_retry);
	model.random = seed * 2654435761u + 1;
	model.epochs = 1;
	model.now.epoch = 1;
	model.backup.epoch = 1;
	for (int i = 0; i < STEPS; i++) {
		step();
	}
	/* Peace: everything that can still be answered is, the rest ends by its deadline. */
	for (int i = 0; i < 2000 && model.peer.engine.open_count > 0; i++) {
		model.peer.now_ms += 5;
		if (model.peer.engine.link == LINK_DOWN) {
			assert_int_equal(engine_connected(&model.peer.engine), 0);
		}
		receive(SIZE_MAX);
		process_one();
		deliver_one();
		engine_tick(&model.peer.engine, model.peer.now_ms);
		collect();
	}
	assert_int_equal(model.peer.engine.open_count, 0);
	assert_int_equal(model.peer.engine.in_flight, 0);
	assert_int_equal(model.peer.engine.unnumbered, 0);
	for (uint64_t ticket = 1; ticket <= model.submitted; ticket++) {
		assert_true(model.has_outcome[ticket]);
	}
	/* Whatever a given-up connection still carried arrives at last. */
	while (model.inbox_count > 0) {
		process_one();
	}
	peer_finish(&model.peer);
}

static void runs_keep_the_promises(void **state)
{
	(void)state;
	for (uint32_t seed = 1; seed <= RUNS; seed++) {
		run(seed, false);
	}
	for (int i = 0; i < 3; i++) {
		assert_true(
			model.counts[i] > RUNS); /* or the model is too kind to prove anything */
	}
}

static void runs_without_retry_keep_them_too(void **state)
{
	(void)state;
	for (uint32_t seed = 1; seed <= RUNS / 3; seed++) {
		run(seed, true);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_keep_the_promises),
		cmocka_unit_test(runs_without_retry_keep_them_too),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
