/* SPDX-License-Identifier: MIT */

/*
 * The life of leases in the engine. No I/O. What it keeps true: no request of a lease is written before
 * its begin, and none after its end; nothing else is written in between; whatever becomes of a
 * connection, a lease is FAILED as a whole as long as its commit was not sent.
 *
 * A request whose lease is over is only marked at first, because the lists are walked by whoever finds
 * that out; engine_lease_sweep() ends it.
 */

#include "client/lease.h"

#include "client/engine.h"
#include "proto/frame.h"

#include <errno.h>

int engine_lease_new(struct engine *engine, uint64_t *ret_lease)
{
	if (engine->lease.open) {
		return -EBUSY;
	}
	engine->lease.open = true;
	engine->lease.fate = LEASE_NOT_KEPT;
	*ret_lease = ++engine->lease.newest;
	return 0;
}

bool engine_lease_open(const struct engine *engine, uint64_t lease)
{
	return engine->lease.open && engine->lease.newest == lease;
}

void engine_lease_close(struct engine *engine, uint64_t lease)
{
	if (engine->lease.newest == lease) {
		engine->lease.open = false;
	}
}

/* ---- the end --------------------------------------------------------------------------------- */

static bool commit_in_doubt(const struct pending *pending)
{
	return pending->kind == PENDING_COMMIT && (pending->sent || pending->lost);
}

bool engine_lease_in_doubt(const struct engine *engine, uint64_t lease)
{
	const struct pending *pending;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->lease == lease && commit_in_doubt(pending)) {
			return true;
		}
	}
	return false;
}

/* A commit that may be at work is asked for again: it alone outlives its lease. */
static void mark_over(struct engine *engine, uint64_t lease)
{
	struct pending *pending;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->lease == lease && !commit_in_doubt(pending)) {
			pending->lease_over = true;
		}
	}
	engine_lease_close(engine, lease);
}

/* With `told` something of it is on its way to the daemon, perhaps also its end. */
static void leave(struct engine *engine, uint64_t lease, uint64_t wire_number, bool told)
{
	struct lease_state *state = &engine->lease;
	mark_over(engine, lease);
	if (state->on_wire == lease ||
		(told && state->newest == lease && engine->link != LINK_DOWN)) {
		state->leave = wire_number;
	}
}

void engine_lease_leave(struct engine *engine, uint64_t lease, uint64_t wire_number)
{
	if (engine_lease_open(engine, lease)) {
		leave(engine, lease, wire_number, false);
		engine_lease_sweep(engine);
	}
}

int engine_lease_pack_leave(struct engine *engine)
{
	struct buffer *out = &engine->out;
	msgpack_packer packer;
	if (engine->lease.leave == 0) {
		return 0;
	}
	/* Its answer is to nobody. */
	size_t mark = message_begin_request(out, engine->next_id, "rollback");
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 1);
	pack_cstr(&packer, "lease");
	msgpack_pack_uint64(&packer, engine->lease.leave);
	frame_end(out, mark);
	if (engine_packed(out, mark) != 0) {
		return -ENOMEM;
	}
	engine->next_id++;
	engine->lease.leave = 0;
	engine->lease.on_wire = 0;
	return 0;
}

/* A request came behind the end of its lease: what became of that. */
static const char *words_of_end(const struct engine *engine, const struct pending *late)
{
	static const char *const words[] = {
		[LEASE_NOT_KEPT] = "the lease has ended, and nothing of it was kept",
		[LEASE_COMMITTED] = "the lease is over: it was committed, and that stands",
		[LEASE_IN_DOUBT] =
			"the lease has ended, and nobody can tell whether it was committed",
		[LEASE_BY_STEP] =
			"the lease has ended by a COMMIT or ROLLBACK that was a step of it",
	};
	const struct pending *pending;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->lease == late->lease && pending->kind == PENDING_COMMIT &&
			!pending->lease_over) {
			return "the lease is over: its commit is on the way";
		}
	}
	return late->lease == engine->lease.newest
		? words[engine->lease.fate]
		: "the lease has ended, and others after it: what it committed stands";
}

void engine_lease_sweep(struct engine *engine)
{
	struct pending *pending;
	struct pending *next;
	if (engine->lease.newest == 0) {
		return; /* there has never been one */
	}
	for (pending = TAILQ_FIRST(&engine->open); pending != NULL; pending = next) {
		next = TAILQ_NEXT(pending, link);
		if (pending->lease_over && pending->state != PENDING_WRITTEN) {
			engine_give_up(
				engine, pending, "lease_gone", words_of_end(engine, pending));
		}
	}
}

/* ---- writing --------------------------------------------------------------------------------- */

