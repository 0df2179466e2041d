/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What transactions change: the tables that they write to, and the channels that they notify. From
 * it follows which commit changed a table last, for batches that are guarded by a snapshot, and
 * what those who watch are told.
 *
 * What is written is collected for the batch that runs; only a batch that is kept adds to the
 * transaction, and only a transaction that commits counts. Names are looked at without regard to
 * case, as SQL does. A shadow table stands for its virtual table. A change of the schema touches all
 * tables. It errs on one side only: a table may count as changed that was not.
 *
 * The writer's thread only.
 */

#include "server/store/store.h"

#include <sqlite3.h>

enum {
	TOUCHED_BUCKETS = 256,
	TOUCHED_TABLES_MAX = 10000, /* more are forgotten, and all count as changed */
	TOUCHED_TOLD_MAX = 256,     /* a commit of more tables is told as one of all */
	TOUCHED_CHANNELS_MAX = 1000,
	TOUCHED_CHANNEL_BYTES_MAX = 255,
};

struct touched_table {
	struct touched_table *next_in_bucket;
	struct touched_table *next_in_batch;
	struct touched_table *next_in_transaction;
	struct touched_table *owner; /* of a shadow table; else itself; NULL: not looked up yet */
	enum { SHOWS_UNKNOWN, SHOWS_ITSELF, SHOWS_OTHERS } shows; /* see SQL_SHOWS_OTHERS */
	uint64_t batch;       /* the last one that wrote to it, by serial number */
	uint64_t transaction; /* … that was kept in */
	uint64_t commit_no;   /* … that committed; 0: none since the tables were forgotten */
	char name[];
};

struct touched_channel {
	struct touched_channel *next;
	char name[];
};

/* A savepoint of a lease's client, and how many channels were notified before it. */
struct touched_mark {
	struct touched_mark *outer;
	uint64_t name;
	size_t channels_count;
};

/* What one batch, or the kept ones of a transaction, have changed. */
struct touched_set {
	struct touched_table *tables;
	struct touched_channel *channels;
	size_t channels_count;
	bool all;           /* the schema, so every table */
	bool channels_lost; /* there were more than can be kept */
};

struct touched {
	struct store *store;
	sqlite3_stmt *is_shadow;
	sqlite3_stmt *shows_others;
	struct touched_table *buckets[TOUCHED_BUCKETS];
	size_t count;
	struct touched_table *last; /* most rows of a statement go to one table */
	uint64_t batch;
	uint64_t transaction;
	struct touched_set of_batch;
	struct touched_set of_transaction;
	struct touched_mark *marks; /* the innermost first */
	bool unlearn; /* the schema has changed: what is known of shadow tables may be wrong */
	bool forget;  /* … for good: all tables count as changed by that, so none need be kept */
	/* Every table counts as changed at least by this commit. */
	uint64_t floor;
	uint64_t newest; /* the last commit that changed a table */
};

/*
 * On a new handle of the store, before anything is prepared on it: SQLite compiles other code with a
 * hook than without. The handle also learns the function lf_notify().
 */
void touched_install(struct touched *touched, struct store *store);

/* Once statements can be prepared. SQLite's code. */
int touched_prepare(struct touched *touched);

/* Before the handle is closed: lets go of it, but keeps what is known. */
void touched_uninstall(struct touched *touched);
void touched_finish(struct touched *touched);

/* Every table counts as changed by that commit. */
void touched_everything(struct touched *touched, uint64_t commit_no);

void touched_begin(struct touched *touched);
void touched_batch_begin(
	struct touched *touched); /* what the last batch did is dropped, unless kept */
void touched_batch_keep(struct touched *touched);
void touched_batch_unsay(struct touched *touched); /* what it notified is undone */

/*
 * Savepoints of a lease: what was notified behind one that is gone back to is not told. Tables stay; they
 * may count as changed. A name is known by touched_name(), which looks at it as SQLite does.
 */
uint64_t touched_name(const char *savepoint);
void touched_savepoint(struct touched *touched, uint64_t name);
void touched_release(struct touched *touched, uint64_t name);
void touched_rewind(struct touched *touched, uint64_t name);

void touched_schema(struct touched *touched); /* the batch has changed it */
void touched_committed(struct touched *touched, uint64_t commit_no);
void touched_rolled_back(struct touched *touched);

/* After touched_committed(): tells of what the transaction changed, if anything. */
void touched_tell(
	struct touched *touched, uint64_t commit_no, const struct store_observer *observer);

/*
 * The last commit that changed that table: UINT64_MAX if the open transaction has, before this batch.
 * -ENOENT: there is no such table of a user's; -EIO: it could not be looked up.
 */
int touched_when(struct touched *touched, const char *name, uint64_t *ret_commit_no);

/* The same for any table. */
uint64_t touched_any(const struct touched *touched);
