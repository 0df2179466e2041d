/* SPDX-License-Identifier: MIT */

/*
 * Chunks on a real file: what is cut into slices gives what the whole statement gives, and what
 * cannot be cut says why.
 */

#include "server/store/chunk.h"

#include "tests/unit/bed.h"

#include <stdlib.h>
#include <string.h>

static const char tables[] =
	"CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, u TEXT NOT NULL UNIQUE, n UNIQUE);"
	"CREATE INDEX t_a ON t(a);"
	"CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;"
	"CREATE TABLE bare(x, y);"
	"CREATE TABLE pair(a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;"
	"CREATE TABLE other(id INTEGER PRIMARY KEY, v);"
	"CREATE TABLE dst(p, q);"
	"CREATE TABLE uni(p UNIQUE, q);"
	"CREATE TABLE parent(id INTEGER PRIMARY KEY, v);"
	"CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent(id));"
	"CREATE TABLE house(id INTEGER PRIMARY KEY, v);"
	"CREATE TABLE guest(id INTEGER PRIMARY KEY, h REFERENCES house(id) ON DELETE SET NULL);"
	"CREATE TABLE tree(id INTEGER PRIMARY KEY, up REFERENCES tree(id) ON DELETE CASCADE);"
	"CREATE TABLE watched(id INTEGER PRIMARY KEY, v);"
	"CREATE TRIGGER watched_t AFTER UPDATE ON watched BEGIN"
	" UPDATE watched SET v = 0 WHERE id = NEW.id + 1; END;"
	"CREATE TABLE told(id INTEGER PRIMARY KEY, v);"
	"CREATE TABLE log(id INTEGER PRIMARY KEY, what);"
	"CREATE TRIGGER told_t AFTER DELETE ON told BEGIN"
	" INSERT INTO log(what) VALUES (OLD.v); END;"
	"CREATE VIEW v AS SELECT id, a FROM t;"
	"CREATE VIRTUAL TABLE f USING fts5(x);"
	"CREATE VIRTUAL TABLE e USING fts5(b, content='t', content_rowid='id');"
	"CREATE TABLE kept(id INTEGER PRIMARY KEY, v);"
	"CREATE TRIGGER kept_f AFTER DELETE ON kept BEGIN"
	" DELETE FROM f WHERE rowid = OLD.id; END;"
	"CREATE TABLE cleared(id INTEGER PRIMARY KEY, v);"
	"CREATE TRIGGER cleared_t AFTER UPDATE ON cleared BEGIN DELETE FROM dst; END;"
	"CREATE TABLE made(g AS (v || 'x'), id INTEGER PRIMARY KEY, k TEXT NOT NULL UNIQUE, v NOT NULL);"
	"CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v);"
	"CREATE TABLE falling(k INTEGER NOT NULL, v);"
	"CREATE UNIQUE INDEX falling_k ON falling(k DESC);"
	"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 1000)"
	" INSERT INTO t SELECT i * 7 - 3000, i % 13, 'b' || i, 'u' || i, i FROM c;"
	"INSERT INTO w SELECT u, a FROM t; INSERT INTO other SELECT id, b FROM t;"
	"INSERT INTO told SELECT id, a FROM t; INSERT INTO parent SELECT id, a FROM t;"
	"INSERT INTO tree SELECT id, NULL FROM t;"
	"INSERT INTO kept SELECT id, a FROM t; INSERT INTO f(rowid, x) SELECT id, b FROM t;"
	"INSERT INTO cleared SELECT id, a FROM t; INSERT INTO dst VALUES (1, 2);"
	"INSERT INTO made(id, k, v) SELECT id, u, a FROM t;"
	"INSERT INTO falling SELECT id, a FROM t";

static const uint8_t hash[16] = {1};

static struct chunk_order order_of(const struct step *step, const char *by)
{
	return (struct chunk_order){
		.uid = 5,
		.name = {"name", 4},
		.step = step,
		.hash = hash,
		.by = {by, by != NULL ? strlen(by) : 0},
		.slice_ms = 10,
		.keep_s = 1000,
	};
}

