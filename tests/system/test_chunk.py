# SPDX-License-Identifier: MIT
"""
Long writes in slices: each row once, whatever happens to the daemon; others go between; who began
one finds it again, pauses it, and learns why one cannot be cut.
"""
import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import time

import pytest

from daemon import wait_for
from wire import Closed, Refused

ROWS = ("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?)"
        " INSERT INTO t SELECT i * 3, i % 11, 'row ' || i FROM c")


def fill(served, rows):
    with served.wire(timeout=600) as wire:
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, s TEXT)", [ROWS, [rows]],
                   "CREATE INDEX t_n ON t(n)", deadline_ms=600_000)


def content(served, table="t"):
    digest = hashlib.sha256()
    for row in served.read(f"SELECT * FROM {table} ORDER BY 1"):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def wait(wire, name, timeout=120):
    return wire.call("chunk_ctl", chunk=name, op="wait", timeout=timeout)


def run(litefunnel, served, *args):
    return subprocess.run([litefunnel, "chunk", served.db, *args], capture_output=True, text=True,
                          timeout=120, check=False)


def test_killed_and_resumed_each_row_once(daemon, soak, slow):
    """Not idempotent: a row that is visited twice, or never, shows."""
    rows, kills = (2_000_000, 50) if soak else (60_000, 12)
    served, whole = daemon(exec_timeout="1h"), daemon("whole.db", exec_timeout="1h")
    for each in (served, whole):
        fill(each, rows)
    statement = "UPDATE t SET n = n * 2 + ?, s = s || n WHERE n <> 7 OR id % 2 = 0"
    with whole.wire(timeout=600) as wire:
        wire.write([statement, [5]], deadline_ms=600_000)
    rng = random.Random(1)
    with served.wire() as wire:
        limit = {} if soak else {"rate": 60_000}
        wire.call("chunk", sql=statement, params=[5], name="work", slice_ms=2, **limit)
    seen = 0
    for _ in range(kills):
        until = seen + rng.randrange(1, rows // kills)
        with served.wire() as wire:
            state = {"rows": seen, "state": "running"}
            while state["state"] == "running" and state["rows"] < until:
                state = wire.call("chunk_ctl", chunk="work", op="wait", wait_ms=1)
        assert state["rows"] >= seen, "what was committed is gone"
        seen = state["rows"]
        served.kill()
        served.start()
    with served.wire() as wire:
        end = wait(wire, "work", 600 * slow)
    assert end["state"] == "done" and end["rows"] == rows
    assert content(served) == content(whole)


def test_others_go_between(daemon):
    served = daemon()
    fill(served, 100_000)
    with served.wire() as slow_one, served.wire() as quick:
        quick.write("CREATE TABLE mine(a)")
        slow_one.call("chunk", sql="DELETE FROM t WHERE n > 2", name="d", rate=100_000)
        done = 0
        while slow_one.call("chunk_ctl", chunk="d", op="wait", wait_ms=0)["state"] == "running":
            quick.write(["INSERT INTO mine VALUES (?)", [done]])
            done += 1
        assert done > 10, "nothing came between"
    assert served.read("SELECT count(*) FROM mine") == [(done,)]
    assert served.read("SELECT count(*) FROM t WHERE n > 2") == [(0,)]


def test_a_condition_on_the_key_does_not_make_each_slice_walk_from_there(daemon):
    """SQLite took the client's bound for its own, and slices became a row each."""
    served = daemon()
    rows = 100_000
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, at INT, v INT)",
                 ["WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?) "
                  "INSERT INTO t SELECT x, x, 0 FROM c", [rows]], "CREATE INDEX i ON t(at)")
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET v = 5 WHERE at > 10 AND id < 90000", name="bounded")
        end = wait(wire, "bounded", 120)
    assert end["state"] == "done"
    assert end["slices"] < rows / 20
    assert served.read("SELECT count(*) FROM t WHERE v = 5") == [(89_989,)]


