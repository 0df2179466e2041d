/* SPDX-License-Identifier: MIT */

/* Who may compile what: statements by the lowest role that may, and those that nobody may. */

#include "tests/unit/bed.h"

#include <stdio.h>
#include <string.h>

static struct bed bed;

/* The lowest role that is needed, or NOBODY. */
#define NOBODY ROLE_SELF

static const struct {
	const char *sql;
	enum role needed;
} cases[] = {
	/* Reading. */
	{"SELECT 1", ROLE_QUERY},
	{"SELECT * FROM t", ROLE_QUERY},
	{"SELECT count(*), max(a), group_concat(b) FROM t", ROLE_QUERY},
	{"SELECT * FROM v", ROLE_QUERY},
	{"SELECT * FROM t AS x JOIN t AS y USING (a)", ROLE_QUERY},
	{"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5) SELECT * FROM n",
		ROLE_QUERY},
	{"VALUES (1), (2)", ROLE_QUERY},
	{"SELECT * FROM sqlite_schema", ROLE_QUERY},
	{"SELECT * FROM sqlite_master", ROLE_QUERY},
	{"SELECT * FROM _lf_state", ROLE_QUERY},
	{"SELECT rank FROM f WHERE f MATCH 'x'", ROLE_QUERY},
	{"SELECT * FROM f('x')", ROLE_QUERY},
	{"SELECT * FROM r WHERE id = 1", ROLE_QUERY},
	{"SELECT json_extract('{}', '$'), strftime('%s'), row_number() OVER () FROM t", ROLE_QUERY},
	{"SELECT value FROM json_each('[1]')", ROLE_QUERY},
	{"SELECT changes(), total_changes(), last_insert_rowid()", ROLE_QUERY},
	{"SELECT sqlite_version(), sqlite_source_id(), random()", ROLE_QUERY},
	{"EXPLAIN SELECT * FROM t", ROLE_QUERY},
	{"EXPLAIN QUERY PLAN SELECT * FROM t", ROLE_QUERY},
	/* PRAGMAs that tell, and settings that are read. */
	{"PRAGMA table_info(t)", ROLE_QUERY},
	{"PRAGMA table_xinfo(t)", ROLE_QUERY},
	{"PRAGMA main.table_info(t)", ROLE_QUERY},
	{"PRAGMA TABLE_INFO(t)", ROLE_QUERY},
	{"PRAGMA table_list", ROLE_QUERY},
	{"PRAGMA index_list(t)", ROLE_QUERY},
	{"PRAGMA index_info(i)", ROLE_QUERY},
	{"PRAGMA index_xinfo(i)", ROLE_QUERY},
	{"PRAGMA foreign_key_list(t)", ROLE_QUERY},
	{"PRAGMA foreign_key_check", ROLE_QUERY},
	{"PRAGMA integrity_check", ROLE_QUERY},
	{"PRAGMA quick_check(1)", ROLE_QUERY},
	{"PRAGMA database_list", ROLE_QUERY},
	{"PRAGMA collation_list", ROLE_QUERY},
	{"PRAGMA function_list", ROLE_QUERY},
	{"PRAGMA module_list", ROLE_QUERY},
	{"PRAGMA pragma_list", ROLE_QUERY},
	{"PRAGMA compile_options", ROLE_QUERY},
	{"PRAGMA data_version", ROLE_QUERY},
	{"PRAGMA user_version", ROLE_QUERY},
	{"PRAGMA application_id", ROLE_QUERY},
	{"PRAGMA schema_version", ROLE_QUERY},
	{"PRAGMA journal_mode", ROLE_QUERY},
	{"PRAGMA foreign_keys", ROLE_QUERY},
	{"PRAGMA synchronous", ROLE_QUERY},
	{"PRAGMA page_count", ROLE_QUERY},
	{"PRAGMA freelist_count", ROLE_QUERY},
	{"PRAGMA encoding", ROLE_QUERY},
	{"PRAGMA cache_size", ROLE_QUERY},
	{"PRAGMA max_page_count", ROLE_QUERY},
	/* Rows. */
	{"INSERT INTO t VALUES (1, 2)", ROLE_WRITE},
	{"INSERT INTO t SELECT a + 5, b FROM t", ROLE_WRITE},
	{"INSERT INTO t DEFAULT VALUES RETURNING a", ROLE_WRITE},
	{"REPLACE INTO t VALUES (1, 2)", ROLE_WRITE},
	{"INSERT INTO t VALUES (1, 2) ON CONFLICT DO NOTHING", ROLE_WRITE},
	{"UPDATE t SET b = 1", ROLE_WRITE},
	{"UPDATE t SET a = (SELECT max(a) FROM t) FROM u WHERE u.a = t.a", ROLE_WRITE},
	{"DELETE FROM t", ROLE_WRITE},
	{"DELETE FROM t WHERE a IN (SELECT a FROM u)", ROLE_WRITE},
	{"INSERT INTO w VALUES (1)", ROLE_WRITE}, /* a view with a trigger */
	{"INSERT INTO f VALUES ('text')", ROLE_WRITE},
	{"INSERT INTO f(f) VALUES ('optimize')", ROLE_WRITE},
	{"INSERT INTO r VALUES (1, 0, 1)", ROLE_WRITE},
	{"EXPLAIN DELETE FROM t", ROLE_WRITE},
	{"WITH x AS (SELECT 1) DELETE FROM t", ROLE_WRITE},
	/* The schema. */
	{"CREATE TABLE x(a)", ROLE_DDL},
	{"CREATE TABLE x AS SELECT * FROM t", ROLE_DDL},
	{"CREATE TABLE IF NOT EXISTS x(a PRIMARY KEY) WITHOUT ROWID", ROLE_DDL},
	{"CREATE INDEX x ON t(b)", ROLE_DDL},
	{"CREATE UNIQUE INDEX x ON t(lower(b)) WHERE a", ROLE_DDL},
	{"CREATE VIEW x AS SELECT * FROM t", ROLE_DDL},
	{"CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM u; END", ROLE_DDL},
	{"CREATE VIRTUAL TABLE x USING fts5(a)", ROLE_DDL},
	{"CREATE VIRTUAL TABLE x USING rtree(a, b, c)", ROLE_DDL},
	{"ALTER TABLE t RENAME TO x", ROLE_DDL},
	{"ALTER TABLE t RENAME COLUMN b TO x", ROLE_DDL},
	{"ALTER TABLE t ADD COLUMN x", ROLE_DDL},
	{"ALTER TABLE u DROP COLUMN c", ROLE_DDL},
	{"DROP TABLE u", ROLE_DDL},
	{"DROP TABLE f", ROLE_DDL},
	{"DROP INDEX i", ROLE_DDL},
	{"DROP VIEW v", ROLE_DDL},
	{"DROP TRIGGER g", ROLE_DDL},
	{"REINDEX t", ROLE_DDL},
	{"REINDEX i", ROLE_DDL},
	{"REINDEX", ROLE_DDL},
	{"REINDEX _lf_key", ROLE_DDL}, /* changes nothing */
	{"ANALYZE t", ROLE_DDL},
	{"ANALYZE", ROLE_DDL},
	{"PRAGMA user_version = 5", ROLE_DDL},
	{"PRAGMA application_id = 5", ROLE_DDL},
	/* Nobody, over this way. */
	{"BEGIN", NOBODY},
	{"BEGIN IMMEDIATE", NOBODY},
	{"COMMIT", NOBODY},
	{"END", NOBODY},
	{"ROLLBACK", NOBODY},
	{"SAVEPOINT x", NOBODY},
	{"RELEASE _lf_batch", NOBODY},
	{"ROLLBACK TO _lf_batch", NOBODY},
	{"ATTACH 'x' AS x", NOBODY},
	{"ATTACH ':memory:' AS x", NOBODY},
	{"DETACH main", NOBODY},
	{"VACUUM", NOBODY},
	{"VACUUM INTO 'x'", NOBODY},
	{"CREATE TEMP TABLE x(a)", NOBODY},
	{"CREATE TABLE temp.x(a)", NOBODY},
	{"CREATE TEMP TABLE x AS SELECT 1", NOBODY},
	{"CREATE TEMP VIEW x AS SELECT 1", NOBODY},
	{"CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; END", NOBODY},
	{"CREATE TRIGGER temp.x AFTER INSERT ON main.t BEGIN DELETE FROM t; END", NOBODY},
	{"CREATE VIRTUAL TABLE temp.x USING fts5(a)", NOBODY},
	{"CREATE TABLE _lf_x(a)", NOBODY},
	{"CREATE TABLE _LF_X(a)", NOBODY},
	{"CREATE VIEW _lf_x AS SELECT 1", NOBODY},
	{"CREATE INDEX _lf_x ON t(b)", NOBODY},
	{"CREATE INDEX x ON _lf_state(epoch)", NOBODY},
	{"CREATE TRIGGER x AFTER UPDATE ON _lf_state BEGIN DELETE FROM t; END", NOBODY},
	{"CREATE TRIGGER _lf_x AFTER INSERT ON t BEGIN DELETE FROM u; END", NOBODY},
	{"CREATE VIRTUAL TABLE _lf_x USING fts5(a)", NOBODY},
	{"ALTER TABLE _lf_state RENAME TO x", NOBODY},
	{"ALTER TABLE _lf_state ADD COLUMN x", NOBODY},
	{"DROP TABLE _lf_state", NOBODY},
	{"DROP TABLE _lf_key", NOBODY},
	{"INSERT INTO _lf_key VALUES (1, 1, 1, 1, 1, 1, 1)", NOBODY},
	{"UPDATE _lf_state SET commit_no = 1", NOBODY},
	{"UPDATE _LF_STATE SET commit_no = 1", NOBODY},
	{"DELETE FROM _lf_group", NOBODY},
	{"REPLACE INTO main._lf_session SELECT * FROM _lf_session", NOBODY},
	{"WITH x AS (SELECT 1) DELETE FROM _lf_session", NOBODY},
	{"SELECT load_extension('x')", NOBODY},
	{"SELECT Load_Extension('x', 'y')", NOBODY},
	{"SELECT fts3_tokenizer('simple')", NOBODY},
	{"INSERT INTO t VALUES (load_extension('x'), 1)", NOBODY},
	{"PRAGMA journal_mode = delete", NOBODY},
	{"PRAGMA journal_mode(off)", NOBODY},
	{"PRAGMA foreign_keys = off", NOBODY},
	{"PRAGMA writable_schema = on", NOBODY},
	{"PRAGMA writable_schema = reset", NOBODY},
	{"PRAGMA trusted_schema = on", NOBODY},
	{"PRAGMA ignore_check_constraints = on", NOBODY},
	{"PRAGMA defer_foreign_keys = on", NOBODY},
	{"PRAGMA recursive_triggers = on", NOBODY},
	{"PRAGMA locking_mode = exclusive", NOBODY},
	{"PRAGMA wal_checkpoint", NOBODY},
	{"PRAGMA wal_checkpoint(truncate)", NOBODY},
	{"PRAGMA wal_autocheckpoint = 1000", NOBODY},
	{"PRAGMA schema_version = 7", NOBODY},
	{"PRAGMA encoding = 'UTF-16'", NOBODY},
	{"PRAGMA page_size = 1024", NOBODY},
	{"PRAGMA auto_vacuum = full", NOBODY},
	{"PRAGMA secure_delete = on", NOBODY},
	{"PRAGMA query_only = on", NOBODY},
	{"PRAGMA read_uncommitted = on", NOBODY},
	{"PRAGMA case_sensitive_like = on", NOBODY},
	{"PRAGMA legacy_alter_table = on", NOBODY},
	{"PRAGMA cell_size_check = off", NOBODY},
	{"PRAGMA reverse_unordered_selects = on", NOBODY},
	{"PRAGMA automatic_index = off", NOBODY},
	{"PRAGMA threads = 4", NOBODY},
	{"PRAGMA hard_heap_limit = 1", NOBODY},
	{"PRAGMA soft_heap_limit = 1", NOBODY},
	{"PRAGMA max_page_count = 1", NOBODY},
	{"PRAGMA temp_store_directory = 'x'", NOBODY},
	{"PRAGMA data_store_directory = 'x'", NOBODY},
	{"PRAGMA shrink_memory", NOBODY},
	{"PRAGMA lock_status", NOBODY},
	{"PRAGMA key = 'x'", NOBODY},
	{"PRAGMA no_such_pragma", NOBODY},
	{"PRAGMA full_column_names = on", NOBODY},
	{"PRAGMA short_column_names = off", NOBODY},
	{"PRAGMA count_changes = on", NOBODY},
	{"PRAGMA empty_result_callbacks = on", NOBODY},
	{"PRAGMA checkpoint_fullfsync = on", NOBODY},
	{"PRAGMA fullfsync = on", NOBODY},
	{"PRAGMA cache_spill = off", NOBODY},
	{"PRAGMA cache_spill(5)", NOBODY},
};

