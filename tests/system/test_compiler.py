# SPDX-License-Identifier: MIT
"""
Texts of a few hundred bytes that are costly to compile, or to keep compiled: views and WITH clauses that name one another
twice double with each. They are refused before they take the writer's time or everybody's memory.
"""
import re
import sqlite3

import pytest

from wire import Refused

MIB = 1 << 20


def doubling(levels, tag=0):
    """A query whose program doubles with each level: at 13 it takes 1 MiB to keep, at 16 93 MiB to compile."""
    clauses = ["v0 AS (SELECT 1 AS x)"]
    clauses += [f"v{i} AS (SELECT a.x FROM v{i - 1} AS a, v{i - 1} AS b)" for i in range(1, levels + 1)]
    return f"/* {tag} */ WITH {', '.join(clauses)} SELECT * FROM v{levels}"


def doubling_views(levels):
    return ["CREATE VIEW v0 AS SELECT 1 AS x",
            *(f"CREATE VIEW v{i} AS SELECT a.x FROM v{i - 1} AS a, v{i - 1} AS b" for i in range(1, levels + 1))]


def refused(wire, *steps):
    with pytest.raises(Refused) as refusal:
        wire.write(*steps)
    error = refusal.value.error
    assert (error["code"], error["retry"], error["applied"]) == ("sql", False, "no"), error
    return error["message"]


