/* SPDX-License-Identifier: MIT */

/*
 * The loop's side of chunks. It keeps true: a chunk that runs has exactly one task in the queue, but
 * for the time that its rate, or a fault, makes it wait; then a timer brings it back.
 */

#include "server/funnel/chunk.h"

#include "server/base/clock.h"
#include "server/funnel/chunk_task.h"
#include "server/funnel/reply.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	TELL_US = 200000,  /* between two notices of progress */
	RETRY_US = 100000, /* when the queue was full */
};

struct chunk_desk {
	struct chunk_desk_options options;
	struct chunk_board board;
	struct list waiting; /* requests that are held */
	struct loop_timer *timer;
	bool closed;
};

int chunk_desk_new(const struct chunk_desk_options *options, struct chunk_desk **ret_desk)
{
	struct chunk_desk *desk = calloc(1, sizeof(*desk));
	if (desk == NULL) {
		return -ENOMEM;
	}
	desk->options = *options;
	board_init(&desk->board);
	list_init(&desk->waiting);
	desk->timer = loop_timer_new(options->loop, options->due, options->ctx);
	if (desk->timer == NULL) {
		chunk_desk_free(desk);
		return -ENOMEM;
	}
	board_publish(&desk->board, options->store);
	*ret_desk = desk;
	return 0;
}

void chunk_desk_free(struct chunk_desk *desk)
{
	if (desk == NULL) {
		return;
	}
	list_for_each_safe(node, &desk->waiting) {
		request_free(container_of(node, struct request, node));
	}
	loop_timer_free(desk->timer);
	board_finish(&desk->board);
	free(desk);
}

struct chunk_board *chunk_desk_board(struct chunk_desk *desk)
{
	return &desk->board;
}

void chunk_desk_each(
	struct chunk_desk *desk, void (*fn)(void *ctx, const struct chunk_view *view), void *ctx)
{
	pthread_mutex_lock(&desk->board.lock);
	list_for_each(node, &desk->board.entries) {
		fn(ctx, &container_of(node, struct chunk_entry, node)->view);
	}
	pthread_mutex_unlock(&desk->board.lock);
}

/* ---- tasks ---- */

static void slice_ended(struct request *request)
{
	struct chunk_run *run = request->task.ctx;
	pthread_mutex_lock(&run->board->lock);
	struct chunk_entry *entry = board_find(run->board, run->id);
	if (entry != NULL) {
		entry->queued = false;
	}
	pthread_mutex_unlock(&run->board->lock);
}

static void slice_killed(struct request *request)
{
	chunk_run_wish(request->task.ctx, WISH_END);
}

/* As many bytes of a text as fit, whole characters. */
static void copy_label(char *to, size_t size, const char *name)
{
	size_t len = strlen(name);
	if (len >= size) {
		len = size - 1;
		while (len > 0 && ((unsigned char)name[len] & 0xc0) == 0x80) {
			len--;
		}
	}
	memcpy(to, name, len);
	to[len] = 0;
}

/* Puts the task of a chunk into the queue. With the board's lock held. False: not now. */
static bool push(struct chunk_desk *desk, struct chunk_entry *entry)
{
	void *room = NULL;
	const struct config *config = desk->options.config;
	struct queue_limits limits = {config_number(config, SETTING_QUEUE_MAX),
		config_number(config, SETTING_QUEUE_BYTES_MAX)};
	size_t sql_len = strlen(entry->sql);
	struct request *request =
		request_new(REQUEST_TASK, sizeof(struct chunk_run) + sql_len, &room);
	if (request == NULL) {
		return false;
	}
	struct chunk_run *run = room;
	*run = (struct chunk_run){.board = &desk->board, .id = entry->view.facts.id};
	request->peer_id = TASK_PEER + run->id;
	request->class = CLASS_BULK;
	request->identity.uid = entry->view.facts.uid;
	request->credentials = credentials_of_uid(entry->view.facts.uid, ROLE_WRITE);
	request->received_us = clock_now_us();
	request->deadline_us = UINT64_MAX;
	memcpy(run + 1, entry->sql, sql_len);
	request->task = (struct task){.what = "chunk",
		.run = chunk_task_slice,
		.interrupt = slice_killed,
		.ctx = run,
		.text = {run + 1, sql_len}};
	if (request->credentials != NULL) {
		copy_label(request->credentials->label, sizeof(request->credentials->label),
			entry->name);
	}
	if (request->credentials == NULL ||
		queue_push(desk->options.queue, request, &limits) != 0) {
		request_free(request);
		return false;
	}
	request->task.ended = slice_ended; /* from here on it is counted */
	entry->queued = true;
	return true;
}

