/* SPDX-License-Identifier: MIT */

/*
 * Random statements over random schemas, as chunks of tiny slices: what is accepted gives what plain
 * SQLite makes of the whole statement, in a database that never saw this code. Where SQLite leaves it open
 * which of two rows comes first, it is compared with one slice over all rows, too.
 *
 *	test_slicing [first seed] [count]      prints each seed that differs, and its statement
 */

#include "server/store/chunk_inside.h"

#include "tests/crash/random.h"
#include "tests/unit/bed.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCRIPT_BYTES = 16384, CASES = 400, SLICE_ROWS_MOST = 7 };

struct text {
	char data[SCRIPT_BYTES];
	size_t len;
};

struct program {
	struct random random;
	struct text script; /* the schema, and what is in it */
	struct text sql;
	const char *by;
	bool ordered; /* which row comes first may show */
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int len = vsnprintf(text->data + text->len, sizeof(text->data) - text->len, format, args);
	va_end(args);
	text->len += (size_t)len;
	assert_true(text->len < sizeof(text->data));
}

static unsigned below(struct program *program, unsigned limit)
{
	return (unsigned)random_below(&program->random, limit);
}

static bool chance(struct program *program, unsigned percent)
{
	return below(program, 100) < percent;
}

static const char *one_of(struct program *program, const char *const *list)
{
	unsigned count = 0;
	while (list[count] != NULL) {
		count++;
	}
	return list[below(program, count)];
}

/* ---- schemas ---- */

static void make_walked(struct program *program)
{
	static const char *const keys[] = {"id INTEGER PRIMARY KEY", "id INTEGER PRIMARY KEY",
		"id INTEGER PRIMARY KEY AUTOINCREMENT", "id INTEGER PRIMARY KEY DESC",
		"id INT PRIMARY KEY NOT NULL", "id NUMERIC NOT NULL UNIQUE", NULL};
	static const char *const texts[] = {"u TEXT NOT NULL UNIQUE",
		"u TEXT NOT NULL COLLATE NOCASE UNIQUE", "u NOT NULL UNIQUE",
		"u TEXT NOT NULL UNIQUE", "u TEXT UNIQUE", "u TEXT NOT NULL", NULL};
	static const char *const numbers[] = {"n", "n", "n UNIQUE", "n UNIQUE ON CONFLICT IGNORE",
		"n UNIQUE ON CONFLICT REPLACE", "n CHECK (n IS NULL OR n < 9000)", NULL};
	struct text *script = &program->script;
	bool early = chance(program, 15);
	add(script, "CREATE TABLE t(%s%s, a, b, %s, %s%s%s)", early ? "g AS (a || 'g'), " : "",
		one_of(program, keys), one_of(program, texts), one_of(program, numbers),
		!early && chance(program, 15) ? ", g AS (coalesce(a, 0) + 1) STORED" : "",
		chance(program, 10) ? ", up REFERENCES t(id)" : "");
	add(script, chance(program, 20) ? " WITHOUT ROWID;" : ";");
	if (chance(program, 30)) {
		add(script, "CREATE INDEX t_a ON t(a);");
	}
	if (chance(program, 15)) {
		add(script, "CREATE UNIQUE INDEX t_u ON t(u DESC);");
	}
	if (chance(program, 15)) {
		add(script, "CREATE UNIQUE INDEX t_part ON t(n) WHERE a > 3 AND n IS NOT NULL;");
	}
	if (chance(program, 15)) {
		add(script, "CREATE UNIQUE INDEX t_expr ON t(u || 'x');");
	}
}

static void make_triggers(struct program *program)
{
	static const char *const events[] = {"AFTER UPDATE", "AFTER DELETE", "AFTER INSERT",
		"BEFORE UPDATE", "BEFORE DELETE", NULL};
	static const char *const tables[] = {"t", "t", "t", "dst", "log", "child", NULL};
	static const char *const bodies[] = {"INSERT INTO log(what) VALUES ('x')",
		"INSERT INTO log(what) SELECT count(*) FROM log", "UPDATE other SET v = v + 1",
		"DELETE FROM other", "DELETE FROM other WHERE id = (SELECT min(id) FROM other)",
		"UPDATE t SET b = 'by trigger' WHERE id = 9", "DELETE FROM t WHERE id = 12",
		"INSERT INTO log(what) SELECT max(a) FROM t", "INSERT INTO f(x) VALUES ('told')",
		"UPDATE dst SET q = coalesce(q, 0) + 1 WHERE rowid = 1",
		"INSERT INTO log(what) SELECT count(*) FROM dst", "DELETE FROM f WHERE rowid = 2",
		"SELECT RAISE(IGNORE) WHERE (SELECT count(*) FROM log) % 5 = 4", NULL};
	for (unsigned i = 0; chance(program, 40) && i < 3; i++) {
		add(&program->script, "CREATE TRIGGER trigger%u %s ON %s BEGIN %s; END;", i,
			one_of(program, events), one_of(program, tables), one_of(program, bodies));
	}
}

