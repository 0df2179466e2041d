/* SPDX-License-Identifier: MIT */

/*
 * The writer's thread. It asks whose turn it is, a commit group's or a task's, and after each first
 * lets go of the answers and only then does what can wait: the checkpoint, the log, the read mark.
 */

#include "server/funnel/writer.h"

#include "server/base/clock.h"
#include "server/base/large_stack.h"
#include "server/base/log.h"
#include "server/funnel/chunk_task.h"
#include "server/funnel/group.h"
#include "server/funnel/holder.h"
#include "server/funnel/pace.h"
#include "server/funnel/wal_clock.h"
#include "server/store/shm.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	BUSY_PAUSE_US = 5000,
	LOG_AGAIN_US = 1000000,
	LOOK_US = 800000,
	REST_LOOK_US = 10000, /* … while there is more to be copied out of the WAL */
	STANDING_RETRY_MS = 1000,
	/* The loop stands in for that much, and after it has taken too long, not for a while. */
	STAND_IN_COUNT = 32,
	STAND_IN_BYTES = 64 * 1024,
	STAND_IN_EXEC_US = 5000,
	STAND_IN_COMMIT_US = 5000,
	STAND_IN_AGAIN_US = 200 * 1000,
	NUDGE_AGAIN_US = 10 * 1000,
	PATIENCE_US_MIN = 30, /* a shorter commit is not worth a wait */
	PATIENCE_US_MAX = 250,
	FELT_US = 1000, /* a turn so long is remembered, to be named to those who waited */
};

struct writer {
	struct writer_options options;
	pthread_t thread;
	struct large_stack stack; /* it compiles what clients send */
	struct reply_facts facts;
	_Atomic uint64_t commit_no;
	_Atomic uint64_t commit_us; /* that a commit takes lately */
	pthread_mutex_t lock;       /* guards stats, wal_clock and ended */
	pthread_cond_t at_end;      /* on the monotonic clock */
	bool ended;
	struct writer_stats stats;
	struct wal_clock wal_clock;
	struct lookout *lookout;
	struct holders holders;
	struct pace pace;
	uint64_t full_logged_us;
	uint64_t epochs_seen;
	_Atomic uint64_t epochs;
	uint8_t epoch[STORE_EPOCH_BYTES]; /* guarded by the lock */
	bool full;                        /* the last group met a full disk */
	uint64_t stand_in_at_us;          /* not before */
	uint64_t nudge_at_us;             /* for a checkpoint: not before */
	_Atomic bool unsettled; /* something was committed since the last store_settle() */
};

static uint64_t number(const struct writer *writer, enum setting_id id)
{
	return config_number(writer->options.config, id);
}

static uint64_t commit_lately_us(const struct writer *writer)
{
	struct writer *writable = (struct writer *)(uintptr_t)writer;
	return atomic_load_explicit(&writable->commit_us, memory_order_relaxed);
}

static struct group_limits limits_now(const struct writer *writer)
{
	return (struct group_limits){
		.count_max = number(writer, SETTING_COMMIT_GROUP_MAX),
		.bytes_max = number(writer, SETTING_COMMIT_GROUP_BYTES_MAX),
		.time_max_us = pace_limit(&writer->pace, commit_lately_us(writer),
			number(writer, SETTING_COMMIT_GROUP_MAX_US)),
		.exec_timeout_us = number(writer, SETTING_EXEC_TIMEOUT) * 1000,
		.result_bytes_max = number(writer, SETTING_RESULT_BYTES_MAX),
		.rows_max = (uint32_t)number(writer, SETTING_ROWS_MAX),
	};
}

static void apply_limits(struct writer *writer)
{
	struct dedupe_limits limits = {
		.sessions_max = number(writer, SETTING_SESSIONS_MAX),
		.session_ttl_us = number(writer, SETTING_SESSION_TTL) * 1000,
		.keys_max = number(writer, SETTING_KEYS_MAX),
		.key_ttl_us = number(writer, SETTING_KEY_TTL) * 1000,
	};
	store_set_ops_max(writer->options.store, number(writer, SETTING_EXEC_OPS_MAX));
	dedupe_set_limits(store_dedupe(writer->options.store), &limits);
}

