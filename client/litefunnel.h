/* SPDX-License-Identifier: MIT */
#ifndef LITEFUNNEL_H
#define LITEFUNNEL_H

/*
 * liblitefunnel: write to a SQLite database through its litefunnel daemon, and read it directly.
 *
 *	lf_db *db = NULL;
 *	lf_reply *reply = NULL;
 *	lf_batch *batch = lf_batch_new();
 *
 *	lf_open("app.db", NULL, &db);
 *	lf_batch_step(batch, "INSERT INTO visit(path, at) VALUES (?, ?)");
 *	lf_bind_text(batch, "/home", -1);
 *	lf_bind_int64(batch, 1795343655);
 *	if (lf_write(db, batch, &reply) != LF_OK) {
 *		fprintf(stderr, "%s\n", lf_reply_message(reply));
 *	}
 *	lf_reply_free(reply);
 *	lf_batch_free(batch);
 *	lf_close(db);
 *
 * Threads. An lf_db, with everything it made, belongs to one thread at a time: give each thread its
 * own. An lf_batch and an lf_reply may be handed from thread to thread. The library has no global
 * state, starts no thread, touches no signal, writes no log and never calls exit().
 *
 * fork(). After fork() the child may go on using its copy of an lf_db: the library sees the new
 * pid, closes the inherited socket without a word on it, opens a new one and begins a session of
 * its own. Requests that were in flight belong to the parent; in the child they are UNKNOWN.
 *
 * Results. Functions that return int return 0 when they did what they say; a negative errno value
 * when they could not for a reason on this side (-EINVAL for misuse, -ENOMEM); a positive value
 * only where its meaning stands at the function.
 *
 * Strings that are passed in are copied. Strings that come back belong to the object that they came
 * from and live as long as it does. Text is UTF-8 unless the database says otherwise.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sqlite3;

typedef struct lf_db lf_db;         /* a client of one database */
typedef struct lf_batch lf_batch;   /* statements that are applied all or none */
typedef struct lf_reply lf_reply;   /* what became of a request */
typedef struct lf_lease lf_lease;   /* a transaction that this client holds */
typedef struct lf_change lf_change; /* what a watch was told */

/*
 * The three outcomes of a request. There are never two.
 */
enum lf_outcome {
	LF_OK = 0,     /* applied, and durable as lf_reply_durability() says */
	LF_FAILED = 1, /* surely not applied */
	/*
	 * Nobody can tell: the daemon could not be reached again before the deadline, or it lost
	 * the answer. Ask the database. The library has already retried as far as that is safe.
	 */
	LF_UNKNOWN = 2,
};

enum lf_applied {
	LF_APPLIED_NO = 0,
	LF_APPLIED_YES = 1,
	LF_APPLIED_UNKNOWN = 2,
};

/* The storage classes of SQLite, with its numbers. */
enum lf_type {
	LF_INTEGER = 1,
	LF_FLOAT = 2,
	LF_TEXT = 3,
	LF_BLOB = 4,
	LF_NULL = 5,
};

/*
 * How to connect. Begin with LF_OPTIONS_INIT, which sets `size`, so that a program that was
 * compiled with an older header keeps working. A zero or NULL means the default.
 */
struct lf_options {
	size_t size;
	/* The daemon's socket. Default: LITEFUNNEL_SOCKET, else realpath(database) + "-funnel". */
	const char *socket_path;
	const char *client; /* "name/version", shown in `show clients`; default "liblitefunnel/…" */
	const char *label; /* what this process does, shown to whoever waits for it */
	/* "interactive", "normal" or "bulk"; default: what the daemon gives this user. */
	const char *request_class;
	/*
	 * Milliseconds that a request may take from submit to answer, reconnects and retries
	 * included. Default 30000. The daemon is told, and ends by it what has not begun; its answer
	 * is waited for a moment longer, up to 1 s; of a verb and of lf_batch_ack_shipped() 5 s.
	 */
	uint32_t deadline_ms;
	/*
	 * Without exactly-once: nothing is stored for a repeat, nothing is retried once it was
	 * sent, and a lost connection means UNKNOWN. Cheaper; for writes that may be lost or
	 * doubled.
	 */
	bool no_retry;
	/*
	 * Milliseconds beyond the deadline for which the daemon's answer is waited for at least, where it
	 * has the request and the connection stands: who would rather wait than hear UNKNOWN. Default 0.
	 */
	uint32_t grace_ms;
};

