/* SPDX-License-Identifier: MIT */

/*
 * Group commit with isolation. One bad batch can destroy the transaction that it shares (OR
 * ROLLBACK, RAISE(ROLLBACK), an interrupt, a full disk), and no savepoint prevents that. So nobody
 * is answered before COMMIT, and when a transaction is lost the guilty fails and the innocent run
 * again:
 *
 *	together ──lost──▶ together, without the guilty ──lost──▶ each alone
 *
 * The failure of the guilty stands only while all before it come out as they did when it failed: it was
 * judged by what they had written.
 *
 * What this file keeps true: an answer is the one that the batch would have got alone; a batch is
 * applied at most once; what is answered is committed, with its answer.
 */

#include "server/funnel/group.h"

#include "server/base/clock.h"
#include "server/store/many.h"

#include <stdlib.h>
#include <string.h>

/* How the run of one member ended, for the transaction. */
enum run { RUN_DONE, RUN_LOST, RUN_AGAIN };

/* How a whole attempt ended. */
enum attempt { ATTEMPT_DONE, ATTEMPT_LOST, ATTEMPT_BUSY, ATTEMPT_LONG, ATTEMPT_UNKNOWN };

struct group {
	struct store *store;
	struct queue *queue;
	const struct group_limits *limits;
	struct list members; /* in the order of execution */
	size_t count;
	size_t bytes;
	uint64_t began_us;
	uint64_t now_us; /* read where time has passed: behind BEGIN and each member */
	bool shifted;    /* in this attempt somebody came out otherwise than in the one before */
	struct buffer spare;
	struct group_result result;
	char *reason;
};

/* ---- one member ---- */

static void begin_again(struct request *request)
{
	request->outcome = OUTCOME_OPEN;
	failure_clear(&request->failure);
	buffer_clear(&request->payload);
}

static void fail(struct request *request, enum failure_code code, const char *message)
{
	failure_set(&request->failure, code, "%s", message);
	request->outcome = OUTCOME_FAILED;
}

static void fail_from_store(struct request *request, struct store_error *error, int64_t step)
{
	reply_fail_from_store(request, error, step);
	request->outcome = OUTCOME_FAILED;
	store_error_clear(error);
}

/* A failure that is nobody's guilt: it may go away, so it is not remembered and not repeated. */
static void fail_for_now(struct request *request, const char *message)
{
	fail(request, FAILURE_INTERNAL, message);
	request->failure.retry_after_ms = 200;
}

static void fail_for_room(struct store *store, struct request *request)
{
	struct dedupe_limits limits = dedupe_get_limits(store_dedupe(store));
	bool key = request->identity.kind == IDENTITY_KEY;
	failure_set(&request->failure, FAILURE_OVERLOADED,
		"no room to remember another %s of this user, who has a share of the %llu of all "
		"users (setting %s)",
		key ? "key" : "session",
		(unsigned long long)(key ? limits.keys_max : limits.sessions_max),
		key ? "keys_max" : "sessions_max");
	request->outcome = OUTCOME_FAILED;
	request->failure.retry_after_ms = 1000;
}

/* Of that name some rows are applied already, and it is not they that go on now. */
static bool begun_otherwise(struct store *store, struct request *request)
{
	struct store_error error = {.row = -1};
	if (request->identity.kind == IDENTITY_NONE ||
		(request->steps_count == 1 && request->steps[0].sliced)) {
		return false; /* many_task.c looks itself */
	}
	int rc = store_many_look(store, &request->identity, &error);
	if (rc != 0) {
		reply_fail_from_store(request, &error, -1);
		request->outcome = OUTCOME_FAILED;
	}
	store_error_clear(&error);
	return rc != 0;
}

