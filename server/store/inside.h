/* SPDX-License-Identifier: MIT */
#pragma once

/* What a store is made of: for the files of store/ only. */

#include "server/store/authorizer.h"
#include "server/store/bind.h"
#include "server/store/dedupe.h"
#include "server/store/stmt.h"
#include "server/store/store.h"
#include "server/store/touched.h"

#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <time.h>

/* The daemon's own statements, prepared once. The table of their texts stands in store.c. */
enum own {
	OWN_BEGIN,
	OWN_COMMIT,
	OWN_ROLLBACK,
	OWN_SAVEPOINT,
	OWN_RELEASE,
	OWN_ROLLBACK_TO,
	OWN_NUMBER,
	OWN_NO_CHANGES,
	OWN_SETTLE,
	OWN_COUNT,
};

enum { STORE_OWN_NAME_BYTES = 32 };

/* Of a row of sqlite_schema: a virtual table that keeps its text in another table, or shows what is in others. */
#define SQL_SHOWS_OTHERS                                                                           \
	"sql LIKE 'CREATE VIRTUAL TABLE%' AND (sql LIKE '%fts5vocab%' OR sql LIKE '%fts4aux%'"     \
	" OR sql LIKE '%dbstat%' OR (sql LIKE '%content%' AND"                                     \
	" replace(replace(sql, ' ', ''), '\"', '''') NOT LIKE '%content=''''%'))"

struct wal {
	int fd;                /* our own, to read from; -1: not opened yet */
	uint64_t frames;       /* in the WAL after the last commit, as the hook said */
	uint64_t backfilled;   /* of these, in the database */
	uint64_t written_out;  /* of these, what the disk has been given to write */
	uint64_t next_attempt; /* frames at which the next checkpoint is tried */
	uint64_t hook_calls;
	unsigned restart_busy_ms; /* how long the next RESTART may wait for readers */
	_Atomic bool rests;       /* a part was copied, and there is more */
	uint64_t part_frames;     /* how many are copied in about PART_US, as far as is known */
	uint64_t part_at_us;      /* the next one, not before */
	struct checkpoint_stats stats;
};

/* The file of the WAL, with an xWrite that notes a full disk. */
struct wal_file {
	sqlite3_file *file; /* NULL: it could not be had */
	const sqlite3_io_methods *methods;
	sqlite3_io_methods noting;
	bool full; /* since the transaction began */
};

/* The beginning of SQLite's index of the WAL, as its format has it (3007000). */
struct wal_index {
	struct wal_index_header {
		uint32_t version;
		uint32_t unused;
		uint32_t changes;
		uint8_t initialized;
		uint8_t big_endian;
		uint16_t page_size;
		uint32_t frames; /* valid ones */
		uint32_t pages;
		uint32_t checksum[2];
		uint32_t salt[2];
		uint32_t own_checksum[2];
	} header, copy;
	uint32_t backfilled;
	uint32_t read_marks[5];
	uint8_t locks[8];
	uint32_t attempted; /* how far a checkpoint that runs means to come */
};

/* ground.c: the files as they were opened. */
enum ground_file { GROUND_DB, GROUND_WAL, GROUND_SHM, GROUND_FILES };

struct ground {
	struct ground_identity {
		dev_t dev;
		ino_t ino;
	} files[GROUND_FILES];
	int fds[GROUND_FILES];   /* SQLite's descriptors of them, or -1 */
	uint64_t next_list_us;   /* when /proc/locks may be read again */
	bool watched;            /* all three are there */
	bool locks_seen;         /* /proc/locks shows ours */
	bool any_device;         /* it gives files another device than stat() */
	struct timespec changed; /* of the database, by us */
	off_t bytes;
	uint32_t mark; /* what checkpoints had reached then */
};

/* foreign.c: what other processes have written. */
struct foreign {
	uint32_t changes; /* how many commits SQLite has counted, with our last one */
	uint32_t salt;    /* of the WAL, after our last transaction */
	bool known;
	bool own_restart;   /* since then the WAL may have begun anew by our own doing */
	bool wal_was_there; /* before the file was opened */
	bool halt;          /* what another process commits now was asked for */
	uint64_t lost;      /* the last commit that stands behind a damage of the WAL, or 0 */
	bool rescued;       /* all commits are in the database's file */
	char note[256];     /* what the start has found, or "" */
};

struct doubt {
	enum store_doubt kind;
	enum ground_file file; /* with STORE_DOUBT_FILES */
	bool in_file;          /* with STORE_DOUBT_WRITTEN: not in the WAL, or not only */
	char text[STORE_ERROR_BYTES];
};

/* wal_pin.c */
struct wal_pin {
	sqlite3 *handle; /* NULL: not opened yet */
	sqlite3_file *file;
	_Atomic uint32_t *marks; /* in the index */
	int mark;                /* that is held; 0: none */
	int fd;                  /* of the database; -1: none */
};

struct hold {
	int shm_fd; /* of the -shm, or -1 */
	sqlite3_file *file;
	const sqlite3_io_methods *methods;
	sqlite3_io_methods keeping; /* the same, but that xShmLock does not let go */
	bool kept;
};

