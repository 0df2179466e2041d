/* SPDX-License-Identifier: MIT */

/*
 * The store: opening, what is refused at opening, numbered commits, savepoints, settings that must
 * hold, and what other processes see of it.
 */

#include "tests/unit/bed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct bed bed;
static struct shown shown;

/* ---- another process's view ---- */

static sqlite3 *open_other(int flags)
{
	sqlite3 *other = NULL;
	assert_int_equal(sqlite3_open_v2(bed.path, &other, flags, NULL), SQLITE_OK);
	return other;
}

static int other_exec(const char *sql)
{
	sqlite3 *other = open_other(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
	int rc = sqlite3_exec(other, sql, NULL, NULL, NULL);
	sqlite3_close(other);
	return rc;
}

/* The same, by one that leaves the WAL where it is. */
static int other_exec_in_wal(const char *sql)
{
	int persist = 1;
	sqlite3 *other = open_other(SQLITE_OPEN_READWRITE);
	sqlite3_db_config(other, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_file_control(other, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
	int rc = sqlite3_exec(other, sql, NULL, NULL, NULL);
	sqlite3_close(other);
	return rc;
}

static int64_t other_number(const char *sql)
{
	sqlite3 *other = open_other(SQLITE_OPEN_READONLY);
	sqlite3_stmt *stmt = NULL;
	assert_int_equal(sqlite3_prepare_v2(other, sql, -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	int64_t number = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	sqlite3_close(other);
	return number;
}

/* ---- opening ---- */

static void open_must_fail(const char *says)
{
	char error[STORE_ERROR_BYTES] = "";
	struct store *store = NULL;
	int rc = store_open(&bed.options, &store, error);
	if (rc == 0) {
		store_close(store);
		fail_msg("it opened; expected: %s", says);
	}
	assert_int_equal(rc, -EINVAL);
	if (strstr(error, says) == NULL) {
		fail_msg("\"%s\" does not say: %s", error, says);
	}
}

static void test_opening(void **state)
{
	struct stat status;
	uint8_t epoch[STORE_EPOCH_BYTES];
	(void)state;
	bed_close(&bed);
	(void)unlink(bed.path);
	(void)unlink(bed_file(&bed, "-wal"));
	(void)unlink(bed_file(&bed, "-shm"));
	bed.options.create = false;
	open_must_fail("--create");
	assert_int_equal(stat(bed.path, &status), -1); /* and made nothing */
	bed.options.create = true;
	bed_open(&bed);
	assert_int_equal(store_commit_no(bed.store), 1); /* the start is a commit */
	memcpy(epoch, store_epoch(bed.store), sizeof(epoch));
	assert_int_equal(store_page_size(bed.store), 4096);
	assert_string_equal(store_encoding(bed.store), "UTF-8");
	assert_string_equal(store_engine_version(), sqlite3_libversion());
	assert_string_equal(store_engine_source(), sqlite3_sourceid());
	assert_false(store_sync_full(bed.store));
	assert_true(store_foreign_keys(bed.store));
	/* Each start takes a number; the epoch stays. */
	bed.options.create = false;
	for (uint64_t start = 2; start <= 4; start++) {
		bed_reopen(&bed);
		assert_int_equal(store_commit_no(bed.store), start);
		assert_memory_equal(store_epoch(bed.store), epoch, sizeof(epoch));
		assert_int_equal(other_number("SELECT commit_no FROM _lf_state"), (int64_t)start);
	}
	/* -wal and -shm outlive it, so that readers go on. */
	bed_close(&bed);
	assert_int_equal(stat(bed_file(&bed, "-wal"), &status), 0);
	assert_int_equal(stat(bed_file(&bed, "-shm"), &status), 0);
	assert_int_equal(other_number("SELECT commit_no FROM _lf_state"), 4);
}

static void test_epochs_differ(void **state)
{
	uint8_t epoch[STORE_EPOCH_BYTES];
	(void)state;
	memcpy(epoch, store_epoch(bed.store), sizeof(epoch));
	bed_remove(&bed);
	bed_make(&bed);
	assert_memory_not_equal(store_epoch(bed.store), epoch, sizeof(epoch));
}

/* A database in another journal mode, with other settings and content, is taken as it is. */
static void test_an_existing_database_is_taken_over(void **state)
{
	(void)state;
	bed_remove(&bed);
	bed_make_dir(&bed);
	assert_int_equal(other_exec("PRAGMA page_size = 1024; PRAGMA encoding = 'UTF-16le';"
				    "PRAGMA auto_vacuum = full; CREATE TABLE old(a); "
				    "INSERT INTO old VALUES ('text')"),
		SQLITE_OK);
	bed.options.sync_full = true;
	bed.options.foreign_keys = false;
	bed_open(&bed);
	assert_int_equal(store_page_size(bed.store), 1024);
	assert_string_equal(store_encoding(bed.store), "UTF-16le");
	assert_true(store_sync_full(bed.store));
	assert_false(store_foreign_keys(bed.store));
	assert_true(pragma_holds(bed.store));
	assert_string_equal(bed_text(bed.store, "SELECT a FROM old"), "text");
	/* Texts go through as UTF-8 whatever the file holds. */
	struct step step = bed_step_of("SELECT ?, a FROM old");
	struct value value = {.type = VALUE_TEXT, .bytes = {"\xf0\x9f\x98\x80", 4}};
	step.values = &value;
	step.values_per_run = 1;
	bed_begin(bed.store);
	assert_int_equal(bed_step(bed.store, ROLE_QUERY, &step, &shown), 0);
	assert_string_equal(shown.rows, "'\xf0\x9f\x98\x80'|'text';");
	store_rollback(bed.store);
}

static void test_what_is_no_database_is_refused(void **state)
{
	(void)state;
	bed_close(&bed);
	FILE *file = fopen(bed.path, "we");
	assert_non_null(file);
	for (int i = 0; i < 1000; i++) {
		(void)fputs("this is no database ", file);
	}
	(void)fclose(file);
	(void)unlink(bed_file(&bed, "-wal"));
	open_must_fail("not a database");
}

static void test_links_are_not_followed(void **state)
{
	char real[700];
	(void)state;
	bed_close(&bed);
	(void)snprintf(real, sizeof(real), "%s.real", bed.path);
	assert_int_equal(rename(bed.path, real), 0);
	assert_int_equal(symlink(real, bed.path), 0);
	open_must_fail("");
	assert_int_equal(unlink(bed.path), 0);
	assert_int_equal(rename(real, bed.path), 0);
}

static void test_tables_of_another_format(void **state)
{
	(void)state;
	bed_close(&bed);
	assert_int_equal(other_exec("UPDATE _lf_state SET format = 99"), SQLITE_OK);
	open_must_fail("newer litefunnel");
	assert_int_equal(other_exec("UPDATE _lf_state SET format = 1, epoch = x'00'"), SQLITE_OK);
	open_must_fail("cannot read or make litefunnel's tables");
	assert_int_equal(other_exec("DELETE FROM _lf_state"), SQLITE_OK);
	open_must_fail("cannot read or make litefunnel's tables");
	assert_int_equal(other_exec("DROP TABLE _lf_state; CREATE TABLE _lf_state(x)"), SQLITE_OK);
	open_must_fail("cannot read or make litefunnel's tables");
}

static void test_tables_of_an_older_format_are_migrated(void **state)
{
	(void)state;
	uint8_t epoch[STORE_EPOCH_BYTES];
	memcpy(epoch, store_epoch(bed.store), sizeof(epoch));
	bed_close(&bed);
	assert_int_equal(other_exec_in_wal("BEGIN; DROP TABLE _lf_chunk; DROP TABLE _lf_drill;"
					   "UPDATE _lf_state SET format = 1; COMMIT"),
		SQLITE_OK);
	bed_open(&bed);
	assert_memory_equal(store_epoch(bed.store), epoch, sizeof(epoch));
	assert_int_equal(bed_number(bed.store, "SELECT format FROM _lf_state"), STORE_FORMAT);
	assert_int_equal(bed_number(bed.store, "SELECT count(*) FROM _lf_chunk"), 0);
	assert_int_equal(bed_number(bed.store, "SELECT count(*) FROM _lf_drill"), 0);
}

/* Left and come back: without its tables it is a new lineage. */
static void test_tables_that_were_dropped_are_made_again(void **state)
{
	(void)state;
	bed_close(&bed);
	assert_int_equal(other_exec("DROP TABLE _lf_state; DROP TABLE _lf_group; "
				    "DROP TABLE _lf_session; DROP TABLE _lf_key; "
				    "DROP TABLE _lf_chunk; DROP TABLE _lf_drill"),
		SQLITE_OK);
	bed_open(&bed);
	assert_int_equal(store_commit_no(bed.store), 1);
}

/* A schema that this process cannot serve is found at the start, not by the first write. */
static void test_schemas_that_need_what_is_not_there(void **state)
{
	static const struct {
		const char *make;
		const char *says;
	} cases[] = {
		{"CREATE TABLE x(a, g AS (length(a)) STORED)", "nosuch"},
		{"CREATE TABLE x(a, g AS (length(a)) VIRTUAL)", "nosuch"},
		{"CREATE TABLE x(a CHECK (length(a)))", "nosuch"},
		{"CREATE TABLE x(a DEFAULT (length(1)))", "nosuch"},
		{"CREATE TABLE x(a); CREATE INDEX i ON x(length(a))", "nosuch"},
		{"CREATE TABLE x(a); CREATE INDEX i ON x(a) WHERE length(a)", "nosuch"},
		{"CREATE TABLE x(a); CREATE INDEX i ON x(a COLLATE nocase)", "nosuch"},
		{"CREATE TABLE x(a COLLATE nocase PRIMARY KEY)", "nosuch"},
		{"CREATE TABLE x(a); CREATE VIEW v AS SELECT length(a) FROM x", "nosuch"},
		{"CREATE TABLE x(a); CREATE TRIGGER r AFTER INSERT ON x BEGIN SELECT length(1); END",
			"nosuch"},
		{"CREATE TABLE x(a); CREATE TRIGGER r AFTER DELETE ON x BEGIN SELECT length(1); END",
			"nosuch"},
		{"CREATE TABLE x(a); CREATE TRIGGER r AFTER UPDATE ON x BEGIN SELECT length(1); END",
			"nosuch"},
		{"CREATE TABLE x(a); CREATE VIEW v AS SELECT a FROM x; CREATE TRIGGER r INSTEAD OF INSERT "
		 "ON v BEGIN SELECT length(1); END",
			"nosuch"},
	};
	unsigned wrong = 0;
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bed_remove(&bed);
		bed_make_dir(&bed);
		/* The schema is planted as text: this process has not these functions either. */
		sqlite3 *other = open_other(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
		assert_int_equal(sqlite3_exec(other, cases[i].make, NULL, NULL, NULL), SQLITE_OK);
		assert_int_equal(sqlite3_exec(other,
					 "PRAGMA writable_schema = on; "
					 "UPDATE sqlite_schema SET sql = replace(replace(sql, "
					 "'length(', 'nosuch('), 'nocase', 'nosuch')",
					 NULL, NULL, NULL),
			SQLITE_OK);
		sqlite3_close(other);
		char error[STORE_ERROR_BYTES] = "";
		int rc = store_open(&bed.options, &bed.store, error);
		if (rc == 0 || strstr(error, cases[i].says) == NULL) {
			print_error("%s: %d %s\n", cases[i].make, rc, error);
			wrong++;
		}
		bed.store = rc == 0 ? bed.store : NULL;
	}
	assert_int_equal(wrong, 0);
}

static void test_extensions_that_cannot_be_loaded(void **state)
{
	(void)state;
	bed_close(&bed);
	bed.options.extensions = "nosuch.so";
	open_must_fail("extensions: nosuch.so");
	bed.options.extensions = " , ,";
	bed_open(&bed);
	bed.options.extensions = "";
	/* Loading is off again for everybody else. */
	char *message = NULL;
	assert_int_equal(
		sqlite3_load_extension(bed.store->handle, "x.so", NULL, &message), SQLITE_ERROR);
	assert_non_null(strstr(message, "not authorized"));
	sqlite3_free(message);
}

static void test_the_schema_keeps_away_from_our_tables(void **state)
{
	static const char *const trespassers[] = {
		"CREATE TABLE x(a REFERENCES _lf_group(commit_no))",
		"CREATE TABLE _lf_mine(a)",
		"CREATE VIEW _lf_view AS SELECT 1",
		"CREATE TRIGGER x AFTER UPDATE ON _lf_state BEGIN SELECT 1; END",
		"CREATE INDEX x ON _lf_state(format)",
	};
	(void)state;
	for (size_t i = 0; i < sizeof(trespassers) / sizeof(trespassers[0]); i++) {
		bed_close(&bed);
		assert_int_equal(other_exec(trespassers[i]), SQLITE_OK);
		open_must_fail("litefunnel's tables");
		assert_int_equal(other_exec("DROP INDEX IF EXISTS x; DROP TRIGGER IF EXISTS x; "
					    "DROP VIEW IF EXISTS _lf_view; "
					    "DROP TABLE IF EXISTS _lf_mine"),
			SQLITE_OK);
		(void)other_exec("DROP TABLE IF EXISTS x");
		bed_open(&bed);
	}
	/* Nor does a step bring it there. */
	static const char *const steps[] = {
		"CREATE TABLE x(a REFERENCES _lf_group(commit_no))",
		"ALTER TABLE y RENAME TO _lf_yours",
		"ALTER TABLE y ADD COLUMN b REFERENCES _lf_key(id)",
	};
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		for (int script = 0; script < 2; script++) {
			struct step step = bed_step_of(steps[i]);
			step.script = script != 0;
			bed_begin(bed.store);
			bed_do(bed.store, "CREATE TABLE y(a)");
			assert_int_equal(
				bed_step(bed.store, ROLE_ADMIN, &step, &shown), STORE_DENIED);
			store_rollback(bed.store);
		}
	}
}

static void test_poisoned(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)");
	bed_close(&bed);
	bed.options.poisoned = true;
	bed_open(&bed);
	bed.options.poisoned = false;
	assert_int_equal(bed_number(bed.store, "SELECT count(*) FROM t"), 2);
	bed_close(&bed);
	/* Everything was written anew into the database itself. */
	assert_int_equal(truncate(bed_file(&bed, "-wal"), 0), 0);
	(void)unlink(bed_file(&bed, "-shm"));
	assert_int_equal(other_number("SELECT count(*) FROM t"), 2);
}

static void test_poisoned_and_unsound(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1), (2), (3)");
	bed_close(&bed);
	assert_int_equal(
		other_exec("PRAGMA writable_schema = on; UPDATE sqlite_schema SET rootpage = "
			   "(SELECT rootpage FROM sqlite_schema WHERE name = 't') WHERE "
			   "name = 'sqlite_autoindex_t_1'"),
		SQLITE_OK);
	bed.options.poisoned = true;
	open_must_fail("");
	bed.options.poisoned = false;
}

/* ---- settings ---- */

static void test_settings_hold(void **state)
{
	static const struct {
		const char *sql;
		const char *want;
	} cases[] = {
		{"PRAGMA journal_mode", "wal"},
		{"PRAGMA synchronous", "1"},
		{"PRAGMA locking_mode", "normal"},
		{"PRAGMA wal_autocheckpoint", "0"},
		{"PRAGMA foreign_keys", "1"},
		{"PRAGMA mmap_size", "0"},
		{"PRAGMA temp_store", "2"},
		{"PRAGMA writable_schema", "0"},
		{"PRAGMA busy_timeout", "0"},
		{"PRAGMA cache_size", "-1024"},
		{"PRAGMA cell_size_check", "1"},
	};
	int on = -1;
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_string_equal(bed_text(bed.store, cases[i].sql), cases[i].want);
	}
	assert_true(pragma_holds(bed.store));
	sqlite3_db_config(bed.store->handle, SQLITE_DBCONFIG_DEFENSIVE, -1, &on);
	assert_int_equal(on, 1);
	sqlite3_db_config(bed.store->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, -1, &on);
	assert_int_equal(on, 1);
	sqlite3_db_config(bed.store->handle, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, -1, &on);
	assert_int_equal(on, 0);
	/* And if one does not, it is seen. */
	static const char *const breaks[][2] = {
		{"PRAGMA foreign_keys = off", "PRAGMA foreign_keys = on"},
		{"PRAGMA synchronous = off", "PRAGMA synchronous = normal"},
		{"PRAGMA wal_autocheckpoint = 5", "PRAGMA wal_autocheckpoint = 0"},
		{"PRAGMA writable_schema = on", "PRAGMA writable_schema = off"},
	};
	for (size_t i = 0; i < sizeof(breaks) / sizeof(breaks[0]); i++) {
		assert_int_equal(own_exec(bed.store, breaks[i][0]), SQLITE_OK);
		assert_false(pragma_holds(bed.store));
		assert_int_equal(own_exec(bed.store, breaks[i][1]), SQLITE_OK);
		assert_true(pragma_holds(bed.store));
	}
}

/* ---- transactions ---- */

static void test_each_commit_takes_one_number(void **state)
{
	uint64_t first = store_commit_no(bed.store);
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a)");
	assert_int_equal(store_commit_no(bed.store), first + 1);
	for (uint64_t i = 1; i <= 20; i++) {
		bed_begin(bed.store);
		bed_do(bed.store, "INSERT INTO t VALUES (1)");
		assert_true(store_in_transaction(bed.store));
		assert_true(store_dirty(bed.store));
		/* Nobody sees it before, everybody after, with its number. */
		assert_int_equal(other_number("SELECT count(*) FROM t"), (int64_t)i - 1);
		bed_commit(bed.store);
		assert_false(store_in_transaction(bed.store));
		assert_int_equal(store_commit_no(bed.store), first + 1 + i);
		assert_int_equal(other_number("SELECT count(*) FROM t"), (int64_t)i);
		assert_int_equal(
			other_number("SELECT commit_no FROM _lf_state"), (int64_t)(first + 1 + i));
		/* What is rolled back takes none. */
		bed_begin(bed.store);
		bed_do(bed.store, "DELETE FROM t");
		store_rollback(bed.store);
		assert_int_equal(store_commit_no(bed.store), first + 1 + i);
	}
}

