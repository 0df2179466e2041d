/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The funnel: everything between the socket and the store. Read funnel.c first; it says who calls
 * whom.
 */

#include "proto/buffer.h"
#include "server/base/config.h"
#include "server/base/notice.h"
#include "server/funnel/chunk_board.h"
#include "server/funnel/drill.h"
#include "server/funnel/gate.h"
#include "server/funnel/peer.h"
#include "server/funnel/queue.h"
#include "server/funnel/writer.h"
#include "server/store/store.h"

struct funnel;

struct funnel_options {
	struct store *store;   /* opened; the funnel's until funnel_run() returns */
	struct config *config; /* changed by `reload` */
	const char *db;        /* paths, for answers and the log */
	const char *socket;
	const char *reserve;   /* path of the disk reserve */
	int listen_fd;         /* the funnel's */
	bool listen_inherited; /* the socket lives on without this process */

	/*
	 * Answers `show`: packs a result map {columns, rows} into `out`. False: no such table; then
	 * *ret_names lists those that there are.
	 */
	bool (*show)(struct funnel *funnel, struct span what, struct span like,
		const struct credentials *who, struct buffer *out, const char **ret_names);
	/* Reads the settings anew into `fresh`, initialised: 0, or -EINVAL and the reason. */
	int (*reload)(void *ctx, struct config *fresh, char ret_error[CONFIG_ERROR_BYTES]);
	/* Tells the supervisor: "ready", "stopping", "reloading", "alive". */
	void (*notify)(void *ctx, const char *what);
	/* Shipping; no board: there is none. The process runs already; start_shipper() starts another. */
	struct board *board;
	const char *spool; /* the directory DB-ship */
	pid_t shipper_pid;
	int shipper_fd; /* the funnel's, as the process is */
	int (*start_shipper)(void *ctx, pid_t *ret_pid, int *ret_fd);
	/* Starts the process of a drill. */
	int (*start_drill)(void *ctx, pid_t *ret_pid, int *ret_fd);
	/* How the shipper runs when the funnel is done: to be waited for. */
	void (*release_shipper)(void *ctx, pid_t pid, int fd);
	uint64_t alive_us; /* how often "alive" is due; 0: never */
	/* See writer.h. */
	void (*poisoned)(void *ctx, const char *reason);
	void *ctx;
};

enum funnel_state {
	FUNNEL_STARTING,
	FUNNEL_RUNNING,
	FUNNEL_DRAINING,
	FUNNEL_CLOSING,
	FUNNEL_STOPPED
};
const char *funnel_state_name(enum funnel_state state);

/*
 * Serves until SIGTERM, SIGINT or the verb `shutdown`, then drains and returns. 0: everything was
 * answered; 1: the drain ran out of time; negative errno: it could not start. The store is free for
 * closing afterwards, unless the result is -ETIMEDOUT: the writer still runs, leave by _exit().
 */
int funnel_run(const struct funnel_options *options);

/* Facts for `show`; the loop's thread only. */
struct funnel_facts {
	enum funnel_state state;
	const char *db;
	const char *socket;
	const uint8_t *epoch;
	uint32_t page_size;
	const char *encoding;
	bool sync_full;
	uint64_t started_us;      /* monotonic */
	uint64_t started_wall_us; /* for people */
	uint64_t connections;     /* since start */
	uint64_t refused;         /* connections turned away */
	uint64_t displaced;       /* … and closed to make room for another user's */
	size_t peers;
	struct queue_facts queue;
	struct writer_stats writer;
	struct dedupe_stats dedupe;
	const struct board *board; /* NULL: nothing is shipped */
	const char *spool;
	struct gate_stats gate;
	struct drill_facts drills;
	uint64_t pause_until_us; /* 0: until it is ended, or there is none */
	const char *pause_by;
	const struct holder *pause_holder;
};
struct funnel_facts funnel_facts(struct funnel *funnel);
/* What has the writer this moment, and since when; or NULL. Valid until the loop goes on. */
const struct request *funnel_running(struct funnel *funnel, uint64_t *ret_since_us);
/* Under a lock: be short. What it is given stays valid until the loop goes on. */
void funnel_each_waiting(
	struct funnel *funnel, void (*fn)(void *ctx, struct request *request), void *ctx);
/* For how many microseconds, at least, the WAL has had a frame behind this one. */
uint64_t funnel_wal_age(struct funnel *funnel, uint64_t frame);
/* What the replica lacks. */
struct gate_arrears funnel_arrears(struct funnel *funnel, const struct replica_report *report);
const struct config *funnel_config(const struct funnel *funnel);
void funnel_each_peer(
	struct funnel *funnel, void (*fn)(void *ctx, const struct peer *peer), void *ctx);
void funnel_each_lease(
	struct funnel *funnel, void (*fn)(void *ctx, struct lease *lease), void *ctx);
void funnel_each_chunk(
	struct funnel *funnel, void (*fn)(void *ctx, const struct chunk_view *view), void *ctx);
void funnel_each_drill(
	struct funnel *funnel, void (*fn)(void *ctx, const struct drill_record *record), void *ctx);