/* Queues what is due. When to look again: UINT64_MAX for never. */
static uint64_t queue_due(struct chunk_desk *desk)
{
	uint64_t now_us = clock_now_us();
	uint64_t again_us = UINT64_MAX;
	pthread_mutex_lock(&desk->board.lock);
	desk->board.slice_timeout_us =
		config_number(desk->options.config, SETTING_EXEC_TIMEOUT) * 1000;
	list_for_each(node, &desk->board.entries) {
		struct chunk_entry *entry = container_of(node, struct chunk_entry, node);
		uint64_t due_us = entry->view.facts.due_us;
		if (!chunk_view_is_running(&entry->view) || entry->queued || entry->orders > 0 ||
			desk->closed) {
			continue;
		}
		if (due_us <= now_us) {
			due_us = push(desk, entry) ? UINT64_MAX : now_us + RETRY_US;
		}
		again_us = due_us < again_us ? due_us : again_us;
	}
	pthread_mutex_unlock(&desk->board.lock);
	return again_us;
}

/* ---- waiting ---- */

static struct chunk_ask *ask_of(const struct request *request)
{
	return request->task.ctx;
}

/* The answer to a wait, if the chunk is over or the time is. With the lock held. */
static bool decide(const struct request *request, const struct chunk_entry *entry, uint64_t now_us,
	struct buffer *out)
{
	bool moves = entry != NULL && entry->view.facts.state == CHUNK_RUNNING;
	if (moves && now_us < ask_of(request)->until_us) {
		return false;
	}
	if (entry == NULL) {
		struct failure failure;
		failure_init(&failure);
		failure_set(&failure, FAILURE_NOT_FOUND, "the chunk is forgotten");
		reply_error(out, request->id, &failure);
		failure_clear(&failure);
		return true;
	}
	size_t mark = message_begin_result(out, request->id);
	chunk_pack(out, &entry->view);
	frame_end(out, mark);
	return true;
}

static void tell(struct chunk_desk *desk, struct request *request, const struct chunk_entry *entry,
	uint64_t now_us)
{
	struct chunk_ask *ask = ask_of(request);
	struct peer *peer = desk->options.peer(desk->options.ctx, request->peer_id);
	if (peer == NULL || peer->state >= PEER_CLOSING || now_us < ask->told_us + TELL_US) {
		return;
	}
	ask->told_us = now_us;
	size_t mark = message_begin_notice(&peer->out, "progress");
	chunk_pack(&peer->out, &entry->view);
	frame_end(&peer->out, mark);
	desk->options.touched(desk->options.ctx, peer);
}

/* Answers waits that are over, tells the others. When to look again. */
static uint64_t look_at_waiting(struct chunk_desk *desk)
{
	uint64_t now_us = clock_now_us();
	uint64_t again_us = UINT64_MAX;
	struct list over;
	list_init(&over);
	pthread_mutex_lock(&desk->board.lock);
	list_for_each_safe(node, &desk->waiting) {
		struct request *request = container_of(node, struct request, node);
		const struct chunk_entry *entry = board_find(&desk->board, ask_of(request)->id);
		if (decide(request, entry, now_us, &request->reply)) {
			list_remove(node);
			list_push_back(&over, node);
			continue;
		}
		tell(desk, request, entry, now_us);
		uint64_t next_us = now_us + TELL_US < ask_of(request)->until_us
			? now_us + TELL_US
			: ask_of(request)->until_us;
		again_us = next_us < again_us ? next_us : again_us;
	}
	pthread_mutex_unlock(&desk->board.lock);
	list_for_each_safe(node, &over) {
		list_remove(node);
		desk->options.answered(desk->options.ctx, container_of(node, struct request, node));
	}
	return again_us;
}