static void test_savepoints(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a)");
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO t VALUES (1)");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(store_savepoint(bed.store, &error), 0);
		bed_do(bed.store, "INSERT INTO t VALUES (2)");
		bed_do(bed.store, "CREATE TABLE u(x)");
		bed_do(bed.store, "INSERT INTO u VALUES (1)");
		assert_int_equal(store_rollback_to(bed.store, &error), 0);
		assert_true(store_in_transaction(bed.store));
		assert_int_equal(bed_number(bed.store, "SELECT count(*) FROM t"), 1);
	}
	assert_int_equal(store_savepoint(bed.store, &error), 0);
	bed_do(bed.store, "INSERT INTO t VALUES (3)");
	assert_int_equal(store_release(bed.store, &error), 0);
	bed_commit(bed.store);
	assert_int_equal(other_number("SELECT sum(a) FROM t"), 4);
}

/* Statements compiled against a schema that was undone are not used again. */
static void test_a_schema_that_was_undone(void **state)
{
	struct store_error error = {.row = -1};
	struct step select = bed_step_of("SELECT x FROM u");
	(void)state;
	for (int how = 0; how < 2; how++) {
		bed_begin(bed.store);
		assert_int_equal(store_savepoint(bed.store, &error), 0);
		bed_do(bed.store, "CREATE TABLE u(x)");
		assert_int_equal(bed_step(bed.store, ROLE_DDL, &select, &shown), 0);
		if (how == 0) {
			assert_int_equal(store_rollback_to(bed.store, &error), 0);
		} else {
			store_rollback(bed.store);
			bed_begin(bed.store);
		}
		assert_int_equal(bed_step(bed.store, ROLE_DDL, &select, &shown), STORE_SQL);
		assert_non_null(strstr(shown.error.message, "no such table: u"));
		bed_do(bed.store, "CREATE TABLE u(y, x)");
		assert_int_equal(bed_step(bed.store, ROLE_DDL, &select, &shown), 0);
		store_rollback(bed.store);
	}
}

