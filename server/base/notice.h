/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The only thing that the funnel and the shipper share: a page of memory in which each tells the
 * other where it is. What is told is absolute, and the latest wins: nothing is queued, nothing can
 * be missed, and a shipper that starts anew needs no history.
 *
 * The funnel makes the board and hands its descriptors to the shipper, a child process. The writer
 * thread tells the notice; the shipper's threads tell reports, each its own. Reading is safe in any
 * thread and never blocks: a reader that meets a writer in the middle looks again.
 *
 * Waking is separate from telling, since most of what is told needs no haste: an event descriptor
 * for each direction.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	NOTICE_EPOCH_BYTES = 16,
	NOTICE_REPLICAS_MAX = 8,
	NOTICE_TEXT_BYTES = 400,
	NOTICE_URL_BYTES = 240,
	NOTICE_BUILD_BYTES = 48,
};

/* From the funnel: the newest commit, and where its last frame stands in the WAL. */
struct notice {
	uint8_t epoch[NOTICE_EPOCH_BYTES];
	uint64_t commit_no;
	uint64_t frames;      /* committed ones, from the start of the WAL; 0: none */
	uint32_t salt[2];     /* of the WAL */
	uint32_t checksum[2]; /* of the last frame */
	uint32_t pages;       /* of the database */
	uint32_t page_size;
	int64_t committed_ms; /* wall clock, since 1970 */
	uint64_t breaks;      /* how often the funnel has taken the chain away: chain_break() */
};

/* From the shipper: what is safe from now on. */
struct ship_report {
	uint64_t spooled_commit; /* stands in a durable part or segment beside the database */
	uint64_t segments;       /* number of the newest segment … */
	uint64_t cut_commit;     /* … and the commit that it ends at */
	uint64_t spool_bytes;
	bool known;    /* anything was reported at all */
	bool chained;  /* there is a chain to continue: checkpoints wait for it */
	bool building; /* a file of all pages is being made: no checkpoint before it is done */
	bool stopped;  /* everything that was asked for is done, or cannot be */
	char trouble[NOTICE_TEXT_BYTES]; /* why shipping does not go on; "" if it does */
};

enum replica_state { REPLICA_STARTING, REPLICA_SHIPPING, REPLICA_FAILING, REPLICA_REFUSED };
const char *replica_state_name(enum replica_state state);

/* From the shipper, for each replica. */
struct replica_report {
	char url[NOTICE_URL_BYTES]; /* without secrets; "" ends the list */
	enum replica_state state;
	bool acks;          /* ack: "shipped" waits for it */
	uint64_t commit_no; /* shipped up to this */
	/* The newest commit that it was known to have when last anything was known, also to a shipper before; 0: none. */
	uint64_t had_commit_no;
	int64_t had_ms; /* when that was committed, wall clock */
	uint64_t txid;
	uint64_t waiting;         /* segments that are still to be shipped */
	uint64_t percent;         /* of the first snapshot; 100: done */
	int64_t failing_since_ms; /* wall clock */
	bool gone;         /* its directory is not there: it comes back by somebody's hand only */
	uint64_t requests; /* since the shipper started */
	uint64_t bytes_sent;
	char error[NOTICE_TEXT_BYTES]; /* the last one, or "" */
};

/* The file of a spool without which there is no chain. */
#define CHAIN_POSITION "position"

struct board;

/* The funnel's: makes one with its descriptors, which survive exec. 0 or negative errno. */
int board_new(struct board **ret_board);

/* The shipper's: takes over what the funnel made. -EPROTO: made by another build. */
int board_attach(
	int memory_fd, int shipper_fd, int funnel_fd, int gate_fd, struct board **ret_board);

/* Also closes the descriptors; accepts NULL. */
void board_free(struct board *board);

/* The descriptors: shared memory; wakes the shipper; wakes the funnel's loop; wakes the writer. */
struct board_fds {
	int memory;
	int shipper;
	int loop;
	int gate;
};
struct board_fds board_fds(const struct board *board);

/* The funnel's, before a new shipper starts: forgets what the last one said. */
void board_forget_reports(struct board *board);

/* The notice: told by the writer thread alone. False: nothing was told yet. */
void board_tell(struct board *board, const struct notice *notice);
bool board_notice(const struct board *board, struct notice *ret_notice);

/* Reports: told by one thread of the shipper each. */
void board_report(struct board *board, const struct ship_report *report);
struct ship_report board_ship_report(const struct board *board);
void board_report_replica(struct board *board, size_t index, const struct replica_report *report);
struct replica_report board_replica_report(const struct board *board, size_t index);

/*
 * What the funnel waits for: commit numbers that only rise. The shipper hurries for what is wanted
 * and not yet there.
 */
void board_want_spooled(struct board *board, uint64_t commit_no);
void board_want_shipped(struct board *board, uint64_t commit_no);
uint64_t board_wanted_spooled(const struct board *board);
uint64_t board_wanted_shipped(const struct board *board);

/* The funnel's: ship what there is, then end. */
void board_stop(struct board *board);
bool board_stopping(const struct board *board);

/*
 * The funnel's: nothing is asked of a replica until it says otherwise; capture goes on, into the
 * spool. Since when, of the wall clock; 0: it is not paused.
 */
void board_pause(struct board *board, int64_t since_ms);
int64_t board_paused_ms(const struct board *board);
bool board_paused(const struct board *board);

/*
 * The gate, without a lock: the writer enters before a checkpoint and leaves after it; a shipper
 * that needs the database file to stand still closes it and waits until the writer is out.
 */
bool board_gate_enter(struct board *board); /* false: closed */
void board_gate_leave(struct board *board);
void board_gate_close(struct board *board);
void board_gate_open(struct board *board);
bool board_gate_entered(const struct board *board);

/* Wakes the other side. */
void board_wake_shipper(struct board *board);
void board_wake_loop(struct board *board);
void board_wake_writer(struct board *board);

/* After a notice was told: wakes the shipper only if it sleeps for want of any. Costs nothing else. */
void board_nudge_shipper(struct board *board);

/*
 * The shipper's sleep: at most so long, or until it is woken, or the funnel's end of `parent_fd`
 * closes (then -EPIPE). `idle`: also until there is another notice than `seen`.
 */
int board_sleep(
	struct board *board, int parent_fd, int timeout_ms, bool idle, const struct notice *seen);

/* The writer's: until the shipper woke it, at most so long. False: time is up. */
bool board_wait_gate(struct board *board, int timeout_ms);

/*
 * Takes the chain of a spool away, durably: what is captured from now on begins with all pages. 0, also
 * if there was none; negative errno.
 */
int chain_break(const char *spool);

/* The build of this program: two that talk over a board must be the same. */
void build_id(char ret_id[NOTICE_BUILD_BYTES]);