static void make_schema(struct program *program)
{
	static const char *const actions[] = {"", "", " ON DELETE CASCADE ON UPDATE CASCADE",
		" ON DELETE SET NULL", " DEFERRABLE INITIALLY DEFERRED", NULL};
	static const char *const targets[] = {"CREATE TABLE dst(p, q);",
		"CREATE TABLE dst(p UNIQUE, q);",
		"CREATE TABLE dst(p INTEGER PRIMARY KEY AUTOINCREMENT, q);",
		"CREATE TABLE dst(p UNIQUE, q REFERENCES other(id));",
		"CREATE TABLE dst(p UNIQUE ON CONFLICT REPLACE, q);", NULL};
	static const char *const searches[] = {"CREATE VIRTUAL TABLE f USING fts5(x);",
		"CREATE VIRTUAL TABLE f USING fts5(x, content='src');",
		"CREATE VIRTUAL TABLE f USING fts4(x);", NULL};
	struct text *script = &program->script;
	add(script,
		"CREATE TABLE other(id INTEGER PRIMARY KEY, v);"
		"CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, what);");
	make_walked(program);
	add(script, "CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES other(id)%s);",
		one_of(program, actions));
	add(script, "%s", one_of(program, targets));
	add(script,
		"CREATE VIEW src AS SELECT id AS rowid, b AS x FROM t;"
		"CREATE VIEW vw AS SELECT id, a FROM t WHERE a > 2;");
	add(script, "%s", one_of(program, searches));
	add(script,
		"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 40)"
		" INSERT INTO t(id, a, b, u, n) SELECT i * 3, i * 7 %% 13,"
		" CASE i %% 5 WHEN 0 THEN NULL ELSE 'b' || i END,"
		" CASE i %% 2 WHEN 0 THEN 'u' ELSE 'V' END || i, i * 11 %% 41 FROM c;"
		"INSERT INTO other SELECT id, a FROM t WHERE id %% 2 = 0;"
		"INSERT INTO child SELECT id, id FROM other WHERE id %% 4 = 0;"
		"INSERT INTO dst VALUES (3, 6);"
		"INSERT INTO log(what) VALUES ('begun');");
	make_triggers(program);
}

/* ---- statements ---- */

static void expression(struct program *program, unsigned depth);

static void condition(struct program *program, unsigned depth)
{
	static const char *const plain[] = {"t.a > 4", "t.b IS NULL",
		"t.b IS NOT DISTINCT FROM 'b3'", "t.id IN (SELECT id FROM other WHERE v > 2)",
		"t.u LIKE 'u1%'", "EXISTS (SELECT 1 FROM child WHERE child.p = t.id)",
		"t.n BETWEEN 3 AND 30", "(SELECT count(*) FROM log) < 9",
		"t.id IN (SELECT id FROM vw)", "t.id NOT IN (SELECT coalesce(p, 0) FROM dst)",
		"t.id IN (SELECT rowid FROM f WHERE f MATCH 'told')",
		"t.a IN (SELECT value FROM json_each('[1, 4, 9]'))", "1", NULL};
	static const char *const marks[] = {"=", "<", ">=", "<>", "IS", "IS NOT", NULL};
	struct text *sql = &program->sql;
	unsigned kind = depth > 2 ? 0 : below(program, 6);
	if (kind <= 2) {
		add(sql, "%s", one_of(program, plain));
	} else if (kind == 3) {
		add(sql, "(");
		condition(program, depth + 1);
		add(sql, chance(program, 50) ? " OR " : " AND ");
		condition(program, depth + 1);
		add(sql, ")");
	} else if (kind == 4) {
		add(sql, "NOT ");
		condition(program, depth + 1);
	} else {
		expression(program, depth + 1);
		add(sql, " %s ", one_of(program, marks));
		expression(program, depth + 1);
	}
}

