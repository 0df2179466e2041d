# SPDX-License-Identifier: MIT
"""`write`: each option of a step, values and limits, guards, and exactly once in all its rules."""
import math
import os
import threading

import pytest

from daemon import wait_for
from wire import Refused

SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);
CREATE TABLE log(id INTEGER PRIMARY KEY, t_id);
CREATE TRIGGER t_log AFTER INSERT ON t WHEN new.b = 'log' BEGIN
    INSERT INTO log(t_id) VALUES (new.id); INSERT INTO log(t_id) VALUES (new.id);
END;
CREATE TABLE parent(id INTEGER PRIMARY KEY);
CREATE TABLE child(id INTEGER PRIMARY KEY, parent REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
"""


@pytest.fixture(scope="module")
def served(shared_daemon):
    daemon = shared_daemon()
    daemon.write([SCHEMA, None, {"script": True}])
    return daemon


@pytest.fixture
def wire(served):
    with served.wire(session=os.urandom(16)) as wire:
        wire.write("DELETE FROM t", "DELETE FROM log", "DELETE FROM child", "DELETE FROM parent")
        yield wire


def step(wire, *parts, **params):
    """The result of a batch of one step."""
    return wire.write(list(parts), **params)["steps"][0]


def refused(wire, *steps, **params):
    """The error of a batch that must fail, after a look that nothing of it remains."""
    with pytest.raises(Refused) as caught:
        wire.write(*steps, **params)
    error = caught.value.error
    assert error["applied"] == "no" and error["message"]
    return error


def fails(wire, code, *steps, at=0, **params):
    error = refused(wire, *steps, **params)
    assert (error["code"], error.get("step")) == (code, at), error
    assert error["retry"] is False
    return error


# ---- results


def test_result_of_a_write(served, wire):
    result = wire.write(["INSERT INTO t(a) VALUES (?)", [1]])
    assert set(result) == {"commit", "epoch", "durability", "steps", "queued_us", "exec_us",
                           "commit_us", "group"}
    assert result["durability"] == "full" and result["group"] >= 1 and len(result["epoch"]) == 16
    assert result["steps"] == [{"changes": 1, "total": 1, "rowid": 1}]
    assert served.read("SELECT epoch, commit_no FROM _lf_state") == [
        (result["epoch"], result["commit"])]
    assert wire.call("ping") == {"commit": result["commit"], "epoch": result["epoch"]}


def test_commit_numbers_rise_by_one_for_what_writes_and_not_for_what_reads(wire):
    first = wire.write("INSERT INTO t(a) VALUES (1)")["commit"]
    assert wire.write("SELECT * FROM t")["commit"] == first
    assert wire.write("DELETE FROM t WHERE a = 99", "INSERT INTO t(a) VALUES (2)")["commit"] == first + 1
    assert wire.write("SELECT 1", seq=1)["commit"] == first + 2  # its answer is stored


def test_counts(wire):
    assert step(wire, "INSERT INTO t(a, b) VALUES (1, 'log')") == {
        "changes": 1, "total": 3, "rowid": 1}
    assert step(wire, "UPDATE t SET a = a + 1") == {"changes": 1, "total": 1, "rowid": 0}
    assert step(wire, "INSERT INTO t(a) VALUES (1), (2), (3)") == {
        "changes": 3, "total": 3, "rowid": 4}
    assert step(wire, "DELETE FROM t WHERE id > 2")["changes"] == 2
    # What is no INSERT, UPDATE or DELETE changed nothing, whatever sqlite3_changes() still says.
    steps = wire.write("UPDATE t SET a = 0", "SELECT 1", "CREATE TABLE x(a)", "DROP TABLE x")["steps"]
    assert [s["changes"] for s in steps] == [2, 0, 0, 0]


def test_rowid_is_the_batch_s_own(served, wire):
    wire.write("INSERT INTO t(id) VALUES (77)")
    with served.wire() as other:
        assert other.write("UPDATE t SET a = 1")["steps"][0]["rowid"] == 0
    steps = wire.write("SELECT 1", "INSERT INTO t(id) VALUES (5)", "SELECT 1")["steps"]
    assert [s["rowid"] for s in steps] == [0, 5, 5]


def test_columns_and_types_also_without_rows(wire):
    result = step(wire, "SELECT id, a AS one, 1 + 1, b FROM t")
    assert result["columns"] == ["id", "one", "1 + 1", "b"]
    assert result["types"] == ["INTEGER", None, None, None] and result["rows"] == []
    assert "columns" not in step(wire, "INSERT INTO t(a) VALUES (1)")


def test_steps_see_each_other_and_the_file_sees_all_or_none(served, wire):
    steps = wire.write("INSERT INTO t(a) VALUES (1)", "SELECT count(*) FROM t",
                       "UPDATE t SET a = 2 RETURNING a, id")["steps"]
    assert steps[1]["rows"] == [[1]] and steps[2]["rows"] == [[2, 1]]
    fails(wire, "sql", "UPDATE t SET a = 3", "INSERT INTO nowhere VALUES (1)", at=1)
    assert served.read("SELECT a FROM t") == [(2,)]


def test_failures_undo_the_batch(served, wire):
    wire.write("INSERT INTO t(id) VALUES (1)")
    error = fails(wire, "sql", "INSERT INTO t(id) VALUES (2)", "INSERT INTO t(id) VALUES (1)", at=1)
    assert error["sqlite"] == 1555 and error["message"] == "UNIQUE constraint failed: t.id"
    assert fails(wire, "sql", "SELEC 1")["message"] == 'near "SELEC": syntax error'
    assert fails(wire, "sql", "SELECT * FROM nowhere")["sqlite"] == 1
    for verb in ("OR ABORT", "OR FAIL", "OR ROLLBACK"):
        fails(wire, "sql", f"INSERT {verb} INTO t(id) VALUES (3), (1)")
    assert step(wire, "INSERT OR IGNORE INTO t(id) VALUES (1)")["changes"] == 0
    assert step(wire, "INSERT OR REPLACE INTO t(id, a) VALUES (1, 'new')")["changes"] == 1
    assert served.read("SELECT id, a FROM t") == [(1, "new")]


def test_deferred_foreign_keys_are_checked_at_the_end_of_the_batch(served, wire):
    error = refused(wire, "INSERT INTO child VALUES (1, 1)", "SELECT 1")
    assert (error["code"], error["sqlite"]) == ("sql", 787)
    assert error["message"] == "FOREIGN KEY constraint failed"
    wire.write("INSERT INTO child VALUES (1, 1)", "INSERT INTO parent VALUES (1)")
    assert served.read("SELECT parent FROM child") == [(1,)]


# ---- values


VALUES = [
    (None, None), (True, 1), (False, 0), (0, 0), (-1, -1), (2**63 - 1, 2**63 - 1),
    (-(2**63), -(2**63)), (2**53 + 1, 2**53 + 1), (1.5, 1.5), (-0.0, 0.0),
    (math.inf, math.inf), (-math.inf, -math.inf), (math.nan, None), (5e-324, 5e-324),
    ("", ""), ("text", "text"), ("nul\0inside", "nul\0inside"), ("\U0001f600 é", "\U0001f600 é"),
    ("bad \udcff utf-8", "bad \udcff utf-8"), (b"", b""), (b"\0\xff" * 10, b"\0\xff" * 10),
    ("x" * 100_000, "x" * 100_000), (b"y" * 1_000_000, b"y" * 1_000_000),
]


@pytest.mark.parametrize("sent, back", VALUES, ids=lambda v: repr(v)[:20])
def test_value_there_and_back(wire, sent, back):
    wire.write(["INSERT INTO t(id, a) VALUES (1, ?)", [sent]])
    row = step(wire, "SELECT a, ?, typeof(a) FROM t", [sent])["rows"][0]
    assert row[:2] == [back, back] and type(row[0]) is type(back)


def test_parameters(wire):
    for sql, params, rows in (
            ("SELECT ?, ?2, ?", [1, 2, 3], [[1, 2, 3]]),
            ("SELECT ?2, ?1", [1, 2], [[2, 1]]),
            ("SELECT :a, @b, $c, :a", {"a": 1, "b": 2, "c": 3}, [[1, 2, 3, 1]]),
            ("SELECT :a", [9], [[9]]),
            ("SELECT 1", None, [[1]]), ("SELECT 1", [], [[1]]), ("SELECT 1", {}, [[1]])):
        assert step(wire, sql, params)["rows"] == rows, sql
    for sql, params in (
            ("SELECT ?", []), ("SELECT ?", None), ("SELECT ?", [1, 2]), ("SELECT 1", [1]),
            ("SELECT :a", {}), ("SELECT :a", {"b": 1}), ("SELECT :a", {"a": 1, "b": 2}),
            ("SELECT ?1", {"1": 1}), ("SELECT :a", {":a": 1}), ("SELECT ?", {"": 1}),
            ("SELECT ?3", [1]), ("SELECT ?", [2**63]), ("SELECT ?", [[1]]), ("SELECT ?", [{}])):
        fails(wire, "bad_request", [sql, params])


# ---- options


def test_many(served, wire):
    rows = [[i, f"v{i}"] for i in range(1000)]
    assert step(wire, "INSERT INTO t(a, b) VALUES (?, ?)", rows, {"many": True}) == {
        "changes": 1000, "total": 1000, "rowid": 1000}
    assert served.read("SELECT count(*), sum(a) FROM t") == [(1000, 499500)]
    assert step(wire, "INSERT INTO t(a) VALUES (:x) RETURNING a", [{"x": 7}, {"x": 8}],
                {"many": True})["rows"] == [[7], [8]]
    none = step(wire, "INSERT INTO t(a) VALUES (?) RETURNING a", [], {"many": True})
    assert none["changes"] == none["total"] == 0 and none["rows"] == []
    error = fails(wire, "sql", ["INSERT INTO t(id) VALUES (?)", [[5000], [5001], [1], [5002]],
                                {"many": True}])
    assert error["row"] == 2
    assert served.read("SELECT count(*) FROM t WHERE id >= 5000") == [(0,)]


def test_expect(served, wire):
    wire.write(["INSERT INTO t(id, a) VALUES (?, 0)", [[1], [2], [3]], {"many": True}])
    for sql, expect, good in (
            ("UPDATE t SET a = a + 1 WHERE id = 1", {"changes": 1}, True),
            ("UPDATE t SET a = a + 1 WHERE id = 9", {"changes": 1}, False),
            ("UPDATE t SET a = a + 1", {"changes": 2}, False),
            ("UPDATE t SET a = a + 1 RETURNING id", {"changes": 3, "rows": 3}, True),
            ("UPDATE t SET a = a + 1 RETURNING id", {"changes": 3, "rows": 2}, False),
            ("SELECT * FROM t WHERE id = 9", {"rows": 0}, True),
            ("SELECT * FROM t", {"rows": 0}, False),
            ("SELECT * FROM t", {"changes": 0}, True)):
        before = served.read("SELECT sum(a) FROM t")
        if good:
            step(wire, sql, None, {"expect": expect})
        else:
            fails(wire, "guard", "UPDATE t SET a = a", [sql, None, {"expect": expect}], at=1)
            assert served.read("SELECT sum(a) FROM t") == before
    step(wire, "UPDATE t SET a = ? WHERE id = ?", [[5, 1], [5, 2]],
         {"many": True, "expect": {"changes": 2}})
    fails(wire, "guard", ["UPDATE t SET a = ? WHERE id = ?", [[6, 1], [6, 9]],
                          {"many": True, "expect": {"changes": 2}}])
    assert served.read("SELECT max(a) FROM t") == [(5,)]


def test_rows_and_truncate(served, wire):
    wire.write(["INSERT INTO t(a) VALUES (?)", [[i] for i in range(10)], {"many": True}])
    select = "SELECT a FROM t ORDER BY a"
    assert len(step(wire, select, None, {"rows": 10})["rows"]) == 10
    fails(wire, "too_large", [select, None, {"rows": 9}])
    cut = step(wire, select, None, {"rows": 3, "truncate": True})
    assert cut["rows"] == [[0], [1], [2]] and cut["truncated"] is True
    assert "truncated" not in step(wire, select, None, {"rows": 10, "truncate": True})
    assert step(wire, select, None, {"rows": 0, "truncate": True})["rows"] == []
    # What writes is run to its end also when its rows are not wanted.
    cut = step(wire, "UPDATE t SET b = 'cut' RETURNING a", None, {"rows": 2, "truncate": True})
    assert (len(cut["rows"]), cut["changes"]) == (2, 10)
    assert served.read("SELECT count(*) FROM t WHERE b = 'cut'") == [(10,)]
    fails(wire, "too_large", ["UPDATE t SET b = 'lost' RETURNING a", None, {"rows": 2}])
    assert served.read("SELECT count(*) FROM t WHERE b = 'lost'") == [(0,)]
    step(wire, select, None, {"rows": 2, "truncate": True, "expect": {"rows": 10}})


def test_script(served, wire):
    result = step(wire, "INSERT INTO t(a) VALUES (1), (2); -- a comment; with a semicolon\n"
                        "SELECT * FROM t;; UPDATE t SET b = ';' ; /* end */", None, {"script": True})
    assert result == {"changes": 4, "total": 4, "rowid": 2}
    for bad in ("INSERT INTO t(a) VALUES (3); SELEC", "INSERT INTO t(a) VALUES (3); INSERT INTO no VALUES (1)"):
        fails(wire, "sql", [bad, None, {"script": True}])
    fails(wire, "bad_request", ["SELECT ?", None, {"script": True}])
    fails(wire, "denied", ["INSERT INTO t(a) VALUES (3); COMMIT", None, {"script": True}])
    fails(wire, "guard", ["INSERT INTO t(a) VALUES (3); DELETE FROM t", None,
                          {"script": True, "expect": {"changes": 99}}])
    assert served.read("SELECT count(*) FROM t") == [(2,)]
    assert step(wire, " ; -- nothing\n", None, {"script": True})["changes"] == 0


@pytest.mark.parametrize("opts", [
    {"unknown": 1}, {"expect": {}}, {"expect": {"changes": -1}}, {"expect": {"other": 1}},
    {"rows": -1}, {"rows": 2**32}, {"many": 1}, {"truncate": 1}, {"script": "yes"},
    {"script": True, "many": True}, {"script": True, "rows": 1}, {"if": 1}, {"cursor": 1}])
def test_unknown_or_wrong_options_are_never_ignored(wire, opts):
    fails(wire, "bad_request", ["DELETE FROM t", None, opts])


def test_tails(wire):
    for sql in ("SELECT 1;", "SELECT 1 ; ;; ", "SELECT 1 -- c", "SELECT 1; /* c */ -- d", " SELECT 1"):
        assert step(wire, sql)["rows"] == [[1]]
    for sql in ("SELECT 1; SELECT 2", "SELECT 1;x", "", " ", ";", "-- only", "/* only */"):
        fails(wire, "bad_request", sql)


# ---- limits


def test_limits(shared_daemon):
    served = shared_daemon("limits.db", rows_max=100, result_bytes_max="64KiB", frame_bytes_max="256KiB",
                           queue_max=5)
    with served.wire() as wire:
        wire.write("CREATE TABLE t(a, b)")
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i{} FROM n"
        assert len(step(wire, numbers.format(100, ""))["rows"]) == 100
        fails(wire, "too_large", numbers.format(101, ""))
        fails(wire, "too_large", [numbers.format(101, ""), None, {"rows": 1000}])
        cut = step(wire, numbers.format(10**9, ""), None, {"truncate": True})
        assert len(cut["rows"]) == 100 and cut["truncated"]
        fails(wire, "too_large", numbers.format(50, ", zeroblob(2000)"))
        cut = step(wire, numbers.format(50, ", zeroblob(2000)"), None, {"truncate": True})
        assert 20 < len(cut["rows"]) < 40 and cut["truncated"]
        fails(wire, "too_large", "SELECT zeroblob(40000)", "SELECT zeroblob(40000)", at=1)
        long = "SELECT '" + "x" * 100_000 + "'"
        fails(wire, "too_large", long)
        try:
            wire.request("write", batch=[["SELECT ?", [b"x" * 300_000]]])
        except BrokenPipeError:
            pass  # it was closed at the length already
        assert wire.wait_closed()["code"] == "too_large"


def test_ten_thousand_steps(wire):
    assert len(wire.write(*["INSERT INTO t(a) VALUES (1)"] * 10_000)["steps"]) == 10_000
    assert refused(wire, *["SELECT 1"] * 10_001)["code"] == "bad_request"


def test_sql_of_a_million_bytes(wire):
    text = "SELECT 1 --"
    assert step(wire, text + "x" * (1_000_000 - len(text)))["rows"] == [[1]]
    fails(wire, "bad_request", text + "x" * (1_000_001 - len(text)))


def test_deadline_in_the_queue_and_while_it_runs(shared_daemon):
    served = shared_daemon("deadline.db", exec_timeout="200ms")
    with served.wire() as wire:
        wire.write("CREATE TABLE t(a)")
        error, _ = wire.ask("write", batch=[["INSERT INTO t VALUES (1)"]], deadline_ms=0)
        assert (error["code"], error["applied"], error["retry"], error["sqlite"]) == (
            "deadline", "no", True, 5)
        forever = ("INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                   " SELECT i FROM n WHERE i < 0")
        error, _ = wire.ask("write", batch=[[forever]])
        assert (error["code"], error["applied"], error["retry"], error["sqlite"]) == (
            "deadline", "no", False, 9)
        assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_overloaded_is_answered_in_time_and_nothing_is_lost(shared_daemon, slow):
    served = shared_daemon("full.db", queue_max=10, in_flight_max=1000)
    with served.wire(timeout=60) as wire, served.wire() as other:
        wire.write("CREATE TABLE t(a)")
        busy = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
                " SELECT count(*) FROM n" % (400_000 // slow // slow))
        ids = [wire.request("write", batch=[["INSERT INTO t VALUES (?)", [i]], [busy]])
               for i in range(100)]
        assert other.call("ping")
        answers = [wire.reply(id) for id in ids]
        good = [i for i, (error, _) in enumerate(answers) if error is None]
        for error, _ in answers:
            if error is not None:
                assert (error["code"], error["applied"], error["retry"]) == ("overloaded", "no", True)
                assert error["retry_after_ms"] > 0
        assert 5 <= len(good) < 100  # one user may not take all of the queue
        assert served.read("SELECT a FROM t ORDER BY rowid") == [(i,) for i in good]


# ---- order, cancel, describe


def test_a_connection_s_writes_keep_their_order(served, wire):
    for i in range(500):
        wire.request("write", id=10_000 + i, batch=[["INSERT INTO t(a) VALUES (?)", [i]]])
    commits = [wire.reply(10_000 + i)[1]["commit"] for i in range(500)]
    assert commits == sorted(commits)
    assert served.read("SELECT a FROM t ORDER BY id") == [(i,) for i in range(500)]


def test_cancel(served, wire, slow):
    """What waits is cancelled, what runs goes on, what does not exist is ignored."""
    busy = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
            " SELECT count(*) FROM n" % (3_000_000 // slow // slow))
    running = wire.request("write", batch=[[busy]])
    wait_for(lambda: served.stats()["running_batches"] > 0, "it does not run")
    queued = wire.request("write", batch=[["INSERT INTO t(a) VALUES ('cancelled')"]])
    for id in (queued, running, 4_000_000_000, "x", -1, None):
        wire.notice("cancel", id=id)
    wire.notice("cancel")
    assert wire.reply(running, 60)[0] is None
    error, result = wire.reply(queued, 60)
    if error is None:  # it had joined the group that ran
        assert result["steps"][0]["changes"] == 1
    else:
        assert (error["code"], error["applied"], error["retry"]) == ("cancelled", "no", False)
        assert served.read("SELECT count(*) FROM t") == [(0,)]
    assert wire.call("ping") and not wire.notices


def test_describe(wire):
    assert wire.call("describe", sql="SELECT id, a + 1 AS x FROM t WHERE a = ? AND b = ?") == {
        "params": 2, "columns": ["id", "x"], "types": ["INTEGER", None], "readonly": True, "tail": None}
    assert wire.call("describe", sql="INSERT INTO t(a) VALUES (1); SELECT 2") == {
        "params": 0, "columns": [], "types": [], "readonly": False, "tail": 29}
    for sql, code in (("SELEC", "sql"), ("", "bad_request"), ("-- c", "bad_request"),
                      ("COMMIT", "denied"), ("DELETE FROM _lf_state", "denied")):
        error, _ = wire.ask("describe", sql=sql)
        assert error["code"] == code, sql


# ---- exactly once


def insert(number):
    return ["INSERT INTO t(a) VALUES (?) RETURNING id", [number]]


def count(served):
    return served.read("SELECT count(*) FROM t")[0][0]


def same(first, again):
    """The remembered answer: what the batch got, without what only concerns this exchange."""
    assert again.pop("repeat") is True
    assert (again["commit"], again["steps"]) == (first["commit"], first["steps"])


def test_repeat_on_the_same_and_on_other_connections(served, wire):
    session = os.urandom(16)
    with served.wire(session=session) as one, served.wire(session=session) as two:
        first = one.write(insert(1), seq=1)
        assert "repeat" not in first
        same(first, one.write(insert(1), seq=1))
        same(first, two.write(insert(1), seq=1, done=0, deadline_ms=5))
    with served.wire(greet=False) as three:
        assert three.hello(session=session)["session"] == {"known": True, "max_seq": 1}
    with served.wire(session=os.urandom(16)) as stranger:
        stranger.write(insert(2), seq=1)
    assert count(served) == 2


def test_failures_are_remembered_too(served, wire):
    wire.write("INSERT INTO t(id) VALUES (1)")
    for seq, (steps, code) in enumerate([
            ([["INSERT INTO t(id) VALUES (1)"]], "sql"),
            ([["UPDATE t SET a = 1 WHERE id = 9", None, {"expect": {"changes": 1}}]], "guard"),
            ([["SELECT 1 UNION SELECT 2", None, {"rows": 1}]], "too_large"),
            ([["INSERT OR ROLLBACK INTO t(id) VALUES (1)"]], "sql")], start=1):
        first, _ = wire.ask("write", batch=steps, seq=seq)
        wire.write("DELETE FROM t")  # now it would succeed
        again, _ = wire.ask("write", batch=steps, seq=seq)
        assert first["code"] == again["code"] == code
        for key in ("message", "applied", "retry", "sqlite", "step"):
            assert first.get(key) == again.get(key)
        wire.write("INSERT INTO t(id) VALUES (1)")


def test_other_content_is_a_mismatch_and_changes_nothing(served, wire):
    first = wire.write(insert(1), seq=1)
    error, _ = wire.ask("write", batch=[insert(2)], seq=1)
    assert (error["code"], error["applied"], error["retry"]) == ("key_mismatch", "no", False)
    same(first, wire.write(insert(1), seq=1))
    assert count(served) == 1


def test_done(served, wire):
    for seq in range(1, 6):
        wire.write(insert(seq), seq=seq)
    wire.write(insert(6), seq=6, done=4)
    for seq in (1, 4):
        error, _ = wire.ask("write", batch=[insert(seq)], seq=seq)
        assert (error["code"], error["applied"], error["retry"]) == ("session_expired", "unknown", False)
    for seq in (5, 6):
        assert wire.write(insert(seq), seq=seq)["repeat"]
    wire.write(insert(7), seq=7, done=2)  # lower than before: ignored
    assert wire.ask("write", batch=[insert(4)], seq=4)[0]["code"] == "session_expired"
    assert wire.write(insert(7), seq=7, done=5)["repeat"]  # nothing is committed, and it counts
    assert wire.ask("write", batch=[insert(5)], seq=5)[0]["code"] == "session_expired"
    assert wire.write(insert(6), seq=6)["repeat"]
    error, _ = wire.ask("write", batch=[insert(9)], seq=8, done=8)
    assert error["code"] == "session_expired"
    assert count(served) == 7


def test_window(shared_daemon):
    served = shared_daemon("window.db", session_window=8)
    with served.wire(session=os.urandom(16)) as wire:
        assert served.wire(greet=False).hello()["limits"]["session_window"] == 8
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
        wire.write(insert(1), seq=5)
        wire.write(insert(1), seq=20)
        wire.write(insert(1), seq=13)  # a hole above 20 - 8
        for seq in (12, 5, 1):
            error, _ = wire.ask("write", batch=[insert(1)], seq=seq)
            assert (error["code"], error["applied"]) == ("session_expired", "unknown"), seq
        for seq in (13, 20):
            assert wire.write(insert(1), seq=seq)["repeat"]
        assert count(served) == 3
        wire.write(insert(1), seq=2**63 - 1)
        assert wire.ask("write", batch=[insert(1)], seq=20)[0]["code"] == "session_expired"


def test_keys(served, wire):
    key = "invoice-" + os.urandom(4).hex()
    first = wire.write(insert(1), key=key)
    with served.wire() as other:
        same(first, other.write(insert(1), key=key))
        error, _ = other.ask("write", batch=[insert(2)], key=key)
        assert error["code"] == "key_mismatch"
        other.write(insert(2), key="k" * 255)
    assert count(served) == 2


def test_identities_belong_to_the_uid(served, wire):
    session, key = os.urandom(16), os.urandom(4).hex()
    with served.wire(session=session) as root, served.wire_as(20001, greet=False) as user:
        assert user.hello(session=session)["role"] == "ddl"
        root.write(insert(1), seq=1)
        root.write(insert(1), key=key)
        assert "repeat" not in user.write(insert(1), seq=1)
        assert "repeat" not in user.write(insert(1), key=key)
    assert count(served) == 4


@pytest.mark.parametrize("params", [
    {"seq": 0}, {"seq": -1}, {"seq": "1"}, {"seq": 1.0}, {"seq": 2**63}, {"key": ""}, {"key": "k" * 256},
    {"key": 1}, {"key": b"k"}, {"seq": 1, "key": "k"}, {"done": -1}, {"done": "x"}])
def test_wrong_identities(wire, params):
    error, _ = wire.ask("write", batch=[["SELECT 1"]], **params)
    assert error["code"] == "bad_request"


def test_seq_without_session(served):
    with served.wire() as wire:
        assert wire.ask("write", batch=[["SELECT 1"]], seq=1)[0]["code"] == "bad_request"


def test_same_seq_in_flight_on_two_connections_runs_once(served, wire):
    for _ in range(50):
        session = os.urandom(16)
        with served.wire(session=session) as one, served.wire(session=session) as two:
            before = count(served)
            ids = [(w, w.request("write", batch=[insert(1)], seq=1)) for w in (one, two, one, two)]
            results = [w.reply(id) for w, id in ids]
            assert all(error is None for error, _ in results), results
            assert len({r["commit"] for _, r in results}) == 1
            assert sum("repeat" not in r for _, r in results) == 1
            assert count(served) == before + 1


def test_large_answers_are_remembered_without_rows(served, wire):
    sql = ["INSERT INTO t(a) VALUES (zeroblob(40000)), (zeroblob(40000)) RETURNING id, a"]
    first = wire.write(sql, ["SELECT 1 AS one"], seq=1)
    assert len(first["steps"][0]["rows"]) == 2 and "rows_lost" not in first
    again = wire.write(sql, ["SELECT 1 AS one"], seq=1)
    assert again["repeat"] and again["rows_lost"] and again["commit"] == first["commit"]
    for kept, was in zip(again["steps"], first["steps"]):
        assert "rows" not in kept
        assert {k: v for k, v in was.items() if k != "rows"} == kept
    assert count(served) == 2


def test_retry_answers_are_not_remembered(shared_daemon):
    served = shared_daemon("retry.db")
    with served.wire(session=os.urandom(16)) as wire:
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
        error, _ = wire.ask("write", batch=[insert(1)], seq=2, deadline_ms=0)
        assert (error["code"], error["retry"]) == ("deadline", True)
        assert "repeat" not in wire.write(insert(1), seq=2)


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_memory_survives(daemon, how):
    served, session = daemon(), os.urandom(16)
    with served.wire(session=session) as wire:
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
        first = wire.write(insert(1), seq=1)
        keyed = wire.write(insert(2), key="k")
        failed, _ = wire.ask("write", batch=[["INSERT INTO t(id) VALUES (1)"]], seq=2)
        large = wire.write(["SELECT zeroblob(70000)"], seq=3)
        wire.write(insert(4), seq=4)
        wire.write(insert(5), seq=5, done=4)
    for _ in range(2):
        if how == "kill":
            served.kill()
        else:
            served.stop()
        served.start()
        with served.wire(greet=False) as wire:
            hello = wire.hello(session=session, seen={"epoch": first["epoch"], "commit": first["commit"]})
            assert hello["session"] == {"known": True, "max_seq": 5} and "epoch_changed" not in hello
            same(keyed, wire.write(insert(2), key="k"))
            assert wire.write(insert(5), seq=5)["repeat"]
            assert wire.ask("write", batch=[insert(1)], seq=1)[0]["code"] == "session_expired"
            assert wire.ask("write", batch=[insert(9)], seq=5)[0]["code"] == "key_mismatch"
            assert wire.ask("write", batch=[insert(9)], key="k")[0]["code"] == "key_mismatch"
    assert failed["code"] == "sql" and large["steps"][0]["rows"]
    assert served.read("SELECT a FROM t ORDER BY id") == [(1,), (2,), (4,), (5,)]


def test_memory_without_done_survives(daemon):
    served, session = daemon(), os.urandom(16)
    with served.wire(session=session) as wire:
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
        firsts = {seq: wire.write(insert(seq), seq=seq) for seq in range(1, 50)}
        failed, _ = wire.ask("write", batch=[["INSERT INTO t(id) VALUES (1)"]], seq=50)
        large = wire.write(["SELECT zeroblob(70000) AS z"], seq=51)
    served.kill()
    served.start()
    with served.wire(session=session) as wire:
        for seq, first in firsts.items():
            same(first, wire.write(insert(seq), seq=seq))
        assert wire.ask("write", batch=[["INSERT INTO t(id) VALUES (1)"]], seq=50)[0] == failed
        again = wire.write(["SELECT zeroblob(70000) AS z"], seq=51)
        assert again["rows_lost"] and again["commit"] == large["commit"]
        assert again["steps"][0]["columns"] == ["z"]
    assert count(served) == 49


def test_bye_forgets(served):
    session = os.urandom(16)
    with served.wire(session=session) as wire:
        wire.write("SELECT 1", seq=1)
        assert wire.call("bye") == {}
    with served.wire(greet=False) as wire:
        assert wire.hello(session=session)["session"] == {"known": False, "max_seq": 0}


def test_sessions_have_an_end_and_a_bound(daemon):
    served = daemon(session_ttl="1s", sessions_max=3, keys_max=3, key_ttl="1s")
    sessions = [os.urandom(16) for _ in range(4)]
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")

    def write(session, seq=1):
        with served.wire(session=session) as wire:
            return wire.ask("write", batch=[insert(1)], seq=seq)

    for session in sessions[:3]:
        assert write(session)[0] is None
    error, _ = write(sessions[3])
    assert (error["code"], error["applied"], error["retry"]) == ("overloaded", "no", True)
    assert "another session" in error["message"] and "the 3 of all users (setting sessions_max)" in error["message"]
    assert write(sessions[0])[1]["repeat"]
    with served.wire() as wire:
        for key in "abc":
            wire.write(insert(1), key=key)
        error, _ = wire.ask("write", batch=[insert(1)], key="d")
        assert error["code"] == "overloaded" and "(setting keys_max)" in error["message"]
        wait_for(lambda: write(sessions[3])[0] is None, "no session made room")
        wait_for(lambda: wire.ask("write", batch=[insert(1)], key="d")[0] is None, "no key made room")


def test_other_epoch(served, wire):
    with served.wire(greet=False) as other:
        hello = other.hello(seen={"epoch": b"\1" * 16, "commit": 5})
        assert hello["epoch_changed"] == {"was": b"\1" * 16, "restored_to": hello["commit"]}


# ---- many at once


def test_many_clients_at_once(served, wire, slow):
    rounds, clients = 200 // slow, 16
    errors = []

    def work(number):
        try:
            with served.wire(session=os.urandom(16), timeout=60) as mine:
                for seq in range(1, rounds + 1):
                    result = mine.write(["INSERT INTO t(a, b) VALUES (?, ?)", [number, seq]], seq=seq,
                                        done=seq - 1)
                    assert result["steps"][0]["changes"] == 1
        except BaseException as error:  # told in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert served.read("SELECT a, count(*), count(DISTINCT b) FROM t GROUP BY a") == [
        (n, rounds, rounds) for n in range(clients)]