void chunk_desk_turn(struct chunk_desk *desk)
{
	uint64_t due_us = queue_due(desk);
	uint64_t again_us = look_at_waiting(desk);
	uint64_t next_us = due_us < again_us ? due_us : again_us;
	uint64_t now_us = clock_now_us();
	if (next_us != UINT64_MAX) {
		loop_timer_start(desk->timer, next_us > now_us ? next_us - now_us : 1);
	}
}

void chunk_desk_close(struct chunk_desk *desk)
{
	desk->closed = true;
	pthread_mutex_lock(&desk->board.lock);
	desk->board.closed = true;
	pthread_mutex_unlock(&desk->board.lock);
	list_for_each_safe(node, &desk->waiting) {
		struct request *request = container_of(node, struct request, node);
		list_remove(node);
		failure_set(&request->failure, FAILURE_SHUTTING_DOWN,
			"the daemon is shutting down; the chunk goes on when it is back");
		request->failure.retry_after_ms = 200;
		reply_error(&request->reply, request->id, &request->failure);
		desk->options.answered(desk->options.ctx, request);
	}
}

void chunk_desk_forget(struct chunk_desk *desk, uint64_t peer_id)
{
	list_for_each_safe(node, &desk->waiting) {
		struct request *request = container_of(node, struct request, node);
		if (request->peer_id == peer_id) {
			request_free(request);
		}
	}
}

static void order_ended(struct request *request)
{
	const struct chunk_ask *ask = ask_of(request);
	struct chunk_desk *desk = container_of(ask->board, struct chunk_desk, board);
	pthread_mutex_lock(&desk->board.lock);
	struct chunk_entry *entry = board_find(&desk->board, ask->id);
	if (entry != NULL && entry->orders > 0) {
		entry->orders--;
	}
	pthread_mutex_unlock(&desk->board.lock);
	loop_timer_start(desk->timer, 1); /* it may go on, if the order came to nothing */
}

void chunk_desk_hurry(struct chunk_desk *desk, struct request *order, const struct request *running)
{
	struct chunk_ask *ask = ask_of(order);
	if (ask->op != CHUNK_OP_PAUSE && ask->op != CHUNK_OP_CANCEL) {
		return;
	}
	pthread_mutex_lock(&desk->board.lock);
	struct chunk_entry *entry = board_find_name(
		&desk->board, order->identity.uid, ask->any, ask->name.data, ask->name.len);
	if (entry != NULL) {
		ask->id = entry->view.facts.id;
		entry->orders++;
		order->task.ended = order_ended;
	}
	pthread_mutex_unlock(&desk->board.lock);
	if (entry != NULL && running != NULL && running->task.run == chunk_task_slice &&
		((const struct chunk_run *)running->task.ctx)->id == ask->id) {
		chunk_run_wish(running->task.ctx, WISH_STEP_ASIDE);
	}
}

bool chunk_desk_holds(const struct request *request)
{
	return request->kind == REQUEST_TASK && request->task.run == NULL;
}

bool chunk_desk_hold(struct chunk_desk *desk, struct request *request, struct failure *failure)
{
	struct chunk_ask *ask = ask_of(request);
	if (desk->closed) {
		failure_set(failure, FAILURE_SHUTTING_DOWN, "the daemon is shutting down");
		return false;
	}
	pthread_mutex_lock(&desk->board.lock);
	const struct chunk_entry *entry = board_find_name(
		&desk->board, request->identity.uid, ask->any, ask->name.data, ask->name.len);
	ask->id = entry != NULL ? entry->view.facts.id : 0;
	pthread_mutex_unlock(&desk->board.lock);
	if (entry == NULL) {
		failure_set(failure, FAILURE_NOT_FOUND, "there is no chunk \"%.*s\"",
			(int)ask->name.len, (const char *)ask->name.data);
		return false;
	}
	list_push_back(&desk->waiting, &request->node);
	loop_timer_start(desk->timer, 1); /* not here: the caller still holds it */
	return true;
}
