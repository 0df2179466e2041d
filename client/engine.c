/* SPDX-License-Identifier: MIT */

/*
 * The life of requests across connections. No I/O, no clock, no SQLite.
 *
 *	          submit                     deadline, cancel, window passed
 *	            │              ┌───────────────────────────────────────────────┐
 *	            ▼   written    │                    answered                   ▼
 *	         QUEUED ────────▶ WRITTEN ────────────────────────────────────▶ ANSWERED
 *	            ▲              │    │ answered with retry:true                 ▲
 *	            │  connection  │    ▼                                          │
 *	            ├──────────────┘  WAITING ─────────────────────────────────────┘
 *	            └── retry_at_ms, ──┘            no time is left for another try
 *	                connection lost
 *
 * What it keeps true:
 * - FAILED means that no copy of the request can have been applied. A copy that was wholly handed
 *to a connection and got no answer on it (`sent`, then `lost`) rules FAILED out, until a later copy
 *   under the same seq or key gets an answer that the daemon stores.
 * - A request gets its seq when it is first written, and `open` is in the order of seq.
 * - A reply exists for every request from its submission on, so that an outcome needs no memory.
 */

#include "client/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	WINDOW_DEFAULT = 1024,
	TTL_DEFAULT_S = 3600,
	KEY_TTL_DEFAULT_S = 24 * 3600,
	RETRY_FIRST_MS = 10,
	RETRY_MAX_MS = 1000,
	GRACE_MIN_MS = 100,
	GRACE_MAX_MS = 1000,
	GRACE_CERTAIN_MS = 5000,
};

void engine_init(struct engine *engine, const struct engine_config *config)
{
	*engine = (struct engine){.config = *config};
	frame_reader_init(&engine->reader, FRAME_MAX_LIMIT);
	buffer_init(&engine->out, 0);
	TAILQ_INIT(&engine->open);
	TAILQ_INIT(&engine->answered);
	engine_watches_init(engine);
	engine->next_ticket = 1;
	engine->next_seq = 1;
	engine->limit_frame = FRAME_MAX_DEFAULT;
	engine->limit_nodes = UINT64_MAX;
	engine->limit_in_flight = UINT64_MAX;
	engine->session_window = WINDOW_DEFAULT;
	engine->session_ttl_ms = TTL_DEFAULT_S * UINT64_C(1000);
	engine->key_ttl_ms = KEY_TTL_DEFAULT_S * UINT64_C(1000);
}

static void list_free(struct pending_list *list)
{
	struct pending *pending;
	while ((pending = TAILQ_FIRST(list)) != NULL) {
		TAILQ_REMOVE(list, pending, link);
		pending_free(pending);
	}
}

void engine_finish(struct engine *engine)
{
	list_free(&engine->open);
	list_free(&engine->answered);
	engine_watches_finish(engine);
	frame_reader_finish(&engine->reader);
	buffer_finish(&engine->out);
	lf_reply_free(engine->hello);
	lf_reply_free(engine->spare);
	engine->hello = NULL;
	engine->spare = NULL;
}

/* ---- outcomes -------------------------------------------------------------------------------- */

bool engine_numbers(const struct engine *engine, const struct pending *pending)
{
	return pending_keeps(pending) && pending->key == NULL && !engine->config.no_retry;
}

/* Moves a request to the answered ones with `reply`, or with its own if NULL. */
static void settle(struct engine *engine, struct pending *pending, struct lf_reply *reply)
{
	if (pending->lease != 0) {
		engine_lease_settled(engine, pending, reply);
	}
	if (pending->state == PENDING_WRITTEN) {
		engine->in_flight--;
	}
	if (engine_numbers(engine, pending) && pending->seq == 0) {
		engine->unnumbered--;
	}
	if (reply != NULL) {
		lf_reply_free(engine->spare);
		engine->spare = pending->reply; /* for the next answer: it was not needed */
		pending->reply = reply;
	}
	pending->reply->ticket = pending->ticket;
	pending->state = PENDING_ANSWERED;
	pending->sent = false;
	TAILQ_REMOVE(&engine->open, pending, link);
	TAILQ_INSERT_TAIL(&engine->answered, pending, link);
	engine->open_count--;
	engine->settled++;
	buffer_finish(&pending->body); /* an answer may wait long to be collected */
	buffer_finish(&pending->guard);
}