/* ---- who waited for whom ---- */

/* A turn has ended: if it was long enough to be felt, it is the costliest request's. */
static void note_turn(struct writer *writer, uint64_t began_us, const struct list *requests)
{
	uint64_t now_us = clock_now_us();
	const struct request *costliest = NULL;
	if (now_us - began_us < FELT_US || list_empty(requests)) {
		return;
	}
	list_for_each(node, (struct list *)(uintptr_t)requests) {
		const struct request *request = container_of(node, struct request, node);
		if (costliest == NULL || request->cost_us > costliest->cost_us) {
			costliest = request;
		}
	}
	holder_of(costliest, holders_note(&writer->holders, began_us, now_us));
}

/* Tells a request that has waited long for whom it did. */
static void tell_whom(struct writer *writer, struct request *request, uint64_t long_us)
{
	uint64_t waited_us = request->taken_us - request->received_us;
	if (request->taken_us == 0 || waited_us < long_us || request->waited_for != NULL) {
		return;
	}
	const struct holder *holder = holders_blame(
		&writer->holders, request->received_us, request->taken_us, request->number);
	request->waited_for = holder != NULL ? malloc(sizeof(*holder)) : NULL;
	if (request->waited_for != NULL) {
		*request->waited_for = *holder;
	}
}

/* A batch that took long, with where the time went. */
static void log_if_slow(const struct request *request, uint64_t slow_us)
{
	static const struct holder nobody = {.what = ""};
	const struct holder *holder = request->waited_for != NULL ? request->waited_for : &nobody;
	uint64_t took_us =
		request->taken_us - request->received_us + request->exec_us + request->commit_us;
	if (slow_us == 0 || took_us < slow_us || request->kind != REQUEST_WRITE) {
		return;
	}
	struct known_by known;
	request_known_by(request, &known);
	log_warn("slow batch", log_int("pid", request->credentials->pid),
		log_uint("uid", request->credentials->uid),
		log_str("class", request_class_name(request->class)),
		log_uint("queued_us", request->taken_us - request->received_us),
		log_uint("exec_us", request->exec_us), log_uint("commit_us", request->commit_us),
		log_uint("steps", request->steps_count), log_str("sql", known.sql),
		log_str("label", known.label), log_str("waited_for", holder->what),
		log_int("waited_for_pid", holder->pid),
		log_str("waited_for_label", holder->known.label),
		log_str("waited_for_sql", holder->known.sql));
}

static void count(struct writer *writer, const struct group_result *result, struct list *answered)
{
	uint64_t slow_us = number(writer, SETTING_SLOW) * 1000;
	uint64_t long_us = number(writer, SETTING_WAITED_LONG) * 1000;
	uint64_t failed = 0;
	uint64_t batches = 0;
	bool full = false;
	bool refusing = lookout_refusal(writer->lookout) != NULL;
	list_for_each(node, answered) {
		struct request *request = container_of(node, struct request, node);
		tell_whom(writer, request, long_us);
		failed += request->outcome == OUTCOME_FAILED;
		full |= request->outcome == OUTCOME_FAILED &&
			request->failure.code == FAILURE_DISK_LOW && !refusing;
		batches++;
		log_if_slow(request, slow_us);
	}
	writer->full = full;
	if (full && clock_now_us() - writer->full_logged_us >= LOG_AGAIN_US) {
		writer->full_logged_us = clock_now_us();
		log_warn("the disk is full; writes are refused until there is room",
			log_uint("failed", failed));
	}
	pthread_mutex_lock(&writer->lock);
	struct writer_stats *stats = &writer->stats;
	stats->batches += batches;
	stats->failed += failed;
	stats->commits += result->commits;
	stats->replays += result->replays;
	stats->exec_us += result->exec_us;
	stats->commit_us += result->commit_us;
	stats->group_max = batches > stats->group_max ? batches : stats->group_max;
	pthread_mutex_unlock(&writer->lock);
}

