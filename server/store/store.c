/* SPDX-License-Identifier: MIT */

/*
 * Opens the database, and begins, commits and ends its transactions. What this file keeps true:
 * there is one handle; each commit takes exactly one number, stored in itself; nothing of a
 * client's is ever stepped outside a transaction of ours.
 */

#include "server/store/store.h"

#include "server/base/clock.h"
#include "server/base/halt_lock.h"
#include "server/store/chunk_inside.h"
#include "server/store/inside.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	PROGRESS_OPS = 1000,
	STATEMENTS_SHARE = 4, /* which part of the heap those that are kept may take */
	SCHEMA_SHARE = 4,     /* … and the schema */
	LOOK_US = 300000,     /* a transaction that took longer looks at its ground before COMMIT */
};

static const char *const own_texts[OWN_COUNT] = {
	[OWN_BEGIN] = "BEGIN IMMEDIATE",
	[OWN_COMMIT] = "COMMIT",
	[OWN_ROLLBACK] = "ROLLBACK",
	[OWN_SAVEPOINT] = "SAVEPOINT _lf_batch",
	[OWN_RELEASE] = "RELEASE _lf_batch",
	[OWN_ROLLBACK_TO] = "ROLLBACK TO _lf_batch",
	[OWN_NUMBER] = "UPDATE _lf_state SET commit_no = ?1 WHERE id = 1",
	[OWN_NO_CHANGES] = "DELETE FROM _lf_state WHERE 0",
	[OWN_SETTLE] = "SELECT commit_no FROM _lf_state",
};

int own_prepare(struct store *store, const char *sql, sqlite3_stmt **ret_stmt)
{
	authorizer_enter(&store->authorizer, ROLE_SELF);
	return sqlite3_prepare_v3(
		store->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, ret_stmt, NULL);
}

int own_exec(struct store *store, const char *sql)
{
	authorizer_enter(&store->authorizer, ROLE_SELF);
	return sqlite3_exec(store->handle, sql, NULL, NULL, NULL);
}

