/* SPDX-License-Identifier: MIT */

/*
 * The conductor. The way of a write:
 *
 *	listener.c   a connection         credentials.c  who it is
 *	seats.c      whether it may stay  peer.c         bytes, frames
 *	method.c     what a frame asks    batch.c        its steps
 *	request.c    the request that carries them
 *	queue.c      waits for the writer
 *	writer.c     the other thread     group.c        one transaction for many batches
 *	reply.c      the answer
 *	queue.c      back to the loop     shipping.c     waits for the replicas, if it is to
 *	answers.c    to the peer, if it is still there
 *	feed.c       what was changed     watch.c        to those who watch it
 *	drill.c      proves from time to time that the replicas are good
 *	lease.c      a client that holds the writer      lease_run.c    and how it is served
 *
 * Two threads: the loop's (all of the above but writer, group and the packing in reply) and the
 * writer's. They meet in the queue only.
 *
 * Life of the daemon:
 *
 *	STARTING ──▶ RUNNING ──SIGTERM──▶ DRAINING ──all answered──▶ CLOSING ──all sent──▶ STOPPED
 *	                                      └── second SIGTERM, or out of time ──▲
 *
 * Of that the end is in ending.c.
 */

#include "server/funnel/funnel.h"

#include "server/base/clock.h"
#include "server/base/halt_lock.h"
#include "server/base/log.h"
#include "server/funnel/conduct.h"
#include "server/funnel/hoard.h"
#include "server/funnel/holder.h"
#include "server/funnel/lease.h"
#include "server/funnel/listener.h"
#include "server/funnel/reply.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	TICK_US = 20 * 1000, /* how late a deadline may be noticed */
	JOIN_MS = 2000,      /* for a batch that runs when there is no more time */
};

static const char *const state_names[] = {"starting", "running", "draining", "closing", "stopped"};

const char *funnel_state_name(enum funnel_state state)
{
	return state_names[state];
}

void funnel_move(struct funnel *funnel, enum funnel_state state)
{
	assert(state == funnel->state + 1);
	funnel->state = state;
	log_info(state_names[state], log_str("db", funnel->options->db));
}

/* ---- peers ---- */

struct peer *funnel_find_peer(struct funnel *funnel, uint64_t id)
{
	struct list *bucket = &funnel->by_id[id % PEER_INDEX];
	list_for_each(node, bucket) {
		struct peer *peer = container_of(node, struct peer, by_id);
		if (peer->id == id) {
			return peer;
		}
	}
	return NULL;
}

static void peer_closed(void *ctx, struct peer *peer)
{
	struct funnel *funnel = ctx;
	log_debug("disconnected", log_uint("peer", peer->id), log_uint("requests", peer->requests));
	watches_drop(&funnel->watches, peer);
	gather_forget(&peer->gather);
	leases_of_closed_peer(peer);
	list_remove(&peer->by_id);
	list_remove(&peer->node);
	list_push_back(&funnel->closed, &peer->node);
	queue_forget(funnel->queue, peer->id);
	chunk_desk_forget(funnel->chunks, peer->id);
	if (funnel->drills != NULL) {
		drill_desk_forget(funnel->drills, peer->id);
	}
	seats_leave(&funnel->seats, peer);
}

static void peer_gone(void *ctx, struct peer *peer)
{
	(void)ctx;
	leases_of_gone_peer(peer);
}

static void peer_timed(void *ctx)
{
	funnel_watch_times(ctx);
}

void funnel_touch(void *ctx, struct peer *peer)
{
	struct funnel *funnel = ctx;
	list_remove(&peer->touched);
	list_push_back(&funnel->touched, &peer->touched);
}

void funnel_flush(struct funnel *funnel)
{
	/* What is flushed may read on, and that may flush: whoever was the next is perhaps not there any more. */
	while (!list_empty(&funnel->touched)) {
		struct peer *peer = container_of(funnel->touched.next, struct peer, touched);
		list_remove(&peer->touched);
		peer_flush(peer);
	}
}

/* The end of a call from the loop: nobody holds a pointer to a peer now. */
void funnel_settle(void *ctx)
{
	struct funnel *funnel = ctx;
	watches_catch_up(&funnel->watches);
	funnel_flush(funnel);
	list_for_each_safe(node, &funnel->closed) {
		peer_free(container_of(node, struct peer, node));
	}
	if (funnel->state == FUNNEL_CLOSING && list_empty(&funnel->peers)) {
		loop_stop(funnel->loop);
	}
}