static const char schema[] =
	"CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE TABLE u(a, c); CREATE INDEX i ON t(b);"
	"CREATE VIEW v AS SELECT * FROM t; CREATE VIEW w AS SELECT a FROM u;"
	"CREATE TRIGGER g INSTEAD OF INSERT ON w BEGIN INSERT INTO u(a) VALUES (NEW.a); END;"
	"CREATE VIRTUAL TABLE f USING fts5(x); CREATE VIRTUAL TABLE r USING rtree(id, a, b);"
	"INSERT INTO t VALUES (10, 'x'), (20, 'y')";

/* Every statement under every role, in a transaction that is thrown away. */
static void test_statements_by_role(void **state)
{
	static struct shown shown;
	unsigned wrong = 0;
	(void)state;
	shown.error = (struct store_error){.row = -1};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (int role = ROLE_NONE; role <= ROLE_ADMIN; role++) {
			struct step step = bed_step_of(cases[i].sql);
			bed_begin(bed.store);
			int rc = bed_step(bed.store, (enum role)role, &step, &shown);
			bool denied = rc == STORE_DENIED;
			bool should = role < (int)cases[i].needed;
			const char *message =
				shown.error.message != NULL ? shown.error.message : "";
			if (denied != should) {
				print_error("%s as %s: %d (%d) %s\n", cases[i].sql,
					role_name((enum role)role), rc, shown.error.sqlite,
					message);
				wrong++;
			} else if (denied &&
				(shown.error.sqlite != SQLITE_AUTH || message[0] == 0)) {
				print_error(
					"%s: %d %s\n", cases[i].sql, shown.error.sqlite, message);
				wrong++;
			} else if (denied &&
				role >= (cases[i].needed == NOBODY ? ROLE_DDL : ROLE_QUERY) &&
				shown.error.needed !=
					(cases[i].needed == NOBODY ? ROLE_NONE : cases[i].needed)) {
				print_error("%s as %s: says that %s is needed: %s\n", cases[i].sql,
					role_name((enum role)role), role_name(shown.error.needed),
					message);
				wrong++;
			} else if (!denied && rc != 0 && role == ROLE_ADMIN) {
				print_error("%s: %s\n", cases[i].sql, message);
				wrong++;
			}
			store_rollback(bed.store);
			bed_shown_clear(&shown);
		}
	}
	assert_int_equal(wrong, 0);
}