def test_found_again_by_its_name(daemon):
    served = daemon()
    fill(served, 20_000)
    order = {"sql": "UPDATE t SET n = n + :k", "params": {"k": 1}, "name": "again"}
    with served.wire() as wire:
        wire.call("chunk", **order)
        wire.call("chunk", **order)
        assert wait(wire, "again")["changes"] == 20_000
        assert wire.call("chunk", **order)["state"] == "done"
        for other in ({"params": {"k": 2}}, {"sql": "UPDATE t SET n = n - :k"}):
            error, _ = wire.ask("chunk", **{**order, **other})
            assert error["code"] == "key_mismatch" and error["applied"] == "no"
    served.restart()
    with served.wire() as wire:
        assert wire.call("chunk", **order)["state"] == "done"
    assert served.read("SELECT sum(n) FROM t") == [(sum(i % 11 for i in range(1, 20_001)) + 20_000,)]


def test_pause_resume_cancel(daemon):
    served = daemon()
    fill(served, 50_000)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET n = -1", name="p", rate=20_000)
        waiting = wire.request("chunk_ctl", chunk="p", op="wait")
        assert wire.call("chunk_ctl", chunk="p", op="pause")["state"] == "paused"
        assert wire.reply(waiting)[1]["state"] == "paused"
    served.restart()
    with served.wire() as wire:
        state = wire.call("chunk_ctl", chunk="p", op="wait")
        assert state["state"] == "paused" and state["rows"] < 50_000
        assert wire.call("chunk_ctl", chunk="p", op="resume", rate=1_000_000)["limit"] == 1_000_000
        assert wait(wire, "p")["state"] == "done"
        wire.call("chunk", sql="UPDATE t SET n = -2", name="c", rate=1000)
        assert wire.call("chunk_ctl", chunk="c", op="cancel")["state"] == "cancelled"
        left = served.read("SELECT count(*) FROM t WHERE n = -1")[0][0]
        assert left + wait(wire, "c")["changes"] == 50_000, "more or less than its slices was kept"
        error, _ = wire.ask("chunk_ctl", chunk="c", op="resume")
        assert error["code"] == "bad_request"
        error, _ = wire.ask("chunk_ctl", chunk="nobody", op="wait")
        assert error["code"] == "not_found"


def ended_at(wire, name):
    shown = wire.call("show", what="chunks", like=name)
    return [dict(zip(shown["columns"], row))["ended_at"] for row in shown["rows"]][0]


def test_what_is_done_can_be_neither_resumed_nor_cancelled(daemon):
    """Both succeeded, and said "done"."""
    served = daemon()
    fill(served, 100)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET n = -1", name="d")
        assert wait(wire, "d")["state"] == "done"
        assert ended_at(wire, "d") > 0
        for op in ("resume", "cancel", "pause"):
            error, _ = wire.ask("chunk_ctl", chunk="d", op=op)
            assert error["code"] == "bad_request" and "was done already" in error["message"], op
        wire.call("chunk", sql="UPDATE t SET n = -2", name="c", rate=1)
        assert ended_at(wire, "c") is None
        for _ in range(2):
            assert wire.call("chunk_ctl", chunk="c", op="cancel")["state"] == "cancelled"
        assert wire.call("chunk_ctl", chunk="d", op="wait")["state"] == "done"


MAKE = "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, s TEXT)"


@pytest.mark.parametrize("how", ["batch", "script", "lease", "renamed", "filled"])
@pytest.mark.parametrize("paused", [True, False])
def test_another_table_of_the_same_name_is_not_its_table(daemon, how, paused):
    """A chunk went on in a table that was made anew while it was paused, or between its slices."""
    served = daemon()
    fill(served, 5_000)
    sql = "INSERT INTO t SELECT k, 0, '' FROM source" if how == "filled" else "UPDATE t SET n = -1"
    with served.wire() as wire:
        wire.write("CREATE TABLE source(k INTEGER PRIMARY KEY)",
                   "INSERT INTO source SELECT id + 1000000 FROM t")
        wire.call("chunk", sql=sql, name="c", rate=50)
        if paused:
            wire.call("chunk_ctl", chunk="c", op="pause")
        away = "ALTER TABLE t RENAME TO old" if how == "renamed" else "DROP TABLE t"
        row = "INSERT INTO t VALUES (999999, 7, 'new')"
        if how == "lease":
            wire.call("begin", lease=1)
            for step in (away, MAKE, row):
                wire.call("step", lease=1, sql=step)
            wire.call("rollback", lease=1)
            state = wire.call("chunk_ctl", chunk="c", op="wait", wait_ms=0)["state"]
            assert state == ("paused" if paused else "running"), "undone, and yet it ended"
            wire.call("begin", lease=2)
            for step in (away, MAKE, row):
                wire.call("step", lease=2, sql=step)
            wire.call("commit", lease=2)
        elif how == "script":
            wire.write([f"{away}; {MAKE}; {row}", None, {"script": True}])
        else:
            wire.write(away, MAKE, row)
        end = wait_for(lambda: [s for s in [wait(wire, "c")] if s["state"] == "failed"], "its end")[0]
        assert 'the table "t" was dropped or renamed' in end["error"]
        error, _ = wire.ask("chunk_ctl", chunk="c", op="resume")
        assert error["code"] == "bad_request" and '"t"' in error["message"]
    served.restart()
    with served.wire() as wire:
        assert wire.ask("chunk_ctl", chunk="c", op="resume")[0]["code"] == "bad_request"
        assert wire.call("chunk_ctl", chunk="c", op="cancel")["state"] == "cancelled"
    assert served.read("SELECT * FROM t") == [(999_999, 7, "new")]