/* Somebody who must go is told why; if the socket takes not even that, without a word. */
static void turn_away(struct peer *peer, const char *why)
{
	peer_close(peer, FAILURE_OVERLOADED, why);
	if (peer->state != PEER_CLOSED) {
		peer_move(peer, PEER_CLOSED);
	}
}

/* Gives the newcomer its seat. If there are not enough, somebody goes: it, or whoever can be spared. */
static void make_room(struct funnel *funnel, struct peer *newcomer)
{
	const struct config *config = funnel->options->config;
	unsigned long long max = config_number(config, SETTING_CONNECTIONS_MAX);
	char text[128];
	if (seats_take(&funnel->seats, newcomer) < 0) {
		turn_away(newcomer, "out of memory");
		return;
	}
	struct peer *leaver = seats_one_too_many(&funnel->seats, newcomer,
		config_number(config, SETTING_CONNECTIONS_MAX),
		config_number(config, SETTING_CONNECTIONS_RESERVED));
	if (leaver == newcomer) {
		funnel->refused++;
		snprintf(text, sizeof(text), "too many connections: %llu (setting connections_max)",
			max);
		turn_away(newcomer, text);
	} else if (leaver != NULL) {
		funnel->displaced++;
		log_debug("displaced", log_uint("peer", leaver->id),
			log_uint("uid", leaver->credentials->uid),
			log_uint("for_uid", newcomer->credentials->uid));
		snprintf(text, sizeof(text),
			"there are too many connections, %llu, and this one was needed for another "
			"(setting connections_max)",
			max);
		turn_away(leaver, text);
	}
}

static void connected(void *ctx, int fd)
{
	struct funnel *funnel = ctx;
	const struct config *config = funnel->options->config;
	struct credentials *credentials = NULL;
	struct peer *peer = NULL;
	int rc = credentials_read(fd, &credentials);
	if (rc == 0) {
		credentials->role = credentials_role(credentials, config);
		rc = peer_new(funnel->loop, fd, credentials, funnel->next_peer_id++, config,
			&funnel->hooks, &peer);
	}
	if (rc < 0) {
		log_warn("connection refused", log_str("error", strerror(-rc)));
		credentials_unref(credentials);
		close(fd);
		return;
	}
	list_push_back(&funnel->peers, &peer->node);
	list_push_back(&funnel->by_id[peer->id % PEER_INDEX], &peer->by_id);
	funnel_watch_times(funnel); /* for its hello */
	funnel->connections++;
	log_debug("connected", log_uint("peer", peer->id), log_int("pid", credentials->pid),
		log_str("who", credentials->text), log_str("role", role_name(credentials->role)));
	credentials_unref(credentials);
	make_room(funnel, peer);
	funnel_settle(funnel);
}

/* ---- children ---- */

/*
 * The kernel ends a child with the thread that started it. The writer's, which minds the loop while a
 * disk stalls, ends before the daemon has let go of its children, so it starts none.
 */
static int start_shipper(void *ctx, pid_t *ret_pid, int *ret_fd)
{
	const struct funnel *funnel = ctx;
	const struct funnel_options *options = funnel->options;
	return funnel->standing_in ? -EBUSY : options->start_shipper(options->ctx, ret_pid, ret_fd);
}

static int start_drill(void *ctx, pid_t *ret_pid, int *ret_fd)
{
	const struct funnel *funnel = ctx;
	const struct funnel_options *options = funnel->options;
	return funnel->standing_in ? -EBUSY : options->start_drill(options->ctx, ret_pid, ret_fd);
}

/* ---- chunks ---- */

static void chunks_due(void *ctx)
{
	struct funnel *funnel = ctx;
	chunk_desk_turn(funnel->chunks);
	funnel_flush(funnel);
	funnel_settle(funnel);
}

static struct peer *chunks_peer(void *ctx, uint64_t peer_id)
{
	return funnel_find_peer(ctx, peer_id);
}

static void chunks_answered(void *ctx, struct request *request)
{
	funnel_deliver(ctx, request);
}

static int open_chunk_desk(struct funnel *funnel)
{
	struct chunk_desk_options options = {
		.queue = funnel->queue,
		.loop = funnel->loop,
		.config = funnel->options->config,
		.store = funnel->options->store,
		.peer = chunks_peer,
		.touched = funnel_touch,
		.answered = chunks_answered,
		.due = chunks_due,
		.ctx = funnel,
	};
	return chunk_desk_new(&options, &funnel->chunks);
}

/* ---- drills ---- */