/* What drivers send at connect: answered, without effect. */
static void test_settings_that_are_answered(void **state)
{
	static const struct {
		const char *sql;
		const char *rows;
	} table[] = {
		{"PRAGMA journal_mode = wal", "'wal';"},
		{"PRAGMA journal_mode = WAL", "'wal';"},
		{"PRAGMA main.journal_mode = wal", "'wal';"},
		{"PRAGMA journal_mode(wal)", "'wal';"},
		{"PRAGMA busy_timeout = 5000", "0;"},
		{"PRAGMA mmap_size = 1000000", NULL},
		{"PRAGMA journal_size_limit = 5", "-1;"},
		{"PRAGMA synchronous = off", ""},
		{"PRAGMA synchronous = 0", ""},
		{"PRAGMA cache_size = -5", ""},
		{"PRAGMA temp_store = 1", ""},
	};
	struct shown shown = {.error = {.row = -1}};
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct step step = bed_step_of(table[i].sql);
		bed_begin(bed.store);
		int64_t sync = bed_number(bed.store, "PRAGMA synchronous");
		int64_t cache = bed_number(bed.store, "PRAGMA cache_size");
		int64_t temp = bed_number(bed.store, "PRAGMA temp_store");
		if (bed_step(bed.store, ROLE_QUERY, &step, &shown) != 0) {
			fail_msg("%s: %s", table[i].sql, shown.error.message);
		}
		if (table[i].rows != NULL && strcmp(shown.rows, table[i].rows) != 0) {
			fail_msg("%s: %s", table[i].sql, shown.rows);
		}
		assert_int_equal(bed_number(bed.store, "PRAGMA synchronous"), sync);
		assert_int_equal(bed_number(bed.store, "PRAGMA cache_size"), cache);
		assert_int_equal(bed_number(bed.store, "PRAGMA temp_store"), temp);
		if (store_dirty(bed.store)) {
			fail_msg("%s: taken for a write", table[i].sql);
		}
		store_rollback(bed.store);
		assert_true(pragma_holds(bed.store));
	}
}

