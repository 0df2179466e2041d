/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The client without its socket: bytes in, bytes out, and the time passed in. It decides what is
 * sent when, what is sent again after a connection broke, and what each request's outcome is.
 *
 * The owner tells it of connections (engine_connected, engine_disconnected), moves bytes between it
 * and the socket, and calls engine_tick() when engine_due_ms() has come. All times are milliseconds
 * of CLOCK_BOOTTIME: a machine that slept has made its requests older, as it should.
 */

#include "client/lease.h"
#include "client/pending.h"
#include "client/watch.h"
#include "proto/frame.h"

enum {
	ENGINE_DEADLINE_MS = 30000,
	ENGINE_LABEL_MAX = 128,
	ENGINE_WHY_MAX = 256,
};

/* Conditions of engine_fed(). */
enum {
	ENGINE_CLOSE = 1, /* this connection is of no more use: close it */
};

struct engine_config {
	char client[ENGINE_LABEL_MAX + 1];
	char label[ENGINE_LABEL_MAX + 1];       /* "" = none */
	char request_class[CLASS_NAME_MAX + 1]; /* "" = what the daemon gives */
	uint32_t deadline_ms;
	uint32_t grace_ms; /* beyond it, at least */
	bool no_retry;
	int (*random)(void *ret_bytes, size_t len); /* 0 or a negative errno value */
};

enum engine_link {
	LINK_DOWN,
	LINK_HELLO, /* hello is written and not answered */
	LINK_READY,
};

struct engine {
	struct engine_config config;

	/* This connection. */
	enum engine_link link;
	struct frame_reader reader;
	struct buffer out;
	size_t out_at;     /* bytes of `out` that were sent */
	uint64_t out_base; /* the place of out.data[0] in the connection's stream */
	uint32_t next_id;
	uint32_t hello_id;
	size_t in_flight;
	bool answered_here; /* it has answered more than hello */
	bool hello_refused;

	/* The session; it outlives connections. */
	uint8_t session[16];
	bool session_made;
	bool session_stale; /* nothing new is numbered in it: it ends when all in it is settled */
	uint64_t next_seq;
	uint8_t epoch[16]; /* the lineage seen last */
	bool epoch_known;
	uint64_t commit; /* the newest one seen in it */

	/* Requests. */
	struct pending_list open; /* in the order of submission, so also of seq */
	size_t open_count;
	size_t unnumbered;            /* of them: those that get a seq and have none yet */
	struct pending_list answered; /* in the order of arrival */
	uint64_t settled;             /* how many were ever answered, and changes that came */
	uint64_t next_ticket;

	struct lease_state lease;

	/* What is watched, and what was told of it. */
	struct watch_list watches;
	uint64_t next_watch;
	struct change_list changes; /* in the order of arrival */
	size_t changes_count;

	/* What the last good hello said. */
	struct lf_reply *hello;
	struct lf_reply *spare; /* one that no request needed, or NULL */
	uint64_t limit_frame;
	uint64_t limit_nodes;
	uint64_t limit_in_flight;
	uint64_t session_window;
	uint64_t session_ttl_ms;
	uint64_t key_ttl_ms;

	uint64_t reconnect_after_ms; /* the daemon asked for that much patience */
	char why[ENGINE_WHY_MAX];    /* why there is no connection, in words; "" */
};

void engine_init(struct engine *engine, const struct engine_config *config);
void engine_finish(struct engine *engine);

/* ---- requests ---- */

/* 0, -ENOMEM, or 1: the window is full. The spec's body is taken over with 0 only. */
int engine_submit(struct engine *engine, uint64_t now_ms, const struct pending_spec *spec,
	uint64_t *ret_ticket);

/* The reply to that ticket, or with ticket 0 the next one in order of arrival; NULL: none yet. */
struct lf_reply *engine_take(struct engine *engine, uint64_t ticket);

/* Whether the ticket is open or answered and not yet taken. */
bool engine_knows(const struct engine *engine, uint64_t ticket);

