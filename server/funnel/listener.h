/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The listening socket: made so that no moment exists in which the wrong people could connect, and
 * accepting so that running out of descriptors costs a pause and not a processor.
 */

#include "server/funnel/loop.h"

#include <stdbool.h>
#include <stddef.h>

struct listener;

/* A connection; the fd is the callee's. */
typedef void listener_fn(void *ctx, int fd);

/*
 * Binds `path` with mode 0660, for the group of that name, or for the group that the directory
 * gives ("" ). The caller holds the database's lock, so a socket that already stands there is
 * stale. The fd, or negative errno with a sentence in ret_error.
 */
int listener_bind(const char *path, const char *group, char *ret_error, size_t error_bytes);

/* Takes over a listening fd and begins to accept. */
int listener_new(
	struct loop *loop, int fd, listener_fn *fn, void *ctx, struct listener **ret_listener);

/* Accepts nobody any more; connections wait in the socket's backlog. */
void listener_pause(struct listener *listener);

void listener_free(struct listener *listener); /* closes the fd; accepts NULL */
