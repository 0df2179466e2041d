/* SPDX-License-Identifier: MIT */

/*
 * The public calls: they conduct the engine and the transport. db_turn() is the whole machine, one
 * pass that never blocks; everything that waits is a loop around it and poll().
 */

#include "client/client.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	READS_A_TURN = 16, /* then other work of the caller's event loop may go first */
	BYE_MS = 100,
	NO_MEMORY_PAUSE_MS = 10,
};

/* ---- time, errors, forks --------------------------------------------------------------------- */

uint64_t db_now_ms(void)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int db_error(struct lf_db *db, int result, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	(void)vsnprintf(db->errmsg, sizeof(db->errmsg), format, args);
	va_end(args);
	return result;
}

void db_enter(struct lf_db *db)
{
	db->errmsg[0] = '\0';
	if (!fork_mark_forked(&db->mark)) {
		return;
	}
	/* Close our end only: the parent goes on with its connection, and a word would be its word.
	 */
	transport_abandon(&db->transport);
	transport_proven(&db->transport);
	db->transport.jitter ^= (uint32_t)getpid() << 1;
	engine_forked(&db->engine);
	local_reader_forked(db->reader);
	fork_mark_set(&db->mark);
}

static int out_of_memory(struct lf_db *db)
{
	return db_error(db, -ENOMEM, "out of memory");
}

/* ---- one turn -------------------------------------------------------------------------------- */

static void lose_connection(struct lf_db *db, uint64_t now_ms, const char *why)
{
	uint64_t patience_ms = db->engine.reconnect_after_ms;
	if (engine_healthy(&db->engine)) {
		transport_proven(&db->transport);
	}
	/* The daemon's last words say more than the end of the stream. */
	engine_disconnected(&db->engine, db->engine.why[0] == '\0' ? why : NULL);
	transport_close(&db->transport, now_ms, patience_ms);
}

/* 0, -ENOMEM, or TRANSPORT_LOST. */
static int send_all(struct lf_db *db, uint64_t now_ms)
{
	const uint8_t *data = NULL;
	size_t len = 0;
	for (;;) {
		size_t sent = 0;
		int short_of_memory = engine_output(&db->engine, now_ms, &data, &len);
		if (len == 0) {
			return short_of_memory;
		}
		int r = transport_send(&db->transport, data, len, &sent);
		if (r == TRANSPORT_AGAIN) {
			return short_of_memory;
		}
		if (r != 0) {
			return r;
		}
		engine_sent(&db->engine, now_ms, sent);
	}
}

/* 0: nothing more to read now. 1: there may be more. -ENOMEM, or TRANSPORT_LOST. */
static int receive_all(struct lf_db *db, uint64_t now_ms)
{
	for (int i = 0; i < READS_A_TURN; i++) {
		uint8_t *room = NULL;
		size_t bytes = 0;
		size_t received = 0;
		int r = engine_room(&db->engine, &room, &bytes);
		if (r != 0) {
			return r;
		}
		r = transport_recv(&db->transport, room, bytes, &received);
		if (r == TRANSPORT_AGAIN) {
			return 0;
		}
		if (r != 0) {
			return r;
		}
		r = engine_fed(&db->engine, now_ms, received);
		if (r != 0) {
			return r == ENGINE_CLOSE ? TRANSPORT_LOST : r;
		}
		if (received < bytes) {
			return 0; /* that was all there is: spares the call that would say so */
		}
	}
	return 1;
}

static int connect_now(struct lf_db *db, uint64_t now_ms)
{
	if (transport_connect(&db->transport, now_ms) != 0) {
		engine_disconnected(&db->engine, db->transport.why);
		return TRANSPORT_LOST;
	}
	int r = engine_connected(&db->engine);
	if (r != 0) {
		lose_connection(db, now_ms, "no memory or no random bytes for hello");
	}
	return r;
}

/*
 * Sends, receives, and sends what that released. With `will_wait` the caller sleeps until the socket is
 * readable if nothing comes of it: then what was sent just now is given time to be answered.
 */
