/* SPDX-License-Identifier: MIT */

/*
 * The meeting point of the two threads: one lock, held for a few pointer moves. It counts what waits
 * and keeps it by age; in which order it is served is schedule.c's.
 */

#include "server/funnel/queue.h"

#include "server/base/clock.h"
#include "server/funnel/schedule.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

/*
 * What is taken under one lock: enough to make the lock cheap, little enough that who comes
 * meanwhile, and goes first, need not wait for the whole commit group.
 */
enum { TAKE_COUNT = 256, TAKE_US = 1000, HELD_UP_US = 100 * 1000 };

/* Answers that the loop has not taken: how many bytes the writer leaves behind without waiting. */
enum { ANSWERED_BYTES_MAX = 16 * 1024 * 1024, COLLECT_US = 100 * 1000 };

struct queue {
	pthread_mutex_t lock;
	pthread_cond_t work;      /* the writer waits here */
	pthread_cond_t collected; /* … and here, for the loop to take answers */
	struct schedule schedule;
	struct list arrivals; /* all that wait, by age */
	struct list urgent;   /* tasks that go before everybody */
	const struct request *_Atomic running;
	_Atomic uint64_t running_since_us;
	uint64_t number; /* of the newest request */
	uint64_t refused;
	uint64_t held_us; /* since when the writer is held; 0: it is not */
	size_t count;
	size_t bytes;
	size_t taken;
	struct list answered;
	size_t answered_bytes;
	bool closed;
	bool stopped;
	bool writer_waits;
	bool nudged;
	bool stood_in; /* the loop does the writer's work */
	uint64_t stood_in_at_us;
	size_t gather;
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
	pthread_cond_init(&queue->collected, &attributes);
	pthread_condattr_destroy(&attributes);
	schedule_init(&queue->schedule);
	list_init(&queue->arrivals);
	list_init(&queue->urgent);
	list_init(&queue->answered);
	queue->wake = wake;
	queue->wake_ctx = ctx;
	*ret_queue = queue;
	return 0;
}

/* With the lock held: the request waits no longer. It may be taken, or leave for good. */
static void stop_waiting(struct queue *queue, struct request *request)
{
	list_remove(&request->arrival);
	queue->count--;
	queue->bytes -= request->bytes;
}

/* With the lock held: a waiting request leaves for good. */
static void remove_waiting(struct queue *queue, struct request *request)
{
	stop_waiting(queue, request);
	if (request->line != NULL) {
		schedule_remove(&queue->schedule, request);
	} else {
		list_remove(&request->node);
	}
}

/* With the lock held: all that waits leaves. */
static void remove_all(struct queue *queue, struct list *ret_requests)
{
	list_for_each_safe(node, &queue->arrivals) {
		struct request *request = container_of(node, struct request, arrival);
		remove_waiting(queue, request);
		list_push_back(ret_requests, &request->node);
	}
}

static void free_all(struct list *requests)
{
	list_for_each_safe(node, requests) {
		request_free(container_of(node, struct request, node));
	}
}

void queue_free(struct queue *queue)
{
	struct list waiting;
	if (queue == NULL) {
		return;
	}
	list_init(&waiting);
	remove_all(queue, &waiting);
	free_all(&waiting);
	free_all(&queue->answered);
	schedule_finish(&queue->schedule);
	pthread_cond_destroy(&queue->work);
	pthread_cond_destroy(&queue->collected);
	pthread_mutex_destroy(&queue->lock);
	free(queue);
}

void queue_set_times(struct queue *queue, uint64_t slice_us, uint64_t alone_us)
{
	pthread_mutex_lock(&queue->lock);
	schedule_set_times(&queue->schedule, slice_us, alone_us);
	pthread_mutex_unlock(&queue->lock);
}

/* ---- coming in ---- */

static void wake_writer(struct queue *queue)
{
	if (queue->writer_waits) {
		queue->writer_waits = false;
		pthread_cond_signal(&queue->work);
	}
}

/*
 * Lets go of the lock, and then wakes the writer, if it waits and has a reason to wake: it would only
 * meet the lock.
 */
static void unlock_and_wake(struct queue *queue, bool reason)
{
	bool wake = reason && queue->writer_waits && !queue->stood_in;
	if (wake) {
		queue->writer_waits = false;
	}
	pthread_mutex_unlock(&queue->lock);
	if (wake) {
		pthread_cond_signal(&queue->work);
	}
}

void queue_gather(struct queue *queue, size_t count)
{
	pthread_mutex_lock(&queue->lock);
	queue->gather = count;
	pthread_mutex_unlock(&queue->lock);
}

