/* SPDX-License-Identifier: MIT */

/*
 * The loop's side of leases: making them, handing them requests, and their end. What the writer does
 * with them stands in lease_run.c.
 */

#include "server/funnel/lease.h"

#include "server/funnel/reply.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { INBOX_BYTES_MAX = 16 * 1024 * 1024 };

/* Of a task that is over, before it is freed. */
static void task_ended(struct request *task)
{
	struct lease *lease = task->task.ctx;
	lease->task = NULL;
	list_for_each_safe(node, &lease->last) {
		struct request *request = container_of(node, struct request, node);
		list_remove(node);
		lease->deliver(lease->ctx, request);
	}
	lease_unref(lease);
}

static void interrupt_task(struct request *task)
{
	struct lease *lease = task->task.ctx;
	pthread_mutex_lock(&lease->lock);
	lease->killed = true;
	if (lease->store != NULL) {
		store_interrupt(lease->store, true);
	}
	pthread_cond_signal(&lease->work);
	pthread_mutex_unlock(&lease->lock);
}

static void known_by(const struct request *task, struct known_by *ret_known)
{
	struct lease *lease = task->task.ctx;
	pthread_mutex_lock(&lease->lock);
	*ret_known = lease->known;
	pthread_mutex_unlock(&lease->lock);
}

int lease_new(const struct config *config, struct queue *queue, struct lease **ret_lease)
{
	struct lease *lease = calloc(1, sizeof(*lease));
	pthread_condattr_t attributes;
	void *room = NULL;
	struct request *task = request_new(REQUEST_TASK, 0, &room);
	if (lease == NULL || task == NULL) {
		free(lease);
		request_free(task);
		return -ENOMEM;
	}
	pthread_mutex_init(&lease->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&lease->work, &attributes);
	pthread_condattr_destroy(&attributes);
	list_init(&lease->node);
	list_init(&lease->inbox);
	list_init(&lease->last);
	lease->config = config;
	lease->queue = queue;
	lease->task = task;
	lease->references = 2;
	lease->end = FAILURE_LEASE_GONE;
	task->deadline_us = UINT64_MAX;
	task->task = (struct task){.what = "lease",
		.run = lease_run,
		.interrupt = interrupt_task,
		.ended = task_ended,
		.known_by = known_by,
		.ctx = lease};
	*ret_lease = lease;
	return 0;
}

void lease_unref(struct lease *lease)
{
	if (--lease->references > 0) {
		return;
	}
	list_remove(&lease->node);
	list_for_each_safe(node, &lease->inbox) {
		request_free(container_of(node, struct request, node));
	}
	credentials_unref(lease->credentials);
	pthread_cond_destroy(&lease->work);
	pthread_mutex_destroy(&lease->lock);
	free(lease);
}

int lease_push(struct lease *lease, struct request *request, enum failure_code *ret_end)
{
	int rc = 0;
	pthread_mutex_lock(&lease->lock);
	if (lease->state == LEASE_ENDED) {
		*ret_end = lease->end;
		rc = LEASE_OVER;
	} else if (lease->inbox_bytes > 0 &&
		lease->inbox_bytes + request->bytes > INBOX_BYTES_MAX) {
		rc = LEASE_FULL;
	} else {
		list_push_back(&lease->inbox, &request->node);
		lease->inbox_bytes += request->bytes;
		lease->end_asked |= request->lease.op == LEASE_OP_COMMIT ||
			request->lease.op == LEASE_OP_ROLLBACK;
		pthread_cond_signal(&lease->work);
	}
	pthread_mutex_unlock(&lease->lock);
	return rc;
}

void lease_abandon(struct lease *lease)
{
	pthread_mutex_lock(&lease->lock);
	lease->abandoned = true;
	if (lease->store != NULL && !lease->end_asked) {
		store_interrupt(lease->store, true);
	}
	pthread_cond_signal(&lease->work);
	pthread_mutex_unlock(&lease->lock);
}

bool lease_withdraw(struct lease *lease, enum failure_code code, const char *message)
{
	struct request *task = lease->task;
	if (task == NULL || !queue_withdraw(lease->queue, task)) {
		return false;
	}
	/* The writer will never know of it. */
	lease->state = LEASE_ENDED;
	bool first = true;
	list_for_each_safe(node, &lease->inbox) {
		struct request *request = container_of(node, struct request, node);
		list_remove(node);
		failure_set(&request->failure, first ? code : FAILURE_LEASE_GONE, "%s",
			first ? message : "the lease has not begun");
		if (first && code == FAILURE_DEADLINE) {
			request->waited_for = holder_running(lease->queue);
		}
		request->failure.open = 0;
		reply_failed(request);
		list_push_back(&lease->last, node);
		first = false;
	}
	request_free(task); /* which delivers them */
	return true;
}

bool lease_cancel(struct lease *lease, struct request *request)
{
	bool withdrawn = false;
	pthread_mutex_lock(&lease->lock);
	list_for_each_safe(node, &lease->inbox) {
		if (node == &request->node && request->lease.op != LEASE_OP_BEGIN) {
			list_remove(node);
			lease->inbox_bytes -= request->bytes;
			withdrawn = true;
			lease->end_asked &= request->lease.op != LEASE_OP_COMMIT &&
				request->lease.op != LEASE_OP_ROLLBACK;
		}
	}
	if (!withdrawn && lease->running == request && lease->store != NULL) {
		lease->cancelled = true;
		store_interrupt(lease->store, true);
	}
	pthread_mutex_unlock(&lease->lock);
	return withdrawn;
}

void lease_answered(struct lease *lease, const struct request *request)
{
	if (request->lease.op == LEASE_OP_COMMIT && request->failure.open == 1) {
		/* Deferred constraints: it goes on. */
		pthread_mutex_lock(&lease->lock);
		lease->end_asked = false;
		pthread_mutex_unlock(&lease->lock);
	}
}

bool lease_holds(struct lease *lease)
{
	pthread_mutex_lock(&lease->lock);
	bool holds = lease->state != LEASE_ENDED && !lease->end_asked;
	pthread_mutex_unlock(&lease->lock);
	return holds;
}

uint64_t lease_deadline_us(struct lease *lease)
{
	uint64_t deadline_us = UINT64_MAX;
	pthread_mutex_lock(&lease->lock);
	if (lease->state == LEASE_WAITING && !list_empty(&lease->inbox)) {
		deadline_us = container_of(lease->inbox.next, struct request, node)->deadline_us;
	}
	pthread_mutex_unlock(&lease->lock);
	return deadline_us;
}

struct lease_facts lease_facts(struct lease *lease)
{
	pthread_mutex_lock(&lease->lock);
	struct lease_facts facts = {.state = lease->state,
		.begun_us = lease->begun_us,
		.idle_us = lease->idle_us,
		.steps = lease->steps};
	facts.known = lease->known;
	pthread_mutex_unlock(&lease->lock);
	return facts;
}