def test_a_table_that_is_altered_or_beside_another_that_goes_stays_its_table(daemon):
    served = daemon()
    fill(served, 5_000)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET n = -1", name="c", rate=50)
        wire.write("CREATE TABLE other(a)", "ALTER TABLE t ADD COLUMN more", "DROP TABLE other")
        error, _ = wire.ask("write", batch=[["DROP TABLE t"], ["SELECT nosuch()"]])
        assert error["code"] == "sql"
        wire.call("chunk_ctl", chunk="c", op="pause")
        wire.write("ALTER TABLE t RENAME COLUMN s TO text")
        wire.call("chunk_ctl", chunk="c", op="resume", rate=10_000_000)
        assert wait(wire, "c")["state"] == "done"
    assert served.read("SELECT DISTINCT n FROM t") == [(-1,)]


def test_a_table_that_another_process_made_anew(daemon):
    """What it did is seen afterwards only: whoever began the chunk decides."""
    served = daemon()
    fill(served, 5_000)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET n = -1", name="c", rate=50)
        wire.call("chunk_ctl", chunk="c", op="pause")
        other = sqlite3.connect(served.db)
        with other:
            other.execute("DROP TABLE t")
            other.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, s TEXT, more)")
            other.execute("INSERT INTO t VALUES (999999, 7, 'new', 0), (1, 7, 'new', 0)")
        other.close()
        wire.write("CREATE TABLE next(a)")
        end = wait_for(lambda: [s for s in [wait(wire, "c")] if s["state"] == "failed"], "its end")[0]
        assert 'the table "t"' in end["error"] and "another process" in end["error"]
        assert served.read("SELECT DISTINCT n FROM t") == [(7,)]
        assert wire.call("chunk_ctl", chunk="c", op="resume", rate=10_000_000)["state"] == "running"
        wait(wire, "c")


@pytest.mark.parametrize("index", ["k DESC", "k COLLATE NOCASE"])
def test_an_index_that_is_made_meanwhile_does_not_turn_it_around(daemon, index):
    """The walk stays the one it began with, also over a restart."""
    served = daemon()
    keys = [f"{'aA'[i % 2]}{i:05}" for i in range(3_000)]
    with served.wire() as wire:
        wire.write("CREATE TABLE t(k TEXT NOT NULL UNIQUE, n INT)",
                   ["INSERT INTO t VALUES (?, 0)", [[key] for key in keys], {"many": True}])
        wire.call("chunk", sql="UPDATE t SET n = n + 1", name="c", by="k", rate=1_000)
        wait_for(lambda: served.read("SELECT sum(n) FROM t")[0][0] > 300, "some slices")
        wire.write(f"CREATE UNIQUE INDEX other ON t({index})")
        wire.call("chunk_ctl", chunk="c", op="pause")
    served.restart()
    with served.wire() as wire:
        wire.call("chunk_ctl", chunk="c", op="resume", rate=10_000_000)
        assert wait(wire, "c")["state"] == "done"
    assert served.read("SELECT n, count(*) FROM t GROUP BY n") == [(1, len(keys))]


