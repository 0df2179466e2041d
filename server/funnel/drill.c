/* SPDX-License-Identifier: MIT */

/*
 * The way of a drill:
 *
 *	IDLE ──due, or asked for──▶ CUTTING ──a segment is cut──▶ MARKING ──the file stands still──▶
 *	HASHING ──its digest──▶ RELEASING ──checkpoints go on──▶ SHIPPING ──the replica has it──▶
 *	RESTORING ──a verdict──▶ RECORDING ──it is in the database──▶ IDLE
 *
 * From every state it may go to RECORDING at once, with `inconclusive` and the reason. What is kept
 * true: checkpoints are held back in HASHING and RELEASING only; a child never outlives its drill; a
 * drill that a stop interrupts leaves no verdict.
 */

#include "server/funnel/drill.h"

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/funnel/drill_process.h"
#include "server/funnel/drill_schedule.h"
#include "server/funnel/drill_task.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_US      (20ull * 1000)
#define SLOW_POLL_US (1000ull * 1000)
#define SLEEP_US     (3600ull * 1000 * 1000)
#define AGAIN_US     (100ull * 1000)
#define MARK_US      (600ull * 1000 * 1000) /* until the file stands still */
#define FAILING_US   (60ull * 1000 * 1000)  /* a replica that fails so long is not waited for */
#define PATIENCE_US  (10ull * 1000 * 1000)  /* for a moment in which there is little to copy */
#define HOLD_US      (50ull * 1000)
#define HOLD_US_MAX  (400ull * 1000)
#define DRILL_PEER   (TASK_PEER | (TASK_PEER >> 1))

enum {
	RECORD_TRIES = 30,
	LITTLE_PART = 8, /* of checkpoint_frames */
	LITTLE_MIN = 100,
	MUCH_MIN = 1000, /* a smaller checkpoint_frames would be met by few moments */
};

enum drill_state {
	DRILL_IDLE,
	DRILL_CUTTING,
	DRILL_MARKING,
	DRILL_HASHING,
	DRILL_RELEASING,
	DRILL_SHIPPING,
	DRILL_RESTORING,
	DRILL_RECORDING,
};

static const char *const state_names[] = {
	"idle", "cutting", "marking", "hashing", "releasing", "shipping", "restoring", "recording"};

struct drill_desk {
	struct drill_desk_options options;
	enum drill_state state;
	bool closed;
	uint64_t started_us;
	struct loop_timer *timer;
	struct drill_waits waits;
	struct drill_memory memory;
	struct drill_facts facts;

	/* The drill under way. */
	size_t replica;
	uint64_t began_us;
	uint64_t cut_commit;
	uint64_t retry_us; /* not before */
	uint64_t marked_us;
	char why[DRILL_ERROR_BYTES]; /* the file does not stand still yet */
	bool undecided;              /* it ends once checkpoints go on again */
	unsigned record_tries;
	bool queued; /* the task is in the queue */
	struct drill_task task;
	struct drill_process process;
	struct drill_order order;
	struct drill_record record;
};

static uint64_t setting(const struct drill_desk *desk, enum setting_id id)
{
	return config_number(desk->options.config, id);
}

static int64_t now_ms(void)
{
	return (int64_t)(clock_wall_us() / 1000);
}

/* ---- turns of the writer ---- */

static void task_ended(struct request *request)
{
	struct drill_task *task = request->task.ctx;
	struct drill_desk *desk = container_of(task, struct drill_desk, task);
	desk->queued = false;
	if (!desk->closed) {
		loop_timer_start(desk->timer, 1); /* not here: the caller still holds it */
	}
}

/*
 * A checkpoint leaves little to be copied, so with some patience a better moment comes; but never
 * more than what a checkpoint has that is made in time.
 */
static uint64_t frames_most(const struct drill_desk *desk)
{
	uint64_t due = setting(desk, SETTING_CHECKPOINT_FRAMES);
	bool patient = clock_now_us() - desk->began_us < PATIENCE_US;
	uint64_t most = patient ? due / LITTLE_PART : due;
	uint64_t least = patient ? LITTLE_MIN : MUCH_MIN;
	return most > least ? most : least;
}