int own_run(struct store *store, sqlite3_stmt *stmt)
{
	int rc = SQLITE_ROW;
	authorizer_enter(&store->authorizer, ROLE_SELF);
	while (rc == SQLITE_ROW) {
		rc = sqlite3_step(stmt);
	}
	/* The code of the step, not of the reset: they are the same but for a misuse. */
	sqlite3_reset(stmt);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int run(struct store *store, enum own own)
{
	return own_run(store, store->own[own]);
}

/* ---- opening ---- */

static int interrupt_if_late(void *ctx)
{
	struct store *store = ctx;
	store->exec_ops += PROGRESS_OPS;
	bool late = store->exec_deadline_us != 0 &&
		(clock_now_us() >= store->exec_deadline_us ||
			(store->exec_ops_max != 0 && store->exec_ops > store->exec_ops_max));
	bool theirs = store->exec_deadline_us != 0; /* what is ours runs to its end */
	return late || (theirs && atomic_load_explicit(&store->interrupted, memory_order_relaxed));
}

/*
 * A failure inside a virtual table's own statements may throw the transaction away beneath a statement that goes on.
 * SQLite would commit at its end what came behind: only our COMMIT does.
 */
static int refuse_commit(void *ctx)
{
	const struct store *store = ctx;
	return store->open;
}

/* total_changes() as a batch alone would see it, not as the handle counts. */
static void sql_total_changes(sqlite3_context *context, int count, sqlite3_value **values)
{
	const struct store *store = sqlite3_user_data(context);
	(void)count;
	(void)values;
	sqlite3_result_int64(context, sqlite3_total_changes64(store->handle) - store->batch_total);
}

/* Libraries that the administrator lists; never at a client's wish. */
static int load_extensions(struct store *store, const char *list, char *ret_error)
{
	char *copy = strdup(list);
	char *rest = copy;
	int rc = copy != NULL ? 0 : -ENOMEM;
	sqlite3_db_config(store->handle, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
	for (char *name = NULL; rc == 0 && (name = strsep(&rest, ",")) != NULL;) {
		char *message = NULL;
		name += strspn(name, " ");
		if (*name != 0 &&
			sqlite3_load_extension(store->handle, name, NULL, &message) != SQLITE_OK) {
			snprintf(ret_error, STORE_ERROR_BYTES, "extensions: %s: %s", name,
				message != NULL ? message : "cannot be loaded");
			rc = -EINVAL;
		}
		sqlite3_free(message);
	}
	sqlite3_db_config(store->handle, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, NULL);
	free(copy);
	return rc;
}

static int prepare_own(struct store *store, char *ret_error)
{
	for (size_t i = 0; i < OWN_COUNT; i++) {
		if (own_prepare(store, own_texts[i], &store->own[i]) != SQLITE_OK) {
			snprintf(ret_error, STORE_ERROR_BYTES, "%s: %s", store->path,
				sqlite3_errmsg(store->handle));
			return -EINVAL;
		}
	}
	return 0;
}

/*
 * The first commit of this run found the disk full, and it was to say nothing but that there was a
 * start: then this run begins with its first write instead. Meanwhile writes are refused, and what is
 * remembered and read is as good as ever. A new epoch cannot be put off: by it clients and the shipper
 * know that what they hold is of another lineage.
 */
static bool may_be_put_off(const struct store *store, int rc, bool restored)
{
	return rc == STORE_RESOURCE && store->wal_file.full && !restored && store->commit_no > 0 &&
		store->foreign_count == 0;
}

/* Takes the first number of this run, so that every start is a commit and can be told apart. */
static int first_commit(struct store *store, bool restored, char *ret_error)
{
	struct store_error error = {.row = -1};
	int rc = store_begin(store, &error);
	int epoch = rc == 0 && restored ? state_new_epoch(store) : SQLITE_OK;
	if (epoch != SQLITE_OK) {
		rc = stmt_failed(store->handle, &store->authorizer, epoch, &error);
		store_rollback(store);
	}
	if (rc == 0) {
		store->dirty = true;
		if (foreign_at_start(store, ret_error) != 0) {
			store_rollback(store);
			return -EINVAL;
		}
		rc = store_commit(store, &error);
	}
	if (may_be_put_off(store, rc, restored)) {
		store_error_clear(&error);
		return 0;
	}
	pid_t halt = 0;
	if (rc == STORE_BUSY && halt_lock_is_held(store->path, &halt)) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: litefunnel halt (process %d) has given it to its command, which is writing: "
			"start again when that has ended",
			store->path, (int)halt);
		store_error_clear(&error);
		return -EINVAL;
	}
	if (rc != 0) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			rc == STORE_BUSY
				? "%s: another process is writing to it (%s): stop that process"
				: "%s: cannot commit: %s",
			store->path, error.message != NULL ? error.message : "");
		store_error_clear(&error);
		return -EINVAL;
	}
	return 0;
}

static int open_handle(struct store *store, const struct store_options *options, char *ret_error)
{
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
		SQLITE_OPEN_NOFOLLOW | (options->create ? SQLITE_OPEN_CREATE : 0);
	int rc = sqlite3_open_v2(options->path, &store->handle, flags, NULL);
	if (rc != SQLITE_OK) {
		snprintf(ret_error, STORE_ERROR_BYTES, "%s: %s%s", options->path,
			store->handle != NULL ? sqlite3_errmsg(store->handle) : sqlite3_errstr(rc),
			(rc & 0xff) == SQLITE_CANTOPEN && !options->create
				? " (a new database needs --create)"
				: "");
		return -EINVAL;
	}
	/* At once: also a start that fails leaves the WAL where it is. They are read back later. */
	int persist = 1;
	sqlite3_db_config(store->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	(void)sqlite3_file_control(store->handle, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
	sqlite3_busy_timeout(store->handle, 2000); /* for the switch to WAL; none afterwards */
	return 0;
}

static int load_memory(struct store *store, char *ret_error)
{
	int rc = dedupe_load(store->dedupe);
	if (rc == -EINVAL) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: the remembered answers cannot be read, so a repeat could run twice: %s",
			store->path, sqlite3_errmsg(store->handle));
	}
	return rc;
}

uint64_t store_steady_s(const struct store *store)
{
	return (store->opened_wall_us + clock_now_us() - store->opened_us) / 1000000;
}

uint64_t store_forget_before_s(const struct store *store, uint64_t keep_s)
{
	bool old = clock_now_us() - store->opened_us >= keep_s * 1000000;
	return old ? store_steady_s(store) - keep_s : 0;
}