struct chunks;

struct store {
	sqlite3 *handle;
	char *path;
	struct hold hold;
	struct authorizer authorizer;
	struct stmt_cache cache;
	struct dedupe *dedupe;
	struct chunks *chunks;
	enum { MANY_UNKNOWN, MANY_NONE, MANY_PERHAPS } many; /* requests that are applied in part */
	sqlite3_stmt *own[OWN_COUNT];

	uint8_t epoch[STORE_EPOCH_BYTES];
	uint64_t commit_no;
	uint32_t page_size;
	char encoding[16];
	bool sync_full;
	bool foreign_keys;
	bool large_views; /* there were some when we came: none is refused */
	bool large_schema;
	uint64_t schema_bytes_max; /* of memory that the schema may take */
	bool explain_trusted;
	uint32_t session_window;

	/* The lease that runs. */
	struct lease_state {
		bool open;
		bool foreign_keys;      /* while it is open */
		bool temp;              /* it may have made TEMP objects */
		bool defers_changed;    /* it may have set PRAGMA defer_foreign_keys on its way */
		int recursive_triggers; /* as it was before; -1: as it is */
		struct cursor *cursors; /* those that are open */
		size_t cursors_count;
		uint64_t last_cursor;
	} lease;
	_Atomic bool interrupted; /* what runs is to end */

	bool open; /* a transaction was begun that has not ended by us; SQLite may have lost it */
	bool constraint_failed; /* what failed last in it was no more than a constraint */
	bool dirty;             /* this transaction has, or may have, written */
	bool ddl;               /* … has changed the schema */
	bool schema_stale; /* a schema was undone, or a virtual table interrupted: to be read anew */

	/* The batch that runs. */
	uint64_t opened_us; /* the clocks as the file was opened, see store_steady_s() */
	uint64_t opened_wall_us;
	uint64_t exec_began_us;
	uint64_t exec_deadline_us; /* 0: none */
	uint64_t exec_ops;         /* instructions of the virtual machine, about */
	uint64_t exec_ops_max;     /* of a batch; 0: no limit */
	int64_t batch_total;       /* total_changes when it began */
	bool batch_dml;            /* something of it has counted changes */

	struct binder binder;
	struct touched touched;
	struct store_observer observer;
	struct wal wal;
	struct wal_file wal_file;
	struct wal_pin wal_pin;
	struct ground ground;
	struct foreign foreign;
	struct doubt doubt;
	uint64_t foreign_count;
	uint64_t looked_us; /* when the ground was looked at */
};

/* Creates or migrates the tables, reads epoch and commit number. 0, or -EINVAL with a sentence. */
int state_open(struct store *store, char ret_error[STORE_ERROR_BYTES]);
/* chunk_table.c: writes down for chunks of before format 4 which way they are walked. SQLite's code. */
int chunk_pin_walks(struct store *store);
/* many.c: names of requests that are applied in slices, as blobs. SQLite's code. */
int many_rename(struct store *store);
/* The root page of _lf_state, or 0: there is none. */
uint32_t state_page(struct store *store);
/* In the open transaction: from here on another lineage. An SQLite code. */
int state_new_epoch(struct store *store);

/*
 * Wall time in seconds that does not jump while the process runs; and since when, with a time to keep, something may
 * be forgotten: 0, nothing, for as long as this process is younger, for the clock may have been set before it began.
 */
uint64_t store_steady_s(const struct store *store);
uint64_t store_forget_before_s(const struct store *store, uint64_t keep_s);

/* A function, collation or module that is not there: 0, or -EINVAL with a sentence. */
int schema_check(struct store *store, char ret_error[STORE_ERROR_BYTES]);

/*
 * SQLite's code, and whether the schema holds what the authorizer cannot see and nobody may have: a foreign key that
 * points to one of our tables (its actions and triggers would run inside our own statements), a
 * trigger or index on one, a client's table with a name like theirs; an index on a shadow table of a
 * virtual table (SQLite 3.40 can be made to recurse without end by one); a table or view that is named like
 * those in which SQLite itself tells facts, pragma_….
 */
int schema_find_trespass(struct store *store, bool *ret_found);

/*
 * SQLite's code, and the first view that takes more than COMPILER_VIEW_BYTES to compile, or with which all take more than COMPILER_VIEWS_MS, or NULL; the caller frees its
 * name. Each look at the schema compiles all views (SQLite fills in their columns for pragma_table_list).
 */
int schema_find_large_view(struct store *store, char **ret_view);

/* Of memory, parsed. */
uint64_t schema_bytes(struct store *store);

/* Others may have made such views, or such a schema: whoever changes the schema later is not to blame for them. */
void schema_allow_views(struct store *store);

/* SQLite's code, and which of our tables is not there any more; "": all are, and know whose they are. */
int schema_find_lost(struct store *store, char ret_table[STORE_OWN_NAME_BYTES]);

