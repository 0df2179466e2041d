/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Chunks in the loop: a task waits in the queue for each chunk that runs, so that a slice takes its
 * turn like a batch of the class bulk; requests that wait for a chunk's end are held here, and told
 * meanwhile how far it is. What the writer does for chunks stands in chunk_task.c.
 */

#include "server/base/config.h"
#include "server/funnel/chunk_board.h"
#include "server/funnel/loop.h"
#include "server/funnel/peer.h"
#include "server/funnel/queue.h"

struct chunk_desk;

struct chunk_desk_options {
	struct queue *queue;
	struct loop *loop;
	const struct config *config;
	struct store *store; /* for chunk_desk_new() only, before the writer has it */
	/* The connection of that id, or NULL; there are bytes to send to it; a request of it is
	 * answered, in `reply`, and to be freed. */
	struct peer *(*peer)(void *ctx, uint64_t peer_id);
	void (*touched)(void *ctx, struct peer *peer);
	void (*answered)(void *ctx, struct request *request);
	/* It is time for a turn. */
	void (*due)(void *ctx);
	void *ctx;
};

/* 0 or negative errno. Free it after the queue: the queue's tasks name it. */
int chunk_desk_new(const struct chunk_desk_options *options, struct chunk_desk **ret_desk);
void chunk_desk_free(struct chunk_desk *desk); /* accepts NULL */

/* What the writer has done since is told; what is due is queued. */
void chunk_desk_turn(struct chunk_desk *desk);

/* No slice begins any more; who waits is refused. */
void chunk_desk_close(struct chunk_desk *desk);

/* A connection has ended: its waiting requests are freed. */
void chunk_desk_forget(struct chunk_desk *desk, uint64_t peer_id);

struct chunk_board *chunk_desk_board(struct chunk_desk *desk);

/*
 * An order for a chunk waits in the queue: if it stops the chunk, no slice begins before it, and one that
 * runs is undone. `running` is what the writer has, or NULL.
 */
void chunk_desk_hurry(
	struct chunk_desk *desk, struct request *order, const struct request *running);

/* Whether a `chunk_ctl` is a `wait`: such a request is held, not queued. */
bool chunk_desk_holds(const struct request *request);

/* Holds it; the next turn may answer it. False with the failure set: no such chunk. */
bool chunk_desk_hold(struct chunk_desk *desk, struct request *request, struct failure *failure);

/* Calls fn for each chunk, under the lock: be short. */
void chunk_desk_each(
	struct chunk_desk *desk, void (*fn)(void *ctx, const struct chunk_view *view), void *ctx);