/* 0 or -ENOENT. */
int engine_cancel(struct engine *engine, uint64_t ticket);

/* Requests that still have to be handed to a connection. */
size_t engine_unsent(const struct engine *engine);

/* ---- the connection ---- */

/* Queues hello. 0, or a negative errno value: close the connection again. */
int engine_connected(struct engine *engine);

/* The connection is gone, for the reason `why` (NULL: keep what is known). */
void engine_disconnected(struct engine *engine, const char *why);

/*
 * The bytes to be sent now; valid until the next call. engine_sent() says how many of them the
 * kernel took. 0 or -ENOMEM (some may still be there to send).
 */
int engine_output(
	struct engine *engine, uint64_t now_ms, const uint8_t **ret_data, size_t *ret_len);
void engine_sent(struct engine *engine, uint64_t now_ms, size_t count);

/* Whether engine_output() would have something to send. */
bool engine_wants_output(const struct engine *engine);

/* Room for received bytes, and how many were put there. 0, -ENOMEM, or a condition from above. */
int engine_room(struct engine *engine, uint8_t **ret_room, size_t *ret_room_bytes);
int engine_fed(struct engine *engine, uint64_t now_ms, size_t count);

/* The connection works: the next attempt after it need not back off. */
bool engine_healthy(const struct engine *engine);

/* The session has ended: close the connection and open another, which begins the next session. */
bool engine_wants_reconnect(const struct engine *engine);

/* Queues bye if that is in order. */
void engine_bye(struct engine *engine);

/* ---- time and processes ---- */

/* Ends what is over its deadline. Call it before looking for output or after engine_due_ms(). */
void engine_tick(struct engine *engine, uint64_t now_ms);

/* When engine_tick() has something to do; UINT64_MAX: never. */
uint64_t engine_due_ms(const struct engine *engine);

/* In a forked child: what is open belongs to the parent, and so does the session. */
void engine_forked(struct engine *engine);

/* ---- between engine.c (requests), hello.c, and link.c (the connection) ---- */

/* Whether the session numbers it. */
bool engine_numbers(const struct engine *engine, const struct pending *pending);

/* May a copy be sent although an earlier one was? */
bool engine_repeatable(const struct engine *engine, const struct pending *pending);

/* The daemon's memory of a seq or key may have ended: a copy could be applied a second time. */
bool engine_too_old(const struct engine *engine, const struct pending *pending, uint64_t now_ms);

/* The lowest seq without an outcome; next_seq if there is none. */
uint64_t engine_oldest_seq(const struct engine *engine);

/* The daemon has answered a WRITTEN request. The reply is taken over. */
void engine_answer(
	struct engine *engine, struct pending *pending, struct lf_reply *reply, uint64_t now_ms);

/* Ends a request without an answer: UNKNOWN if a copy may be at work, else FAILED with `code`. */
void engine_give_up(
	struct engine *engine, struct pending *pending, const char *code, const char *message);

/*
 * The next hello begins a new session. Numbered writes in doubt become UNKNOWN, and with another
 * epoch those with a key, too; what is surely not applied loses its number.
 */
void engine_session_end(struct engine *engine, bool epoch_changed);

/* The session takes nothing new, and nothing in it is open any more. */
bool engine_session_over(const struct engine *engine);

/*
 * Takes a WRITTEN request that the kernel has no byte of out of the output again: QUEUED. One of
 * which a part is on its way will be complete before long: it counts as sent.
 */
void engine_withdraw(struct engine *engine, struct pending *pending);

/* Asks the daemon not to begin a WRITTEN request. Without memory nothing happens: it is a wish. */
void engine_cancel_notice(struct engine *engine, const struct pending *pending);

/* Takes back what was packed since `mark` if memory ran out on the way. 0 or -ENOMEM. */
int engine_packed(struct buffer *out, size_t mark);

void engine_set_why(struct engine *engine, const char *why);

/* The answer to hello, which is taken over. 0 or ENGINE_CLOSE. */
int engine_hello_answered(struct engine *engine, struct lf_reply *reply);