#define LF_OPTIONS_INIT                                                                            \
	{                                                                                          \
		sizeof(struct lf_options), NULL, NULL, NULL, NULL, 0, false, 0                     \
	}

/* ---- the client ------------------------------------------------------------------------------ */

/*
 * Makes a client for the database at `path`. Does not connect: the first request does, and waits
 * for the daemon up to its deadline, so that a client may start before it.
 *
 * 0, -ENOMEM, -EINVAL (bad options), or -ENAMETOOLONG (the socket's path is over 107 bytes: set
 * socket_path).
 */
int lf_open(const char *path, const struct lf_options *options, lf_db **ret_db);

/*
 * Says goodbye if nothing is unanswered, so that the daemon may forget the session, and frees
 * everything. Requests in flight are abandoned. Accepts NULL.
 */
void lf_close(lf_db *db);

/* The version of the library at run time, "0.1.0". */
const char *lf_version(void);

/* The socket that this client uses. */
const char *lf_socket_path(const lf_db *db);

/*
 * Why the connection is down or the last call returned a negative value, in words that name the
 * thing and the cure; "" if there is nothing to say. Valid until the next call with this db.
 */
const char *lf_errmsg(const lf_db *db);

/* ---- batches --------------------------------------------------------------------------------- */

/*
 * A batch is a list of steps; a step is one SQL statement, with values for its parameters. All
 * steps are applied together or not at all, also across a crash of the daemon or the machine.
 *
 * The builders return nothing and remember their first failure (-ENOMEM, -EMSGSIZE for more than a
 * frame holds, -EINVAL for a value before any step); lf_write() and lf_submit() then return it. A
 * batch may be sent any number of times.
 */
lf_batch *lf_batch_new(void); /* NULL: out of memory */
void lf_batch_free(lf_batch *batch);
void lf_batch_clear(lf_batch *batch); /* empty again: steps, options and failure forgotten */
size_t lf_batch_steps(const lf_batch *batch);

/* Begins a step. The binders below give values to its parameters in order. */
void lf_batch_step(lf_batch *batch, const char *sql);

/* A step of several statements separated by semicolons; it takes no values. */
void lf_batch_script(lf_batch *batch, const char *sql);

void lf_bind_null(lf_batch *batch);
void lf_bind_int64(lf_batch *batch, int64_t value);
void lf_bind_double(lf_batch *batch, double value);                /* NaN becomes NULL */
void lf_bind_text(lf_batch *batch, const char *text, ssize_t len); /* len < 0: up to the NUL */
void lf_bind_blob(lf_batch *batch, const void *data, size_t len);  /* copied */

/* The next value goes to the parameter :name, @name or $name (give it without the prefix). */
void lf_bind_name(lf_batch *batch, const char *name);

/*
 * Ends one row of values and begins the next: the statement runs once for each row. After the last
 * row no call is needed.
 */
void lf_batch_row(lf_batch *batch);

/*
 * The rows of the step may be applied in slices of a few milliseconds, in order, with everybody's writes
 * between: for very many rows that need not be all or none. It must be the batch's only step, without
 * rows that come back and without a guard; the daemon's features name it "atomic". It is still applied
 * once, whoever is killed: what is sent again goes on where it stood. If a row fails, those before it
 * stay: the outcome is LF_UNKNOWN, lf_reply_retry() false, and lf_reply_failed_row() tells how many
 * are applied (LF_FAILED, if none is).
 */
void lf_batch_sliced(lf_batch *batch);

/*
 * The step must change, or return, exactly that many rows, or the whole batch fails with "guard".
 */
void lf_expect_changes(lf_batch *batch, int64_t changes);
void lf_expect_rows(lf_batch *batch, int64_t rows);

/*
 * At most `max` rows come back from this step. More is an error ("too_large", batch undone), unless
 * `truncate` is set.
 */
void lf_rows_max(lf_batch *batch, uint32_t max, bool truncate);

/*
 * A key of your own, instead of the session's number: the batch is applied once within the daemon's
 * key_ttl (24 h) however often and by whichever process of this user it is sent with this key. For
 * work that outlives a process. At most 255 bytes.
 */
void lf_batch_key(lf_batch *batch, const char *key);

