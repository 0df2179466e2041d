/* SPDX-License-Identifier: MIT */

/*
 * The daemon's tables in the database: who made it (epoch), how far it is (commit number), and what
 * the other files of store/ remember. They are plain tables with documented columns; leaving
 * litefunnel means leaving them or dropping them.
 */

#include "server/store/inside.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* Since format 2, with `walk` since format 4. */
#define CHUNK_TABLE                                                                                \
	"CREATE TABLE _lf_chunk("                                                                  \
	" id INTEGER PRIMARY KEY,"                                                                 \
	" uid INTEGER NOT NULL,"                                                                   \
	" name TEXT NOT NULL,"                                                                     \
	" hash BLOB NOT NULL,"                                                                     \
	" sql TEXT NOT NULL,"                                                                      \
	" params BLOB NOT NULL,"                                                                   \
	" key TEXT,"                                                                               \
	" first_key,"                                                                              \
	" last_key,"                                                                               \
	" done_key,"                                                                               \
	" state INTEGER NOT NULL,"                                                                 \
	" rows INTEGER NOT NULL DEFAULT 0,"                                                        \
	" changes INTEGER NOT NULL DEFAULT 0,"                                                     \
	" slices INTEGER NOT NULL DEFAULT 0,"                                                      \
	" busy_us INTEGER NOT NULL DEFAULT 0,"                                                     \
	" commit_no INTEGER NOT NULL DEFAULT 0,"                                                   \
	" rate INTEGER NOT NULL DEFAULT 0,"                                                        \
	" slice_ms INTEGER NOT NULL DEFAULT 10,"                                                   \
	" started_s INTEGER NOT NULL,"                                                             \
	" ended_s INTEGER NOT NULL DEFAULT 0,"                                                     \
	" error TEXT NOT NULL DEFAULT '',"                                                         \
	" walk TEXT NOT NULL DEFAULT '',"                                                          \
	" UNIQUE (uid, name));"
#define CHUNK_WALK "ALTER TABLE _lf_chunk ADD COLUMN walk TEXT NOT NULL DEFAULT ''"

/* Since format 3. */
#define DRILL_TABLE                                                                                \
	"CREATE TABLE _lf_drill("                                                                  \
	" id INTEGER PRIMARY KEY,"                                                                 \
	" scheduled INTEGER NOT NULL,"                                                             \
	" replica TEXT NOT NULL,"                                                                  \
	" began_ms INTEGER NOT NULL,"                                                              \
	" ended_ms INTEGER NOT NULL,"                                                              \
	" verdict TEXT NOT NULL,"                                                                  \
	" reason TEXT NOT NULL,"                                                                   \
	" commit_no INTEGER NOT NULL,"                                                             \
	" digest BLOB,"                                                                            \
	" txid INTEGER NOT NULL,"                                                                  \
	" behind INTEGER NOT NULL,"                                                                \
	" rpo_ms INTEGER NOT NULL,"                                                                \
	" ship_ms INTEGER NOT NULL,"                                                               \
	" rto_ms INTEGER NOT NULL,"                                                                \
	" bytes INTEGER NOT NULL,"                                                                 \
	" database_bytes INTEGER NOT NULL,"                                                        \
	" violations INTEGER NOT NULL,"                                                            \
	" assertions INTEGER NOT NULL,"                                                            \
	" table_rows TEXT NOT NULL);"

static const char schema[] = "CREATE TABLE _lf_state("
			     " id INTEGER PRIMARY KEY CHECK (id = 1),"
			     " format INTEGER NOT NULL,"
			     " epoch BLOB NOT NULL,"
			     " commit_no INTEGER NOT NULL,"
			     " session_window INTEGER NOT NULL);"
			     "CREATE TABLE _lf_group("
			     " commit_no INTEGER PRIMARY KEY,"
			     " replies BLOB NOT NULL);"
			     "CREATE TABLE _lf_session("
			     " uid INTEGER NOT NULL,"
			     " session BLOB NOT NULL,"
			     " seq INTEGER NOT NULL,"
			     " done INTEGER NOT NULL,"
			     " commit_no INTEGER NOT NULL,"
			     " hash BLOB,"
			     " reply BLOB,"
			     " PRIMARY KEY (uid, session, seq)) WITHOUT ROWID;"
			     "CREATE INDEX _lf_session_grave ON _lf_session(commit_no)"
			     " WHERE seq = 0 AND done = -1;"
			     "CREATE TABLE _lf_key("
			     " id INTEGER PRIMARY KEY,"
			     " uid INTEGER NOT NULL,"
			     " key BLOB NOT NULL,"
			     " hash BLOB NOT NULL,"
			     " commit_no INTEGER NOT NULL,"
			     " born_s INTEGER NOT NULL,"
			     " reply BLOB NOT NULL,"
			     " UNIQUE (uid, key));" CHUNK_TABLE DRILL_TABLE;

