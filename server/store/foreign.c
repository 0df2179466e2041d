/* SPDX-License-Identifier: MIT */

/*
 * Other hands in the database. What this file keeps true: nothing is committed on top of what another
 * process has written before that was checked and has begun a new epoch; what fails its checks is
 * not served.
 *
 * What litefunnel halt has let another program commit goes on in the same epoch: it was asked for, and is checked in the same
 * way.
 *
 * While the daemon runs each BEGIN notices a foreign commit by SQLite's own count of them. For the time in which no daemon ran the WAL is asked: each of our transactions
 * holds the page of _lf_state, and we never remove the file, as another process does that closes the
 * database last.
 */

#include "server/base/clock.h"
#include "server/base/halt_lock.h"
#include "server/base/locks.h"
#include "server/base/wal_format.h"
#include "server/store/inside.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RESCUE_BUSY_MS = 1000 };

#define CHECK_WHOLE_BYTES (64ull * 1024 * 1024) /* larger ones are not checked against indexes */
#define CHECK_US          (10ull * 1000 * 1000)

/* ---- noticing ---- */

static bool halt_goes_on(const struct store *store)
{
	pid_t holder = 0;
	return halt_lock_is_held(store->path, &holder);
}

/*
 * Right after BEGIN nobody else can write, and SQLite's index of the WAL counts the commits: there
 * must be as many as when our last transaction began, and that one if it committed.
 */
bool foreign_unseen(struct store *store)
{
	struct foreign *foreign = &store->foreign;
	struct wal_index index;
	if (!wal_index(store, &index)) {
		return false;
	}
	bool unseen = foreign->known && index.header.changes != foreign->changes;
	if (unseen) {
		store->doubt.kind = STORE_DOUBT_WRITTEN;
		store->doubt.in_file = false;
		snprintf(store->doubt.text, STORE_ERROR_BYTES,
			"another process has written to %.300s", store->path);
	} else if (foreign_restart(store, &index)) {
		store->foreign_count++;
	}
	if (foreign->halt && !unseen) {
		foreign->halt = halt_goes_on(store); /* else it has written nothing */
	}
	foreign->known |= !unseen;
	foreign->changes = unseen ? foreign->changes : index.header.changes;
	foreign->salt = index.header.salt[0];
	foreign->own_restart = false;
	return unseen;
}

bool foreign_restart(const struct store *store, const struct wal_index *index)
{
	const struct foreign *foreign = &store->foreign;
	return foreign->known && !foreign->own_restart &&
		index->header.changes == foreign->changes && index->header.salt[0] != foreign->salt;
}

void foreign_note_salt(struct store *store)
{
	struct wal_index index;
	if (wal_index(store, &index)) {
		store->foreign.salt = index.header.salt[0];
	}
}

void foreign_committed(struct store *store)
{
	struct foreign *foreign = &store->foreign;
	foreign->changes++;
	foreign_note_salt(store);
}

/* ---- while no daemon ran ---- */

void foreign_before_open(struct store *store)
{
	struct stat status;
	char wal[4096];
	snprintf(wal, sizeof(wal), "%s-wal", store->path);
	store->foreign.wal_was_there = stat(wal, &status) == 0;
}

/* Under the write lock: whether the WAL ends with a transaction that lacks the page all of ours hold. */
static bool stranger_in_wal(struct store *store)
{
	struct wal_index index;
	char path[4096];
	uint8_t header[WAL_FRAME_HEADER_BYTES];
	uint32_t wanted = state_page(store);
	bool has_page = false;
	bool stranger = false;
	snprintf(path, sizeof(path), "%s-wal", store->path);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || wanted == 0 || !wal_index(store, &index)) {
		index.header.frames = 0;
	}
	for (uint32_t i = 0; i < index.header.frames; i++) {
		if (pread(fd, header, sizeof(header), (off_t)wal_offset(store, i)) !=
			(ssize_t)sizeof(header)) {
			break;
		}
		struct wal_frame frame = wal_frame_parse(header);
		has_page |= frame.page_no == wanted;
		if (frame.commit != 0) { /* it commits */
			/* What one of ours stands upon was noticed before it was committed. */
			stranger = !has_page;
			has_page = false;
		}
	}
	if (fd >= 0) {
		close(fd);
	}
	return stranger;
}

