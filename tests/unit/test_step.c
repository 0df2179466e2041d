/* SPDX-License-Identifier: MIT */

/* Steps: binding, counts, rows and their limits, guards, scripts, and every kind of value. */

#include "tests/unit/bed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct bed bed;
static struct shown shown;

static struct value integer(int64_t number)
{
	return (struct value){.type = VALUE_INTEGER, .integer = number};
}

static struct value text(const char *bytes)
{
	return (struct value){.type = VALUE_TEXT, .bytes = {bytes, strlen(bytes)}};
}

static struct bytes name(const char *bytes)
{
	return (struct bytes){bytes, strlen(bytes)};
}

static int run(struct step step)
{
	return bed_step(bed.store, ROLE_DDL, &step, &shown);
}

static int run_sql(const char *sql)
{
	return run(bed_step_of(sql));
}

static int run_values(const char *sql, const struct value *values, uint32_t count)
{
	struct step step = bed_step_of(sql);
	step.values = values;
	step.values_per_run = count;
	return run(step);
}

static int run_named(
	const char *sql, const struct value *values, const struct bytes *names, uint32_t count)
{
	struct step step = bed_step_of(sql);
	step.values = values;
	step.names = names;
	step.values_per_run = count;
	return run(step);
}

#define MUST(expression)                                                                           \
	do {                                                                                       \
		if ((expression) != 0) {                                                           \
			fail_msg("%s: %s", #expression, shown.error.message);                      \
		}                                                                                  \
	} while (0)

static int begin(void **state)
{
	(void)state;
	shown.rows_max = 0;
	bed_begin(bed.store);
	store_batch_begin(bed.store, 0);
	bed_do(bed.store, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
	store_batch_begin(bed.store, 0);
	return 0;
}

static int end(void **state)
{
	(void)state;
	bed_shown_clear(&shown);
	store_rollback(bed.store);
	bed_tick_us = 0;
	return 0;
}

/* ---- values ---- */

static void test_values_of_every_type_come_back(void **state)
{
	static const char every_byte[] = "\x00\x01\x7f\x80\xff\x00";
	const struct {
		struct value value;
		const char *type;
		const char *quoted; /* as SQLite quotes it */
	} cases[] = {
		{{.type = VALUE_NULL}, "null", "NULL"},
		{integer(0), "integer", "0"},
		{integer(-1), "integer", "-1"},
		{integer(INT64_MAX), "integer", "9223372036854775807"},
		{integer(INT64_MIN), "integer", "-9223372036854775808"},
		{{.type = VALUE_FLOAT, .real = 0.5}, "real", "0.5"},
		{{.type = VALUE_FLOAT, .real = -0.0}, "real", NULL},
		{{.type = VALUE_FLOAT, .real = 1e308}, "real", NULL},
		{{.type = VALUE_FLOAT, .real = 5e-324}, "real", NULL},
		{{.type = VALUE_FLOAT, .real = 9007199254740993.0}, "real", NULL},
		{{.type = VALUE_FLOAT, .real = INFINITY}, "real", NULL},
		{{.type = VALUE_FLOAT, .real = -INFINITY}, "real", NULL},
		{{.type = VALUE_TEXT, .bytes = {NULL, 0}}, "text", "''"},
		{text("plain"), "text", "'plain'"},
		{{.type = VALUE_TEXT, .bytes = {"with\0nul", 8}}, "text", NULL},
		{{.type = VALUE_TEXT, .bytes = {"\0", 1}}, "text", NULL},
		{{.type = VALUE_TEXT, .bytes = {"\xff\xfe invalid \xc3", 12}}, "text", NULL},
		{{.type = VALUE_TEXT, .bytes = {"\xed\xa0\x80", 3}}, "text", NULL},
		{text("\xf0\x9f\x98\x80 \xc3\xa9"), "text", NULL},
		{{.type = VALUE_BLOB, .bytes = {NULL, 0}}, "blob", "X''"},
		{{.type = VALUE_BLOB, .bytes = {every_byte, sizeof(every_byte) - 1}}, "blob",
			"X'00017F80FF00'"},
	};
	(void)state;
	/* Twice: as it is bound, and as it is read back from a row. */
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct value *value = &cases[i].value;
		struct value both[2] = {*value, *value};
		MUST(run_values("SELECT typeof(?1), ?1 IS ?2", both, 2));
		char want[64];
		(void)snprintf(want, sizeof(want), "'%s'|1;", cases[i].type);
		assert_string_equal(shown.rows, want);
		if (cases[i].quoted != NULL) {
			MUST(run_values("SELECT quote(?)", value, 1));
			(void)snprintf(want, sizeof(want), "'%s';", cases[i].quoted);
			assert_string_equal(shown.rows, want);
		}
		MUST(run_values("SELECT ?", value, 1));
		static char direct[sizeof(shown.rows)];
		size_t len = shown.rows_len;
		memcpy(direct, shown.rows, len);
		MUST(run_values("REPLACE INTO t VALUES (1, ?)", value, 1));
		MUST(run_sql("SELECT b FROM t"));
		assert_int_equal(shown.rows_len, len);
		assert_memory_equal(shown.rows, direct, len);
		if (value->type == VALUE_TEXT && value->bytes.len > 0) {
			assert_int_equal(shown.rows_len, value->bytes.len + 3);
			assert_memory_equal(shown.rows + 1, value->bytes.data, value->bytes.len);
		}
	}
}

static void test_nan_is_null(void **state)
{
	struct value value = {.type = VALUE_FLOAT, .real = NAN};
	(void)state;
	MUST(run_values("SELECT typeof(?)", &value, 1));
	assert_string_equal(shown.rows, "'null';");
}

static void test_large_values(void **state)
{
	enum { BYTES = 5000000 };
	char *bytes = malloc(BYTES);
	(void)state;
	memset(bytes, 'x', BYTES);
	struct value values[2] = {{.type = VALUE_TEXT, .bytes = {bytes, BYTES}},
		{.type = VALUE_BLOB, .bytes = {bytes, BYTES}}};
	MUST(run_values("SELECT length(?), length(?)", values, 2));
	assert_string_equal(shown.rows, "5000000|5000000;");
	free(bytes);
}

/* ---- binding ---- */

static void test_binding_by_place(void **state)
{
	const struct value values[3] = {integer(1), text("two"), integer(3)};
	(void)state;
	MUST(run_values("SELECT ?, ?, ?", values, 3));
	assert_string_equal(shown.rows, "1|'two'|3;");
	MUST(run_values("SELECT ?3, ?1, ?2", values, 3));
	assert_string_equal(shown.rows, "3|1|'two';");
	MUST(run_values("SELECT :x, @y, :x", values, 2));
	assert_string_equal(shown.rows, "1|'two'|1;");
	MUST(run_values("SELECT ?2", values, 2)); /* the first is not used, but counts */
	assert_string_equal(shown.rows, "'two';");
	for (uint32_t count = 0; count <= 3; count++) {
		int rc = run_values("SELECT ?, ?", values, count);
		assert_int_equal(rc, count == 2 ? 0 : STORE_BAD_REQUEST);
		if (count != 2) {
			assert_non_null(strstr(shown.error.message, "2 parameters"));
			assert_int_equal(shown.error.sqlite, 0);
		}
	}
	assert_int_equal(run_values("SELECT 1", values, 1), STORE_BAD_REQUEST);
}

static void test_binding_by_name(void **state)
{
	const struct value values[3] = {integer(1), text("two"), integer(3)};
	const struct bytes names[3] = {name("a"), name("b"), name("c")};
	const struct bytes twice[3] = {name("a"), name("b"), name("a")};
	const struct bytes unknown[3] = {name("a"), name("b"), name("d")};
	const struct bytes prefixed[1] = {name(":a")};
	const struct bytes empty[1] = {name("")};
	const struct bytes with_nul[1] = {{"a\0", 2}};
	const struct bytes longer[1] = {name("ab")};
	(void)state;
	MUST(run_named("SELECT :c, :b, :a, :b", values, names, 3));
	assert_string_equal(shown.rows, "3|'two'|1|'two';");
	MUST(run_named("SELECT $a, @b, :c", values, names, 3));
	assert_string_equal(shown.rows, "1|'two'|3;");
	assert_int_equal(run_named("SELECT :a, :b, :c", values, twice, 3), STORE_BAD_REQUEST);
	assert_non_null(strstr(shown.error.message, "\"a\""));
	assert_int_equal(run_named("SELECT :a, :b, :c", values, unknown, 3), STORE_BAD_REQUEST);
	assert_non_null(strstr(shown.error.message, "\"d\""));
	assert_int_equal(run_named("SELECT :a, :b, :c", values, names, 2), STORE_BAD_REQUEST);
	assert_int_equal(run_named("SELECT :a, :b", values, names, 3), STORE_BAD_REQUEST);
	assert_int_equal(run_named("SELECT :a", values, prefixed, 1), STORE_BAD_REQUEST);
	assert_int_equal(run_named("SELECT :a", values, empty, 1), STORE_BAD_REQUEST);
	assert_int_equal(run_named("SELECT :a", values, with_nul, 1), STORE_BAD_REQUEST);
	assert_int_equal(run_named("SELECT :a", values, longer, 1), STORE_BAD_REQUEST);
	assert_int_equal(run_named("SELECT :A", values, names, 1), STORE_BAD_REQUEST);
	assert_int_equal(run_named("SELECT ?", values, names, 1), STORE_BAD_REQUEST);
	assert_int_equal(run_named("SELECT :a, ?", values, names, 2), STORE_BAD_REQUEST);
	/* The statement after a refused one has nothing of it. */
	MUST(run_named("SELECT :a", values, names, 1));
	assert_string_equal(shown.rows, "1;");
}

static void test_long_names(void **state)
{
	static const size_t lengths[] = {100, 252, 253, 254, 255, 300, 2000};
	const struct value value = integer(1);
	(void)state;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		char sql[2100] = "SELECT :";
		char longest[2001];
		memset(longest, 'n', lengths[i]);
		longest[lengths[i]] = 0;
		strcat(sql, longest);
		const struct bytes names[1] = {name(longest)};
		int rc = run_named(sql, &value, names, 1);
		assert_true(rc == 0 || rc == STORE_BAD_REQUEST);
		assert_true(rc == 0 || lengths[i] > 250);
	}
}