static int exchange(struct lf_db *db, uint64_t now_ms, bool will_wait)
{
	bool expects = db->engine.link != LINK_READY || db->engine.in_flight > 0;
	int sent = send_all(db, now_ms);
	if (will_wait && !expects && sent == 0 && db->engine.in_flight > 0) {
		return 0;
	}
	/*
	 * Read even if sending failed: a daemon that closes has answered what it executed, and
	 * those answers are still in the socket.
	 */
	int received = receive_all(db, now_ms);
	while (sent != 0 && received == 1) {
		received = receive_all(db, now_ms);
	}
	if (received == -ENOMEM) {
		/* A frame could not be kept. What was in it comes again on the next connection. */
		lose_connection(db, now_ms, "out of memory while reading an answer");
		return -ENOMEM;
	}
	if (received == TRANSPORT_LOST || sent == TRANSPORT_LOST) {
		lose_connection(db, now_ms, db->transport.why);
		return 0;
	}
	if (engine_healthy(&db->engine)) {
		transport_proven(&db->transport);
	}
	if (engine_wants_reconnect(&db->engine)) {
		engine_disconnected(&db->engine, NULL);
		transport_abandon(&db->transport);
		return 0;
	}
	return sent < 0 ? sent : send_all(db, now_ms) < 0 ? -ENOMEM : 0;
}

/* Something needs a connection. */
static bool connect_wanted(const struct lf_db *db)
{
	return db->transport.fd < 0 &&
		(db->engine.open_count > 0 || engine_watches_wanted(&db->engine));
}

static bool connect_due(const struct lf_db *db, uint64_t now_ms)
{
	return connect_wanted(db) && now_ms >= db->transport.connect_at_ms;
}

/* Everything that can be done without waiting. 0 or -ENOMEM (the work goes on next time). */
static int db_turn(struct lf_db *db, bool will_wait)
{
	uint64_t now_ms = db_now_ms();
	engine_tick(&db->engine, now_ms);
	if (connect_due(db, now_ms)) {
		int r = connect_now(db, now_ms);
		if (r != 0) {
			return r < 0 ? -ENOMEM : 0;
		}
	}
	return db->transport.fd >= 0 ? exchange(db, now_ms, will_wait) : 0;
}

static short db_events(const struct lf_db *db)
{
	return (short)(POLLIN | (engine_wants_output(&db->engine) ? POLLOUT : 0));
}

/* Milliseconds until something is due by the clock; -1: nothing is. */
static int db_timeout_ms(const struct lf_db *db, uint64_t now_ms)
{
	uint64_t due_ms = engine_due_ms(&db->engine);
	if (connect_wanted(db) && db->transport.connect_at_ms < due_ms) {
		due_ms = db->transport.connect_at_ms;
	}
	if (due_ms == UINT64_MAX) {
		return -1;
	}
	if (due_ms <= now_ms) {
		return 0;
	}
	return due_ms - now_ms > INT_MAX ? INT_MAX : (int)(due_ms - now_ms);
}

