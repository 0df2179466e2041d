/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A commit group: the batches that share one transaction and one fsync, and the rules that keep
 * each of them from feeling the others.
 */

#include "server/funnel/queue.h"
#include "server/funnel/reply.h"
#include "server/store/store.h"

struct group_limits {
	size_t count_max;
	size_t bytes_max;
	uint64_t time_max_us;
	uint64_t exec_timeout_us;
	size_t result_bytes_max;
	uint32_t rows_max;
	const char *refusal; /* why batches that write must be refused, or NULL */
	/*
	 * At most this long, or nothing: exec_timeout_us is nobody's limit then. What takes longer,
	 * or loses the transaction in another way, is undone and given back.
	 */
	bool brief;
};

enum group_condition {
	/* No transaction can be begun, mostly for another process's lock: all is given back. */
	GROUP_BUSY = 1,
	/* COMMIT failed in a way that only a restart can judge: answer nobody, stop. */
	GROUP_UNKNOWN,
	/* Not to be done briefly: all is given back. */
	GROUP_LONG,
};

struct group_result {
	size_t batches;
	uint64_t commits; /* 0: there was nothing to commit */
	uint64_t replays; /* transactions that had to be run again */
	uint64_t exec_us;
	uint64_t commit_us;
};

/*
 * In the open transaction: true if the answer to the request is already known, one way or another, and
 * now stands in it.
 */
bool group_answer_from_memory(struct store *store, struct request *request);

/*
 * Takes what waits in the queue, runs it and commits it. Answered requests, their outcome set, are
 * moved to `answered`; their frames are not built yet. 0 or a condition; `reason` is set with one.
 */
int group_run(struct store *store, struct queue *queue, const struct group_limits *limits,
	struct list *answered, struct group_result *ret_result, char **ret_reason);
