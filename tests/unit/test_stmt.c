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

#define T      "CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE, c NOT NULL DEFAULT 0, d CHECK (d < 100)); " \
	       "INSERT INTO t VALUES (1, 'one', 1, 1), (2, 'two', 2, 2), (3, 'three', 3, 3);"
#define LOG    "CREATE TABLE log(x);"
#define FAMILY "CREATE TABLE parent(a INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1), (2), (3);"
#define RAISING(when, what)                                                                        \
	T LOG "CREATE TRIGGER r " when " ON t BEGIN INSERT INTO log VALUES (1); "                  \
	      "SELECT RAISE(" what ") WHERE NEW.a >= 11; END;"
#define TWO    "INSERT INTO t VALUES (10, 'ten', 0, 0), (11, 'eleven', 0, 0)"

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
	{T, "INSERT OR REPLACE INTO t(a, b, c, d) VALUES (1, 'new', 0, 0), (9, 'y', NULL, 200)", ATOMIC,
		CLEAN},
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
	{T, "INSERT INTO t VALUES (8, 'x', 0, 0), ('abc', 'y', 0, 0)", ATOMIC, DIRTY},
	{T, "INSERT OR REPLACE INTO t(a, b) VALUES (1, 'new'), ('abc', 'y')", ATOMIC, DIRTY},
	{T, "UPDATE t SET d = abs(CASE WHEN a = 3 THEN -9223372036854775807 - 1 ELSE 7 END)", ATOMIC,
		CLEAN},
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
		"UPDATE t SET a = zeroblob(CASE WHEN a = 2 THEN 2000000000 ELSE 1 END)", ATOMIC, CLEAN},
	{"CREATE TABLE t(a); CREATE TABLE s(a); INSERT INTO s VALUES (1), (2);",
		"INSERT INTO t SELECT (SELECT a FROM s AS x WHERE x.a = s.a) "
		"|| printf('%.*c', CASE WHEN a = 2 THEN 2000000000 ELSE 1 END, 'x') FROM s",
		ATOMIC, CLEAN},
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
	{FAMILY "CREATE TABLE child(p REFERENCES parent);", "INSERT INTO child VALUES (1), (9)", ATOMIC,
		CLEAN},
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
	{FAMILY "CREATE TABLE child(p UNIQUE ON CONFLICT ROLLBACK REFERENCES parent ON UPDATE CASCADE); "
		"INSERT INTO child VALUES (1), (11);",
		"UPDATE parent SET a = 11 WHERE a = 1", SAVEPOINT, LOST},
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
	{"CREATE TABLE t(a, g AS (a * 2) VIRTUAL CHECK (g < 10));", "INSERT INTO t(a) VALUES (1), (7)",
		ATOMIC, CLEAN},
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
	{T, "UPDATE t SET c = 5 RETURNING abs(-9223372036854775807 - 1 + (a < 3))", SAVEPOINT, CLEAN},
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
	{T, "SELECT * FROM t", SAVEPOINT, DONE},
	{T, "SELECT abs(-9223372036854775807 - a) FROM t", SAVEPOINT, CLEAN},
	{T, "PRAGMA user_version = 5", SAVEPOINT, DONE},
	/* Schema changes. */
	{T, "CREATE TABLE t(x)", SAVEPOINT, CLEAN},
	{T, "CREATE UNIQUE INDEX i ON t(a > 0)", SAVEPOINT, CLEAN},
	{T, "ALTER TABLE t ADD COLUMN n NOT NULL", SAVEPOINT, CLEAN},
	{T, "CREATE TABLE u AS SELECT abs(CASE WHEN a = 3 THEN -9223372036854775807 - 1 ELSE a END) AS x "
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
	observed.atomic = stmt_is_atomic_by_text(bed.store, one->sql);
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

int main(void)
{
	return 0;
}