/* With the lock held. An urgent task is the administrator's: it always finds room. */
static bool has_room(
	struct queue *queue, const struct request *request, const struct queue_limits *limits)
{
	size_t bytes_max = queue->bytes == 0 && request->bytes > limits->bytes_max
		? request->bytes /* alone, or it would never come */
		: limits->bytes_max;
	return request->task.urgent ||
		(queue->count < limits->count_max && queue->bytes + request->bytes <= bytes_max &&
			schedule_fits(&queue->schedule, request->identity.uid, request->bytes,
				limits->count_max - queue->count, bytes_max - queue->bytes));
}

int queue_push(struct queue *queue, struct request *request, const struct queue_limits *limits)
{
	int rc = 0;
	pthread_mutex_lock(&queue->lock);
	if (queue->closed) {
		rc = QUEUE_CLOSED;
	} else if (!has_room(queue, request, limits)) {
		queue->refused++;
		queue->schedule.ranks[request->class].facts.refused++;
		rc = QUEUE_FULL;
	} else if (request->task.urgent) {
		list_push_back(&queue->urgent, &request->node);
	} else {
		rc = schedule_add(&queue->schedule, request);
	}
	if (rc == 0) {
		list_push_back(&queue->arrivals, &request->arrival);
		request->number = ++queue->number;
		queue->count++;
		queue->bytes += request->bytes;
	}
	unlock_and_wake(
		queue, queue->count >= queue->gather || queue->count >= limits->count_max / 2);
	return rc;
}

void queue_forget(struct queue *queue, uint64_t peer_id)
{
	pthread_mutex_lock(&queue->lock);
	schedule_forget(&queue->schedule, peer_id);
	pthread_mutex_unlock(&queue->lock);
}

/* ---- holding the writer ---- */

void queue_hold(struct queue *queue, uint64_t now_us)
{
	pthread_mutex_lock(&queue->lock);
	if (queue->held_us == 0) {
		queue->held_us = now_us;
	}
	pthread_mutex_unlock(&queue->lock);
}

void queue_release(struct queue *queue, uint64_t now_us)
{
	pthread_mutex_lock(&queue->lock);
	if (queue->held_us != 0) {
		list_for_each(node, &queue->arrivals) {
			struct request *request = container_of(node, struct request, arrival);
			uint64_t since_us = request->received_us > queue->held_us
				? request->received_us
				: queue->held_us;
			if (!request->own_deadline && request->deadline_us != UINT64_MAX &&
				now_us > since_us) {
				request->deadline_us += now_us - since_us;
			}
		}
		queue->held_us = 0;
		wake_writer(queue);
	}
	pthread_mutex_unlock(&queue->lock);
}

/* ---- going out without having run ---- */

bool queue_withdraw(struct queue *queue, struct request *request)
{
	bool found = false;
	pthread_mutex_lock(&queue->lock);
	if (!request->taken && !request->begun &&
		request->kind != REQUEST_SYNC) { /* that one never waits here */
		remove_waiting(queue, request);
		found = true;
	}
	pthread_mutex_unlock(&queue->lock);
	return found;
}

void queue_expire(struct queue *queue, uint64_t now_us, struct list *ret_expired)
{
	pthread_mutex_lock(&queue->lock);
	list_for_each_safe(node, &queue->arrivals) {
		struct request *request = container_of(node, struct request, arrival);
		if (now_us >= request->deadline_us &&
			(queue->held_us == 0 || request->own_deadline)) {
			remove_waiting(queue, request);
			list_push_back(ret_expired, &request->node);
		}
	}
	pthread_mutex_unlock(&queue->lock);
}

void queue_collect(struct queue *queue, struct list *ret_answered)
{
	pthread_mutex_lock(&queue->lock);
	list_append_all(ret_answered, &queue->answered);
	bool waited_for = queue->answered_bytes > ANSWERED_BYTES_MAX;
	queue->answered_bytes = 0;
	if (waited_for) {
		pthread_cond_signal(&queue->collected);
	}
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
	remove_all(queue, ret_waiting);
	queue->writer_waits = false;
	pthread_cond_signal(&queue->work);
	pthread_cond_signal(&queue->collected);
	pthread_mutex_unlock(&queue->lock);
}

/* ---- the writer ---- */

/* With the lock held: there is something that may begin. */
static bool has_work(const struct queue *queue)
{
	return !list_empty(&queue->urgent) || (queue->count > 0 && queue->held_us == 0);
}

static struct timespec after_us(uint64_t us)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(us % 1000000) * 1000;
	until.tv_sec += (time_t)(us / 1000000) + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	return until;
}