static void expression(struct program *program, unsigned depth)
{
	static const char *const plain[] = {"t.a", "t.b", "t.n", "t.id", "t.u", "7", "'where'",
		"NULL", "t.a + t.n", "t.n * 2", "t.id / 2", "upper(t.b)",
		"CASE WHEN t.a > 3 THEN 1 ELSE t.b END",
		"(SELECT v FROM other WHERE other.id = t.id)", NULL};
	static const char *const rare[] = {"(SELECT count(*) FROM other)",
		"(SELECT max(v) FROM other o WHERE o.id < t.id)", "(SELECT count(*) FROM log)",
		"(SELECT count(*) FROM f)", "last_insert_rowid()", "total_changes()", "changes()",
		"(SELECT max(a) FROM t AS s)", "(SELECT count(*) FROM vw)",
		"(SELECT count(*) FROM dst)", "(SELECT count(*) FROM child)",
		"(SELECT seq FROM sqlite_sequence WHERE name = 'log')",
		"(SELECT x FROM f WHERE f.rowid = t.id)", "(SELECT count(*) FROM src)",
		"(SELECT x.a FROM t AS x WHERE x.id = t.id + 3)", "(SELECT group_concat(x) FROM f)",
		NULL};
	unsigned kind = below(program, 10);
	if (kind < 6) {
		add(&program->sql, "%s", one_of(program, plain));
	} else if (kind < 9 || depth > 2) {
		add(&program->sql, "%s", one_of(program, rare));
	} else {
		add(&program->sql, "coalesce(");
		expression(program, depth + 1);
		add(&program->sql, ", ");
		expression(program, depth + 1);
		add(&program->sql, ")");
	}
}

static void where(struct program *program)
{
	if (chance(program, 75)) {
		add(&program->sql, " WHERE ");
		condition(program, 0);
	}
}

static void with(struct program *program)
{
	static const char *const tables[] = {"WITH c(x) AS (SELECT max(v) FROM other) ",
		"WITH t AS (SELECT NULL AS id, a, b, u, n FROM main.t) ",
		"WITH \"T\" AS NOT MATERIALIZED (SELECT id + 0.5 AS id, a, b, u, n FROM main.t) ",
		"WITH dst AS (SELECT 1) ", "WITH RECURSIVE c AS (SELECT count(*) FROM log) ", NULL};
	if (chance(program, 12)) {
		add(&program->sql, "%s", one_of(program, tables));
	}
}

static void make_statement(struct program *program)
{
	static const char *const update[] = {"UPDATE t SET ", "UPDATE t SET ",
		"UPDATE OR IGNORE t SET ", "UPDATE main.t SET ", NULL};
	static const char *const set[] = {
		"a", "b", "n", "n", "a = b, b", "u", "id", "rowid", "(a, b) = (1, 2), n", NULL};
	static const char *const insert[] = {"INSERT INTO dst(p, q)", "INSERT INTO dst(q, p)",
		"INSERT OR IGNORE INTO dst(p, q)", "INSERT OR REPLACE INTO dst(p, q)",
		"INSERT INTO child(id, p)", "INSERT INTO log(what, id)", "INSERT INTO t(id, a)",
		"INSERT INTO f(rowid, x)", "REPLACE INTO other(id, v)", NULL};
	static const char *const upsert[] = {" ON CONFLICT DO NOTHING",
		" ON CONFLICT (p) DO UPDATE SET q = excluded.q",
		" ON CONFLICT (p) DO UPDATE SET q = coalesce(q, 0) + 1 WHERE q < 50", NULL};
	static const char *const keys[] = {"id", "u", "n", NULL};
	struct text *sql = &program->sql;
	unsigned kind = below(program, 3);
	program->by = chance(program, 40) ? one_of(program, keys) : NULL;
	with(program);
	if (kind == 0) {
		add(sql, "%s%s = ", one_of(program, update), one_of(program, set));
		expression(program, 0);
		where(program);
	} else if (kind == 1) {
		add(sql, "DELETE FROM t");
		where(program);
	} else {
		add(sql, "%s SELECT ", one_of(program, insert));
		expression(program, 0);
		add(sql, ", ");
		expression(program, 0);
		add(sql, " FROM t");
		where(program);
		if (strstr(sql->data, "WHERE") != NULL && chance(program, 25)) {
			add(sql, "%s", one_of(program, upsert));
		}
	}
}

/* ---- running ---- */

