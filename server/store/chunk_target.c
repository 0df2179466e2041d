/* SPDX-License-Identifier: MIT */

/*
 * To which tables a chunk is bound. A statement knows its tables by name only, and a chunk runs for long: who
 * drops one meanwhile, or renames it, and makes another of that name, would find it changed by a chunk
 * that was never meant for it. What this file keeps true: a chunk fails in the very transaction in which
 * a table of its statement goes, and nobody can let it go on.
 *
 * A page number and a text do not tell one table from the next, for SQLite gives both anew to a table
 * that is made as the last one was: so each statement that changes the schema is asked at once. What other
 * processes do is seen only afterwards, and compared by just these two.
 */

#include "server/store/chunk_inside.h"

#include "server/base/clock.h"

#include <string.h>
#include <xxhash.h>

void chunk_targets_read(struct chunk *chunk)
{
	struct slicing_text text;
	struct store_error error = {.row = -1};
	if (slicing_read((struct bytes){chunk->sql, strlen(chunk->sql)}, &text, &error) == 0) {
		memcpy(chunk->targets[0].name, text.table, sizeof(text.table));
		memcpy(chunk->targets[1].name, text.into, sizeof(text.into));
	}
	store_error_clear(&error);
}

/* What the schema has of that table; 0: there is none. SQLite's code. */
static int look_up(struct store *store, const char *name, uint64_t *ret_identity)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_TARGET);
	if (stmt == NULL) {
		return sqlite3_errcode(store->handle);
	}
	*ret_identity = 0;
	sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
	int rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		const void *sql = sqlite3_column_text(stmt, 1);
		size_t len = (size_t)sqlite3_column_bytes(stmt, 1);
		uint64_t root = (uint64_t)sqlite3_column_int64(stmt, 0);
		*ret_identity = XXH3_64bits_withSeed(sql != NULL ? sql : "", len, root) | 1;
	}
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Whether the table has no column any more of the key's name: later another one may have it. SQLite's code. */
static int look_for_key(struct store *store, const struct chunk *chunk, bool *ret_gone)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_HAS_COLUMN);
	if (stmt == NULL) {
		return sqlite3_errcode(store->handle);
	}
	sqlite3_bind_text(stmt, 1, chunk->targets[0].name, -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 2, chunk->by, -1, SQLITE_STATIC);
	int rc = sqlite3_step(stmt);
	*ret_gone = rc == SQLITE_DONE;
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

void chunk_targets_note(struct store *store)
{
	list_for_each(node, &store->chunks->list) {
		struct chunk *chunk = container_of(node, struct chunk, node);
		for (size_t i = 0; i < CHUNK_TARGETS; i++) {
			struct chunk_target *target = &chunk->targets[i];
			if (target->name[0] != 0 &&
				look_up(store, target->name, &target->identity) != SQLITE_OK) {
				target->identity = 0;
			}
		}
	}
}

void chunk_targets_changed(struct store *store)
{
	if (!list_empty(&store->chunks->list)) {
		chunk_targets_note(store);
	}
}

/* It fails, and for good unless somebody may say that the table is the same. SQLite's code. */
static int lose(struct store *store, const struct chunk *chunk, const char *why, bool for_good)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_LOSE);
	if (stmt == NULL) {
		return sqlite3_errcode(store->handle);
	}
	sqlite3_bind_int64(stmt, 1, (sqlite3_int64)chunk->facts.id);
	sqlite3_bind_int(stmt, 2, CHUNK_FAILED);
	sqlite3_bind_int64(stmt, 3, (sqlite3_int64)(clock_wall_us() / 1000000));
	sqlite3_bind_text(stmt, 4, why, -1, SQLITE_TRANSIENT);
	sqlite3_bind_int(stmt, 5, for_good);
	store->dirty = true;
	store->chunks->stale = true;
	int rc = own_run(store, stmt);
	sqlite3_clear_bindings(stmt);
	return rc;
}

/* SQLite's code. */
static int check_target(struct store *store, const struct chunk *chunk,
	const struct chunk_target *target, bool compare, bool *ret_lost)
{
	char why[CHUNK_ERROR_BYTES];
	uint64_t identity = 0;
	bool renamed = false;
	int rc = look_up(store, target->name, &identity);
	if (rc == SQLITE_OK && identity != 0 && target == &chunk->targets[0] && chunk->by != NULL) {
		rc = look_for_key(store, chunk, &renamed);
	}
	bool gone = identity == 0 || renamed;
	*ret_lost = gone || (compare && target->identity != 0 && target->identity != identity);
	if (rc != SQLITE_OK || !*ret_lost) {
		return rc;
	}
	sqlite3_snprintf(sizeof(why), why,
		renamed ? "the key of the table \"%s\" was renamed or dropped"
			: gone
			? "the table \"%s\" was dropped or renamed"
			: "another process has changed the table \"%s\", or made it anew: `resume` lets "
			  "the chunk go on in it",
		target->name);
	return lose(store, chunk, why, gone);
}

static int check(struct store *store, bool compare, struct store_error *error)
{
	list_for_each(node, &store->chunks->list) {
		const struct chunk *chunk = container_of(node, struct chunk, node);
		bool lost = chunk->lost || chunk->facts.state == CHUNK_DONE ||
			chunk->facts.state == CHUNK_CANCELLED;
		for (size_t i = 0; i < CHUNK_TARGETS && !lost; i++) {
			const struct chunk_target *target = &chunk->targets[i];
			int rc = target->name[0] != 0
				? check_target(store, chunk, target, compare, &lost)
				: SQLITE_OK;
			if (rc != SQLITE_OK) {
				return store_failed(store, rc, error);
			}
		}
	}
	return 0;
}

int chunk_targets_check(struct store *store, struct store_error *error)
{
	return list_empty(&store->chunks->list) ? 0 : check(store, false, error);
}

int chunk_targets_compare(struct store *store, struct store_error *error)
{
	return check(store, true, error);
}

int chunk_check_resume(
	struct store *store, uint64_t id, struct bytes name, struct store_error *error)
{
	sqlite3_stmt *stmt = chunk_stmt(store, CHUNK_SQL_IS_LOST);
	int rc = stmt != NULL ? sqlite3_bind_int64(stmt, 1, (sqlite3_int64)id)
			      : sqlite3_errcode(store->handle);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	int refused = 0;
	if (rc == SQLITE_ROW) {
		refused = store_error_set(error, STORE_BAD_REQUEST, 0,
			"the chunk \"%.*s\" cannot go on: %s (begin one with another name)",
			(int)name.len, (const char *)name.data, sqlite3_column_text(stmt, 0));
	} else if (rc != SQLITE_DONE) {
		refused = store_failed(store, rc, error);
	}
	sqlite3_reset(stmt);
	return refused;
}
