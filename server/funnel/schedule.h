/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who is served next. Requests wait in lines, one for each connection and class; lines belong to
 * their user's share of the class:
 *
 *	class ──▶ share of a user ──▶ line of a connection ──▶ requests, oldest first
 *
 * Between classes: the higher one goes first, but each lower one that waits is owed a part of the
 * time that higher ones take, and gets it in turns of bounded length. Between users of a class: who
 * has used the writer least. Between connections of a user: deficit round robin. All are charged in
 * microseconds of the writer, in advance by an estimate, afterwards as measured.
 *
 * The writer's time is cut into turns: a commit group of interactive and normal batches, a commit
 * group of bulk batches, or one run of a task. Nothing here locks: the queue does.
 */

#include "server/funnel/request.h"

enum { SCHEDULE_BUCKETS = 1024 };

/* A user in one class. */
struct share {
	struct list node;  /* rank::ready while something waits, rank::dry while all is taken */
	struct list lines; /* those in which something waits; the head is next */
	size_t lines_count;
	size_t waiting;
	size_t taken;
	int64_t spent_us;   /* on the clock of the class */
	int64_t average_us; /* of one request; 0: not known yet */
	int64_t group_us;   /* spent in the turn of that number */
	uint64_t group_turn;
};

/* A user: what it holds of the queue, in all classes. */
struct tenant {
	struct list node;
	uint32_t uid;
	size_t count; /* waiting */
	size_t bytes;
	size_t lines;
	struct share shares[CLASS_COUNT];
};

/* A connection in one class. */
struct line {
	struct list by_id; /* schedule::lines[] */
	struct list node;  /* share::lines */
	struct list waiting;
	struct tenant *tenant;
	uint64_t peer_id;
	enum request_class class;
	size_t requests; /* waiting and taken */
	int64_t credit_us;
	uint64_t alone_until_us; /* it has offended: its batches run alone, and last */
	uint64_t passed_turn;    /* the last turn in which others went before it for that */
	unsigned passed_over;
	bool gone; /* its connection has ended */
};

/* A class. */
struct rank {
	struct list ready;
	struct list dry; /* shares of which all that waited is in this commit group */
	size_t waiting;
	int64_t clock_us;   /* spent_us of whoever was served last */
	int64_t owed_us;    /* of the time that higher classes had while something waited here */
	int64_t average_us; /* of one request */
	struct class_facts facts;
};

struct turn {
	bool open;
	bool closed; /* nothing more joins it */
	bool yields; /* it began while no higher class waited, and ends when one does */
	enum request_class first;
	enum request_class last;
	size_t count;
	uint64_t number;
	uint64_t until_us; /* 0: as long as the commit group lasts */
};

struct schedule {
	struct list lines[SCHEDULE_BUCKETS];
	struct list tenants;
	size_t tenants_count;
	struct rank ranks[CLASS_COUNT];
	struct turn turn;
	int64_t slice_us;
	uint64_t alone_us;
};

void schedule_init(struct schedule *schedule);
void schedule_finish(struct schedule *schedule); /* nothing waits any more */

/* How long bulk may hold the writer at once; how long an offender runs alone. */
void schedule_set_times(struct schedule *schedule, uint64_t slice_us, uint64_t alone_us);

/*
 * What a user may hold of a room: eight times what it leaves free. However many users fill the
 * queue, the next one still finds room.
 */
bool schedule_fits(struct schedule *schedule, uint32_t uid, size_t bytes, size_t count_free,
	size_t bytes_free);

/* To the end of its line. 0 or -ENOMEM. */
int schedule_add(struct schedule *schedule, struct request *request);

/* One that waits leaves for good. */
void schedule_remove(struct schedule *schedule, struct request *request);

/* Opens a turn, if none is. */
void schedule_open(struct schedule *schedule, uint64_t now_us);
void schedule_close(struct schedule *schedule);

/*
 * The task whose turn it is, taken, or NULL: then the turn is a commit group's. To be asked before
 * schedule_next(), once in a turn.
 */
struct request *schedule_next_task(struct schedule *schedule, uint64_t now_us);

/* The next batch that joins the open turn, taken, or NULL: it is over. */
struct request *schedule_next(struct schedule *schedule, uint64_t now_us);

/* A taken one goes back to the head of its line. Give back in reverse order. */
void schedule_return(struct schedule *schedule, struct request *request);

/* A taken one has used the writer so long (request::cost_us): its line, user and class pay. */
void schedule_charge(struct schedule *schedule, struct request *request, uint64_t now_us);

/* A taken one is answered: it leaves. */
void schedule_leave(struct schedule *schedule, struct request *request);

/* The connection has ended. */
void schedule_forget(struct schedule *schedule, uint64_t peer_id);
