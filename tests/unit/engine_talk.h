/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * For conversations with the engine, each held twice: whole, and byte by byte. No socket, no clock.
 */

#include "tests/unit/engine_peer.h"

#include <errno.h>
#include <stdlib.h>

static const struct ask write_ask = {.kind = PENDING_WRITE};
static struct peer peer; /* too large for a stack */

static inline uint64_t submit(const struct ask *ask)
{
	uint64_t ticket = 0;
	assert_int_equal(ask_engine(&peer, ask, &ticket), 0);
	return ticket;
}

/* Connects, and answers hello in the given epoch with the given limits. */
static inline void connect_limited(uint8_t epoch, const struct limit *limits, size_t count)
{
	assert_int_equal(engine_connected(&peer.engine), 0);
	assert_true(hear_all(&peer) >= 1);
	assert_string_equal(peer.heard[0].method, "hello");
	assert_int_equal(hello_says(&peer, peer.heard[0].id, epoch, limits, count), 0);
}

static inline void connect_peer(uint8_t epoch)
{
	connect_limited(epoch, NULL, 0);
}

static inline void lose(void)
{
	engine_disconnected(&peer.engine, "gone");
	frame_reader_finish(&peer.reader);
	frame_reader_init(&peer.reader, FRAME_MAX_LIMIT);
}

static inline void outcome_is(
	uint64_t ticket, enum lf_outcome outcome, const char *code, enum lf_applied applied_as)
{
	struct lf_reply *reply = engine_take(&peer.engine, ticket);
	assert_non_null(reply);
	assert_int_equal(lf_reply_ticket(reply), ticket);
	assert_string_equal(lf_reply_code(reply), code);
	assert_int_equal(lf_reply_outcome(reply), outcome);
	assert_int_equal(lf_reply_applied(reply), applied_as);
	lf_reply_free(reply);
}

static inline void is_ok(uint64_t ticket)
{
	outcome_is(ticket, LF_OK, "", LF_APPLIED_YES);
}

static inline void is_failed(uint64_t ticket, const char *code)
{
	outcome_is(ticket, LF_FAILED, code, LF_APPLIED_NO);
}

static inline void is_unknown(uint64_t ticket)
{
	outcome_is(ticket, LF_UNKNOWN, "unknown", LF_APPLIED_UNKNOWN);
}

static inline void is_open(uint64_t ticket)
{
	assert_null(engine_take(&peer.engine, ticket));
	assert_true(engine_knows(&peer.engine, ticket));
}

/* ---- holding them ---- */

struct conversation {
	const char *name;
	void (*hold)(void);
};

#define CONVERSATION(name)                                                                         \
	{                                                                                          \
#name, name                                                                        \
	}

static inline void hold(void **state)
{
	const struct conversation *conversation = *state;
	for (int bytewise = 0; bytewise < 2; bytewise++) {
		peer_init(&peer, bytewise != 0, false);
		conversation->hold();
		peer_finish(&peer);
	}
}

static inline struct CMUnitTest conversation_test(const struct conversation *conversation)
{
	return (struct CMUnitTest){.name = conversation->name,
		.test_func = hold,
		.initial_state = (void *)(uintptr_t)conversation};
}