static void test_rollback_after_sqlite_did_it_itself(void **state)
{
	struct step killer = bed_step_of("INSERT OR ROLLBACK INTO t VALUES (1)");
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1)");
	uint64_t before = store_commit_no(bed.store);
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO t VALUES (2)");
	assert_int_equal(bed_step(bed.store, ROLE_DDL, &killer, &shown), STORE_SQL);
	assert_false(store_in_transaction(bed.store));
	store_rollback(bed.store);
	assert_false(store_in_transaction(bed.store));
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO t VALUES (3)");
	bed_commit(bed.store);
	assert_int_equal(store_commit_no(bed.store), before + 1);
	assert_int_equal(other_number("SELECT sum(a) FROM t"), 4);
}

static void test_deferred_violations(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	bed_script(bed.store,
		"CREATE TABLE p(a INTEGER PRIMARY KEY); "
		"CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)");
	uint64_t before = store_commit_no(bed.store);
	bed_begin(bed.store);
	assert_false(store_deferred_violations(bed.store));
	bed_do(bed.store, "INSERT INTO c VALUES (7)");
	assert_true(store_deferred_violations(bed.store));
	/* COMMIT says no, and the transaction stands. */
	assert_int_equal(store_commit(bed.store, &error), STORE_SQL);
	assert_int_equal(error.sqlite, SQLITE_CONSTRAINT_FOREIGNKEY);
	store_error_clear(&error);
	assert_true(store_in_transaction(bed.store));
	store_rollback(bed.store);
	assert_int_equal(store_commit_no(bed.store), before);
	/* Put right before the end, it is none. */
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO c VALUES (7)");
	bed_do(bed.store, "INSERT INTO p VALUES (7)");
	assert_false(store_deferred_violations(bed.store));
	bed_commit(bed.store);
	assert_int_equal(store_commit_no(bed.store), before + 1);
}