static int set_up(struct store *store, const struct store_options *options, char *ret_error)
{
	store->path = strdup(options->path);
	store->opened_us = clock_now_us();
	store->schema_bytes_max =
		options->heap_bytes_max > 0 ? options->heap_bytes_max / SCHEMA_SHARE : UINT64_MAX;
	store->opened_wall_us = clock_wall_us();
	store->sync_full = options->sync_full;
	store->foreign_keys = options->foreign_keys;
	store->session_window = options->session_window;
	if (store->path == NULL) {
		return -ENOMEM;
	}
	foreign_before_open(store);
	recovery_hold(&store->hold, store->path);
	int rc = open_handle(store, options, ret_error);
	if (rc == 0) {
		recovery_keep(&store->hold, store->handle);
	}
	rc = rc == 0 ? load_extensions(store, options->extensions, ret_error) : rc;
	rc = rc == 0 ? pragma_setup(store, options, ret_error) : rc;
	if (rc != 0) {
		return rc;
	}
	touched_install(&store->touched, store);
	mark_install(store);
	store->authorizer.role = ROLE_SELF;
	authorizer_install(&store->authorizer, store->handle);
	checkpoint_setup(store);
	sqlite3_progress_handler(store->handle, PROGRESS_OPS, interrupt_if_late, store);
	sqlite3_commit_hook(store->handle, refuse_commit, store);
	sqlite3_create_function(store->handle, "total_changes", 0, SQLITE_UTF8 | SQLITE_INNOCUOUS,
		store, sql_total_changes, NULL, NULL);
	sqlite3_limit(store->handle, SQLITE_LIMIT_ATTACHED, 0);
	sqlite3_limit(store->handle, SQLITE_LIMIT_VARIABLE_NUMBER, 32766);
	if (options->heap_bytes_max > 0) {
		uint64_t length_max = options->heap_bytes_max / 2;
		sqlite3_limit(store->handle, SQLITE_LIMIT_LENGTH,
			(int)(length_max < INT32_MAX ? length_max : INT32_MAX));
		sqlite3_hard_heap_limit64((sqlite3_int64)options->heap_bytes_max);
	}
	sqlite3_busy_timeout(store->handle, 0);
	store->explain_trusted = stmt_self_test();

	rc = stmt_cache_init(&store->cache, store->handle, &store->authorizer,
		options->statements_max,
		options->heap_bytes_max > 0 ? options->heap_bytes_max / STATEMENTS_SHARE
					    : SIZE_MAX);
	rc = rc == 0 && options->poisoned ? recovery_check(store, ret_error) : rc;
	rc = rc == 0 ? state_open(store, ret_error) : rc;
	rc = rc == 0 ? schema_check(store, ret_error) : rc;
	rc = rc == 0 ? prepare_own(store, ret_error) : rc;
	rc = rc == 0 ? touched_prepare(&store->touched) : rc;
	rc = rc == 0 ? dedupe_new(store, options->session_window, &store->dedupe) : rc;
	rc = rc == 0 ? load_memory(store, ret_error) : rc;
	(void)wal_attach(store); /* SQLite opens it with the first read */
	rc = rc == 0 ? chunks_new(&store->chunks) : rc;
	rc = rc == 0 ? store_chunks_load(store) : rc;
	rc = rc == 0 ? first_commit(store, options->restored, ret_error) : rc;
	touched_everything(&store->touched, store->commit_no); /* by whom is not remembered */
	ground_begin(store);
	return rc == 0 ? recovery_sync_wal(store, ret_error) : rc;
}

int store_open(const struct store_options *options, struct store **ret_store,
	char ret_error[STORE_ERROR_BYTES])
{
	struct store *store = calloc(1, sizeof(*store));
	if (store == NULL) {
		return -ENOMEM;
	}
	store->hold.shm_fd = -1;
	store->wal.fd = -1;
	store->wal_pin.fd = -1;
	snprintf(ret_error, STORE_ERROR_BYTES, "%s: cannot be opened", options->path);
	int rc = set_up(store, options, ret_error);
	recovery_let_go(&store->hold, options->path);
	if (rc != 0) {
		store_close(store);
		return rc == -ENOMEM ? rc : -EINVAL;
	}
	*ret_store = store;
	return 0;
}