static int start(struct bed *bed, const struct chunk_order *order, struct chunk_facts *facts,
	struct store_error *error)
{
	bed_begin(bed->store);
	int rc = store_chunk_start(bed->store, ROLE_DDL, order, facts, error);
	if (rc == 0) {
		bed_commit(bed->store);
	} else {
		store_rollback(bed->store);
	}
	assert_int_equal(store_chunks_load(bed->store), 0);
	return rc;
}

static void run_to_end(struct bed *bed, uint64_t id)
{
	struct store_error error = {.row = -1};
	enum chunk_slice slice = SLICE_MORE;
	while (slice == SLICE_MORE) {
		slice = store_chunk_slice(bed->store, id, 10000, 1000000, &error);
	}
	assert_int_equal(slice, SLICE_OVER);
	store_error_clear(&error);
}

static void refused_says_why(void **state)
{
	static const struct {
		const char *sql;
		const char *by;
		const char *why;
	} cases[] = {
		{"DELETE FROM bare", NULL, "no INTEGER PRIMARY KEY"},
		{"DELETE FROM bare", "rowid", "is no key"},
		{"DELETE FROM pair", NULL, "no INTEGER PRIMARY KEY"},
		{"DELETE FROM t", "n", "is no key"}, /* it may be NULL */
		{"DELETE FROM t", "a", "is no key"},
		{"DELETE FROM v", NULL, "view"},
		{"DELETE FROM f", NULL, "virtual"},
		{"DELETE FROM t WHERE a = 1 LIMIT 5", NULL, "LIMIT"},
		{"DELETE FROM t WHERE a = 1 ORDER BY id LIMIT 5", NULL, "LIMIT"},
		{"DELETE FROM t RETURNING id", NULL, "RETURNING"},
		{"UPDATE t SET id = id + 1", NULL, "changes the key"},
		{"UPDATE t SET rowid = rowid + 1", NULL, "changes the key"},
		{"UPDATE t SET u = u || 'x'", "u", "changes the key"},
		{"UPDATE t SET a = o.v FROM other o WHERE o.id = t.id", NULL, "FROM"},
		{"UPDATE t SET a = (SELECT max(a) FROM t)", NULL, "reads \"t\""},
		{"UPDATE t SET a = (SELECT count(*) FROM t AS s WHERE s.a = 3)", NULL,
			"reads \"t\""},
		{"DELETE FROM t WHERE EXISTS (SELECT 1 FROM v WHERE v.id = t.id + 1)", NULL,
			"reads \"t\""},
		{"DELETE FROM t WHERE id IN (SELECT id - 1 FROM t)", NULL, "reads \"t\""},
		{"UPDATE OR REPLACE t SET n = 1", NULL, "OR REPLACE"},
		{"DELETE FROM t INDEXED BY t_a WHERE a = 1", NULL, "INDEXED BY"},
		{"DELETE FROM tree", NULL, "reads \"tree\""},
		{"DELETE FROM house", NULL,
			"foreign key of \"guest\" changes that table (ON DELETE SET NULL)"},
		{"UPDATE watched SET v = 1", NULL, "trigger"},
		{"UPDATE t SET a = changes()", NULL, "changes()"},
		{"UPDATE t SET a = total_changes()", NULL, "total_changes()"},
		{"INSERT INTO dst SELECT a, last_insert_rowid() FROM t", NULL,
			"last_insert_rowid()"},
		{"WITH t AS (SELECT NULL AS id, a, b FROM main.t) INSERT INTO dst SELECT a, b FROM t",
			NULL, "WITH gives"},
		{"WITH x AS (SELECT 1), \"T\"(id) AS (SELECT id + 0.5 FROM main.t)"
		 " INSERT INTO dst SELECT id, 1 FROM T",
			NULL, "WITH gives"},
		{"DELETE FROM kept WHERE (SELECT count(*) FROM f) > 3", NULL,
			"virtual table that it also changes"},
		{"DELETE FROM kept WHERE (SELECT count(*) FROM f_content) > 3", NULL, "f_content"},
		{"UPDATE t SET b = 'x' WHERE (SELECT count(*) FROM e WHERE e MATCH 'b1') > 0", NULL,
			"virtual table over other tables"},
		{"UPDATE cleared SET v = (SELECT count(*) FROM dst)", NULL, "reads \"dst\""},
		{"INSERT INTO dst VALUES (1, 2)", NULL, "INSERT … SELECT"},
		{"INSERT INTO dst DEFAULT VALUES", NULL, "INSERT … SELECT"},
		{"INSERT INTO dst SELECT count(*), 1 FROM t", NULL, "aggregates"},
		{"INSERT INTO dst SELECT coalesce(sum(a), 0), 1 FROM t WHERE a > 1", NULL,
			"aggregates"},
		{"INSERT INTO dst SELECT a, count(*) FROM t GROUP BY a", NULL, "GROUP BY"},
		{"INSERT INTO dst SELECT DISTINCT a, b FROM t", NULL, "DISTINCT"},
		{"INSERT INTO dst SELECT a, row_number() OVER (ORDER BY id) FROM t", NULL,
			"window"},
		{"INSERT INTO dst SELECT a, b FROM t UNION SELECT 1, 2", NULL, "compound"},
		{"INSERT INTO dst SELECT t.a, o.v FROM t JOIN other o ON o.id = t.id", NULL,
			"joins"},
		{"INSERT INTO dst SELECT t.a, o.v FROM t, other o", NULL, "joins"},
		{"INSERT INTO dst SELECT a, b FROM (SELECT a, b FROM t)", NULL, "subquery"},
		{"INSERT INTO dst SELECT value, 1 FROM json_each('[1]')", NULL, "function"},
		{"INSERT INTO t SELECT id + 100000, a, b, u || 'x', NULL FROM t", NULL,
			"reads \"t\""},
		{"INSERT OR ROLLBACK INTO uni SELECT a, b FROM t", NULL, "OR ROLLBACK"},
		{"INSERT INTO uni SELECT a, b FROM t WHERE 1 ON CONFLICT (p) DO UPDATE SET q = ?",
			NULL, "ON CONFLICT"},
		{"SELECT * FROM t", NULL, "no UPDATE"},
		{"CREATE TABLE x(y)", NULL, "no UPDATE"},
		{"DELETE FROM t; DELETE FROM t", NULL, "exactly one"},
		{"DELETE FROM missing", NULL, "no such table"},
		{"DELETE FROM _lf_state", NULL, "litefunnel's own table"},
		{"DELETE FROM t WHERE id > ? ", NULL, "1 parameters"},
	};
	struct bed *bed = *state;
	bed_script(bed->store, tables);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct step step = bed_step_of(cases[i].sql);
		struct chunk_order order = order_of(&step, cases[i].by);
		struct store_error error = {.row = -1};
		struct chunk_facts facts = {0};
		int rc = start(bed, &order, &facts, &error);
		if (rc == 0 || error.message == NULL ||
			strstr(error.message, cases[i].why) == NULL) {
			fail_msg("%s\n  gave %d: %s", cases[i].sql, rc,
				error.message != NULL ? error.message : "");
		}
		store_error_clear(&error);
	}
	assert_int_equal(bed_number(bed->store, "SELECT count(*) FROM _lf_chunk"), 0);
}

