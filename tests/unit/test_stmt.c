/* SPDX-License-Identifier: MIT */

/*
 * Statements: how they are compiled, kept and judged. The heart is a table of statements that fail.
 * Each is executed without a savepoint, and what it left behind is looked at; then with one, where
 * nothing may be left. What the store calls clean must have been clean.
 */

#include "server/store/stmt.h"
#include "tests/unit/bed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct bed bed;

/* ---- atomicity, by execution ---- */

enum effect {
	CLEAN,    /* it failed and left nothing behind */
	DIRTY,    /* it failed and left rows behind: the savepoint is needed */
	LOST,     /* it threw the whole transaction away */
	DEFERRED, /* it succeeded, but COMMIT would fail */
	DONE,     /* it succeeded */
};

enum judgement { ATOMIC, SAVEPOINT };

struct atomicity {
	const char *schema; /* of the case, in the same transaction */
	const char *sql;
	enum judgement judgement;
	enum effect effect;
};

#define T                                                                                            \
	"CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE, c NOT NULL DEFAULT 0, d CHECK (d < 100)); " \
	"INSERT INTO t VALUES (1, 'one', 1, 1), (2, 'two', 2, 2), (3, 'three', 3, 3);"
#define LOG "CREATE TABLE log(x);"
#define FAMILY                                                                                     \
	"CREATE TABLE parent(a INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1), (2), (3);"
#define RAISING(when, what)                                                                        \
	T LOG "CREATE TRIGGER r " when " ON t BEGIN INSERT INTO log VALUES (1); "                  \
	      "SELECT RAISE(" what ") WHERE NEW.a >= 11; END;"
#define TWO "INSERT INTO t VALUES (10, 'ten', 0, 0), (11, 'eleven', 0, 0)"