def test_what_doubles_is_refused(daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    with served.wire() as wire, served.wire() as other:
        before = served.rss()
        for levels in (16, 20, 60):
            assert "32 MiB" in refused(wire, "INSERT INTO t VALUES (1)", doubling(levels))
            assert "32 MiB" in refused(wire, f"INSERT INTO t {doubling(levels)}")
            other.write("INSERT INTO t VALUES (2)")
        if served.slow == 1:  # ASan keeps what was freed for a while
            assert served.rss() - before < 160 * MIB
        wire.write(doubling(10))
    assert served.read("SELECT a, count(*) FROM t GROUP BY a") == [(2, 3)]


def test_a_long_text_has_room(daemon):
    """What takes much memory because there is much of it is no doubling."""
    served = daemon()
    rows = 100_000
    served.write("CREATE TABLE t(a)")
    served.write("INSERT INTO t VALUES (0)" + ",(1)" * rows)
    assert served.read("SELECT sum(a) FROM t") == [(rows,)]


def test_what_is_kept_has_a_bound(daemon):
    """Each of these is compiled, and kept until others need the room: not until nobody finds any."""
    served = daemon()
    served.write("CREATE TABLE t(a)")
    with served.wire() as wire:
        for i in range(900 // served.slow):  # of 0.7 MiB each; SQLite may take 512
            wire.write(f"SELECT {i}{', 1' * 1990}")
        served.write("INSERT INTO t VALUES (randomblob(1000000))")
    if served.slow == 1:
        assert served.rss() < 320 * MIB


@pytest.mark.parametrize("levels", [17, 40])
def test_a_view_that_doubles(daemon, levels):
    """It would be compiled at each change of the schema and at each start."""
    served = daemon()
    views = doubling_views(levels)
    with served.wire() as wire:
        wire.write("CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
        assert "compiling the view" in refused(wire, "INSERT INTO t VALUES (2)", *views)
        wire.write(*views[:12])
        wire.call("begin", lease=1)
        error, _ = wire.ask("step", lease=1, sql="; ".join(views[12:]), opts={"script": True})
        assert error is not None and "compiling the view" in error["message"], error
    served.write("INSERT INTO t VALUES (3)", "CREATE INDEX t_a ON t(a)")
    assert served.read("SELECT a FROM t") == [(1,), (3,)]
    assert served.read("SELECT count(*) FROM sqlite_schema WHERE type = 'view'") == [(12,)]


@pytest.mark.parametrize("form", ["{0} AS (SELECT a FROM {1})", "{0} AS NOT MATERIALIZED(SELECT a FROM {1})"])
def test_a_long_chain_of_clauses(daemon, form):
    """SQLite's compiler calls itself for each; 30,000 of them were the end of the writer's stack."""
    served = daemon()

    def chain(count):
        clauses = ", ".join(form.format(f"c{i}", f"c{i - 1}") for i in range(1, count))
        return f"WITH c0(a) AS (SELECT 1), {clauses} SELECT a FROM c{count - 1}"
    with served.wire(timeout=60) as wire:
        for count in (2100, 15000):
            assert "nested too deep" in refused(wire, chain(count))
            error, _ = wire.ask("describe", sql=chain(count))
            assert "nested too deep" in error["message"]
        assert wire.write([chain(1500), None, {"rows": 1}])["steps"][0]["rows"] == [[1]]


def test_expressions_that_are_put_into_one_another(daemon):
    """Each of these is within SQLite's limit of depth, and all together end a stack of 16 MiB, also at each start."""
    served = daemon()
    columns = ["c0", *(f"c{i} AS (c{i - 1}{' + 1' * 990})" for i in range(1, 101))]
    served.write(f"CREATE TABLE g({', '.join(columns)})")
    assert served.write("INSERT INTO g VALUES (1) RETURNING c100")["steps"][0]["rows"] == [[99_001]]
    served.restart()
    assert served.write("SELECT c99 FROM g")["steps"][0]["rows"] == [[98_011]]


def test_a_query_of_fts5_that_is_deep(daemon):
    """FTS5 calls itself for each NOT when it runs, also where the loop stands in for the writer."""
    served = daemon()
    served.write("CREATE VIRTUAL TABLE f USING fts5(x)", "INSERT INTO f VALUES ('a')")
    with served.wire(timeout=60) as wire:
        for terms in (10_000, 10_000, 200_000 // served.slow):
            found = wire.write(["SELECT count(*) FROM f WHERE f MATCH ?", ["a NOT " * terms + "a"]])
            assert found["steps"][0]["rows"] == [[0]]


def web_of_triggers(count):
    """Each table's triggers write to the next one: the compiler calls itself once for each trigger."""
    yield [f"CREATE TABLE t{i}(a UNIQUE)" for i in range(count)]
    for j in range(count):
        yield [f"CREATE TRIGGER g{i}_{j} AFTER UPDATE ON t{i} BEGIN"
               f" INSERT INTO t{(i + 1) % count} VALUES (1) ON CONFLICT (a) DO UPDATE SET a = a; END"
               for i in range(count)]


def test_triggers_that_reach_each_other(daemon):
    """Nobody's stack is at its end, and nobody waits for half a minute; also not at a start."""
    served = daemon(start=False)
    with sqlite3.connect(served.db) as db:
        for statements in web_of_triggers(60):
            for sql in statements:
                db.execute(sql)
    db.close()
    served.start()
    with served.wire(timeout=60) as wire:
        assert re.search("nested too deep|more than 10 s", refused(wire, "UPDATE t0 SET a = 1"))
    served.write("INSERT INTO t0 VALUES (1)")
    assert served.read("SELECT count(*) FROM t0") == [(1,)]


def test_a_schema_that_takes_all_memory(daemon):
    """Everybody's requests would find none, also those that would drop it again."""
    served = daemon(heap_bytes_max="64MiB")
    served.write("CREATE TABLE t(a)")
    with served.wire() as wire:
        for i in range(200):
            error, _ = wire.ask("write", batch=[[f"CREATE TRIGGER g{i} AFTER INSERT ON t BEGIN {'SELECT 1;' * 5000} END"]])
            if error is not None:
                break
        assert error is not None and "16 MiB" in error["message"] and error["code"] == "sql", error
    for _ in range(2):
        served.write("INSERT INTO t VALUES (randomblob(3000000))", "DROP TRIGGER IF EXISTS g0")
        served.restart()


@pytest.mark.parametrize("script", [False, True])
def test_what_follows_a_change_of_the_schema_ends_at_its_limits(daemon, script):
    served = daemon(exec_timeout="1s")
    steps = ["CREATE TABLE x(a)", "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) SELECT max(i) FROM c"]
    with served.wire(timeout=60) as wire:
        batch = [["; ".join(steps), None, {"script": True}]] if script else [[sql] for sql in steps]
        error, _ = wire.ask("write", batch=batch)
        assert error["code"] == "deadline", error
    served.write("CREATE TABLE x(a)")


def test_a_database_that_came_with_one(daemon):
    """Nobody is refused a change of the schema for a view that was there."""
    served = daemon(start=False)
    with sqlite3.connect(served.db) as db:
        for view in doubling_views(14):
            db.execute(view)
    db.close()
    served.start()
    served.write("CREATE TABLE t(a)", "CREATE VIEW other AS SELECT a FROM t")
    with served.wire() as wire:
        wire.write("DROP VIEW v14")
    assert served.read("SELECT count(*) FROM sqlite_schema WHERE name = 'v14'") == [(0,)]
