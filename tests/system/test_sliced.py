# SPDX-License-Identifier: MIT
"""Large batches that may be applied in slices: each row once whoever is killed, and others between."""
import json
import os
import random
import sqlite3
import subprocess

import pytest

from daemon import wait_for
from wire import Closed

SLICED = {"many": True, "atomic": False}
INSERT = "INSERT INTO t(a, b) VALUES (?, ?)"
# Each row costs the writer far more than it costs its client.
COSTLY = ("INSERT INTO t(a, b) VALUES (?, ?1 + (WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c"
          " WHERE i < 300) SELECT count(*) FROM c))")


def rows_of(count):
    return [[i, f"row {i}"] for i in range(count)]


def costly(count):
    return [[COSTLY, [[i] for i in range(count)], SLICED]]


def count(served):
    return served.read("SELECT count(*) FROM t")[0][0]


@pytest.fixture(name="served")
def a_daemon_with_a_table(daemon):
    served = daemon(slice_ms=5)
    served.write("CREATE TABLE t(a, b)")
    return served


def test_all_of_it_in_many_commits(served):
    with served.wire(session=os.urandom(16)) as wire:
        before = wire.call("ping")["commit"]
        batch = [[INSERT, rows_of(30_000), SLICED]]
        first = wire.call("write", batch=batch, seq=1)
        assert first["steps"] == [{"changes": 30_000, "total": 30_000, "rowid": 30_000}]
        assert first["commit"] > before + 1, "it was one commit"
        again = wire.call("write", batch=batch, seq=1)
        assert again["repeat"] and again["steps"] == first["steps"]
        empty = wire.call("write", batch=[[INSERT, [], SLICED]], seq=2)
        assert empty["steps"][0]["changes"] == 0
        named = wire.call("write", batch=[["UPDATE t SET b = :to WHERE a = :a",
                                           [{"a": i, "to": -i} for i in range(3)], SLICED]], seq=3)
        assert named["steps"][0]["changes"] == 3
    assert served.read("SELECT count(*), count(DISTINCT a), sum(a) FROM t") == [
        (30_000, 30_000, sum(range(30_000)))]
    assert served.read("SELECT count(*) FROM _lf_chunk") == [(0,)]


def test_what_it_does_not_go_with(served):
    step = [INSERT, [[1, 2]], SLICED]
    with served.wire(session=os.urandom(16)) as wire:
        epoch = wire.call("ping")
        for params in ({"batch": [step]}, {"batch": [step, step], "seq": 1},
                       {"batch": [[INSERT, [1, 2], {"atomic": False}]], "seq": 1},
                       {"batch": [[INSERT, [[1, 2]], {**SLICED, "expect": {"changes": 1}}]], "seq": 1},
                       {"batch": [[INSERT, [[1, 2]], {**SLICED, "rows": 1}]], "seq": 1},
                       {"batch": [[INSERT, [[1, 2]], {"many": True, "atomic": 0}]], "seq": 1},
                       {"batch": [step], "seq": 1, "if_commit": {"at": epoch}}):
            error, _ = wire.ask("write", **params)
            assert error["code"] == "bad_request", params
        error, _ = wire.ask("write", batch=[[INSERT + " RETURNING a", [[1, 2]], SLICED]], seq=2)
        assert error["code"] == "bad_request" and "RETURNING" in error["message"]
        error, _ = wire.ask("write", batch=[["INSERT INTO no VALUES (?)", [[1]] * 9, SLICED]], seq=3)
        assert error["code"] == "sql" and error["applied"] == "no" and "row" not in error
        wire.call("begin", lease=1)
        error, _ = wire.ask("step", lease=1, sql=INSERT, params=[[1, 2]], opts=SLICED)
        assert error["code"] == "bad_request"
    assert count(served) == 0


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_one_that_an_older_daemon_has_begun_goes_on(daemon, encoding):
    """Before format 4 how far it is stood under a text: sent again after the upgrade it began anew."""
    served = daemon(slice_ms=2, start=False)
    with sqlite3.connect(served.db) as db:
        db.execute(f"PRAGMA encoding = '{encoding}'")
        db.execute("CREATE TABLE t(a, b)")
    db.close()
    served.start()
    batch = [[INSERT, rows_of(60_000), SLICED]]
    with served.wire() as wire:
        wire.request("write", batch=batch, key="ä-1")
        wait_for(lambda: count(served) > 1_000, "some slices")
        served.kill()
    with sqlite3.connect(served.db) as db:
        assert db.execute("UPDATE _lf_chunk SET name = 'key:0:ä-1' WHERE uid = -2").rowcount == 1
        db.execute("ALTER TABLE _lf_chunk DROP COLUMN walk")
        db.execute("UPDATE _lf_state SET format = 3")
    db.close()
    served.start()
    with served.wire() as wire:
        assert wire.call("write", batch=batch, key="ä-1", timeout=60)["steps"][0]["changes"] == 60_000
    assert served.read("SELECT count(*), count(DISTINCT a) FROM t") == [(60_000, 60_000)]


