# SPDX-License-Identifier: MIT
"""Leases: interactive transactions of one client, and what others notice of them."""
import contextlib
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time

import pytest

from daemon import wait_for
from wire import Closed, Refused


@pytest.fixture(scope="module")
def served(shared_daemon):
    daemon = shared_daemon(roles_query="20001", roles_write="20002", roles_ddl="root")
    daemon.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)",
                 "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
                 "CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
                 "CREATE TABLE strict_child(id INTEGER PRIMARY KEY, p REFERENCES parent)",
                 "CREATE TABLE deep(n)",
                 "CREATE TRIGGER again AFTER INSERT ON deep WHEN NEW.n < 3 BEGIN INSERT INTO deep VALUES (NEW.n + 1); END")
    return daemon


@pytest.fixture(scope="module")
def build(litefunnel):
    """The build directory of the program under test."""
    return pathlib.Path(os.environ.get("LITEFUNNEL_BUILD") or litefunnel.parents[1])


@pytest.fixture
def wire(served):
    served.write("DELETE FROM t", "DELETE FROM child", "DELETE FROM strict_child", "DELETE FROM parent", "DELETE FROM deep")
    with served.wire(session=os.urandom(16)) as wire:
        yield wire


def step(wire, sql, params=None, lease=1, **opts):
    more = {"opts": opts} if opts else {}
    return wire.call("step", lease=lease, sql=sql, params=params, **more)


def fails(wire, method, code, is_open, **params):
    error, result = wire.ask(method, **params)
    assert result is None and error is not None
    assert (error["code"], error["applied"], error["retry"], error.get("open")) == (code, "no", False, is_open), error
    return error


def leases(served):
    with served.wire() as wire:
        shown = wire.call("show", what="leases")
    return [dict(zip(shown["columns"], row)) for row in shown["rows"]]


# ---- life

def test_it_sees_its_own_writes_and_others_do_not(served, wire):
    begun = wire.call("begin", lease=7)
    assert begun == {"lease": 7, "commit": wire.call("ping")["commit"], "open": True}
    inserted = step(wire, "INSERT INTO t(a) VALUES (?)", ["x"], lease=7)
    assert inserted == {"changes": 1, "total": 1, "rowid": 1, "open": True}
    assert step(wire, "SELECT a FROM t", lease=7)["rows"] == [["x"]]
    assert served.read("SELECT * FROM t") == []
    done = wire.call("commit", lease=7)
    assert done["commit"] == begun["commit"] + 1 and done["open"] is False and "steps" not in done
    assert served.read("SELECT a FROM t") == [("x",)]
    fails(wire, "step", "lease_gone", False, lease=7, sql="SELECT 1")


def test_everything_may_be_sent_at_once(served, wire):
    ids = [wire.request("begin", lease=1),
           wire.request("step", lease=1, sql="INSERT INTO t(a) VALUES (1)"),
           wire.request("step", lease=1, sql="SELECT count(*) FROM t"),
           wire.request("commit", lease=1),
           wire.request("begin", lease=2),
           wire.request("step", lease=2, sql="SELECT count(*) FROM t"),
           wire.request("rollback", lease=2),
           wire.request("write", batch=[["SELECT count(*) FROM t"]])]
    answers = [wire.reply(number) for number in ids]
    assert all(error is None for error, _ in answers), answers
    assert answers[5][1]["rows"] == [[1]] and answers[7][1]["steps"][0]["rows"] == [[1]]


def test_after_a_begin_that_failed_all_is_gone(wire):
    at = {"epoch": bytes(16), "commit": 1}
    ids = [wire.request("begin", lease=1, at=at), wire.request("step", lease=1, sql="SELECT 1"),
           wire.request("commit", lease=1)]
    codes = [(error["code"], error["open"]) for error, _ in map(wire.reply, ids)]
    assert codes == [("epoch_changed", False), ("lease_gone", False), ("lease_gone", False)]
    fails(wire, "step", "lease_gone", False, lease=99, sql="SELECT 1")
    fails(wire, "rollback", "lease_gone", False, lease=99)
    assert wire.call("begin", lease=1)["open"]


def test_one_at_a_time(wire):
    wire.call("begin", lease=1)
    for method, params in (("begin", {"lease": 2}), ("write", {"batch": [["SELECT 1"]]})):
        error, _ = wire.ask(method, **params)
        assert error["code"] == "bad_request" and "open lease" in error["message"]
    assert step(wire, "SELECT 1")["open"]
    wire.call("rollback", lease=1)
    wire.write("SELECT 1")


@pytest.mark.parametrize("sql", ("COMMIT", "END TRANSACTION;", "  commit -- x"))
def test_a_step_that_commits(served, wire, sql):
    wire.call("begin", lease=1)
    step(wire, "INSERT INTO t(a) VALUES (1)")
    done = step(wire, sql)
    assert done["open"] is False and done["changes"] == 0 and done["commit"] > 0
    assert served.read("SELECT count(*) FROM t") == [(1,)]