/* Frames are built here, so that the loop has nothing left to do but send. */
static void answer(struct writer *writer, struct list *answered)
{
	list_for_each(node, answered) {
		struct request *request = container_of(node, struct request, node);
		if (request->outcome != OUTCOME_OPEN) { /* a task that nobody waits for has none */
			reply_build(request, &writer->facts);
		}
	}
	queue_answer(writer->options.queue, answered);
}

static void date_commit(struct writer *writer)
{
	if (writer->options.gate != NULL) {
		gate_date(writer->options.gate, writer->options.store);
	}
}

static void tell_shipper(struct writer *writer)
{
	if (writer->options.gate != NULL) {
		gate_committed(writer->options.gate, writer->options.store);
	}
}

/* If it is due. */
static void checkpoint(struct writer *writer)
{
	lookout_checkpoint(writer->lookout);
	struct checkpoint_stats stats = store_checkpoint_stats(writer->options.store);
	pthread_mutex_lock(&writer->lock);
	wal_clock_note(&writer->wal_clock, stats.wal_frames, clock_now_us());
	writer->stats.checkpoint = stats;
	pthread_mutex_unlock(&writer->lock);
}

/* Somebody else writes to the file: whoever waits for that is told the pid. */
static void note_busy(struct writer *writer, uint64_t began_us, const char *reason)
{
	char command[SHM_COMMAND_BYTES];
	pthread_mutex_lock(&writer->lock);
	writer->stats.busy++;
	pthread_mutex_unlock(&writer->lock);
	struct holder *holder = holders_extend(
		&writer->holders, "another process", began_us, clock_now_us() + BUSY_PAUSE_US);
	if (holder->pid == 0) {
		holder->pid = shm_foreign_writer(writer->options.db, command);
		memcpy(holder->known.label, command, sizeof(command));
	}
	lookout_busy(writer->lookout, reason);
}

/* A new epoch: the loop tells it to whoever says hello from now on. */
static void note_epoch(struct writer *writer)
{
	if (lookout_epochs(writer->lookout) == writer->epochs_seen) {
		return;
	}
	writer->epochs_seen = lookout_epochs(writer->lookout);
	date_commit(writer);
	tell_shipper(writer);
	checkpoint(writer);
	atomic_store_explicit(
		&writer->commit_no, store_commit_no(writer->options.store), memory_order_release);
	pthread_mutex_lock(&writer->lock);
	memcpy(writer->epoch, store_epoch(writer->options.store), STORE_EPOCH_BYTES);
	pthread_mutex_unlock(&writer->lock);
	atomic_store_explicit(&writer->epochs, writer->epochs_seen, memory_order_release);
	queue_wake(writer->options.queue);
}

/* The database may not be served as it is: whoever waits is told why. */
static void refuse_waiting(struct writer *writer, const char *why)
{
	struct list waiting;
	list_init(&waiting);
	if (queue_take(writer->options.queue, SIZE_MAX, SIZE_MAX, &waiting) > 0) {
		list_for_each(node, &waiting) {
			struct request *request = container_of(node, struct request, node);
			failure_set(&request->failure, FAILURE_FOREIGN_WRITER, "%s", why);
			request->failure.retry_after_ms = STANDING_RETRY_MS;
			request->outcome = OUTCOME_FAILED;
		}
		answer(writer, &waiting);
	}
}

/* Whether the database may be touched now; if not, a little time has passed. */
static bool may_touch(struct writer *writer)
{
	const char *why = NULL;
	lookout_look(writer->lookout);
	bool clear = lookout_clear(writer->lookout, &why);
	note_epoch(writer);
	if (!clear && why != NULL) {
		refuse_waiting(writer, why);
	}
	if (!clear) {
		(void)queue_pause(writer->options.queue, BUSY_PAUSE_US);
	}
	return clear;
}

static void note_commit(struct writer *writer, uint64_t us)
{
	uint64_t lately = commit_lately_us(writer);
	atomic_store_explicit(
		&writer->commit_us, lately - lately / 8 + us / 8, memory_order_relaxed);
}

uint64_t writer_patience_us(const struct writer *writer)
{
	uint64_t us = commit_lately_us(writer);
	return us < PATIENCE_US_MIN ? 0 : us < PATIENCE_US_MAX ? us : PATIENCE_US_MAX;
}