/* ---- checks ---- */

/* The first column of the first row, or "" if there is none. SQLite's code. */
static int first_text(struct store *store, const char *sql, char *ret_text, size_t bytes)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store, sql, &stmt);
	ret_text[0] = 0;
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
	}
	if (rc == SQLITE_ROW) {
		const char *text = (const char *)sqlite3_column_text(stmt, 0);
		snprintf(ret_text, bytes, "%s", text != NULL ? text : "");
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int stands(struct store_recheck *recheck, const struct store *store, const char *why)
{
	recheck->end = STORE_RECHECK_STANDS;
	snprintf(recheck->text, sizeof(recheck->text),
		"another process has written to %.200s, and it %.200s: stop the daemon, and repair or "
		"restore it",
		store->path, why);
	return -1;
}

/* Our own tables. 0, or -1 and the recheck says why not. */
static int check_own(struct store *store, struct store_recheck *recheck)
{
	char lost[STORE_OWN_NAME_BYTES];
	if (schema_find_lost(store, lost) == SQLITE_OK && lost[0] == 0) {
		return 0;
	}
	recheck->end = STORE_RECHECK_STANDS;
	snprintf(recheck->text, sizeof(recheck->text),
		"another process has taken litefunnel's own tables from %.200s (%s): stop the daemon, and "
		"restore it; or drop what is left of _lf_* and start anew, and all that repeats "
		"are known by is forgotten",
		store->path, lost[0] != 0 ? lost : sqlite3_errmsg(store->handle));
	return -1;
}

/* Structure and schema; bounded in time. 0, or -1 and the recheck says why not. */
static int check_content(struct store *store, struct store_recheck *recheck)
{
	char text[160] = "";
	char why[200];
	bool trespassed = false;
	sqlite3_int64 pages = 0;
	uint64_t began_us = clock_now_us();
	if (check_own(store, recheck) < 0) {
		return -1;
	}
	if (first_text(store, "PRAGMA page_count", text, sizeof(text)) == SQLITE_OK) {
		pages = strtoll(text, NULL, 10);
	}
	bool whole = (uint64_t)pages * store->page_size <= CHECK_WHOLE_BYTES;
	store->exec_deadline_us = began_us + CHECK_US;
	int rc = first_text(store, whole ? "PRAGMA integrity_check(1)" : "PRAGMA quick_check(1)",
		text, sizeof(text));
	if (rc == SQLITE_OK && strcmp(text, "ok") == 0 && store->foreign_keys) {
		rc = first_text(store, "PRAGMA foreign_key_check", why, sizeof(why));
		recheck->orphans = rc == SQLITE_OK && why[0] != 0;
	}
	store->exec_deadline_us = 0;
	recheck->unchecked = (rc & 0xff) == SQLITE_INTERRUPT;
	if (rc != SQLITE_OK && !recheck->unchecked) {
		snprintf(why, sizeof(why), "cannot be checked (%s)", sqlite3_errmsg(store->handle));
		return stands(recheck, store, why);
	}
	if (!recheck->unchecked && strcmp(text, "ok") != 0) {
		snprintf(why, sizeof(why), "does not pass %s (%.120s)",
			whole ? "integrity_check" : "quick_check", text);
		return stands(recheck, store, why);
	}
	schema_allow_views(store);
	if (schema_find_trespass(store, &trespassed) != SQLITE_OK || trespassed) {
		return stands(recheck, store,
			"has a schema now that refers to litefunnel's tables (_lf_…), or takes a name "
			"of theirs");
	}
	return 0;
}

/* ---- a new epoch ---- */

/* Its next commit is one of everything. */
static void take_over(struct store *store)
{
	store->dirty = true;
	touched_batch_begin(&store->touched);
	touched_schema(&store->touched); /* all tables */
	touched_batch_keep(&store->touched);
}

/* In the open transaction. SQLite's code. */
static int change_epoch(struct store *store)
{
	int rc = state_new_epoch(store);
	if (rc == SQLITE_OK) {
		take_over(store);
	}
	return rc;
}

/*
 * Whether it was the command of a halt, and wrote as SQLite writes: what stands in the file, and in no frame of the WAL, was
 * put there by other means.
 */
static bool was_halt(struct store *store)
{
	bool halt = store->foreign.halt && store->doubt.kind == STORE_DOUBT_WRITTEN &&
		!store->doubt.in_file;
	if (halt) {
		store->doubt.kind = STORE_DOUBT_NONE;
		ground_look_at_content(store);
		halt = store->doubt.kind == STORE_DOUBT_NONE;
	}
	store->foreign.halt = store->foreign.halt && halt_goes_on(store);
	return halt;
}

bool store_look_for_writes(struct store *store)
{
	struct store_error error = {.row = -1};
	if (store_begin(store, &error) == 0) {
		store_rollback(store);
	}
	store_error_clear(&error);
	return store->doubt.kind != STORE_DOUBT_NONE;
}

void foreign_look_behind_halt(struct store *store)
{
	if (store->foreign.halt && !halt_goes_on(store)) {
		(void)store_look_for_writes(store);
	}
}

void store_expect_halt(struct store *store)
{
	store->foreign.halt = true;
}

/* The lineage that stands in the database, against the one that we know. SQLite's code. */
static int same_lineage(struct store *store, bool *ret_same)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store, "SELECT epoch, commit_no FROM _lf_state", &stmt);
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
	}
	*ret_same = rc == SQLITE_ROW && sqlite3_column_bytes(stmt, 0) == STORE_EPOCH_BYTES &&
		memcmp(sqlite3_column_blob(stmt, 0), store->epoch, STORE_EPOCH_BYTES) == 0 &&
		(uint64_t)sqlite3_column_int64(stmt, 1) == store->commit_no;
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int foreign_at_start(struct store *store, char ret_error[STORE_ERROR_BYTES])
{
	struct store_recheck recheck = {0};
	bool removed = !store->foreign.wal_was_there;
	bool lost = store->foreign.lost != 0;
	if (store->commit_no == 0 && !lost) {
		return 0; /* ours from the first commit on */
	}
	if (state_page(store) == 0) {
		snprintf(ret_error, STORE_ERROR_BYTES, "%.400s: %s", store->path,
			sqlite3_errmsg(store->handle));
		return -1;
	}
	if (!removed && !lost && !stranger_in_wal(store)) {
		return 0;
	}
	if (check_content(store, &recheck) < 0) {
		snprintf(ret_error, STORE_ERROR_BYTES, "%.500s", recheck.text);
		return -1;
	}
	snprintf(store->foreign.note, sizeof(store->foreign.note), "%s%s%s",
		lost ? "the last commits are gone: the machine went down with them (sync=normal), or "
		       "the WAL was damaged"
			: removed ? "the WAL was removed while no daemon ran, so another "
				    "process has opened it for writing, or it is a copy"
				  : "another process has written while no daemon ran",
		recheck.orphans ? "; it has rows that violate foreign keys" : "",
		recheck.unchecked ? "; there was no time to check all of it" : "");
	store->foreign_count++;
	return change_epoch(store) == SQLITE_OK ? 0 : -1;
}