def test_it_names_no_rowid_that_vacuum_may_change(served):
    with served.wire(session=os.urandom(16)) as wire:
        wire.write("CREATE TABLE k(id INTEGER PRIMARY KEY, a)", "CREATE VIRTUAL TABLE f USING fts5(a)",
                   "INSERT INTO k VALUES (1, 0)", "INSERT INTO f(rowid, a) VALUES (1, 'x')")
        wire.write("CREATE VIEW v AS SELECT rowid AS r, a FROM t",
                   "CREATE TRIGGER g INSTEAD OF UPDATE ON v BEGIN UPDATE t SET a = new.a WHERE rowid = old.r; END")
        for sql in ("UPDATE t SET b = 1 WHERE rowid = ?", "DELETE FROM t WHERE oid = ?", "INSERT INTO t(_rowid_) VALUES (?)",
                    "INSERT INTO t SELECT ?, last_insert_rowid()", "INSERT INTO t SELECT ?, changes()",
                    'REPLACE INTO t("rowid") VALUES (?)', "UPDATE v SET a = 1 WHERE r = ?"):
            error, _ = wire.ask("write", batch=[[sql, [[1], [2]], SLICED]], key=sql)
            assert error["code"] == "bad_request" and "with atomic:false" in error["message"], error
        for seq, sql in enumerate(("UPDATE k SET a = 1 WHERE rowid = ?", "DELETE FROM f WHERE rowid = ?",
                                    "REPLACE INTO k(oid, a) VALUES (?, 2)"), 2):
            assert wire.call("write", batch=[[sql, [[1], [2]], SLICED]], seq=seq)["steps"][0]["changes"] > 0


def test_a_row_that_fails_ends_it_and_those_before_it_stay(served):
    served.write("CREATE UNIQUE INDEX i ON t(a)")
    rows = rows_of(5_000)
    rows[3_333][0] = 7
    session = os.urandom(16)
    with served.wire(session=session) as wire:
        error, _ = wire.ask("write", batch=[[INSERT, rows, SLICED]], seq=1)
        assert error["code"] == "sql" and error["sqlite"] == 2067 and not error["retry"]
        assert (error["step"], error["row"], error["applied"]) == (0, 3_333, "unknown")
        assert served.read("SELECT count(*), max(a) FROM t") == [(3_333, 3_332)]
        error, _ = wire.ask("write", batch=[["INSERT OR ROLLBACK INTO t(a) VALUES (?)",
                                             [[9_999], [9]], SLICED]], seq=2)
        assert (error["row"], error["applied"]) == (1, "unknown") and count(served) == 3_334
        error, _ = wire.ask("write", batch=[[INSERT, rows, SLICED]], seq=3)
        assert (error["row"], error["applied"]) == (0, "no") and count(served) == 3_334
    served.restart()
    with served.wire(session=session) as wire:
        error, _ = wire.ask("write", batch=[[INSERT, rows, SLICED]], seq=1)
        assert error["row"] == 3_333 and count(served) == 3_334
    assert served.read("SELECT count(*) FROM _lf_chunk") == [(0,)]


def bulk_waits(wire):
    table = wire.call("show", what="waits")
    rows = [dict(zip(table["columns"], row)) for row in table["rows"]]
    return [row for row in rows if row["class"] == "bulk"]


def test_others_go_between(served):
    with served.wire(session=os.urandom(16), class_="bulk") as slow_one, served.wire() as quick:
        id = slow_one.request("write", batch=costly(25_000), seq=1)
        wait_for(lambda: count(served) > 0, "the first slice")
        [row] = wait_for(lambda: bulk_waits(quick), "a moment when it is not handed from one slice to the next")
        assert row["what"] == "write" and row["sql"].startswith("INSERT INTO t")
        quick.write("CREATE TABLE other(a)")
        assert count(served) < 25_000, "it was waited for"
        slow_one.notice("cancel", id=id)  # it has begun: it goes on
        assert quick.call("kill", id_=row["id"])["state"] == "running"
        error, result = slow_one.reply(id, 120)
        assert error is None and result["steps"][0]["changes"] == 25_000


