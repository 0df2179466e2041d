/* SPDX-License-Identifier: MIT */

/* The store: opening, what is refused at opening, and settings that must hold. */

#include "tests/unit/store_bed.h"

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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