def test_a_step_that_rolls_back(served, wire):
    wire.call("begin", lease=1)
    step(wire, "INSERT INTO t(a) VALUES (1)")
    assert step(wire, "ROLLBACK")["open"] is False
    assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_failures_leave_it_open_or_not(served, wire):
    wire.call("begin", lease=1)
    step(wire, "INSERT INTO t(id, a) VALUES (1, 1)")
    assert fails(wire, "step", "sql", True, lease=1, sql="INSERT INTO t(a) VALUES (1)")["sqlite"] == 2067
    fails(wire, "step", "sql", True, lease=1, sql="SELEC")
    fails(wire, "step", "bad_request", True, lease=1, sql="SELECT 1; SELECT 2")
    fails(wire, "step", "guard", True, lease=1, sql="UPDATE t SET a = 5", opts={"expect": {"changes": 7}})
    fails(wire, "step", "too_large", True, lease=1, sql="UPDATE t SET a = 6 RETURNING a", opts={"rows": 0})
    assert fails(wire, "step", "sql", True, lease=1, sql="INSERT INTO t(a) VALUES (?)", params=[[2], [3], [3]],
                 opts={"many": True})["row"] == 2
    assert step(wire, "SELECT a FROM t")["rows"] == [[1]]
    fails(wire, "step", "sql", False, lease=1, sql="INSERT OR ROLLBACK INTO t(id) VALUES (1)")
    fails(wire, "step", "lease_gone", False, lease=1, sql="SELECT 1")
    assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_what_a_lease_may_not(served, wire):
    for sql in ("ATTACH ':memory:' AS x", "VACUUM", "UPDATE _lf_state SET commit_no = 0",
                "CREATE TEMP TABLE _lf_state(a)", "CREATE TEMP TRIGGER x AFTER UPDATE ON _lf_state BEGIN SELECT 1; END",
                "SAVEPOINT _lf_batch", "RELEASE _lf_batch", "PRAGMA recursive_triggers = 1", "PRAGMA temp_store = 1"):
        wire.call("begin", lease=1)
        error, result = wire.ask("step", lease=1, sql=sql)
        if "temp_store" in sql:
            assert error is None  # answered, not executed
        else:
            assert error["code"] == "denied" and error["open"], (sql, error)
        wire.call("rollback", lease=1)
    # What the authorizer does not see costs the lease.
    wire.call("begin", lease=1)
    step(wire, "CREATE TEMP TABLE mine(a)")
    fails(wire, "step", "denied", False, lease=1, sql="ALTER TABLE mine RENAME TO _lf_state")
    error, _ = wire.ask("begin", lease=1)
    assert error is None
    fails(wire, "step", "denied", True, lease=1, sql="INSERT INTO t(a) VALUES (1); COMMIT", opts={"script": True})
    wire.call("rollback", lease=1)
    # A batch still may none of it.
    for sql in ("SAVEPOINT a", "COMMIT", "BEGIN", "CREATE TEMP TABLE x(a)", "PRAGMA defer_foreign_keys = 1"):
        error, _ = wire.ask("write", batch=[[sql]])
        assert error["code"] == "denied", sql


def test_roles(served):
    with served.wire_as(20001) as reader, served.wire_as(20002) as writer:
        reader.call("begin", lease=1)
        assert reader.call("step", lease=1, sql="SELECT count(*) FROM t")["rows"]
        fails(reader, "step", "denied", True, lease=1, sql="INSERT INTO t(a) VALUES (1)")
        fails(reader, "step", "denied", True, lease=1, sql="CREATE TEMP TABLE x(a)")
        reader.call("rollback", lease=1)
        writer.call("begin", lease=1)
        writer.call("step", lease=1, sql="CREATE TEMP TABLE x(a)")
        fails(writer, "step", "denied", True, lease=1, sql="CREATE TABLE x(a)")
        writer.call("commit", lease=1)


# ---- nothing leaks

def test_temp_objects_go_with_it(served, wire):
    for end in ("commit", "rollback"):
        wire.call("begin", lease=1)
        step(wire, "CREATE TEMP TABLE own(id INTEGER PRIMARY KEY AUTOINCREMENT)")
        step(wire, "CREATE TEMP TABLE t(other)")  # hides the real one
        step(wire, "INSERT INTO t VALUES (1)")
        step(wire, "CREATE TEMP TRIGGER spy AFTER INSERT ON main.parent BEGIN INSERT INTO own VALUES (NULL); END")
        step(wire, "CREATE VIRTUAL TABLE temp.words USING fts5(w)")
        step(wire, "INSERT INTO parent VALUES (NULL)")
        assert step(wire, "SELECT count(*) FROM own")["rows"] == [[1]]
        wire.call(end, lease=1)
        rows = [one["rows"] for one in wire.write(
            "SELECT * FROM sqlite_temp_schema", "SELECT count(*) FROM t", "SELECT last_insert_rowid(), changes()",
            "INSERT INTO parent VALUES (NULL) RETURNING 1")["steps"]]
        assert rows == [[], [[0]], [[0, 0]], [[1]]]
        error, _ = wire.ask("write", batch=[["SELECT * FROM sqlite_sequence"]])
        assert "no such table" in error["message"]


