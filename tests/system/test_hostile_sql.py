# SPDX-License-Identifier: MIT
"""
Statements that try to leave their batch, as each role: refused with a stable code, and the daemon's
connection is the same before and after. What is legal works, FTS5, RTREE and each form of ALTER among it.
"""
import os
import re

import sqlite3

import pytest

from wire import Refused

ROLES = {"stats": 20011, "query": 20012, "write": 20013, "ddl": 20014, "admin": 20015}
ORDER = list(ROLES)

SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);
CREATE INDEX t_a ON t(a);
CREATE TABLE secret(x);
CREATE VIEW v AS SELECT a FROM t;
INSERT INTO t(a, b) VALUES (1, 'one'), (2, 'two');
CREATE VIRTUAL TABLE words USING fts5(body);
INSERT INTO words VALUES ('some words');
"""

DENIED = "denied"
SCRIPT = {"script": True}

# Refused for everybody, admin included, with `denied`.
TRANSACTIONS = """
BEGIN | BEGIN IMMEDIATE | BEGIN EXCLUSIVE | BEGIN DEFERRED TRANSACTION | COMMIT | END | END TRANSACTION
ROLLBACK | ROLLBACK TRANSACTION | SAVEPOINT s | RELEASE s | RELEASE SAVEPOINT s | ROLLBACK TO s
ROLLBACK TO SAVEPOINT s | SAVEPOINT "_lf" | RELEASE b | /* c */ COMMIT | ; COMMIT
EXPLAIN COMMIT | EXPLAIN QUERY PLAN ROLLBACK | cOmMiT ;
"""
FILES = """
ATTACH '/tmp/hostile.db' AS x | ATTACH DATABASE ':memory:' AS x | ATTACH '' AS x | DETACH main | DETACH temp
DETACH x | VACUUM | VACUUM main | VACUUM INTO '/tmp/hostile.db' | VACUUM main INTO 'hostile.db'
ATTACH 'file:/etc/passwd?mode=ro' AS x | ATTACH char(47) AS x | EXPLAIN ATTACH 'x' AS y
SELECT load_extension('x') | SELECT load_extension('x', 'y') | SELECT fts3_tokenizer('simple')
SELECT fts3_tokenizer('simple', x'0000000000000000') | EXPLAIN SELECT load_extension('x')
SELECT a FROM t WHERE load_extension('x') | INSERT INTO t(a) SELECT load_extension('x')
"""
TEMP = """
CREATE TEMP TABLE t(a) | CREATE TEMPORARY TABLE x(a) | CREATE TABLE temp.x(a) | CREATE TEMP TABLE x AS SELECT 1
CREATE TEMP VIEW v AS SELECT 1 | CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; END
CREATE TRIGGER temp.x AFTER INSERT ON main.t BEGIN DELETE FROM t; END | CREATE VIEW temp.v AS SELECT 1
CREATE TABLE IF NOT EXISTS temp.x(a) | CREATE VIRTUAL TABLE temp.x USING fts5(a)
CREATE VIRTUAL TABLE temp.x USING rtree(i, a, b)
"""
OWN = """
DELETE FROM _lf_state | UPDATE _lf_state SET commit_no = 0 | INSERT INTO _lf_state(id) VALUES (2)
INSERT OR REPLACE INTO _lf_state(id, format, epoch, commit_no) VALUES (1, 1, x'00', 0) | DROP TABLE _lf_state
DELETE FROM main._lf_state | UPDATE "_LF_STATE" SET epoch = x'00' | DELETE FROM _lf_group | DELETE FROM _lf_key
DELETE FROM _lf_session | ALTER TABLE _lf_state RENAME TO x | ALTER TABLE _lf_state ADD COLUMN x
ALTER TABLE _lf_state DROP COLUMN commit_no | ALTER TABLE _lf_state RENAME COLUMN commit_no TO x
CREATE INDEX i ON _lf_state(epoch) | CREATE TRIGGER x AFTER UPDATE ON _lf_state BEGIN DELETE FROM t; END
CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE _lf_state SET commit_no = 0; END; INSERT INTO t(a) VALUES (1)
CREATE TABLE _lf_mine(a) | CREATE TABLE "_Lf_x"(a) | CREATE VIEW _lf_v AS SELECT 1 | ALTER TABLE t RENAME TO _lf_t
CREATE TRIGGER _lf_trigger AFTER INSERT ON t BEGIN DELETE FROM t; END | CREATE INDEX _lf_index ON t(a)
CREATE VIRTUAL TABLE _lf_fts USING fts5(a) | REPLACE INTO _lf_key VALUES (1) | CREATE TABLE _lf_copy AS SELECT 1
WITH x AS (SELECT 1) DELETE FROM _lf_state | UPDATE _lf_state SET commit_no = 0 RETURNING commit_no
"""
# The two forms of a PRAGMA that changes something.
PRAGMAS_SET = """
application_id=x auto_vacuum=1 automatic_index=0 cache_spill=0 case_sensitive_like=1 cell_size_check=0
checkpoint_fullfsync=1 count_changes=1 data_store_directory='/tmp' defer_foreign_keys=1
empty_result_callbacks=1 encoding='UTF-16' foreign_keys=0 full_column_names=1 fullfsync=1
hard_heap_limit=1 ignore_check_constraints=1 journal_mode=delete journal_mode=off journal_mode=memory
journal_mode=truncate journal_mode=persist legacy_alter_table=1 legacy_file_format=1
locking_mode=exclusive max_page_count=1 page_size=512 parser_trace=1 query_only=1 read_uncommitted=1
recursive_triggers=1 reverse_unordered_selects=1 schema_version=7 secure_delete=1 short_column_names=0
soft_heap_limit=1 temp_store_directory='/tmp' threads=8 trusted_schema=1 vdbe_addoptrace=1
vdbe_debug=1 vdbe_listing=1 vdbe_trace=1 wal_autocheckpoint=1 wal_autocheckpoint=0 writable_schema=1
writable_schema=reset key='x' rekey='x' hexkey='00' activate_extensions='x' lock_proxy_file='x'
"""
PRAGMAS_DO = """
shrink_memory wal_checkpoint wal_checkpoint(TRUNCATE) wal_checkpoint(RESTART) stats
data_store_directory temp_store_directory filename lock_status
"""
TABLE_VALUED = """
SELECT * FROM pragma_foreign_keys(0) | SELECT * FROM pragma_journal_mode('delete')
SELECT * FROM pragma_writable_schema(1) | SELECT * FROM pragma_locking_mode('exclusive')
SELECT * FROM pragma_wal_checkpoint | SELECT * FROM pragma_wal_autocheckpoint(1)
"""
# Legal SQL that SQLite itself refuses here, because the handle is in defensive mode.
SCHEMA_TABLES = """
UPDATE sqlite_schema SET sql = 'x' | DELETE FROM sqlite_master | INSERT INTO sqlite_schema DEFAULT VALUES
UPDATE sqlite_master SET rootpage = 2 WHERE name = 't' | DELETE FROM words_data | UPDATE words_content SET c0 = 1
DROP TABLE sqlite_schema | DROP TABLE words_data | CREATE TABLE sqlite_x(a) | DELETE FROM sqlite_temp_schema
ALTER TABLE sqlite_schema ADD COLUMN x | INSERT INTO sqlite_temp_schema DEFAULT VALUES
CREATE INDEX i ON sqlite_schema(name) | CREATE TRIGGER x AFTER INSERT ON sqlite_schema BEGIN SELECT 1; END
"""
BAD_REQUESTS = [
    "SELECT 1; COMMIT", "SELECT 1; SELECT 2", "INSERT INTO t(a) VALUES (1); ROLLBACK", "", " ", ";",
    "-- nothing", "/* nothing */", "/* not closed", "SELECT 1;\nDROP TABLE t", "SELECT ?",
    "SELECT 1 ;/* */; DELETE FROM t", "SELECT :a", "SELECT @a, $b",
]
SQL_ERRORS = [
    "EXPLAIN", "SELEC 1", "DROP TABLE nowhere", "SELECT * FROM nowhere", "SELECT nofunction(1)",
    "SELECT writefile('/tmp/hostile', 'x')", "SELECT readfile('/etc/passwd')", "SELECT edit('x')",
    "SELECT * FROM fsdir('/')", "SELECT * FROM csv", "SELECT '", "SELECT \"", "SELECT [", "SELECT x'0",
    "CREATE VIRTUAL TABLE x USING csv(filename='/etc/passwd')",
    "CREATE VIRTUAL TABLE x USING nomodule(a)", "SELECT " + "(" * 2000 + "1" + ")" * 2000,
    "SELECT 1" + " UNION ALL SELECT 1" * 1000, "SELECT " + ",".join("1" for _ in range(3000)),
    "SELECT abs(-9223372036854775808)", "SELECT zeroblob(2000000000)", "SELECT randomblob(1e12)",
    "SELECT replace(hex(zeroblob(500000000)), '0', 'xxxxxxxxxx')",
    "SELECT 1 LIMIT 1 OFFSET (SELECT raise(ABORT, 'x'))",
    "INSERT INTO nowhere DEFAULT VALUES", "SELECT a FROM t ORDER BY 99", ".tables", ".load x", "\\copy",
    "SELECT json('{'", "SELECT ?99999", "SELECT * FROM json_each('[')",
]


def split(text):
    return [part.strip(" ") for line in text.strip().splitlines() for part in line.split(" | ")]


def table():
    """(sql, opts, the codes that may answer it); the role is the least of these codes' concerns."""
    for text in (TRANSACTIONS, FILES, TEMP):
        for sql in [*split(text), "-- a comment\n COMMIT"]:
            yield sql, None, {DENIED}
    for sql in split(TABLE_VALUED):
        yield sql, None, {DENIED, "sql"}  # SQLite has no such table, or no such argument
    for sql in split(OWN):
        yield (sql, SCRIPT, {DENIED}) if "; INSERT" in sql else (sql, None, {DENIED})
    for name in PRAGMAS_SET.split():
        if name == "application_id=x":
            continue  # legal for ddl
        yield f"PRAGMA {name}", None, {DENIED}
        yield f"PRAGMA main.{name.replace('=', '(', 1)})", None, {DENIED}
    for name in PRAGMAS_DO.split():
        yield f"PRAGMA {name}", None, {DENIED}
    for sql in split(SCHEMA_TABLES):
        yield sql, None, {DENIED, "sql"}
    for sql in BAD_REQUESTS:
        yield sql, None, {"bad_request", DENIED}
    for sql in SQL_ERRORS:
        yield sql, None, {"sql", DENIED, "too_large"}
    for sql in ("COMMIT", "SELECT 1; COMMIT; SELECT 2", "BEGIN; DELETE FROM t; COMMIT",
                "INSERT INTO t(a) VALUES (1); ATTACH 'x' AS y", "DELETE FROM t; PRAGMA foreign_keys=0",
                "CREATE TEMP TABLE x(a); INSERT INTO x VALUES (1)", "SELECT 1; DELETE FROM _lf_state"):
        yield sql, SCRIPT, {DENIED}