/* Every setting that safety rests on is set, then read back. 0, or -EINVAL with a sentence. */
int pragma_setup(struct store *store, const struct store_options *options,
	char ret_error[STORE_ERROR_BYTES]);

/* Whether the settings that a statement could have changed are still as they were set. */
bool pragma_holds(struct store *store);

/* After DDL was undone: forgets what is known of the schema, if this transaction has changed it. */
void store_forget_schema(struct store *store);

/* ---- step.c, for lease.c ---- */

int step_give_columns(sqlite3_stmt *stmt, const struct step_sink *sink, struct store_error *error);
/* One row to the sink: its answer, or -STORE_RESOURCE. */
int step_give_row(sqlite3_stmt *stmt, unsigned count, const struct step_sink *sink,
	struct store_error *error);
/* From here on, what runs for a client ends at the deadline, and its instructions are counted. */
void step_limit(struct store *store, uint64_t exec_deadline_us);

/* changes() must show nothing of before the batch or lease. */
void step_reset_changes(struct store *store, bool asks);

/* Runs a text of the daemon's own. Returns SQLite's code. */
int own_exec(struct store *store, const char *sql);

/* Prepares a persistent statement of the daemon's own. Returns SQLite's code. */
int own_prepare(struct store *store, const char *sql, sqlite3_stmt **ret_stmt);

/* Steps an own statement to its end and resets it. Returns SQLite's code, OK for DONE. */
int own_run(struct store *store, sqlite3_stmt *stmt);

/*
 * recovery.c. The hold on the write lock during a start: hold before the file is opened, keep once it
 * is, let go when the start is over; finish only after the handle is closed, because closing the
 * descriptor would drop all of SQLite's locks on the -shm.
 */
void recovery_hold(struct hold *hold, const char *db);
void recovery_keep(struct hold *hold, sqlite3 *handle);
void recovery_let_go(struct hold *hold, const char *db);
void recovery_finish(struct hold *hold);

/* 0, or negative with a sentence. */
int recovery_check(struct store *store, char ret_error[STORE_ERROR_BYTES]);
int recovery_sync_wal(const struct store *store, char ret_error[STORE_ERROR_BYTES]);

/* SQLite's code as a condition, with its message. */
int store_failed(struct store *store, int rc, struct store_error *error);

/*
 * wal.c. Attach: notes a full disk from now on. Index: a copy, which is whole only under the write
 * lock. Offset: of the byte behind that many frames. Seal: nothing that a failed COMMIT has left can
 * come back; false: it may.
 */
bool wal_attach(struct store *store);
bool wal_index(struct store *store, struct wal_index *ret_index);
uint64_t wal_offset(const struct store *store, uint32_t frames);
bool wal_seal(struct store *store);

/*
 * wal_pin.c. Pin: until wal_unpin() no checkpoint copies more than so many frames, of those that the WAL has;
 * false: it cannot be held back. Unpin lets the kernel begin to write what was copied. Close: before the
 * database is closed; finish: after it.
 */
bool wal_pin(struct store *store, uint32_t frame);
void wal_unpin(struct store *store);
void wal_pin_close(struct store *store);
void wal_pin_finish(struct store *store);

/*
 * wal_damage.c. Before anything is written, once the state was read, if there is one. 0, and store->foreign.lost
 * is the last acknowledged commit that is gone although that was agreed to, or 0; or negative with a
 * sentence: nothing may be written upon it.
 */
int wal_check_damage(struct store *store, char ret_error[STORE_ERROR_BYTES]);

/*
 * ground.c. Begin: once all three files are there. Note: we have written to the database's file
 * ourselves.
 */
void ground_begin(struct store *store);
void ground_note(struct store *store);
void ground_look_at_content(struct store *store); /* for a checkpoint, or a write, by others */
bool ground_files_hold(struct store *store);      /* else the doubt's text says what is gone */

/*
 * foreign.c. Unseen: right after BEGIN; true: another process has written, end the transaction and
 * doubt. Committed: after each COMMIT of ours. Note salt: what the WAL has now is our own doing.
 * Restart: somebody else has let the WAL begin anew, without a commit. At start: in the first transaction; 0, or negative
 * with a sentence.
 */
bool foreign_unseen(struct store *store);
void foreign_before_open(struct store *store);
int foreign_at_start(struct store *store, char ret_error[STORE_ERROR_BYTES]);
void foreign_committed(struct store *store);
/* Where a halt has ended: for what its command has left behind, before anybody writes. */
void foreign_look_behind_halt(struct store *store);
void foreign_note_salt(struct store *store);
bool foreign_restart(const struct store *store, const struct wal_index *index);

/*
 * chunk_target.c, in the open transaction, where the schema may have changed. Check: chunks whose table is gone
 * fail with it. Compare: so do those whose table is not the same, after another process has written.
 */
int chunk_targets_check(struct store *store, struct store_error *error);
int chunk_targets_compare(struct store *store, struct store_error *error);
void chunk_targets_changed(struct store *store); /* behind a COMMIT of ours */

/* Takes checkpoints into our own hand and counts frames (checkpoint.c). */
void checkpoint_setup(struct store *store);