static void test_many_named_parameters(void **state)
{
	enum { COUNT = 3000 };
	struct value *values = calloc(COUNT, sizeof(*values));
	struct bytes *names = calloc(COUNT, sizeof(*names));
	char(*spelled)[8] = calloc(COUNT, sizeof(*spelled));
	char *sql = malloc((size_t)COUNT * 12 + 64);
	size_t len = (size_t)sprintf(sql, "WITH n(i) AS (VALUES ");
	(void)state;
	for (int i = 0; i < COUNT; i++) {
		(void)snprintf(spelled[i], sizeof(spelled[i]), "n%d", i);
		len += (size_t)sprintf(sql + len, "%s(:%s)", i > 0 ? "," : "", spelled[i]);
	}
	(void)sprintf(sql + len, ") SELECT sum(i), max(i) FROM n");
	for (int i = 0; i < COUNT; i++) {
		names[i] = name(spelled[COUNT - 1 - i]);
		values[i] = integer(i == 0 ? 1000000 : 1);
	}
	MUST(run_named(sql, values, names, COUNT));
	assert_string_equal(shown.rows, "1002999|1000000;");
	names[COUNT - 1] = names[0];
	assert_int_equal(run_named(sql, values, names, COUNT), STORE_BAD_REQUEST);
	free(values);
	free(names);
	free(spelled);
	free(sql);
}