def test_a_chunk_of_an_older_daemon_keeps_its_order(daemon):
    """Before format 4 it was not written down."""
    served = daemon()
    with served.wire() as wire:
        wire.write("CREATE TABLE t(k TEXT NOT NULL UNIQUE, n INT)",
                   ["INSERT INTO t VALUES (?, 0)", [[f"{i:05}"] for i in range(3_000)], {"many": True}])
        wire.call("chunk", sql="UPDATE t SET n = n + 1", name="c", by="k", rate=1_000)
        wait_for(lambda: served.read("SELECT sum(n) FROM t")[0][0] > 300, "some slices")
        wire.call("chunk_ctl", chunk="c", op="pause")
    served.stop()
    with sqlite3.connect(served.db) as db:
        db.execute("ALTER TABLE _lf_chunk DROP COLUMN walk")
        db.execute("UPDATE _lf_state SET format = 3")
    db.close()
    served.start()
    with served.wire() as wire:
        wire.write("CREATE UNIQUE INDEX other ON t(k DESC)")
        wire.call("chunk_ctl", chunk="c", op="resume", rate=10_000_000)
        assert wait(wire, "c")["state"] == "done"
    assert served.read("SELECT n, count(*) FROM t GROUP BY n") == [(1, 3_000)]


def test_a_rate_holds_from_the_first_slice_on(daemon):
    served = daemon()
    fill(served, 1_000)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET n = -1", name="c", rate=1)
        time.sleep(0.5)
        assert wire.call("chunk_ctl", chunk="c", op="cancel")["rows"] <= 2


def test_a_walk_whose_index_went_says_which_one_it_wants(daemon):
    served = daemon()
    with served.wire() as wire:
        wire.write("CREATE TABLE t(k TEXT NOT NULL, n INT)", "CREATE UNIQUE INDEX i ON t(k DESC)",
                   ["INSERT INTO t VALUES (?, 0)", [[f"{i:05}"] for i in range(3_000)], {"many": True}])
        wire.call("chunk", sql="UPDATE t SET n = n + 1", name="c", by="k", rate=1_000)
        wire.write("DROP INDEX i", "CREATE UNIQUE INDEX j ON t(k)")
        end = wait(wire, "c")
        assert end["state"] == "failed" and "BINARY DESC" in end["error"], end
        wire.write("CREATE UNIQUE INDEX i ON t(k DESC)")
        wire.call("chunk_ctl", chunk="c", op="resume", rate=10_000_000)
        assert wait(wire, "c")["state"] == "done"
    assert served.read("SELECT n, count(*) FROM t GROUP BY n") == [(1, 3_000)]


def test_another_column_that_takes_the_name_of_its_key(daemon):
    served = daemon()
    with served.wire() as wire:
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, pos INTEGER NOT NULL UNIQUE)",
                   ["INSERT INTO t VALUES (?, 0, ?)", [[i, 3_000 - i] for i in range(3_000)], {"many": True}])
        wire.call("chunk", sql="UPDATE t SET n = n + 1", name="c", rate=1_000)
        wire.write("ALTER TABLE t RENAME COLUMN id TO was", "ALTER TABLE t RENAME COLUMN pos TO id")
        end = wait(wire, "c")
        assert end["state"] == "failed" and "key" in end["error"], end
        assert wire.ask("chunk_ctl", chunk="c", op="resume")[0]["code"] == "bad_request"


def test_one_that_is_forgotten_leaves_nothing_behind(daemon):
    """Its row is pruned, and the next one's may not take its number: memory still has the statement of that."""
    served = daemon(key_ttl="1s")
    with served.wire() as wire:
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY, n)", "CREATE TABLE u(id INTEGER PRIMARY KEY, n)",
                   "INSERT INTO t VALUES (1, 0)", "INSERT INTO u VALUES (1, 0)")
        wire.call("chunk", sql="UPDATE t SET n = n + 1", name="first")
        assert wait(wire, "first")["state"] == "done"
        time.sleep(1.2)
        for i, name in enumerate(("second", "third"), 1):
            wire.call("chunk", sql="UPDATE u SET n = n + 1", name=name)
            assert wait(wire, name)["changes"] == 1
            assert served.read("SELECT t.n, u.n FROM t, u") == [(1, i)]
        assert {row[0] for row in wire.call("show", what="chunks")["rows"]} == {"second", "third"}