HOSTILE = list(table())

# One of each family, by which a lower role is told apart: what needs which role.
NEEDS = [
    ("query", "SELECT 1"), ("query", "SELECT * FROM t"), ("query", "PRAGMA table_info(t)"),
    ("query", "PRAGMA journal_mode=wal"), ("write", "EXPLAIN DELETE FROM t WHERE 0"),
    ("write", "INSERT INTO t(a) VALUES (1)"), ("write", "UPDATE t SET a = a"),
    ("write", "DELETE FROM t WHERE 0"), ("write", "REPLACE INTO t(id, a) VALUES (9, 1)"),
    ("write", "INSERT INTO words VALUES ('more')"), ("write", "DELETE FROM words WHERE words MATCH 'more'"),
    ("ddl", "CREATE TABLE x(a)"), ("ddl", "DROP VIEW v"), ("ddl", "ALTER TABLE t ADD COLUMN c"),
    ("ddl", "CREATE INDEX x ON t(b)"), ("ddl", "DROP INDEX t_a"), ("ddl", "REINDEX"), ("ddl", "ANALYZE"),
    ("ddl", "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM secret; END"),
    ("ddl", "CREATE VIEW w AS SELECT 1"), ("ddl", "PRAGMA user_version=7"), ("ddl", "PRAGMA optimize"),
    ("ddl", "CREATE VIRTUAL TABLE x USING fts5(a)"), ("ddl", "DROP TABLE words"),
    ("admin", "SELECT * FROM sqlite_stmt"),
]