static void test_many_rows_of_values(void **state)
{
	const struct value values[6] = {
		integer(1), text("a"), integer(2), text("b"), integer(3), text("c")};
	struct step step = bed_step_of("INSERT INTO t VALUES (?, ?)");
	(void)state;
	step.many = true;
	step.values = values;
	step.values_per_run = 2;
	step.runs = 3;
	MUST(run(step));
	assert_int_equal(shown.result.changes, 3);
	assert_int_equal(shown.result.total, 3);
	assert_int_equal(shown.result.rowid, 3);
	/* Rows of all runs, in order. */
	step.sql = (struct bytes){"SELECT ?2, ?1", 13};
	step.sql_hash = 77;
	MUST(run(step));
	assert_string_equal(shown.rows, "'a'|1;'b'|2;'c'|3;");
	assert_int_equal(shown.result.rows, 3);
	/* The row that fails is named. */
	struct step again = bed_step_of("INSERT INTO t VALUES (?, ?)");
	const struct value bad[6] = {
		integer(10), text("a"), integer(2), text("b"), integer(11), text("c")};
	again.many = true;
	again.values = bad;
	again.values_per_run = 2;
	again.runs = 3;
	assert_int_equal(run(again), STORE_SQL);
	assert_int_equal(shown.error.row, 1);
	assert_int_equal(shown.error.sqlite, SQLITE_CONSTRAINT_PRIMARYKEY);
	/* Without `many` no row is named. */
	again.many = false;
	again.runs = 1;
	again.values = bad + 2;
	assert_int_equal(run(again), STORE_SQL);
	assert_int_equal(shown.error.row, -1);
	/* No rows at all: nothing happens, and the number of values does not matter. */
	again.many = true;
	again.runs = 0;
	again.values_per_run = 0;
	MUST(run(again));
	assert_int_equal(shown.result.changes, 0);
	assert_int_equal(shown.result.total, 0);
}

