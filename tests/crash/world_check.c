/* SPDX-License-Identifier: MIT */

/*
 * Holds the content of a store against the history: every row, every number, and SQLite's own
 * checks. It only reads.
 */

#include "server/store/inside.h"
#include "tests/crash/findings.h"
#include "tests/crash/world.h"

#include <stdlib.h>
#include <string.h>

static sqlite3_stmt *query(struct world *world, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	if (own_prepare(world->store, sql, &stmt) != SQLITE_OK) {
		found(FOUND_CORRUPT, "%s: %s", sql, sqlite3_errmsg(world->store->handle));
		return NULL;
	}
	return stmt;
}

static bool ended_well(struct world *world, sqlite3_stmt *stmt, int rc)
{
	if (rc != SQLITE_DONE) {
		found(FOUND_CORRUPT, "%s: %s", sqlite3_sql(stmt),
			sqlite3_errmsg(world->store->handle));
	}
	return rc == SQLITE_DONE;
}

static void check_integrity(struct world *world, const char *sql, const char *expected)
{
	sqlite3_stmt *stmt = query(world, sql);
	if (stmt == NULL) {
		return;
	}
	int rc = sqlite3_step(stmt);
	const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
	if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
		(void)ended_well(world, stmt, rc);
	} else if (text == NULL || expected == NULL ? text != expected
						    : strcmp(text, expected) != 0) {
		found(FOUND_CORRUPT, "%s: %s", sql, text != NULL ? text : "nothing");
	}
	sqlite3_finalize(stmt);
}

static void check_number(struct world *world, const char *sql, int64_t expected)
{
	sqlite3_stmt *stmt = query(world, sql);
	if (stmt == NULL) {
		return;
	}
	int rc = sqlite3_step(stmt);
	int64_t number = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : -1;
	if (number != expected) {
		found(rc == SQLITE_ROW ? FOUND_HALF : FOUND_CORRUPT, "%s: %lld, not %lld", sql,
			(long long)number, (long long)expected);
	}
	sqlite3_finalize(stmt);
}

/* A column of eight numbers. */
static void check_numbers(struct world *world, const char *sql, const int64_t *expected)
{
	sqlite3_stmt *stmt = query(world, sql);
	int rc = SQLITE_DONE;
	for (unsigned i = 0; stmt != NULL && i < COUNTERS; i++) {
		rc = sqlite3_step(stmt);
		if (rc != SQLITE_ROW || sqlite3_column_int64(stmt, 0) != expected[i]) {
			found(rc == SQLITE_ROW ? FOUND_HALF : FOUND_CORRUPT,
				"%s: the %u. is %lld, not %lld", sql, i + 1,
				rc == SQLITE_ROW ? (long long)sqlite3_column_int64(stmt, 0) : -1ll,
				(long long)expected[i]);
		}
	}
	sqlite3_finalize(stmt);
}

/* One row of `rows`; counts it for its batch. */
static void check_row(struct world *world, sqlite3_stmt *stmt, uint32_t *seen)
{
	uint8_t pad[PAD_MAX];
	int64_t id = sqlite3_column_int64(stmt, 0);
	int64_t part = sqlite3_column_int64(stmt, 1);
	if (id < 1 || id >= (int64_t)world->history->count) {
		found(FOUND_GHOST, "a row of batch %lld, which was never sent", (long long)id);
		return;
	}
	const struct batch *batch = &world->history->batches[id];
	if (part < 0 || part >= batch_rows(batch)) {
		found(FOUND_GHOST, "row %lld of batch %lld, which has %u", (long long)part,
			(long long)id, batch_rows(batch));
		return;
	}
	size_t len = batch_pad(batch, (uint32_t)part, pad);
	if ((size_t)sqlite3_column_bytes(stmt, 2) != len ||
		memcmp(sqlite3_column_blob(stmt, 2), pad, len) != 0) {
		found(FOUND_CORRUPT, "row %lld of batch %lld holds other bytes", (long long)part,
			(long long)id);
	}
	seen[id]++;
}

static void check_batch(
	const struct history *history, const struct batch *batch, uint32_t seen, uint64_t commit_no)
{
	uint32_t expected = batch_rows_in(history, batch, commit_no);
	if (seen == expected) {
		return;
	}
	enum finding finding = expected == 0 ? FOUND_GHOST
		: seen == 0                  ? FOUND_LOST
		: seen < expected            ? FOUND_HALF
					     : FOUND_TWICE;
	found(finding, "batch %u (kind %d, commit %llu of %llu) has %u rows, not %u", batch->id,
		batch->kind, (unsigned long long)batch->commit_no, (unsigned long long)commit_no,
		seen, expected);
}

static void check_rows(struct world *world, uint64_t commit_no)
{
	const struct history *history = world->history;
	sqlite3_stmt *stmt = query(world, "SELECT batch, part, pad FROM rows");
	uint32_t *seen = calloc(history->count, sizeof(*seen));
	int rc = SQLITE_ROW;
	if (stmt == NULL || seen == NULL) {
		free(seen);
		return;
	}
	while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		check_row(world, stmt, seen);
	}
	if (ended_well(world, stmt, rc)) {
		for (size_t i = 1; i < history->count; i++) {
			check_batch(history, &history->batches[i], seen[i], commit_no);
		}
	}
	sqlite3_finalize(stmt);
	free(seen);
}

void world_check_recovered(struct world *world, const struct expected *expected)
{
	uint64_t commit_no = store_commit_no(world->store) - 1; /* the start has taken one */
	if (commit_no < expected->acked) {
		found(FOUND_LOST, "commit %llu was acknowledged, the newest is %llu",
			(unsigned long long)expected->acked, (unsigned long long)commit_no);
	}
	if (commit_no > expected->commit_max) {
		found(FOUND_GHOST, "commit %llu is there, the newest can be %llu",
			(unsigned long long)commit_no, (unsigned long long)expected->commit_max);
	}
	if (expected->acked > 0 &&
		memcmp(expected->epoch, store_epoch(world->store), STORE_EPOCH_BYTES) != 0) {
		found(FOUND_LOST, "it has another epoch");
	}
	history_cut(world->history, expected->sent, expected->acked, commit_no);
	world_check(world);
}

void world_check_integrity(struct world *world)
{
	check_integrity(world, "PRAGMA integrity_check", "ok");
	check_integrity(world, "PRAGMA foreign_key_check", NULL);
}

void world_check(struct world *world)
{
	struct totals totals;
	uint64_t commit_no = store_commit_no(world->store);
	const struct batch *setup = &world->history->batches[1];
	check_number(world, "SELECT commit_no FROM _lf_state", (int64_t)commit_no);
	if (setup->commit_no == 0 || setup->commit_no > commit_no) {
		check_number(world, "SELECT count(*) FROM sqlite_schema WHERE name = 'rows'", 0);
		return;
	}
	check_rows(world, commit_no);
	history_totals(world->history, commit_no, &totals);
	check_numbers(world, "SELECT n FROM counter ORDER BY id", totals.counters);
	check_numbers(world, "SELECT money FROM account ORDER BY id", totals.accounts);
	check_number(world, "SELECT count(*) FROM parent", totals.parents);
	check_number(world, "SELECT count(*) FROM child", totals.parents);
	check_number(world, "SELECT count(*) FROM uniq", 1);
	check_number(world, "SELECT count(*) FROM guarded", 0);
	check_number(world,
		"SELECT count(*) FROM sqlite_schema WHERE name LIKE 'made~_%' ESCAPE '~'",
		totals.tables);
}