/*
 * A guard on what was read: the batch is applied only if the tables named by lf_batch_if_table() have
 * not changed since commit number `commit` of `epoch` (16 bytes), else it fails with the code
 * "snapshot_changed" ("epoch_changed" after a restore): read again, decide anew, and send another.
 * Without a table it guards the whole database. Both numbers stand in the snapshot itself: read
 *
 *	SELECT epoch, commit_no FROM _lf_state
 *
 * in the read transaction in which the rest is read. No lock is held in between. Tables, not views; a
 * table that does not exist is "not_found". lf_batch_if_table() after lf_batch_if_commit() only.
 */
void lf_batch_if_commit(lf_batch *batch, const uint8_t *epoch, uint64_t commit);
void lf_batch_if_table(lf_batch *batch, const char *table);

void lf_batch_deadline(lf_batch *batch, uint32_t deadline_ms); /* instead of the client's */
void lf_batch_class(lf_batch *batch, const char *request_class);

/* Answer only when the commit is also on every replica that counts (ack "shipped"). */
void lf_batch_ack_shipped(lf_batch *batch);

/* ---- writing --------------------------------------------------------------------------------- */

/*
 * Sends a batch and waits for what becomes of it: LF_OK, LF_FAILED or LF_UNKNOWN, each with a
 * reply; or a negative errno value, without one: nothing was sent then.
 *
 * A daemon that is restarted meanwhile is not noticed by the caller, unless the deadline passes.
 */
int lf_write(lf_db *db, const lf_batch *batch, lf_reply **ret_reply);

/* One statement without values, as lf_write(). ret_reply may be NULL. */
int lf_exec(lf_db *db, const char *sql, lf_reply **ret_reply);

/*
 * Pipelining. lf_submit() queues a batch and returns at once; the ticket names it. It does no I/O:
 * lf_wait(), lf_process() or lf_flush() do.
 *
 * 0, a negative errno value (-EBUSY: a lease of this client is open), or 1: as many requests are unanswered
 * as the session window allows; collect some answers first.
 */
int lf_submit(lf_db *db, const lf_batch *batch, uint64_t *ret_ticket);

/*
 * Waits for that ticket's answer; returns as lf_write(), or -ENOENT for a ticket that is not open.
 */
int lf_wait(lf_db *db, uint64_t ticket, lf_reply **ret_reply);

/* The next answer in the order of arrival, without waiting: 0 and a reply, or 1: none yet. */
int lf_next(lf_db *db, lf_reply **ret_reply);

/* Tickets without an answer yet. */
size_t lf_pending(const lf_db *db);

/*
 * Asks the daemon not to begin that request any more. The answer still comes: "cancelled" if it was
 * in time, else what became of it. 0 or -ENOENT.
 */
int lf_cancel(lf_db *db, uint64_t ticket);

/*
 * In somebody else's event loop. Watch lf_fd() for lf_events() (POLLIN, POLLOUT), and call
 * lf_process() when it is ready or lf_timeout_ms() has passed; then collect with lf_next(). The fd
 * changes with every reconnect and is -1 between two attempts: ask again after each call.
 *
 * lf_process() never blocks. 0, or -ENOMEM.
 */
int lf_fd(const lf_db *db);
int lf_events(const lf_db *db);
int lf_timeout_ms(const lf_db *db); /* -1: no timer is running */
int lf_process(lf_db *db);

/* Connects if need be and sends what is queued, waiting at most timeout_ms. 0 or -ETIMEDOUT. */
int lf_flush(lf_db *db, int timeout_ms);

/* ---- other requests -------------------------------------------------------------------------- */

/*
 * These wait for their answer like lf_write() and return like it.
 *
 * lf_ping: the newest commit number. lf_show: one of the daemon's tables, as step 0 of the reply.
 * lf_describe: what a statement is, without running it (lf_reply_field_*). lf_admin: a verb
 * without parameters ("reload", "resume", "checkpoint", "shutdown"); it needs the role admin.
 * lf_admin_int64: one with a number ("pause" with "for_ms", "kill" with "id").
 */
int lf_ping(lf_db *db, lf_reply **ret_reply);
int lf_show(lf_db *db, const char *what, const char *like, lf_reply **ret_reply);
int lf_describe(lf_db *db, const char *sql, lf_reply **ret_reply);
int lf_admin(lf_db *db, const char *verb, lf_reply **ret_reply);
int lf_admin_int64(
	lf_db *db, const char *verb, const char *key, int64_t value, lf_reply **ret_reply);

