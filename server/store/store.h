/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The database, seen from the way of a write: one transaction at a time, steps that run in it under
 * a role, numbered commits. Nothing outside store/ knows that it is SQLite.
 *
 * A store owns the only read-write handle of the database file. It belongs to one thread at a time:
 * the one that opened it may hand it to the writer thread before that starts. Commits and
 * checkpoints both happen on it and nowhere else, which keeps SQLite's WAL-reset bug out of reach.
 *
 * Results: 0 done; a positive store_condition, with the details in the store_error where there is
 * one; negative errno for what nobody can handle.
 */

#include "server/store/value.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct store;
struct dedupe;
struct identity; /* dedupe.h */

/* What a client may do; each includes those before it. `self` is the daemon's own hand. */
enum role { ROLE_NONE, ROLE_STATS, ROLE_QUERY, ROLE_WRITE, ROLE_DDL, ROLE_ADMIN, ROLE_SELF };
const char *role_name(enum role role);

enum store_condition {
	STORE_SQL = 1,     /* SQLite refused the statement: constraint, syntax, no such table … */
	STORE_BAD_REQUEST, /* the step does not fit its statement: too few values, a tail … */
	STORE_DENIED,      /* the role may not do that */
	STORE_GUARD,       /* expect: changes or rows did not come true */
	STORE_TOO_LARGE,   /* more rows or bytes than the caps allow */
	STORE_TIMEOUT,     /* interrupted at the execution deadline */
	STORE_RESOURCE,    /* FULL, NOMEM or IOERR: nobody's guilt, may be tried again */
	STORE_BUSY,        /* begin: another process holds the write lock */
	STORE_UNKNOWN,     /* commit: an I/O error; the commit may or may not survive. Stop. */
	STORE_SNAPSHOT,    /* a guard: something was changed since the client looked */
	STORE_EPOCH,       /* a guard: the client looked at another lineage of the database */
	STORE_NOT_FOUND,   /* a guard: there is no such table; a chunk: none of that name */
	STORE_MISMATCH,    /* the name stands for something else */
};

struct store_error {
	enum store_condition condition;
	int sqlite;       /* extended result code, or 0 */
	char *message;    /* owned; store_error_clear() frees it */
	int64_t row;      /* of a step with many rows, or -1 */
	enum role needed; /* with STORE_DENIED */
};

void store_error_clear(struct store_error *error);
/* Sets a condition with a formatted message. */
__attribute__((format(printf, 4, 5))) int store_error_set(struct store_error *error,
	enum store_condition condition, int sqlite, const char *format, ...);

struct store_options {
	const char *path; /* real path */
	bool create;
	bool sync_full;
	bool foreign_keys;
	const char *extensions; /* comma separated; "" = none */
	uint64_t cache_bytes;
	uint64_t heap_bytes_max; /* of SQLite; a statement that needs more fails. 0: no limit */
	size_t statements_max;
	size_t sql_bytes_max;
	uint32_t session_window;
	bool restored; /* from a replica: clients may know commits that are gone, so a new epoch begins */
	bool poisoned; /* the last run stopped at an I/O error of a commit: re-write before trusting */
};

enum { STORE_ERROR_BYTES = 512, STORE_EPOCH_BYTES = 16, STORE_FORMAT = 4 };

/*
 * Opens, checks, migrates and takes the first commit number of this run. On failure ret_error holds
 * a sentence with cause and cure, and the result is -EINVAL (or -ENOMEM).
 */
int store_open(const struct store_options *options, struct store **ret_store,
	char ret_error[STORE_ERROR_BYTES]);

/* Keeps -wal and -shm, so that readers go on. Accepts NULL. */
void store_close(struct store *store);

/* Facts that do not change while the store is open. */
const uint8_t *store_epoch(const struct store *store);
uint32_t store_page_size(const struct store *store);
const char *store_encoding(const struct store *store);
const char *store_engine_version(void);
const char *store_engine_source(void);
/* True for versions with the WAL-reset bug; out of reach here, but not with a second writer. */
bool store_engine_has_wal_reset_bug(void);
bool store_sync_full(const struct store *store);
bool store_foreign_keys(const struct store *store);

/* The newest commit number. */
uint64_t store_commit_no(const struct store *store);