/* One commit group, answered. As group_run(). */
static int run_group(
	struct writer *writer, const struct group_limits *limits, struct group_result *ret_result)
{
	struct list answered;
	struct group_result result;
	char *reason = NULL;
	uint64_t began_us = clock_now_us();
	list_init(&answered);
	apply_limits(writer);
	int rc = group_run(
		writer->options.store, writer->options.queue, limits, &answered, &result, &reason);
	atomic_store_explicit(
		&writer->commit_no, store_commit_no(writer->options.store), memory_order_release);
	if (rc == GROUP_UNKNOWN) {
		writer->options.poisoned(writer->options.ctx, reason);
		abort(); /* it must not return */
	}
	note_turn(writer, began_us, &answered);
	count(writer, &result, &answered);
	if (rc != GROUP_BUSY) {
		lookout_free_again(writer->lookout); /* first: whoever is answered may look */
	}
	if (result.commits > 0) {
		date_commit(writer);
	}
	answer(writer, &answered);
	if (result.commits > 0) {
		note_commit(writer, result.commit_us / result.commits);
		atomic_store_explicit(&writer->unsettled, true, memory_order_relaxed);
		tell_shipper(writer);
	}
	if (rc == GROUP_BUSY) {
		note_busy(writer, began_us, reason);
	}
	free(reason);
	*ret_result = result;
	return rc;
}

static void take_turn(struct writer *writer)
{
	pace_begin(&writer->pace, clock_now_us(), commit_lately_us(writer));
	struct group_limits limits = limits_now(writer);
	struct group_result result;
	limits.refusal = lookout_refusal(writer->lookout);
	int rc = run_group(writer, &limits, &result);
	pace_end(&writer->pace, clock_now_us(), result.exec_us);
	if (writer->full) {
		lookout_met_full(writer->lookout);
	}
	if (rc == GROUP_BUSY) {
		(void)queue_pause(writer->options.queue, BUSY_PAUSE_US);
	} else if (result.commits > 0) {
		checkpoint(writer);
	}
}

/* Whether the writer has something to do after a group that was run in its place. */
static bool leaves_work(struct writer *writer, uint64_t now_us)
{
	uint64_t frames = number(writer, SETTING_CHECKPOINT_FRAMES);
	if (writer->full || store_chunks_stale(writer->options.store)) {
		return true;
	}
	if (now_us < writer->nudge_at_us ||
		!store_checkpoint_is_due(writer->options.store, frames)) {
		return false;
	}
	writer->nudge_at_us = now_us + NUDGE_AGAIN_US;
	return true;
}

struct to_stand_in {
	struct store *store;
	bool compiled;
};

/* What is to be compiled needs the writer's stack. */
static void look_for_text(void *ctx, struct request *request)
{
	struct to_stand_in *to_stand_in = ctx;
	for (size_t i = 0; i < request->steps_count && to_stand_in->compiled; i++) {
		to_stand_in->compiled = store_step_is_compiled(
			to_stand_in->store, request->credentials->role, &request->steps[i]);
	}
}

bool writer_stand_in(struct writer *writer)
{
	struct queue *queue = writer->options.queue;
	struct group_result result;
	uint64_t now_us = clock_now_us();
	if (now_us < writer->stand_in_at_us ||
		!queue_stand_in(queue, STAND_IN_COUNT, STAND_IN_BYTES)) {
		return false;
	}
	struct to_stand_in to_stand_in = {.store = writer->options.store, .compiled = true};
	queue_each(queue, look_for_text, &to_stand_in);
	if (!to_stand_in.compiled || !lookout_quiet(writer->lookout)) {
		queue_step_back(queue); /* whether that still holds is the writer's to see */
		return false;
	}
	struct group_limits limits = limits_now(writer);
	limits.brief = true;
	limits.count_max = STAND_IN_COUNT;
	limits.exec_timeout_us = limits.exec_timeout_us < STAND_IN_EXEC_US ? limits.exec_timeout_us
									   : STAND_IN_EXEC_US;
	int rc = run_group(writer, &limits, &result);
	bool nudge = leaves_work(writer, now_us);
	if (rc != 0 || result.commit_us > STAND_IN_COMMIT_US) {
		writer->stand_in_at_us = now_us + STAND_IN_AGAIN_US;
	}
	queue_step_back(queue);
	if (nudge) {
		queue_nudge(queue);
	}
	return rc == 0;
}