/* Of a lease nothing is kept before its commit. */
static bool in_doubt(const struct engine *engine, const struct pending *pending)
{
	bool sent = pending->lease == 0 || pending_keeps(pending)
		? pending->sent
		: engine_lease_in_doubt(engine, pending->lease);
	return sent || pending->lost;
}

/* Gives up a request for the reason `code`: UNKNOWN if a copy of it may be at work, else FAILED. */
void engine_give_up(
	struct engine *engine, struct pending *pending, const char *code, const char *message)
{
	const char *cause = message[0] != '\0' ? message : "no reason is known";
	if (in_doubt(engine, pending)) {
		bool write = pending_keeps(pending);
		answer_local(pending->reply, LF_UNKNOWN, "unknown", LF_APPLIED_UNKNOWN,
			"sent, but not answered: %s%s", cause,
			write ? "; look into the database before sending it again" : "");
		settle(engine, pending, NULL);
		return;
	}
	if (pending->retry_reply != NULL && strcmp(code, "deadline") == 0) {
		/* The daemon's own words about the last try say more than a deadline does. */
		struct lf_reply *reply = pending->retry_reply;
		pending->retry_reply = NULL;
		settle(engine, pending, reply);
		return;
	}
	answer_local(pending->reply, LF_FAILED, code, LF_APPLIED_NO, "%s", cause);
	pending->reply->retry = strcmp(code, "deadline") == 0;
	settle(engine, pending, NULL);
}

static void give_up_late(struct engine *engine, struct pending *pending)
{
	char text[ENGINE_WHY_MAX + 96];
	bool why = engine->why[0] != '\0';
	(void)snprintf(text, sizeof(text), "no answer within %u ms%s%s",
		(unsigned)pending->deadline_ms, why ? ": " : "", why ? engine->why : "");
	engine_give_up(engine, pending, "deadline", text);
}

bool engine_repeatable(const struct engine *engine, const struct pending *pending)
{
	switch (pending->kind) {
	case PENDING_ADMIN:
		return false;
	case PENDING_WRITE:
	case PENDING_COMMIT:
		return !engine->config.no_retry;
	default:
		return true; /* of a lease: as long as all of it can be */
	}
}

bool engine_too_old(const struct engine *engine, const struct pending *pending, uint64_t now_ms)
{
	uint64_t ttl_ms = pending->key != NULL ? engine->key_ttl_ms : engine->session_ttl_ms;
	return pending_keeps(pending) && pending->lost && now_ms - pending->first_sent_ms >= ttl_ms;
}

/* What goes on in a lease cannot be put behind what came after it. */
static bool may_try_again(const struct engine *engine, const struct pending *pending)
{
	if (pending->kind == PENDING_STEP || pending->kind == PENDING_ROLLBACK) {
		return false;
	}
	return engine_repeatable(engine, pending) && !pending->cancel_wanted &&
		(pending->kind != PENDING_BEGIN || engine_lease_is_alone(engine, pending));
}

/*
 * Answered with retry:true. The request waits and is sent again, unless that may not be or the time
 * is over before it could be.
 */
static void retry_later(
	struct engine *engine, struct pending *pending, struct lf_reply *reply, uint64_t now_ms)
{
	uint64_t delay_ms = RETRY_FIRST_MS;
	for (unsigned i = 0; i < pending->retries && delay_ms < RETRY_MAX_MS; i++) {
		delay_ms *= 2;
	}
	if (reply->retry_after_ms >= 0) {
		delay_ms = (uint64_t)reply->retry_after_ms;
	}
	engine->in_flight--;
	engine_lease_withdrawn(engine, pending);
	pending->state = PENDING_WAITING;
	pending->sent = false;
	pending->lost = pending->lost || reply->outcome == LF_UNKNOWN;
	lf_reply_free(pending->retry_reply);
	pending->retry_reply = reply;
	pending->retries++;
	pending->retry_at_ms = now_ms + delay_ms;
	if (delay_ms >= pending->deadline_at_ms || now_ms >= pending->deadline_at_ms - delay_ms) {
		/* Whether a lost copy was applied, this answer does not say: it is not a stored
		 * one. */
		engine_give_up(engine, pending, "deadline", reply->message);
	}
}