static void test_another_writer(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	sqlite3 *other = open_other(SQLITE_OPEN_READWRITE);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(store_begin(bed.store, &error), STORE_BUSY);
	assert_int_equal(error.sqlite & 0xff, SQLITE_BUSY);
	assert_false(store_in_transaction(bed.store));
	store_error_clear(&error);
	/* Nor can a second daemon start. */
	struct store *second = NULL;
	char reason[STORE_ERROR_BYTES] = "";
	assert_int_equal(store_open(&bed.options, &second, reason), -EINVAL);
	assert_non_null(strstr(reason, "another process"));
	assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	bed_begin(bed.store);
	/* While we write, the other may read but not write. */
	assert_int_equal(
		sqlite3_exec(other, "SELECT * FROM _lf_state", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_BUSY);
	store_rollback(bed.store);
	sqlite3_close(other);
}

/* A disk that takes no more writes to the WAL; `lies`: they arrive all the same. */
static struct {
	sqlite3_io_methods methods;
	const sqlite3_io_methods *real;
	bool full;
	bool lies;
} disk;

static int disk_write(sqlite3_file *file, const void *data, int bytes, sqlite3_int64 offset)
{
	if (disk.full && !disk.lies) {
		return SQLITE_FULL;
	}
	int rc = disk.real->xWrite(file, data, bytes, offset);
	return disk.full && bytes > 100 ? SQLITE_FULL : rc;
}

static int refuse_truncate(sqlite3_file *file, sqlite3_int64 bytes)
{
	(void)file;
	(void)bytes;
	return SQLITE_IOERR_TRUNCATE;
}

static void disk_under_the_wal(bool lies)
{
	disk.real = bed.store->wal_file.methods;
	disk.methods = *disk.real;
	disk.methods.xWrite = disk_write;
	disk.full = false;
	disk.lies = lies;
	bed.store->wal_file.methods = &disk.methods;
}

/* A disk that is full: the transaction is undone, the answer may be tried again. */
static void test_a_full_disk(void **state)
{
	struct step step = bed_step_of("INSERT INTO t VALUES (zeroblob(1000000))");
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a)");
	assert_int_equal(own_exec(bed.store, "PRAGMA cache_size = 10"), SQLITE_OK);
	disk_under_the_wal(false);
	bed_begin(bed.store);
	disk.full = true;
	assert_int_equal(bed_step(bed.store, ROLE_DDL, &step, &shown), STORE_RESOURCE);
	assert_int_equal(shown.error.sqlite, SQLITE_FULL);
	store_rollback(bed.store);
	disk.full = false;
	bed_begin(bed.store);
	assert_int_equal(bed_step(bed.store, ROLE_DDL, &step, &shown), 0);
	bed_commit(bed.store);
}