def test_a_view_that_it_writes_to_may_stay_when_others_go(daemon):
    served = daemon()
    fill(served, 3_000)
    with served.wire() as wire:
        wire.write("CREATE TABLE b(x)", "CREATE VIEW v AS SELECT x FROM b",
                   "CREATE TRIGGER i INSTEAD OF INSERT ON v BEGIN INSERT INTO b VALUES (new.x); END")
        wire.call("chunk", sql="INSERT INTO v SELECT id FROM t", name="c", rate=1_000)
        wire.write("CREATE TABLE unrelated(z)")
        wire.call("chunk_ctl", chunk="c", op="pause")
        wire.call("chunk_ctl", chunk="c", op="resume", rate=10_000_000)
        assert wait(wire, "c")["state"] == "done"
    assert served.read("SELECT count(*) FROM b") == [(3_000,)]


def test_progress_is_told_and_a_wait_can_be_cancelled(daemon):
    served = daemon()
    fill(served, 50_000)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET n = -1", name="p", rate=10_000)
        waiting = wire.request("chunk_ctl", chunk="p", op="wait")
        told = []
        while len(told) < 3:
            method, params = wire.next_notice()
            assert method == "progress" and params["chunk"] == "p"
            told.append(params["rows"])
        assert told == sorted(told)
        wire.notice("cancel", id=waiting)
        assert wire.reply(waiting)[0]["code"] == "cancelled"
        assert wire.call("chunk_ctl", chunk="p", op="wait", wait_ms=0)["state"] == "running"


def test_one_that_fails_keeps_its_slices_and_can_go_on(daemon):
    served = daemon()
    fill(served, 5_000)
    with served.wire() as wire:
        wire.write("CREATE TABLE u(id UNIQUE CHECK (id <> 9000))")
        wire.call("chunk", sql="INSERT INTO u SELECT id FROM t", name="f", rate=20_000)
        end = wait(wire, "f")
        assert end["state"] == "failed" and "CHECK constraint" in end["error"]
        assert served.read("SELECT count(*) FROM u") == [(end["changes"],)]
        assert 0 < end["changes"] < 3_000
        wire.write("UPDATE t SET id = 9001 WHERE id = 9000")
        wire.call("chunk_ctl", chunk="f", op="resume")
        assert wait(wire, "f")["state"] == "done"
    assert served.read("SELECT count(*) FROM u") == [(5_000,)]
    served.stop(signal.SIGTERM)
    assert "chunk failed" in served.log()


def test_a_schema_that_changes_below_it_is_looked_at_again(daemon):
    served = daemon()
    fill(served, 50_000)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET n = -1", name="s", rate=20_000)
        wire.write("CREATE TRIGGER nosy AFTER UPDATE ON t BEGIN"
                   " UPDATE t SET s = 'seen' WHERE id = NEW.id + 3; END")
        end = wait(wire, "s")
        assert end["state"] == "failed" and "cannot be sliced" in end["error"]


def test_what_others_point_to_is_not_changed_in_parts(daemon):
    """NO ACTION is looked at when the statement is over: a part was refused that the whole would have mended."""
    served = daemon()
    served.write("CREATE TABLE par(id INTEGER PRIMARY KEY, x INT UNIQUE, y, z, UNIQUE (y, z))",
                 "CREATE TABLE kid(id INTEGER PRIMARY KEY, p INT REFERENCES par(x))",
                 "CREATE TABLE both(y, z, FOREIGN KEY (y, z) REFERENCES PAR(Y, Z) DEFERRABLE INITIALLY DEFERRED)",
                 "CREATE TABLE word(w TEXT PRIMARY KEY, n INTEGER UNIQUE NOT NULL) WITHOUT ROWID", "CREATE TABLE says(w REFERENCES word)",
                 "INSERT INTO par(id, x) VALUES (1, 1), (2, 2)", "INSERT INTO word VALUES ('a', 1)")
    with served.wire() as wire:
        for number, (sql, by, who) in enumerate((("UPDATE par SET x = x - 1", None, "kid"), ("UPDATE par SET X = 5", None, "kid"),
                                                 ("UPDATE par SET z = 1", None, "both"), ("UPDATE word SET w = w || 'x'", "n", "says"))):
            error, _ = wire.ask("chunk", sql=sql, name=f"c{number}", **({"by": by} if by else {}))
            assert error["code"] == "bad_request" and f'a foreign key of "{who}" points' in error["message"], (sql, error)
        wire.call("chunk", sql="UPDATE kid SET p = NULL", name="free")
        assert wait(wire, "free")["state"] == "done"


