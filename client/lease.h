/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the engine keeps of leases. A lease lives on one connection: it is over when that breaks, unless
 * nothing of it was answered yet and its commit was not sent; then it begins again on the next one. One
 * is open at a time; the ends of earlier ones may still be unanswered.
 */

#include <stdbool.h>
#include <stdint.h>

struct engine;
struct lf_reply;
struct pending;

/* What is known of the changes of a lease that takes no more requests. */
enum lease_fate {
	LEASE_NOT_KEPT,
	LEASE_COMMITTED,
	LEASE_IN_DOUBT, /* its commit was sent and never answered */
	LEASE_BY_STEP,  /* a step ended it: COMMIT, or a full ROLLBACK */
};

struct lease_state {
	uint64_t newest;      /* of this client; 0: there was none */
	enum lease_fate fate; /* of the newest */
	bool open;            /* the newest takes requests: its end was neither asked for nor met */
	uint64_t on_wire;     /* begun on this connection, and its end not sent; 0: none */
	uint64_t leave;       /* the one of that wire number is to be rolled back first; 0: none */
};

/* A new lease. 0 or -EBUSY: the newest is still open. */
int engine_lease_new(struct engine *engine, uint64_t *ret_lease);

bool engine_lease_open(const struct engine *engine, uint64_t lease);

/* Its end is asked for: it takes no more requests. */
void engine_lease_close(struct engine *engine, uint64_t lease);

/* Nobody wants it any more: what was not sent is not, and it is rolled back. */
void engine_lease_leave(struct engine *engine, uint64_t lease, uint64_t wire_number);

/* ---- for engine.c and link.c ---- */

/* Whether the connection may carry that request now, as far as leases are concerned. */
bool engine_lease_may_write(const struct engine *engine, const struct pending *pending);

void engine_lease_written(struct engine *engine, const struct pending *pending);

/* It was taken out of the output again, or will be sent once more. */
void engine_lease_withdrawn(struct engine *engine, const struct pending *pending);

/* Packs the rollback of a lease that was left. 0 or -ENOMEM. */
int engine_lease_pack_leave(struct engine *engine);

/* A request of a lease has its outcome: `reply`, or NULL if it was found on this side. */
void engine_lease_settled(
	struct engine *engine, const struct pending *pending, const struct lf_reply *reply);

/* Whether nothing else of its lease is on its way, so that `begin` may be sent once more. */
bool engine_lease_is_alone(const struct engine *engine, const struct pending *begin);

/* Whether a commit of that lease may be at work. */
bool engine_lease_in_doubt(const struct engine *engine, uint64_t lease);

/* Before the requests learn of it: decides which leases are over. */
void engine_lease_disconnected(struct engine *engine);

/* Ends the requests of leases that are over, but for those that are still to be answered. */
void engine_lease_sweep(struct engine *engine);