/* False: not now. */
static bool push(struct drill_desk *desk,
	enum task_end (*run)(struct request *request, struct store *store, uint64_t budget_us))
{
	void *room = NULL;
	struct queue_limits limits = {
		setting(desk, SETTING_QUEUE_MAX), setting(desk, SETTING_QUEUE_BYTES_MAX)};
	struct request *request = request_new(REQUEST_TASK, 0, &room);
	if (request == NULL) {
		return false;
	}
	request->peer_id = DRILL_PEER;
	request->class = CLASS_INTERACTIVE;
	request->identity.uid = (uint32_t)geteuid();
	request->credentials = credentials_of_uid(geteuid(), ROLE_ADMIN);
	request->received_us = clock_now_us();
	request->deadline_us = UINT64_MAX;
	request->task = (struct task){.what = "drill", .run = run, .ctx = &desk->task};
	desk->task.gate = desk->options.gate;
	desk->task.board = desk->options.board;
	desk->task.record = &desk->record;
	desk->task.frames_due = setting(desk, SETTING_CHECKPOINT_FRAMES);
	desk->task.frames_most = frames_most(desk);
	desk->task.end = DRILL_TASK_LATER;
	snprintf(desk->task.why, sizeof(desk->task.why), "the writer had no turn for it");
	if (request->credentials == NULL ||
		queue_push(desk->options.queue, request, &limits) != 0) {
		request_free(request);
		return false;
	}
	request->task.ended = task_ended; /* from here on it is counted */
	desk->queued = true;
	return true;
}

/* ---- the end of a drill ---- */

static void move(struct drill_desk *desk, enum drill_state state)
{
	assert(!desk->queued);
	desk->state = state;
	desk->retry_us = 0;
}

__attribute__((format(printf, 3, 4))) static void decide(
	struct drill_desk *desk, enum drill_verdict verdict, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	desk->record.verdict = verdict;
	vsnprintf(desk->record.reason, sizeof(desk->record.reason), format, args);
	va_end(args);
}

static void conclude(struct drill_desk *desk)
{
	drill_process_end(&desk->process);
	gate_let_go(desk->options.gate);
	desk->record.ended_ms = now_ms();
	desk->record_tries = 0;
	move(desk, DRILL_RECORDING);
}

static void log_verdict(const struct drill_record *record)
{
	const struct log_field *fields = LOG_FIELDS(
		log_str("verdict", drill_verdict_name(record->verdict)),
		log_str("reason", record->reason), log_str("replica", record->replica),
		log_uint("commit", record->commit_no), log_uint("segment", record->txid),
		log_uint("behind", record->behind), log_int("rpo_ms", record->rpo_ms),
		log_int("rto_ms", record->rto_ms), log_uint("bytes", record->database_bytes));
	log_write(record->verdict == DRILL_PASS         ? LOG_LEVEL_INFO
			: record->verdict == DRILL_FAIL ? LOG_LEVEL_ERROR
							: LOG_LEVEL_WARN,
		"drill", fields);
}

static void finish(struct drill_desk *desk)
{
	log_verdict(&desk->record);
	desk->facts.count[desk->record.verdict]++;
	drill_memory_add(&desk->memory, &desk->record);
	move(desk, DRILL_IDLE);
	drill_waits_tell(&desk->waits, desk->replica, desk->began_us, &desk->record);
}

/* ---- the states ---- */

/* What is pending goes into a segment before the writer waits for one: then that is short. */
static void ask_for_cut(struct drill_desk *desk)
{
	struct notice notice;
	(void)board_notice(desk->options.board, &notice);
	desk->cut_commit = notice.commit_no;
	board_want_shipped(desk->options.board, desk->cut_commit);
	board_wake_shipper(desk->options.board);
	move(desk, DRILL_CUTTING);
}

static void begin(struct drill_desk *desk, size_t replica, bool scheduled)
{
	pid_t pid = 0;
	int fd = -1;
	desk->replica = replica;
	desk->began_us = clock_now_us();
	desk->undecided = false;
	desk->task.hold_us = HOLD_US;
	desk->task.neared = false;
	desk->task.seen_commit = 0;
	desk->why[0] = 0;
	memset(&desk->record, 0, sizeof(desk->record));
	desk->record.scheduled = scheduled;
	desk->record.began_ms = now_ms();
	drill_measure_lag(desk->options.board, desk->options.gate, replica, &desk->record);
	ask_for_cut(desk);
	int rc = desk->options.start(desk->options.start_ctx, &pid, &fd);
	rc = rc == 0 ? drill_process_take(&desk->process, pid, fd) : rc;
	if (rc != 0) {
		decide(desk, DRILL_INCONCLUSIVE, "its process cannot be started: %s",
			strerror(-rc));
		conclude(desk);
	}
}

static uint64_t next_us(struct drill_desk *desk, size_t *ret_replica)
{
	return drill_next(desk->options.config, desk->options.board, desk->started_us,
		&desk->memory, ret_replica);
}