void queue_wake(struct queue *queue)
{
	queue->wake(queue->wake_ctx);
}

/* With the lock held: the loop stands in, and not just for a moment. */
static bool is_held_up(const struct queue *queue)
{
	return queue->stood_in && clock_now_us() >= queue->stood_in_at_us + HELD_UP_US;
}

/*
 * With the lock held: answers are memory, and clients are given up by the loop when they read none.
 * A writer that is ahead of it gives it some time.
 */
static void wait_until_collected(struct queue *queue)
{
	struct timespec until = after_us(COLLECT_US);
	while (queue->answered_bytes > ANSWERED_BYTES_MAX && !queue->stopped && !queue->stood_in &&
		pthread_cond_timedwait(&queue->collected, &queue->lock, &until) != ETIMEDOUT) {
	}
}

enum queue_call queue_wait(struct queue *queue, uint64_t us)
{
	struct timespec until = after_us(us);
	bool over = false;
	pthread_mutex_lock(&queue->lock);
	if (queue->answered_bytes > ANSWERED_BYTES_MAX) {
		wait_until_collected(queue);
	}
	while (queue->stood_in ||
		(!has_work(queue) && !queue->nudged && !queue->stopped && !over)) {
		queue->writer_waits = true;
		over = pthread_cond_timedwait(&queue->work, &queue->lock, &until) == ETIMEDOUT;
		if (over && is_held_up(queue)) {
			queue->writer_waits = false;
			pthread_mutex_unlock(&queue->lock);
			return QUEUE_MIND;
		}
		if (over && queue->stood_in) {
			until = after_us(HELD_UP_US / 4);
		}
	}
	queue->writer_waits = false;
	queue->nudged = false;
	enum queue_call call = queue->stopped && queue->count == 0 ? QUEUE_STOP
		: has_work(queue)                                  ? QUEUE_WORK
								   : QUEUE_NUDGED;
	if (queue->taken == 0) {
		schedule_close(&queue->schedule);
	}
	pthread_mutex_unlock(&queue->lock);
	return call;
}

void queue_kick(struct queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	unlock_and_wake(queue, has_work(queue));
}

bool queue_is_short(struct queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	bool is_short = queue->writer_waits && queue->count < queue->gather;
	pthread_mutex_unlock(&queue->lock);
	return is_short;
}

void queue_nudge(struct queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->nudged = true;
	unlock_and_wake(queue, true);
}

/* ---- the loop in the writer's place ---- */

static bool only_batches_wait(const struct queue *queue)
{
	list_for_each(node, &queue->arrivals) {
		const struct request *request = container_of(node, struct request, arrival);
		if ((request->kind != REQUEST_WRITE && request->kind != REQUEST_BYE) ||
			request->task.what != NULL) {
			return false;
		}
	}
	return true;
}

bool queue_stand_in(struct queue *queue, size_t count_max, size_t bytes_max)
{
	pthread_mutex_lock(&queue->lock);
	queue->stood_in = queue->writer_waits && has_work(queue) && queue->count <= count_max &&
		queue->bytes <= bytes_max && only_batches_wait(queue);
	bool stood_in = queue->stood_in;
	queue->stood_in_at_us = stood_in ? clock_now_us() : 0;
	pthread_mutex_unlock(&queue->lock);
	return stood_in;
}

void queue_step_back(struct queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->stood_in = false;
	unlock_and_wake(queue, has_work(queue) || queue->nudged);
}

bool queue_pause(struct queue *queue, uint64_t us)
{
	struct timespec until = after_us(us);
	pthread_mutex_lock(&queue->lock);
	/* Not writer_waits: new work is no reason to try again sooner. */
	while (!queue->stopped &&
		pthread_cond_timedwait(&queue->work, &queue->lock, &until) != ETIMEDOUT) {
	}
	bool stopped = queue->stopped;
	pthread_mutex_unlock(&queue->lock);
	return !stopped;
}

/* With the lock held. */
static void take(struct queue *queue, struct request *request, struct list *to)
{
	stop_waiting(queue, request);
	queue->taken++;
	if (to != NULL) {
		list_push_back(to, &request->node);
	}
}

size_t queue_take(struct queue *queue, size_t count_max, size_t bytes_max, struct list *to)
{
	size_t count = 0;
	size_t bytes = 0;
	int64_t us = 0;
	uint64_t now_us = clock_now_us();
	count_max = count_max < TAKE_COUNT ? count_max : TAKE_COUNT;
	pthread_mutex_lock(&queue->lock);
	bool may = queue->held_us == 0 && list_empty(&queue->urgent);
	schedule_open(&queue->schedule, now_us);
	while (may && count < count_max && bytes < bytes_max && us < TAKE_US) {
		struct request *request = schedule_next(&queue->schedule, now_us);
		if (request == NULL) {
			break;
		}
		take(queue, request, to);
		bytes += request->bytes;
		us += request->estimate_us;
		count++;
	}
	pthread_mutex_unlock(&queue->lock);
	return count;
}

