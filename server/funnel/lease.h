/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A lease: an interactive transaction. One client holds the writer, for a bounded time.
 *
 *	WAITING ──its turn──▶ OPEN ──commit, rollback, failure, limit, the connection's end──▶ ENDED
 *	   └── deadline, cancel, the connection's end ───────────────────────────────────────────▲
 *
 * It waits for the writer as a task in the queue (request.h), in its connection's line, and its
 * requests wait in a list of its own, where the writer finds them while the lease runs. So they may be
 * sent before it has begun. The last answers go out with the end of the task.
 *
 * The loop makes and ends it; each field says whose it is.
 */

#include "server/base/config.h"
#include "server/funnel/holder.h"
#include "server/funnel/lease_limits.h"
#include "server/funnel/queue.h"
#include "server/funnel/request.h"

#include <pthread.h>

enum lease_state { LEASE_WAITING, LEASE_OPEN, LEASE_ENDED };

struct lease {
	/* The loop's, or set before the writer knows of it. */
	struct list node; /* peer::leases */
	int references;   /* of the peer and of the task */
	uint64_t number;  /* the client's, on its connection */
	uint64_t peer_id;
	struct credentials *credentials;
	enum request_class class;
	struct request *task; /* NULL: it is over */
	struct queue *queue;
	const struct config *config; /* numbers only */
	struct lease_limits limits;
	/* Hands an answered request to its peer and frees it. */
	void (*deliver)(void *ctx, struct request *request);
	void *ctx;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t work;  /* the writer waits here */
	enum lease_state state;
	enum failure_code end; /* LEASE_ENDED: what later requests are told */
	struct list inbox;
	size_t inbox_bytes;
	bool end_asked; /* a commit or rollback was sent, and has no answer yet; the loop sets it */
	bool abandoned; /* nobody is there any more */
	bool killed;
	struct request *running;
	struct store *store; /* while something runs that may be interrupted */
	bool cancelled;      /* what runs was interrupted at the client's wish */
	uint64_t begun_us;
	uint64_t idle_us; /* since when it waits for its client; 0: it does not */
	uint64_t steps;
	struct known_by known;        /* its label, which stays, and the last statement */
	struct known_by known_before; /* the same before what runs; COMMIT is nobody's statement */

	/* The writer's until the task has ended, then the loop's. */
	struct list last; /* answers that go out when it has ended */
};

/* Conditions of lease_push(). */
enum { LEASE_OVER = 1, LEASE_FULL };

struct lease_facts {
	enum lease_state state;
	uint64_t begun_us;
	uint64_t idle_us;
	uint64_t steps;
	struct known_by known;
};

/* ---- the loop ---- */

/* A lease with its task, to be pushed into the queue by the caller. 0 or -ENOMEM. */
int lease_new(const struct config *config, struct queue *queue, struct lease **ret_lease);
void lease_unref(struct lease *lease);

/* 0 and the request is the lease's; or a condition, and *ret_end says what to answer if it is over. */
int lease_push(struct lease *lease, struct request *request, enum failure_code *ret_end);

/* The connection is gone, or the daemon will not wait any longer. */
void lease_abandon(struct lease *lease);

/*
 * Withdraws it from the queue if it has not begun, and then answers what was sent: `begin` with this
 * failure. False: the writer has it.
 */
bool lease_withdraw(struct lease *lease, enum failure_code code, const char *message);

/* Interrupts that request if it runs, or withdraws it: true, then it is the caller's to answer. */
bool lease_cancel(struct lease *lease, struct request *request);

/* When `begin` must be answered if it has not begun; UINT64_MAX: it has. */
uint64_t lease_deadline_us(struct lease *lease);

/* An answer of it goes out. */
void lease_answered(struct lease *lease, const struct request *request);

/* Whether its client must not do anything else: it is not over, and its end was not asked for. */
bool lease_holds(struct lease *lease);

struct lease_facts lease_facts(struct lease *lease);

/* ---- the writer ---- */

/* The task. */
enum task_end lease_run(struct request *task, struct store *store, uint64_t budget_us);