@pytest.fixture(scope="module")
def served(shared_daemon):
    daemon = shared_daemon(
        roles_stats=ROLES["stats"], roles_query=ROLES["query"], roles_write=ROLES["write"],
        roles_ddl=ROLES["ddl"], roles_admin=ROLES["admin"], exec_timeout="5s")
    daemon.write([SCHEMA, None, SCRIPT])
    return daemon


@pytest.fixture(scope="module")
def wires(served):
    wires = {role: served.wire_as(uid) for role, uid in ROLES.items()}
    yield wires
    for wire in wires.values():
        wire.close()


STATE = [
    "analysis_limit", "application_id", "auto_vacuum", "automatic_index", "busy_timeout", "cache_size",
    "cache_spill", "cell_size_check", "checkpoint_fullfsync", "count_changes", "defer_foreign_keys",
    "empty_result_callbacks", "encoding", "foreign_keys", "full_column_names", "fullfsync",
    "hard_heap_limit", "ignore_check_constraints", "journal_mode", "journal_size_limit",
    "legacy_alter_table", "locking_mode", "max_page_count", "mmap_size", "page_size", "query_only",
    "read_uncommitted", "recursive_triggers", "reverse_unordered_selects", "schema_version",
    "secure_delete", "short_column_names", "soft_heap_limit", "synchronous", "temp_store", "threads",
    "trusted_schema", "user_version", "wal_autocheckpoint", "writable_schema", "database_list",
]
# like has no PRAGMA to read it by
LOOKS = [f"PRAGMA {name}" for name in STATE] + [
    "SELECT * FROM sqlite_temp_schema", "SELECT 'A' LIKE 'a'",
    "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name", "SELECT * FROM t",
    "SELECT * FROM secret", "SELECT * FROM words", "SELECT count(*), max(epoch) FROM _lf_state"]