def test_settings(served, wire):
    def rows(sql):
        return wire.write(sql)["steps"][0]["rows"]

    before = rows("PRAGMA recursive_triggers")
    wire.call("begin", lease=1, set={"foreign_keys": False, "recursive_triggers": not before[0][0]})
    step(wire, "INSERT INTO strict_child(p) VALUES (99)")
    assert step(wire, "PRAGMA foreign_keys")["rows"] == [[0]]
    # SQLite would do nothing, and not say so; what asks for what is there is answered.
    for value in ("1", "on", "'yes'"):
        error = fails(wire, "step", "denied", True, lease=1, sql=f"PRAGMA foreign_keys = {value}")
        assert "give it to `begin`, in `set`" in error["message"]
    step(wire, "PRAGMA foreign_keys = off")
    assert step(wire, "PRAGMA foreign_keys")["rows"] == [[0]]
    step(wire, "CREATE TABLE IF NOT EXISTS rebuilt(a)")
    wire.call("commit", lease=1)
    assert rows("PRAGMA foreign_keys") == [[1]] and rows("PRAGMA recursive_triggers") == before
    error, _ = wire.ask("write", batch=[["INSERT INTO strict_child(p) VALUES (98)"]])
    assert error["sqlite"] == 787
    counts = []
    for on in (False, True):
        wire.call("begin", lease=1, set={"recursive_triggers": on})
        step(wire, "INSERT INTO deep VALUES (0)")
        counts += step(wire, "SELECT count(*) FROM deep")["rows"]
        wire.call("rollback", lease=1)
    assert counts == [[2], [4]]
    wire.call("begin", lease=1, set={"defer_foreign_keys": True})
    step(wire, "INSERT INTO strict_child(p) VALUES (5)")
    step(wire, "INSERT INTO parent VALUES (5)")
    wire.call("commit", lease=1)
    for bad in ({"foreign_keys": 1}, {"cache_size": True}, [], {"foreign_keys": True, "x": True}):
        error, _ = wire.ask("begin", lease=1, set=bad)
        assert error["code"] == "bad_request", bad


def test_deferred_constraints_leave_it_open(served, wire):
    wire.call("begin", lease=1)
    step(wire, "INSERT INTO child(p) VALUES (77)")
    error = fails(wire, "commit", "sql", True, lease=1, seq=1)
    assert (error["sqlite"], error["message"]) == (787, "FOREIGN KEY constraint failed")
    step(wire, "INSERT INTO parent VALUES (77)")
    assert wire.call("commit", lease=1, seq=1)["open"] is False
    assert served.read("SELECT p FROM child") == [(77,)]


def test_constraints_deferred_on_the_way(served, wire):
    """SQLite counts violations by the setting at the time, and looks at what they come to together."""
    for holds in (True, False):
        wire.call("begin", lease=1)
        step(wire, "INSERT INTO child(id, p) VALUES (1, 77)")
        step(wire, "PRAGMA defer_foreign_keys = 1")
        step(wire, "DELETE FROM child WHERE id = 1" if holds else "INSERT INTO strict_child(id, p) VALUES (1, 78)")
        if not holds:
            error = fails(wire, "commit", "sql", True, lease=1, seq=1)
            assert (error["sqlite"], error["message"]) == (787, "FOREIGN KEY constraint failed")
            step(wire, "UPDATE strict_child SET p = NULL")
            step(wire, "DELETE FROM child")
        assert wire.call("commit", lease=1, **({} if holds else {"seq": 1}))["open"] is False
    assert served.read("SELECT p FROM child UNION ALL SELECT p FROM strict_child") == [(None,)]
    assert wire.call("commit", lease=1, seq=1)["repeat"] is True


def test_a_commit_that_was_tried_leaves_the_counters(wire):
    """It takes statements of the daemon's own to try, which must not show."""
    wire.call("begin", lease=1)
    step(wire, "PRAGMA defer_foreign_keys = 1")
    step(wire, "INSERT INTO strict_child(id, p) VALUES (41, 78), (42, 78), (43, 79)")
    for _ in range(2):
        fails(wire, "commit", "sql", True, lease=1)
        assert step(wire, "SELECT changes(), last_insert_rowid()")["rows"] == [[3, 43]]
    step(wire, "UPDATE strict_child SET p = NULL WHERE id = 44")
    fails(wire, "commit", "sql", True, lease=1)
    assert step(wire, "SELECT changes(), last_insert_rowid()")["rows"] == [[0, 43]]
    wire.call("rollback", lease=1)


# ---- virtual tables

@pytest.mark.parametrize("between", [
    "EXPLAIN COMMIT", "EXPLAIN ROLLBACK TO a", "SAVEPOINT b", "RELEASE a", "PRAGMA defer_foreign_keys = 1"])
def test_what_a_virtual_table_holds_back_is_seen(wire, between):
    """FTS5 writes late; opened anew in the middle of a transaction it would not know of that."""
    wire.call("begin", lease=1)
    step(wire, "CREATE VIRTUAL TABLE words USING fts5(w)")
    step(wire, "SAVEPOINT a")
    for number in range(1, 4):
        assert step(wire, "INSERT INTO words VALUES ('one')")["total"] <= 6
        step(wire, between)
        if between == "RELEASE a":
            step(wire, "SAVEPOINT a")
        assert step(wire, "SELECT count(*) FROM words WHERE words MATCH 'one'")["rows"] == [[number]]
    step(wire, "INSERT INTO words(words) VALUES ('integrity-check')")
    wire.call("rollback", lease=1)


@pytest.mark.parametrize("script", [False, True])
def test_a_schema_that_was_taken_back_to_a_savepoint(wire, script):
    """A DDL statement that fails makes SQLite forget that another has changed the schema."""
    wire.call("begin", lease=1)
    step(wire, "CREATE TABLE typed(a INT) STRICT")
    step(wire, "SAVEPOINT a")
    step(wire, "ALTER TABLE t ADD COLUMN taken_back")
    fails(wire, "step", "sql", True, lease=1, sql="ALTER TABLE typed ADD COLUMN untyped DEFAULT 4")
    assert step(wire, "SELECT * FROM t")["columns"] == ["id", "a", "taken_back"]
    step(wire, "ROLLBACK TO a", script=script)
    assert step(wire, "SELECT * FROM t")["columns"] == ["id", "a"]
    wire.call("rollback", lease=1)