static void test_many_rows_by_name(void **state)
{
	const struct value values[4] = {integer(1), text("a"), text("b"), integer(2)};
	const struct bytes names[4] = {name("k"), name("v"), name("v"), name("k")};
	const struct bytes wrong[4] = {name("k"), name("v"), name("v"), name("v")};
	struct step step = bed_step_of("INSERT INTO t VALUES (:k, :v)");
	(void)state;
	step.many = true;
	step.values = values;
	step.names = names; /* each row in an order of its own */
	step.values_per_run = 2;
	step.runs = 2;
	MUST(run(step));
	MUST(run_sql("SELECT a, b FROM t ORDER BY a"));
	assert_string_equal(shown.rows, "1|'a';2|'b';");
	step.names = wrong;
	assert_int_equal(run(step), STORE_SQL); /* row 0 is there already */
	bed_do(bed.store, "DELETE FROM t");
	assert_int_equal(run(step), STORE_BAD_REQUEST);
	assert_int_equal(shown.error.row, 1);
}

/* ---- counts ---- */

static void test_counts(void **state)
{
	static const struct {
		const char *sql;
		int64_t changes;
		int64_t total;
		int64_t rowid;
	} cases[] = {
		{"SELECT 1", 0, 0, 0},
		{"CREATE TABLE u(x)", 0, 0, 0},
		{"INSERT INTO t VALUES (5, 'a')", 1, 1, 5},
		{"INSERT INTO t(b) VALUES ('b'), ('c')", 2, 2, 7},
		{"INSERT OR IGNORE INTO t VALUES (5, 'x')", 0, 0, 7},
		{"REPLACE INTO t VALUES (5, 'x')", 1, 1, 5},
		{"UPDATE t SET b = b", 3, 3, 5},
		{"UPDATE t SET b = b WHERE 0", 0, 0, 5},
		{"SELECT * FROM t", 0, 0, 5},
		{"DELETE FROM t WHERE a = 6", 1, 1, 5},
		{"DELETE FROM t", 2, 2, 5},
		{"CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO u VALUES (1), (2); END", 0,
			0, 5},
		{"INSERT INTO t VALUES (9, 'z')", 1, 3, 9},
		{"DROP TABLE u", 0, 0, 9},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		MUST(run_sql(cases[i].sql));
		if (shown.result.changes != cases[i].changes ||
			shown.result.total != cases[i].total ||
			shown.result.rowid != cases[i].rowid) {
			fail_msg("%s: changes %lld total %lld rowid %lld", cases[i].sql,
				(long long)shown.result.changes, (long long)shown.result.total,
				(long long)shown.result.rowid);
		}
	}
}