static const struct atomicity atomicities[] = {
	/* Constraints of one row. */
	{T, "INSERT INTO t VALUES (1, 'x', 0, 0)", ATOMIC, CLEAN},
	{T, "INSERT INTO t VALUES (9, 'one', 0, 0)", ATOMIC, CLEAN},
	{T, "INSERT INTO t VALUES (9, 'x', NULL, 0)", ATOMIC, CLEAN},
	{T, "INSERT INTO t VALUES (9, 'x', 0, 100)", ATOMIC, CLEAN},
	{T, "INSERT INTO t VALUES ('abc', 'x', 0, 0)", ATOMIC, CLEAN},
	{T, "UPDATE t SET b = 'one' WHERE a = 2", ATOMIC, CLEAN},
	{T, "UPDATE t SET a = 1 WHERE a = 2", ATOMIC, CLEAN},
	/* Constraints in the middle of several rows. */
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), (9, 'x', 0, 0)", ATOMIC, CLEAN},
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), (9, 'y', NULL, 0)", ATOMIC, CLEAN},
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), (9, 'y', 0, 100)", ATOMIC, CLEAN},
	{T, "INSERT INTO t SELECT a + 2, b || 'x', c, d FROM t", ATOMIC, CLEAN},
	{T, "UPDATE t SET b = 'same'", ATOMIC, CLEAN},
	{T, "UPDATE t SET d = d + 98", ATOMIC, CLEAN},
	{T, "UPDATE t SET a = a + 1", ATOMIC, CLEAN},
	{T, "UPDATE t SET c = CASE WHEN a = 3 THEN NULL ELSE 9 END", ATOMIC, CLEAN},
	{T, "INSERT OR ABORT INTO t VALUES (8, 'x', 0, 0), (9, 'x', 0, 0)", ATOMIC, CLEAN},
	{T, "INSERT OR REPLACE INTO t VALUES (1, 'new', 0, 0), (9, 'y', 0, 100)", ATOMIC, CLEAN},
	{T, "INSERT OR REPLACE INTO t(a, b, c, d) VALUES (1, 'new', 0, 0), (9, 'y', NULL, 200)",
		ATOMIC, CLEAN},
	{T, "INSERT OR IGNORE INTO t VALUES (1, 'x', 0, 0), (9, 'y', 0, 1)", ATOMIC, DONE},
	/* The other resolutions. */
	{T, "INSERT OR FAIL INTO t VALUES (8, 'x', 0, 0), (9, 'x', 0, 0)", SAVEPOINT, DIRTY},
	{T, "UPDATE OR FAIL t SET b = 'same'", SAVEPOINT, DIRTY},
	{T, "INSERT OR ROLLBACK INTO t VALUES (8, 'x', 0, 0), (9, 'x', 0, 0)", SAVEPOINT, LOST},
	{T, "UPDATE OR ROLLBACK t SET b = 'same'", SAVEPOINT, LOST},
	{"CREATE TABLE t(a UNIQUE ON CONFLICT ROLLBACK); INSERT INTO t VALUES (1);",
		"INSERT INTO t VALUES (2), (1)", SAVEPOINT, LOST},
	{"CREATE TABLE t(a NOT NULL ON CONFLICT ROLLBACK);", "INSERT INTO t VALUES (1), (NULL)",
		SAVEPOINT, LOST},
	{"CREATE TABLE t(a UNIQUE ON CONFLICT FAIL); INSERT INTO t VALUES (1);",
		"INSERT INTO t VALUES (2), (1)", SAVEPOINT, DIRTY},
	{"CREATE TABLE t(a NOT NULL ON CONFLICT FAIL);", "INSERT INTO t VALUES (1), (NULL)",
		SAVEPOINT, DIRTY},
	{"CREATE TABLE t(a PRIMARY KEY ON CONFLICT ROLLBACK) WITHOUT ROWID; INSERT INTO t VALUES (1);",
		"UPDATE t SET a = 1; ", SAVEPOINT, DONE},
	/* What SQLite does not foresee: errors while rows are computed. */
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), ('abc', 'y', 0, 0)", ATOMIC, CLEAN},
	{"CREATE TABLE t(a INTEGER PRIMARY KEY);", "INSERT OR REPLACE INTO t VALUES (1), ('abc')",
		ATOMIC, DIRTY},
	{"CREATE TABLE t(a INTEGER PRIMARY KEY);", "INSERT OR IGNORE INTO t VALUES (1), ('abc')",
		ATOMIC, DIRTY},
	{T, "UPDATE t SET d = abs(CASE WHEN a = 3 THEN -9223372036854775807 - 1 ELSE 7 END)",
		ATOMIC, CLEAN},
	{"CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 1), (2, -9223372036854775807 - 1);",
		"UPDATE t SET a = abs(b) + 5", ATOMIC, CLEAN},
	{"CREATE TABLE t(j); INSERT INTO t VALUES ('[1]'), ('[2]'), ('{bad');",
		"UPDATE t SET j = json_extract(j, '$[0]')", ATOMIC, CLEAN},
	{"CREATE TABLE t(j); INSERT INTO t VALUES ('[1]'), ('[2]'), ('{bad');",
		"UPDATE t SET j = (SELECT value FROM json_each(t.j))", ATOMIC, DIRTY},
	{"CREATE TABLE s(j); INSERT INTO s VALUES ('[1, 2]'), ('{bad'); CREATE TABLE t(x);",
		"INSERT INTO t SELECT value FROM s, json_each(s.j)", ATOMIC, DIRTY},
	{"CREATE TABLE t(a INTEGER, b TEXT) STRICT;", "INSERT INTO t VALUES (1, 'x'), ('no', 'y')",
		ATOMIC, DIRTY},
	{"CREATE TABLE t(a INTEGER, b TEXT) STRICT; INSERT INTO t VALUES (1, '5'), (2, 'x');",
		"UPDATE t SET a = b", ATOMIC, DIRTY},
	{"CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3);",
		"DELETE FROM t WHERE abs(CASE WHEN a = 3 THEN -9223372036854775807 - 1 ELSE 1 END)",
		ATOMIC, CLEAN},
	{"CREATE TABLE t(a, b); CREATE INDEX i ON t(abs(a));",
		"INSERT INTO t VALUES (1, 1), (-9223372036854775807 - 1, 2)", ATOMIC, CLEAN},
	{"CREATE TABLE t(a); INSERT INTO t VALUES (1), (2);",
		"UPDATE t SET a = zeroblob(CASE WHEN a = 2 THEN 2000000000 ELSE 1 END)", ATOMIC,
		CLEAN},
	/* Triggers: RAISE of each kind, before and after, at the second row. */
	{RAISING("BEFORE INSERT", "ABORT, 'no'"), TWO, ATOMIC, CLEAN},
	{RAISING("AFTER INSERT", "ABORT, 'no'"), TWO, ATOMIC, CLEAN},
	{RAISING("BEFORE INSERT", "FAIL, 'no'"), TWO, SAVEPOINT, DIRTY},
	{RAISING("AFTER INSERT", "FAIL, 'no'"), TWO, SAVEPOINT, DIRTY},
	{RAISING("BEFORE INSERT", "ROLLBACK, 'no'"), TWO, SAVEPOINT, LOST},
	{RAISING("AFTER INSERT", "ROLLBACK, 'no'"), TWO, SAVEPOINT, LOST},
	{RAISING("BEFORE INSERT", "IGNORE"), TWO, ATOMIC, DONE},
	{RAISING("AFTER INSERT", "IGNORE"), TWO, ATOMIC, DONE},
	{RAISING("AFTER UPDATE", "FAIL, 'no'"), "UPDATE t SET a = a + 10", SAVEPOINT, DIRTY},
	{RAISING("AFTER UPDATE", "ROLLBACK, 'no'"), "UPDATE t SET a = a + 10", SAVEPOINT, LOST},
	{T LOG "CREATE TRIGGER r AFTER DELETE ON t BEGIN INSERT INTO log VALUES (OLD.a); "
	       "SELECT RAISE(FAIL, 'no') WHERE OLD.a = 2; END;",
		"DELETE FROM t", SAVEPOINT, DIRTY},
	{T LOG "CREATE TRIGGER r BEFORE DELETE ON t BEGIN "
	       "SELECT RAISE(ROLLBACK, 'no') WHERE OLD.a = 2; END;",
		"DELETE FROM t", SAVEPOINT, LOST},
	/* A trigger with a statement that fails, and the outer OR that overrides it. */
	{T LOG "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO t VALUES (1, 'x', 0, 0); END;",
		"INSERT INTO t VALUES (8, 'y', 0, 0)", ATOMIC, CLEAN},
	{T LOG "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT OR FAIL INTO t VALUES (1, 'x', 0, 0); "
	       "END;",
		"INSERT INTO t VALUES (8, 'y', 0, 0)", SAVEPOINT, DIRTY},
	{T LOG "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT OR ROLLBACK INTO t VALUES (1, 'x', 0, "
	       "0); END;",
		"INSERT INTO t VALUES (8, 'y', 0, 0)", SAVEPOINT, LOST},
	{T LOG "CREATE TRIGGER r AFTER INSERT ON log BEGIN INSERT INTO t VALUES (8, 'y', 0, 0), (1, "
	       "'x', 0, 0); END;",
		"INSERT OR FAIL INTO log VALUES (1)", SAVEPOINT, DIRTY},
	{T LOG "CREATE TRIGGER r AFTER INSERT ON log BEGIN INSERT INTO t VALUES (8, 'y', 0, 0), (1, "
	       "'x', 0, 0); END;",
		"INSERT OR ROLLBACK INTO log VALUES (1)", SAVEPOINT, LOST},
	{T LOG "CREATE TRIGGER r AFTER INSERT ON log BEGIN INSERT INTO t VALUES (8, 'y', 0, 0), "
	       "('abc', 'x', 0, 0); END;",
		"INSERT INTO log VALUES (1)", ATOMIC, CLEAN},
	/* Recursive triggers: too deep, and a RAISE at the bottom. */
	{"CREATE TABLE t(a); CREATE TABLE deep(a); "
	 "CREATE TRIGGER r AFTER INSERT ON t WHEN NEW.a < 5 BEGIN INSERT INTO t VALUES (NEW.a + 1); "
	 "SELECT RAISE(FAIL, 'no') WHERE NEW.a = 4; END;",
		"INSERT INTO t VALUES (4)", SAVEPOINT, DIRTY},
	{"CREATE TABLE a(x); CREATE TABLE b(x); "
	 "CREATE TRIGGER ra AFTER INSERT ON a BEGIN INSERT INTO b VALUES (NEW.x); END; "
	 "CREATE TRIGGER rb AFTER INSERT ON b BEGIN SELECT RAISE(ROLLBACK, 'no') WHERE NEW.x = 2; END;",
		"INSERT INTO a VALUES (1), (2)", SAVEPOINT, LOST},
	{"CREATE TABLE a(x); CREATE TABLE b(x NOT NULL); "
	 "CREATE TRIGGER ra AFTER INSERT ON a BEGIN INSERT INTO b VALUES (NEW.x); END;",
		"INSERT INTO a VALUES (1), (NULL)", ATOMIC, CLEAN},
	/* Views with INSTEAD OF. */
	{T "CREATE VIEW v AS SELECT a, b FROM t; CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN "
	   "INSERT INTO t VALUES (NEW.a, NEW.b, 0, 0); END;",
		"INSERT INTO v VALUES (8, 'x'), (9, 'x')", ATOMIC, CLEAN},
	{T "CREATE VIEW v AS SELECT a, b FROM t; CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN "
	   "INSERT INTO t VALUES (NEW.a, NEW.b, 0, 0); SELECT RAISE(FAIL, 'no') WHERE NEW.a = 9; END;",
		"INSERT INTO v VALUES (8, 'x'), (9, 'y')", SAVEPOINT, DIRTY},
	{T "CREATE VIEW v AS SELECT a, b FROM t; CREATE TRIGGER vu INSTEAD OF UPDATE ON v BEGIN "
	   "UPDATE t SET b = NEW.b WHERE a = NEW.a; END;",
		"UPDATE v SET b = 'same'", ATOMIC, CLEAN},
	{T "CREATE VIEW v AS SELECT a, b FROM t; CREATE TRIGGER vd INSTEAD OF DELETE ON v BEGIN "
	   "DELETE FROM t WHERE a = OLD.a; SELECT RAISE(ROLLBACK, 'no') WHERE OLD.a = 3; END;",
		"DELETE FROM v", SAVEPOINT, LOST},
	/* Foreign keys. */
	{FAMILY "CREATE TABLE child(p REFERENCES parent);", "INSERT INTO child VALUES (1), (9)",
		ATOMIC, CLEAN},
	{FAMILY "CREATE TABLE child(p REFERENCES parent); INSERT INTO child VALUES (2);",
		"DELETE FROM parent", ATOMIC, CLEAN},
	{FAMILY "CREATE TABLE child(p REFERENCES parent); INSERT INTO child VALUES (2);",
		"UPDATE parent SET a = a + 10", ATOMIC, CLEAN},
	{FAMILY "CREATE TABLE child(p REFERENCES parent ON DELETE RESTRICT); "
		"INSERT INTO child VALUES (2);",
		"DELETE FROM parent", ATOMIC, CLEAN},
	{FAMILY "CREATE TABLE child(p REFERENCES parent ON DELETE CASCADE); "
		"INSERT INTO child VALUES (1), (2); CREATE TABLE grand(c REFERENCES child(rowid));",
		"DELETE FROM parent", ATOMIC, CLEAN},
	{FAMILY "CREATE TABLE child(p REFERENCES parent ON DELETE CASCADE); "
		"INSERT INTO child VALUES (1), (2); CREATE TRIGGER r AFTER DELETE ON child BEGIN "
		"SELECT RAISE(FAIL, 'no') WHERE OLD.p = 2; END;",
		"DELETE FROM parent", SAVEPOINT, DIRTY},
	{FAMILY "CREATE TABLE child(p REFERENCES parent ON DELETE CASCADE); "
		"INSERT INTO child VALUES (1), (2); CREATE TRIGGER r AFTER DELETE ON child BEGIN "
		"SELECT RAISE(ROLLBACK, 'no') WHERE OLD.p = 2; END;",
		"DELETE FROM parent", SAVEPOINT, LOST},
	{FAMILY "CREATE TABLE child(p NOT NULL REFERENCES parent ON DELETE SET NULL); "
		"INSERT INTO child VALUES (2);",
		"DELETE FROM parent", ATOMIC, CLEAN},
	{FAMILY "CREATE TABLE child(p NOT NULL ON CONFLICT ROLLBACK REFERENCES parent "
		"ON DELETE SET NULL); INSERT INTO child VALUES (2);",
		"DELETE FROM parent", ATOMIC,
		CLEAN}, /* an action aborts, whatever the column says */
	{FAMILY "CREATE TABLE child(p NOT NULL ON CONFLICT FAIL REFERENCES parent "
		"ON DELETE SET NULL); INSERT INTO child VALUES (2);",
		"DELETE FROM parent", ATOMIC, CLEAN},
	{FAMILY "CREATE TABLE child(p REFERENCES parent DEFERRABLE INITIALLY DEFERRED);",
		"INSERT INTO child VALUES (9)", SAVEPOINT, DEFERRED},
	{FAMILY "CREATE TABLE child(p REFERENCES parent DEFERRABLE INITIALLY DEFERRED); "
		"INSERT INTO child VALUES (2);",
		"DELETE FROM parent", SAVEPOINT, DEFERRED},
	{FAMILY "CREATE TABLE child(p REFERENCES parent DEFERRABLE INITIALLY DEFERRED, q NOT NULL);",
		"INSERT INTO child VALUES (9, 1), (9, NULL)", SAVEPOINT, CLEAN},
	{FAMILY "CREATE TABLE child(p REFERENCES parent ON DELETE SET DEFAULT "
		"DEFERRABLE INITIALLY DEFERRED); INSERT INTO child VALUES (2);",
		"DELETE FROM parent", SAVEPOINT, DONE},
	/* UPSERT. */
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), (1, 'y', 0, 0) ON CONFLICT(a) DO UPDATE SET b = 'two'",
		ATOMIC, CLEAN},
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), (1, 'y', 0, 0) ON CONFLICT(b) DO NOTHING", ATOMIC,
		CLEAN},
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), (1, 'y', 0, 0) ON CONFLICT(a) DO UPDATE SET d = 500",
		ATOMIC, CLEAN},
	{T, "INSERT INTO t VALUES (1, 'y', 0, 0) ON CONFLICT DO NOTHING", ATOMIC, DONE},
	{T "CREATE TRIGGER r BEFORE UPDATE ON t BEGIN SELECT RAISE(FAIL, 'no'); END;",
		"INSERT INTO t VALUES (8, 'x', 0, 0), (1, 'y', 0, 0) ON CONFLICT(a) DO UPDATE SET c = 5",
		SAVEPOINT, DIRTY},
	/* WITHOUT ROWID, generated columns, partial and expression indexes. */
	{"CREATE TABLE t(a, b, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO t VALUES (1, 1), (2, 2);",
		"INSERT INTO t VALUES (3, 3), (1, 1)", ATOMIC, CLEAN},
	{"CREATE TABLE t(a, b, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO t VALUES (1, 1), (2, 2);",
		"UPDATE t SET a = 1, b = 1", ATOMIC, CLEAN},
	{"CREATE TABLE t(a PRIMARY KEY ON CONFLICT ROLLBACK) WITHOUT ROWID; INSERT INTO t VALUES (1);",
		"INSERT INTO t VALUES (2), (1)", SAVEPOINT, LOST},
	{"CREATE TABLE t(a, g AS (a * 2) STORED UNIQUE); INSERT INTO t(a) VALUES (1);",
		"INSERT INTO t(a) VALUES (2), (1)", ATOMIC, CLEAN},
	{"CREATE TABLE t(a, g AS (a * 2) VIRTUAL CHECK (g < 10));",
		"INSERT INTO t(a) VALUES (1), (7)", ATOMIC, CLEAN},
	{"CREATE TABLE t(a, g AS (a * 2) NOT NULL);", "INSERT INTO t(a) VALUES (1), (NULL)", ATOMIC,
		CLEAN},
	{"CREATE TABLE t(a, b); CREATE UNIQUE INDEX i ON t(a) WHERE b; INSERT INTO t VALUES (1, 1);",
		"INSERT INTO t VALUES (1, 0), (1, 1)", ATOMIC, CLEAN},
	{"CREATE TABLE t(a, b); CREATE UNIQUE INDEX i ON t(lower(a)); INSERT INTO t VALUES ('X', 1);",
		"INSERT INTO t VALUES ('y', 0), ('x', 1)", ATOMIC, CLEAN},
	{"CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b NOT NULL);",
		"INSERT INTO t(b) VALUES (1), (NULL)", ATOMIC, CLEAN},
	/* RETURNING: what it returns may be refused after the write. */
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), (9, 'x', 0, 0) RETURNING a", SAVEPOINT, CLEAN},
	{T, "UPDATE t SET c = 5 RETURNING abs(-9223372036854775807 - 1 + (a < 3))", SAVEPOINT,
		CLEAN},
	/* CTE, UPDATE FROM, DELETE with a subquery. */
	{T, "WITH x(n) AS (VALUES (8), (1)) INSERT INTO t SELECT n, 'n' || n, 0, 0 FROM x", ATOMIC,
		CLEAN},
	{T "CREATE TABLE s(a, b); INSERT INTO s VALUES (1, 'n'), (2, 'n');",
		"UPDATE t SET b = s.b FROM s WHERE s.a = t.a", ATOMIC, CLEAN},
	/* Virtual tables write in their own ways. */
	{"CREATE VIRTUAL TABLE f USING fts5(x);",
		"INSERT INTO f(rowid, x) VALUES (1, 'a'), (1, 'b')", SAVEPOINT, CLEAN},
	{"CREATE VIRTUAL TABLE f USING fts5(x);", "INSERT INTO f(f) VALUES ('no such command')",
		SAVEPOINT, CLEAN},
	{"CREATE VIRTUAL TABLE r USING rtree(id, a, b);",
		"INSERT INTO r VALUES (1, 0, 1), (2, 5, 3)", SAVEPOINT, CLEAN},
	{"CREATE VIRTUAL TABLE r USING rtree(id, a, b);",
		"INSERT OR FAIL INTO r VALUES (1, 0, 1), (1, 0, 1)", SAVEPOINT, DIRTY},
	{T "CREATE VIRTUAL TABLE f USING fts5(x); CREATE TRIGGER r AFTER INSERT ON t BEGIN "
	   "INSERT INTO f(rowid, x) VALUES (1, NEW.b); END;",
		"INSERT INTO t VALUES (8, 'x', 0, 0), (9, 'y', 0, 0)", SAVEPOINT, CLEAN},
	/* Readers, and what does not compile. */
	{T, "SELECT * FROM t", ATOMIC, DONE},
	{T, "SELECT abs(-9223372036854775807 - a) FROM t", ATOMIC, CLEAN},
	{T, "PRAGMA user_version = 5", SAVEPOINT, DONE},
	/* Schema changes. */
	{T, "CREATE TABLE t(x)", ATOMIC, CLEAN}, /* does not compile */
	{T, "CREATE UNIQUE INDEX i ON t(a > 0)", SAVEPOINT, CLEAN},
	{T, "ALTER TABLE t ADD COLUMN n NOT NULL", SAVEPOINT, CLEAN},
	{T,
		"CREATE TABLE u AS SELECT abs(CASE WHEN a = 3 THEN -9223372036854775807 - 1 ELSE a END) AS x "
		"FROM t",
		SAVEPOINT, CLEAN},
};

