/* SPDX-License-Identifier: MIT */

/*
 * A handle of this process, as an application has it that writes to SQLite itself: WAL, a
 * busy_timeout of five seconds, BEGIN IMMEDIATE, prepared statements. `raw` is the same with the
 * page cache of the daemon. A request is answered when it is submitted.
 */

#include "server/cli/bench_target.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUSY_TIMEOUT_MS = 5000 };

struct target {
	sqlite3 *handle;
	sqlite3_stmt *begin;
	sqlite3_stmt *commit;
	sqlite3_stmt *rollback;
	sqlite3_stmt *statements[STATEMENTS];
	char *text;
	unsigned text_bytes;
	bool answered;
	struct answer answer;
};

uint64_t target_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void direct_close(struct target *target)
{
	if (target == NULL) {
		return;
	}
	for (int i = 0; i < STATEMENTS; i++) {
		sqlite3_finalize(target->statements[i]);
	}
	sqlite3_finalize(target->begin);
	sqlite3_finalize(target->commit);
	sqlite3_finalize(target->rollback);
	sqlite3_close(target->handle);
	free(target->text);
	free(target);
}

static int prepare(struct target *target, const char *sql, sqlite3_stmt **ret_stmt)
{
	return sqlite3_prepare_v3(
		target->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, ret_stmt, NULL);
}

static int prepare_all(struct target *target)
{
	int rc = prepare(target, "BEGIN IMMEDIATE", &target->begin);
	rc = rc == SQLITE_OK ? prepare(target, "COMMIT", &target->commit) : rc;
	rc = rc == SQLITE_OK ? prepare(target, "ROLLBACK", &target->rollback) : rc;
	for (enum bench_statement i = 0; rc == SQLITE_OK && i < STATEMENTS; i++) {
		rc = prepare(target, workload_sql(i), &target->statements[i]);
	}
	return rc;
}

static int direct_open(const struct bench_options *options, enum bench_mode mode, const char *db,
	bool import, struct target **ret_target, char *ret_error)
{
	char pragmas[128];
	struct target *target = calloc(1, sizeof(*target));
	(void)import;
	if (target == NULL) {
		return -ENOMEM;
	}
	target->text_bytes = options->row_bytes;
	target->text = malloc(options->row_bytes + 1);
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
	int rc = target->text == NULL ? SQLITE_NOMEM
				      : sqlite3_open_v2(db, &target->handle, flags, NULL);
	snprintf(pragmas, sizeof(pragmas), "PRAGMA synchronous = %s; PRAGMA cache_size = %d",
		options->sync_full ? "FULL" : "NORMAL", mode == BENCH_RAW ? -65536 : -2000);
	sqlite3_busy_timeout(target->handle, BUSY_TIMEOUT_MS);
	rc = rc == SQLITE_OK ? sqlite3_exec(target->handle, pragmas, NULL, NULL, NULL) : rc;
	rc = rc == SQLITE_OK ? prepare_all(target) : rc;
	if (rc != SQLITE_OK) {
		snprintf(ret_error, TARGET_ERROR_BYTES, "%s: %s", db,
			target->handle != NULL ? sqlite3_errmsg(target->handle)
					       : sqlite3_errstr(rc));
		direct_close(target);
		return -EIO;
	}
	memset(target->text, 'd', options->row_bytes);
	*ret_target = target;
	return 0;
}

static unsigned direct_depth(const struct bench_options *options, bool import)
{
	(void)options;
	(void)import;
	return 1;
}

static int run(sqlite3_stmt *stmt)
{
	int rc = SQLITE_ROW;
	while (rc == SQLITE_ROW) {
		rc = sqlite3_step(stmt);
	}
	sqlite3_reset(stmt);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int run_act(struct target *target, const struct act *act)
{
	sqlite3_stmt *stmt = target->statements[act->statement];
	unsigned i = 0;
	for (; i < act->values_count; i++) {
		sqlite3_bind_int64(stmt, (int)i + 1, act->values[i]);
	}
	if (act->text) {
		sqlite3_bind_text(
			stmt, (int)i + 1, target->text, (int)target->text_bytes, SQLITE_STATIC);
	}
	return run(stmt);
}

static const char *error_name(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_BUSY:
		return "busy";
	case SQLITE_LOCKED:
		return "locked";
	case SQLITE_FULL:
		return "disk_full";
	case SQLITE_IOERR:
		return "io_error";
	default:
		return "sql";
	}
}

static int direct_submit(struct target *target, const struct work *work, uint64_t start_ns)
{
	int rc = run(target->begin);
	int64_t before = sqlite3_total_changes64(target->handle);
	bool begun = rc == SQLITE_OK;
	for (size_t i = 0; rc == SQLITE_OK && i < work->count; i++) {
		rc = run_act(target, &work->acts[i]);
	}
	rc = rc == SQLITE_OK ? run(target->commit) : rc;
	if (rc != SQLITE_OK && begun) {
		run(target->rollback);
	}
	target->answered = true;
	target->answer = (struct answer){
		.start_ns = start_ns,
		.kind = work->kind,
		.rows = work->rows,
		.done = rc == SQLITE_OK,
		.changed = rc == SQLITE_OK
			? (uint64_t)(sqlite3_total_changes64(target->handle) - before)
			: 0,
	};
	if (rc != SQLITE_OK) {
		snprintf(target->answer.error, sizeof(target->answer.error), "%s", error_name(rc));
	}
	return 0;
}

static int direct_next(struct target *target, uint64_t until_ns, struct answer *ret_answer)
{
	(void)until_ns;
	if (!target->answered) {
		return TARGET_NOTHING;
	}
	target->answered = false;
	*ret_answer = target->answer;
	return 0;
}

const struct target_kind target_direct = {
	direct_open, direct_close, direct_depth, direct_submit, direct_next};
