/* SPDX-License-Identifier: MIT */

/*
 * The engine's connection: what is written in which order, what arrives, and what the end of a
 * connection means for each request. No I/O: bytes are handed in and out.
 *
 * Nothing but a first connection's few fresh requests is written before hello is answered: only the
 * answer tells whether the database is still the one in which lost requests may be sent again.
 */

#include "client/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	OUT_FILL_BYTES = 256 * 1024, /* pack no further ahead of the socket than that */
	OUT_CUT_BYTES = 64 * 1024,
	KEEP_BYTES = 1024 * 1024, /* a buffer that once grew beyond is given back when empty */
	ROOM_BYTES = 64 * 1024,
	REQUEST_HEAD_BYTES = 1024, /* more than a request has around its body */
};

/* Conditions of write_request(). */
enum {
	WRITE_LATER = 1, /* not on this connection as it stands */
	WRITE_ENDED = 2, /* the request was given up instead */
};

int engine_packed(struct buffer *out, size_t mark)
{
	if (!out->failed) {
		return 0;
	}
	buffer_truncate(out, mark);
	out->failed = false;
	return -ENOMEM;
}

void engine_set_why(struct engine *engine, const char *why)
{
	(void)snprintf(engine->why, sizeof(engine->why), "%s", why);
}

/* ---- writing --------------------------------------------------------------------------------- */

void engine_cancel_notice(struct engine *engine, const struct pending *pending)
{
	size_t mark = engine->out.len;
	pending_pack_cancel(pending, &engine->out);
	(void)engine_packed(&engine->out, mark);
}

void engine_withdraw(struct engine *engine, struct pending *pending)
{
	struct pending *other;
	uint64_t bytes = pending->out_end - pending->out_begin;
	if (pending->state != PENDING_WRITTEN || pending->sent) {
		return;
	}
	bool ends = pending->kind == PENDING_COMMIT || pending->kind == PENDING_ROLLBACK;
	if (pending->out_begin < engine->out_base + engine->out_at ||
		(ends && engine->lease.on_wire != 0)) { /* the next lease stands behind it */
		pending->sent = true;
		return;
	}
	buffer_cut(&engine->out, (size_t)(pending->out_begin - engine->out_base),
		(size_t)(pending->out_end - engine->out_base));
	TAILQ_FOREACH(other, &engine->open, link)
	{
		if (other->state == PENDING_WRITTEN && other->out_begin > pending->out_begin) {
			other->out_begin -= bytes;
			other->out_end -= bytes;
		}
	}
	engine->in_flight--;
	engine_lease_withdrawn(engine, pending);
	pending->state = PENDING_QUEUED;
}

/* Whether this connection may carry the request now. */
static bool may_write(const struct engine *engine, const struct pending *pending)
{
	if (!engine_lease_may_write(engine, pending)) {
		return false;
	}
	if (engine->link == LINK_HELLO) {
		uint64_t bytes =
			engine->out_base + engine->out.len + pending->body.len + pending->guard.len;
		return !engine->epoch_known && !pending->lost &&
			bytes + REQUEST_HEAD_BYTES <= FRAME_MAX_BEFORE_HELLO;
	}
	if (engine->in_flight >= engine->limit_in_flight) {
		return false;
	}
	if (engine->session_stale && pending->seq == 0 && !pending->lost && pending->lease == 0) {
		return false; /* the next connection is near, which begins a new session */
	}
	if (!engine_numbers(engine, pending)) {
		return true;
	}
	return pending->seq != 0 ||
		engine->next_seq - engine_oldest_seq(engine) < engine->session_window;
}

/* What the daemon would close the connection for: better told to the one request that is too large.
 */
static bool fits(
	const struct engine *engine, size_t bytes, size_t nodes, char *ret_why, size_t why_bytes)
{
	if (bytes > engine->limit_frame) {
		(void)snprintf(ret_why, why_bytes,
			"the batch takes %zu bytes and a frame at most %llu: split it, or raise "
			"the "
			"daemon's frame limit",
			bytes, (unsigned long long)engine->limit_frame);
		return false;
	}
	if (nodes > engine->limit_nodes) {
		(void)snprintf(ret_why, why_bytes,
			"the batch has %zu values and a frame at most %llu: split it", nodes,
			(unsigned long long)engine->limit_nodes);
		return false;
	}
	return true;
}