void store_close(struct store *store)
{
	if (store == NULL) {
		return;
	}
	dedupe_free(store->dedupe);
	chunks_free(store->chunks);
	for (size_t i = 0; i < OWN_COUNT; i++) {
		sqlite3_finalize(store->own[i]);
	}
	stmt_cache_finish(&store->cache);
	touched_finish(&store->touched);
	wal_pin_close(store);
	sqlite3_close(store->handle);
	wal_pin_finish(store);
	if (store->wal.fd >= 0) {
		close(store->wal.fd);
	}
	recovery_finish(&store->hold);
	binder_finish(&store->binder);
	free(store->path);
	free(store);
}

/* ---- facts ---- */

const uint8_t *store_epoch(const struct store *store)
{
	return store->epoch;
}

uint32_t store_page_size(const struct store *store)
{
	return store->page_size;
}

const char *store_encoding(const struct store *store)
{
	return store->encoding;
}

const char *store_engine_version(void)
{
	return sqlite3_libversion();
}

const char *store_engine_source(void)
{
	return sqlite3_sourceid();
}

bool store_engine_has_wal_reset_bug(void)
{
	int version = sqlite3_libversion_number();
	return version >= 3007000 && version <= 3051002 && version != 3050007 && version != 3044006;
}

bool store_sync_full(const struct store *store)
{
	return store->sync_full;
}

bool store_foreign_keys(const struct store *store)
{
	return store->foreign_keys;
}

uint64_t store_commit_no(const struct store *store)
{
	return store->commit_no;
}

struct dedupe *store_dedupe(struct store *store)
{
	return store->dedupe;
}

/* ---- transactions ---- */

static int say_limit(const struct store *store, struct store_error *error)
{
	if (store->exec_ops_max != 0 && store->exec_ops > store->exec_ops_max) {
		return store_error_set(error, STORE_TIMEOUT, SQLITE_INTERRUPT,
			"interrupted after %llu instructions of SQLite's machine (setting exec_ops_max)",
			(unsigned long long)store->exec_ops_max);
	}
	return store_error_set(error, STORE_TIMEOUT, SQLITE_INTERRUPT,
		"interrupted at the limit of execution: %llu ms after it began (its own deadline, or the "
		"setting exec_timeout)",
		(unsigned long long)(store->exec_deadline_us - store->exec_began_us + 999) / 1000);
}

int store_failed(struct store *store, int rc, struct store_error *error)
{
	if (rc == SQLITE_OK) {
		return 0;
	}
	store->constraint_failed =
		(rc & 0xff) == SQLITE_CONSTRAINT && rc != SQLITE_CONSTRAINT_COMMITHOOK;
	if ((rc & 0xff) == SQLITE_INTERRUPT && store->exec_deadline_us > store->exec_began_us) {
		return say_limit(store, error);
	}
	int condition = stmt_failed(store->handle, &store->authorizer, rc, error);
	if ((rc & 0xff) == SQLITE_FULL && !store->wal_file.full && store->wal_file.file != NULL) {
		/* Not the disk but a limit of its own, as of an AUTOINCREMENT: it stays so. */
		error->condition = STORE_SQL;
		return STORE_SQL;
	}
	return condition;
}

/*
 * What the last transaction could not finish for want of memory: its ROLLBACK, or forgetting a schema
 * that was undone. Until both are done nothing else may begin.
 */
static int clear_up(struct store *store, struct store_error *error)
{
	if (store_in_transaction(store) || store->schema_stale) {
		store_rollback(store);
	}
	if (store_in_transaction(store) || store->schema_stale) {
		return store_error_set(
			error, STORE_BUSY, SQLITE_NOMEM, "no memory to undo the last transaction");
	}
	return 0;
}

int store_begin(struct store *store, struct store_error *error)
{
	int rc = clear_up(store, error);
	if (rc != 0) {
		return rc;
	}
	if (store->doubt.kind != STORE_DOUBT_NONE) {
		return store_error_set(error, STORE_BUSY, SQLITE_BUSY, "%s", store->doubt.text);
	}
	store->dirty = false;
	store->ddl = false;
	store->constraint_failed = false;
	store->wal_file.full = false;
	store->exec_deadline_us = 0;
	touched_begin(&store->touched);
	rc = store_failed(store, run(store, OWN_BEGIN), error);
	store->open = rc == 0;
	if (rc == 0 && foreign_unseen(store)) {
		store_rollback(store);
		return store_error_set(error, STORE_BUSY, SQLITE_BUSY, "%s", store->doubt.text);
	}
	return rc;
}