ENDLESS = ("UPDATE t SET n = (WITH RECURSIVE c(i) AS (SELECT t.n UNION ALL SELECT i + 1 FROM c)"
           " SELECT max(i) FROM c)")


def waits(wire):
    table = wire.call("show", what="waits")
    return [dict(zip(table["columns"], row)) for row in table["rows"]]


def running_slice(wire):
    """A slice of one row that has no end: whoever looks meets it sooner or later."""
    def found():
        rows = [row for row in waits(wire) if row["state"] == "running" and row["what"] == "chunk"]
        return rows[0] if rows and rows[0]["age_ms"] > 100 else None
    return wait_for(found, "a slice that runs")


def test_a_slice_without_end_is_named_and_ends_when_it_is_told_to(daemon):
    served = daemon(exec_timeout="1h", waited_long="10ms")
    fill(served, 3)
    with served.wire() as wire, served.wire(label="waits") as other:
        wire.call("chunk", sql=ENDLESS, name="endless")
        row = running_slice(wire)
        assert row["sql"] == ENDLESS[:len(row["sql"]) - 1] + "…" or row["sql"] == ENDLESS
        assert row["digest"].startswith("#") and row["label"] == "endless"
        waiting = other.request("write", batch=[["INSERT INTO t VALUES (1, 1, 'x')"]])
        wait_for(lambda: any(row["label"] == "waits" and row["age_ms"] > 20 for row in waits(wire)),
                 "one that waits")
        assert wire.call("chunk_ctl", chunk="endless", op="pause")["state"] == "paused"
        error, result = other.reply(waiting)
        assert error is None and result["waited_for"]["what"] == "chunk"
        assert result["waited_for"]["sql"].startswith(ENDLESS[:40])
        assert result["waited_for"]["label"] == "endless"
        wire.call("chunk_ctl", chunk="endless", op="resume")
        assert wire.call("kill", id_=running_slice(wire)["id"])["state"] == "interrupted"
        end = wait(wire, "endless")
        assert end["state"] == "failed" and "administrator" in end["error"]
        wire.call("chunk_ctl", chunk="endless", op="resume")
        running_slice(wire)
        assert wire.call("chunk_ctl", chunk="endless", op="cancel")["state"] == "cancelled"
        assert wait(wire, "endless")["changes"] == 0
    assert served.read("SELECT sum(n) FROM t") == [(1 + 1 + 2 + 3,)]


def test_another_user_sees_its_digest_only(daemon):
    served = daemon(roles_write="*", roles_admin="0", exec_timeout="1h")
    fill(served, 1)
    with served.wire() as root, served.wire_as(20051) as one:
        root.call("chunk", sql=ENDLESS, name="mine")
        row = running_slice(one)
        assert row["sql"] is None and row["digest"] == running_slice(root)["digest"]
        assert one.ask("kill", id_=row["id"])[0]["code"] == "denied"
        root.call("chunk_ctl", chunk="mine", op="cancel")


def test_refusals_say_what_would_help(daemon):
    served = daemon()
    with served.wire() as wire:
        wire.write("CREATE TABLE bare(x)", "CREATE TABLE k(id INTEGER PRIMARY KEY, x)")
        for sql, word in (("DELETE FROM bare", "`by`"), ("UPDATE k SET id = id + 1", "key"),
                          ("DELETE FROM k WHERE x = (SELECT max(x) FROM k)", "reads"),
                          ("DELETE FROM k WHERE (SELECT sum(ncell) FROM dbstat) > 5", "dbstat"),
                          ("UPDATE k SET x = (SELECT commit_no FROM _lf_state)", "_lf_state"),
                          ("UPDATE k SET x = (SELECT max(rows) FROM _lf_chunk)", "_lf_chunk"),
                          ("DELETE FROM k WHERE id IN (SELECT rowid FROM pragma_foreign_key_check('k'))", "pragma_"),
                          ("DELETE FROM k LIMIT 5", "LIMIT"), ("SELECT 1", "UPDATE")):
            error, _ = wire.ask("chunk", sql=sql, name="x")
            assert error["code"] == "bad_request" and word in error["message"], error
        for params in ({}, {"name": "x"}, {"name": "", "sql": "DELETE FROM k"},
                       {"name": "x", "sql": "DELETE FROM k", "rate": 0},
                       {"name": "x", "sql": "DELETE FROM k", "slice_ms": 5000},
                       {"name": "x" * 256, "sql": "DELETE FROM k"},
                       {"name": "x", "sql": "DELETE FROM k", "params": [1]},
                       {"name": "x", "sql": "DELETE FROM k WHERE x = ?"}):
            assert wire.ask("chunk", **params)[0]["code"] == "bad_request", params
        assert wire.call("show", what="chunks")["rows"] == []
        wire.call("chunk", name="q", sql="WITH q AS (SELECT x FROM bare LIMIT 9) UPDATE k SET x = (SELECT count(*) FROM q)")
        assert wait(wire, "q")["state"] == "done"