bool group_answer_from_memory(struct store *store, struct request *request)
{
	struct dedupe_reply reply;
	int verdict = dedupe_check(store_dedupe(store), &request->identity, &reply);
	switch (verdict) {
	case DEDUPE_NEW:
		return begun_otherwise(store, request);
	case DEDUPE_REPEAT:
		buffer_clear(&request->payload);
		buffer_append(&request->payload, reply.payload, reply.payload_len);
		free(reply.payload);
		request->commit_no = reply.commit_no;
		request->outcome = OUTCOME_REPEAT;
		if (request->payload.failed || reply.payload_len == 0) {
			fail(request, FAILURE_INTERNAL, "the remembered answer cannot be read");
			request->failure.applied = APPLIED_UNKNOWN;
		}
		return true;
	case DEDUPE_MISMATCH:
		fail(request, FAILURE_KEY_MISMATCH,
			"this seq or key was used before with another batch: use a new one");
		return true;
	case DEDUPE_EXPIRED:
		fail(request, FAILURE_SESSION_EXPIRED,
			"the answer to this seq is no longer kept: ask the database what became of it");
		return true;
	case DEDUPE_FULL:
		fail_for_room(store, request);
		return true;
	default:
		fail(request, FAILURE_INTERNAL, "the remembered answer cannot be read");
		request->failure.applied = APPLIED_UNKNOWN;
		return true;
	}
}

/* Stores the answer with the work. False: it could not be, so the work must not stand either. */
static bool remember(struct group *group, struct request *request, struct bytes payload)
{
	return request->identity.kind == IDENTITY_NONE ||
		dedupe_remember(store_dedupe(group->store), &request->identity, payload) == 0;
}

/* Failures that would come again are remembered like results. */
static void remember_failure(struct group *group, struct request *request)
{
	const struct failure *failure = &request->failure;
	if (request->identity.kind == IDENTITY_NONE || failure->retry ||
		failure->code == FAILURE_DEADLINE) {
		return;
	}
	if (!reply_pack_failure(failure, &request->payload) ||
		!remember(group, request,
			(struct bytes){request->payload.data, request->payload.len})) {
		/* Nothing was applied; without the memory of it, a repeat will simply run. */
		fail_for_now(request, "out of memory");
	}
}

/* Runs the steps; a condition of the store, with *ret_wrote if something is left to undo. */
static int run_steps(struct group *group, struct request *request, struct packing *packing,
	struct store_error *error, int64_t *ret_step, bool *ret_wrote)
{
	struct step_sink sink = {
		packing_columns, packing_row, packing, group->limits->result_bytes_max};
	*ret_wrote = false;
	for (size_t i = 0; i < request->steps_count; i++) {
		struct step step = request->steps[i];
		struct step_result result;
		if (step.rows_max > group->limits->rows_max) {
			step.rows_max = group->limits->rows_max;
		}
		packing_begin_step(packing);
		int rc = store_step(
			group->store, request->credentials->role, &step, &sink, &result, error);
		*ret_wrote |= result.total != 0 || result.unclean;
		*ret_step = (int64_t)i;
		if (rc != 0) {
			return rc;
		}
		packing_end_step(packing, &result);
		if (!packing_fits(packing)) {
			return store_error_set(error, STORE_TOO_LARGE, 0,
				"the answer to the batch is larger than %zu bytes (setting "
				"result_bytes_max)",
				group->limits->result_bytes_max);
		}
	}
	*ret_step = -1;
	if (!packing_end(packing)) {
		return store_error_set(error, STORE_RESOURCE, 7, "out of memory");
	}
	return 0;
}

/* Undoes one batch inside the transaction. */
static enum run undo(struct group *group, struct request *request, bool savepoint)
{
	struct store_error error = {.row = -1};
	if (!savepoint) {
		/* It was taken for one that leaves nothing behind, and was not: never again so. */
		request->use_savepoint = true;
		return RUN_AGAIN;
	}
	if (store_rollback_to(group->store, &error) != 0) {
		store_error_clear(&error);
		return RUN_LOST;
	}
	return RUN_DONE;
}

/* The batch has failed with `error`: what that means for it and for the transaction. */
static enum run batch_failed(struct group *group, struct request *request,
	struct store_error *error, int64_t step, bool savepoint, bool wrote)
{
	bool nobodys_guilt = error->condition == STORE_RESOURCE || error->condition == STORE_BUSY;
	if (group->limits->brief && error->condition == STORE_TIMEOUT) {
		store_error_clear(error);
		return RUN_LOST;
	}
	request->offended = error->condition == STORE_TIMEOUT;
	fail_from_store(request, error, step);
	if (!store_in_transaction(group->store)) {
		request->condemned = !nobodys_guilt;
		return RUN_LOST;
	}
	enum run run = RUN_DONE;
	if (savepoint || wrote || store_deferred_violations(group->store)) {
		run = undo(group, request, savepoint);
	}
	if (run == RUN_DONE) {
		remember_failure(group, request);
	}
	return run;
}