/* What the daemon said in its hello; "" or 0 before the first connection. */
const char *lf_server_version(const lf_db *db);
const char *lf_server_role(const lf_db *db);
bool lf_server_feature(const lf_db *db, const char *feature);
uint64_t lf_server_limit(const lf_db *db, const char *name); /* 0: the daemon names no such limit */

/* ---- replies --------------------------------------------------------------------------------- */

void lf_reply_free(lf_reply *reply); /* accepts NULL */

enum lf_outcome lf_reply_outcome(const lf_reply *reply);
uint64_t lf_reply_ticket(const lf_reply *reply);

/* An error's code ("sql", "guard", "deadline", …), or "" on success. */
const char *lf_reply_code(const lf_reply *reply);
/* SQLite's own text for "sql", else words that name thing, cause and cure; "" on success. */
const char *lf_reply_message(const lf_reply *reply);
enum lf_applied lf_reply_applied(const lf_reply *reply);
bool lf_reply_retry(const lf_reply *reply);          /* the same request may succeed later */
int lf_reply_sqlite_code(const lf_reply *reply);     /* the extended result code, or 0 */
int64_t lf_reply_failed_step(const lf_reply *reply); /* -1: no step in particular */
int64_t lf_reply_failed_row(const lf_reply *reply);  /* -1: no row in particular */

/* The commit that holds the batch, and the lineage of the database that this number belongs to. */
uint64_t lf_reply_commit(const lf_reply *reply);
const uint8_t *lf_reply_epoch(const lf_reply *reply); /* 16 bytes, or NULL */
/*
 * "full": survives a power loss. "normal": survives a crash of the program. "shipped". "" = none.
 */
const char *lf_reply_durability(const lf_reply *reply);
bool lf_reply_repeat(const lf_reply *reply); /* answered from memory: applied by an earlier send */
bool lf_reply_rows_lost(const lf_reply *reply); /* a repeat whose rows were too large to be kept */

/* Where the time went, in microseconds, and how many batches shared the commit group. */
uint64_t lf_reply_queued_us(const lf_reply *reply);
uint64_t lf_reply_exec_us(const lf_reply *reply);
uint64_t lf_reply_commit_us(const lf_reply *reply);
uint64_t lf_reply_group(const lf_reply *reply);

/* Step results. An index out of range reads as 0, NULL or LF_NULL. */
size_t lf_reply_steps(const lf_reply *reply);
int64_t lf_reply_changes(const lf_reply *reply, size_t step); /* sqlite3_changes64() */
int64_t lf_reply_total(const lf_reply *reply, size_t step);   /* triggers and cascades included */
int64_t lf_reply_rowid(const lf_reply *reply, size_t step);   /* last_insert_rowid() */
bool lf_reply_truncated(const lf_reply *reply, size_t step);
size_t lf_reply_columns(const lf_reply *reply, size_t step);
const char *lf_reply_column(const lf_reply *reply, size_t step, size_t column);
const char *lf_reply_decltype(const lf_reply *reply, size_t step, size_t column); /* or NULL */
size_t lf_reply_rows(const lf_reply *reply, size_t step);
enum lf_type lf_reply_type(const lf_reply *reply, size_t step, size_t row, size_t column);
int64_t lf_reply_int64(const lf_reply *reply, size_t step, size_t row, size_t column);
double lf_reply_double(const lf_reply *reply, size_t step, size_t row, size_t column);
/* TEXT or BLOB: the bytes, not terminated; *ret_len may be NULL for text that holds no NUL. */
const char *lf_reply_text(
	const lf_reply *reply, size_t step, size_t row, size_t column, size_t *ret_len);
const void *lf_reply_blob(
	const lf_reply *reply, size_t step, size_t row, size_t column, size_t *ret_len);

/*
 * Any other key of a result map, or of an error ("params", "readonly", "tail", …): true if it is
 * there. "waited_for.pid" is the key of a map in it: a request that waited long is told for whom,
 * with what, pid, uid, label and sql.
 */
bool lf_reply_field_int64(const lf_reply *reply, const char *key, int64_t *ret_value);
bool lf_reply_field_text(
	const lf_reply *reply, const char *key, const char **ret_text, size_t *ret_len);

/* ---- watching -------------------------------------------------------------------------------- */