static void drills_due(void *ctx)
{
	struct funnel *funnel = ctx;
	drill_desk_turn(funnel->drills);
	funnel_flush(funnel);
	funnel_settle(funnel);
}

static struct writer_stats drills_stats(void *ctx)
{
	struct funnel *funnel = ctx;
	return writer_stats(funnel->writer);
}

static int open_drill_desk(struct funnel *funnel)
{
	struct drill_desk_options options = {
		.queue = funnel->queue,
		.loop = funnel->loop,
		.config = funnel->options->config,
		.board = funnel->options->board,
		.gate = funnel->gate,
		.store = funnel->options->store,
		.db = funnel->options->db,
		.spool = funnel->options->spool,
		.start = start_drill,
		.start_ctx = funnel,
		.stats = drills_stats,
		.answered = chunks_answered,
		.due = drills_due,
		.ctx = funnel,
	};
	return drill_desk_new(&options, &funnel->drills);
}

/*
 * A disk that stalls may hold this thread up for long: then the writer's thread minds the loop, and
 * must not do the same.
 */
static bool stand_in(struct funnel *funnel)
{
	if (funnel->standing_in) {
		return false;
	}
	funnel->standing_in = true;
	loop_lend(funnel->loop);
	bool stood_in = writer_stand_in(funnel->writer);
	loop_take_back(funnel->loop);
	funnel->standing_in = false;
	return stood_in;
}

/* Everything that was ready has been read: what waits now is run here, or the writer's. */
static bool turn_over(void *ctx)
{
	struct funnel *funnel = ctx;
	if (queue_is_short(funnel->queue) &&
		gather_waits(&funnel->gather, clock_now_us(), writer_patience_us(funnel->writer))) {
		return true;
	}
	bool stood_in = stand_in(funnel);
	if (stood_in) {
		funnel_answers_arrived(funnel);
	}
	queue_kick(funnel->queue);
	return stood_in; /* who was answered may be worth waiting for */
}

static void wake(void *ctx)
{
	struct funnel *funnel = ctx;
	loop_wake(funnel->loop);
}

/* ---- time ---- */

void funnel_watch_times(struct funnel *funnel)
{
	if (!loop_timer_running(funnel->tick)) {
		loop_timer_start(funnel->tick, TICK_US);
	}
}

/* They have waited in vain: for whatever the writer is running this moment. */
static void blame_running(struct funnel *funnel, struct list *requests)
{
	list_for_each(node, requests) {
		struct request *request = container_of(node, struct request, node);
		request->waited_for = holder_running(funnel->queue);
		if (request->waited_for == NULL && queue_facts(funnel->queue).held_us != 0) {
			request->waited_for = holder_copy(&funnel->pause_holder);
		}
	}
}

static void tick(void *ctx)
{
	struct funnel *funnel = ctx;
	struct list expired;
	uint64_t now_us = clock_now_us();
	funnel_release_shipped(funnel, false);
	if (funnel->pause_until_us != 0 && now_us >= funnel->pause_until_us &&
		!funnel_halt(funnel)) {
		(void)funnel_resume(funnel, "its own limit of time");
	}
	if (funnel->halted && !funnel_halt(funnel)) {
		(void)funnel_resume(funnel, "the end of the halt");
	}
	/* What the writer has taken it may give back, without a word. */
	struct queue_facts queue = queue_facts(funnel->queue);
	bool again = queue.count > 0 || queue.taken > 0 || funnel->pause_until_us != 0 ||
		funnel->halted || (funnel->shipping != NULL && shipping_holds(funnel->shipping));
	list_init(&expired);
	queue_expire(funnel->queue, now_us, &expired);
	blame_running(funnel, &expired);
	if (!list_empty(&expired)) {
		char text[LOOKOUT_TEXT_BYTES + 64];
		char trouble[LOOKOUT_TEXT_BYTES];
		writer_trouble(funnel->writer, trouble);
		if (trouble[0] == 0 && queue.held_us != 0) {
			pid_t halt = 0;
			if (halt_lock_is_held(funnel->options->db, &halt)) {
				(void)snprintf(trouble, sizeof(trouble),
					"the daemon is paused by litefunnel halt, process %d, until its "
					"command has ended",
					(int)halt);
			} else {
				(void)snprintf(trouble, sizeof(trouble),
					"the daemon is paused by %s (cure: litefunnel resume)",
					funnel->pause_by);
			}
		}
		(void)snprintf(text, sizeof(text),
			"the deadline passed while the request waited%s%s",
			trouble[0] != 0 ? ": " : "", trouble);
		funnel_refuse_all(funnel, &expired, FAILURE_DEADLINE, text);
	}
	funnel_flush(funnel);
	now_us = clock_now_us(); /* no peer's time lies behind it */
	hoard_bound_begun(funnel, now_us);
	list_for_each_safe(node, &funnel->peers) {
		struct peer *peer = container_of(node, struct peer, node);
		again |= leases_check_times(peer, now_us);
		again |= peer_check_times(peer, now_us);
	}
	again |= writer_settle(funnel->writer);
	funnel_check_drained(funnel);
	funnel_settle(funnel);
	if (again) {
		funnel_watch_times(
			funnel); /* else nothing can time out: sleep until something comes */
	}
}

