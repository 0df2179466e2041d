/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Those who watch: which connection wants to hear of which tables and channels, and what it is told.
 * A connection that does not read keeps no memory: it is told later what range it has missed.
 * Everything belongs to the loop's thread.
 */

#include "proto/message.h"
#include "server/funnel/feed.h"
#include "server/funnel/peer.h"

enum { WATCH_NAMES_MAX = 1000, WATCHES_MAX = 64, WATCH_NAME_BYTES_MAX = 255 };

struct watches {
	struct list all;
	struct feed *feed;
	uint64_t next_id;
	size_t lagging; /* watches that have missed something and were not told yet */
	/* A peer has something new in its output. */
	void (*touch)(void *ctx, struct peer *peer);
	void *ctx;
};

/* What a client wants to hear of; the spans point into its message. */
struct watch_wish {
	const msgpack_object *tables;   /* array of str, or NULL */
	const msgpack_object *channels; /* the same; neither: everything */
	bool since;                     /* it has seen all up to a commit */
	bool other_epoch;               /* … but of another lineage */
	uint64_t since_commit;
};

void watches_init(struct watches *watches, struct feed *feed,
	void (*touch)(void *ctx, struct peer *peer), void *ctx);
void watches_finish(struct watches *watches);

/*
 * A new watch: its number, and the commit after which nothing is left out. 0; -ENOMEM; -EMFILE: the
 * connection has as many as it may. Call watches_begin() once the answer is in the output.
 */
int watches_add(struct watches *watches, struct peer *peer, const struct watch_wish *wish,
	uint64_t *ret_id, uint64_t *ret_commit_no);
void watches_begin(struct watches *watches, struct peer *peer, uint64_t id);

/* False: the connection has no such watch. */
bool watches_remove(struct watches *watches, const struct peer *peer, uint64_t id);

/* The connection is gone. */
void watches_drop(struct watches *watches, const struct peer *peer);

/* Hands on what has been published. */
void watches_collect(struct watches *watches);

/* Outputs may have drained: tells what was missed meanwhile. */
void watches_catch_up(struct watches *watches);
