/* SPDX-License-Identifier: MIT */

/*
 * A Unix stream socket and its reconnect timer. On Linux such a connect() is done at once or
 * refused at once (EAGAIN means a full backlog), so there is no state in between.
 */

#include "client/transport.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	BACKOFF_MAX_MS = 200,
	LOOKS = 4, /* some microseconds, if nobody else is to run */
};

int transport_init(struct transport *transport, const char *path, uint32_t jitter_seed)
{
	size_t len = strlen(path);
	*transport = (struct transport){
		.fd = -1,
		.jitter = jitter_seed | 1u, /* xorshift must not begin at 0 */
		.address.sun_family = AF_UNIX,
	};
	if (len >= sizeof(transport->address.sun_path)) {
		return -ENAMETOOLONG;
	}
	memcpy(transport->address.sun_path, path, len + 1);
	return 0;
}

void transport_finish(struct transport *transport)
{
	transport_abandon(transport);
}

static uint32_t jitter_next(struct transport *transport)
{
	uint32_t x = transport->jitter;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	transport->jitter = x;
	return x;
}

/* 1 ms at first, then anything up to a ceiling that doubles to 200 ms: workers must not march. */
static uint64_t backoff_ms(struct transport *transport)
{
	uint32_t ceiling = BACKOFF_MAX_MS;
	if (transport->failures < 8) {
		ceiling = 1u << transport->failures;
	}
	if (ceiling > BACKOFF_MAX_MS) {
		ceiling = BACKOFF_MAX_MS;
	}
	return 1 + jitter_next(transport) % ceiling;
}

static const char *connect_cure(int error)
{
	switch (error) {
	case ENOENT:
		return " (is `litefunnel serve` running for this database?)";
	case ECONNREFUSED:
		return " (the daemon is not running; its socket was left behind)";
	case EACCES:
		return " (this user may not write to the socket: join its group)";
	default:
		return "";
	}
}

static int connect_failed(struct transport *transport, uint64_t now_ms, int error)
{
	(void)snprintf(transport->why, sizeof(transport->why), "cannot connect to %s: %s%s",
		transport->address.sun_path, strerrordesc_np(error), connect_cure(error));
	transport_close(transport, now_ms, 0);
	return TRANSPORT_LOST;
}

int transport_connect(struct transport *transport, uint64_t now_ms)
{
	transport->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (transport->fd < 0) {
		return connect_failed(transport, now_ms, errno);
	}
	int r = connect(transport->fd, (const struct sockaddr *)&transport->address,
		sizeof(transport->address));
	if (r != 0 && errno != EISCONN) {
		return connect_failed(transport, now_ms, errno);
	}
	transport->why[0] = '\0';
	return 0;
}

static int moved(struct transport *transport, ssize_t count, size_t *ret_count)
{
	if (count > 0) {
		*ret_count = (size_t)count;
		return 0;
	}
	if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
		return TRANSPORT_AGAIN;
	}
	(void)snprintf(transport->why, sizeof(transport->why), "the connection was lost: %s",
		count == 0 ? "closed by the daemon" : strerrordesc_np(errno));
	return TRANSPORT_LOST;
}

int transport_send(struct transport *transport, const void *data, size_t len, size_t *ret_sent)
{
	return moved(transport, send(transport->fd, data, len, MSG_NOSIGNAL), ret_sent);
}

int transport_recv(struct transport *transport, void *room, size_t len, size_t *ret_received)
{
	return moved(transport, recv(transport->fd, room, len, 0), ret_received);
}

void transport_close(struct transport *transport, uint64_t now_ms, uint64_t patience_ms)
{
	uint64_t delay_ms = backoff_ms(transport);
	if (transport->fd >= 0) {
		(void)close(transport->fd);
		transport->fd = -1;
	}
	transport->failures++;
	transport->connect_at_ms = now_ms + (delay_ms > patience_ms ? delay_ms : patience_ms);
}

void transport_abandon(struct transport *transport)
{
	if (transport->fd >= 0) {
		(void)close(transport->fd);
		transport->fd = -1;
	}
	transport->connect_at_ms = 0;
}

void transport_proven(struct transport *transport)
{
	transport->failures = 0;
}

/*
 * To be woken costs both sides more than a commit without an fsync does: an answer that is nearly
 * there is met awake.
 */
static bool met_awake(struct pollfd *pollfd)
{
	for (unsigned i = 0; i < LOOKS; i++) {
		if (poll(pollfd, 1, 0) != 0) {
			return true;
		}
		(void)sched_yield(); /* to whoever is to answer */
	}
	return false;
}

void transport_wait(const struct transport *transport, short events, int timeout_ms)
{
	struct pollfd pollfd = {.fd = transport->fd, .events = events};
	if (pollfd.fd >= 0 && timeout_ms != 0 && met_awake(&pollfd)) {
		return;
	}
	/* A negative fd is skipped by poll(), which then just sleeps. */
	(void)poll(&pollfd, 1, timeout_ms);
}
