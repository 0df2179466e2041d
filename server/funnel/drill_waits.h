/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Requests that wait for drills: each for one of every replica, begun after it came. Its answer has a
 * row for each of them.
 */

#include "server/base/drill.h"
#include "server/funnel/failure.h"
#include "server/funnel/request.h"

struct drill_waits {
	struct list list;
	/* A request is answered, in `reply`, and to be freed. */
	void (*answered)(void *ctx, struct request *request);
	void *ctx;
};

/* What stands behind such a request. */
struct drill_ask {
	bool left[NOTICE_REPLICAS_MAX]; /* replicas that it still waits for */
	uint32_t rows;
	size_t at; /* of the array of rows, in the payload */
};

void drill_waits_add(struct drill_waits *waits, struct request *request, struct drill_ask *ask);

/* Whether somebody waits for that replica. */
bool drill_waits_want(const struct drill_waits *waits, size_t replica);

/* A drill of that replica is over, which had begun then. */
void drill_waits_tell(struct drill_waits *waits, size_t replica, uint64_t began_us,
	const struct drill_record *record);

/* Those whose time is up; all; those of a connection that has ended, without a word. */
void drill_waits_expire(struct drill_waits *waits, uint64_t now_us);
void drill_waits_refuse(struct drill_waits *waits, enum failure_code code, const char *message);
void drill_waits_forget(struct drill_waits *waits, uint64_t peer_id);