/* The answers that are remembered for repeats. */
struct dedupe *store_dedupe(struct store *store);

/* ---- transactions ---- */

/* STORE_BUSY, STORE_RESOURCE or 0. */
int store_begin(struct store *store, struct store_error *error);

/*
 * Writes the next commit number and the remembered answers, and commits. 0; STORE_SQL (refused for
 * what a batch did, and nobody was charged with it yet; roll back), STORE_RESOURCE (rolled back),
 * STORE_UNKNOWN.
 */
int store_commit(struct store *store, struct store_error *error);

/* Ends the transaction without a trace, whether or not SQLite has already done so. */
void store_rollback(struct store *store);

/* False as soon as SQLite itself has thrown the transaction away. */
bool store_in_transaction(const struct store *store);

/* One batch inside the transaction. STORE_RESOURCE or 0. */
int store_savepoint(struct store *store, struct store_error *error);
int store_release(struct store *store, struct store_error *error);
int store_rollback_to(struct store *store, struct store_error *error);

/* Deferred foreign key violations that are open in this transaction. */
bool store_deferred_violations(struct store *store);

/* Forgets what the last batch left behind: last_insert_rowid(), changes(), the deadline. */
void store_batch_begin(struct store *store, uint64_t exec_deadline_us);
/* Instructions of the database's virtual machine that a batch may run, about; 0: no limit. */
void store_set_ops_max(struct store *store, uint64_t ops_max);
/* Its steps are over: what follows is ours and is not interrupted. */
void store_batch_end(struct store *store);

/* What the batch did stays, and counts as done by this transaction. */
void store_batch_keep(struct store *store);

/* True once something in this transaction has, or may have, written. */
bool store_dirty(const struct store *store);

/*
 * What a commit has changed: the tables, as the schema spells them, and the channels that were
 * notified in it, each once.
 */
struct store_changes {
	uint64_t commit_no;
	bool all;           /* the schema: every table counts */
	bool channels_lost; /* more channels than could be kept */
	size_t tables_count;
	size_t channels_count;
};

/* Called after each commit that changed or notified something, with the names in no order. */
struct store_observer {
	void (*committed)(void *ctx, const struct store_changes *changes, const char *const *tables,
		const char *const *channels);
	void *ctx;
};

/* At most one; it must not call the store. */
void store_observe(struct store *store, const struct store_observer *observer);

/* ---- guards ---- */

/* A snapshot that a client has read, and the tables that it rests on. */
struct guard {
	const uint8_t *epoch; /* STORE_EPOCH_BYTES; NULL: there is no guard */
	uint64_t commit_no;
	const struct bytes *tables; /* each with a NUL behind it */
	size_t tables_count;        /* 0: all tables */
};

/*
 * In the open transaction, outside the batch's own work: 0 if nothing that the guard names has changed
 * since; STORE_SNAPSHOT, STORE_EPOCH, STORE_NOT_FOUND or STORE_RESOURCE.
 */
int store_check_guard(struct store *store, const struct guard *guard, struct store_error *error);

/* ---- steps ---- */

struct step {
	struct bytes sql; /* valid UTF-8 without NUL */
	uint64_t sql_hash;
	uint32_t runs; /* rows of values; 1 unless `many` */
	uint32_t values_per_run;
	const struct value *values; /* runs * values_per_run */
	const struct bytes *names;  /* the same count, or NULL: bind by place */
	int64_t expect_changes;     /* -1: no guard */
	int64_t expect_rows;        /* -1: no guard */
	uint32_t rows_max;          /* UINT32_MAX: only the caller's cap */
	bool rows_asked;            /* … given by the client */
	uint32_t cursor_rows;       /* 0: no cursor; only in a lease */
	bool many;
	bool truncate;
	bool script;
	bool sliced; /* its rows may be applied in more than one transaction (many.h) */
};

struct columns {
	unsigned count;
	const char *const *names;
	const char *const *types; /* declared types; an entry may be NULL */
};

/* Where rows go. A result other than 0 from row() says: no room for this one. */
struct step_sink {
	void (*columns)(void *ctx, const struct columns *columns);
	int (*row)(void *ctx, const struct value *values, unsigned count);
	void *ctx;
	size_t bytes_max; /* what it takes, for whoever is told that it was too much */
};