/*
 * Begins to watch: each commit that changes one of the tables, or in which somebody notified one of
 * the channels by the SQL function lf_notify('channel'), is told by lf_next_change(). Both lists end
 * with NULL; two NULLs stand for everything. Nothing is told of a batch that was undone. Tables need
 * not exist yet.
 *
 * A watch outlives connections: the library connects again by itself and asks anew, and what happened
 * in between is told as a range of missed commits. After fork() the child has no watches.
 *
 * Waits for the daemon's answer. 0; -ETIMEDOUT: none came before the deadline; -EACCES: it was refused,
 * lf_errmsg() says why; -ENOMEM.
 */
int lf_watch(
	lf_db *db, const char *const *tables, const char *const *channels, uint64_t *ret_watch);

/* Ends a watch. 0 or -ENOENT. */
int lf_unwatch(lf_db *db, uint64_t number);

enum lf_change_kind {
	LF_CHANGE_COMMIT = 1, /* a commit that was asked for */
	/*
	 * Commits from lf_change_from() to lf_change_commit() may have been ones: look into the
	 * database. After a lost connection, or when changes were collected too slowly.
	 */
	LF_CHANGE_MISSED = 2,
	LF_CHANGE_ENDED = 3, /* the daemon refuses to go on: lf_change_message() says why */
};

/*
 * The next change, in the order of commits; to be freed. Waits at most timeout_ms (0: not at all, -1: for
 * ever). 0 and a change, or 1: none yet. In an event loop lf_fd(), lf_events(), lf_timeout_ms() and
 * lf_process() serve as for requests, and after each lf_process() this is called with 0 until it says 1.
 */
int lf_next_change(lf_db *db, int timeout_ms, lf_change **ret_change);
void lf_change_free(lf_change *change); /* accepts NULL */

enum lf_change_kind lf_change_kind(const lf_change *change);
uint64_t lf_change_watch(const lf_change *change);
uint64_t lf_change_from(const lf_change *change);
uint64_t lf_change_commit(const lf_change *change); /* the commit, or the last of those missed */
bool lf_change_schema(const lf_change *change); /* the schema has changed, so perhaps anything */
size_t lf_change_tables(const lf_change *change);
const char *lf_change_table(const lf_change *change, size_t index); /* NULL: out of range */
size_t lf_change_channels(const lf_change *change);
const char *lf_change_channel(const lf_change *change, size_t index);
const char *lf_change_message(const lf_change *change);

/* ---- leases ---------------------------------------------------------------------------------- */

/*
 * A lease is an interactive transaction: statements are sent one by one, and what is sent next may depend
 * on what came back. While it is open everybody else's writes wait for it, so the daemon ends it when its
 * client thinks for too long (5 s, 30 s in all, unless configured; ten times as much while nobody waits),
 * and at once when its client is gone. A batch is better wherever it will do; so is a batch with
 * lf_batch_if_commit() after a local read.
 *
 *	lf_lease *lease = NULL;
 *	lf_reply *reply = NULL;
 *	if (lf_lease_begin(db, NULL, &lease, NULL) == LF_OK) {
 *		lf_lease_exec(lease, "SELECT sum(amount) FROM entry WHERE account = 7", &reply);
 *		int64_t sum = lf_reply_int64(reply, 0, 0, 0);
 *		lf_reply_free(reply);
 *		if (sum >= 100) {
 *			lf_lease_exec(lease, "INSERT INTO entry(account, amount) VALUES (7, -100)", NULL);
 *		}
 *		if (lf_lease_commit(lease, &reply) != LF_OK) {
 *			fprintf(stderr, "%s\n", lf_reply_message(reply));
 *		}
 *		lf_reply_free(reply);
 *	}
 *	lf_lease_free(lease);
 *
 * A client has one open lease at a time, and lf_write() is refused meanwhile (-EBUSY): a program that
 * wants both makes two lf_db. Reads by lf_reader() go on, and see what was committed before. Statements may
 * be what a batch may hold, and SAVEPOINT, RELEASE, ROLLBACK TO, and TEMP objects, which go with the lease.
 * A step that is COMMIT or ROLLBACK ends the lease, as the calls do.
 *
 * Outcomes. A statement that fails is LF_FAILED and leaves the lease as SQLite leaves it, open in most
 * cases: lf_lease_open() tells. Until its commit was sent, a lease is never UNKNOWN: whatever happens to
 * the connection or the daemon, nothing of it is kept, and its next request is LF_FAILED with the code
 * "lease_gone" ("lease_expired" at a limit). Begin it anew then. A commit whose answer is lost is asked
 * for again by the library, also of the next daemon: OK or FAILED, and UNKNOWN at its deadline only.
 *
 * Threads: a lease belongs to its lf_db. fork(): it stays with the parent; in the child it is over.
 * Begin the options with LF_LEASE_OPTIONS_INIT.
 */