/* Whether _lf_state is there, and whether others of our tables are. */
static int state_exists(struct store *store, bool *ret_exists, bool *ret_remains)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store,
		"SELECT count(*) FILTER (WHERE name = '_lf_state'),"
		" count(*) FILTER (WHERE name IN ('_lf_group', '_lf_session', '_lf_key', '_lf_chunk',"
		" '_lf_drill')) FROM sqlite_schema WHERE type = 'table'",
		&stmt);
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
		*ret_exists = rc == SQLITE_ROW && sqlite3_column_int(stmt, 0) == 1;
		*ret_remains = rc == SQLITE_ROW && sqlite3_column_int(stmt, 1) > 0;
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* A new lineage. */
static int state_create(struct store *store)
{
	sqlite3_stmt *stmt = NULL;
	uint8_t epoch[STORE_EPOCH_BYTES];
	if (getrandom(epoch, sizeof(epoch), 0) != (ssize_t)sizeof(epoch)) {
		return SQLITE_IOERR;
	}
	int rc = own_exec(store, "BEGIN IMMEDIATE");
	rc = rc == SQLITE_OK ? own_exec(store, schema) : rc;
	rc = rc == SQLITE_OK
		? own_prepare(store,
			  "INSERT INTO _lf_state(id, format, epoch, commit_no, session_window) "
			  "VALUES (1, ?1, ?2, 0, ?3)",
			  &stmt)
		: rc;
	if (rc == SQLITE_OK) {
		sqlite3_bind_int(stmt, 1, STORE_FORMAT);
		sqlite3_bind_blob(stmt, 2, epoch, sizeof(epoch), SQLITE_STATIC);
		sqlite3_bind_int64(stmt, 3, store->session_window);
		rc = own_run(store, stmt);
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_OK ? own_exec(store, "COMMIT") : rc;
}

int state_new_epoch(struct store *store)
{
	sqlite3_stmt *stmt = NULL;
	uint8_t epoch[STORE_EPOCH_BYTES];
	if (getrandom(epoch, sizeof(epoch), 0) != (ssize_t)sizeof(epoch)) {
		return SQLITE_IOERR;
	}
	int rc = own_prepare(store, "UPDATE _lf_state SET epoch = ?1", &stmt);
	if (rc == SQLITE_OK) {
		sqlite3_bind_blob(stmt, 1, epoch, sizeof(epoch), SQLITE_STATIC);
		rc = own_run(store, stmt);
	}
	sqlite3_finalize(stmt);
	if (rc == SQLITE_OK) {
		memcpy(store->epoch, epoch, sizeof(epoch));
	}
	return rc;
}

static int state_read(struct store *store, int *ret_format, int64_t *ret_window)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(
		store, "SELECT epoch, commit_no, format, session_window FROM _lf_state", &stmt);
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
	}
	if (rc == SQLITE_ROW && sqlite3_column_bytes(stmt, 0) == STORE_EPOCH_BYTES) {
		memcpy(store->epoch, sqlite3_column_blob(stmt, 0), STORE_EPOCH_BYTES);
		store->commit_no = (uint64_t)sqlite3_column_int64(stmt, 1);
		*ret_format = sqlite3_column_int(stmt, 2);
		*ret_window = sqlite3_column_int64(stmt, 3);
		rc = SQLITE_OK;
	} else if (rc == SQLITE_ROW || rc == SQLITE_DONE) {
		rc = SQLITE_CORRUPT;
	}
	sqlite3_finalize(stmt);
	return rc;
}

