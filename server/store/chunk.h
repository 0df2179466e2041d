/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Chunks: long statements that are run slice by slice, each in a transaction of its own, with other
 * clients' batches between. How far a chunk is stands in _lf_chunk, written in the transaction of
 * the slice, so that it goes on exactly there after any end of the daemon. A chunk is all or none
 * only slice by slice.
 *
 * Everything belongs to the writer's thread.
 */

#include "server/store/store.h"

enum { CHUNK_NAME_BYTES_MAX = 255, CHUNK_SQL_BYTES_MAX = 1000000 };

/* In life order. What is over stays known for a while, so that its starter learns how it ended. */
enum chunk_state { CHUNK_RUNNING, CHUNK_PAUSED, CHUNK_DONE, CHUNK_CANCELLED, CHUNK_FAILED };
const char *chunk_state_name(enum chunk_state state);
bool chunk_state_is_over(enum chunk_state state);

struct chunk_facts {
	uint64_t id;
	uint32_t uid;
	const char *name;
	const char *sql;
	const char *table; /* that is walked, and along which key; "" until it has run */
	const char *key;
	const char *error; /* why it failed, or what it waits for; "" */
	enum chunk_state state;
	uint64_t rows; /* that were looked at */
	uint64_t changes;
	uint64_t slices;
	uint64_t of;         /* rows in all, about; 0: not known */
	uint64_t busy_us;    /* of the writer's time */
	uint64_t commit_no;  /* of the last slice */
	uint64_t due_us;     /* the next slice may not run before; monotonic */
	uint64_t rate;       /* rows a second that it is held to; 0: no limit */
	uint64_t slice_us;   /* that a slice aims at */
	uint64_t longest_us; /* slice since the start of the daemon */
	uint64_t started_s;  /* wall time */
	uint64_t ended_s;    /* 0: not yet */
	uint64_t
		over_us; /* since when it is known to be over, which each start renews; monotonic */
};

/* What a client asks for. */
struct chunk_order {
	uint32_t uid;
	struct bytes name;
	const struct step *step; /* one run; names or places */
	const uint8_t *hash;     /* of statement and values, 16 bytes */
	struct bytes by;         /* empty: the INTEGER PRIMARY KEY */
	uint64_t slice_ms;
	uint64_t rate;
	uint64_t keep_s; /* how long what is over is kept */
};

/*
 * Begins a chunk, or finds the one of that uid and name. Inside a transaction. 0 and its facts;
 * STORE_BAD_REQUEST: it cannot be sliced; STORE_MISMATCH: the name stands for another statement.
 */
int store_chunk_start(struct store *store, enum role role, const struct chunk_order *order,
	struct chunk_facts *ret_facts, struct store_error *error);

enum chunk_op { CHUNK_OP_LOOK, CHUNK_OP_PAUSE, CHUNK_OP_RESUME, CHUNK_OP_CANCEL };

/*
 * Changes the state of a chunk of that name: the uid's own, or with `any` else the one that there is.
 * Inside a transaction. 0, or STORE_NOT_FOUND, STORE_BAD_REQUEST.
 */
int store_chunk_control(struct store *store, uint32_t uid, bool any, struct bytes name,
	enum chunk_op op, uint64_t rate, struct chunk_facts *ret_facts, struct store_error *error);

/* After the transaction of one of these has ended, either way. */
int store_chunks_load(struct store *store);

/* True once after such a transaction: load, and tell whoever watches. */
bool store_chunks_stale(const struct store *store);

/*
 * How many rows the next slice takes, after one of so many took so long to run and to commit. What the
 * commit takes is taken from the time to run, but for a quarter: a slow disk makes slices long, for
 * shorter ones would only be more commits.
 */
uint64_t slice_rows_after(uint64_t rows, uint64_t exec_us, uint64_t commit_us, uint64_t aim_us);

enum chunk_slice {
	SLICE_MORE,    /* another one may follow at once */
	SLICE_LATER,   /* … but not before facts.due_us */
	SLICE_OVER,    /* it is done, has failed, or runs no more for another reason */
	SLICE_UNKNOWN, /* as STORE_UNKNOWN */
};

/*
 * One slice of the chunk with that id, in a transaction of its own. It aims at the shorter of its own
 * time and slice_us_max. One that store_interrupt() ends is undone, and as if it had not begun.
 */
enum chunk_slice store_chunk_slice(struct store *store, uint64_t id, uint64_t slice_us_max,
	uint64_t exec_timeout_us, struct store_error *error);

/* No slice of it before that much time has passed, for that reason. Outside of a transaction. */
void store_chunk_put_off(struct store *store, uint64_t id, uint64_t us, const char *why);

/* It fails, if it runs: `resume` lets it go on. SLICE_OVER, SLICE_LATER (it could not be written) or
 * SLICE_UNKNOWN. */
enum chunk_slice store_chunk_end(
	struct store *store, uint64_t id, const char *why, struct store_error *error);

void store_chunks_each(const struct store *store,
	void (*fn)(void *ctx, const struct chunk_facts *facts), void *ctx);
bool store_chunks_open(const struct store *store); /* one runs or is paused */