void engine_answer(
	struct engine *engine, struct pending *pending, struct lf_reply *reply, uint64_t now_ms)
{
	bool passing = reply->outcome != LF_OK && reply->retry;
	if (passing && may_try_again(engine, pending)) {
		retry_later(engine, pending, reply, now_ms);
		return;
	}
	if (pending->lost && (passing || strcmp(reply->code, "cancelled") == 0)) {
		/* Not a stored answer: it says nothing of the copy that was lost. */
		engine_give_up(engine, pending, "unknown", reply->message);
		lf_reply_free(reply);
		return;
	}
	if (strcmp(reply->code, "session_expired") == 0) {
		engine->session_stale = true;
	}
	settle(engine, pending, reply);
}

/* ---- the session ----------------------------------------------------------------------------- */

uint64_t engine_oldest_seq(const struct engine *engine)
{
	const struct pending *pending;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->seq != 0) {
			return pending->seq;
		}
	}
	return engine->next_seq;
}

/* Would one request more, with all before it numbered, still lie in the window? */
static bool window_full(const struct engine *engine)
{
	uint64_t newest = engine->next_seq + engine->unnumbered;
	return engine->open_count >= engine->session_window ||
		newest - engine_oldest_seq(engine) >= engine->session_window;
}

void engine_session_end(struct engine *engine, bool epoch_changed)
{
	struct pending *pending;
	struct pending *next;
	for (pending = TAILQ_FIRST(&engine->open); pending != NULL; pending = next) {
		next = TAILQ_NEXT(pending, link);
		bool tied = pending->seq != 0 || epoch_changed;
		if (pending_keeps(pending) && in_doubt(engine, pending) && tied) {
			engine_give_up(engine, pending, "unknown",
				"the database has another epoch now, it was restored meanwhile");
		} else if (pending->seq != 0) {
			pending->seq =
				0; /* surely not applied: it begins anew in the next session */
			engine->unnumbered++;
		}
	}
	engine->session_made = false;
	engine->session_stale = false;
	engine->next_seq = 1;
}

bool engine_session_over(const struct engine *engine)
{
	/* With the oldest at next_seq, nothing that has a number is open. */
	return engine->session_stale && engine_oldest_seq(engine) == engine->next_seq;
}

bool engine_wants_reconnect(const struct engine *engine)
{
	return engine->link == LINK_READY && engine->in_flight == 0 && engine->lease.on_wire == 0 &&
		engine_session_over(engine);
}

/* ---- submit, collect, cancel ----------------------------------------------------------------- */

int engine_submit(struct engine *engine, uint64_t now_ms, const struct pending_spec *spec,
	uint64_t *ret_ticket)
{
	struct pending *pending = NULL;
	if (window_full(engine)) {
		return 1;
	}
	int r = pending_new(spec, &pending);
	if (r != 0) {
		return r;
	}
	if (pending->deadline_ms == 0) {
		pending->deadline_ms = engine->config.deadline_ms;
	}
	pending->deadline_at_ms = now_ms + pending->deadline_ms;
	pending->ticket = engine->next_ticket++;
	TAILQ_INSERT_TAIL(&engine->open, pending, link);
	engine->open_count++;
	engine->unnumbered += engine_numbers(engine, pending) ? 1 : 0;
	*ret_ticket = pending->ticket;
	engine_lease_sweep(engine);
	return 0;
}

static struct pending *find_ticket(const struct pending_list *list, uint64_t ticket)
{
	struct pending *pending;
	TAILQ_FOREACH(pending, list, link)
	{
		if (pending->ticket == ticket) {
			break;
		}
	}
	return pending;
}

struct lf_reply *engine_take(struct engine *engine, uint64_t ticket)
{
	struct pending *pending = ticket == 0 ? TAILQ_FIRST(&engine->answered)
					      : find_ticket(&engine->answered, ticket);
	if (pending == NULL) {
		return NULL;
	}
	struct lf_reply *reply = pending->reply;
	pending->reply = NULL;
	TAILQ_REMOVE(&engine->answered, pending, link);
	pending_free(pending);
	return reply;
}