/* A batch sees changes(), total_changes() and last_insert_rowid() as it would alone. */
static void test_a_batch_sees_only_its_own_counts(void **state)
{
	static const char counts[] = "SELECT changes(), total_changes(), last_insert_rowid()";
	(void)state;
	MUST(run_sql(counts));
	assert_string_equal(shown.rows, "0|0|0;");
	MUST(run_sql("INSERT INTO t VALUES (5, 'a'), (6, 'b')"));
	MUST(run_sql(counts));
	assert_string_equal(shown.rows, "2|2|6;");
	MUST(run_sql("UPDATE t SET b = 1 WHERE a = 5"));
	MUST(run_sql(counts));
	assert_string_equal(shown.rows, "1|3|6;");
	store_batch_begin(bed.store, 0);
	MUST(run_sql(counts));
	assert_string_equal(shown.rows, "0|0|0;");
	MUST(run_sql("CREATE TABLE u(x)"));
	MUST(run_sql(counts));
	assert_string_equal(shown.rows, "0|0|0;");
	/* The first statement that writes must not see the batch before it. */
	MUST(run_sql("INSERT INTO u SELECT changes()"));
	MUST(run_sql("SELECT x FROM u"));
	assert_string_equal(shown.rows, "0;");
	struct step script =
		bed_step_of("INSERT INTO u VALUES (7); INSERT INTO u SELECT changes()");
	store_batch_begin(bed.store, 0);
	script.script = true;
	MUST(run(script));
	MUST(run_sql("SELECT x FROM u"));
	assert_string_equal(shown.rows, "0;7;1;");
}

/* Inside a trigger, changes() is of the trigger's own statements: also in a batch's first write. */
static void test_triggers_see_their_own_changes(void **state)
{
	(void)state;
	bed_do(bed.store, "CREATE TABLE u(x)");
	bed_do(bed.store, "CREATE TABLE seen(n)");
	bed_do(bed.store,
		"CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO u VALUES (1), (2); "
		"INSERT INTO seen SELECT changes(); END");
	store_batch_begin(bed.store, 0);
	MUST(run_sql("INSERT INTO t VALUES (1, 1)"));
	MUST(run_sql("SELECT n FROM seen"));
	assert_string_equal(shown.rows, "2;");
}

/* ---- rows ---- */

static void test_columns_have_names_and_declared_types(void **state)
{
	(void)state;
	MUST(run_sql("SELECT a, b, a + 1 AS more, count(*) FROM t"));
	assert_string_equal(shown.columns, "a:INTEGER,b:-,more:-,count(*):-");
	assert_true(shown.result.has_columns);
	MUST(run_sql("INSERT INTO t VALUES (1, 1)"));
	assert_false(shown.result.has_columns);
	assert_string_equal(shown.columns, "");
	MUST(run_sql("INSERT INTO t VALUES (2, 1) RETURNING a, b AS x"));
	assert_string_equal(shown.columns, "a:INTEGER,x:-");
	assert_string_equal(shown.rows, "2|1;");
	assert_int_equal(shown.result.changes, 1);
	MUST(run_sql("PRAGMA user_version"));
	assert_string_equal(shown.columns, "user_version:-");
	/* More columns than stand on the stack, and the empty answer has its columns too. */
	char sql[1024] = "SELECT 0";
	for (int i = 1; i < 130; i++) {
		(void)snprintf(sql + strlen(sql), sizeof(sql) - strlen(sql), ",%d", i);
	}
	MUST(run_sql(sql));
	assert_non_null(strstr(shown.rows, "|127|128|129;"));
	MUST(run_sql("SELECT a FROM t WHERE 0"));
	assert_string_equal(shown.columns, "a:INTEGER");
	assert_int_equal(shown.result.rows, 0);
}

#define FIVE "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5) "

static void test_rows_have_a_limit(void **state)
{
	struct step step = bed_step_of(FIVE "SELECT i FROM n");
	(void)state;
	step.rows_max = 5;
	MUST(run(step));
	assert_int_equal(shown.result.rows, 5);
	assert_false(shown.result.truncated);
	step.rows_max = 4;
	assert_int_equal(run(step), STORE_TOO_LARGE);
	step.rows_max = 0;
	assert_int_equal(run(step), STORE_TOO_LARGE);
	step.truncate = true;
	step.rows_max = 5;
	MUST(run(step));
	assert_false(shown.result.truncated); /* it was all there is */
	step.rows_max = 3;
	MUST(run(step));
	assert_true(shown.result.truncated);
	assert_string_equal(shown.rows, "1;2;3;");
	step.rows_max = 0;
	MUST(run(step));
	assert_true(shown.result.truncated);
	assert_string_equal(shown.rows, "");
	/* The sink may say so, too. */
	step.rows_max = UINT32_MAX;
	shown.rows_max = 2;
	MUST(run(step));
	assert_true(shown.result.truncated);
	assert_string_equal(shown.rows, "1;2;");
	step.truncate = false;
	assert_int_equal(run(step), STORE_TOO_LARGE);
	/* The limit is for the whole step, not for each of its runs. */
	const struct value values[3] = {integer(1), integer(2), integer(3)};
	struct step many = bed_step_of("SELECT ?");
	shown.rows_max = 0;
	many.many = true;
	many.values = values;
	many.values_per_run = 1;
	many.runs = 3;
	many.rows_max = 2;
	assert_int_equal(run(many), STORE_TOO_LARGE);
	many.truncate = true;
	MUST(run(many));
	assert_string_equal(shown.rows, "1;2;");
}