void db_turn_and_wait(struct lf_db *db, int max_ms)
{
	uint64_t settled = db->engine.settled;
	int r = db_turn(db, max_ms != 0);
	if (db->engine.settled != settled) {
		return;
	}
	int timeout_ms = db_timeout_ms(db, db_now_ms());
	if (max_ms >= 0 && (timeout_ms < 0 || timeout_ms > max_ms)) {
		timeout_ms = max_ms;
	}
	short events = db_events(db);
	if (r != 0) {
		/* Out of memory: being able to send is no reason to try again at once. */
		events = POLLIN;
		timeout_ms = timeout_ms < 0 || timeout_ms > NO_MEMORY_PAUSE_MS ? NO_MEMORY_PAUSE_MS
									       : timeout_ms;
	}
	transport_wait(&db->transport, events, timeout_ms);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void say_bye(struct lf_db *db)
{
	uint64_t until_ms = db_now_ms() + BYE_MS;
	engine_bye(&db->engine);
	while (db->transport.fd >= 0 && db->engine.out.len > db->engine.out_at) {
		uint64_t now_ms = db_now_ms();
		if (send_all(db, now_ms) != 0 || now_ms >= until_ms) {
			return;
		}
		if (db->engine.out.len > db->engine.out_at) {
			transport_wait(&db->transport, POLLOUT, (int)(until_ms - now_ms));
		}
	}
}

void lf_close(lf_db *db)
{
	if (db == NULL) {
		return;
	}
	db_enter(db);
	say_bye(db);
	transport_finish(&db->transport);
	engine_finish(&db->engine);
	local_reader_free(db->reader);
	fork_mark_finish(&db->mark);
	free(db->path);
	free(db);
}

/* ---- writing --------------------------------------------------------------------------------- */

int lf_submit(lf_db *db, const lf_batch *batch, uint64_t *ret_ticket)
{
	struct buffer body;
	struct buffer guard;
	struct pending_spec spec = {
		.kind = PENDING_WRITE, .method = "write", .body = &body, .guard = &guard};
	size_t guard_nodes = 0;

	db_enter(db);
	if (db->engine.lease.open) {
		return db_error(db, -EBUSY,
			"this client has an open lease: end it first, or use another lf_db");
	}
	buffer_init(&body, BATCH_BYTES_MAX);
	buffer_init(&guard, BATCH_BYTES_MAX);
	int r = builder_encode(batch, &body, &spec.nodes);
	r = r == 0 ? builder_encode_guard(batch, &guard, &guard_nodes) : r;
	if (r == 0) {
		spec.nodes += guard_nodes;
		spec.key = batch->key;
		spec.class_name = batch->class_name;
		spec.ack_shipped = batch->ack_shipped;
		spec.deadline_ms = batch->deadline_ms;
		r = engine_submit(&db->engine, db_now_ms(), &spec, ret_ticket);
	}
	buffer_finish(&body);
	buffer_finish(&guard);
	switch (r) {
	case -ENOMEM:
		return out_of_memory(db);
	case -EINVAL:
		return db_error(db, r,
			"the batch was built wrongly: it has no step, a value without "
			"a step, or options that contradict each other");
	case -EMSGSIZE:
		return db_error(db, r, "the batch is larger than any frame: split it");
	default:
		return r;
	}
}

static int hand_over(struct lf_reply *reply, lf_reply **ret_reply)
{
	int outcome = (int)reply->outcome;
	if (ret_reply != NULL) {
		*ret_reply = reply;
	} else {
		lf_reply_free(reply);
	}
	return outcome;
}

/* The engine ends every request by its deadline, so this ends. */
int db_wait_ticket(struct lf_db *db, uint64_t ticket, lf_reply **ret_reply)
{
	struct lf_reply *reply;
	while ((reply = engine_take(&db->engine, ticket)) == NULL) {
		db_turn_and_wait(db, -1);
	}
	return hand_over(reply, ret_reply);
}

int lf_wait(lf_db *db, uint64_t ticket, lf_reply **ret_reply)
{
	db_enter(db);
	if (ticket == 0 || !engine_knows(&db->engine, ticket)) {
		return db_error(db, -ENOENT, "no request with ticket %llu is open",
			(unsigned long long)ticket);
	}
	return db_wait_ticket(db, ticket, ret_reply);
}

int lf_write(lf_db *db, const lf_batch *batch, lf_reply **ret_reply)
{
	uint64_t ticket = 0;
	int r;
	while ((r = lf_submit(db, batch, &ticket)) == 1) {
		db_turn_and_wait(db, -1);
	}
	return r != 0 ? r : db_wait_ticket(db, ticket, ret_reply);
}

int lf_exec(lf_db *db, const char *sql, lf_reply **ret_reply)
{
	lf_batch *batch = lf_batch_new();
	db_enter(db);
	if (batch == NULL) {
		return out_of_memory(db);
	}
	lf_batch_step(batch, sql);
	int r = lf_write(db, batch, ret_reply);
	lf_batch_free(batch);
	return r;
}

int lf_next(lf_db *db, lf_reply **ret_reply)
{
	db_enter(db);
	struct lf_reply *reply = engine_take(&db->engine, 0);
	if (reply == NULL) {
		return 1;
	}
	(void)hand_over(reply, ret_reply);
	return 0;
}

size_t lf_pending(const lf_db *db)
{
	return db->engine.open_count;
}

int lf_cancel(lf_db *db, uint64_t ticket)
{
	db_enter(db);
	return engine_cancel(&db->engine, ticket);
}

/* ---- event loops ----------------------------------------------------------------------------- */

/*
 * These three take a const db, so that they cannot notice a fork for good; lf_process() will. Until
 * then the child has no fd of its own, and something to do at once.
 */
int lf_fd(const lf_db *db)
{
	return fork_mark_forked(&db->mark) ? -1 : db->transport.fd;
}

int lf_events(const lf_db *db)
{
	return db_events(db);
}

int lf_timeout_ms(const lf_db *db)
{
	return fork_mark_forked(&db->mark) ? 0 : db_timeout_ms(db, db_now_ms());
}

int lf_process(lf_db *db)
{
	db_enter(db);
	return db_turn(db, false) != 0 ? out_of_memory(db) : 0;
}

int lf_flush(lf_db *db, int timeout_ms)
{
	uint64_t until_ms = db_now_ms() + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);
	db_enter(db);
	(void)db_turn(db, false);
	while (engine_unsent(&db->engine) > 0) {
		uint64_t now_ms = db_now_ms();
		if (timeout_ms >= 0 && now_ms >= until_ms) {
			return db_error(db, -ETIMEDOUT, "not all was sent within %d ms%s%s",
				timeout_ms, db->engine.why[0] != '\0' ? ": " : "", db->engine.why);
		}
		db_turn_and_wait(db, timeout_ms < 0 ? -1 : (int)(until_ms - now_ms));
	}
	return 0;
}
