/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Between the loop and the writer: requests that wait, and requests that are answered. Bounded by
 * count and bytes, and no user may fill it; at the limit it says so, it does not grow. Who is next
 * is the schedule's to say.
 *
 * Any function may be called from either thread, but each says whose it is.
 */

#include "server/funnel/request.h"

struct queue;

enum queue_condition { QUEUE_FULL = 1, QUEUE_CLOSED };

struct queue_limits {
	size_t count_max;
	size_t bytes_max;
};

struct queue_facts {
	size_t count;
	size_t bytes;
	struct class_facts classes[CLASS_COUNT];
	uint64_t refused;   /* for want of room, since the start */
	uint64_t held_us;   /* since when the writer is held; 0: it is not */
	uint64_t oldest_us; /* when the one that waits longest was received; 0: nobody waits */
	size_t taken;       /* with the writer now */
	bool answered;      /* there are answers to collect */
	bool closed;        /* nothing more comes in */
};

/* `wake` is called, from the writer's thread, when there are answers to collect. */
int queue_new(void (*wake)(void *ctx), void *ctx, struct queue **ret_queue);
void queue_free(struct queue *queue);

/*
 * The loop: below `count` waiting requests queue_push() leaves the writer asleep, for the loop says
 * itself, by queue_kick(), when it has pushed what there was; or stands in for the writer. A queue
 * that is half full wakes it in any case.
 */
void queue_gather(struct queue *queue, size_t count);

/* The loop: wakes the writer if something waits that may begin. */
void queue_kick(struct queue *queue);

/* The loop: wakes the writer for what it does when nothing waits. */
void queue_nudge(struct queue *queue);

/* The loop: true if the writer is asleep and less waits than the loop leaves it asleep for. */
bool queue_is_short(struct queue *queue);

/*
 * The loop: true if the writer is asleep and only batches wait, at most so many and together so
 * large. Then the writer sleeps on, the calls that are the writer's are the loop's, and what the
 * writer owns is the loop's, until queue_step_back().
 */
bool queue_stand_in(struct queue *queue, size_t count_max, size_t bytes_max);
void queue_step_back(struct queue *queue);

/* The loop: 0 and the request is the queue's; else it stays the caller's. */
int queue_push(struct queue *queue, struct request *request, const struct queue_limits *limits);

/* The loop: how long bulk may hold the writer at once, how long an offender runs alone. */
void queue_set_times(struct queue *queue, uint64_t slice_us, uint64_t alone_us);

/* The loop: a connection has ended; what it sent is still served. */
void queue_forget(struct queue *queue, uint64_t peer_id);

/*
 * The loop: nothing but urgent tasks begins until the release. What runs goes on to its end; an
 * urgent task that is answered proves that it is over. Time that is not the request's own deadline
 * stands still. Both do nothing if it is so already.
 */
void queue_hold(struct queue *queue, uint64_t now_us);
void queue_release(struct queue *queue, uint64_t now_us);

/* The loop: calls fn for each request that waits, oldest first, under the lock: be short. */
void queue_each(struct queue *queue, void (*fn)(void *ctx, struct request *request), void *ctx);

/*
 * The loop: what the writer is running this moment, or NULL; and since when, which may be NULL. It
 * stays valid until the next queue_collect(); what of it is not the writer's may be read.
 */
const struct request *queue_running(const struct queue *queue, uint64_t *ret_since_us);

/* The loop: takes a request out again if the writer has not begun it. */
bool queue_withdraw(struct queue *queue, struct request *request);

/* The loop: requests that were not begun by their deadline. */
void queue_expire(struct queue *queue, uint64_t now_us, struct list *ret_expired);

/* The loop: everything that was answered since the last time. */
void queue_collect(struct queue *queue, struct list *ret_answered);

/* The loop: nothing more comes in; what waits is still served. */
void queue_close(struct queue *queue);

/* The loop: takes out all that waits, and lets the writer go home. */
void queue_stop(struct queue *queue, struct list *ret_waiting);

/*
 * The writer: waits for work, at most that long; before that, while the loop has left more answers
 * uncollected than memory is for, a tenth of a second for the loop.
 */
enum queue_call {
	QUEUE_STOP, /* there will be none */
	QUEUE_WORK,
	QUEUE_NUDGED, /* none, but queue_nudge() was called, or the time is over */
	QUEUE_MIND,   /* the loop, in the writer's place, is held up: mind the loop meanwhile */
};
enum queue_call queue_wait(struct queue *queue, uint64_t us);

/*
 * The writer, after queue_wait(): the task whose turn it is, or NULL: it is a commit group's.
 * A task ends with queue_answer(), or, to run again, with queue_give_back().
 */
struct request *queue_take_task(struct queue *queue);

/* The writer: it runs this one now; NULL: none. */
void queue_run(struct queue *queue, const struct request *request, uint64_t now_us);

/* The writer: the loop shall look at something else than answers. */
void queue_wake(struct queue *queue);

/* The writer: waits at most that long, for work that could not be begun. False: stop. */
bool queue_pause(struct queue *queue, uint64_t us);

/*
 * The writer: up to that much of what waits and belongs into the open turn, in the order in which it
 * is to run, behind what is in `to`. It may be less than there is: ask again. The turn ends when
 * nothing taken is left.
 */
size_t queue_take(struct queue *queue, size_t count_max, size_t bytes_max, struct list *to);

/* The writer: what it took but did not begin, or what is to go on later, back to where it stood. */
void queue_give_back(struct queue *queue, struct list *requests);

/* The writer: these are answered. Their lines are charged: exec_us and commit_us stand. */
void queue_answer(struct queue *queue, struct list *requests);

/* The writer: these are answered, too; they never waited here. */
void queue_post(struct queue *queue, struct list *requests);

/* The writer: true if nothing waits. */
bool queue_is_empty(struct queue *queue);

struct queue_facts queue_facts(struct queue *queue); /* either */
