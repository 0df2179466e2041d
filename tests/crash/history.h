/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What clients have asked for, what they were told, and so what the database must hold after any
 * commit. A batch is described by a few numbers, from which its message and its effect follow.
 */

#include "proto/buffer.h"
#include "server/store/dedupe.h"
#include "tests/crash/random.h"

enum batch_kind {
	BATCH_SETUP,     /* the tables; always the first */
	BATCH_ONE,       /* one row, one step: runs without a savepoint */
	BATCH_MANY,      /* rows, one step with many:true */
	BATCH_STEPS,     /* rows, and a counter, in several steps */
	BATCH_LARGE,     /* rows that need pages of their own */
	BATCH_RETURNING, /* the answer holds rows */
	BATCH_TRANSFER,  /* money from one account to another, guarded */
	BATCH_FAMILY,    /* a deferred foreign key that comes true */
	BATCH_REMOVE,    /* deletes the rows of an earlier batch */
	BATCH_TABLE,     /* makes a table */
	BATCH_DROP,      /* drops such a table */
	BATCH_SELECT,    /* writes nothing */
	/* These must fail and leave nothing. */
	BATCH_LAST_STEP_FAILS,
	BATCH_OR_ROLLBACK,    /* throws the transaction away */
	BATCH_RAISE_ROLLBACK, /* the same, from a trigger */
	BATCH_OR_FAIL,        /* one step that keeps what it did before it failed */
	BATCH_ORPHAN,         /* a deferred foreign key that does not come true */
	BATCH_GUARD,          /* an expectation that does not come true */
	BATCH_KINDS,
};

struct batch {
	uint32_t id;
	enum batch_kind kind;
	uint32_t parts;   /* rows */
	uint32_t target;  /* the batch whose rows or table it removes; the counter; the account */
	uint32_t remover; /* the batch that removes what this one made, or 0 */
	enum identity_kind identity;
	uint32_t session; /* index in history::sessions */
	uint64_t seq;
	uint64_t done;
	bool gone;          /* its key has outlived its time: it must not be asked again */
	bool answered;      /* the client knows: OK, or failed for good */
	uint64_t commit_no; /* the commit that holds its effect or its answer; 0: none does */
	uint64_t payload;   /* hash of the answer */
};

struct session {
	uint32_t uid;
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t next_seq;
	uint64_t done; /* every seq up to here has been answered */
	uint64_t told; /* the highest `done` that the daemon has been told */
	bool gone;     /* it has said goodbye, or was away too long */
};

/* Some sessions send only batches below IDLE_FROM. */
enum { IDLE_FROM = 60 };

enum { COUNTERS = 8, ACCOUNTS = 8, MONEY = 1000000, SESSION_WINDOW = 16 };

struct history {
	struct batch *batches; /* [0] is unused, [1] the set-up */
	size_t count;
	size_t cap;
	struct session *sessions;
	size_t sessions_count;
	size_t sessions_cap;
	uint32_t tables; /* made and not dropped */
};

void history_init(struct history *history);
void history_finish(struct history *history);
void history_copy(struct history *to, const struct history *from);

uint32_t history_add_session(struct history *history, struct random *random);

/* What a batch is drawn from. */
struct batch_mix {
	uint32_t bad_percent;
	uint32_t keyed_percent; /* of these, one in four with a key, the others with a seq */
	uint32_t large_rows;    /* rows of a large batch, at most */
	bool ddl;
	bool no_killers; /* of the bad ones, none that throws the transaction away */
};

/* The next batch of some client; its id. */
uint32_t history_add(struct history *history, const struct batch_mix *mix, struct random *random);

/* Whether it must succeed. */
bool batch_succeeds(const struct batch *batch);
/* Rows that it leaves in the table `rows`. */
uint32_t batch_rows(const struct batch *batch);
/* … in a database that has all commits up to that number and no other. */
uint32_t batch_rows_in(
	const struct history *history, const struct batch *batch, uint64_t commit_no);
/* Whether the answer may have been given up: below the window, or said to be done. */
bool batch_may_be_expired(const struct history *history, const struct batch *batch);
/* Whether a client may ask for it again. */
bool batch_may_be_asked(const struct history *history, const struct batch *batch);

/* The frame of its message. */
void batch_message(const struct history *history, const struct batch *batch, struct buffer *out);

/* What stands in the column `pad` of a row; its length. */
enum { PAD_MAX = 9000 };
size_t batch_pad(const struct batch *batch, uint32_t part, uint8_t ret_pad[PAD_MAX]);

/*
 * Only the batches below `sent` have been sent, only those up to commit `acked` have been answered,
 * and the commits above `commit_no` have not happened.
 */
void history_cut(struct history *history, size_t sent, uint64_t acked, uint64_t commit_no);

/* The numbers that the database must hold after a commit. */
struct totals {
	int64_t counters[COUNTERS];
	int64_t accounts[ACCOUNTS];
	int64_t parents;
	int64_t tables;
};
void history_totals(const struct history *history, uint64_t commit_no, struct totals *ret_totals);