/* Brings the tables of an older format up to this one, in one transaction. SQLite's code. */
static int state_migrate(struct store *store, int format)
{
	char sql[80];
	snprintf(sql, sizeof(sql), "UPDATE _lf_state SET format = %d", STORE_FORMAT);
	int rc = own_exec(store, "BEGIN IMMEDIATE");
	rc = rc == SQLITE_OK && format < 2 ? own_exec(store, CHUNK_TABLE) : rc;
	rc = rc == SQLITE_OK && format >= 2 && format < 4 ? own_exec(store, CHUNK_WALK) : rc;
	rc = rc == SQLITE_OK && format >= 2 && format < 4 ? chunk_pin_walks(store) : rc;
	rc = rc == SQLITE_OK && format >= 2 && format < 4 ? many_rename(store) : rc;
	rc = rc == SQLITE_OK && format < 3 ? own_exec(store, DRILL_TABLE) : rc;
	rc = rc == SQLITE_OK ? own_exec(store, sql) : rc;
	return rc == SQLITE_OK ? own_exec(store, "COMMIT") : rc;
}

/* If it cannot be noted now, the next start does. */
static void state_shrink_window(struct store *store)
{
	char sql[96];
	snprintf(sql, sizeof(sql), "UPDATE _lf_state SET session_window = %u",
		store->session_window);
	if (own_exec(store, "BEGIN IMMEDIATE") == SQLITE_OK &&
		(own_exec(store, sql) != SQLITE_OK || own_exec(store, "COMMIT") != SQLITE_OK)) {
		(void)own_exec(store, "ROLLBACK");
	}
}

uint32_t state_page(struct store *store)
{
	sqlite3_stmt *stmt = NULL;
	uint32_t page = 0;
	if (own_prepare(store, "SELECT rootpage FROM sqlite_schema WHERE name = '_lf_state'",
		    &stmt) == SQLITE_OK &&
		sqlite3_step(stmt) == SQLITE_ROW) {
		page = (uint32_t)sqlite3_column_int64(stmt, 0);
	}
	sqlite3_finalize(stmt);
	return page;
}

/* Whether this program, with its settings, may go on with what stands there: 0, or -1 with a sentence. */
static int may_go_on(
	const struct store *store, int format, int64_t window, char ret_error[STORE_ERROR_BYTES])
{
	if (format > STORE_FORMAT) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s was used by a newer litefunnel (format %d, this one knows %d): use that version",
			store->path, format, STORE_FORMAT);
		return -1;
	}
	if (store->session_window > window) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: session_window was %lld and cannot grow: answers below it are forgotten, "
			"and what they answer would run again",
			store->path, (long long)window);
		return -1;
	}
	return 0;
}

static int check_schema(struct store *store, char ret_error[STORE_ERROR_BYTES])
{
	bool trespassed = true;
	schema_allow_views(store);
	if (schema_find_trespass(store, &trespassed) != SQLITE_OK) {
		snprintf(ret_error, STORE_ERROR_BYTES, "%s: its schema cannot be read: %s",
			store->path, sqlite3_errmsg(store->handle));
		return -1;
	}
	if (trespassed) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: its schema has an index, a trigger or a foreign key on a shadow table, or refers to litefunnel's tables "
			"(_lf_…), or takes a name of theirs or of SQLite's tables of facts (pragma_…): "
			"remove or rename that first",
			store->path);
		return -1;
	}
	return 0;
}

int state_open(struct store *store, char ret_error[STORE_ERROR_BYTES])
{
	bool exists = false;
	bool remains = false;
	int format = STORE_FORMAT;
	int64_t window = store->session_window;
	int rc = state_exists(store, &exists, &remains);
	if (rc == SQLITE_OK && !exists && remains) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s has lost litefunnel's table _lf_state: restore it; or drop the other tables "
			"_lf_* and start anew, and all that repeats are known by is forgotten",
			store->path);
		return -1;
	}
	if (rc == SQLITE_OK && exists) {
		rc = state_read(store, &format, &window);
	}
	if (rc == SQLITE_OK &&
		(may_go_on(store, format, window, ret_error) < 0 ||
			wal_check_damage(store, ret_error) < 0)) {
		return -1;
	}
	if (rc == SQLITE_OK && !exists) {
		rc = state_create(store);
		rc = rc == SQLITE_OK ? state_read(store, &format, &window) : rc;
	}
	if (rc == SQLITE_OK && format < STORE_FORMAT) {
		rc = state_migrate(store, format);
	}
	if (rc != SQLITE_OK) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: cannot read or make litefunnel's tables: %s", store->path,
			sqlite3_errmsg(store->handle));
		return -1;
	}
	if (store->session_window < window) {
		state_shrink_window(store);
	}
	return check_schema(store, ret_error);
}