@pytest.fixture(scope="module")
def root(served):
    with served.wire(timeout=60) as wire:
        yield wire


def state_of(root):
    """What the daemon's connection is like, as the daemon's connection tells it."""
    rows = dict(zip(LOOKS, (step["rows"] for step in root.write(*LOOKS)["steps"])))
    # An empty schema of TEMP objects may come into being; that it is empty is another look.
    rows["PRAGMA database_list"] = [r for r in rows["PRAGMA database_list"] if r[1:] != ["temp", ""]]
    return list(rows.values())


def assert_same(before, after):
    for look, was, now in zip(LOOKS, before, after):
        assert was == now, look


# ---- the refused


def test_the_table_is_long_enough():
    assert len(HOSTILE) >= 120
    assert len({sql for sql, _, _ in HOSTILE}) >= 120


@pytest.mark.parametrize("role", ORDER)
def test_hostile_statements(served, wires, root, role):
    wire = wires[role]
    wrong = []
    before = state_of(root)
    for sql, opts, codes in HOSTILE:
        step = [sql, None, opts] if opts else [sql]
        error, result = wire.ask("write", batch=[step], timeout=60)
        again, _ = wire.ask("write", batch=[["SELECT 1"], step], timeout=60)
        expected = {DENIED} if role == "stats" else codes
        if error is None:
            wrong.append((sql[:100], "accepted", result["steps"]))
        elif error["code"] not in expected or error["applied"] != "no" or error["retry"]:
            wrong.append((sql[:100], error))
        elif again is None or again["code"] != error["code"]:
            wrong.append((sql[:100], "not stable", error["code"], again))
        elif error["code"] == DENIED and not re.search(r"uid \d+.*\b%s\b" % role, error["message"]):
            wrong.append((sql[:100], "does not say who", error["message"]))
        after = state_of(root)
        if after != before:
            assert_same(before, after)
    assert not wrong, "\n".join(map(str, wrong))
    assert not os.path.exists("/tmp/hostile.db") and not os.path.exists("/tmp/hostile")


