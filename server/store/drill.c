/* SPDX-License-Identifier: MIT */

/*
 * The rows of _lf_drill. What is kept true: there are never more than DRILLS_KEPT and one, and the
 * newest drill that passed is among them.
 */

#include "server/store/drill.h"

#include "server/store/inside.h"

#include <string.h>

static void copy_text(sqlite3_stmt *stmt, int column, char *to, size_t bytes)
{
	const char *text = (const char *)sqlite3_column_text(stmt, column);
	sqlite3_snprintf((int)bytes, to, "%s", text != NULL ? text : "");
}

static uint64_t column_uint(sqlite3_stmt *stmt, int column)
{
	return (uint64_t)sqlite3_column_int64(stmt, column);
}

static void read_row(sqlite3_stmt *stmt, struct drill_record *record)
{
	const char *verdict = (const char *)sqlite3_column_text(stmt, 5);
	*record = (struct drill_record){
		.id = column_uint(stmt, 0),
		.scheduled = sqlite3_column_int(stmt, 1) != 0,
		.began_ms = sqlite3_column_int64(stmt, 3),
		.ended_ms = sqlite3_column_int64(stmt, 4),
		.verdict = DRILL_INCONCLUSIVE,
		.commit_no = column_uint(stmt, 7),
		.has_digest = sqlite3_column_bytes(stmt, 8) == DRILL_DIGEST_BYTES,
		.txid = column_uint(stmt, 9),
		.behind = column_uint(stmt, 10),
		.rpo_ms = sqlite3_column_int64(stmt, 11),
		.ship_ms = sqlite3_column_int64(stmt, 12),
		.rto_ms = sqlite3_column_int64(stmt, 13),
		.bytes = column_uint(stmt, 14),
		.database_bytes = column_uint(stmt, 15),
		.violations = column_uint(stmt, 16),
		.assertions = column_uint(stmt, 17),
	};
	(void)drill_verdict_parse(verdict != NULL ? verdict : "", &record->verdict);
	copy_text(stmt, 2, record->replica, sizeof(record->replica));
	copy_text(stmt, 6, record->reason, sizeof(record->reason));
	copy_text(stmt, 18, record->tables, sizeof(record->tables));
	if (record->has_digest) {
		memcpy(record->digest, sqlite3_column_blob(stmt, 8), DRILL_DIGEST_BYTES);
	}
}

int store_drills(struct store *store, void (*fn)(void *ctx, const struct drill_record *record),
	void *ctx, struct store_error *error)
{
	static const char sql[] =
		"SELECT id, scheduled, replica, began_ms, ended_ms, verdict, reason, commit_no, digest,"
		" txid, behind, rpo_ms, ship_ms, rto_ms, bytes, database_bytes, violations, assertions,"
		" table_rows FROM _lf_drill ORDER BY id";
	sqlite3_stmt *stmt = NULL;
	struct drill_record record;
	authorizer_enter(&store->authorizer, ROLE_SELF);
	int rc = own_prepare(store, sql, &stmt);
	while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		read_row(stmt, &record);
		fn(ctx, &record);
		rc = SQLITE_OK;
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_DONE ? 0 : store_failed(store, rc, error);
}

static void bind(sqlite3_stmt *stmt, const struct drill_record *record)
{
	sqlite3_bind_int(stmt, 1, record->scheduled);
	sqlite3_bind_text(stmt, 2, record->replica, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 3, record->began_ms);
	sqlite3_bind_int64(stmt, 4, record->ended_ms);
	sqlite3_bind_text(stmt, 5, drill_verdict_name(record->verdict), -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 6, record->reason, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 7, (sqlite3_int64)record->commit_no);
	if (record->has_digest) {
		sqlite3_bind_blob(stmt, 8, record->digest, DRILL_DIGEST_BYTES, SQLITE_STATIC);
	}
	sqlite3_bind_int64(stmt, 9, (sqlite3_int64)record->txid);
	sqlite3_bind_int64(stmt, 10, (sqlite3_int64)record->behind);
	sqlite3_bind_int64(stmt, 11, record->rpo_ms);
	sqlite3_bind_int64(stmt, 12, record->ship_ms);
	sqlite3_bind_int64(stmt, 13, record->rto_ms);
	sqlite3_bind_int64(stmt, 14, (sqlite3_int64)record->bytes);
	sqlite3_bind_int64(stmt, 15, (sqlite3_int64)record->database_bytes);
	sqlite3_bind_int64(stmt, 16, (sqlite3_int64)record->violations);
	sqlite3_bind_int64(stmt, 17, (sqlite3_int64)record->assertions);
	sqlite3_bind_text(stmt, 18, record->tables, -1, SQLITE_STATIC);
}

static int insert(struct store *store, struct drill_record *record)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store,
		"INSERT INTO _lf_drill(scheduled, replica, began_ms, ended_ms, verdict, reason,"
		" commit_no, digest, txid, behind, rpo_ms, ship_ms, rto_ms, bytes, database_bytes,"
		" violations, assertions, table_rows) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,"
		" ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
		&stmt);
	if (rc == SQLITE_OK) {
		bind(stmt, record);
		rc = own_run(store, stmt);
		record->id = (uint64_t)sqlite3_last_insert_rowid(store->handle);
	}
	sqlite3_finalize(stmt);
	return rc;
}

static int prune(struct store *store)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store,
		"DELETE FROM _lf_drill WHERE id <= (SELECT max(id) FROM _lf_drill) - ?1"
		" AND id IS NOT (SELECT max(id) FROM _lf_drill WHERE verdict = 'pass')",
		&stmt);
	if (rc == SQLITE_OK) {
		sqlite3_bind_int(stmt, 1, DRILLS_KEPT);
		rc = own_run(store, stmt);
	}
	sqlite3_finalize(stmt);
	return rc;
}

int store_drill_add(struct store *store, struct drill_record *record, struct store_error *error)
{
	int rc = store_begin(store, error);
	if (rc != 0) {
		return rc;
	}
	store->dirty = true;
	authorizer_enter(&store->authorizer, ROLE_SELF);
	int sqlite = insert(store, record);
	sqlite = sqlite == SQLITE_OK ? prune(store) : sqlite;
	rc = sqlite == SQLITE_OK ? store_commit(store, error) : store_failed(store, sqlite, error);
	if (rc != 0 && rc != STORE_UNKNOWN) {
		store_rollback(store);
	}
	return rc;
}
