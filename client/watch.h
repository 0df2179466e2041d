/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What a client watches, across connections: each new connection is asked again, with the commit up
 * to which all has been told, so that a gap is announced. What arrives waits in a bounded list; what
 * does not fit becomes a range of missed commits.
 */

#include "client/reply.h"
#include "proto/buffer.h"

#include <sys/queue.h>

enum { WATCH_CHANGES_MAX = 1024 };

/* In life order, on each connection anew. */
enum watch_state {
	WATCH_WANTED, /* to be asked for */
	WATCH_ASKED,
	WATCH_ON,
	WATCH_REFUSED, /* the daemon does not want it: not asked for again */
};

struct watch {
	TAILQ_ENTRY(watch) link; /* engine::watches */
	uint64_t number;         /* the caller's, for all connections */
	enum watch_state state;
	struct buffer wish; /* keys and values of the params but `since`, packed */
	unsigned wish_keys;
	uint32_t id;     /* of the request, while ASKED */
	uint64_t remote; /* the daemon's number, while ON */
	bool begun;      /* it was ON once: `epoch` and `seen` hold */
	uint8_t epoch[16];
	uint64_t seen; /* everything up to that commit has been told */
	/* Commits that did not fit into the list; from 0: none. */
	uint64_t gap_from;
	uint64_t gap_to;
	char why[REPLY_TEXT_MAX]; /* REFUSED: the daemon's words */
};

TAILQ_HEAD(watch_list, watch);

struct lf_change {
	TAILQ_ENTRY(lf_change) link; /* engine::changes */
	uint64_t watch;
	enum lf_change_kind kind;
	uint64_t from;
	uint64_t to;
	bool schema;
	const msgpack_object_array *tables; /* in `notice` */
	const msgpack_object_array *channels;
	struct lf_reply *notice; /* the message that the names point into, or NULL */
	char message[REPLY_TEXT_MAX];
};

TAILQ_HEAD(change_list, lf_change);

struct engine;

void engine_watches_init(struct engine *engine);
void engine_watches_finish(
	struct engine *engine); /* also in a forked child: they are the parent's */

/* Takes the wish over. 0 or -ENOMEM. */
int engine_watch_add(
	struct engine *engine, struct buffer *wish, unsigned wish_keys, struct watch **ret_watch);
struct watch *engine_watch_find(const struct engine *engine, uint64_t number);
/* Ends a watch, also at the daemon. What it has told already stays in the list. */
void engine_watch_remove(struct engine *engine, struct watch *watch);

/* Asks for what is wanted; to be called when hello is answered. 0 or -ENOMEM. */
int engine_watches_ask(struct engine *engine);
bool engine_watches_wanted(const struct engine *engine);
void engine_watches_disconnected(struct engine *engine);

/* Each takes the reply over and returns true if it is about a watch. */
bool engine_watch_answered(struct engine *engine, uint32_t id, struct lf_reply *reply);
bool engine_watch_notice(
	struct engine *engine, const struct message *message, struct lf_reply *notice);

/* The next change, or NULL. */
struct lf_change *engine_take_change(struct engine *engine);