struct observed {
	enum effect effect;
	bool judged_clean; /* as the commit group would judge */
	bool atomic;
};

/* Runs the case in a transaction of its own and throws it away. */
static struct observed observe(const struct atomicity *one, bool savepoint)
{
	static struct shown shown;
	struct store_error error = {.row = -1};
	struct observed observed = {.effect = LOST};
	struct step schema = bed_step_of(one->schema);
	struct step step = bed_step_of(one->sql);
	schema.script = true;
	shown.error = (struct store_error){.row = -1};
	bed_begin(bed.store);
	if (bed_step(bed.store, ROLE_DDL, &schema, &shown) != 0) {
		fail_msg("%s: %s", one->schema, shown.error.message);
	}
	observed.atomic = store_step_is_atomic(bed.store, ROLE_DDL, &step);
	char *before = bed_dump(bed.store);
	if (savepoint) {
		assert_int_equal(store_savepoint(bed.store, &error), 0);
	}
	store_batch_begin(bed.store, 0);
	int rc = bed_step(bed.store, ROLE_DDL, &step, &shown);
	store_batch_end(bed.store);
	bool deferred = store_deferred_violations(bed.store);
	observed.judged_clean = rc != 0 && store_in_transaction(bed.store) && !deferred &&
		shown.result.total == 0 && !shown.result.unclean;
	if (savepoint && store_in_transaction(bed.store) && (rc != 0 || deferred)) {
		assert_int_equal(store_rollback_to(bed.store, &error), 0);
		assert_false(store_deferred_violations(bed.store));
	}
	if (store_in_transaction(bed.store)) {
		char *after = bed_dump(bed.store);
		bool same = strcmp(before, after) == 0;
		if (rc == 0 && deferred) {
			observed.effect = savepoint ? (same ? CLEAN : DIRTY) : DEFERRED;
		} else if (rc == 0) {
			observed.effect = DONE;
		} else {
			observed.effect = same ? CLEAN : DIRTY;
		}
		free(after);
	}
	free(before);
	bed_shown_clear(&shown);
	store_rollback(bed.store);
	return observed;
}