def test_a_rollback_of_sqlite_s_own_beside_a_virtual_table(daemon):
    """FTS5 reads a table of its own in that moment, and the TEMP database stayed open for it."""
    served = daemon()
    served.write("CREATE VIRTUAL TABLE words USING fts5(w)", "CREATE TABLE t(a NOT NULL, b)", "INSERT INTO t VALUES (1, NULL)",
                 "CREATE TABLE log(n)")
    with served.wire() as wire:
        wire.call("begin", lease=1)
        step(wire, "CREATE TEMP TRIGGER spy AFTER INSERT ON log BEGIN SELECT 1; END")
        step(wire, "INSERT INTO words VALUES ('one two')")
        fails(wire, "step", "sql", False, lease=1, sql="INSERT OR ROLLBACK INTO t(a) SELECT b FROM t")
        assert [one["rows"] for one in wire.write("SELECT * FROM sqlite_temp_schema", "SELECT count(*) FROM words")["steps"]] == [
            [], [[0]]]


# ---- cursors

def test_describe_does_not_wait_for_its_own_lease(wire):
    wire.call("begin", lease=1)
    error, _ = wire.ask("describe", sql="SELECT 1")
    assert error["code"] == "bad_request" and "open lease" in error["message"]
    assert wire.call("describe", sql="SELECT 1", lease=1)["columns"]
    wire.call("rollback", lease=1)


def test_a_cursor_in_the_way(served, wire):
    """SQLITE_LOCKED is one's own doing: it was taken for another process, and the lease was lost."""
    served.write("CREATE TABLE other(x)")
    wire.call("begin", lease=1)
    step(wire, "INSERT INTO t(a) VALUES (1), (2), (3)")
    cursor = step(wire, "SELECT a FROM t", cursor=1)["cursor"]
    error = fails(wire, "step", "sql", True, lease=1, sql="DROP TABLE other")
    assert error["sqlite"] & 0xff == 6 and "close it first" in error["message"]
    wire.call("close", lease=1, cursor=cursor)
    step(wire, "DROP TABLE other")
    wire.call("commit", lease=1)
    assert served.read("SELECT name FROM sqlite_schema WHERE name = 'other'") == []


