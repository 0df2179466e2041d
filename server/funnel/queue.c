/* SPDX-License-Identifier: MIT */

/*
 * The meeting point of the two threads: one lock, held for a few pointer moves. Classes are served
 * in order, and within a class by age.
 */

#include "server/funnel/queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct queue {
	pthread_mutex_t lock;
	pthread_cond_t work; /* the writer waits here */
	struct list waiting[CLASS_COUNT];
	size_t by_class[CLASS_COUNT];
	size_t count;
	size_t bytes;
	size_t taken;
	struct list answered;
	bool closed;
	bool stopped;
	bool writer_waits;
	void (*wake)(void *ctx);
	void *wake_ctx;
};

int queue_new(void (*wake)(void *ctx), void *ctx, struct queue **ret_queue)
{
	struct queue *queue = calloc(1, sizeof(*queue));
	pthread_condattr_t attributes;
	if (queue == NULL) {
		return -ENOMEM;
	}
	pthread_mutex_init(&queue->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&queue->work, &attributes);
	pthread_condattr_destroy(&attributes);
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		list_init(&queue->waiting[i]);
	}
	list_init(&queue->answered);
	queue->wake = wake;
	queue->wake_ctx = ctx;
	*ret_queue = queue;
	return 0;
}

static void free_all(struct list *requests)
{
	list_for_each_safe(node, requests) {
		request_free(container_of(node, struct request, node));
	}
}

void queue_free(struct queue *queue)
{
	if (queue == NULL) {
		return;
	}
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		free_all(&queue->waiting[i]);
	}
	free_all(&queue->answered);
	pthread_cond_destroy(&queue->work);
	pthread_mutex_destroy(&queue->lock);
	free(queue);
}

/* With the lock held: the request leaves the waiting. */
static void remove_waiting(struct queue *queue, struct request *request)
{
	list_remove(&request->node);
	queue->by_class[request->class]--;
	queue->count--;
	queue->bytes -= request->bytes;
}

int queue_push(struct queue *queue, struct request *request, const struct queue_limits *limits)
{
	int rc = 0;
	pthread_mutex_lock(&queue->lock);
	if (queue->closed) {
		rc = QUEUE_CLOSED;
	} else if (queue->count >= limits->count_max ||
		(queue->bytes > 0 && queue->bytes + request->bytes > limits->bytes_max)) {
		rc = QUEUE_FULL;
	} else {
		list_push_back(&queue->waiting[request->class], &request->node);
		queue->by_class[request->class]++;
		queue->count++;
		queue->bytes += request->bytes;
		if (queue->writer_waits) {
			queue->writer_waits = false;
			pthread_cond_signal(&queue->work);
		}
	}
	pthread_mutex_unlock(&queue->lock);
	return rc;
}

bool queue_withdraw(struct queue *queue, struct request *request)
{
	bool found = false;
	pthread_mutex_lock(&queue->lock);
	if (!request->taken) {
		remove_waiting(queue, request);
		found = true;
	}
	pthread_mutex_unlock(&queue->lock);
	return found;
}

void queue_expire(struct queue *queue, uint64_t now_us, struct list *ret_expired)
{
	pthread_mutex_lock(&queue->lock);
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		list_for_each_safe(node, &queue->waiting[i]) {
			struct request *request = container_of(node, struct request, node);
			if (now_us >= request->deadline_us) {
				remove_waiting(queue, request);
				list_push_back(ret_expired, node);
			}
		}
	}
	pthread_mutex_unlock(&queue->lock);
}

void queue_collect(struct queue *queue, struct list *ret_answered)
{
	pthread_mutex_lock(&queue->lock);
	list_append_all(ret_answered, &queue->answered);
	pthread_mutex_unlock(&queue->lock);
}

void queue_close(struct queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->closed = true;
	pthread_mutex_unlock(&queue->lock);
}

void queue_stop(struct queue *queue, struct list *ret_waiting)
{
	pthread_mutex_lock(&queue->lock);
	queue->closed = true;
	queue->stopped = true;
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		list_append_all(ret_waiting, &queue->waiting[i]);
		queue->by_class[i] = 0;
	}
	queue->count = 0;
	queue->bytes = 0;
	queue->writer_waits = false;
	pthread_cond_signal(&queue->work);
	pthread_mutex_unlock(&queue->lock);
}

bool queue_wait(struct queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	while (queue->count == 0 && !queue->stopped) {
		queue->writer_waits = true;
		pthread_cond_wait(&queue->work, &queue->lock);
	}
	queue->writer_waits = false;
	bool more = queue->count > 0;
	pthread_mutex_unlock(&queue->lock);
	return more;
}

bool queue_pause(struct queue *queue, uint64_t us)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(us % 1000000) * 1000;
	until.tv_sec += (time_t)(us / 1000000) + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&queue->lock);
	/* Not writer_waits: new work is no reason to try again sooner. */
	while (!queue->stopped &&
		pthread_cond_timedwait(&queue->work, &queue->lock, &until) != ETIMEDOUT) {
	}
	bool stopped = queue->stopped;
	pthread_mutex_unlock(&queue->lock);
	return !stopped;
}

size_t queue_take(struct queue *queue, size_t count_max, size_t bytes_max, struct list *to)
{
	size_t count = 0;
	size_t bytes = 0;
	pthread_mutex_lock(&queue->lock);
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		while (!list_empty(&queue->waiting[i]) && count < count_max && bytes < bytes_max) {
			struct request *request =
				container_of(queue->waiting[i].next, struct request, node);
			remove_waiting(queue, request);
			request->taken = true;
			list_push_back(to, &request->node);
			bytes += request->bytes;
			count++;
		}
	}
	queue->taken += count;
	pthread_mutex_unlock(&queue->lock);
	return count;
}

void queue_give_back(struct queue *queue, struct list *requests)
{
	pthread_mutex_lock(&queue->lock);
	while (!list_empty(requests)) {
		struct request *request = container_of(requests->prev, struct request, node);
		list_remove(&request->node);
		request->taken = false;
		list_push_front(&queue->waiting[request->class], &request->node);
		queue->by_class[request->class]++;
		queue->count++;
		queue->bytes += request->bytes;
		queue->taken--;
	}
	pthread_mutex_unlock(&queue->lock);
}

void queue_answer(struct queue *queue, struct list *requests)
{
	pthread_mutex_lock(&queue->lock);
	list_for_each(node, requests) {
		queue->taken--;
	}
	bool wake = list_empty(&queue->answered) && !list_empty(requests);
	list_append_all(&queue->answered, requests);
	pthread_mutex_unlock(&queue->lock);
	if (wake) {
		queue->wake(queue->wake_ctx);
	}
}

bool queue_is_empty(struct queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	bool empty = queue->count == 0;
	pthread_mutex_unlock(&queue->lock);
	return empty;
}

struct queue_facts queue_facts(struct queue *queue)
{
	struct queue_facts facts = {0};
	pthread_mutex_lock(&queue->lock);
	facts.count = queue->count;
	facts.bytes = queue->bytes;
	facts.taken = queue->taken;
	facts.answered = !list_empty(&queue->answered);
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		facts.by_class[i] = queue->by_class[i];
		if (!list_empty(&queue->waiting[i])) {
			const struct request *oldest =
				container_of(queue->waiting[i].next, struct request, node);
			if (facts.oldest_us == 0 || oldest->received_us < facts.oldest_us) {
				facts.oldest_us = oldest->received_us;
			}
		}
	}
	pthread_mutex_unlock(&queue->lock);
	return facts;
}