bool writer_settle(struct writer *writer)
{
	bool unsettled = atomic_load_explicit(&writer->unsettled, memory_order_relaxed);
	if (unsettled) {
		queue_nudge(writer->options.queue);
	}
	return unsettled;
}

static void note_chunks(struct writer *writer)
{
	if (writer->options.chunks != NULL) {
		chunk_task_catch_up(writer->options.chunks, writer->options.store);
	}
}

/* What is done when nothing waits. */
static void look_around(struct writer *writer)
{
	lookout_look(writer->lookout);
	note_epoch(writer);
	note_chunks(writer);
	if (writer->full) {
		writer->full = false;
		lookout_met_full(writer->lookout);
	}
	if (writer->options.gate != NULL && queue_is_empty(writer->options.queue)) {
		gate_again(writer->options.gate);
	}
	checkpoint(writer);
	if (atomic_exchange_explicit(&writer->unsettled, false, memory_order_relaxed)) {
		store_settle(writer->options.store);
	}
}

/* One run of a task. It is charged like a batch; what it has committed is settled as theirs is. */
static void run_task(struct writer *writer, struct request *task)
{
	struct store *store = writer->options.store;
	struct list done;
	uint64_t began_us = clock_now_us();
	uint64_t slice_us = number(writer, SETTING_SLICE_MS) * 1000;
	list_init(&done);
	list_push_back(&done, &task->node);
	if (task->taken_us == 0) {
		task->taken_us = began_us;
	}
	tell_whom(writer, task, number(writer, SETTING_WAITED_LONG) * 1000);
	task->task.refusal = lookout_refusal(writer->lookout);
	queue_run(writer->options.queue, task, began_us);
	enum task_end end = task->task.run(task, store, slice_us);
	queue_run(writer->options.queue, NULL, 0);
	if (end == TASK_BUSY) {
		note_busy(writer, began_us, task->failure.message);
	} else if (end == TASK_UNKNOWN) {
		writer->options.poisoned(writer->options.ctx, task->failure.message);
		abort(); /* it must not return */
	}
	uint64_t took_us = clock_now_us() - began_us;
	task->exec_us += took_us;
	task->cost_us += took_us;
	note_turn(writer, began_us, &done);
	bool has_committed = store_commit_no(store) != writer_commit_no(writer);
	atomic_store_explicit(&writer->commit_no, store_commit_no(store), memory_order_release);
	if (has_committed) {
		date_commit(writer);
	}
	if (end == TASK_MORE || end == TASK_BUSY) {
		queue_give_back(writer->options.queue, &done);
	} else {
		answer(writer, &done);
	}
	if (has_committed) {
		atomic_store_explicit(&writer->unsettled, true, memory_order_relaxed);
		tell_shipper(writer);
		checkpoint(writer);
	}
	if (end == TASK_BUSY) {
		(void)queue_pause(writer->options.queue, BUSY_PAUSE_US);
	}
}

/* Works until it is told to stop. */
static void work(struct writer *writer)
{
	look_around(writer); /* the start has committed */
	for (;;) {
		bool rests = store_checkpoint_rests(writer->options.store);
		enum queue_call call =
			queue_wait(writer->options.queue, rests ? REST_LOOK_US : LOOK_US);
		if (call == QUEUE_STOP) {
			return;
		}
		if (call == QUEUE_NUDGED) {
			look_around(writer);
			continue;
		}
		if (call == QUEUE_MIND) {
			loop_mind(writer->options.loop);
			continue;
		}
		if (!may_touch(writer)) {
			continue;
		}
		struct request *task = queue_take_task(writer->options.queue);
		if (task != NULL) {
			run_task(writer, task);
		} else {
			take_turn(writer);
		}
		note_chunks(writer);
		if (store_compiled_long(writer->options.store)) {
			large_stack_trim(&writer->stack);
		}
	}
}