def test_the_file_is_whole_and_the_daemon_goes_on(served, root):
    assert served.read("PRAGMA integrity_check") == [("ok",)]
    assert served.read("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'x'") == [(0,)]
    # A handle of ours would see what a foreign one sees: the daemon still commits in WAL mode.
    commit = root.write("UPDATE t SET a = a")["commit"]
    assert served.read("SELECT commit_no FROM _lf_state") == [(commit,)]
    assert served.read("PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("role", ORDER)
@pytest.mark.parametrize("needed, sql", NEEDS, ids=[sql for _, sql in NEEDS])
def test_each_role_may_just_what_it_may(wires, root, role, needed, sql):
    """Run and undone: the batch ends with a guard that fails."""
    before = state_of(root)
    error, _ = wires[role].ask("write", batch=[
        [sql], ["SELECT 'undo' WHERE 0", None, {"expect": {"rows": 1}}]])
    if ORDER.index(role) < ORDER.index(needed):
        assert error["code"] == DENIED and error["sqlite"] == 23, error
        needed = "query" if role == "stats" else needed  # it may not write() at all
        assert f"role {needed}" in error["message"] and f"uid {ROLES[role]} " in error["message"]
    elif "sqlite_stmt" in sql:
        assert error["code"] in ("guard", "sql")  # not in each build of SQLite
    else:
        assert error["code"] == "guard", error
    assert_same(before, state_of(root))


def test_an_explained_statement_is_authorised_as_if_run(wires):
    """EXPLAIN compiles: what a role may not run, it may not have explained either."""
    for sql in ("EXPLAIN COMMIT", "EXPLAIN DELETE FROM _lf_state"):
        assert wires["admin"].ask("write", batch=[[sql]])[0]["code"] == DENIED


def test_triggers_and_views_widen_nothing(wires, root):
    root.write("CREATE TABLE audit(a)",
               "CREATE TRIGGER seen AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (new.a); END",
               "CREATE VIEW d AS SELECT * FROM t",
               "CREATE TRIGGER vi INSTEAD OF INSERT ON d BEGIN INSERT INTO t(a) VALUES (new.a); END")
    try:
        assert wires["query"].ask("write", batch=[["INSERT INTO d(a) VALUES (1)"]])[0]["code"] == DENIED
        assert wires["write"].ask("write", batch=[["INSERT INTO d(a) VALUES (1)"]])[0] is None
        for sql in ("CREATE TRIGGER e AFTER INSERT ON t BEGIN UPDATE _lf_state SET commit_no = 1; END",
                    "CREATE VIEW e AS SELECT load_extension('x')"):
            error, _ = wires["ddl"].ask("write", batch=[[sql], ["INSERT INTO t(a) VALUES (1)"],
                                                        ["SELECT * FROM e"]])
            assert error["code"] in (DENIED, "sql"), sql
    finally:
        root.write("DROP VIEW d", "DROP TRIGGER seen", "DROP TABLE audit")


def test_the_statement_cache_knows_the_role(wires):
    sql = "UPDATE t SET b = b WHERE id = 1"
    for _ in range(3):
        assert wires["write"].ask("write", batch=[[sql]])[0] is None
        assert wires["query"].ask("write", batch=[[sql]])[0]["code"] == DENIED
        # Compiled anew inside step(), after a change of the schema.
        wires["ddl"].write("CREATE TABLE again(a)", "DROP TABLE again")
        assert wires["query"].ask("write", batch=[[sql]])[0]["code"] == DENIED


def test_nothing_leaks_from_one_client_to_the_next(served, root):
    with served.wire() as spy:
        root.write("INSERT INTO secret VALUES ('hidden')", "UPDATE t SET a = a")
        leaks = spy.write("SELECT last_insert_rowid(), changes()")["steps"][0]
        assert leaks["rows"][0][0] == 0
        root.write("DELETE FROM secret")
        with pytest.raises(Refused) as caught:
            spy.write("SELECT * FROM nowhere_at_all")
        assert "secret" not in caught.value.error["message"]


# ---- the legal


LEGAL_PRAGMAS = """
table_info(t) table_xinfo(t) table_list index_list(t) index_info(t_a) index_xinfo(t_a) foreign_key_list(t)
foreign_key_check integrity_check quick_check integrity_check(1) quick_check(t) data_version user_version
application_id schema_version encoding page_size page_count freelist_count database_list collation_list
function_list compile_options journal_mode synchronous foreign_keys cache_size
""".split()


def test_pragmas_that_tell(served, wires):
    reader = served.reader()
    for pragma in LEGAL_PRAGMAS:
        got = wires["query"].write(f"PRAGMA {pragma}")["steps"][0]
        if pragma not in ("data_version", "cache_size", "synchronous", "foreign_keys", "function_list",
                          "table_list", "index_list(t)"):
            assert got["rows"] == [list(row) for row in reader.execute(f"PRAGMA {pragma}")], pragma
        name = pragma.partition("(")[0]
        wires["query"].write(f"SELECT * FROM pragma_{name}" + ("('t')" if "(t)" in pragma else ""))


def test_pragmas_that_are_answered_and_not_executed(wires, root):
    before = state_of(root)
    for pragma in ("journal_mode=wal", "journal_mode=WAL", "synchronous=off", "synchronous(0)",
                   "busy_timeout=1", "cache_size=1", "mmap_size=1000000", "temp_store=file",
                   "journal_size_limit=0", "main.synchronous=0"):
        wires["query"].write(f"PRAGMA {pragma}")
    assert_same(before, state_of(root))


def test_pragmas_of_ddl(served, wires):
    wires["ddl"].write("PRAGMA user_version=41", "PRAGMA application_id=42", "PRAGMA optimize",
                       "PRAGMA incremental_vacuum")
    assert served.read("PRAGMA user_version") + served.read("PRAGMA application_id") == [(41,), (42,)]
    wires["ddl"].write("PRAGMA user_version=0", "PRAGMA application_id=0")


def test_fts5(served, wires):
    ddl, write = wires["ddl"], wires["write"]
    ddl.write("CREATE TABLE docs(id INTEGER PRIMARY KEY, body)",
              "CREATE VIRTUAL TABLE f USING fts5(body, content='docs', content_rowid='id')",
              "CREATE TRIGGER docs_ai AFTER INSERT ON docs BEGIN"
              " INSERT INTO f(rowid, body) VALUES (new.id, new.body); END",
              "CREATE TRIGGER docs_ad AFTER DELETE ON docs BEGIN"
              " INSERT INTO f(f, rowid, body) VALUES ('delete', old.id, old.body); END")
    write.write(["INSERT INTO docs(body) VALUES (?)", [["the quick fox"], ["a lazy dog"]], {"many": True}])
    found = write.write("SELECT rowid, highlight(f, 0, '<', '>'), bm25(f) < 0 FROM f WHERE f MATCH 'quick'")
    assert found["steps"][0]["rows"] == [[1, "the <quick> fox", 1]]
    write.write("DELETE FROM docs WHERE id = 1", "INSERT INTO f(f) VALUES ('optimize')",
                "INSERT INTO f(f) VALUES ('integrity-check')", "INSERT INTO f(f) VALUES ('rebuild')",
                "INSERT INTO f(f, rank) VALUES ('merge', 16)")
    assert served.read("SELECT count(*) FROM f WHERE f MATCH 'quick OR dog'") == [(1,)]
    ddl.write("CREATE VIRTUAL TABLE fv USING fts5vocab('f', 'row')")
    assert write.write("SELECT term FROM fv ORDER BY term")["steps"][0]["rows"] == [["a"], ["dog"], ["lazy"]]
    ddl.write("ALTER TABLE f RENAME TO g", "DROP TABLE fv", "DROP TABLE g", "DROP TABLE docs")
    ddl.write("CREATE VIRTUAL TABLE f4 USING fts4(body)", "INSERT INTO f4 VALUES ('old words')",
              "SELECT * FROM f4 WHERE f4 MATCH 'old'", "INSERT INTO f4(f4) VALUES ('optimize')", "DROP TABLE f4")


def test_rtree_and_json_and_window_functions(wires):
    ddl, write = wires["ddl"], wires["write"]
    ddl.write("CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, y0, y1, +name TEXT)")
    write.write(["INSERT INTO r VALUES (?, ?, ?, ?, ?, ?)",
                 [[i, i, i + 1, i, i + 1, f"n{i}"] for i in range(100)], {"many": True}])
    rows = write.write("SELECT id, name FROM r WHERE x0 >= 98", "UPDATE r SET x1 = 500 WHERE id = 3",
                       "DELETE FROM r WHERE id < 50", "SELECT rtreecheck('r')")["steps"]
    assert rows[0]["rows"] == [[98, "n98"], [99, "n99"]] and rows[3]["rows"] == [["ok"]]
    ddl.write("DROP TABLE r")
    assert wires["query"].write(
        "SELECT json_group_array(value) FROM json_each('[1,2]')",
        "SELECT sum(a) OVER (ORDER BY id) FROM t LIMIT 0",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT * FROM n",
        )["steps"][0]["rows"] == [["[1,2]"]]


def test_every_form_of_alter(served, wires):
    wires["ddl"].write(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, a)",
        "CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p(id), a, b CHECK (b > 0))",
        "CREATE INDEX c_a ON c(a)", "CREATE VIEW cv AS SELECT a, b FROM c",
        "CREATE TRIGGER ct AFTER INSERT ON c BEGIN UPDATE p SET a = new.a WHERE id = new.p; END",
        "INSERT INTO p VALUES (1, 0)", "INSERT INTO c VALUES (1, 1, 5, 6)",
        "ALTER TABLE c ADD COLUMN d DEFAULT 9", "ALTER TABLE c ADD COLUMN e TEXT NOT NULL DEFAULT 'x'",
        "ALTER TABLE c ADD COLUMN g AS (a + 1)", "ALTER TABLE c ADD f REFERENCES p(id)",
        "ALTER TABLE c RENAME COLUMN a TO aa", "ALTER TABLE c RENAME b TO bb", "ALTER TABLE c DROP COLUMN d",
        "ALTER TABLE c DROP e", "ALTER TABLE p RENAME TO pp", "ALTER TABLE c RENAME TO cc",
        "INSERT INTO cc(p, aa, bb) VALUES (1, 7, 8)")
    assert served.read("SELECT aa, bb, g FROM cc ORDER BY id") == [(5, 6, 6), (7, 8, 8)]
    assert served.read("SELECT aa, bb FROM cv") == [(5, 6), (7, 8)]
    assert served.read("SELECT a FROM pp") == [(7,)]
    wires["ddl"].write("DROP VIEW cv", "DROP TABLE cc", "DROP TABLE pp")
    assert served.read("PRAGMA integrity_check") == [("ok",)]