def test_cursors(served, wire):
    wire.call("begin", lease=1)
    step(wire, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO t(a) SELECT i FROM n")
    first = step(wire, "SELECT a FROM t WHERE a > :low ORDER BY a", {"low": 10}, cursor=100)
    assert first["rows"][0] == [11] and len(first["rows"]) == 100 and first["more"] is True
    other = step(wire, "SELECT a FROM t ORDER BY a DESC", cursor=1)
    step(wire, "DELETE FROM t WHERE a = 1000")
    rows, cursor = first["rows"], first["cursor"]
    while True:
        more = wire.call("fetch", lease=1, cursor=cursor, rows=77)
        rows += more["rows"]
        if not more["more"]:
            break
    assert rows == [[i] for i in range(11, 1000)]
    fails(wire, "fetch", "not_found", True, lease=1, cursor=cursor, rows=1)
    assert wire.call("close", lease=1, cursor=other["cursor"]) == {}
    fails(wire, "close", "not_found", True, lease=1, cursor=other["cursor"])
    for sql, opts in (("UPDATE t SET a = a RETURNING a", {}), ("SAVEPOINT x", {}), ("SELECT 1", {"truncate": True}),
                      ("SELECT 1", {"many": True}), ("SELECT 1", {"script": True})):
        error, _ = wire.ask("step", lease=1, sql=sql, opts={"cursor": 1, **opts})
        assert error["code"] == "bad_request", sql
    opened = [step(wire, "SELECT a FROM t", cursor=1)["cursor"] for _ in range(16)]
    fails(wire, "step", "bad_request", True, lease=1, sql="SELECT a FROM t", opts={"cursor": 1})
    assert len(set(opened)) == 16
    wire.call("commit", lease=1)  # with all of them open
    error, _ = wire.ask("write", batch=[["SELECT 1", None, {"cursor": 1}]])
    assert error["code"] == "bad_request"


def test_describe_in_a_lease(wire):
    wire.call("begin", lease=1)
    step(wire, "CREATE TEMP TABLE own(a INTEGER)")
    described = wire.call("describe", lease=1, sql="SELECT a FROM own WHERE a = ?")
    assert (described["columns"], described["types"], described["params"]) == (["a"], ["INTEGER"], 1)
    wire.call("rollback", lease=1)
    error, _ = wire.ask("describe", sql="SELECT a FROM own")
    assert error["code"] == "sql"


# ---- snapshots

def test_at(served, wire):
    [(epoch, commit)] = served.read("SELECT epoch, commit_no FROM _lf_state")
    at = {"epoch": epoch, "commit": commit}
    wire.call("begin", lease=1, at=at)
    step(wire, "INSERT INTO t(a) VALUES (1)")
    done = wire.call("commit", lease=1)["commit"]
    assert fails(wire, "begin", "snapshot_changed", False, lease=1, at=at)["sqlite"] == 517
    fails(wire, "begin", "snapshot_changed", False, lease=1, at={**at, "tables": ["parent", "t"]})
    wire.call("begin", lease=1, at={**at, "tables": ["parent"]})
    wire.call("rollback", lease=1)
    wire.call("begin", lease=1, at={**at, "commit": done})
    wire.call("rollback", lease=1)
    error, _ = wire.ask("write", batch=[["SELECT 1"]], if_commit={"at": at, "tables": ["t"]})
    assert error["code"] == "snapshot_changed"  # a lease's writes count


# ---- others

def test_others_wait_and_get_no_error(daemon):
    served = daemon(lease_idle="300ms")
    served.write("CREATE TABLE t(a)")
    with served.wire() as holder, served.wire() as other:
        holder.call("begin", lease=1, label="the holder")
        holder.call("step", lease=1, sql="INSERT INTO t VALUES (1)")
        waiting = other.request("write", batch=[["INSERT INTO t VALUES (2)"]])
        # In its own time the holder would have ten times as long; now somebody waits.
        error, result = other.reply(waiting)
        assert error is None and result["queued_us"] > 100_000
        for _ in range(2):
            error = fails(holder, "step", "lease_expired", False, lease=1, sql="SELECT 1")
            assert "0.3 s of waiting for its client, 30 s in all (settings lease_idle, lease_total)" in error["message"]
        assert fails(holder, "commit", "lease_expired", False, lease=1)["sqlite"] == 5
        assert served.read("SELECT a FROM t") == [(2,)]
        assert "lease expired" in served.log() and "the holder" in served.log()
        holder.call("begin", lease=2)
        holder.call("rollback", lease=2)


def rows_of(wire, what):
    shown = wire.call("show", what=what)
    return [dict(zip(shown["columns"], row)) for row in shown["rows"]]


def test_who_held_a_lease_is_named_by_what_it_did_and_not_by_its_end(daemon, slow):
    served = daemon(lease_idle="1h", lease_total="1h", waited_long="1ms")
    served.write("CREATE TABLE t(a)")
    with served.wire() as holder, served.wire() as other:
        for end in ("COMMIT", "ROLLBACK"):
            holder.call("begin", lease=1)
            step(holder, "INSERT INTO t VALUES (1)")
            write = other.request("write", batch=[["INSERT INTO t VALUES (2)"]])
            wait_for(lambda: len(rows_of(holder, "waits")) == 2, "the other waits")
            time.sleep(0.01)  # longer than `waited_long`
            assert step(holder, end)["open"] is False
            error, result = other.reply(write)
            assert error is None and result["waited_for"]["sql"] == "INSERT INTO t VALUES (1)"


def test_who_holds_a_lease_is_named(daemon, slow):
    """As long as it is open in `show waits`; afterwards in the replies of all who waited, and in the log."""
    served = daemon(lease_idle=f"{2 * slow}s", slow="100ms", roles_ddl="*")
    served.write("CREATE TABLE t(a)")
    sql = "INSERT INTO t VALUES (1) /* " + "x" * 200 + " */"
    with served.wire(label="daemon's friend") as holder, served.wire(label="light") as other, \
            served.wire() as third, served.wire_as(20003) as stranger:
        holder.call("begin", lease=1, label="the console", class_="bulk")
        assert rows_of(third, "waits")[0]["sql"] is None  # it has said nothing yet
        holder.call("step", lease=1, sql=sql)
        write = other.request("write", batch=[["INSERT INTO t VALUES (2)"]])
        begin = stranger.request("begin", lease=7)
        hasty = third.request("begin", lease=1, deadline_ms=50)
        # Whoever looks sees it at once: there is nothing to wait for.
        first = rows_of(other, "waits")[0]
        assert (first["position"], first["state"], first["what"], first["class"]) == (0, "running", "lease", "bulk")
        assert (first["pid"], first["uid"], first["label"]) == (os.getpid(), os.getuid(), "the console")
        assert first["sql"] == sql[:120] + "…" and first["digest"].startswith("#")
        theirs = rows_of(stranger, "waits")[0]
        assert (theirs["label"], theirs["sql"], theirs["digest"]) == ("the console", None, first["digest"])
        named = {"what": "lease", "pid": os.getpid(), "uid": os.getuid(), "label": "the console", "sql": first["sql"]}
        error, _ = third.reply(hasty)
        assert error["code"] == "deadline" and error["waited_for"] == named
        # Whichever of the two is first: both have waited for the console longest.
        error, result = stranger.reply(begin)
        assert error is None and result["waited_for"] == {**named, "sql": first["digest"]}
        stranger.call("rollback", lease=7)
        error, result = other.reply(write)
        assert error is None and result["waited_for"] == named
    [line] = [line for line in served.log().splitlines() if "slow lease" in line and ' label="the console"' in line]
    assert f"pid={os.getpid()}" in line and "INSERT INTO t VALUES (1)" in line and "class=bulk" in line
    [line] = [line for line in served.log().splitlines() if "slow batch" in line and "label=light" in line]
    assert 'waited_for_label="the console"' in line and "waited_for=lease" in line


def test_limits_by_class_and_label(daemon, litefunnel):
    served = daemon(lease_idle="1h", lease_total="1h", lease_limits="label:fast*=50ms/1h,class:bulk=1h/50ms")
    with served.wire() as holder, served.wire() as other:
        for number, (params, limited) in enumerate((({"label": "fast one"}, True), ({"class_": "bulk"}, True),
                                                    ({"label": "slow one"}, False))):
            holder.call("begin", lease=number, **params)
            waiting = other.request("begin", lease=number)
            if limited:
                other.reply(waiting)
                other.call("rollback", lease=number)
                error = fails(holder, "step", "lease_expired", False, lease=number, sql="SELECT 1")
                assert "0.05 s" in error["message"] and "(setting lease_limits)" in error["message"]
            else:
                holder.call("rollback", lease=number)
                other.reply(waiting)
                other.call("rollback", lease=number)
    for bad in ("x", "x=1s", "x=1s/", "x=1s/0ms", "=1s/1s", "x=1/1", "x=1s/1s,y"):
        done = subprocess.run([litefunnel, "serve", served.db, f"--lease-limits={bad}"], capture_output=True,
                              text=True, timeout=60, check=False)
        assert done.returncode != 0 and "WHO=IDLE/TOTAL" in done.stderr, bad


@pytest.mark.parametrize("how", ("idle", "running"))
def test_kill_of_a_lease(served, wire, how):
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with served.wire() as admin, served.wire() as other:
        wire.call("begin", lease=1)
        step(wire, "INSERT INTO t(a) VALUES (1)")
        running = wire.request("step", lease=1, sql=forever) if how == "running" else None
        if running:
            wait_for(lambda: rows_of(admin, "waits")[0]["sql"] == forever, "it runs")
        held = rows_of(admin, "waits")[0]
        assert held["what"] == "lease"
        begin = other.request("begin", lease=1)
        waiting = wait_for(lambda: [row for row in rows_of(admin, "waits") if row["position"] == 1], "one waits")
        assert admin.call("kill", id_=held["id"]) == {"state": "interrupted"}
        if running:
            error, _ = wire.reply(running)
            assert (error["code"], error["open"], error["applied"]) == ("cancelled", False, "no")
        assert other.reply(begin)[0] is None
        fails(wire, "commit", "lease_gone", False, lease=1)
        error, _ = admin.ask("kill", id_=held["id"])
        assert error["code"] == "not_found"
        # The other one has the writer now; a third that waits is cancelled.
        third = wire.request("begin", lease=2)
        queued = wait_for(lambda: [row for row in rows_of(admin, "waits") if row["position"] == 1], "it waits")[0]
        assert queued["id"] != waiting[0]["id"]
        assert admin.call("kill", id_=queued["id"]) == {"state": "cancelled"}
        error, _ = wire.reply(third)
        assert error["applied"] == "no" and error["open"] is False
        other.call("rollback", lease=1)
    assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_show_leases(served, wire):
    assert leases(served) == []
    with served.wire(label="second") as second:
        wire.call("begin", lease=5, label="the first")
        step(wire, "INSERT INTO t(a) VALUES (1)", lease=5)
        second.request("begin", lease=6)
        wait_for(lambda: len(leases(served)) == 2, "both are shown")
        first, other = leases(served)
        assert (first["lease"], first["label"], first["state"], first["steps"], first["sql"], first["pid"]) == (
            5, "the first", "open", 1, "INSERT INTO t(a) VALUES (1)", os.getpid())
        assert (other["lease"], other["label"], other["state"], other["steps"]) == (6, "second", "waiting", 0)
        with served.wire_as(20001) as reader:
            shown = reader.call("show", what="leases")
            assert [row[shown["columns"].index("sql")] for row in shown["rows"]] == [None, None]
        wire.call("rollback", lease=5)
    wait_for(lambda: leases(served) == [], "all are over")


def test_nobody_waits_so_thinking_is_allowed(daemon):
    served = daemon(lease_idle="100ms", lease_total="1h")
    served.write("CREATE TABLE t(a)")
    with served.wire() as holder:
        holder.call("begin", lease=1)
        time.sleep(0.4)  # what is tested is the passing of time
        assert holder.call("step", lease=1, sql="INSERT INTO t VALUES (1)")["open"]
        assert holder.call("commit", lease=1)["open"] is False


def test_the_total_limit(daemon):
    served = daemon(lease_idle="1h", lease_total="300ms")
    served.write("CREATE TABLE t(a)")
    with served.wire() as holder, served.wire() as other:
        holder.call("begin", lease=1)
        waiting = other.request("write", batch=[["INSERT INTO t VALUES (2)"]])
        error = None
        while error is None:  # never idle
            error, _ = holder.ask("step", lease=1, sql="INSERT INTO t VALUES (1)")
        assert (error["code"], error["open"]) == ("lease_expired", False)
        assert other.reply(waiting)[0] is None
        assert served.read("SELECT a FROM t") == [(2,)]
        # A step that does not end is stopped.
        holder.call("begin", lease=1)
        waiting = other.request("write", batch=[["INSERT INTO t VALUES (3)"]])
        error, _ = holder.ask("step", lease=1, sql="WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
                              timeout=60)
        assert error["open"] is False and error["applied"] == "no"
        assert other.reply(waiting)[0] is None


@pytest.mark.parametrize("how", ("idle", "running", "waiting"))
def test_a_dead_client_s_lease_ends_at_once(daemon, how):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    with served.wire() as other:
        holder, first = served.wire(), None
        if how == "waiting":
            first = served.wire()
            first.call("begin", lease=1)
            holder.request("begin", lease=1)
            holder.request("step", lease=1, sql="INSERT INTO t VALUES (1)")
            wait_for(lambda: served.stats()["queue_batches"] == 1, "the second lease waits")
        else:
            holder.call("begin", lease=1)
            holder.call("step", lease=1, sql="INSERT INTO t VALUES (1)")
        if how == "running":
            holder.request("step", lease=1, sql="WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
        waiting = other.request("write", batch=[["INSERT INTO t VALUES (2)"]])
        holder.close()
        if first is not None:
            first.call("rollback", lease=1)
            first.close()
        assert other.reply(waiting, timeout=60)[0] is None
        assert served.read("SELECT a FROM t") == [(2,)]


def test_who_shuts_down_its_side_still_commits(served, wire):
    with served.wire() as leaving:
        ids = [leaving.request("begin", lease=1), leaving.request("step", lease=1, sql="INSERT INTO t(a) VALUES (1)"),
               leaving.request("commit", lease=1)]
        leaving.socket.shutdown(socket.SHUT_WR)
        assert all(leaving.reply(number)[0] is None for number in ids)
    assert served.read("SELECT count(*) FROM t") == [(1,)]


def test_the_deadline_of_begin(served, wire):
    with served.wire() as holder:
        holder.call("begin", lease=1)
        ids = [wire.request("begin", lease=1, deadline_ms=50), wire.request("step", lease=1, sql="SELECT 1")]
        error, _ = wire.reply(ids[0])
        assert (error["code"], error["retry"], error["open"]) == ("deadline", True, False)
        assert wire.reply(ids[1])[0]["code"] == "lease_gone"
        ids = [wire.request("begin", lease=2), wire.request("step", lease=2, sql="SELECT 1")]
        wire.notice("cancel", id=ids[0])
        assert [wire.reply(number)[0]["code"] for number in ids] == ["cancelled", "lease_gone"]
        holder.call("rollback", lease=1)
    wire.write("SELECT 1")


def test_cancel_of_a_step(served, wire):
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    wire.call("begin", lease=1)
    step(wire, "INSERT INTO t(a) VALUES (1)")
    running, queued = wire.request("step", lease=1, sql=forever), wire.request("step", lease=1, sql="SELECT 1")
    wait_for(lambda: [row["sql"] for row in leases(served)] == [forever], "it runs")
    wire.notice("cancel", id=queued)
    error, _ = wire.reply(queued)
    assert (error["code"], error["open"]) == ("cancelled", True)
    wire.notice("cancel", id=running)
    error, _ = wire.reply(running)
    assert (error["code"], error["open"], error["applied"]) == ("cancelled", False, "no")
    assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_the_deadline_of_a_step(served, wire):
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    wire.call("begin", lease=1)
    error = fails(wire, "step", "deadline", False, lease=1, sql=forever, deadline_ms=100)
    assert error["sqlite"] == 9 and re.search(r": (100|\d\d) ms after it began", error["message"])


# ---- exactly once

def test_a_commit_that_comes_again(daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    session = os.urandom(16)
    for name in ({"seq": 1}, {"key": "invoice-7"}):
        with served.wire(session=session) as wire:
            wire.call("begin", lease=1)
            wire.call("step", lease=1, sql="INSERT INTO t VALUES (1)")
            first = wire.call("commit", lease=1, **name)
            again = wire.call("commit", lease=1, **name)
            assert again["repeat"] is True and again["commit"] == first["commit"]
        served.kill()
        served.start()
        with served.wire(session=session) as wire:
            again = wire.call("commit", lease=1, **name)
            assert (again["repeat"], again["commit"], again["open"]) == (True, first["commit"], False)
            # Another content: another lease, or a batch.
            fails(wire, "commit", "key_mismatch", None, lease=2, **name)
            error, _ = wire.ask("write", batch=[["SELECT 1"]], **name)
            assert error["code"] == "key_mismatch"
            # Inside a lease a repeat ends it, and nothing of it stays.
            wire.call("begin", lease=1)
            wire.call("step", lease=1, sql="INSERT INTO t VALUES (9)")
            assert wire.call("commit", lease=1, **name)["repeat"] is True
    assert served.read("SELECT a FROM t") == [(1,), (1,)]


@pytest.mark.parametrize("how", ["column", "set", "pragma"])
@pytest.mark.parametrize("name", [{"seq": 1}, {"key": "k"}], ids=["seq", "key"])
def test_a_commit_that_failed_and_is_mended(daemon, how, name):
    """Its name is free: the commit that comes again is made, and is remembered."""
    served = daemon()
    served.write("CREATE TABLE p(id INTEGER PRIMARY KEY)",
                 "CREATE TABLE c(p REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED)")
    session = os.urandom(16)
    with served.wire(session=session) as wire:
        wire.call("begin", lease=1, **({"set": {"defer_foreign_keys": True}} if how == "set" else {}))
        if how == "pragma":
            step(wire, "PRAGMA defer_foreign_keys = 1")
        step(wire, "INSERT INTO c VALUES (41)")
        for _ in range(2):
            fails(wire, "commit", "sql", True, lease=1, **name)
            assert step(wire, "SELECT changes(), total_changes()")["rows"] == [[1, 1]]
        step(wire, "INSERT INTO p VALUES (41)")
        done = wire.call("commit", lease=1, **name)
        assert "repeat" not in done
        assert served.read("SELECT * FROM c") == [(41,)]
        # What another lease commits under that name is not what was remembered.
        wire.call("begin", lease=2)
        wire.call("step", lease=2, sql="INSERT INTO p VALUES (42)")
        error, _ = wire.ask("commit", lease=2, **name)
        assert error["code"] == "key_mismatch"
    served.kill()
    served.start()
    with served.wire(session=session) as wire:
        again = wire.call("commit", lease=1, **name)
        assert again["repeat"] is True and again["commit"] == done["commit"]
    assert served.read("SELECT * FROM p") == [(41,)]


def test_a_commit_that_was_never_done(daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    session = os.urandom(16)
    with served.wire(session=session) as wire:
        wire.call("begin", lease=1)
        wire.call("step", lease=1, sql="INSERT INTO t VALUES (1)")
    with served.wire(session=session) as wire:
        fails(wire, "commit", "lease_gone", None, lease=1, seq=1)
    served.kill()
    served.start()
    assert served.read("SELECT * FROM t") == []


def test_a_commit_that_is_gone_stays_gone(daemon):
    """What was told to one connection holds for what another one has sent before, and is read later."""
    served = daemon()
    served.write("CREATE TABLE t(a)")
    session = os.urandom(16)
    with served.wire(session=session) as early, served.wire(session=session) as late:
        late.call("begin", lease=1)
        late.call("step", lease=1, sql="INSERT INTO t VALUES (1)")
        again = early.request("commit", lease=1, seq=5)  # it waits for the lease that is open
        late.call("rollback", lease=1)
        error, _ = early.reply(again)
        assert (error["code"], error["applied"]) == ("lease_gone", "no")
        late.call("begin", lease=1)
        late.call("step", lease=1, sql="INSERT INTO t VALUES (2)")
        fails(late, "commit", "lease_gone", None, lease=1, seq=5)
        fails(late, "step", "lease_gone", False, lease=1, sql="SELECT 1")
        # A key is free for another try.
        fails(early, "commit", "lease_gone", None, lease=1, key="k")
        late.call("begin", lease=1)
        late.call("step", lease=1, sql="INSERT INTO t VALUES (3)")
        late.call("commit", lease=1, key="k")
    assert served.read("SELECT a FROM t") == [(3,)]


def test_kills_between_commit_and_answer(daemon, soak, slow):
    """Whatever the client was told, the database agrees, and each commit is there at most once."""
    served = daemon()
    served.write("CREATE TABLE t(n UNIQUE)")
    session, seq, done = os.urandom(16), 0, []
    rounds = (200 if soak else 25) // slow
    for number in range(rounds):
        seq += 1
        wire = served.wire(session=session)
        wire.call("begin", lease=number)
        wire.call("step", lease=number, sql="INSERT INTO t VALUES (?)", params=[number])
        sent = wire.request("commit", lease=number, seq=seq)
        killer = threading.Thread(target=lambda: (time.sleep(0.002 * (number % 7)), served.process.send_signal(signal.SIGKILL)))
        killer.start()
        try:
            error, result = wire.reply(sent)
            assert error is None
            told = result["commit"]
        except (Closed, OSError):
            told = None
        wire.close()
        killer.join()
        served.kill()
        served.start()
        with served.wire(session=session) as wire:
            error, again = wire.ask("commit", lease=number, seq=seq)
            if error is None:
                assert again["repeat"] and told in (None, again["commit"])
                done.append((number,))
            else:
                assert error["code"] == "lease_gone" and told is None
    assert served.read("SELECT n FROM t ORDER BY n") == done


# ---- the daemon's end

def test_a_drain_lets_it_finish(daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    with served.wire() as holder:
        holder.call("begin", lease=1)
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "event=draining" in served.log(), "it drains")
        holder.call("step", lease=1, sql="INSERT INTO t VALUES (1)")
        assert holder.call("commit", lease=1)["open"] is False
        holder.wait_closed()
    assert served.wait() == 0
    assert served.read("SELECT a FROM t") == [(1,)]


def test_a_drain_does_not_wait_for_ever(daemon):
    served = daemon(drain_timeout="300ms")
    served.write("CREATE TABLE t(a)")
    with served.wire() as holder, served.wire() as second:
        holder.call("begin", lease=1)
        holder.call("step", lease=1, sql="INSERT INTO t VALUES (1)")
        waiting = second.request("begin", lease=1)
        wait_for(lambda: served.stats()["queue_batches"] == 1, "the second lease waits")
        served.process.send_signal(signal.SIGTERM)
        assert second.reply(waiting)[0]["code"] == "shutting_down"
    assert served.wait() == 0
    assert "ran out of time" in served.log()
    assert served.read("SELECT a FROM t") == []


def test_a_watcher_is_told_after_the_commit(served, wire):
    with served.wire() as other:
        other.call("watch", tables=["t"], channels=["x"])
        wire.call("begin", lease=1)
        step(wire, "INSERT INTO t(a) VALUES (lf_notify('x'))")
        other.call("ping")
        assert not other.notices
        commit = wire.call("commit", lease=1)["commit"]
        assert other.next_notice()[1]["commit"] == commit
        wire.call("begin", lease=1)
        step(wire, "SELECT lf_notify('x')")
        wire.call("rollback", lease=1)
        other.call("ping")
        assert not other.notices


def test_the_library_s_leases_outlive_daemons(daemon, build, slow):
    """Each transfer is a keyed lease: made once, whenever the daemon dies."""
    served = daemon()
    count = 400 // slow
    with subprocess.Popen([build / "examples" / "example_transfer", served.db, str(count)], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client, contextlib.ExitStack() as failing:
        failing.callback(client.kill)  # it would try for ever
        for kill in range(8):
            def made():
                try:
                    return served.read("SELECT count(*) FROM example_transfer")[0][0]
                except sqlite3.OperationalError:
                    return 0  # not begun, or in the moment of a start
            wait_for(lambda: client.poll() is not None or made() >= (kill + 1) * count // 10, "some are made", 120)
            served.kill()
            served.start()
        said, _ = client.communicate(timeout=120 * slow)
        failing.pop_all()
    assert client.returncode == 0, said
    assert f"{count} transfers of {count}, 10000 in all accounts" in said
    assert served.read("SELECT count(DISTINCT name) FROM example_transfer") == [(count,)]