/* What writes is done whole, however few of its rows are wanted. */
static void test_a_truncated_write_is_still_whole(void **state)
{
	struct step step = bed_step_of(FIVE "INSERT INTO t SELECT i, i FROM n RETURNING a");
	(void)state;
	step.truncate = true;
	step.rows_max = 2;
	MUST(run(step));
	assert_true(shown.result.truncated);
	assert_string_equal(shown.rows, "1;2;");
	assert_int_equal(shown.result.changes, 5);
	MUST(run_sql("SELECT count(*) FROM t"));
	assert_string_equal(shown.rows, "5;");
	/* And a statement of many runs runs them all. */
	const struct value values[4] = {integer(11), integer(12), integer(13), integer(14)};
	struct step many = bed_step_of("INSERT INTO t VALUES (?, 0) RETURNING a");
	many.many = true;
	many.values = values;
	many.values_per_run = 1;
	many.runs = 4;
	many.truncate = true;
	many.rows_max = 1;
	MUST(run(many));
	assert_string_equal(shown.rows, "11;");
	assert_int_equal(shown.result.changes, 4);
}

/* ---- guards ---- */

static void test_guards(void **state)
{
	struct step step = bed_step_of("UPDATE t SET b = 1 WHERE a = 5");
	(void)state;
	step.expect_changes = 0;
	MUST(run(step));
	step.expect_changes = 1;
	assert_int_equal(run(step), STORE_GUARD);
	assert_string_equal(shown.error.message, "expected 1 changes, there were 0");
	bed_do(bed.store, "INSERT INTO t VALUES (5, 'x')");
	MUST(run(step));
	struct step rows = bed_step_of(FIVE "SELECT i FROM n");
	rows.expect_rows = 5;
	MUST(run(rows));
	rows.expect_rows = 4;
	assert_int_equal(run(rows), STORE_GUARD);
	assert_string_equal(shown.error.message, "expected 4 rows, there were 5");
	/* The rows that there are count, not those that were taken. */
	rows.truncate = true;
	rows.rows_max = 2;
	rows.expect_rows = 5;
	MUST(run(rows));
	assert_true(shown.result.truncated);
	rows.expect_rows = 2;
	assert_int_equal(run(rows), STORE_GUARD);
	/* Both at once; a failed statement fails as itself. */
	struct step both = bed_step_of("DELETE FROM t RETURNING a");
	both.expect_changes = 1;
	both.expect_rows = 1;
	MUST(run(both));
	struct step broken = bed_step_of("INSERT INTO t VALUES (1, 1), (1, 1)");
	broken.expect_changes = 2;
	assert_int_equal(run(broken), STORE_SQL);
	/* With many rows the sum counts. */
	const struct value values[2] = {integer(1), integer(2)};
	struct step many = bed_step_of("INSERT INTO t VALUES (?, 0)");
	many.many = true;
	many.values = values;
	many.values_per_run = 1;
	many.runs = 2;
	many.expect_changes = 2;
	MUST(run(many));
	many.runs = 0;
	assert_int_equal(run(many), STORE_GUARD);
}

/* ---- scripts ---- */

static int run_script(const char *sql)
{
	struct step step = bed_step_of(sql);
	step.script = true;
	return run(step);
}