/* ---- while it runs ---- */

/* Checks what others have written, and takes it over in one transaction: under a new epoch, but for that of a halt. */
static void settle(struct store *store, struct store_recheck *recheck)
{
	struct store_error error = {.row = -1};
	bool same = false;
	uint8_t epoch[STORE_EPOCH_BYTES];
	memcpy(epoch, store->epoch, sizeof(epoch));
	recheck->halt = was_halt(store);
	sqlite3_db_release_memory(store->handle); /* pages that were changed beneath the cache */
	store->schema_stale = true;
	store->foreign.known = false; /* from here on it is */
	store->doubt.kind = STORE_DOUBT_NONE;
	int rc = store_begin(store, &error);
	if (rc == 0 &&
		(check_content(store, recheck) < 0 || same_lineage(store, &same) != SQLITE_OK)) {
		rc = -1;
	} else if (rc == 0 && !same) {
		recheck->end = STORE_RECHECK_LEAVE;
		snprintf(recheck->text, sizeof(recheck->text),
			"foreign: %.300s was replaced by another state of it: starting over",
			store->path);
		rc = -1;
	}
	if (rc == 0 && recheck->halt) {
		take_over(store);
	} else if (rc == 0 && change_epoch(store) != SQLITE_OK) {
		rc = -1;
	}
	rc = rc == 0 ? chunk_targets_compare(store, &error) : rc;
	rc = rc == 0 ? store_commit(store, &error) : rc;
	if (rc == 0) {
		recheck->end = STORE_RECHECK_GOES_ON;
		store->foreign_count++;
		chunk_targets_changed(store);
		ground_note(store);
	} else {
		memcpy(store->epoch, epoch, sizeof(epoch));
		store->doubt.kind = STORE_DOUBT_WRITTEN;
		store->foreign.halt |= recheck->halt;
		if (rc == STORE_UNKNOWN) {
			recheck->end = STORE_RECHECK_LEAVE;
			snprintf(recheck->text, sizeof(recheck->text), "%.400s",
				error.message != NULL ? error.message : "COMMIT");
		} else {
			store_rollback(store);
		}
	}
	store_error_clear(&error);
}