static void dump_query(sqlite3 *db, const char *sql, FILE *out)
{
	sqlite3_stmt *stmt = NULL;
	(void)fprintf(out, "[%s]\n", sql);
	if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK) {
		while (sqlite3_step(stmt) == SQLITE_ROW) {
			for (int i = 0; i < sqlite3_column_count(stmt); i++) {
				const unsigned char *text = sqlite3_column_text(stmt, i);
				(void)fprintf(out, " %d:%s", sqlite3_column_type(stmt, i),
					text != NULL ? (const char *)text : "");
			}
			(void)fputc('\n', out);
		}
	}
	sqlite3_finalize(stmt);
}

/* `rowids`: with those that SQLite has chosen, which follow from the order. */
static char *dump(sqlite3 *db, bool rowids)
{
	static const char *const queries[] = {"SELECT * FROM t ORDER BY id, u",
		"SELECT * FROM other ORDER BY id", "SELECT * FROM child ORDER BY id",
		"SELECT p, q FROM dst ORDER BY 1, 2", "SELECT what FROM log ORDER BY 1",
		"SELECT * FROM f ORDER BY 1", NULL};
	static const char *const numbers[] = {"SELECT rowid, * FROM dst ORDER BY 1",
		"SELECT * FROM log ORDER BY id", "SELECT rowid, * FROM f ORDER BY 1",
		"SELECT * FROM sqlite_sequence ORDER BY 1", NULL};
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	assert_non_null(out);
	for (const char *const *query = queries; *query != NULL; query++) {
		dump_query(db, *query, out);
	}
	for (const char *const *query = numbers; rowids && *query != NULL; query++) {
		dump_query(db, *query, out);
	}
	(void)fclose(out);
	return text;
}

static sqlite3 *open_plain(const struct program *program)
{
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
	char *error = NULL;
	if (sqlite3_exec(db, "PRAGMA foreign_keys = on", NULL, NULL, NULL) != SQLITE_OK ||
		sqlite3_exec(db, program->script.data, NULL, NULL, &error) != SQLITE_OK) {
		sqlite3_free(error);
		sqlite3_close(db);
		return NULL; /* such a schema there cannot be */
	}
	return db;
}

/* The whole statement, or the one slice over everything. False: it fails. */
static bool run_plainly(sqlite3 *db, const char *sql, const struct chunk *range)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK && range != NULL) {
		sqlite3_bind_value(stmt, 1, range->first);
		sqlite3_bind_value(stmt, 2, range->last);
	}
	sqlite3_set_last_insert_rowid(db, 0); /* as for every batch */
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	sqlite3_finalize(stmt);
	return rc == SQLITE_DONE;
}

static const uint8_t hash[16] = {1};

/* Begins the chunk and runs its slices. False: it was refused. */
static bool run_sliced(struct program *program, struct bed *bed, struct chunk **ret_chunk)
{
	struct step step = bed_step_of(program->sql.data);
	struct chunk_order order = {.uid = 5,
		.name = {"name", 4},
		.step = &step,
		.hash = hash,
		.by = {program->by, program->by != NULL ? strlen(program->by) : 0},
		.slice_ms = 10,
		.keep_s = 1000};
	struct chunk_facts facts;
	struct store_error error = {.row = -1};
	bed_begin(bed->store);
	int rc = store_chunk_start(bed->store, ROLE_DDL, &order, &facts, &error);
	store_error_clear(&error);
	if (rc != 0) {
		store_rollback(bed->store);
		assert_true(rc == STORE_BAD_REQUEST || rc == STORE_SQL || rc == STORE_DENIED);
		return false;
	}
	bed_commit(bed->store);
	assert_int_equal(store_chunks_load(bed->store), 0);
	*ret_chunk = chunk_find(bed->store, facts.id);
	assert_non_null(*ret_chunk);
	enum chunk_slice slice = SLICE_MORE;
	while (slice == SLICE_MORE) {
		(*ret_chunk)->slice_rows = 1 + below(program, SLICE_ROWS_MOST);
		slice = store_chunk_slice(bed->store, facts.id, 1000000, 60000000, &error);
		store_error_clear(&error);
	}
	assert_int_equal(slice, SLICE_OVER);
	return true;
}

/* What plain SQLite makes of it; NULL: it fails. */
static char *plain_end(
	const struct program *program, const char *sql, const struct chunk *range, bool rowids)
{
	sqlite3 *db = open_plain(program);
	char *end = db != NULL && run_plainly(db, sql, range) ? dump(db, rowids) : NULL;
	sqlite3_close(db);
	return end;
}

