/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Between the loop and the writer: requests that wait, by class, and requests that are answered.
 * Bounded by count and bytes; at the limit it says so, it does not grow.
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
	size_t by_class[CLASS_COUNT];
	uint64_t oldest_us; /* when the one that waits longest was received; 0: nobody waits */
	size_t taken;       /* with the writer now */
	bool answered;      /* there are answers to collect */
};

/* `wake` is called, from the writer's thread, when there are answers to collect. */
int queue_new(void (*wake)(void *ctx), void *ctx, struct queue **ret_queue);
void queue_free(struct queue *queue);

/* The loop: 0 and the request is the queue's; else it stays the caller's. */
int queue_push(struct queue *queue, struct request *request, const struct queue_limits *limits);

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

/* The writer: waits for work. False: stop, there will be none. */
bool queue_wait(struct queue *queue);

/* The writer: waits at most that long, for work that could not be begun. False: stop. */
bool queue_pause(struct queue *queue, uint64_t us);

/* The writer: up to that much of what waits, by class and then by age, behind what is in `to`. */
size_t queue_take(struct queue *queue, size_t count_max, size_t bytes_max, struct list *to);

/* The writer: what it took but did not begin, back to where it stood. */
void queue_give_back(struct queue *queue, struct list *requests);

/* The writer: these are answered. */
void queue_answer(struct queue *queue, struct list *requests);

/* The writer: true if nothing waits. */
bool queue_is_empty(struct queue *queue);

struct queue_facts queue_facts(struct queue *queue); /* either */