static void step_idle(struct drill_desk *desk)
{
	size_t replica = 0;
	for (size_t i = 0; i < NOTICE_REPLICAS_MAX; i++) {
		if (drill_waits_want(&desk->waits, i)) {
			begin(desk, i, false);
			return;
		}
	}
	if (next_us(desk, &replica) == 0) {
		begin(desk, replica, true);
	}
}

static void step_cutting(struct drill_desk *desk)
{
	uint64_t now_us = clock_now_us();
	struct ship_report ship = board_ship_report(desk->options.board);
	struct replica_report report = board_replica_report(desk->options.board, desk->replica);
	if (now_us < desk->retry_us) {
		return;
	}
	memcpy(desk->record.replica, report.url, sizeof(desk->record.replica));
	if (report.url[0] != 0 && ship.known && ship.chained &&
		ship.cut_commit >= desk->cut_commit) {
		desk->retry_us = now_us + AGAIN_US;
		if (push(desk, drill_task_mark)) {
			desk->state = DRILL_MARKING;
		}
	} else if (now_us - desk->began_us > MARK_US) {
		decide(desk, DRILL_INCONCLUSIVE, "no segment ends at a commit of now: %s",
			ship.trouble[0] != 0 ? ship.trouble : "the shipper is late");
		conclude(desk);
	}
}

static int order_hash(struct drill_desk *desk)
{
	struct drill_order *order = &desk->order;
	memset(order, 0, sizeof(*order));
	order->step = DRILL_STEP_HASH;
	snprintf(order->db, sizeof(order->db), "%s", desk->options.db);
	return drill_process_order(&desk->process, order);
}

static void step_marking(struct drill_desk *desk)
{
	if (desk->queued) {
		return;
	}
	if (desk->task.held_us > desk->facts.held_max_us) {
		desk->facts.held_max_us = desk->task.held_us;
	}
	if (desk->task.end == DRILL_TASK_DONE) {
		desk->marked_us = clock_now_us();
		desk->record.commit_no = desk->task.commit_no;
		desk->why[0] = 0;
		move(desk, DRILL_HASHING);
		int rc = order_hash(desk);
		if (rc != 0) {
			decide(desk, DRILL_INCONCLUSIVE, "its process is gone: %s", strerror(-rc));
			conclude(desk);
		}
		return;
	}
	if (desk->task.end == DRILL_TASK_NEARER) {
		ask_for_cut(desk);
		return;
	}
	memcpy(desk->why, desk->task.why, sizeof(desk->why));
	if (clock_now_us() - desk->began_us > MARK_US) {
		decide(desk, DRILL_INCONCLUSIVE, "the database's file did not stand still: %s",
			desk->task.why);
		conclude(desk);
		return;
	}
	if (desk->task.end == DRILL_TASK_CROWDED) {
		move(desk, DRILL_CUTTING);
		desk->retry_us = clock_now_us() + AGAIN_US;
		return;
	}
	desk->task.hold_us *= desk->task.hold_us < HOLD_US_MAX ? 2 : 1;
	ask_for_cut(desk);
	desk->retry_us = clock_now_us() + AGAIN_US;
}

static void begin_release(struct drill_desk *desk)
{
	if (push(desk, drill_task_release)) {
		desk->state = DRILL_RELEASING;
	} else {
		decide(desk, DRILL_INCONCLUSIVE, "the queue is full");
		conclude(desk);
	}
}

/* Checkpoints are held back, and that may not go on for ever. */
static bool holds_too_long(struct drill_desk *desk)
{
	struct writer_stats stats = desk->options.stats(desk->options.ctx);
	struct notice notice;
	(void)board_notice(desk->options.board, &notice);
	uint64_t bytes = stats.checkpoint.wal_frames * notice.page_size;
	if (stats.lookout.disk_low) {
		decide(desk, DRILL_INCONCLUSIVE, "the disk is full");
	} else if (bytes > drill_wal_bytes_max(desk->options.config, desk->options.board)) {
		decide(desk, DRILL_INCONCLUSIVE,
			"the WAL grew to %llu MiB while the database was read: too much is written",
			(unsigned long long)(bytes >> 20));
	} else {
		return false;
	}
	return true;
}

static void step_hashing(struct drill_desk *desk)
{
	const struct drill_report *report = &desk->process.report;
	if (desk->process.reported) {
		desk->undecided = report->verdict != DRILL_PASS;
		if (desk->undecided) {
			decide(desk, DRILL_INCONCLUSIVE, "the live database: %s", report->reason);
		}
		desk->record.has_digest = !desk->undecided;
		memcpy(desk->record.digest, report->digest, DRILL_DIGEST_BYTES);
		begin_release(desk);
	} else if (desk->process.ended) {
		decide(desk, DRILL_INCONCLUSIVE, "its process has died");
		conclude(desk);
	} else if (holds_too_long(desk)) {
		conclude(desk);
	}
}