def test_other_users(daemon):
    served = daemon(roles_write="*")
    fill(served, 20_000)
    with served.wire_as(20051) as one, served.wire_as(20052) as two, served.wire() as root:
        one.call("chunk", sql="UPDATE t SET n = 1", name="mine", rate=1_000)
        assert two.ask("chunk_ctl", chunk="mine", op="cancel")[0]["code"] == "not_found"
        assert two.ask("chunk_ctl", chunk="mine", op="wait")[0]["code"] == "not_found"
        two.call("chunk", sql="UPDATE t SET n = 2", name="mine", rate=1_000)
        rows = [dict(zip(t["columns"], row)) for t in [two.call("show", what="chunks")]
                for row in t["rows"]]
        assert {row["uid"] for row in rows} == {20051, 20052}
        assert all(row["sql"] is None for row in rows)
        assert root.call("chunk_ctl", chunk="mine", op="cancel")["state"] == "cancelled"


def test_a_drain_does_not_wait_for_it(daemon):
    served = daemon()
    fill(served, 50_000)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET n = -1", name="long", rate=50)  # a quarter of an hour
        waiting = wire.request("chunk_ctl", chunk="long", op="wait")
        wire.call("ping")
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        try:
            error, _ = wire.reply(waiting)
            assert error["code"] == "shutting_down" and error["retry"]
        except Closed as closed:
            pytest.fail(f"no answer to the wait, {closed}")
    served.wait()
    assert time.monotonic() - began < 60
    served.start()
    with served.wire() as wire:
        wire.call("chunk_ctl", chunk="long", op="resume", rate=10_000_000)
        assert wait(wire, "long")["state"] == "done"


def test_command(litefunnel, daemon):
    served = daemon()
    fill(served, 30_000)
    done = run(litefunnel, served, "UPDATE t SET n = n + ?", "5", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["state"] == "done" and facts["changes"] == 30_000
    done = run(litefunnel, served, "DELETE FROM t WHERE n > :n", ":n=8", "--name", "d", "--by", "id")
    assert done.returncode == 0 and done.stdout.startswith("d: done"), done.stderr
    done = run(litefunnel, served, "UPDATE t SET id = 1", "--name", "bad")
    assert done.returncode == 1 and "changes the key" in done.stderr
    done = run(litefunnel, served, "UPDATE t SET n = 0", "--name", "slow", "--rate", "1000",
               "--detach")
    assert done.returncode == 0 and "--wait slow" in done.stdout
    done = run(litefunnel, served, "--pause", "slow")
    assert done.returncode == 0 and "slow: paused" in done.stdout
    done = run(litefunnel, served, "--wait", "slow")
    assert done.returncode in (1, 5) and "--resume slow" in done.stderr
    done = run(litefunnel, served, "--resume", "slow", "--rate", "10000000")
    assert done.returncode == 0 and "slow: done" in done.stdout, done.stderr
    done = run(litefunnel, served, "--cancel", "slow")
    assert done.returncode == 1 and '"slow" was done already' in done.stderr, done.stderr
    served.write("CREATE TABLE none(id INTEGER PRIMARY KEY CHECK (id < 0))")
    done = run(litefunnel, served, "INSERT INTO none SELECT id FROM t", "--name", "never")
    assert done.returncode == 1 and "CHECK" in done.stderr, done
    done = run(litefunnel, served, "--cancel", "nobody")
    assert done.returncode == 1 and "no chunk" in done.stderr
    with pytest.raises(Refused):
        served.wire().call("chunk_ctl", chunk="nobody", op="pause")