/* The steps have all run: deferred constraints, the savepoint, and the memory of the answer. */
static enum run batch_succeeded(
	struct group *group, struct request *request, struct packing *packing, bool savepoint)
{
	struct store_error error = {.row = -1};
	if (store_deferred_violations(group->store)) {
		/* COMMIT would fail for everybody; this batch is the first to have left one. */
		store_error_set(&error, STORE_SQL, 787, "FOREIGN KEY constraint failed");
		return batch_failed(group, request, &error, -1, savepoint, true);
	}
	if (savepoint && store_release(group->store, &error) != 0) {
		return batch_failed(group, request, &error, -1, savepoint, true);
	}
	if (!remember(group, request, packing_stored(packing, &group->spare))) {
		store_error_set(&error, STORE_RESOURCE, 7, "out of memory");
		fail_from_store(request, &error, -1);
		return RUN_LOST;
	}
	store_batch_keep(group->store);
	request->outcome = OUTCOME_OK;
	return RUN_DONE;
}

/* When a batch must be done: the daemon's limit, or what its client has said. */
static uint64_t exec_deadline(const struct group *group, const struct request *request)
{
	uint64_t limit_us = group->now_us + group->limits->exec_timeout_us;
	return request->own_deadline && request->deadline_us < limit_us ? request->deadline_us
									: limit_us;
}

static enum run run_batch(struct group *group, struct request *request)
{
	struct store *store = group->store;
	struct store_error error = {.row = -1};
	struct packing packing;
	enum run run = RUN_LOST;
	int64_t failed_step = -1;
	bool wrote = false;
	/* A guarded batch has one always: at it, virtual tables write what they hold back. */
	bool savepoint = request->use_savepoint || request->steps_count > 1 ||
		request->guard.epoch != NULL ||
		!store_step_is_atomic(store, request->credentials->role, &request->steps[0]);

	packing_init(&packing, &request->payload, group->limits->result_bytes_max);
	store_batch_begin(store, 0);
	if (!store_in_transaction(store)) {
		/* Looking something up has cost the transaction: nothing may run outside of one. */
		fail_for_now(request, "out of memory");
	} else if (savepoint && store_savepoint(store, &error) != 0) {
		fail_from_store(request, &error, -1);
	} else if (request->guard.epoch != NULL &&
		store_check_guard(store, &request->guard, &error) != 0) {
		run = batch_failed(group, request, &error, -1, savepoint, false);
	} else {
		store_batch_begin(store, exec_deadline(group, request));
		int rc = run_steps(group, request, &packing, &error, &failed_step, &wrote);
		store_batch_end(store);
		run = rc == 0 ? batch_succeeded(group, request, &packing, savepoint)
			      : batch_failed(group, request, &error, failed_step, savepoint, wrote);
	}
	packing_finish(&packing);
	return run;
}

static void run_describe(struct group *group, struct request *request)
{
	struct store_error error = {.row = -1};
	struct description description;
	struct packing packing;
	packing_init(&packing, &request->payload, group->limits->result_bytes_max);
	packing_begin_step(&packing);
	struct step_sink sink = {
		packing_columns, packing_row, &packing, group->limits->result_bytes_max};
	if (store_describe(group->store, request->credentials->role, request->steps[0].sql, &sink,
		    &description, &error) == 0) {
		reply_pack_description(&packing, &description);
		request->outcome = OUTCOME_OK;
	} else {
		fail_from_store(request, &error, -1);
	}
	if (request->outcome == OUTCOME_OK && request->payload.failed) {
		fail_for_now(request, "out of memory");
	}
	packing_finish(&packing);
}

static void run_bye(struct group *group, struct request *request)
{
	static const uint8_t empty[] = {PAYLOAD_RESULT, 0x80};
	(void)dedupe_forget(
		store_dedupe(group->store), request->identity.uid, request->identity.session);
	buffer_append(&request->payload, empty, sizeof(empty));
	request->outcome = OUTCOME_OK;
}

/* There is no room for what it would write. */
static bool refused(struct group *group, struct request *request)
{
	if (group->limits->refusal == NULL) {
		return false;
	}
	bool writes = request->kind == REQUEST_BYE;
	for (size_t i = 0; i < request->steps_count && !writes; i++) {
		writes = !store_step_reads_only(
			group->store, request->credentials->role, &request->steps[i]);
	}
	if (writes) {
		fail(request, FAILURE_DISK_LOW, group->limits->refusal);
		request->failure.retry_after_ms = DISK_RETRY_AFTER_MS;
	}
	return writes;
}