struct step_result {
	int64_t changes;
	int64_t total;
	int64_t rowid;
	uint64_t rows;
	bool truncated;
	bool has_columns;
	/*
	 * After a failure: whether it may have left changes behind. SQLite undoes a statement that
	 * fails by itself only where it foresaw the failure; total does not tell.
	 */
	bool unclean;
	/* Of a lease's step: it asks for the end of the transaction, and nothing was done yet. */
	enum { STEP_PLAIN, STEP_COMMITS, STEP_ROLLS_BACK } control;
};

/* Runs one step in the open transaction. A condition leaves what it did to the caller to undo. */
int store_step(struct store *store, enum role role, const struct step *step,
	const struct step_sink *sink, struct step_result *ret_result, struct store_error *error);

/*
 * True if a batch of only this step needs no savepoint: should it fail, it leaves nothing behind
 * and the transaction stands. Never true for a step whose failure could be noticed only after it
 * wrote.
 */
bool store_step_is_atomic(struct store *store, enum role role, const struct step *step);

/* Whether the step's statement is at hand, compiled; never true of a script. */
bool store_step_is_compiled(struct store *store, enum role role, const struct step *step);

/* Whether a statement was compiled, since this was asked last, that took long: deep ones do. */
bool store_compiled_long(struct store *store);

/* True if the step compiles and writes nothing. */
bool store_step_reads_only(struct store *store, enum role role, const struct step *step);

struct description {
	unsigned params;
	bool readonly;
	int64_t tail; /* offset of what follows the first statement, or -1 */
};

/* What a statement is, without running it. The columns go to the sink. */
int store_describe(struct store *store, enum role role, struct bytes sql,
	const struct step_sink *sink, struct description *ret_description,
	struct store_error *error);

/* ---- other hands in the database ---- */

/*
 * What has been noticed of other processes. While there is a doubt no transaction begins
 * (STORE_BUSY) until store_recheck() has dispelled it.
 */
enum store_doubt {
	STORE_DOUBT_NONE,
	STORE_DOUBT_WRITTEN, /* another process has written */
	STORE_DOUBT_FILES,   /* a file was moved, deleted or replaced */
	STORE_DOUBT_LOCKS,   /* our locks on a file are gone */
};

enum store_recheck_end {
	STORE_RECHECK_LATER,   /* it could not be looked at now: try again soon */
	STORE_RECHECK_GOES_ON, /* all is well; a foreign write has begun a new epoch, or `halt` */
	STORE_RECHECK_STANDS,  /* it may not be served like this: refuse, with the text */
	STORE_RECHECK_LEAVE,   /* only a new start can go on: leave, with the text */
};

struct store_recheck {
	enum store_recheck_end end;
	bool halt;      /* the command of a halt has written: the epoch is the same */
	bool orphans;   /* rows violate foreign keys; they may be older than the foreign write */
	bool unchecked; /* the database is too large to be checked in a few seconds */
	char text[STORE_ERROR_BYTES + 64];
};

/*
 * litefunnel halt has the file from now on, until its lock (halt_lock.h) is let go of: what another process commits
 * until then was asked for.
 */
void store_expect_halt(struct store *store);

/* Outside of a transaction. True: another process has written, and store_doubt() says so. */
bool store_look_for_writes(struct store *store);

/* Looks at the files and their locks; a few dozen microseconds. Outside of a transaction. */
void store_look_around(struct store *store);
enum store_doubt store_doubt(const struct store *store);
const char *store_doubt_text(const struct store *store);
void store_recheck(struct store *store, struct store_recheck *ret_recheck);

/*
 * Another process that holds a lock in the way of our transactions: its pid, 0 for one of another
 * pid namespace, or -1: there is none. *ret_file names the file.
 */
pid_t store_find_blocker(struct store *store, char ret_file[STORE_ERROR_BYTES]);

/*
 * How often another process has written or checkpointed since the start, and at it: frames of the
 * WAL may be gone that nobody has shipped.
 */
uint64_t store_foreign_count(const struct store *store);
/* Why the start began a new epoch, or "". */
const char *store_lineage_note(const struct store *store);
/* ---- leases: a transaction that one client holds ---- */