bool engine_lease_may_write(const struct engine *engine, const struct pending *pending)
{
	const struct lease_state *state = &engine->lease;
	switch (pending->kind) {
	case PENDING_WRITE:
		return state->on_wire == 0;
	case PENDING_BEGIN:
		return state->on_wire == 0 && !engine->session_stale;
	case PENDING_STEP:
	case PENDING_ROLLBACK:
		return state->on_wire == pending->lease;
	case PENDING_COMMIT:
		return state->on_wire == pending->lease || pending->lost;
	default:
		return true;
	}
}

void engine_lease_written(struct engine *engine, const struct pending *pending)
{
	if (pending->kind == PENDING_BEGIN) {
		engine->lease.on_wire = pending->lease;
	} else if (engine->lease.on_wire == pending->lease &&
		(pending->kind == PENDING_COMMIT || pending->kind == PENDING_ROLLBACK)) {
		engine->lease.on_wire = 0;
	}
}

void engine_lease_withdrawn(struct engine *engine, const struct pending *pending)
{
	bool end = pending->kind == PENDING_COMMIT || pending->kind == PENDING_ROLLBACK;
	if (pending->kind == PENDING_BEGIN && engine->lease.on_wire == pending->lease) {
		engine->lease.on_wire = 0;
	} else if (end && engine->lease.on_wire == 0 && !pending->lost) {
		engine->lease.on_wire = pending->lease;
	}
}

/* ---- outcomes -------------------------------------------------------------------------------- */

bool engine_lease_is_alone(const struct engine *engine, const struct pending *begin)
{
	const struct pending *pending;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->lease == begin->lease && pending != begin &&
			pending->state == PENDING_WRITTEN) {
			return false;
		}
	}
	return true;
}

/* What an answer of the daemon says of the lease. */
static bool says_over(const struct pending *pending, const struct lf_reply *reply)
{
	bool end = pending->kind == PENDING_COMMIT || pending->kind == PENDING_ROLLBACK;
	bool failed_begin = pending->kind == PENDING_BEGIN && reply->outcome != LF_OK;
	return reply->open == 0 || (reply->open < 0 && (end || failed_begin));
}

static void note_fate(
	struct engine *engine, const struct pending *pending, const struct lf_reply *reply)
{
	enum lf_outcome outcome = reply != NULL ? reply->outcome : pending->reply->outcome;
	if (pending->lease != engine->lease.newest || outcome == LF_FAILED) {
		return;
	}
	if (pending->kind == PENDING_COMMIT) {
		engine->lease.fate = outcome == LF_OK ? LEASE_COMMITTED : LEASE_IN_DOUBT;
	} else if (pending->kind == PENDING_STEP && reply != NULL && reply->open == 0) {
		engine->lease.fate = LEASE_BY_STEP;
	}
}

void engine_lease_settled(
	struct engine *engine, const struct pending *pending, const struct lf_reply *reply)
{
	struct lease_state *state = &engine->lease;
	note_fate(engine, pending, reply);
	if (reply == NULL && pending->lease_over) {
		return; /* it came too late: what it met goes on as it would */
	}
	if (reply == NULL) {
		leave(engine, pending->lease, pending->lease_number,
			pending->state == PENDING_WRITTEN);
	} else if (says_over(pending, reply)) {
		mark_over(engine, pending->lease);
		state->on_wire = state->on_wire == pending->lease ? 0 : state->on_wire;
	} else if (pending->kind == PENDING_COMMIT && state->newest == pending->lease) {
		/* Deferred constraints do not hold yet: it goes on. */
		state->open = true;
		state->on_wire = pending->lease;
	}
}

/* ---- the end of a connection ----------------------------------------------------------------- */

/* Whether all that was sent of it can be sent again: nobody knows an answer, and nothing was kept. */
static bool begins_again(const struct engine *engine, uint64_t lease)
{
	const struct pending *pending;
	bool begun = true;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->lease != lease) {
			continue;
		}
		if (pending->lost || (pending->kind == PENDING_COMMIT && pending->sent)) {
			return false;
		}
		begun = begun && (pending->kind != PENDING_BEGIN || pending->lease_over);
	}
	return !begun;
}

void engine_lease_disconnected(struct engine *engine)
{
	const struct pending *pending;
	uint64_t lease = 0;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->lease != 0 && pending->lease != lease) {
			lease = pending->lease;
			if (!begins_again(engine, lease)) {
				mark_over(engine, lease);
			}
		}
	}
	if (!begins_again(engine, engine->lease.newest)) {
		engine->lease.open = false;
	}
	engine->lease.on_wire = 0;
	engine->lease.leave = 0;
}