static void step_releasing(struct drill_desk *desk)
{
	if (desk->queued) {
		return;
	}
	if (!desk->undecided && (desk->task.end != DRILL_TASK_DONE || !desk->task.sound)) {
		desk->undecided = true;
		decide(desk, DRILL_INCONCLUSIVE,
			"another process has written to the database meanwhile");
	}
	if (desk->undecided) {
		desk->record.has_digest = false;
		conclude(desk);
	} else {
		move(desk, DRILL_SHIPPING);
	}
}

static int order_restore(struct drill_desk *desk)
{
	struct drill_order *order = &desk->order;
	memset(order, 0, sizeof(*order));
	order->step = DRILL_STEP_RESTORE;
	order->commit_no = desk->record.commit_no;
	memcpy(order->digest, desk->record.digest, DRILL_DIGEST_BYTES);
	int rc = drill_fill_order(
		desk->options.config, desk->replica, desk->options.db, desk->options.spool, order);
	return rc == 0 ? drill_process_order(&desk->process, order) : rc;
}

static void step_shipping(struct drill_desk *desk)
{
	struct replica_report report = board_replica_report(desk->options.board, desk->replica);
	int64_t failing_ms = report.failing_since_ms > 0 ? now_ms() - report.failing_since_ms : 0;
	if (report.state == REPLICA_REFUSED || report.gone ||
		failing_ms * 1000 > (int64_t)FAILING_US) {
		decide(desk, DRILL_INCONCLUSIVE, "the replica does not get commit %llu: %s",
			(unsigned long long)desk->record.commit_no, report.error);
		conclude(desk);
	} else if (report.commit_no >= desk->record.commit_no) {
		desk->record.ship_ms = (int64_t)((clock_now_us() - desk->marked_us) / 1000);
		move(desk, DRILL_RESTORING);
		int rc = order_restore(desk);
		if (rc != 0) {
			decide(desk, DRILL_INCONCLUSIVE, "its process: %s", strerror(-rc));
			conclude(desk);
		}
	}
}

static void step_restoring(struct drill_desk *desk)
{
	const struct drill_report *report = &desk->process.report;
	struct drill_record *record = &desk->record;
	if (!desk->process.reported && !desk->process.ended) {
		return;
	}
	if (!desk->process.reported) {
		decide(desk, DRILL_INCONCLUSIVE,
			"its process has died (of want of memory, or by another's hand)");
		conclude(desk);
		return;
	}
	decide(desk, report->verdict, "%s", report->reason);
	record->txid = report->txid;
	record->rto_ms = report->rto_ms;
	record->bytes = report->bytes;
	record->database_bytes = report->database_bytes;
	record->violations = report->violations;
	record->assertions = report->assertions;
	memcpy(record->tables, report->tables, sizeof(record->tables));
	if (report->heartbeat_error[0] != 0) {
		log_warn("the heartbeat of a drill failed",
			log_str("error", report->heartbeat_error));
	}
	conclude(desk);
}

static void step_recording(struct drill_desk *desk)
{
	if (desk->queued || clock_now_us() < desk->retry_us) {
		return;
	}
	if (desk->record_tries > 0 && desk->task.end == DRILL_TASK_DONE) {
		finish(desk);
	} else if (desk->record_tries == RECORD_TRIES) {
		log_error("a drill cannot be recorded", log_str("error", desk->task.why));
		finish(desk);
	} else {
		desk->retry_us = desk->record_tries > 0 ? clock_now_us() + SLOW_POLL_US : 0;
		desk->record_tries += push(desk, drill_task_record);
	}
}

static void step(struct drill_desk *desk)
{
	static void (*const steps[])(struct drill_desk * desk) = {
		[DRILL_IDLE] = step_idle,
		[DRILL_CUTTING] = step_cutting,
		[DRILL_MARKING] = step_marking,
		[DRILL_HASHING] = step_hashing,
		[DRILL_RELEASING] = step_releasing,
		[DRILL_SHIPPING] = step_shipping,
		[DRILL_RESTORING] = step_restoring,
		[DRILL_RECORDING] = step_recording,
	};
	bool under_way = desk->state != DRILL_IDLE && desk->state != DRILL_RECORDING;
	uint64_t limit_us = setting(desk, SETTING_DRILL_TIMEOUT) * 1000;
	if (under_way && !desk->queued && clock_now_us() - desk->began_us > limit_us) {
		decide(desk, DRILL_INCONCLUSIVE, "it was still %s after drill_timeout (%llu s)",
			state_names[desk->state], (unsigned long long)(limit_us / 1000000));
		conclude(desk);
		return;
	}
	steps[desk->state](desk);
}