/* SQLite says the same of limits that are no disk's; there trying again does not help. */
static void test_a_limit_is_no_full_disk(void **state)
{
	struct step step = bed_step_of("INSERT INTO t VALUES (NULL)");
	(void)state;
	bed_script(bed.store,
		"CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT);"
		"INSERT INTO t VALUES (9223372036854775807)");
	bed_begin(bed.store);
	assert_int_equal(bed_step(bed.store, ROLE_DDL, &step, &shown), STORE_SQL);
	assert_int_equal(shown.error.sqlite, SQLITE_FULL);
	store_rollback(bed.store);
}

static void copy_file(const char *from, const char *to)
{
	char command[2048];
	snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
	assert_int_equal(system(command), 0);
}

/* What other processes would find after a loss of power right now. */
static int64_t number_after_a_crash(const char *sql)
{
	static char db[768];
	static char wal[800];
	char from[768];
	sqlite3 *other = NULL;
	sqlite3_stmt *stmt = NULL;
	snprintf(db, sizeof(db), "%s/crashed.db", bed.dir);
	snprintf(wal, sizeof(wal), "%s-wal", db);
	snprintf(from, sizeof(from), "%s-wal", bed.path);
	copy_file(bed.path, db);
	copy_file(from, wal);
	assert_int_equal(sqlite3_open(db, &other), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(other, sql, -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	int64_t number = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	sqlite3_close(other);
	unlink(db);
	unlink(wal);
	return number;
}

/*
 * A write that failed may be whole on the disk: on a file system that copies on write, what stood in
 * its place can complete it. The batch is answered "not applied", so it must not come back.
 */
static void test_a_full_disk_leaves_no_frame_behind(void **state)
{
	struct store_error error = {.row = -1};
	struct checkpoint_stats stats;
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	disk_under_the_wal(true);
	for (int restarted = 0; restarted < 2; restarted++) {
		bed_begin(bed.store);
		bed_do(bed.store, "INSERT INTO t VALUES (2)");
		disk.full = true;
		assert_int_equal(store_commit(bed.store, &error), STORE_RESOURCE);
		disk.full = false;
		store_error_clear(&error);
		assert_int_equal(number_after_a_crash("SELECT count(*) FROM t"), 1);
		assert_int_equal(other_number("SELECT count(*) FROM t"), 1);
		/* The second time at the very beginning of the file. */
		assert_int_equal(store_checkpoint_if_due(bed.store, 1, &error), 0);
		stats = store_checkpoint_stats(bed.store);
		assert_int_equal(stats.backfilled, stats.wal_frames);
	}
	bed_script(bed.store, "INSERT INTO t VALUES (3)");
	assert_int_equal(number_after_a_crash("SELECT count(*) FROM t"), 2);
	/* No room even to take it back: nobody can tell. */
	disk.lies = false;
	bed_begin(bed.store);
	bed_do(bed.store, "INSERT INTO t VALUES (4)");
	disk.full = true;
	bed.store->wal_file.noting.xTruncate = refuse_truncate;
	assert_int_equal(store_commit(bed.store, &error), STORE_UNKNOWN);
	store_error_clear(&error);
}

/* ---- other hands ---- */

static uint8_t known_epoch[STORE_EPOCH_BYTES];

static void know_the_epoch(void)
{
	memcpy(known_epoch, store_epoch(bed.store), sizeof(known_epoch));
}

static bool epoch_is_new(void)
{
	return memcmp(known_epoch, store_epoch(bed.store), sizeof(known_epoch)) != 0;
}

static enum store_recheck_end recheck(const char *says)
{
	struct store_recheck recheck;
	store_recheck(bed.store, &recheck);
	if (says != NULL && strstr(recheck.text, says) == NULL) {
		fail_msg("\"%s\" does not say: %s", recheck.text, says);
	}
	return recheck.end;
}

static void begin_is_busy(enum store_doubt doubt)
{
	struct store_error error = {.row = -1};
	assert_int_equal(store_begin(bed.store, &error), STORE_BUSY);
	assert_int_equal(store_doubt(bed.store), doubt);
	assert_false(store_in_transaction(bed.store));
	store_error_clear(&error);
}

/* Nothing is committed on top of what another has written before it was checked. */
static void test_a_foreign_write_begins_an_epoch(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	for (int i = 0; i < 3; i++) {
		uint64_t before = store_commit_no(bed.store);
		know_the_epoch();
		assert_int_equal(other_exec("INSERT INTO t VALUES (2)"), SQLITE_OK);
		begin_is_busy(STORE_DOUBT_WRITTEN);
		begin_is_busy(STORE_DOUBT_WRITTEN);
		assert_int_equal(recheck(NULL), STORE_RECHECK_GOES_ON);
		assert_true(epoch_is_new());
		assert_int_equal(store_commit_no(bed.store), before + 1);
		assert_int_equal(store_foreign_count(bed.store), i + 1);
		bed_script(bed.store, "INSERT INTO t VALUES (3)");
		assert_int_equal(other_number("SELECT count(*) FROM t"), 1 + 2 * (i + 1));
		assert_int_equal(
			other_number("SELECT count(DISTINCT commit_no) FROM _lf_state"), 1);
	}
}

/* A checkpoint by another hand changes nothing that is to be read; whoever ships must know of it. */
static void test_foreign_checkpoints_are_counted(void **state)
{
	static const char *const modes[] = {"PASSIVE", "RESTART", "TRUNCATE"};
	(void)state;
	know_the_epoch();
	for (unsigned i = 0; i < 3; i++) {
		char sql[64];
		bed_script(bed.store, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (1)");
		(void)snprintf(sql, sizeof(sql), "PRAGMA wal_checkpoint(%s)", modes[i]);
		uint64_t before = store_foreign_count(bed.store);
		assert_int_equal(other_exec(sql), SQLITE_OK);
		store_look_around(bed.store);
		assert_int_equal(store_doubt(bed.store), STORE_DOUBT_NONE);
		bed_script(bed.store, "INSERT INTO t VALUES (2)");
		assert_true(store_foreign_count(bed.store) > before);
	}
	assert_false(epoch_is_new());
	/* Our own are none of others. */
	struct store_error error = {.row = -1};
	uint64_t before = store_foreign_count(bed.store);
	for (unsigned i = 0; i < 50; i++) {
		bed_script(bed.store, "INSERT INTO t VALUES (zeroblob(20000))");
		assert_int_equal(store_checkpoint_if_due(bed.store, i % 7 + 1, &error), 0);
		if (i % 10 == 0) {
			assert_int_equal(store_checkpoint_cut(bed.store, &error), 0);
		}
		store_look_around(bed.store);
	}
	assert_int_equal(store_foreign_count(bed.store), before);
	assert_int_equal(store_doubt(bed.store), STORE_DOUBT_NONE);
}

static void test_a_foreign_write_that_does_harm(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	bed_script(
		bed.store, "CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1)");
	know_the_epoch();
	assert_int_equal(other_exec("PRAGMA writable_schema = ON;"
				    "UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'i'"),
		SQLITE_OK);
	begin_is_busy(STORE_DOUBT_WRITTEN);
	assert_int_equal(recheck("repair or restore"), STORE_RECHECK_STANDS);
	begin_is_busy(STORE_DOUBT_WRITTEN);
	assert_false(epoch_is_new());
	(void)store_begin(bed.store, &error);
	store_error_clear(&error);
}

static void test_another_state_takes_the_place(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	assert_int_equal(other_exec("UPDATE _lf_state SET commit_no = 1"), SQLITE_OK);
	begin_is_busy(STORE_DOUBT_WRITTEN);
	assert_int_equal(recheck("foreign:"), STORE_RECHECK_LEAVE);
}

/* What can be told at a start, and what cannot. */
static void test_foreign_writes_while_no_daemon_ran(void **state)
{
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a)");
	know_the_epoch();
	bed_reopen(&bed);
	assert_false(epoch_is_new());
	/* By one that left it in the WAL. */
	bed_close(&bed);
	assert_int_equal(other_exec_in_wal("INSERT INTO t VALUES (1)"), SQLITE_OK);
	bed_open(&bed);
	assert_true(epoch_is_new());
	assert_non_null(strstr(store_lineage_note(bed.store), "has written"));
	know_the_epoch();
	/* What was found once is not found again. */
	bed_reopen(&bed);
	assert_int_equal(store_foreign_count(bed.store), 0);
	assert_false(epoch_is_new());
	/* By one that closed it as the last one, and so removed the WAL. */
	bed_close(&bed);
	assert_int_equal(other_exec("INSERT INTO t VALUES (2)"), SQLITE_OK);
	bed_open(&bed);
	assert_true(epoch_is_new());
	assert_non_null(strstr(store_lineage_note(bed.store), "removed"));
	assert_int_equal(other_number("SELECT count(*) FROM t"), 2);
}

static void move(const char *suffix, bool back)
{
	char from[800];
	char to[800];
	(void)snprintf(from, sizeof(from), "%s%s", bed.path, suffix);
	(void)snprintf(to, sizeof(to), "%s/elsewhere%s", bed.dir, suffix);
	assert_int_equal(back ? rename(to, from) : rename(from, to), 0);
}

/* Files that are moved away are missed; nothing that was committed stays in the WAL alone. */
static void test_files_that_go_away(void **state)
{
	static const char *const suffixes[] = {"-wal", "-shm", ""};
	char moved[800];
	(void)state;
	bed_script(bed.store, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
	for (unsigned i = 0; i < 3; i++) {
		bool db = suffixes[i][0] == 0;
		know_the_epoch();
		bed_script(bed.store, "INSERT INTO t VALUES (2)");
		move(suffixes[i], false);
		store_look_around(bed.store);
		begin_is_busy(STORE_DOUBT_FILES);
		assert_int_equal(recheck("moved"), db ? STORE_RECHECK_STANDS : STORE_RECHECK_LEAVE);
		assert_non_null(
			strstr(store_doubt_text(bed.store), db ? "elsewhere" : suffixes[i]));
		if (db) {
			/* Alone, without a WAL, it holds everything. */
			sqlite3 *other = NULL;
			(void)snprintf(
				moved, sizeof(moved), "file:%s/elsewhere?immutable=1", bed.dir);
			assert_int_equal(sqlite3_open_v2(moved, &other,
						 SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL),
				SQLITE_OK);
			assert_int_equal(
				sqlite3_exec(other,
					"SELECT 1 / (count(*) = 4) FROM t WHERE a IN (1, 2)", NULL,
					NULL, NULL),
				SQLITE_OK);
			sqlite3_close(other);
		}
		move(suffixes[i], true);
		assert_int_equal(recheck(NULL), STORE_RECHECK_GOES_ON);
		assert_true(epoch_is_new());
		bed_script(bed.store, "SELECT 1");
	}
}

static int set_up(void **state)
{
	(void)state;
	bed_make(&bed);
	shown.error = (struct store_error){.row = -1};
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	bed_shown_clear(&shown);
	bed_remove(&bed);
	return 0;
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_opening),
		TEST(test_epochs_differ),
		TEST(test_an_existing_database_is_taken_over),
		TEST(test_what_is_no_database_is_refused),
		TEST(test_links_are_not_followed),
		TEST(test_tables_of_another_format),
		TEST(test_tables_of_an_older_format_are_migrated),
		TEST(test_tables_that_were_dropped_are_made_again),
		TEST(test_schemas_that_need_what_is_not_there),
		TEST(test_extensions_that_cannot_be_loaded),
		TEST(test_the_schema_keeps_away_from_our_tables),
		TEST(test_poisoned),
		TEST(test_poisoned_and_unsound),
		TEST(test_settings_hold),
		TEST(test_each_commit_takes_one_number),
		TEST(test_savepoints),
		TEST(test_a_schema_that_was_undone),
		TEST(test_rollback_after_sqlite_did_it_itself),
		TEST(test_deferred_violations),
		TEST(test_another_writer),
		TEST(test_a_full_disk),
		TEST(test_a_limit_is_no_full_disk),
		TEST(test_a_full_disk_leaves_no_frame_behind),
		TEST(test_a_foreign_write_begins_an_epoch),
		TEST(test_foreign_checkpoints_are_counted),
		TEST(test_a_foreign_write_that_does_harm),
		TEST(test_another_state_takes_the_place),
		TEST(test_foreign_writes_while_no_daemon_ran),
		TEST(test_files_that_go_away),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