static int write_request(struct engine *engine, struct pending *pending, uint64_t now_ms)
{
	size_t mark = engine->out.len;
	size_t nodes = 0;
	char why[ENGINE_WHY_MAX];

	if (engine_too_old(engine, pending, now_ms)) {
		engine_give_up(engine, pending, "unknown",
			"the daemon may have forgotten its number by now");
		return WRITE_ENDED;
	}
	if (!may_write(engine, pending)) {
		return WRITE_LATER;
	}
	bool number = engine_numbers(engine, pending) && pending->seq == 0;
	if (number) {
		pending->seq = engine->next_seq;
	}
	pending->id = engine->next_id;
	uint64_t done = engine->config.no_retry ? 0 : engine_oldest_seq(engine) - 1;
	uint64_t left_ms = pending->deadline_at_ms > now_ms ? pending->deadline_at_ms - now_ms : 1;
	pending_pack(pending, &engine->out, done, left_ms, &nodes);
	size_t bytes = engine->out.len - mark - FRAME_HEADER_BYTES;
	bool failed = engine_packed(&engine->out, mark) != 0;
	if (failed || !fits(engine, bytes, nodes, why, sizeof(why))) {
		buffer_truncate(&engine->out, mark);
		pending->seq = number ? 0 : pending->seq;
		if (failed) {
			return -ENOMEM;
		}
		engine_give_up(engine, pending, "too_large", why);
		return WRITE_ENDED;
	}
	if (number) {
		engine->next_seq++;
		engine->unnumbered--;
	}
	engine->next_id++;
	engine->in_flight++;
	pending->state = PENDING_WRITTEN;
	pending->sent = false;
	pending->out_begin = engine->out_base + mark;
	pending->out_end = engine->out_base + engine->out.len;
	engine_lease_written(engine, pending);
	if (pending->cancel_wanted) {
		engine_cancel_notice(engine, pending);
	}
	return 0;
}

/* What may not be overtaken any more, while the open requests are looked at in their order. */
struct order {
	bool held;       /* something that is to be applied in order stays behind */
	bool lease_held; /* of a lease */
};

static bool is_ordered(const struct pending *pending)
{
	return pending->kind == PENDING_WRITE || pending->lease != 0;
}

/* What a lease has begun goes on past a write that waits for its end. */
static bool must_wait(
	const struct engine *engine, const struct order *order, const struct pending *pending)
{
	bool going_on = pending->lease != 0 && engine->lease.on_wire == pending->lease;
	return is_ordered(pending) && (going_on ? order->lease_held : order->held);
}

static void stays_behind(struct order *order, const struct pending *pending)
{
	order->held = order->held || is_ordered(pending);
	order->lease_held = order->lease_held || pending->lease != 0;
}

/*
 * In the order of submission; that is also the order of seq, so after a reconnect all that was
 * unanswered goes before what is new. A new write does not overtake one that waits for its retry.
 */
static int fill(struct engine *engine, uint64_t now_ms)
{
	struct pending *pending;
	struct pending *next;
	struct order order = {false, false};

	for (pending = TAILQ_FIRST(&engine->open); pending != NULL; pending = next) {
		next = TAILQ_NEXT(pending, link);
		if (pending->state != PENDING_QUEUED || must_wait(engine, &order, pending)) {
			if (pending->state != PENDING_WRITTEN) {
				stays_behind(&order, pending);
			}
			continue;
		}
		if (engine->out.len - engine->out_at >= OUT_FILL_BYTES) {
			break;
		}
		int r = write_request(engine, pending, now_ms);
		if (r < 0) {
			return r;
		}
		if (r == WRITE_LATER) {
			stays_behind(&order, pending);
		}
	}
	engine_lease_sweep(engine);
	return 0;
}

bool engine_wants_output(const struct engine *engine)
{
	const struct pending *pending;
	struct order order = {false, false};
	if (engine->out.len > engine->out_at || engine->link == LINK_DOWN) {
		return engine->link != LINK_DOWN;
	}
	if (engine->link == LINK_READY &&
		(engine_watches_wanted(engine) || engine->lease.leave != 0)) {
		return true;
	}
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->state == PENDING_QUEUED && !must_wait(engine, &order, pending) &&
			may_write(engine, pending)) {
			return true;
		}
		if (pending->state != PENDING_WRITTEN) {
			stays_behind(&order, pending);
		}
	}
	return false;
}