static uint64_t sleep_us(struct drill_desk *desk)
{
	size_t replica = 0;
	if (desk->state == DRILL_IDLE) {
		uint64_t due_us = next_us(desk, &replica);
		return due_us < SLEEP_US ? due_us : SLEEP_US;
	}
	bool polls = desk->state == DRILL_CUTTING || desk->state == DRILL_HASHING ||
		desk->state == DRILL_SHIPPING;
	return polls ? POLL_US : SLOW_POLL_US;
}

void drill_desk_turn(struct drill_desk *desk)
{
	enum drill_state before;
	drill_waits_expire(&desk->waits, clock_now_us());
	do {
		before = desk->state;
		step(desk);
	} while (desk->state != before && !desk->closed);
	if (!desk->closed) {
		loop_timer_start(desk->timer, sleep_us(desk) + 1);
	}
}

/* ---- life ---- */

static void process_news(void *ctx)
{
	struct drill_desk *desk = ctx;
	loop_timer_start(desk->timer, 1);
}

int drill_desk_new(const struct drill_desk_options *options, struct drill_desk **ret_desk)
{
	struct drill_desk *desk = calloc(1, sizeof(*desk));
	struct store_error error = {.row = -1};
	if (desk == NULL) {
		return -ENOMEM;
	}
	desk->options = *options;
	desk->started_us = clock_now_us();
	desk->process = (struct drill_process){
		.loop = options->loop, .news = process_news, .ctx = desk, .fd = -1};
	list_init(&desk->waits.list);
	desk->waits.answered = options->answered;
	desk->waits.ctx = options->ctx;
	desk->timer = loop_timer_new(options->loop, options->due, options->ctx);
	if (desk->timer == NULL) {
		drill_desk_free(desk);
		return -ENOMEM;
	}
	if (drill_memory_load(&desk->memory, options->store, &error) != 0) {
		log_warn("the drills of before cannot be read", log_str("error", error.message));
		store_error_clear(&error);
	}
	loop_timer_start(desk->timer, 1);
	*ret_desk = desk;
	return 0;
}

void drill_desk_free(struct drill_desk *desk)
{
	if (desk == NULL) {
		return;
	}
	drill_process_end(&desk->process);
	list_for_each_safe(node, &desk->waits.list) {
		request_free(container_of(node, struct request, node));
	}
	drill_memory_finish(&desk->memory);
	loop_timer_free(desk->timer);
	free(desk);
}

void drill_desk_reload(struct drill_desk *desk)
{
	if (!desk->closed) {
		loop_timer_start(desk->timer, 1);
	}
}

void drill_desk_close(struct drill_desk *desk)
{
	desk->closed = true;
	loop_timer_stop(desk->timer);
	drill_process_end(&desk->process);
	gate_let_go(desk->options.gate);
	drill_waits_refuse(&desk->waits, FAILURE_SHUTTING_DOWN,
		"the daemon is shutting down; the drill was ended");
}

void drill_desk_forget(struct drill_desk *desk, uint64_t peer_id)
{
	drill_waits_forget(&desk->waits, peer_id);
}

bool drill_desk_hold(struct drill_desk *desk, struct request *request, struct drill_ask *ask,
	struct failure *failure)
{
	if (desk->closed) {
		failure_set(failure, FAILURE_SHUTTING_DOWN, "the daemon is shutting down");
		failure->retry_after_ms = 200;
		return false;
	}
	*ask = (struct drill_ask){0};
	for (size_t i = 0; i < drill_replicas(desk->options.config); i++) {
		ask->left[i] = true;
	}
	drill_waits_add(&desk->waits, request, ask);
	loop_timer_start(desk->timer, 1); /* not here: the caller still holds it */
	return true;
}

struct drill_facts drill_desk_facts(const struct drill_desk *desk)
{
	struct drill_facts facts = desk->facts;
	facts.state = state_names[desk->state];
	facts.waits_for =
		desk->state == DRILL_CUTTING || desk->state == DRILL_MARKING ? desk->why : "";
	facts.last = desk->memory.last;
	facts.last_pass = desk->memory.last_pass;
	return facts;
}

void drill_desk_each(struct drill_desk *desk,
	void (*fn)(void *ctx, const struct drill_record *record), void *ctx)
{
	for (size_t i = 0; i < desk->memory.count; i++) {
		fn(ctx, desk->memory.kept[i]);
	}
}