bool engine_knows(const struct engine *engine, uint64_t ticket)
{
	return find_ticket(&engine->answered, ticket) != NULL ||
		find_ticket(&engine->open, ticket) != NULL;
}

int engine_cancel(struct engine *engine, uint64_t ticket)
{
	struct pending *pending = find_ticket(&engine->open, ticket);
	if (pending == NULL) {
		return find_ticket(&engine->answered, ticket) != NULL ? 0 : -ENOENT;
	}
	pending->cancel_wanted = true;
	engine_withdraw(engine, pending);
	if (pending->state == PENDING_WRITTEN) {
		engine_cancel_notice(engine, pending);
	} else if (!in_doubt(engine, pending)) {
		answer_local(pending->reply, LF_FAILED, "cancelled", LF_APPLIED_NO,
			"cancelled before it was sent");
		settle(engine, pending, NULL);
	}
	engine_lease_sweep(engine);
	return 0;
}

size_t engine_unsent(const struct engine *engine)
{
	const struct pending *pending;
	size_t count = 0;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->state == PENDING_QUEUED ||
			(pending->state == PENDING_WRITTEN && !pending->sent)) {
			count++;
		}
	}
	return count;
}

/* ---- time and processes ---------------------------------------------------------------------- */

/*
 * The daemon runs on the same deadline and says "deadline, applied: no" when it ends; its answer
 * then is on its way. A moment's patience turns an UNKNOWN into that answer. What waits for others
 * by its nature, a verb or `ack` "shipped", often ends so, and some of it cannot be asked again: it
 * is given up only when the daemon does not answer at all.
 */
static uint64_t end_ms(const struct engine *engine, const struct pending *pending)
{
	bool certain = pending->kind == PENDING_ADMIN || pending->ack_shipped;
	uint64_t grace_ms = certain ? GRACE_CERTAIN_MS : pending->deadline_ms / 8;
	if (engine->link != LINK_READY || !pending->sent) {
		return pending->deadline_at_ms;
	}
	if (!certain && grace_ms > GRACE_MAX_MS) {
		grace_ms = GRACE_MAX_MS;
	}
	grace_ms = grace_ms < GRACE_MIN_MS ? GRACE_MIN_MS : grace_ms;
	return pending->deadline_at_ms +
		(grace_ms < engine->config.grace_ms ? engine->config.grace_ms : grace_ms);
}

void engine_tick(struct engine *engine, uint64_t now_ms)
{
	struct pending *pending;
	struct pending *next;
	for (pending = TAILQ_FIRST(&engine->open); pending != NULL; pending = next) {
		next = TAILQ_NEXT(pending, link);
		if (now_ms >= end_ms(engine, pending)) {
			engine_withdraw(engine, pending);
			if (pending->state == PENDING_WRITTEN) {
				engine_cancel_notice(engine, pending);
			}
			give_up_late(engine, pending);
		} else if (pending->state == PENDING_WAITING && now_ms >= pending->retry_at_ms) {
			pending->state = PENDING_QUEUED;
		}
	}
	engine_lease_sweep(engine);
}

uint64_t engine_due_ms(const struct engine *engine)
{
	const struct pending *pending;
	uint64_t due_ms = UINT64_MAX;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		uint64_t at_ms = end_ms(engine, pending);
		if (pending->state == PENDING_WAITING && pending->retry_at_ms < at_ms) {
			at_ms = pending->retry_at_ms;
		}
		due_ms = at_ms < due_ms ? at_ms : due_ms;
	}
	return due_ms;
}

void engine_forked(struct engine *engine)
{
	struct pending *pending;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		/* Sent or not: the parent has a copy, and goes on with it. */
		pending->lost = true;
	}
	engine_disconnected(engine, "this process was forked");
	while ((pending = TAILQ_FIRST(&engine->open)) != NULL) {
		engine_give_up(engine, pending, "unknown",
			"the request belongs to the process that this one was forked from");
	}
	engine_watches_finish(engine);
	engine_session_end(engine, true);
	engine->why[0] = '\0';
}