def test_schema_changes_of_all_kinds(served, wires):
    wires["ddl"].write(
        "CREATE TABLE w(a PRIMARY KEY, b) WITHOUT ROWID", "CREATE TABLE s(a INTEGER, b TEXT) STRICT",
        "CREATE TABLE ai(id INTEGER PRIMARY KEY AUTOINCREMENT, a)", "INSERT INTO ai(a) VALUES (1), (2)",
        "CREATE TABLE copy AS SELECT * FROM ai", "CREATE UNIQUE INDEX u ON copy(id) WHERE a > 1",
        "CREATE INDEX expr ON copy(lower(a))", "CREATE TABLE IF NOT EXISTS copy(a)", "DROP INDEX IF EXISTS u",
        "REINDEX copy", "ANALYZE copy", "ANALYZE", "DROP TABLE copy", "DROP TABLE IF EXISTS copy",
        "DELETE FROM sqlite_sequence WHERE name = 'nobody'", "DROP TABLE ai", "DROP TABLE s", "DROP TABLE w")
    assert served.read("PRAGMA integrity_check") == [("ok",)]


def test_sqlite_s_own_tables_of_facts_cannot_be_replaced(daemon):
    """A table of such a name was asked in their place: foreign keys to ours passed, and no start succeeded any more."""
    served = daemon()
    own = ("table_info", "table_list", "table_xinfo", "foreign_key_list", "index_list", "index_info", "index_xinfo")
    with served.wire() as wire:
        wire.write("CREATE TABLE t(a, b)", "CREATE VIEW v AS SELECT 1")
        for name in own:
            for sql in (f"CREATE TABLE pragma_{name}(a)", f"CREATE VIEW PRAGMA_{name.upper()} AS SELECT 1 AS a",
                        f"CREATE VIRTUAL TABLE \"pragma_{name}\" USING fts5(\"table\")", f"ALTER TABLE t RENAME TO pragma_{name}"):
                error, _ = wire.ask("write", batch=[[sql]])
                assert error["code"] == DENIED and "SQLite's" in error["message"], (sql, error)
        wire.call("begin", lease=1)
        wire.call("step", lease=1, sql="CREATE TEMP TABLE mine(a)")
        for sql in ("CREATE TEMP TABLE pragma_table_info(a)", "CREATE TEMP VIEW pragma_table_list AS SELECT 1",
                    "CREATE VIRTUAL TABLE temp.pragma_foreign_key_list USING fts5(\"table\")"):
            error, _ = wire.ask("step", lease=1, sql=sql)
            assert error["code"] == DENIED and "SQLite's" in error["message"], (sql, error)
        error, _ = wire.ask("step", lease=1, sql="ALTER TABLE temp.mine RENAME TO pragma_table_info")
        assert error["code"] == DENIED and error["open"] is False
        error, _ = wire.ask("write", batch=[["CREATE TABLE x(g REFERENCES _lf_group(commit_no) ON DELETE CASCADE)"]])
        assert error["code"] == DENIED
    served.stop()
    with sqlite3.connect(served.db) as shell:
        shell.execute("CREATE TABLE pragma_table_info(a)")
    shell.close()
    served.launch()
    assert served.wait() == 1 and "tables of facts (pragma_…)" in served.log()


def test_a_message_is_text_also_where_it_quotes_what_is_none(daemon):
    """SQLite's messages repeat what they were given, byte for byte."""
    served = daemon()
    with served.wire() as wire:
        for bad, told in ((b"\xff", "?"), (b"a\xc3\xa4\xe2\x82", "a\xe4??"), (b"\xed\xa0\x80", "???")):
            path = "'$'||CAST(x'" + bad.hex() + "' AS TEXT)"
            error, _ = wire.ask("write", batch=[[f"SELECT json_extract('{{}}', {path})"]])
            assert error["code"] == "sql" and f"'{told}'" in error["message"], error
            wire.call("begin", lease=1)
            error, _ = wire.ask("step", lease=1, sql=f"SELECT json_extract('{{}}', {path})")
            assert f"'{told}'" in error["message"], error
            wire.call("rollback", lease=1)