int engine_output(struct engine *engine, uint64_t now_ms, const uint8_t **ret_data, size_t *ret_len)
{
	int r = engine->link == LINK_READY ? engine_lease_pack_leave(engine) : 0;
	r = r == 0 && engine->link == LINK_READY ? engine_watches_ask(engine) : r;
	r = r == 0 && engine->link != LINK_DOWN ? fill(engine, now_ms) : r;
	*ret_data = engine->out.data != NULL ? engine->out.data + engine->out_at : NULL;
	*ret_len = engine->out.len - engine->out_at;
	return r;
}

void engine_sent(struct engine *engine, uint64_t now_ms, size_t count)
{
	struct pending *pending;
	engine->out_at += count;
	uint64_t total = engine->out_base + engine->out_at;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->state != PENDING_WRITTEN || pending->sent ||
			pending->out_end > total) {
			continue;
		}
		pending->sent = true;
		if (pending->first_sent_ms == 0) {
			pending->first_sent_ms = now_ms;
		}
	}
	if (engine->out_at == engine->out.len || engine->out_at >= OUT_CUT_BYTES) {
		engine->out_base = total;
		buffer_cut(&engine->out, 0, engine->out_at);
		engine->out_at = 0;
	}
	if (engine->out.len == 0 && engine->out.cap > KEEP_BYTES) {
		buffer_finish(&engine->out);
	}
}

void engine_bye(struct engine *engine)
{
	msgpack_packer packer;
	size_t mark = engine->out.len;
	if (engine->link != LINK_READY || engine->open_count > 0 || !engine->session_made) {
		return;
	}
	(void)message_begin_request(&engine->out, engine->next_id++, "bye");
	buffer_packer(&engine->out, &packer);
	msgpack_pack_map(&packer, 0);
	frame_end(&engine->out, mark);
	(void)engine_packed(&engine->out, mark);
}

/* ---- reading --------------------------------------------------------------------------------- */

static struct pending *find_id(const struct engine *engine, uint32_t id)
{
	struct pending *pending;
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		if (pending->state == PENDING_WRITTEN && pending->id == id) {
			break;
		}
	}
	return pending;
}

static int handle_reply(struct engine *engine, uint64_t now_ms, uint32_t id, struct lf_reply *reply)
{
	if (engine->link == LINK_HELLO) {
		if (id == engine->hello_id) {
			return engine_hello_answered(engine, reply);
		}
		lf_reply_free(reply);
		engine_set_why(engine, "the daemon answered something else before hello");
		return ENGINE_CLOSE;
	}
	if (engine_watch_answered(engine, id, reply)) {
		return 0;
	}
	struct pending *pending = find_id(engine, id);
	if (pending == NULL) {
		lf_reply_free(reply); /* the late answer to a request that was given up */
		return 0;
	}
	engine->answered_here = true;
	if (reply->epoch != NULL && reply->outcome == LF_OK) {
		bool same = memcmp(engine->epoch, reply->epoch, 16) == 0;
		memcpy(engine->epoch, reply->epoch, 16);
		if (!same || reply->commit > engine->commit) {
			engine->commit = reply->commit;
		}
	}
	engine_answer(engine, pending, reply, now_ms);
	engine_lease_sweep(engine);
	return 0;
}

/* The last word of a daemon on a connection. With an id it refused that one request unread. */
static int handle_closing(struct engine *engine, const struct message *message)
{
	const struct field *field = message_field(message, "message");
	const struct field *code = message_field(message, "code");
	const struct field *id = message_field(message, "id");
	struct span text = {0};
	struct span word = {0};
	char code_text[REPLY_CODE_MAX] = "bad_request";
	uint64_t number = 0;
	char why[ENGINE_WHY_MAX];

	if (field == NULL || !object_str(field->value, &text) || text.len == 0) {
		text = (struct span){(const uint8_t *)"no reason given", 15};
	}
	(void)snprintf(why, sizeof(why), "the daemon closed the connection: %.*s",
		(int)(text.len < 200 ? text.len : 200), (const char *)text.data);
	engine_set_why(engine, why);
	if (code != NULL && object_str(code->value, &word) && word.len > 0) {
		(void)snprintf(code_text, sizeof(code_text), "%.*s",
			(int)(word.len < sizeof(code_text) ? word.len : sizeof(code_text) - 1),
			(const char *)word.data);
	}
	if (id != NULL && object_uint64(id->value, &number) && number <= UINT32_MAX) {
		struct pending *pending = find_id(engine, (uint32_t)number);
		if (pending != NULL) {
			pending->sent = false;
			engine_give_up(engine, pending, code_text, why);
		}
	}
	return ENGINE_CLOSE;
}