static enum run run_member(struct group *group, struct request *request)
{
	uint64_t began_us = group->now_us;
	enum run run = RUN_DONE;
	if (request->taken_us == 0) {
		request->taken_us = began_us;
	}
	if (request->condemned) {
		remember_failure(group, request);
		return store_in_transaction(group->store) ? RUN_DONE : RUN_LOST;
	}
	begin_again(request);
	queue_run(group->queue, request, began_us);
	if (request->kind == REQUEST_BYE) {
		if (!refused(group, request)) {
			run_bye(group, request); /* else its session is forgotten in time */
		}
	} else if ((request->kind == REQUEST_WRITE || request->kind == REQUEST_COMMIT) &&
		group_answer_from_memory(group->store, request)) {
		/* Known already, however late it comes again. */
	} else if (request->kind == REQUEST_COMMIT) {
		fail(request, FAILURE_LEASE_GONE,
			"the lease is gone, and this commit of it was not done");
		/*
		 * Nor must it be done later, when what its first connection has sent is read. A key is
		 * free for another try.
		 */
		if (request->identity.kind == IDENTITY_SEQ) {
			remember_failure(group, request);
		}
	} else if (began_us >= request->deadline_us) {
		fail(request, FAILURE_DEADLINE, "the deadline passed while the request waited");
	} else if (request->kind == REQUEST_DESCRIBE) {
		run_describe(group, request);
	} else if (refused(group, request)) {
		/* Its client tries again when there is room. */
	} else {
		run = run_batch(group, request);
	}
	if (run == RUN_DONE && !store_in_transaction(group->store)) {
		run = RUN_LOST; /* one of our own statements has met a full disk, or too little memory */
	}
	group->now_us = clock_now_us();
	request->exec_us = group->now_us - began_us;
	request->cost_us += request->exec_us;
	group->result.exec_us += request->exec_us;
	return run;
}

/* ---- one transaction ---- */

static void note_reason(struct group *group, struct store_error *error)
{
	free(group->reason);
	group->reason = error->message;
	error->message = NULL;
	store_error_clear(error);
}

/* Nobody's guilt, but the whole transaction's end: who has no answer yet may try again. */
static void fail_open_members(struct group *group, struct list *members, struct store_error *error)
{
	list_for_each(node, members) {
		struct request *request = container_of(node, struct request, node);
		if (request->outcome == OUTCOME_REPEAT &&
			request->commit_no <= store_commit_no(group->store)) {
			continue; /* what it asks for was committed long ago */
		}
		if (request->outcome != OUTCOME_FAILED || !request->failure.retry) {
			bool asked = request->outcome != OUTCOME_OPEN;
			buffer_clear(&request->payload);
			reply_fail_from_store(request, error, -1);
			request->outcome = OUTCOME_FAILED;
			if (!asked && request->identity.kind != IDENTITY_NONE) {
				/* It may be a repeat of what was applied: nobody has looked. */
				request->failure.applied = APPLIED_UNKNOWN;
			}
		}
	}
	store_error_clear(error);
}

/*
 * The commit is paid for by those in it, by how long each has run: a giant writes most of the pages,
 * and whoever happens to share its commit must not pay for them.
 */
static void stamp(struct group *group, struct list *members, uint64_t commit_us, size_t batches)
{
	uint64_t ran_us = 0;
	list_for_each(node, members) {
		ran_us += container_of(node, struct request, node)->exec_us + 1;
	}
	list_for_each(node, members) {
		struct request *request = container_of(node, struct request, node);
		if (request->outcome != OUTCOME_REPEAT) {
			request->commit_no = store_commit_no(group->store);
		}
		request->commit_us = commit_us;
		request->cost_us += commit_us * (request->exec_us + 1) / ran_us;
		request->group = batches;
	}
}