static void test_atomicity_by_execution(void **state)
{
	static const char *const effects[] = {"clean", "dirty", "lost", "deferred", "done"};
	enum { COUNT = sizeof(atomicities) / sizeof(atomicities[0]) };
	unsigned wrong = 0;
	(void)state;
	assert_true(COUNT >= 60);
	for (size_t i = 0; i < COUNT; i++) {
		const struct atomicity *one = &atomicities[i];
		struct observed bare = observe(one, false);
		struct observed guarded = observe(one, true);
		const char *what = NULL;
		if (bare.effect != one->effect) {
			what = effects[bare.effect];
		} else if (bare.atomic != (one->judgement == ATOMIC)) {
			what = bare.atomic ? "called atomic" : "called not atomic";
		} else if (bare.judged_clean && bare.effect != CLEAN) {
			what = "judged clean, and is not";
		} else if (guarded.effect != CLEAN && guarded.effect != LOST &&
			guarded.effect != DONE) {
			what = "the savepoint left something behind";
		} else if ((guarded.effect == LOST) != (one->effect == LOST)) {
			what = "lost with a savepoint, not without, or the other way";
		} else if ((one->effect == LOST || one->effect == DEFERRED) && bare.atomic) {
			what = "called atomic, and would end the transaction of others";
		}
		if (what != NULL) {
			print_error("%s\n  %s\n  expected %s, got: %s\n", one->schema, one->sql,
				effects[one->effect], what);
			wrong++;
		}
	}
	assert_int_equal(wrong, 0);
}

