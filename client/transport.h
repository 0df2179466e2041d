/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The socket: connect, send, receive, wait, and the patience between two attempts. It never blocks
 * except in transport_wait(), raises no signal, and knows nothing of frames.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

/* Conditions of the functions below. */
enum {
	TRANSPORT_AGAIN = 1, /* nothing can be moved now */
	TRANSPORT_LOST = 2,  /* no connection (any more); `why` says why */
};

enum { TRANSPORT_WHY_MAX = 256 };

struct transport {
	struct sockaddr_un address;
	int fd;            /* -1: none */
	unsigned failures; /* connections lost or refused since the last one that worked */
	uint64_t connect_at_ms;
	uint32_t jitter; /* state of a small generator: only for spreading reconnects */
	char why[TRANSPORT_WHY_MAX];
};

/* 0, or -ENAMETOOLONG: the path does not fit into a socket address. */
int transport_init(struct transport *transport, const char *path, uint32_t jitter_seed);
void transport_finish(struct transport *transport);

/* 0, or TRANSPORT_LOST: refused; the next attempt is due at connect_at_ms. */
int transport_connect(struct transport *transport, uint64_t now_ms);

/* 0 and how many bytes, TRANSPORT_AGAIN or TRANSPORT_LOST (the caller closes). */
int transport_send(struct transport *transport, const void *data, size_t len, size_t *ret_sent);
int transport_recv(struct transport *transport, void *room, size_t len, size_t *ret_received);

/* Closes; the next attempt is due after a back-off, and not before `patience_ms`. */
void transport_close(struct transport *transport, uint64_t now_ms, uint64_t patience_ms);

/* Closes; the next attempt is due at once, without a back-off. */
void transport_abandon(struct transport *transport);

/* The connection has proven itself: the back-off begins anew. */
void transport_proven(struct transport *transport);

/*
 * Sleeps until an event, or until the time is over; -1 = for ever. EINTR counts as an event. Before it
 * sleeps it looks a few times, and lets others run in between.
 */
void transport_wait(const struct transport *transport, short events, int timeout_ms);