static enum attempt finish(struct group *group, struct list *members, size_t batches)
{
	struct store *store = group->store;
	struct store_error error = {.row = -1};
	uint64_t began_us = clock_now_us();
	if (!store_dirty(store) && !dedupe_has_pending(store_dedupe(store))) {
		dedupe_committed(store_dedupe(store)); /* what was said to be done is, too */
		store_rollback(store);
		stamp(group, members, 0, batches);
		return ATTEMPT_DONE;
	}
	switch (store_commit(store, &error)) {
	case 0:
		break;
	case STORE_UNKNOWN:
		note_reason(group, &error);
		return ATTEMPT_UNKNOWN;
	case STORE_RESOURCE:
		fail_open_members(group, members, &error);
		return ATTEMPT_DONE;
	default:
		/* A constraint that nobody was charged with: find out who, one by one. */
		if (batches == 1) {
			struct request *request = container_of(members->next, struct request, node);
			reply_fail_from_store(request, &error, -1);
			request->outcome = OUTCOME_FAILED;
			request->condemned = true;
		}
		store_error_clear(&error);
		store_rollback(store);
		return ATTEMPT_LOST;
	}
	uint64_t commit_us = clock_now_us() - began_us;
	group->result.commits++;
	group->result.commit_us += commit_us;
	stamp(group, members, commit_us, batches);
	return ATTEMPT_DONE;
}

/* Moves what waits into the group, as far as its limits allow. */
static bool take_more(struct group *group, struct list *fresh)
{
	if (group->count >= group->limits->count_max || group->bytes >= group->limits->bytes_max ||
		(group->count > 0 &&
			group->now_us - group->began_us >= group->limits->time_max_us)) {
		return false;
	}
	return queue_take(group->queue, group->limits->count_max - group->count,
		       group->limits->bytes_max - group->bytes, fresh) > 0;
}

static bool out_of_time(const struct group *group)
{
	return group->now_us - group->began_us >= group->limits->time_max_us;
}

/*
 * Runs what waits. What arrived while the last group committed is all there now; what arrives while
 * this one executes joins it, until it has had its time.
 */
static enum run run_fresh(struct group *group)
{
	struct list fresh;
	enum run run = RUN_DONE;
	list_init(&fresh);
	while (run == RUN_DONE && (!list_empty(&fresh) || take_more(group, &fresh))) {
		struct request *request = container_of(fresh.next, struct request, node);
		list_remove(&request->node);
		list_push_back(&group->members, &request->node);
		group->count++;
		group->bytes += request->bytes;
		run = run_member(group, request);
		group->bytes += request->payload.len; /* answers take memory like requests */
		if (out_of_time(group) || group->bytes >= group->limits->bytes_max) {
			break;
		}
	}
	if (run == RUN_DONE) {
		queue_give_back(group->queue, &fresh);
	} else {
		/* They will run with the others in the next attempt: nobody loses its place. */
		list_for_each(node, &fresh) {
			group->count++;
		}
		list_append_all(&group->members, &fresh);
	}
	return run;
}

/* Its next run comes behind others than the last one. */
static void reconsider(const struct group *group, struct request *request)
{
	request->condemned = request->condemned && !group->shifted;
}

static void compare(struct group *group, const struct request *request, enum outcome before)
{
	group->shifted |= before != OUTCOME_OPEN && before != request->outcome;
}

static enum run run_again(struct group *group, struct list *members)
{
	enum run run = RUN_DONE;
	group->shifted = false;
	for (struct list *node = members->next; node != members && run == RUN_DONE;
		node = node->next) {
		struct request *request = container_of(node, struct request, node);
		enum outcome before = request->outcome;
		reconsider(group, request);
		run = run_member(group, request);
		compare(group, request, before);
	}
	return run;
}

/* Begins the transaction. A condition is answered to, or for, everybody in `members`. */
static enum attempt begin(struct group *group, struct list *members)
{
	struct store_error error = {.row = -1};
	int rc = store_begin(group->store, &error);
	group->now_us = clock_now_us();
	switch (rc) {
	case 0:
		return ATTEMPT_DONE;
	case STORE_BUSY:
		note_reason(group, &error);
		return ATTEMPT_BUSY;
	default:
		if (list_empty(members)) {
			note_reason(group, &error); /* nothing is taken yet: let it all wait */
			return ATTEMPT_BUSY;
		}
		fail_open_members(group, members, &error);
		return ATTEMPT_LOST;
	}
}

/*
 * One request in a transaction of its own. It may be lost at most twice: once for what it does, and
 * then its failure is all there is to commit.
 */