@pytest.mark.parametrize("name", [{"key": "K"}, {"seq": 3}])
def test_no_other_batch_takes_its_name_before_it_is_over(served, name):
    """It was executed, and the sliced one then told that nothing of it was applied."""
    session = os.urandom(16)
    other = [["INSERT INTO t(a, b) VALUES (-1, 0)"]]
    with served.wire(session=session) as wire, served.wire(session=session) as second:
        id = wire.request("write", batch=costly(10_000), **name)
        wait_for(lambda: count(served) > 0, "the first slice")
        assert second.ask("write", batch=other, **name)[0]["code"] == "key_mismatch"
        if "key" in name:
            second.call("begin", lease=1)
            second.call("step", lease=1, sql=other[0][0])
            assert second.ask("commit", lease=1, **name)[0]["code"] == "key_mismatch"
        served.kill()
        with pytest.raises((Closed, OSError)):
            wire.reply(id)
    served.start()
    with served.wire(session=session) as wire:
        assert 0 < count(served) < 10_000
        assert wire.ask("write", batch=other, **name)[0]["code"] == "key_mismatch"
        result = wire.call("write", batch=costly(10_000), timeout=300, **name)
        assert result["steps"][0]["changes"] == 10_000
        assert wire.ask("write", batch=other, **name)[0]["code"] == "key_mismatch"
    assert served.read("SELECT count(*), min(a) FROM t") == [(10_000, 0)]


def test_killed_and_sent_again_each_row_once(served, soak):
    """No key in the table: a row that comes twice would stay twice."""
    rows, kills = (60_000, 40) if soak else (10_000, 8)
    rng, session = random.Random(5), os.urandom(16)
    seq = {"seq": 1}
    for round_ in range(kills):
        wire = served.wire(session=session)
        id = wire.request("write", batch=costly(rows), **seq)
        enough = count(served) + rng.randrange(1, rows // kills)
        wait_for(lambda: count(served) >= enough, f"{enough} rows")
        served.kill()
        with pytest.raises((Closed, OSError)):
            wire.reply(id)
        wire.close()
        served.start()
        if round_ == 0:  # of other content it is another's
            with served.wire(session=session) as wire:
                error, _ = wire.ask("write", batch=costly(rows - 1), **seq)
                assert error["code"] == "key_mismatch"
    with served.wire(session=session) as wire:
        before = count(served)
        assert 0 < before < rows
        result = wire.call("write", batch=costly(rows), timeout=300, **seq)
        assert result["steps"] == [{"changes": rows, "total": rows, "rowid": rows}]
    assert served.read("SELECT count(*), count(DISTINCT a), sum(a), sum(b) - sum(a) FROM t") == [
        (rows, rows, sum(range(rows)), 300 * rows)]
    assert served.read("SELECT count(*) FROM _lf_chunk") == [(0,)]


def test_the_same_from_two_connections_at_once(served):
    with served.wire() as one, served.wire() as two:
        ids = [(wire, wire.request("write", batch=costly(5_000), key="K")) for wire in (one, two)]
        results = [wire.reply(id, 120) for wire, id in ids]
    assert all(error is None and result["steps"][0]["changes"] == 5_000 for error, result in results)
    assert count(served) == 5_000


def test_exec_takes_it(litefunnel, served):
    served.write("CREATE UNIQUE INDEX i ON t(a)")

    def run(*lines):
        return subprocess.run([litefunnel, "exec", served.db, "-"], capture_output=True, text=True,
                              input="\n".join(json.dumps(line) for line in lines), check=False)

    done = run([[INSERT, rows_of(4_000), SLICED]])
    assert done.returncode == 0 and count(served) == 4_000, done.stderr
    done = run([[INSERT, [[5_000, 1], [5_001, 1], [7, 1]], SLICED]])
    assert done.returncode == 5 and count(served) == 4_002
    assert "2 rows are applied" in done.stderr and "UNIQUE" in done.stderr, done.stderr
    done = run([[INSERT, [[7, 1]], SLICED]])
    assert done.returncode == 1 and count(served) == 4_002, done.stderr
    done = run([["SELECT 1", [1], {"atomic": 5}]])
    assert done.returncode != 0 and "atomic is true or false" in done.stderr