static void *writer_main(void *ctx)
{
	struct writer *writer = ctx;
	work(writer);
	pthread_mutex_lock(&writer->lock);
	writer->ended = true;
	pthread_cond_signal(&writer->at_end);
	pthread_mutex_unlock(&writer->lock);
	return NULL;
}

int writer_start(const struct writer_options *options, struct writer **ret_writer)
{
	struct writer *writer = calloc(1, sizeof(*writer));
	struct lookout_options lookout = {options->store, options->config, options->db,
		options->reserve, options->gate, options->poisoned, options->ctx};
	pthread_condattr_t monotonic;
	sigset_t all;
	sigset_t before;
	if (writer == NULL || lookout_new(&lookout, &writer->lookout) < 0) {
		free(writer);
		return -ENOMEM;
	}
	writer->options = *options;
	writer->facts = (struct reply_facts){
		.epoch = store_epoch(options->store),
		.durability = store_sync_full(options->store) ? "full" : "normal",
	};
	writer->commit_no = store_commit_no(options->store);
	writer->unsettled = true;
	queue_gather(options->queue, STAND_IN_COUNT + 1);
	if (options->gate != NULL) {
		gate_committed(options->gate, options->store);
	}
	pthread_mutex_init(&writer->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&writer->at_end, &monotonic);
	pthread_condattr_destroy(&monotonic);
	sigfillset(&all); /* signals are the loop's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = large_stack_start(&writer->stack, &writer->thread, writer_main, writer);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0) {
		writer_free(writer);
		return rc;
	}
	pthread_setname_np(writer->thread, "writer");
	*ret_writer = writer;
	return 0;
}

int writer_join(struct writer *writer, uint64_t timeout_ms)
{
	struct timespec until;
	/* The thread says itself that it ends: pthread_timedjoin_np() knows only the wall clock. */
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(timeout_ms / 1000);
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	int rc = 0;
	pthread_mutex_lock(&writer->lock);
	while (!writer->ended && rc != ETIMEDOUT) {
		rc = pthread_cond_timedwait(&writer->at_end, &writer->lock, &until);
	}
	bool ended = writer->ended;
	pthread_mutex_unlock(&writer->lock);
	return ended ? -pthread_join(writer->thread, NULL) : -ETIMEDOUT;
}

void writer_free(struct writer *writer)
{
	if (writer != NULL) {
		pthread_cond_destroy(&writer->at_end);
		pthread_mutex_destroy(&writer->lock);
		lookout_free(writer->lookout);
		large_stack_free(&writer->stack);
		free(writer);
	}
}

struct writer_stats writer_stats(struct writer *writer)
{
	pthread_mutex_lock(&writer->lock);
	struct writer_stats stats = writer->stats;
	pthread_mutex_unlock(&writer->lock);
	stats.commit_no = writer_commit_no(writer);
	stats.lookout = lookout_facts(writer->lookout);
	return stats;
}

uint64_t writer_wal_age(struct writer *writer, uint64_t frame)
{
	pthread_mutex_lock(&writer->lock);
	uint64_t age_us = wal_clock_age(&writer->wal_clock, frame, clock_now_us());
	pthread_mutex_unlock(&writer->lock);
	return age_us;
}

bool writer_epoch(struct writer *writer, uint64_t *epochs, uint8_t *ret_epoch)
{
	uint64_t now = atomic_load_explicit(&writer->epochs, memory_order_acquire);
	if (now == *epochs) {
		return false;
	}
	*epochs = now;
	pthread_mutex_lock(&writer->lock);
	memcpy(ret_epoch, writer->epoch, STORE_EPOCH_BYTES);
	pthread_mutex_unlock(&writer->lock);
	return true;
}

void writer_trouble(struct writer *writer, char ret_text[LOOKOUT_TEXT_BYTES])
{
	struct lookout_facts facts = lookout_facts(writer->lookout);
	memcpy(ret_text, facts.trouble, LOOKOUT_TEXT_BYTES);
}

uint64_t writer_commit_no(const struct writer *writer)
{
	return atomic_load_explicit(
		&((struct writer *)(uintptr_t)writer)->commit_no, memory_order_acquire);
}