/* What a lease sets for itself; -1: as it is. */
struct lease_settings {
	int foreign_keys;
	int defer_foreign_keys;
	int recursive_triggers;
};

enum { LEASE_CURSORS_MAX = 16 };

/*
 * Begins. As store_begin(), and the conditions of store_check_guard() for a guard that has an epoch.
 * store_lease_end() must follow in any case.
 */
int store_lease_begin(struct store *store, const struct lease_settings *settings,
	const struct guard *guard, struct store_error *error);

/*
 * Runs one step until `exec_deadline_us`. A failure leaves what SQLite leaves, a step of many rows or
 * with a guard nothing. Look at store_in_transaction() after it.
 */
int store_lease_step(struct store *store, enum role role, const struct step *step,
	uint64_t exec_deadline_us, const struct step_sink *sink, struct step_result *ret_result,
	struct store_error *error);

/*
 * A statement that only reads is left standing behind its first rows. *ret_more is true if there is
 * another; then *ret_cursor names it, else it is closed already.
 */
int store_cursor_open(struct store *store, enum role role, const struct step *step,
	uint64_t exec_deadline_us, const struct step_sink *sink, struct step_result *ret_result,
	uint64_t *ret_cursor, bool *ret_more, struct store_error *error);
/* The next rows. STORE_NOT_FOUND: there is no such cursor. */
int store_cursor_fetch(struct store *store, uint64_t id, uint32_t rows, uint64_t exec_deadline_us,
	const struct step_sink *sink, bool *ret_more, struct store_error *error);
int store_cursor_close(struct store *store, uint64_t id, struct store_error *error);

/*
 * Commits, with the answer to remember of that name: 0, or as store_commit(), and it is over. A lease that wrote
 * nothing, with nothing to remember, takes no commit number. STORE_SQL with the code 787: deferred foreign keys do not
 * hold, and the lease goes on; the name is free.
 */
int store_lease_commit(struct store *store, const struct identity *identity, struct bytes payload,
	struct store_error *error);

/*
 * The end, whatever came before: what is not committed is gone, and so are TEMP objects, cursors and
 * settings. Not 0: they are not, and nobody else may use this process's handle.
 */
int store_lease_end(struct store *store, struct store_error *error);

/* Any thread: what runs stops soon, as at its deadline; false: no longer. */
void store_interrupt(struct store *store, bool interrupt);

/* ---- between transactions ---- */

struct checkpoint_stats {
	uint64_t wal_frames;  /* frames that the WAL holds now */
	uint64_t backfilled;  /* of the frames, those that the database already has */
	uint64_t checkpoints; /* runs, since start */
	uint64_t restarts;    /* of these, with RESTART or TRUNCATE because readers never paused */
	uint64_t parts;       /* runs that copied a part of what they could */
	uint64_t pinned;      /* runs in which a reader held back frames */
	bool whole;           /* the last run left nothing in the WAL that the database has not */
};

/* Where the WAL ends: the frame of the last commit. */
struct wal_end {
	uint64_t frames;
	uint32_t salt[2];
	uint32_t checksum[2]; /* of the last frame */
	uint32_t pages;       /* of the database after it */
};

/* 0; -ENODATA: no commit since the start, or the file is not the one that was written. */
int store_wal_end(struct store *store, struct wal_end *ret_end);

/* True if store_checkpoint_if_due() would do anything. */
bool store_checkpoint_is_due(const struct store *store, uint64_t threshold);

/* A part was copied, and the next one is due soon, whether or not more is committed. */
bool store_checkpoint_rests(const struct store *store);

/* Copies the WAL into the database if it has grown past `threshold` frames; bounded, never on a commit. */
int store_checkpoint_if_due(struct store *store, uint64_t threshold, struct store_error *error);

/* Copies all of the WAL and gives its room back, if no reader is in the way. */
int store_checkpoint_cut(struct store *store, struct store_error *error);
/* The same at once, whatever is due. STORE_UNKNOWN after an I/O error: no second try. */
int store_checkpoint(struct store *store, struct store_error *error);
struct checkpoint_stats store_checkpoint_stats(const struct store *store);

/* After the last commit of a burst: moves the read mark that read-only openers cannot move. */
void store_settle(struct store *store);