static void test_scripts(void **state)
{
	static const struct {
		const char *sql;
		int want;
		int64_t changes;
	} cases[] = {
		{"", 0, 0},
		{" ; -- nothing\n /* at all */ ;", 0, 0},
		{"INSERT INTO t VALUES (1, 1)", 0, 1},
		{"INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2), (3, 3);", 0, 3},
		{"CREATE TABLE u(x); INSERT INTO u VALUES (1); INSERT INTO u SELECT * FROM u; "
		 "DROP TABLE u;",
			0, 2},
		{"INSERT INTO t VALUES (1, 1); SELECT * FROM t; PRAGMA table_info(t); SELECT 1", 0,
			1},
		{"INSERT INTO t VALUES (1, 1), (2, 2); EXPLAIN INSERT INTO t VALUES (3, 3)", 0, 2},
		{"INSERT INTO t VALUES (1, 1), (2, 2); EXPLAIN QUERY PLAN DELETE FROM t", 0, 2},
		{"INSERT INTO t VALUES (1, 1), (2, 2); CREATE TABLE u(x); PRAGMA user_version = 3",
			0, 2},
		{"INSERT INTO t VALUES (1, 1), (2, 2) RETURNING a; DELETE FROM t RETURNING a", 0,
			4},
		{"CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; SELECT 1; END; "
		 "INSERT INTO t VALUES (1, 1)",
			0, 1},
		{"INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (1, 1)", STORE_SQL, 1},
		{"INSERT INTO t VALUES (1, 1); nonsense", STORE_SQL, 1},
		{"SELECT ?", STORE_BAD_REQUEST, 0},
		{"SELECT 1; INSERT INTO t VALUES (:a, 1)", STORE_BAD_REQUEST, 0},
		{"SELECT 1; COMMIT", STORE_DENIED, 0},
		{"SELECT 1; VACUUM", STORE_DENIED, 0},
		{"INSERT INTO t VALUES (1, 1); DELETE FROM _lf_state", STORE_DENIED, 1},
	};
	struct store_error error = {.row = -1};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(store_savepoint(bed.store, &error), 0);
		int rc = run_script(cases[i].sql);
		if (rc != cases[i].want || shown.result.changes != cases[i].changes) {
			fail_msg("%s: %d, changes %lld, %s", cases[i].sql, rc,
				(long long)shown.result.changes,
				shown.error.message != NULL ? shown.error.message : "");
		}
		assert_string_equal(shown.rows, "");
		assert_false(shown.result.has_columns);
		assert_int_equal(store_rollback_to(bed.store, &error), 0);
	}
	struct step guarded =
		bed_step_of("INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2)");
	guarded.script = true;
	guarded.expect_changes = 2;
	MUST(run(guarded));
	guarded.sql = (struct bytes){"DELETE FROM t WHERE a = 1", 25};
	assert_int_equal(run(guarded), STORE_GUARD);
}

/* ---- what is noted for the transaction ---- */

static void test_dirty(void **state)
{
	static const struct {
		const char *sql;
		bool dirty;
	} cases[] = {
		{"SELECT 1", false},
		{"SELECT * FROM t", false},
		{"PRAGMA table_info(t)", false},
		{"PRAGMA user_version", false},
		{"EXPLAIN INSERT INTO t VALUES (1, 1)", false},
		{"EXPLAIN QUERY PLAN DELETE FROM t", false},
		{"nonsense", false},
		{"INSERT INTO t VALUES (1, 1)", true},
		{"CREATE TABLE x(a)", true},
		{"PRAGMA user_version = 1", true},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (int script = 0; script < 2; script++) {
			struct step step = bed_step_of(cases[i].sql);
			step.script = script != 0;
			store_rollback(bed.store);
			bed_begin(bed.store);
			assert_int_equal(own_exec(bed.store, "CREATE TABLE t(a, b)"), SQLITE_OK);
			assert_false(store_dirty(bed.store));
			(void)run(step);
			if (store_dirty(bed.store) != cases[i].dirty) {
				fail_msg("%s%s: dirty %d", cases[i].sql, script ? " (script)" : "",
					store_dirty(bed.store));
			}
		}
	}
}

/* ---- time ---- */