/* Copies all that is committed into the database's file, whatever it is called now. */
static bool rescue(struct store *store)
{
	struct wal_index index;
	bool clean = own_run(store, store->own[OWN_BEGIN]) == SQLITE_OK &&
		wal_index(store, &index) && index.header.changes == store->foreign.changes;
	if (store_in_transaction(store)) {
		(void)own_run(store, store->own[OWN_ROLLBACK]);
	}
	if (!clean) {
		return false;
	}
	sqlite3_busy_timeout(store->handle, RESCUE_BUSY_MS);
	int rc = sqlite3_wal_checkpoint_v2(
		store->handle, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	sqlite3_busy_timeout(store->handle, 0);
	return rc == SQLITE_OK;
}

static void files_gone(struct store *store, struct store_recheck *recheck)
{
	if (ground_files_hold(store)) {
		store->doubt.kind =
			STORE_DOUBT_WRITTEN; /* they are back, from wherever they were */
		store->doubt.in_file = true;
		settle(store, recheck);
		return;
	}
	if (!store->foreign.rescued) {
		store->foreign.rescued = rescue(store);
	}
	bool whole = store->foreign.rescued;
	recheck->end = whole && store->doubt.file != GROUND_DB ? STORE_RECHECK_LEAVE
							       : STORE_RECHECK_STANDS;
	snprintf(recheck->text, sizeof(recheck->text), "%.400s%s", store->doubt.text,
		recheck->end == STORE_RECHECK_LEAVE ? "; all commits are in the database: starting "
						      "over"
			: whole                     ? "; all commits are in it"
						    : "; commits are in the WAL alone");
}

void store_recheck(struct store *store, struct store_recheck *ret_recheck)
{
	*ret_recheck = (struct store_recheck){.end = STORE_RECHECK_LATER};
	switch (store->doubt.kind) {
	case STORE_DOUBT_NONE:
		ret_recheck->end = STORE_RECHECK_GOES_ON;
		break;
	case STORE_DOUBT_WRITTEN:
		settle(store, ret_recheck);
		break;
	case STORE_DOUBT_FILES:
		files_gone(store, ret_recheck);
		break;
	case STORE_DOUBT_LOCKS:
		ret_recheck->end = STORE_RECHECK_LEAVE;
		snprintf(ret_recheck->text, sizeof(ret_recheck->text), "%.500s", store->doubt.text);
		break;
	}
}

enum store_doubt store_doubt(const struct store *store)
{
	return store->doubt.kind;
}

const char *store_doubt_text(const struct store *store)
{
	return store->doubt.text;
}

uint64_t store_foreign_count(const struct store *store)
{
	return store->foreign_count;
}

const char *store_lineage_note(const struct store *store)
{
	return store->foreign.note;
}