/* Both fail, or both give that. */
static bool same(const char *one, const char *other)
{
	return (one == NULL) == (other == NULL) && (one == NULL || strcmp(one, other) == 0);
}

enum verdict { NOTHING, REFUSED, SAME, DIFFERENT };

/*
 * By an INTEGER PRIMARY KEY one slice over everything takes the rows in the order of many. By another
 * key SQLite may update those of a slice in the order of their rowids: then there is nothing to
 * compare with.
 */
static enum verdict as_one_slice(
	struct program *program, struct bed *bed, const struct chunk *chunk)
{
	struct slicing slicing;
	struct store_error error = {.row = -1};
	struct bytes sql = {program->sql.data, program->sql.len};
	if (slicing_make(bed->store, ROLE_DDL, sql, program->by, NULL, &slicing, &error) != 0) {
		store_error_clear(&error);
		return DIFFERENT; /* it was accepted before */
	}
	enum verdict verdict = NOTHING;
	if (slicing.index[0] == 0) {
		char *whole = plain_end(program, slicing.slice, chunk, true);
		char *sliced =
			chunk->facts.state == CHUNK_DONE ? dump(bed->store->handle, true) : NULL;
		verdict = same(whole, sliced) ? SAME : DIFFERENT;
		free(whole);
		free(sliced);
	}
	slicing_finish(&slicing);
	return verdict;
}

static enum verdict as_the_whole(
	struct program *program, struct bed *bed, const struct chunk *chunk)
{
	char *whole = plain_end(program, program->sql.data, NULL, false);
	char *sliced = chunk->facts.state == CHUNK_DONE ? dump(bed->store->handle, false) : NULL;
	enum verdict verdict = same(whole, sliced) ? SAME : DIFFERENT;
	if (verdict == DIFFERENT && program->ordered) {
		verdict = as_one_slice(program, bed, chunk);
	}
	if (verdict == DIFFERENT && getenv("SLICING_SHOW") != NULL) {
		(void)fprintf(stderr, "--- whole\n%s--- sliced\n%s",
			whole != NULL ? whole : "fails\n", sliced != NULL ? sliced : chunk->error);
	}
	free(whole);
	free(sliced);
	return verdict;
}

static enum verdict run_case(struct bed *bed, uint64_t seed)
{
	struct program *program = calloc(1, sizeof(*program));
	struct chunk *chunk = NULL;
	enum verdict verdict = NOTHING;
	random_seed(&program->random, seed);
	make_schema(program);
	make_statement(program);
	/* Two rows may want one place: which gets it follows from the order. */
	program->ordered = strstr(program->script.data, "UNIQUE") != NULL;
	sqlite3 *db = open_plain(program);
	sqlite3_stmt *stmt = NULL;
	if (db != NULL && sqlite3_prepare_v2(db, program->sql.data, -1, &stmt, NULL) == SQLITE_OK) {
		bed_make(bed);
		bed_script(bed->store, program->script.data);
		verdict = run_sliced(program, bed, &chunk) ? as_the_whole(program, bed, chunk)
							   : REFUSED;
		bed_remove(bed);
	}
	if (verdict == DIFFERENT) {
		print_message("seed %llu by %s: %s\n    %s\n", (unsigned long long)seed,
			program->by != NULL ? program->by : "-", program->sql.data,
			program->script.data);
	}
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	free(program);
	return verdict;
}

static uint64_t first_seed = 1;
static uint64_t cases = CASES;

static void accepted_is_as_the_whole(void **state)
{
	struct bed *bed = *state;
	unsigned counts[DIFFERENT + 1] = {0};
	for (uint64_t seed = first_seed; seed < first_seed + cases; seed++) {
		counts[run_case(bed, seed)]++;
	}
	print_message("%u same, %u refused, %u not to be run, %u different\n", counts[SAME],
		counts[REFUSED], counts[NOTHING], counts[DIFFERENT]);
	assert_int_equal(counts[DIFFERENT], 0);
	if (cases >= CASES) {
		assert_true(counts[SAME] > cases / 10); /* it is not all refused */
	}
}

int main(int argc, char **argv)
{
	static struct bed bed;
	if (argc > 1) {
		first_seed = strtoull(argv[1], NULL, 10);
		cases = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	}
	const struct CMUnitTest tests[] = {
		{"accepted_is_as_the_whole", accepted_is_as_the_whole, NULL, NULL, &bed},
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
