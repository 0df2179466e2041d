/* SPDX-License-Identifier: MIT */

/*
 * Reading and writing one connection. What this file keeps true: memory per peer is bounded
 * whatever it sends or does not read; frames are handed on one at a time and in order; a peer is
 * never freed under a caller.
 */

#include "server/funnel/peer.h"

#include "server/base/clock.h"
#include "server/funnel/reply.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	READ_BYTES = 16 * 1024,         /* room for one read */
	READ_BYTES_LARGE = 1024 * 1024, /* … once a frame has shown to be large */
	READS_MAX = 16,                 /* in a row, before others get their turn */
	KEEP_BYTES = 64 * 1024, /* a buffer that has grown past this is given back when empty */
};

static void ready(void *ctx, unsigned what);

int peer_new(struct loop *loop, int fd, struct credentials *credentials, uint64_t id,
	const struct config *config, const struct peer_hooks *hooks, struct peer **ret_peer)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	if (peer == NULL) {
		return -ENOMEM;
	}
	list_init(&peer->node);
	list_init(&peer->by_id);
	list_init(&peer->touched);
	list_init(&peer->seat);
	list_init(&peer->leases);
	gather_mark_init(&peer->gather);
	for (size_t i = 0; i < PEER_BUCKETS; i++) {
		list_init(&peer->in_flight[i]);
	}
	peer->id = id;
	peer->fd = -1;
	peer->hooks = hooks;
	peer->config = config;
	peer->class = CLASS_NORMAL;
	peer->class_asked = CLASS_COUNT;
	peer->connected_us = clock_now_us();
	frame_reader_init(&peer->reader, FRAME_MAX_BEFORE_HELLO);
	buffer_init(&peer->out, 0);
	peer->watch = loop_watch_new(loop, fd, ready, peer);
	if (peer->watch == NULL || loop_watch_set(peer->watch, LOOP_READ) < 0) {
		peer->state = PEER_CLOSED;
		peer_free(peer);
		return -ENOMEM;
	}
	peer->fd = fd;
	peer->credentials = credentials_ref(credentials);
	*ret_peer = peer;
	return 0;
}

void peer_free(struct peer *peer)
{
	assert(peer->state == PEER_CLOSED);
	for (size_t i = 0; i < PEER_BUCKETS; i++) {
		/* Requests that still run name this peer by id only; they free themselves. */
		list_for_each_safe(node, &peer->in_flight[i]) {
			list_remove(node);
		}
	}
	list_remove(&peer->node);
	list_remove(&peer->by_id);
	list_remove(&peer->touched);
	loop_watch_free(peer->watch);
	if (peer->fd >= 0) {
		close(peer->fd);
	}
	frame_reader_finish(&peer->reader);
	buffer_finish(&peer->out);
	credentials_unref(peer->credentials);
	free(peer);
}

void peer_move(struct peer *peer, enum peer_state state)
{
	static const bool allowed[][PEER_CLOSED + 1] = {
		[PEER_GREETING] = {[PEER_OPEN] = true, [PEER_CLOSING] = true, [PEER_CLOSED] = true},
		[PEER_OPEN] = {[PEER_CLOSING] = true, [PEER_CLOSED] = true},
		[PEER_CLOSING] = {[PEER_CLOSED] = true},
		[PEER_CLOSED] = {false},
	};
	assert(allowed[peer->state][state]);
	peer->state = state;
	if (state == PEER_OPEN) {
		peer->reader.frame_max = config_number(peer->config, SETTING_FRAME_BYTES_MAX);
	}
	if (state == PEER_CLOSED) {
		(void)loop_watch_set(peer->watch, 0);
		peer->hooks->closed(peer->hooks->ctx, peer);
	}
}

size_t peer_begun(const struct peer *peer)
{
	return peer->frame_since_us != 0 && !peer->paused ? frame_reader_pending(&peer->reader) : 0;
}

size_t peer_out_pending(const struct peer *peer)
{
	return peer->out.len - peer->out_sent;
}

/* Whether it must first collect answers before it is read again. */
static void check_limits(struct peer *peer)
{
	peer->paused =
		peer->in_flight_count >= config_number(peer->config, SETTING_IN_FLIGHT_MAX) ||
		peer_out_pending(peer) >= config_number(peer->config, SETTING_OUTPUT_BYTES_MAX);
}