/* A view or trigger does not widen what its caller may do. */
static void test_the_role_is_the_callers(void **state)
{
	static struct shown shown;
	struct step insert = bed_step_of("INSERT INTO w VALUES (1)");
	struct step script = bed_step_of("SELECT 1; INSERT INTO t VALUES (1, 2)");
	(void)state;
	shown.error = (struct store_error){.row = -1};
	script.script = true;
	bed_begin(bed.store);
	assert_int_equal(bed_step(bed.store, ROLE_QUERY, &insert, &shown), STORE_DENIED);
	assert_int_equal(shown.error.needed, ROLE_WRITE);
	assert_int_equal(bed_step(bed.store, ROLE_QUERY, &script, &shown), STORE_DENIED);
	assert_int_equal(bed_step(bed.store, ROLE_WRITE, &insert, &shown), 0);
	/* The cached statement of another role is no way round. */
	assert_int_equal(bed_step(bed.store, ROLE_QUERY, &insert, &shown), STORE_DENIED);
	bed_shown_clear(&shown);
	store_rollback(bed.store);
}

/* SQLite compiles a cached statement anew when the schema has changed: under the same role. */
static void test_a_recompilation_asks_again(void **state)
{
	static struct shown shown;
	struct step select = bed_step_of("SELECT * FROM v");
	(void)state;
	shown.error = (struct store_error){.row = -1};
	bed_begin(bed.store);
	assert_int_equal(bed_step(bed.store, ROLE_QUERY, &select, &shown), 0);
	assert_int_equal(own_exec(bed.store, "ALTER TABLE t ADD COLUMN n"), SQLITE_OK);
	assert_int_equal(bed_step(bed.store, ROLE_QUERY, &select, &shown), 0);
	bed_shown_clear(&shown);
	store_rollback(bed.store);
}