static int handle_frame(struct engine *engine, uint64_t now_ms, const uint8_t *payload, size_t len)
{
	struct message message;
	struct lf_reply *reply = NULL;

	int r = answer_parse(payload, len, &engine->spare, &message, &reply);
	if (r == MESSAGE_BROKEN) {
		char why[ENGINE_WHY_MAX];
		(void)snprintf(
			why, sizeof(why), "the daemon sent what is no message: %s", message.reason);
		engine_set_why(engine, why);
		return ENGINE_CLOSE;
	}
	if (r == MESSAGE_BAD_REQUEST) {
		return 0; /* a notice or request whose params we cannot read: none that we know */
	}
	if (r != 0) {
		return r;
	}
	if (message.type == MESSAGE_REPLY) {
		return handle_reply(engine, now_ms, message.id, reply);
	}
	if (message.type == MESSAGE_NOTICE && engine_watch_notice(engine, &message, reply)) {
		return 0;
	}
	if (message.type == MESSAGE_NOTICE && span_equal(message.method, "closing")) {
		r = handle_closing(engine, &message);
	}
	lf_reply_free(reply);
	return r;
}

int engine_room(struct engine *engine, uint8_t **ret_room, size_t *ret_room_bytes)
{
	return frame_reader_room(&engine->reader, ROOM_BYTES, ret_room, ret_room_bytes);
}

int engine_fed(struct engine *engine, uint64_t now_ms, size_t count)
{
	const uint8_t *payload = NULL;
	size_t len = 0;
	int r = 0;

	frame_reader_fed(&engine->reader, count);
	while ((r = frame_reader_next(&engine->reader, &payload, &len)) == 0) {
		r = handle_frame(engine, now_ms, payload, len);
		if (r != 0) {
			return r;
		}
	}
	if (r == FRAME_TOO_LARGE) {
		engine_set_why(engine, "the daemon sent a frame beyond every limit");
		return ENGINE_CLOSE;
	}
	if (engine->reader.cap > KEEP_BYTES) {
		frame_reader_shrink(&engine->reader);
	}
	return 0;
}

bool engine_healthy(const struct engine *engine)
{
	return engine->link == LINK_READY && (engine->answered_here || engine->open_count == 0);
}

/* ---- the end of a connection ----------------------------------------------------------------- */

/* Where a request stands now that its connection is gone. */
static void unwritten(struct engine *engine, struct pending *pending)
{
	/* Of a lease nothing is kept but by its commit: the rest of it can be lost without a doubt. */
	bool lost = pending->sent && (pending->lease == 0 || pending_keeps(pending));
	pending->sent = false;
	pending->lost = pending->lost || lost;
	if (pending->state == PENDING_WRITTEN) {
		engine->in_flight--;
	}
	/* Whoever waited for a retry need not any more: the next connection is a fresh start. */
	pending->state = PENDING_QUEUED;
	if (pending->lost && !engine_repeatable(engine, pending)) {
		engine_give_up(engine, pending, "unknown", engine->why);
	}
}

void engine_disconnected(struct engine *engine, const char *why)
{
	struct pending *pending;
	struct pending *next;

	if (why != NULL) {
		engine_set_why(engine, why);
	}
	TAILQ_FOREACH(pending, &engine->open, link)
	{
		/* Behind a hello that was refused the daemon executes nothing. */
		pending->sent = pending->sent && !engine->hello_refused;
	}
	engine_lease_disconnected(engine);
	for (pending = TAILQ_FIRST(&engine->open); pending != NULL; pending = next) {
		next = TAILQ_NEXT(pending, link);
		unwritten(engine, pending);
	}
	engine_lease_sweep(engine);
	engine_watches_disconnected(engine);
	engine->link = LINK_DOWN;
	buffer_finish(&engine->out);
	engine->out_at = 0;
	engine->out_base = 0;
	frame_reader_finish(&engine->reader);
	frame_reader_init(&engine->reader, FRAME_MAX_LIMIT);
}