/* A batch that is guarded, repeated or a script is never without its savepoint. */
static void test_what_is_checked_after_the_write_needs_a_savepoint(void **state)
{
	struct step step = bed_step_of("INSERT INTO t(a) VALUES (5)");
	(void)state;
	bed_begin(bed.store);
	bed_do(bed.store, "CREATE TABLE t(a)");
	assert_true(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	step.expect_changes = 1;
	assert_false(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	step.expect_changes = -1;
	step.expect_rows = 0;
	assert_false(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	step.expect_rows = -1;
	step.runs = 2;
	assert_false(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	step.runs = 0;
	assert_false(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	step.runs = 1;
	step.script = true;
	assert_false(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	step.script = false;
	bed.store->explain_trusted = false;
	assert_false(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	bed.store->explain_trusted = true;
	/* The fact goes stale with the schema, and is found anew. */
	bed_do(bed.store,
		"CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT RAISE(ROLLBACK, 'x') "
		"WHERE NEW.a = 5; END");
	assert_false(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	bed_do(bed.store, "DROP TRIGGER r");
	assert_true(store_step_is_atomic(bed.store, ROLE_DDL, &step));
	store_rollback(bed.store);
}

static void test_explain_means_what_we_think(void **state)
{
	(void)state;
	assert_true(stmt_self_test());
	assert_true(bed.store->explain_trusted);
}

/* ---- compiling ---- */

static int prepare(enum role role, const char *sql, size_t *ret_tail, struct store_error *error)
{
	sqlite3_stmt *handle = NULL;
	*ret_tail = 999;
	int rc = stmt_prepare(bed.store->handle, &bed.store->authorizer, role,
		(struct bytes){sql, strlen(sql)}, 0, &handle, ret_tail, error);
	sqlite3_finalize(handle);
	return rc;
}

static void test_tails(void **state)
{
	static const struct {
		const char *sql;
		int tail; /* -1: none */
	} cases[] = {
		{"SELECT 1", -1}, {"SELECT 1;", -1}, {"SELECT 1 ; ; ;", -1},
		{"SELECT 1; -- that is all", -1}, {"SELECT 1; -- that is all\n", -1},
		{"SELECT 1; /* all */ ;", -1}, {"SELECT 1; /* not closed", -1},
		{"SELECT 1; /**/", -1}, {"SELECT 1; SELECT 2", 10}, {"SELECT 1;SELECT 2", 9},
		{"SELECT 1; /* a */ -- b\n;; x", 26}, {"SELECT ';' ; SELECT 2", 13},
		{"CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END; SELECT 3", 66},
		{"SELECT 1; /", 10}, {"SELECT 1; -", 10},
		{"SELECT 1; \v", 10}, /* no space to SQLite */
	};
	(void)state;
	bed_begin(bed.store);
	bed_do(bed.store, "CREATE TABLE t(a)");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct store_error error = {.row = -1};
		size_t tail = 0;
		assert_int_equal(prepare(ROLE_DDL, cases[i].sql, &tail, &error), 0);
		size_t want = cases[i].tail < 0 ? strlen(cases[i].sql) : (size_t)cases[i].tail;
		if (tail != want) {
			fail_msg("%s: the tail is at %zu, not %zu", cases[i].sql, tail, want);
		}
	}
	store_rollback(bed.store);
}

static void test_refusals(void **state)
{
	static const struct {
		enum role role;
		const char *sql;
		enum store_condition want;
		int sqlite;
		const char *says;
	} cases[] = {
		{ROLE_DDL, "SELEC 1", STORE_SQL, SQLITE_ERROR, "syntax error"},
		{ROLE_DDL, "SELECT * FROM none", STORE_SQL, SQLITE_ERROR, "no such table: none"},
		{ROLE_DDL, "SELECT no_such(1)", STORE_SQL, SQLITE_ERROR, "no such function"},
		{ROLE_DDL, "VACUUM", STORE_DENIED, SQLITE_AUTH, "VACUUM"},
		{ROLE_DDL, "  /* a */ vaCUUm INTO 'x'", STORE_DENIED, SQLITE_AUTH, "VACUUM"},
		{ROLE_ADMIN, "-- c\nVACUUM", STORE_DENIED, SQLITE_AUTH, "VACUUM"},
		{ROLE_QUERY, "CREATE TABLE x(a)", STORE_DENIED, SQLITE_AUTH, ""},
		{ROLE_DDL, "BEGIN", STORE_DENIED, SQLITE_AUTH, "transaction control"},
		{ROLE_DDL, "SELECT load_extension('x')", STORE_DENIED, SQLITE_AUTH,
			"load_extension"},
		{ROLE_DDL, "", STORE_BAD_REQUEST, 0, "no statement"},
		{ROLE_DDL, " -- nothing", STORE_BAD_REQUEST, 0, "no statement"},
		{ROLE_DDL, ";", STORE_BAD_REQUEST, 0, "no statement"},
		{ROLE_DDL, "SELECT 1; SELECT 2", STORE_BAD_REQUEST, 0, "more than one statement"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct store_error error = {.row = -1};
		struct stmt *stmt = NULL;
		int rc = stmt_acquire(&bed.store->cache, cases[i].role,
			(struct bytes){cases[i].sql, strlen(cases[i].sql)}, i, &stmt, &error);
		if (rc != (int)cases[i].want || error.sqlite != cases[i].sqlite ||
			strstr(error.message, cases[i].says) == NULL) {
			fail_msg("%s: %d %d %s", cases[i].sql, rc, error.sqlite, error.message);
		}
		assert_int_equal(error.condition, cases[i].want);
		store_error_clear(&error);
		assert_int_equal(error.row, -1);
	}
}

static void test_conditions_of_result_codes(void **state)
{
	static const struct {
		int sqlite;
		enum store_condition want;
	} cases[] = {
		{SQLITE_ERROR, STORE_SQL},
		{SQLITE_CONSTRAINT_UNIQUE, STORE_SQL},
		{SQLITE_MISMATCH, STORE_SQL},
		{SQLITE_TOOBIG, STORE_SQL},
		{SQLITE_CORRUPT_VTAB, STORE_SQL},
		{SQLITE_AUTH, STORE_DENIED},
		{SQLITE_INTERRUPT, STORE_TIMEOUT},
		{SQLITE_FULL, STORE_RESOURCE},
		{SQLITE_NOMEM, STORE_RESOURCE},
		{SQLITE_IOERR_NOMEM, STORE_RESOURCE},
		{SQLITE_IOERR_FSYNC, STORE_RESOURCE},
		{SQLITE_CANTOPEN, STORE_RESOURCE},
		{SQLITE_READONLY, STORE_RESOURCE},
		{SQLITE_BUSY, STORE_BUSY},
		{SQLITE_BUSY_SNAPSHOT, STORE_BUSY},
		{SQLITE_LOCKED, STORE_SQL},
	};
	struct authorizer none = {.role = ROLE_DDL};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct store_error error = {.row = -1};
		assert_int_equal(stmt_failed(bed.store->handle, &none, cases[i].sqlite, &error),
			cases[i].want);
		assert_int_equal(error.condition, cases[i].want);
		assert_int_equal(error.sqlite, cases[i].sqlite);
		assert_non_null(error.message);
		store_error_clear(&error);
	}
}

static void test_spaces_and_comments_are_skipped(void **state)
{
	static const struct {
		const char *sql;
		size_t at;
	} cases[] = {
		{"", 0},
		{"x", 0},
		{"  x", 2},
		{"\t\n\f\r;x", 5},
		{"--", 2},
		{"-- a\nx", 5},
		{"- x", 0},
		{"/* */x", 5},
		{"/*x", 3},
		{"/*/x", 4},
		{"/x", 0},
		{"/**/ -- \n;x", 10},
		{"\xc2\xa0x", 0},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct bytes sql = {cases[i].sql, strlen(cases[i].sql)};
		assert_int_equal(sql_skip_space(sql, 0), cases[i].at);
	}
	/* Not a byte beyond the length, NUL or not. */
	assert_int_equal(sql_skip_space((struct bytes){"  \0 ", 4}, 0), 2);
	assert_int_equal(sql_skip_space((struct bytes){"/* */", 4}, 0), 4);
	assert_int_equal(sql_skip_space((struct bytes){"--", 1}, 0), 0);
	assert_int_equal(sql_skip_space((struct bytes){"   x", 4}, 4), 4);
}

/* ---- the cache ---- */

static struct stmt *acquire(struct stmt_cache *cache, enum role role, const char *sql)
{
	struct store_error error = {.row = -1};
	struct stmt *stmt = NULL;
	struct step step = bed_step_of(sql);
	if (stmt_acquire(cache, role, step.sql, step.sql_hash, &stmt, &error) != 0) {
		fail_msg("%s: %s", sql, error.message);
	}
	return stmt;
}

static void test_facts_of_statements(void **state)
{
	static const struct {
		const char *sql;
		unsigned params;
		unsigned columns;
		bool readonly;
		bool dml;
		bool ddl;
	} cases[] = {
		{"SELECT 1, ?, ?5, :a", 6, 4, true, false, false},
		{"INSERT INTO t VALUES (?)", 1, 0, false, true, false},
		{"INSERT INTO t VALUES (?) RETURNING a, a", 1, 2, false, true, false},
		{"UPDATE t SET a = 1", 0, 0, false, true, false},
		{"DELETE FROM t", 0, 0, false, true, false},
		{"WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", 0, 0, false, true, false},
		{"CREATE TABLE u(a)", 0, 0, false, false, true},
		{"ALTER TABLE t RENAME TO u", 0, 0, false, false, true},
		{"REINDEX", 0, 0, false, false, true},
		{"PRAGMA user_version = 5", 0, 0, false, false, true},
		{"PRAGMA table_info(t)", 0, 6, true, false, false},
		{"PRAGMA synchronous = off", 0, 0, true, false, false},
		{"EXPLAIN INSERT INTO t VALUES (1)", 0, 8, true, false, false},
		{"EXPLAIN QUERY PLAN DELETE FROM t", 0, 4, true, false, false},
		{"EXPLAIN CREATE TABLE u(a)", 0, 8, true, false, false},
	};
	(void)state;
	bed_begin(bed.store);
	bed_do(bed.store, "CREATE TABLE t(a)");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct stmt *stmt = acquire(&bed.store->cache, ROLE_DDL, cases[i].sql);
		if (stmt->params != cases[i].params || stmt->columns != cases[i].columns ||
			stmt->readonly != cases[i].readonly || stmt->dml != cases[i].dml ||
			stmt->ddl != cases[i].ddl) {
			fail_msg("%s: params %u columns %u readonly %d dml %d ddl %d", cases[i].sql,
				stmt->params, stmt->columns, stmt->readonly, stmt->dml, stmt->ddl);
		}
		stmt_release(&bed.store->cache, stmt);
	}
	store_rollback(bed.store);
}

static void test_the_cache(void **state)
{
	struct stmt_cache cache;
	(void)state;
	assert_int_equal(
		stmt_cache_init(&cache, bed.store->handle, &bed.store->authorizer, 3, 1 << 20), 0);
	struct stmt *one = acquire(&cache, ROLE_DDL, "SELECT 1");
	stmt_release(&cache, one);
	assert_ptr_equal(acquire(&cache, ROLE_DDL, "SELECT 1"), one);
	assert_int_equal(cache.hits, 1);
	assert_int_equal(cache.misses, 1);
	/* In use: the same text is compiled once more. */
	struct stmt *other = acquire(&cache, ROLE_DDL, "SELECT 1");
	assert_ptr_not_equal(other, one);
	stmt_release(&cache, other);
	/* Another role has its own. */
	struct stmt *query = acquire(&cache, ROLE_QUERY, "SELECT 1");
	assert_ptr_not_equal(query, one);
	assert_int_equal(cache.count, 3);
	stmt_release(&cache, query);
	/* Full: what was used least recently and is not in use makes room. */
	stmt_release(&cache, acquire(&cache, ROLE_DDL, "SELECT 2"));
	assert_int_equal(cache.count, 3);
	stmt_release(&cache, acquire(&cache, ROLE_DDL, "SELECT 3"));
	assert_int_equal(cache.count, 3);
	uint64_t misses = cache.misses;
	struct stmt *two = acquire(&cache, ROLE_DDL, "SELECT 2");
	assert_int_equal(cache.misses, misses);
	struct stmt *three = acquire(&cache, ROLE_DDL, "SELECT 3");
	assert_int_equal(cache.misses, misses);
	assert_true(one->busy);
	/* All in use: it grows rather than fail. */
	struct stmt *four = acquire(&cache, ROLE_DDL, "SELECT 4");
	assert_int_equal(cache.count, 4);
	/* Cleared: those in use stay until they are given back. */
	stmt_release(&cache, two);
	stmt_cache_clear(&cache);
	assert_int_equal(cache.count, 3);
	assert_int_equal(sqlite3_step(four->handle), SQLITE_ROW);
	stmt_release(&cache, one);
	stmt_release(&cache, three);
	stmt_release(&cache, four);
	stmt_cache_clear(&cache);
	assert_int_equal(cache.count, 0);
	stmt_cache_finish(&cache);
	stmt_cache_finish(&cache); /* twice does no harm */
}

static void test_a_released_statement_holds_nothing(void **state)
{
	struct shown shown = {.error = {.row = -1}};
	struct step step = bed_step_of("SELECT ?, ?");
	struct value values[2] = {{.type = VALUE_INTEGER, .integer = 1},
		{.type = VALUE_TEXT, .bytes = {"secret", 6}}};
	(void)state;
	step.values = values;
	step.values_per_run = 2;
	bed_begin(bed.store);
	assert_int_equal(bed_step(bed.store, ROLE_QUERY, &step, &shown), 0);
	assert_string_equal(shown.rows, "1|'secret';");
	struct stmt *stmt = acquire(&bed.store->cache, ROLE_QUERY, "SELECT ?, ?");
	assert_int_equal(sqlite3_step(stmt->handle), SQLITE_ROW);
	assert_int_equal(sqlite3_column_type(stmt->handle, 1), SQLITE_NULL);
	stmt_release(&bed.store->cache, stmt);
	assert_false(sqlite3_stmt_busy(stmt->handle));
	store_rollback(bed.store);
}

/* A statement that changes the schema is not kept: it would rarely run twice. */
static void test_ddl_is_not_kept(void **state)
{
	(void)state;
	bed_begin(bed.store);
	bed_do(bed.store, "CREATE TABLE t(a)");
	stmt_release(&bed.store->cache, acquire(&bed.store->cache, ROLE_DDL, "SELECT * FROM t"));
	assert_int_equal(bed.store->cache.count, 1);
	bed_do(bed.store, "CREATE TABLE u(a)"); /* and it empties the cache */
	assert_int_equal(bed.store->cache.count, 0);
	store_rollback(bed.store);
}

/* ---- errors ---- */

static void test_errors_own_their_message(void **state)
{
	struct store_error error = {.row = -1};
	(void)state;
	assert_int_equal(store_error_set(&error, STORE_GUARD, 5, "%s %d", "a", 1), STORE_GUARD);
	assert_string_equal(error.message, "a 1");
	error.row = 3;
	assert_int_equal(store_error_set(&error, STORE_SQL, 1, "%s", "b"), STORE_SQL);
	assert_string_equal(error.message, "b");
	assert_int_equal(error.row, -1);
	store_error_clear(&error);
	assert_null(error.message);
	store_error_clear(&error);
}

static int set_up(void **state)
{
	(void)state;
	bed_make(&bed);
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
		cmocka_unit_test(test_atomicity_by_execution),
		cmocka_unit_test(test_what_is_checked_after_the_write_needs_a_savepoint),
		cmocka_unit_test(test_explain_means_what_we_think),
		cmocka_unit_test(test_tails),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_conditions_of_result_codes),
		cmocka_unit_test(test_spaces_and_comments_are_skipped),
		cmocka_unit_test(test_facts_of_statements),
		cmocka_unit_test(test_the_cache),
		cmocka_unit_test(test_a_released_statement_holds_nothing),
		cmocka_unit_test(test_ddl_is_not_kept),
		cmocka_unit_test(test_errors_own_their_message),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