static void alive(void *ctx)
{
	struct funnel *funnel = ctx;
	funnel->options->notify(funnel->options->ctx, "alive");
	loop_timer_start(funnel->alive, funnel->options->alive_us);
}

/* ---- start ---- */

static int set_up_shipping(struct funnel *funnel)
{
	const struct funnel_options *options = funnel->options;
	struct shipping_options shipping = {
		.loop = funnel->loop,
		.board = options->board,
		.pid = options->shipper_pid,
		.fd = options->shipper_fd,
		.start = start_shipper,
		.start_ctx = funnel,
		.arrived = funnel_shipping_arrived,
		.ctx = funnel,
	};
	int rc = gate_new(
		options->board, options->spool, store_commit_no(options->store), &funnel->gate);
	return rc == 0 ? shipping_new(&shipping, &funnel->shipping) : rc;
}

static int set_up(struct funnel *funnel)
{
	const struct funnel_options *options = funnel->options;
	int rc = loop_new(&funnel->loop);
	rc = rc == 0 ? queue_new(wake, funnel, &funnel->queue) : rc;
	rc = rc == 0 ? loop_on_wake(funnel->loop, funnel_answers_arrived, funnel) : rc;
	rc = rc == 0 ? loop_on_signal(funnel->loop, SIGTERM, funnel_terminate, funnel) : rc;
	rc = rc == 0 ? loop_on_signal(funnel->loop, SIGINT, funnel_terminate, funnel) : rc;
	rc = rc == 0 ? loop_on_signal(funnel->loop, SIGHUP, funnel_hang_up, funnel) : rc;
	if (rc < 0) {
		return rc;
	}
	funnel->tick = loop_timer_new(funnel->loop, tick, funnel);
	funnel->alive = loop_timer_new(funnel->loop, alive, funnel);
	funnel->limit = loop_timer_new(funnel->loop, funnel_limit_passed, funnel);
	if (funnel->tick == NULL || funnel->alive == NULL || funnel->limit == NULL) {
		return -ENOMEM;
	}
	funnel_apply_times(funnel);
	rc = feed_new(store_commit_no(options->store), wake, funnel, &funnel->feed);
	if (rc < 0) {
		return rc;
	}
	watches_init(&funnel->watches, funnel->feed, funnel_touch, funnel);
	store_observe(options->store, &(struct store_observer){feed_publish, funnel->feed});
	rc = options->board != NULL ? set_up_shipping(funnel) : 0;
	if (rc < 0) {
		return rc;
	}
	rc = open_chunk_desk(funnel);
	rc = rc == 0 && options->board != NULL ? open_drill_desk(funnel) : rc;
	struct writer_options writer = {
		.store = options->store,
		.gate = funnel->gate,
		.chunks = rc == 0 ? chunk_desk_board(funnel->chunks) : NULL,
		.queue = funnel->queue,
		.config = options->config,
		.db = options->db,
		.reserve = options->reserve,
		.poisoned = options->poisoned,
		.ctx = options->ctx,
		.loop = funnel->loop,
	};
	rc = rc == 0 ? writer_start(&writer, &funnel->writer) : rc;
	loop_on_turn(funnel->loop, turn_over, funnel);
	return rc == 0 ? listener_new(funnel->loop, options->listen_fd, connected, funnel,
				 &funnel->listener)
		       : rc;
}

/* Ends the writer: 0, or -ETIMEDOUT if it is still inside a batch. */
static int end_writer(struct funnel *funnel)
{
	struct list waiting;
	if (funnel->writer == NULL) {
		return 0;
	}
	list_init(&waiting);
	queue_stop(funnel->queue, &waiting);
	list_for_each_safe(node, &waiting) {
		request_free(container_of(node, struct request, node));
	}
	int rc = writer_join(funnel->writer, JOIN_MS);
	if (rc == 0) {
		writer_free(funnel->writer);
		funnel->writer = NULL;
	}
	return rc;
}