enum lf_switch { LF_AS_IS = 0, LF_ON = 1, LF_OFF = 2 };

struct lf_lease_options {
	size_t size;
	const char *label;         /* shown to whoever waits for it; default: the client's */
	const char *request_class; /* default: the client's */
	uint32_t deadline_ms;      /* how long begin may wait for its turn; default: the client's */
	/*
	 * A key of your own for the whole lease, as lf_batch_key(): it is committed once however often
	 * it is done over, also by another process after a crash. If it was committed before,
	 * lf_lease_commit() says so (lf_reply_repeat()) and what this one did is undone.
	 */
	const char *key;
	/*
	 * Begins only if the tables in at_tables (ends with NULL; NULL: all) have not changed since commit
	 * number at_commit of at_epoch (16 bytes), as lf_batch_if_commit(): else "snapshot_changed".
	 */
	const uint8_t *at_epoch;
	uint64_t at_commit;
	const char *const *at_tables;
	/* For this lease alone; SQLite takes the first and the last only before a transaction. */
	enum lf_switch foreign_keys;
	enum lf_switch defer_foreign_keys;
	enum lf_switch recursive_triggers;
};

#define LF_LEASE_OPTIONS_INIT                                                                      \
	{                                                                                          \
		sizeof(struct lf_lease_options), NULL, NULL, 0, NULL, NULL, 0, NULL, LF_AS_IS,     \
			LF_AS_IS, LF_AS_IS                                                         \
	}

/*
 * Waits for its turn in the queue, as a write does, and returns as lf_write(). options may be NULL, and
 * ret_reply too. A lease is made with LF_OK only, and is to be freed. Its reply's lf_reply_commit() is the
 * snapshot that it sees. Negative: -EBUSY, another lease of this client is open; -EINVAL; -ENOMEM.
 */
int lf_lease_begin(lf_db *db, const struct lf_lease_options *options, lf_lease **ret_lease,
	lf_reply **ret_reply);

/*
 * One statement: a batch of one step, with its values, expectations and limits. Key, class and guard of
 * the batch mean nothing here; its deadline bounds the statement, which ends the lease if it passes. The
 * result is step 0 of the reply. Returns as lf_write(); ret_reply may be NULL.
 */
int lf_lease_step(lf_lease *lease, const lf_batch *step, lf_reply **ret_reply);
int lf_lease_exec(lf_lease *lease, const char *sql, lf_reply **ret_reply); /* without values */

/*
 * A large result piece by piece: lf_lease_read() gives the first `rows` rows of a statement that only reads,
 * lf_lease_fetch() the next. *ret_cursor, *cursor: 0 when there are no more, and the cursor is closed
 * then. lf_lease_close() ends one early. At most 16 are open; they end with the lease.
 */
int lf_lease_read(lf_lease *lease, const lf_batch *step, uint32_t rows, uint64_t *ret_cursor,
	lf_reply **ret_reply);
int lf_lease_fetch(lf_lease *lease, uint64_t *cursor, uint32_t rows, lf_reply **ret_reply);
int lf_lease_close(lf_lease *lease, uint64_t cursor, lf_reply **ret_reply);

/*
 * The end. After a commit that fails with SQLite's code 787, deferred foreign keys, the lease is still open:
 * mend it and commit again, or roll back. Whatever a rollback returns, nothing of a lease is kept that was
 * not committed before. What is asked of a lease that is over is FAILED ("lease_gone"): that request did
 * nothing, and its message says what became of the lease.
 */
int lf_lease_commit(lf_lease *lease, lf_reply **ret_reply);
int lf_lease_rollback(lf_lease *lease, lf_reply **ret_reply);

/* Whether it takes requests, as far as is known without asking. */
bool lf_lease_open(const lf_lease *lease);

/* Rolls back what is still open, without waiting. Before lf_close(). Accepts NULL. */
void lf_lease_free(lf_lease *lease);