/* Each statement once as a chunk of small slices, once as a whole on a copy: the same database. */
static void slices_equal_the_whole(void **state)
{
	static const struct {
		const char *sql;
		const char *by;
	} cases[] = {
		{"DELETE FROM t", NULL},
		{"DELETE FROM t WHERE a = 3 OR a = 5", NULL},
		{"DELETE FROM main.t AS x WHERE x.a = 3 -- a comment WHERE )", NULL},
		{"DELETE FROM \"t\" WHERE b LIKE '%1%' OR u IN ('u5', 'where');", NULL},
		{"DELETE FROM t WHERE a = 3 OR b = 'b7'", "u"},
		{"UPDATE t SET a = a + 1, b = (SELECT v || 'x' FROM other o WHERE o.id = t.id)",
			NULL},
		{"UPDATE OR IGNORE t SET n = n / 2 WHERE a IS DISTINCT FROM 4", NULL},
		{"WITH big AS (SELECT id FROM other WHERE id > 100)"
		 " UPDATE t SET a = 99 WHERE id IN (SELECT id FROM big)",
			NULL},
		{"UPDATE w SET v = v * 2 WHERE k > 'u3'", NULL},
		{"DELETE FROM w", "k"},
		{"DELETE FROM told WHERE v > 4", NULL}, /* its trigger writes another table */
		{"INSERT INTO dst SELECT a, b FROM t", NULL},
		{"INSERT INTO dst(q, p) SELECT x.a, upper(b) FROM t x WHERE +a > 3 OR +a = 1",
			NULL},
		{"INSERT INTO dst SELECT a || b, (SELECT count(*) FROM other) FROM t", NULL},
		{"INSERT OR IGNORE INTO uni SELECT a, b FROM t", NULL},
		{"INSERT OR REPLACE INTO uni SELECT a, b FROM t", NULL},
		{"INSERT INTO uni SELECT a, 1 FROM t WHERE b > ''"
		 " ON CONFLICT (p) DO UPDATE SET q = q + 1 WHERE q < 50",
			NULL},
		{"INSERT INTO child SELECT id, id FROM parent", NULL},
		{"REPLACE INTO uni SELECT a, b FROM t", NULL},
		{"INSERT INTO auto(v) SELECT b FROM t", NULL},
		{"DELETE FROM kept WHERE id IN (SELECT value FROM json_each('[4, 11, -2993]'))",
			NULL},
		{"DELETE FROM t WHERE id IN (SELECT rowid FROM f WHERE f MATCH 'b1 OR b7')", NULL},
		{"UPDATE made SET v = v + 1", "k"},
		{"WITH dst AS (SELECT 1) INSERT INTO dst SELECT a, b FROM t", NULL},
		{"UPDATE falling SET v = k", "k"},
	};
	struct bed *bed = *state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *dumps[2];
		for (int whole = 0; whole < 2; whole++) {
			struct bed fresh;
			bed_make(&fresh);
			bed_script(fresh.store, tables);
			if (whole) {
				bed_script(fresh.store, cases[i].sql);
			} else {
				struct step step = bed_step_of(cases[i].sql);
				struct chunk_order order = order_of(&step, cases[i].by);
				struct store_error error = {.row = -1};
				struct chunk_facts facts = {0};
				if (start(&fresh, &order, &facts, &error) != 0) {
					fail_msg("%s\n  %s", cases[i].sql, error.message);
				}
				run_to_end(&fresh, facts.id);
				assert_int_equal(
					bed_number(fresh.store, "SELECT state FROM _lf_chunk"),
					CHUNK_DONE);
				assert_true(bed_number(fresh.store,
						    "SELECT slices FROM _lf_chunk") > 1);
				assert_int_equal(
					bed_number(fresh.store, "SELECT rows FROM _lf_chunk"),
					1000);
			}
			dumps[whole] = bed_dump(fresh.store);
			bed_remove(&fresh);
		}
		if (strcmp(dumps[0], dumps[1]) != 0) {
			fail_msg("%s\n  is not the same in slices", cases[i].sql);
		}
		free(dumps[0]);
		free(dumps[1]);
	}
	(void)bed;
}

static int make(void **state)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	bed_make(bed);
	*state = bed;
	return 0;
}

static int unmake(void **state)
{
	bed_remove(*state);
	free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(refused_says_why, make, unmake),
		cmocka_unit_test_setup_teardown(slices_equal_the_whole, make, unmake),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