static void test_entering_forgets_what_was_seen(void **state)
{
	struct authorizer authorizer = {.role = ROLE_WRITE, .saw_ddl = true, .needed = ROLE_DDL};
	(void)state;
	(void)snprintf(authorizer.denied, sizeof(authorizer.denied), "x");
	(void)snprintf(authorizer.answered, sizeof(authorizer.answered), "x");
	assert_int_equal(authorizer_enter(&authorizer, ROLE_SELF), ROLE_WRITE);
	assert_int_equal(authorizer.role, ROLE_SELF);
	assert_false(authorizer.saw_ddl);
	assert_int_equal(authorizer.needed, ROLE_NONE);
	assert_string_equal(authorizer.denied, "");
	assert_string_equal(authorizer.answered, "");
}

static void test_names_of_roles(void **state)
{
	static const char *const names[] = {
		"none", "stats", "query", "write", "ddl", "admin", "self"};
	(void)state;
	for (int role = ROLE_NONE; role <= ROLE_SELF; role++) {
		assert_string_equal(role_name((enum role)role), names[role]);
	}
}

static int set_up(void **state)
{
	(void)state;
	bed_make(&bed);
	bed_script(bed.store, schema);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	bed_remove(&bed);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_statements_by_role),
		cmocka_unit_test(test_settings_that_are_answered),
		cmocka_unit_test(test_the_role_is_the_callers),
		cmocka_unit_test(test_a_recompilation_asks_again),
		cmocka_unit_test(test_entering_forgets_what_was_seen),
		cmocka_unit_test(test_names_of_roles),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
