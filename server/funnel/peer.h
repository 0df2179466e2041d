/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One connected client: its socket, its buffers and their limits, and what hello said about it.
 * Bytes become frames here; what a frame means is the business of method.c.
 *
 *	GREETING ──hello──▶ OPEN ──▶ CLOSING (last bytes go out) ──▶ CLOSED (waits to be freed)
 *	    └──────────────────────────▲───────────────────────────────▲
 *
 * Everything belongs to the loop's thread.
 */

#include "proto/buffer.h"
#include "proto/frame.h"
#include "server/base/list.h"
#include "server/funnel/class.h"
#include "server/funnel/credentials.h"
#include "server/funnel/gather.h"
#include "server/funnel/loop.h"
#include "server/funnel/request.h"

enum { PEER_BUCKETS = 64 };

enum peer_state { PEER_GREETING, PEER_OPEN, PEER_CLOSING, PEER_CLOSED };

struct peer;

/* Whom a peer calls. None of these may free it: that waits for settle(). */
struct peer_hooks {
	void (*frame)(void *ctx, struct peer *peer, const uint8_t *payload, size_t len);
	void (*closed)(void *ctx, struct peer *peer); /* it has moved to PEER_CLOSED */
	void (*timed)(void *ctx);                     /* something of it may now time out */
	void (*settle)(void *ctx);                    /* the end of a call from the loop */
	void (*gone)(void *ctx, struct peer *peer);   /* nobody is at its other end any more */
	void *ctx;
};

struct peer {
	struct list node;    /* funnel::peers, or funnel::closed */
	struct list by_id;   /* funnel::by_id[] */
	struct list touched; /* funnel::touched */
	struct list seat;    /* among those of its user: seats.c */
	uint64_t id;
	int fd;
	enum peer_state state;
	struct loop_watch *watch;
	const struct peer_hooks *hooks;
	const struct config *config;
	struct credentials *credentials;

	/* From hello. */
	enum request_class class;       /* of requests that name none */
	enum request_class class_asked; /* CLASS_COUNT: it has left that to us */
	struct class_grant grant;
	bool has_session;
	uint8_t session[DEDUPE_SESSION_BYTES];

	struct frame_reader reader;
	struct buffer out;
	size_t out_sent; /* of `out`, what the socket has taken */

	struct list in_flight[PEER_BUCKETS]; /* requests without an answer, by id */
	size_t in_flight_count;
	struct gather_mark gather;
	struct list leases; /* those that it has begun, oldest first */

	uint64_t connected_us;
	uint64_t frame_since_us;   /* a frame has begun and is not whole; 0: none */
	uint64_t stalled_since_us; /* bytes wait and the socket takes none; 0: none */
	uint64_t requests;         /* received */
	bool paused;               /* not read: too much is in flight or unread */
	bool ended;                /* it has shut down its sending side */
};

int peer_new(struct loop *loop, int fd, struct credentials *credentials, uint64_t id,
	const struct config *config, const struct peer_hooks *hooks, struct peer **ret_peer);
void peer_free(struct peer *peer); /* only in PEER_CLOSED */

/* The only place where a state changes. */
void peer_move(struct peer *peer, enum peer_state state);

/* Bytes of answers that wait to be sent. */
size_t peer_out_pending(const struct peer *peer);

/* Bytes of a frame that has begun to come and is not whole. */
size_t peer_begun(const struct peer *peer);

/*
 * Sends what waits in `out` as far as the socket takes it, hands on what has arrived if that makes
 * room, and adjusts what is watched. To be called after anything was added or answered.
 */
void peer_flush(struct peer *peer);

/* Says why, sends what it can and closes. */
void peer_close(struct peer *peer, enum failure_code code, const char *message);

/* Closes it if it has kept something waiting for too long. True if it must be looked at again. */
bool peer_check_times(struct peer *peer, uint64_t now_us);

/* Its class, by what it has asked for and what the settings grant it now. */
void peer_grant_class(struct peer *peer);

struct request *peer_find(const struct peer *peer, uint32_t id);
void peer_add(struct peer *peer, struct request *request);
void peer_remove(struct peer *peer, struct request *request);