/* What the loop should watch now. */
static void watch(struct peer *peer)
{
	unsigned want = 0;
	if (peer->state == PEER_CLOSED) {
		return;
	}
	check_limits(peer);
	if (peer->state != PEER_CLOSING && !peer->paused && !peer->ended) {
		want |= LOOP_READ;
	}
	if (peer_out_pending(peer) > 0) {
		want |= LOOP_WRITE;
	}
	if (loop_watch_set(peer->watch, want) < 0) {
		peer_move(peer, PEER_CLOSED);
	}
}

static void drop_sent(struct peer *peer)
{
	if (peer_out_pending(peer) == 0) {
		peer->out_sent = 0;
		if (peer->out.cap > KEEP_BYTES) {
			buffer_finish(&peer->out);
		} else {
			buffer_clear(&peer->out);
		}
	} else if (peer->out_sent > KEEP_BYTES) {
		buffer_cut(&peer->out, 0, peer->out_sent);
		peer->out_sent = 0;
	}
}

/* Sends as much as the socket takes. */
static void send_pending(struct peer *peer)
{
	while (peer->state != PEER_CLOSED && peer_out_pending(peer) > 0) {
		ssize_t sent = send(peer->fd, peer->out.data + peer->out_sent,
			peer_out_pending(peer), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno == EINTR) {
			continue;
		}
		if (sent < 0 && errno != EAGAIN) {
			peer_move(peer, PEER_CLOSED);
			return;
		}
		if (sent < 0) {
			break;
		}
		peer->out_sent += (size_t)sent;
		peer->stalled_since_us = 0;
	}
	drop_sent(peer);
	if (peer_out_pending(peer) > 0 && peer->stalled_since_us == 0) {
		peer->stalled_since_us = clock_now_us();
		peer->hooks->timed(peer->hooks->ctx);
	}
}

static void hand_on(struct peer *peer);

void peer_flush(struct peer *peer)
{
	bool go_on = true;
	while (go_on && peer->state != PEER_CLOSED) {
		if (peer->out.failed) {
			/* An answer is lost for lack of memory: the client must not wait for it. */
			peer_move(peer, PEER_CLOSED);
			return;
		}
		send_pending(peer);
		/* Room again? Then whole frames that have arrived meanwhile have their turn. */
		bool was_paused = peer->paused;
		check_limits(peer);
		go_on = was_paused && !peer->paused && peer->state < PEER_CLOSING;
		if (go_on) {
			peer->frame_since_us = 0; /* it was we who did not read */
			hand_on(peer);
		}
	}
	bool last = peer->state == PEER_CLOSING ||
		(peer->ended && !peer->paused && peer->in_flight_count == 0);
	if (last && peer->state != PEER_CLOSED && peer_out_pending(peer) == 0) {
		peer_move(peer, PEER_CLOSED);
	}
	watch(peer);
}

void peer_close(struct peer *peer, enum failure_code code, const char *message)
{
	if (peer->state >= PEER_CLOSING) {
		return;
	}
	reply_closing(&peer->out, code, message);
	peer_move(peer, PEER_CLOSING);
	peer_flush(peer);
}

static void close_too_large(struct peer *peer)
{
	char text[96];
	snprintf(text, sizeof(text), "the frame is over the limit of %zu bytes (%s)",
		peer->reader.frame_max,
		peer->state == PEER_GREETING ? "before hello is answered"
					     : "setting frame_bytes_max");
	peer_close(peer, FAILURE_TOO_LARGE, text);
}

/* Hands on every whole frame that has arrived, as long as the peer may have more in flight. */
static void hand_on(struct peer *peer)
{
	int rc = 0;
	while (peer->state < PEER_CLOSING && !peer->paused && rc == 0) {
		const uint8_t *payload = NULL;
		size_t len = 0;
		rc = frame_reader_next(&peer->reader, &payload, &len);
		if (rc == FRAME_TOO_LARGE) {
			close_too_large(peer);
		} else if (rc == 0) {
			peer->frame_since_us = 0;
			peer->requests++;
			peer->hooks->frame(peer->hooks->ctx, peer, payload, len);
			check_limits(peer);
		}
	}
	if (frame_reader_pending(&peer->reader) == 0) {
		peer->frame_since_us = 0;
		if (peer->reader.cap > KEEP_BYTES) {
			frame_reader_shrink(&peer->reader);
		}
	} else if (peer->frame_since_us == 0) {
		peer->frame_since_us = clock_now_us();
		peer->hooks->timed(peer->hooks->ctx);
	}
}