/*
 * Pipelining, as lf_submit(): each queues its request and returns at once, 0 and a ticket, or 1: collect
 * answers first. All of a lease may be sent so without waiting for its begin; if that fails, so does the
 * rest, surely not applied. Behind a commit or rollback the next write or lease may be submitted. The lease
 * may be freed before its tickets are collected: what was not sent by then is "lease_gone".
 */
int lf_lease_submit_begin(lf_db *db, const struct lf_lease_options *options, lf_lease **ret_lease,
	uint64_t *ret_ticket);
int lf_lease_submit_step(lf_lease *lease, const lf_batch *step, uint64_t *ret_ticket);
int lf_lease_submit_commit(lf_lease *lease, uint64_t *ret_ticket);
int lf_lease_submit_rollback(lf_lease *lease, uint64_t *ret_ticket);

/* ---- long statements ------------------------------------------------------------------------- */

/*
 * A chunk is one UPDATE, DELETE or INSERT … SELECT that the daemon runs in slices of a few
 * milliseconds, with everybody's batches between. It is all or none only slice by slice, goes on by
 * itself after any end of the daemon, walks each row that was there at the start once, and does not
 * need its client. Begin with LF_CHUNK_OPTIONS_INIT.
 */
struct lf_chunk_options {
	size_t size;
	/* The column along which the rows are walked: unique and never NULL. Default: the INTEGER
	 * PRIMARY KEY. */
	const char *by;
	uint32_t
		slice_ms; /* how long a slice may hold the writer; default: the daemon's slice_ms */
	uint32_t rate;    /* at most so many rows a second; 0: no limit */
};

#define LF_CHUNK_OPTIONS_INIT                                                                      \
	{                                                                                          \
		sizeof(struct lf_chunk_options), NULL, 0, 0                                        \
	}

/*
 * Begins a chunk: the batch is one step with its values. The name is yours, per user: the same name
 * with the same statement finds the chunk that there is, also one that has ended (it is remembered
 * for the daemon's key_ttl); with another statement it fails ("key_mismatch"). A statement that cannot
 * be cut safely fails ("bad_request") with the reason and what would help. options may be NULL.
 *
 * Returns like lf_write(), before the first slice. The fields of the reply (lf_reply_field_*): text
 * "state" (running, paused, done, cancelled, failed) and "error"; integers "rows" looked at, "of" so
 * many in all, about, "changes", "slices", "rate" in rows a second, "eta_ms".
 */
int lf_chunk(lf_db *db, const char *name, const lf_batch *batch,
	const struct lf_chunk_options *options, lf_reply **ret_reply);

/*
 * op: "pause", "resume" (also what has failed, once the cause is gone) or "cancel" (what was done
 * stays). Of one's own chunks; an admin's also others'. rate: a new limit, 0: as it is.
 */
int lf_chunk_control(
	lf_db *db, const char *name, const char *op, uint32_t rate, lf_reply **ret_reply);

/* Answers when the chunk does not run any more, at the latest after wait_ms: "state" tells. */
int lf_chunk_wait(lf_db *db, const char *name, uint32_t wait_ms, lf_reply **ret_reply);

/* ---- reading --------------------------------------------------------------------------------- */

/*
 * The local read-only handle of this client. Call it before each transaction: it opens the database
 * the first time, and again when the file was replaced (another inode, or another epoch after a
 * restore). The handle belongs to db: do not close it, and reset or finalize your statements before
 * you call again: prepared statements die with a handle that is reopened.
 *
 * Every read sees everything that was acknowledged to anybody before it began. A read transaction
 * left open keeps its snapshot and keeps the WAL from shrinking: finish it.
 *
 * It needs read permission on the database, its -wal and -shm, and no daemon.
 *
 * 0, 1 if the handle is another than last time, or -EIO with lf_errmsg().
 */
int lf_reader(lf_db *db, struct sqlite3 **ret_reader);

/*
 * Waits until local reads see commit number `commit`, for a number that another process passed on.
 * 0; -ETIMEDOUT; -EIO as lf_reader(); or -ESTALE: the database has another epoch than `epoch` (16
 * bytes; NULL: do not compare), so the number means nothing in it.
 */
int lf_wait_commit(lf_db *db, const uint8_t *epoch, uint64_t commit, int timeout_ms);

/* The snapshot that a local read would see now. epoch: room for 16 bytes, or NULL. 0 or -EIO. */
int lf_snapshot(lf_db *db, uint8_t *ret_epoch, uint64_t *ret_commit);

#ifdef __cplusplus
}
#endif

#endif
