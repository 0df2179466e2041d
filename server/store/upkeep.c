/* SPDX-License-Identifier: MIT */

/*
 * VACUUM and ANALYZE by the daemon's own hand. What this file keeps true: a VACUUM never comes without
 * a numbered commit right behind it, so that whoever counts commits counts it, too.
 */

#include "server/store/upkeep.h"

#include "server/store/chunk.h"
#include "server/store/inside.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

enum { ROOM_FACTOR = 4 };

static int pragma_number(struct store *store, const char *sql, uint64_t *ret_number)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store, sql, &stmt);
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
		*ret_number = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int store_upkeep_look(
	struct store *store, struct upkeep_facts *ret_facts, struct store_error *error)
{
	struct statvfs disk;
	uint64_t pages = 0;
	uint64_t unused = 0;
	int rc = pragma_number(store, "PRAGMA page_count", &pages);
	rc = rc == SQLITE_OK ? pragma_number(store, "PRAGMA freelist_count", &unused) : rc;
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	if (statvfs(store->path, &disk) != 0) {
		return store_error_set(
			error, STORE_RESOURCE, 0, "%s: %s", store->path, strerror(errno));
	}
	*ret_facts = (struct upkeep_facts){
		.bytes = pages * store->page_size,
		.free_bytes = unused * store->page_size,
		.disk_free = (uint64_t)disk.f_bavail * disk.f_frsize,
		.chunk_open = store_chunks_open(store),
	};
	return 0;
}

/* NULL without memory: then SQLite's own choice. */
static char *directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash == NULL ? NULL : sqlite3_mprintf("%.*s", (int)(slash - path + 1), path);
}

/* SQLite's own commit, and the numbered one behind it. */
static int vacuum(struct store *store, struct store_error *error)
{
	store->exec_deadline_us = 0;
	stmt_cache_clear(&store->cache);
	/* It works in a database of its own: a file beside this one, where room was looked for. */
	sqlite3_limit(store->handle, SQLITE_LIMIT_ATTACHED, 1);
	sqlite3_temp_directory = directory_of(store->path);
	(void)own_exec(store, "PRAGMA temp_store = file");
	int rc = own_exec(store, "VACUUM");
	(void)own_exec(store, "PRAGMA temp_store = memory");
	sqlite3_free(sqlite3_temp_directory);
	sqlite3_temp_directory = NULL;
	sqlite3_limit(store->handle, SQLITE_LIMIT_ATTACHED, 0);
	if (rc != SQLITE_OK) {
		bool unknown = (rc & 0xff) == SQLITE_IOERR;
		int condition = store_failed(store, rc, error);
		return unknown ? store_error_set(error, STORE_UNKNOWN, rc, "VACUUM: %s",
					 sqlite3_errmsg(store->handle))
			       : condition;
	}
	store->commit_no++; /* what it has committed, by no other hand than ours */
	foreign_committed(store);
	rc = store_begin(store, error);
	if (rc == 0) {
		store->dirty = true;
		store->ddl = true;               /* every compiled statement is stale */
		touched_schema(&store->touched); /* rowids without a name are others now */
		touched_batch_keep(&store->touched);
		rc = store_commit(store, error);
	}
	if (rc != 0) {
		/* The VACUUM stands, and the number that was told for it is in no commit: begin anew. */
		store_error_clear(error);
		return store_error_set(
			error, STORE_UNKNOWN, 0, "VACUUM: the commit behind it failed");
	}
	return 0;
}

int store_vacuum(struct store *store, struct store_error *error)
{
	struct upkeep_facts facts;
	int rc = store_upkeep_look(store, &facts, error);
	if (rc != 0) {
		return rc;
	}
	uint64_t wanted = ROOM_FACTOR * (facts.bytes - facts.free_bytes);
	if (facts.chunk_open) {
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			"a chunk is open: wait for its end, or cancel it (show chunks)");
	}
	if (facts.disk_free < wanted) {
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			"VACUUM may need %llu MiB on the disk, and %llu are free: make room first",
			(unsigned long long)(wanted >> 20),
			(unsigned long long)(facts.disk_free >> 20));
	}
	/* What it commits itself is counted as ours: what another process has written must be seen before. */
	rc = store_begin(store, error);
	if (rc != 0) {
		return rc;
	}
	store_rollback(store);
	return vacuum(store, error);
}

int store_optimize(struct store *store, struct store_error *error)
{
	static const char sql[] = "ANALYZE";
	struct step step = {.sql = {sql, sizeof(sql) - 1},
		.runs = 1,
		.expect_changes = -1,
		.expect_rows = -1,
		.rows_max = UINT32_MAX};
	struct step_sink sink = {0};
	struct step_result result;
	int rc = store_begin(store, error);
	if (rc != 0) {
		return rc;
	}
	store_batch_begin(store, 0);
	(void)own_exec(store, "PRAGMA analysis_limit = 1000");
	rc = store_step(store, ROLE_ADMIN, &step, &sink, &result, error);
	(void)own_exec(store, "PRAGMA analysis_limit = 0");
	if (rc == 0) {
		store_batch_keep(store);
		rc = store_commit(store, error);
	}
	if (rc != 0 && rc != STORE_UNKNOWN) {
		store_rollback(store);
	}
	return rc;
}