/* The other end is closed, and not only its sending side: nobody will read an answer. */
static bool is_gone(int fd)
{
	struct pollfd poll_fd = {.fd = fd};
	return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & POLLHUP) != 0;
}

/* One read. False: nothing more has come, or the end. */
static bool read_once(struct peer *peer)
{
	uint8_t *room = NULL;
	size_t bytes = 0;
	size_t want =
		frame_reader_pending(&peer->reader) > KEEP_BYTES ? READ_BYTES_LARGE : READ_BYTES;
	if (frame_reader_room(&peer->reader, want, &room, &bytes) < 0) {
		peer_close(peer, FAILURE_OVERLOADED, "out of memory");
		return false;
	}
	ssize_t got = recv(peer->fd, room, bytes, MSG_DONTWAIT);
	if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
		return errno == EINTR;
	}
	if (got == 0) {
		/* It sends no more, but may still read: what is in flight is answered first. */
		peer->ended = true;
		if (is_gone(peer->fd)) {
			peer->hooks->gone(peer->hooks->ctx, peer);
		}
		return false;
	}
	if (got < 0) {
		peer_move(peer, PEER_CLOSED);
		return false;
	}
	frame_reader_fed(&peer->reader, (size_t)got);
	hand_on(peer);
	return (size_t)got == bytes;
}

static void ready(void *ctx, unsigned what)
{
	struct peer *peer = ctx;
	if (what & LOOP_WRITE) {
		peer_flush(peer);
	}
	if (what & LOOP_READ) {
		bool more = true;
		for (int i = 0; more && i < READS_MAX; i++) {
			more = peer->state < PEER_CLOSING && !peer->paused && read_once(peer);
		}
		peer_flush(peer); /* answers that needed no writer, and the end */
	}
	peer->hooks->settle(peer->hooks->ctx);
}

bool peer_check_times(struct peer *peer, uint64_t now_us)
{
	const struct config *config = peer->config;
	if (peer->state == PEER_GREETING &&
		now_us - peer->connected_us >=
			config_number(config, SETTING_HELLO_TIMEOUT) * 1000) {
		peer_close(peer, FAILURE_DEADLINE, "no hello in time (setting hello_timeout)");
	}
	if (peer->state < PEER_CLOSING && !peer->paused && peer->frame_since_us != 0 &&
		now_us - peer->frame_since_us >=
			config_number(config, SETTING_FRAME_TIMEOUT) * 1000) {
		peer_close(peer, FAILURE_DEADLINE,
			"a request has begun but is not whole in time (setting frame_timeout)");
	}
	if (peer->state != PEER_CLOSED && peer->stalled_since_us != 0 &&
		now_us - peer->stalled_since_us >=
			config_number(config, SETTING_STALL_TIMEOUT) * 1000) {
		/* It does not read, so it cannot be told. */
		peer_move(peer, PEER_CLOSED);
	}
	return peer->state == PEER_GREETING || peer->frame_since_us != 0 ||
		peer->stalled_since_us != 0;
}

void peer_grant_class(struct peer *peer)
{
	peer->grant = class_grant(peer->credentials, peer->config);
	peer->class = class_within(&peer->grant, peer->class_asked);
}

static struct list *bucket_of(const struct peer *peer, uint32_t id)
{
	return &((struct peer *)(uintptr_t)peer)->in_flight[id % PEER_BUCKETS];
}

struct request *peer_find(const struct peer *peer, uint32_t id)
{
	struct list *bucket = bucket_of(peer, id);
	list_for_each(node, bucket) {
		struct request *request = container_of(node, struct request, in_flight);
		if (request->id == id) {
			return request;
		}
	}
	return NULL;
}

void peer_add(struct peer *peer, struct request *request)
{
	request->peer_id = peer->id;
	list_push_back(bucket_of(peer, request->id), &request->in_flight);
	peer->in_flight_count++;
}

void peer_remove(struct peer *peer, struct request *request)
{
	if (!list_empty(&request->in_flight)) { /* a task is nobody's to answer */
		list_remove(&request->in_flight);
		peer->in_flight_count--;
	}
}