bool store_in_transaction(const struct store *store)
{
	return sqlite3_get_autocommit(store->handle) == 0;
}

bool store_dirty(const struct store *store)
{
	return store->dirty;
}

bool store_deferred_violations(struct store *store)
{
	int now = 0;
	int high = 0;
	sqlite3_db_status(store->handle, SQLITE_DBSTATUS_DEFERRED_FKS, &now, &high, 0);
	return now != 0;
}

int store_savepoint(struct store *store, struct store_error *error)
{
	/*
	 * Before a savepoint virtual tables write what they hold back: it belongs to batches that
	 * were kept.
	 */
	touched_batch_begin(&store->touched);
	int rc = run(store, OWN_SAVEPOINT);
	touched_batch_keep(&store->touched);
	return store_failed(store, rc, error);
}

int store_release(struct store *store, struct store_error *error)
{
	store->exec_deadline_us = 0;
	return store_failed(store, run(store, OWN_RELEASE), error);
}

/*
 * After DDL was undone: SQLite drops its picture of the schema only if it noticed the change, which a
 * DDL statement that failed half-way makes it forget. What is compiled against it goes, too.
 */
void store_forget_schema(struct store *store)
{
	store->schema_stale |= store->ddl;
	if (store->schema_stale) {
		store->schema_stale =
			own_exec(store, "PRAGMA writable_schema = RESET") != SQLITE_OK;
		stmt_cache_clear(&store->cache);
	}
}

int store_rollback_to(struct store *store, struct store_error *error)
{
	store->exec_deadline_us = 0;
	int rc = run(store, OWN_ROLLBACK_TO);
	rc = rc == SQLITE_OK ? run(store, OWN_RELEASE) : rc;
	store_forget_schema(store);
	return store_failed(
		store, rc == SQLITE_OK && store->schema_stale ? SQLITE_NOMEM : rc, error);
}

void store_rollback(struct store *store)
{
	store->exec_deadline_us = 0;
	if (store_in_transaction(store)) {
		/* It fails only without any memory; then store_begin() tries again. */
		(void)run(store, OWN_ROLLBACK);
	} else if (store->open && !store->constraint_failed) {
		/* In the middle of a statement: what FTS5 had in memory may be of rows that are gone. */
		store->schema_stale = true;
	}
	store->open = store_in_transaction(store);
	store->foreign.own_restart |= store->dirty; /* what it spilled may have begun it */
	store_forget_schema(store);
	touched_rolled_back(&store->touched);
	dedupe_rolled_back(store->dedupe);
}

/* Everything that belongs to the commit itself. SQLite's code. */
static int write_number(struct store *store)
{
	sqlite3_bind_int64(store->own[OWN_NUMBER], 1, (sqlite3_int64)store->commit_no + 1);
	int rc = run(store, OWN_NUMBER);
	return rc == SQLITE_OK ? dedupe_write(store->dedupe, store->commit_no + 1) : rc;
}

/* What a COMMIT that did not say OK means. */
static int commit_failed(struct store *store, int rc, struct store_error *error)
{
	switch (rc & 0xff) {
	case SQLITE_FULL:
	case SQLITE_BUSY:
		/*
		 * The frame that commits is the last to be written: it was not, or only in part. But
		 * what stood in its place before could complete it.
		 */
		store_error_set(error, STORE_RESOURCE, rc, "%s", sqlite3_errmsg(store->handle));
		store->schema_stale = true;
		store_rollback(store);
		if (store->wal_file.full && !wal_seal(store)) {
			return store_error_set(error, STORE_UNKNOWN, rc,
				"COMMIT: the disk is full, also for taking back what was written");
		}
		return STORE_RESOURCE;
	case SQLITE_IOERR:
	case SQLITE_NOMEM:
	case SQLITE_PROTOCOL:
	case SQLITE_CANTOPEN:
		/* The frame may be in the file although its fsync failed. Only a restart can tell. */
		return store_error_set(
			error, STORE_UNKNOWN, rc, "COMMIT: %s", sqlite3_errmsg(store->handle));
	default:
		/* A deferred foreign key, a virtual table: refused before anything was written. */
		return store_error_set(error, STORE_SQL, rc, "%s", sqlite3_errmsg(store->handle));
	}
}