static enum attempt run_alone(struct group *group, struct request *request)
{
	struct list single;
	enum attempt attempt = ATTEMPT_LOST;
	enum outcome before = request->outcome;
	list_init(&single);
	list_push_back(&single, &request->node);
	reconsider(group, request);
	for (int tries = 0; attempt == ATTEMPT_LOST && tries < 3; tries++) {
		attempt = begin(group, &single);
		if (attempt != ATTEMPT_DONE) {
			break;
		}
		if (run_member(group, request) == RUN_DONE) {
			attempt = finish(group, &single, 1);
		} else {
			store_rollback(group->store);
			attempt = ATTEMPT_LOST;
			if (!request->condemned && !request->use_savepoint) {
				break; /* nobody's guilt: answered with `retry` */
			}
		}
		request->use_savepoint = true;
	}
	if (attempt == ATTEMPT_LOST && request->outcome != OUTCOME_FAILED) {
		fail_for_now(request, "the transaction could not be completed");
	}
	compare(group, request, before);
	list_remove(&request->node);
	return attempt == ATTEMPT_LOST ? ATTEMPT_DONE : attempt;
}

static enum attempt run_each_alone(struct group *group, struct list *answered)
{
	group->shifted = false;
	while (!list_empty(&group->members)) {
		struct request *request = container_of(group->members.next, struct request, node);
		list_remove(&request->node);
		enum attempt attempt = run_alone(group, request);
		if (attempt == ATTEMPT_BUSY || attempt == ATTEMPT_UNKNOWN) {
			list_push_front(&group->members, &request->node);
			return attempt;
		}
		list_push_back(answered, &request->node);
	}
	return ATTEMPT_DONE;
}

/* ---- the group ---- */

/* The transaction is lost: what the others have run for nothing is the guilty one's to pay. */
static void charge_the_guilty(struct group *group)
{
	struct request *guilty = NULL;
	uint64_t lost_us = 0;
	list_for_each(node, &group->members) {
		struct request *request = container_of(node, struct request, node);
		if (request->condemned) {
			guilty = request;
		} else {
			lost_us += request->cost_us;
			request->cost_us = 0;
		}
	}
	if (guilty != NULL) {
		guilty->cost_us += lost_us;
	}
}

static enum attempt run_together(struct group *group, bool first)
{
	enum attempt attempt = begin(group, &group->members);
	if (attempt != ATTEMPT_DONE) {
		return attempt;
	}
	enum run run = first ? run_fresh(group) : run_again(group, &group->members);
	if (run == RUN_DONE) {
		return finish(group, &group->members, group->count);
	}
	store_rollback(group->store);
	charge_the_guilty(group);
	group->result.replays++;
	return ATTEMPT_LOST;
}

/* As if they had never run: the next group may take them in another order, and with others. */
static void forget_outcomes(struct list *members)
{
	list_for_each(node, members) {
		struct request *request = container_of(node, struct request, node);
		request->condemned = false;
		begin_again(request);
	}
}

int group_run(struct store *store, struct queue *queue, const struct group_limits *limits,
	struct list *answered, struct group_result *ret_result, char **ret_reason)
{
	struct group group = {.store = store, .queue = queue, .limits = limits};
	group.began_us = clock_now_us();
	list_init(&group.members);
	buffer_init(&group.spare, 0);

	enum attempt attempt = run_together(&group, true);
	if (attempt == ATTEMPT_LOST && limits->brief) {
		attempt = ATTEMPT_LONG;
	}
	if (attempt == ATTEMPT_LOST && group.count > 1) {
		attempt = run_together(&group, false);
	}
	if (attempt == ATTEMPT_LOST) {
		attempt = run_each_alone(&group, answered);
	}
	group.result.batches = group.count;
	queue_run(queue, NULL, 0); /* before the loop may free what it pointed at */
	if (attempt == ATTEMPT_BUSY || attempt == ATTEMPT_LONG) {
		forget_outcomes(&group.members);
		queue_give_back(queue, &group.members);
	} else if (attempt != ATTEMPT_UNKNOWN) {
		list_append_all(answered, &group.members);
	}
	buffer_finish(&group.spare);
	*ret_result = group.result;
	*ret_reason = group.reason;
	return attempt == ATTEMPT_BUSY       ? GROUP_BUSY
		: attempt == ATTEMPT_LONG    ? GROUP_LONG
		: attempt == ATTEMPT_UNKNOWN ? GROUP_UNKNOWN
					     : 0;
}