static void tear_down(struct funnel *funnel)
{
	listener_free(funnel->listener);
	list_for_each_safe(node, &funnel->peers) {
		struct peer *peer = container_of(node, struct peer, node);
		peer_move(peer, PEER_CLOSED);
	}
	funnel_settle(funnel);
	watches_finish(&funnel->watches);
	feed_free(funnel->feed);
	queue_free(funnel->queue);
	gate_free(funnel->gate);
	if (funnel->shipping != NULL) {
		int fd = -1;
		pid_t pid = shipping_release(funnel->shipping, &fd);
		funnel->options->release_shipper(funnel->options->ctx, pid, fd);
		shipping_free(funnel->shipping);
	}
	chunk_desk_free(funnel->chunks);
	drill_desk_free(funnel->drills);
	loop_timer_free(funnel->tick);
	loop_timer_free(funnel->alive);
	loop_timer_free(funnel->limit);
	loop_free(funnel->loop);
	request_shelf_finish(&funnel->shelf); /* the queue freed the last requests */
	msgpack_zone_destroy(&funnel->zone);
}

/* On the heap: a writer that cannot be ended goes on using it until the process is gone. */
static struct funnel *funnel_new(const struct funnel_options *options)
{
	struct funnel *funnel = calloc(1, sizeof(*funnel));
	if (funnel == NULL || !msgpack_zone_init(&funnel->zone, 64 * 1024)) {
		free(funnel);
		return NULL;
	}
	funnel->options = options;
	funnel->next_peer_id = 1;
	funnel->started_us = clock_now_us();
	funnel->started_wall_us = clock_wall_us();
	funnel->page_size = store_page_size(options->store);
	funnel->sync_full = store_sync_full(options->store);
	funnel->foreign_keys = store_foreign_keys(options->store);
	funnel->dedupe = store_dedupe(options->store);
	memcpy(funnel->epoch, store_epoch(options->store), sizeof(funnel->epoch));
	strncpy(funnel->encoding, store_encoding(options->store), sizeof(funnel->encoding) - 1);
	list_init(&funnel->peers);
	list_init(&funnel->closed);
	list_init(&funnel->touched);
	list_init(&funnel->watches.all);
	seats_init(&funnel->seats);
	gather_init(&funnel->gather);
	request_shelf_init(&funnel->shelf);
	for (size_t i = 0; i < PEER_INDEX; i++) {
		list_init(&funnel->by_id[i]);
	}
	funnel->hooks = (struct peer_hooks){
		method_frame, peer_closed, peer_timed, funnel_settle, peer_gone, funnel};
	return funnel;
}

static int run(struct funnel *funnel)
{
	const struct funnel_options *options = funnel->options;
	log_info("starting", log_str("version", LITEFUNNEL_VERSION),
		log_str("sqlite", store_engine_version()),
		log_str("sqlite_source", store_engine_source()),
		log_str("wal_reset_bug",
			store_engine_has_wal_reset_bug() ? "unreachable" : "fixed"),
		log_uint("commit", store_commit_no(options->store)));
	if (store_lineage_note(options->store)[0] != 0) {
		log_warn("a new epoch begins", log_str("db", options->db),
			log_str("reason", store_lineage_note(options->store)));
	}
	funnel_move(funnel, FUNNEL_RUNNING);
	(void)funnel_halt(funnel);       /* it was killed, and CMD still runs */
	chunk_desk_turn(funnel->chunks); /* what a stop has interrupted goes on … */
	queue_kick(funnel->queue);       /* … at once */
	options->notify(options->ctx, "ready");
	if (options->alive_us > 0) {
		loop_timer_start(funnel->alive, options->alive_us);
	}
	return loop_run(funnel->loop);
}

int funnel_run(const struct funnel_options *options)
{
	struct funnel *funnel = funnel_new(options);
	if (funnel == NULL) {
		return -ENOMEM;
	}
	int rc = set_up(funnel);
	rc = rc == 0 ? run(funnel) : rc;
	int ended = end_writer(funnel);
	if (funnel->state == FUNNEL_CLOSING) {
		funnel_move(funnel, FUNNEL_STOPPED);
	}
	if (ended < 0) {
		return ended; /* the writer still uses it: nothing may be freed */
	}
	bool drained = funnel->drained;
	tear_down(funnel);
	free(funnel);
	return rc < 0 ? rc : !drained;
}