struct request *queue_take_task(struct queue *queue)
{
	struct request *request = NULL;
	pthread_mutex_lock(&queue->lock);
	if (!list_empty(&queue->urgent)) {
		request = container_of(queue->urgent.next, struct request, node);
		list_remove(&request->node);
		request->taken = true;
	} else if (queue->held_us == 0) {
		request = schedule_next_task(&queue->schedule, clock_now_us());
	}
	if (request != NULL) {
		take(queue, request, NULL);
	}
	pthread_mutex_unlock(&queue->lock);
	return request;
}

/* With the lock held. */
static void end_turn(struct queue *queue)
{
	if (queue->taken == 0) {
		schedule_close(&queue->schedule);
	}
}

void queue_give_back(struct queue *queue, struct list *requests)
{
	uint64_t now_us = clock_now_us();
	pthread_mutex_lock(&queue->lock);
	while (!list_empty(requests)) {
		struct request *request = container_of(requests->prev, struct request, node);
		list_remove(&request->node);
		if (request->line == NULL) {
			request->taken = false;
			list_push_front(&queue->urgent, &request->node);
		} else {
			if (request->cost_us > 0) {
				schedule_charge(&queue->schedule, request, now_us);
				request->cost_us = 0;
			}
			schedule_return(&queue->schedule, request);
		}
		list_push_front(&queue->arrivals, &request->arrival);
		queue->count++;
		queue->bytes += request->bytes;
		queue->taken--;
	}
	end_turn(queue);
	pthread_mutex_unlock(&queue->lock);
}

void queue_answer(struct queue *queue, struct list *requests)
{
	uint64_t now_us = clock_now_us();
	pthread_mutex_lock(&queue->lock);
	list_for_each(node, requests) {
		struct request *request = container_of(node, struct request, node);
		queue->taken--;
		queue->answered_bytes += request->reply.len;
		if (request->line != NULL) {
			schedule_charge(&queue->schedule, request, now_us);
			schedule_leave(&queue->schedule, request);
		}
	}
	end_turn(queue);
	/* The loop itself needs no waking. */
	bool wake = list_empty(&queue->answered) && !list_empty(requests) && !queue->stood_in;
	list_append_all(&queue->answered, requests);
	pthread_mutex_unlock(&queue->lock);
	if (wake) {
		queue->wake(queue->wake_ctx);
	}
}

void queue_post(struct queue *queue, struct list *requests)
{
	pthread_mutex_lock(&queue->lock);
	bool wake = list_empty(&queue->answered) && !list_empty(requests);
	list_append_all(&queue->answered, requests);
	pthread_mutex_unlock(&queue->lock);
	if (wake) {
		queue->wake(queue->wake_ctx);
	}
}

void queue_run(struct queue *queue, const struct request *request, uint64_t now_us)
{
	atomic_store_explicit(&queue->running_since_us, now_us, memory_order_relaxed);
	atomic_store_explicit(&queue->running, request, memory_order_release);
}

/* ---- looking ---- */

const struct request *queue_running(const struct queue *queue, uint64_t *ret_since_us)
{
	struct queue *writable = (struct queue *)(uintptr_t)queue;
	const struct request *running =
		atomic_load_explicit(&writable->running, memory_order_acquire);
	if (ret_since_us != NULL) {
		*ret_since_us =
			atomic_load_explicit(&writable->running_since_us, memory_order_relaxed);
	}
	return running;
}

void queue_each(struct queue *queue, void (*fn)(void *ctx, struct request *request), void *ctx)
{
	pthread_mutex_lock(&queue->lock);
	list_for_each(node, &queue->arrivals) {
		fn(ctx, container_of(node, struct request, arrival));
	}
	pthread_mutex_unlock(&queue->lock);
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
	facts.closed = queue->closed;
	facts.refused = queue->refused;
	facts.held_us = queue->held_us;
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		facts.classes[i] = queue->schedule.ranks[i].facts;
		facts.classes[i].waiting = queue->schedule.ranks[i].waiting;
	}
	if (!list_empty(&queue->arrivals)) {
		facts.oldest_us =
			container_of(queue->arrivals.next, struct request, arrival)->received_us;
	}
	pthread_mutex_unlock(&queue->lock);
	return facts;
}