int store_commit(struct store *store, struct store_error *error)
{
	uint64_t hook_calls = store->wal.hook_calls;
	store->exec_deadline_us = 0;
	if (!store_in_transaction(store)) {
		/* Lost for want of memory, in a statement of ours behind the last batch. */
		store_error_set(
			error, STORE_RESOURCE, SQLITE_NOMEM, "the transaction was lost: no memory");
		store_rollback(store);
		return STORE_RESOURCE;
	}
	int rc = write_number(store);
	if (rc != SQLITE_OK) {
		store_error_set(error, STORE_RESOURCE, rc, "%s", sqlite3_errmsg(store->handle));
		store_rollback(store);
		return STORE_RESOURCE;
	}
	if (clock_now_us() - store->looked_us >= LOOK_US) {
		store_look_around(store);
		if (store->doubt.kind != STORE_DOUBT_NONE) {
			store_rollback(store);
			return store_error_set(
				error, STORE_RESOURCE, SQLITE_BUSY, "%s", store->doubt.text);
		}
	}
	touched_batch_begin(&store->touched);
	store->open = false;
	rc = run(store, OWN_COMMIT);
	store->open = store_in_transaction(store);
	touched_batch_keep(&store->touched); /* virtual tables write their last here */
	if (rc != SQLITE_OK) {
		return commit_failed(store, rc, error);
	}
	/*
	 * The hook fires once for each commit that wrote; if it is gone, so are our frame counts.
	 */
	assert(store->wal.hook_calls == hook_calls + 1);
	store->commit_no++;
	foreign_committed(store);
	touched_committed(&store->touched, store->commit_no);
	if (store->observer.committed != NULL) {
		touched_tell(&store->touched, store->commit_no, &store->observer);
	}
	if (store->ddl) {
		stmt_cache_clear(&store->cache);
		chunk_targets_changed(store);
		assert(pragma_holds(store)); /* no schema may have changed what safety rests on */
	}
	dedupe_committed(store->dedupe);
	return 0;
}

void store_observe(struct store *store, const struct store_observer *observer)
{
	store->observer = *observer;
}

/* ---- guards ---- */

static int snapshot_changed(
	const struct guard *guard, const char *name, uint64_t commit_no, struct store_error *error)
{
	char when[48] = "just now";
	if (commit_no != UINT64_MAX) {
		snprintf(when, sizeof(when), "by commit %llu", (unsigned long long)commit_no);
	}
	return store_error_set(error, STORE_SNAPSHOT, SQLITE_BUSY_SNAPSHOT,
		"%s%s%s was changed %s, after commit %llu: read again, and decide anew",
		name != NULL ? "the table \"" : "", name != NULL ? name : "the database",
		name != NULL ? "\"" : "", when, (unsigned long long)guard->commit_no);
}

static int check_table(
	struct store *store, const struct guard *guard, const char *name, struct store_error *error)
{
	uint64_t commit_no = 0;
	switch (touched_when(&store->touched, name, &commit_no)) {
	case 0:
		return commit_no > guard->commit_no
			? snapshot_changed(guard, name, commit_no, error)
			: 0;
	case -ENOENT:
		return store_error_set(error, STORE_NOT_FOUND, 0,
			"there is no table \"%s\": a guard names tables, not views", name);
	default:
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
}

int store_check_guard(struct store *store, const struct guard *guard, struct store_error *error)
{
	int rc = 0;
	if (memcmp(guard->epoch, store->epoch, STORE_EPOCH_BYTES) != 0) {
		return store_error_set(error, STORE_EPOCH, SQLITE_BUSY_SNAPSHOT,
			"the database has another epoch than the snapshot: read again, and decide anew");
	}
	if (guard->commit_no > store->commit_no) {
		return store_error_set(error, STORE_SNAPSHOT, SQLITE_BUSY_SNAPSHOT,
			"the snapshot is of commit %llu, and the newest is %llu",
			(unsigned long long)guard->commit_no, (unsigned long long)store->commit_no);
	}
	if (guard->tables_count == 0 && touched_any(&store->touched) > guard->commit_no) {
		rc = snapshot_changed(guard, NULL, touched_any(&store->touched), error);
	}
	for (size_t i = 0; rc == 0 && i < guard->tables_count; i++) {
		rc = check_table(store, guard, guard->tables[i].data, error);
	}
	return rc;
}
