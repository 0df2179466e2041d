/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Drills in the loop: when one is due or asked for, how it goes on, and what the last ones have
 * shown. One at a time; each replica is drilled by itself. What the writer does for a drill stands
 * in drill_task.c; what the child does, in a file of the command's.
 */

#include "server/base/config.h"
#include "server/base/drill.h"
#include "server/funnel/drill_waits.h"
#include "server/funnel/failure.h"
#include "server/funnel/gate.h"
#include "server/funnel/loop.h"
#include "server/funnel/queue.h"
#include "server/funnel/reply.h"
#include "server/funnel/writer.h"

struct drill_desk;

struct drill_desk_options {
	struct queue *queue;
	struct loop *loop;
	const struct config *config;
	struct board *board;
	struct gate *gate;
	struct store *store; /* for drill_desk_new() only, before the writer has it */
	const char *db;
	const char *spool;
	/* Starts the child. 0 or negative errno. */
	int (*start)(void *ctx, pid_t *ret_pid, int *ret_fd);
	void *start_ctx;
	struct writer_stats (*stats)(void *ctx);
	/* A request is answered, in `reply`, and to be freed. */
	void (*answered)(void *ctx, struct request *request);
	/* It is time for a turn. */
	void (*due)(void *ctx);
	void *ctx;
};

/* 0 or negative errno. Free it after the queue: the queue's tasks name it. */
int drill_desk_new(const struct drill_desk_options *options, struct drill_desk **ret_desk);
void drill_desk_free(struct drill_desk *desk); /* accepts NULL */

/* Goes on with what is under way, begins what is due. */
void drill_desk_turn(struct drill_desk *desk);

/* Settings have changed: one may be due. */
void drill_desk_reload(struct drill_desk *desk);

/* No more drills: the one under way is ended without a verdict, and who waits is refused. */
void drill_desk_close(struct drill_desk *desk);

/* A connection has ended: its waiting requests are freed. */
void drill_desk_forget(struct drill_desk *desk, uint64_t peer_id);

/*
 * Holds a request with that room behind it until each replica has been drilled once, from now on.
 * False with the failure set: it cannot be.
 */
bool drill_desk_hold(struct drill_desk *desk, struct request *request, struct drill_ask *ask,
	struct failure *failure);

struct drill_facts {
	const char *state;                    /* "idle", … */
	const char *waits_for;                /* why the file does not stand still yet, or "" */
	uint64_t count[DRILL_VERDICTS];       /* since the start */
	const struct drill_record *last;      /* NULL: there was none */
	const struct drill_record *last_pass; /* … that passed */
	uint64_t held_max_us;                 /* commits waited for the mark of a drill, at most */
};
struct drill_facts drill_desk_facts(const struct drill_desk *desk);

/* Calls fn for each drill that is remembered, oldest first. */
void drill_desk_each(struct drill_desk *desk,
	void (*fn)(void *ctx, const struct drill_record *record), void *ctx);

/* drill_waits.c: a drill as a row of a table on the wire. */
enum { DRILL_COLUMNS = 19 };
extern const char *const drill_columns[DRILL_COLUMNS];
void drill_pack_row(msgpack_packer *packer, const struct drill_record *record);