static void test_the_deadline_interrupts(void **state)
{
	static const char *const endless[] = {
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
		"INSERT INTO t SELECT i, i FROM n",
	};
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		bed_tick_us = 0;
		store_batch_begin(bed.store, bed_now_us + 1000);
		MUST(run_sql("SELECT 1"));
		bed_tick_us = 100; /* each look at the clock: so the loop ends after some */
		assert_int_equal(run_sql(endless[i]), STORE_TIMEOUT);
		assert_int_equal(shown.error.sqlite, SQLITE_INTERRUPT);
		/* A reader keeps the transaction, a writer loses it: SQLite's own rule. */
		assert_int_equal(store_in_transaction(bed.store), i == 0);
		store_batch_end(bed.store);
	}
	/* What is the daemon's own is not interrupted. */
	store_rollback(bed.store);
	bed_begin(bed.store);
	store_batch_begin(bed.store, 1);
	store_batch_end(bed.store);
	MUST(run_sql(FIVE "SELECT count(*) FROM n, n AS a, n AS b, n AS c, n AS d, n AS e"));
	assert_string_equal(shown.rows, "15625;");
}

/* ---- describe ---- */

static void describe_columns(void *ctx, const struct columns *columns)
{
	size_t len = strlen(ctx);
	for (unsigned i = 0; i < columns->count; i++) {
		len += (size_t)sprintf((char *)ctx + len, "%s:%s ", columns->names[i],
			columns->types[i] != NULL ? columns->types[i] : "-");
	}
}

static void test_describe(void **state)
{
	static const struct {
		const char *sql;
		int want;
		unsigned params;
		bool readonly;
		int tail;
		const char *columns;
	} cases[] = {
		{"SELECT a, ? AS x FROM t WHERE b = :b", 0, 2, true, -1, "a:INTEGER x:- "},
		{"INSERT INTO t VALUES (?9, 1)", 0, 9, false, -1, ""},
		{"DELETE FROM t RETURNING b", 0, 0, false, -1, "b:- "},
		{"SELECT 1; SELECT 2", 0, 0, true, 10, "1:- "},
		{"SELECT 1;  -- end", 0, 0, true, -1, "1:- "},
		{"CREATE TABLE x(a)", 0, 0, false, -1, ""},
		{"nonsense", STORE_SQL, 0, false, 0, ""},
		{"", STORE_BAD_REQUEST, 0, false, 0, ""},
		{"-- only this", STORE_BAD_REQUEST, 0, false, 0, ""},
		{"COMMIT", STORE_DENIED, 0, false, 0, ""},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char columns[256] = "";
		struct step_sink sink = {.columns = describe_columns, .row = NULL, .ctx = columns};
		struct description description = {0};
		struct store_error error = {.row = -1};
		int rc = store_describe(bed.store, ROLE_DDL,
			(struct bytes){cases[i].sql, strlen(cases[i].sql)}, &sink, &description,
			&error);
		assert_int_equal(rc, cases[i].want);
		if (rc == 0) {
			assert_int_equal(description.params, cases[i].params);
			assert_int_equal(description.readonly, cases[i].readonly);
			assert_int_equal(description.tail, cases[i].tail);
			assert_string_equal(columns, cases[i].columns);
		}
		store_error_clear(&error);
	}
	/* It ran nothing. */
	MUST(run_sql("SELECT count(*) FROM sqlite_schema WHERE name = 'x'"));
	assert_string_equal(shown.rows, "0;");
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
	bed_remove(&bed);
	return 0;
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, begin, end)
	const struct CMUnitTest tests[] = {
		TEST(test_values_of_every_type_come_back),
		TEST(test_nan_is_null),
		TEST(test_large_values),
		TEST(test_binding_by_place),
		TEST(test_binding_by_name),
		TEST(test_long_names),
		TEST(test_many_named_parameters),
		TEST(test_many_rows_of_values),
		TEST(test_many_rows_by_name),
		TEST(test_counts),
		TEST(test_a_batch_sees_only_its_own_counts),
		TEST(test_triggers_see_their_own_changes),
		TEST(test_columns_have_names_and_declared_types),
		TEST(test_rows_have_a_limit),
		TEST(test_a_truncated_write_is_still_whole),
		TEST(test_guards),
		TEST(test_scripts),
		TEST(test_dirty),
		TEST(test_the_deadline_interrupts),
		TEST(test_describe),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
