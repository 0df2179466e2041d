/* SPDX-License-Identifier: MIT */
#pragma once

/* What the methods may ask of the conductor: for funnel.c and method.c only. */

#include "server/funnel/chunk.h"
#include "server/funnel/drill.h"
#include "server/funnel/feed.h"
#include "server/funnel/funnel.h"
#include "server/funnel/gather.h"
#include "server/funnel/holder.h"
#include "server/funnel/seats.h"
#include "server/funnel/shipping.h"
#include "server/funnel/watch.h"

enum { PEER_INDEX = 256 };

struct funnel {
	const struct funnel_options *options;
	enum funnel_state state;
	struct loop *loop;
	struct listener *listener;
	struct queue *queue;
	struct writer *writer;
	struct gate *gate; /* NULL, like the next: nothing is shipped */
	struct shipping *shipping;
	struct chunk_desk *chunks;
	struct drill_desk *drills; /* NULL: nothing is shipped */
	struct feed *feed;
	struct watches watches;
	struct list peers;
	struct list closed;  /* peers that wait to be freed */
	struct list touched; /* peers that have new answers to send */
	struct list by_id[PEER_INDEX];
	struct gather gather;
	struct request_shelf shelf;
	struct seats seats;
	uint64_t next_peer_id;
	struct peer_hooks hooks;
	msgpack_zone zone;       /* of the message at hand */
	struct loop_timer *tick; /* runs while something may time out */
	struct loop_timer *alive;
	struct loop_timer *limit; /* of draining and closing */
	uint64_t started_us;
	uint64_t started_wall_us;
	uint64_t connections;
	uint64_t refused;
	uint64_t displaced;
	bool drained;
	uint64_t closing_until_us; /* at the latest; before, while somebody takes his bytes */
	size_t unsent;             /* bytes, when that was last looked at */
	size_t delivered;          /* bytes of answers, since unread ones were last counted */
	uint64_t epochs;           /* that the writer has begun, as far as the loop knows */

	/* The pause: queue_hold() and until when. */
	uint64_t pause_until_us; /* 0: until it is ended */
	bool halted;             /* until the lock of halt_lock.h is let go of */
	char pause_by[256];
	struct holder pause_holder; /* for those who wait for it */

	/* Facts of the store that hello tells; they do not change. */
	uint8_t epoch[STORE_EPOCH_BYTES];
	uint32_t page_size;
	char encoding[16];
	bool sync_full;
	bool standing_in; /* the loop's thread runs a commit group */
	bool foreign_keys;
	struct dedupe *dedupe; /* for dedupe_peek() and dedupe_stats() only */
};

/* A whole frame has arrived (peer_hooks::frame). */
void method_frame(void *ctx, struct peer *peer, const uint8_t *payload, size_t len);

/* Answers with an error and forgets the failure. */
void method_refuse(struct peer *peer, uint32_t id, struct failure *failure);

void funnel_move(struct funnel *funnel, enum funnel_state state); /* to the next one */

/* ending.c. Begins to drain, as SIGTERM does; what SIGTERM and the time for either do. */
void funnel_drain(struct funnel *funnel);
void funnel_terminate(void *ctx);
void funnel_limit_passed(void *ctx);
void funnel_check_drained(struct funnel *funnel); /* when something was answered or withdrawn */

/*
 * Holds the writer: what runs goes on to its end, what comes waits. A second pause changes the time
 * of the first. Resume says for how many microseconds it was held.
 */
#define PAUSE_MS_MAX (7ull * 24 * 3600 * 1000)
void funnel_pause(
	struct funnel *funnel, uint64_t for_ms, const char *by, const struct holder *holder);
uint64_t funnel_resume(struct funnel *funnel, const char *by);

/* Pauses it, unless it is already, for as long as a halt has the file. False: none has. */
bool funnel_halt(struct funnel *funnel);

/* NULL: it is gone. */
struct peer *funnel_find_peer(struct funnel *funnel, uint64_t id);

/* A peer has something to send; and all of them send it. */
void funnel_touch(void *ctx, struct peer *peer);
void funnel_flush(struct funnel *funnel);

/* answers.c. Answers requests that are out of the queue with a failure, and frees them. */
void funnel_refuse(struct funnel *funnel, struct request *request, enum failure_code code,
	const char *message);
void funnel_refuse_all(
	struct funnel *funnel, struct list *requests, enum failure_code code, const char *message);

/* Hands an answered request's frame to its peer and frees the request. */
void funnel_deliver(struct funnel *funnel, struct request *request);

/* The writer has answered, or the shipper has come further: calls from the loop. */
void funnel_answers_arrived(void *ctx);
void funnel_shipping_arrived(void *ctx);

/* All that the writer has answered; and answers whose commits are shipped or whose time is up, or `all`. */
void funnel_collect(struct funnel *funnel);
void funnel_release_shipped(struct funnel *funnel, bool all);

/* Starts the tick if something may now time out. */
void funnel_watch_times(struct funnel *funnel);

/* Sends what is to be sent and frees what is closed: the end of each call from the loop. */
void funnel_settle(void *ctx);

/* SIGHUP; and the settings of time, for those who keep copies of them. */
void funnel_hang_up(void *ctx);
void funnel_apply_times(struct funnel *funnel);

/* Reads the settings again; the names of what changed go to `out` as an array. */
int funnel_reload(struct funnel *funnel, struct buffer *out, char ret_error[CONFIG_ERROR_BYTES]);

/* To follow it: open connections get the roles that hold now; who has none any more is closed. */
void funnel_assign_roles(struct funnel *funnel);
/* An answered request: its frame goes to its peer, at once or when it is shipped. It is freed then. */
void funnel_answer(struct funnel *funnel, struct request *request);

/* method_lease.c: what becomes of leases when their connection, or the daemon, ends; their deadlines. */
void leases_of_closed_peer(struct peer *peer);
void leases_of_gone_peer(struct peer *peer);   /* nobody will read the answers */
void leases_refuse_waiting(struct peer *peer); /* at the end: before any of them is abandoned */
void leases_abandon(struct peer *peer);
bool leases_check_times(struct peer *peer, uint64_t now_us); /* true: look again */
