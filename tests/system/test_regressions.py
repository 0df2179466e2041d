# SPDX-License-Identifier: MIT
"""
What was once wrong stays right: batches, counts, the schema, commits and connections. Each test's line
says what happened before. Remembered answers and full disks are in test_regressions_memory.py.
"""
import os
import signal
import sqlite3
import time

import pytest
from daemon import sanitizer, wait_for
from wire import REQUEST, Closed, frame, pack

MIB = 1 << 20
SCRIPT = {"script": True}
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"


def asked(id, method, **params):
    """The bytes of a request."""
    return frame(pack([REQUEST, id, method, params]))


def batch(id, *steps, **params):
    return asked(id, "write", batch=[[step] if isinstance(step, str) else list(step) for step in steps],
                 **params)


def together(wire, *batches):
    """Batches sent at once, so that they share a group; their (error, result)."""
    wire.send(b"".join(batch(1000 + i, *steps) for i, steps in enumerate(batches)))
    return [wire.reply(1000 + i) for i in range(len(batches))]


# ---- batches


@pytest.mark.parametrize("schema, sql, left", [
    ("CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "INSERT OR REPLACE INTO t VALUES (1, 1), ('abc', 2)",
     "SELECT count(*) FROM t"),
    ("CREATE TABLE t(v INTEGER) STRICT", "INSERT INTO t VALUES (1), ('abc')", "SELECT count(*) FROM t"),
    ("CREATE TABLE t(v, j); INSERT INTO t VALUES (0, '[1]'), (0, 'bad{')",
     "UPDATE t SET v = (SELECT value FROM json_each(t.j))", "SELECT count(*) FROM t WHERE v <> 0"),
    ("CREATE TABLE t(v); CREATE TABLE s(j); INSERT INTO s VALUES ('[1, 2]'), ('bad{')",
     "INSERT INTO t SELECT value FROM s, json_each(s.j)", "SELECT count(*) FROM t"),
], ids=("mismatch", "strict", "update", "select"))
def test_a_failed_batch_leaves_nothing_behind(daemon, schema, sql, left):
    """Rows before the one that failed stayed, were committed, and the answer said `applied: no`."""
    served = daemon()
    with served.wire() as wire:
        wire.write([schema, None, SCRIPT])
        (error, _), (_, after) = together(wire, [sql], [left])
        assert error["code"] == "sql" and error["applied"] == "no"
        assert after["steps"][0]["rows"] == [[0]]
    assert served.read(left) == [(0,)]


def test_a_replay_begins_with_the_schema_that_stands(daemon):
    """After a lost transaction with DDL in it, the replay found its own undone columns: duplicates."""
    served = daemon()
    with served.wire() as wire:
        wire.write("CREATE TABLE a(x)", "CREATE TABLE b(x)", "CREATE TABLE u(x UNIQUE)",
                   "INSERT INTO u VALUES (1)")
        good, bad, killer = together(
            wire, ["ALTER TABLE a ADD COLUMN z"], ["ALTER TABLE b ADD COLUMN y CHECK (nowhere > 1)"],
            ["INSERT OR ROLLBACK INTO u VALUES (1)"])
        assert good[0] is None, good[0]
        assert bad[0]["code"] == "sql" and killer[0]["code"] == "sql"
        wire.write("INSERT INTO a(x, z) VALUES (1, 2)", "INSERT INTO b(x) VALUES (1)")


# ---- counts


def test_a_schema_statement_that_does_nothing_counts_nothing(daemon):
    """DROP … IF EXISTS of what is not there was answered with the changes of another's batch."""
    with daemon().wire() as wire:
        wire.write("CREATE TABLE t(a)", "INSERT INTO t VALUES (1), (2)")
        for sql in ("DROP INDEX IF EXISTS nowhere", "CREATE TABLE IF NOT EXISTS t(a)"):
            step = wire.write(sql)["steps"][0]
            assert (step["changes"], step["total"]) == (0, 0), sql


def test_a_step_that_ran_for_no_row_shows_no_other_counts(daemon):
    """changes() behind a `many` without rows was the count of another client's batch."""
    with daemon().wire() as wire:
        wire.write("CREATE TABLE t(a)", "INSERT INTO t VALUES (1), (2)")
        steps = wire.write(["INSERT INTO t VALUES (?)", [], {"many": True}], "SELECT changes()")["steps"]
        assert steps[1]["rows"] == [[0]]


@pytest.mark.parametrize("module", ["fts4", "fts5"])
def test_rows_written_into_a_virtual_table_are_counted(daemon, module):
    """`changes` was 0, and a guard on it failed, where the table was connected by that very statement."""
    served = daemon()
    sql = "INSERT INTO f VALUES ('one'), ('two')"
    with served.wire() as wire:
        wire.write(f"CREATE VIRTUAL TABLE f USING {module}(a)")
        # Undone, so that the schema is read anew and the table connected again.
        wire.ask("write", batch=[["CREATE TABLE undone(a)"], ["SELECT nosuch()"]])
        assert wire.write([sql, None, SCRIPT])["steps"][0]["changes"] == 2
        wire.write([sql, None, {"expect": {"changes": 2}}])
    served.restart()
    with served.wire() as wire:
        wire.write([sql, None, {"expect": {"changes": 2}}])


# ---- the schema


def test_an_index_on_a_shadow_table_is_refused(daemon):
    """FTS5 recursed in it until the daemon crashed; FTS4 failed in COMMIT: again at each resend."""
    served = daemon()
    with served.wire() as wire:
        wire.write("CREATE VIRTUAL TABLE f5 USING fts5(a)", "CREATE VIRTUAL TABLE f4 USING fts4(a)")
        for table, column in (("f5_data", "id"), ("[F5_content]", "c0"), ("f4_segdir", "idx")):
            error, _ = wire.ask("write", batch=[[f"CREATE INDEX evil ON {table}(abs({column}))"]])
            assert error["code"] == "denied", table
        wire.write("INSERT INTO f5 VALUES ('hello')", "INSERT INTO f4 VALUES ('hello')")
    served.stop()
    with sqlite3.connect(served.db) as other:
        other.execute("CREATE INDEX evil ON f5_data(abs(id))")
    other.close()
    code, said = served.refuses_to_start()
    assert code != 0 and "shadow table" in said[0]


def test_nothing_hangs_on_a_shadow_table(daemon):
    """A trigger there threw the transaction away beneath a statement that SQLite then committed by itself, again at each
    replay; FTS5 crashed in one, and at a foreign key."""
    served = daemon()
    with served.wire() as wire:
        wire.write("CREATE VIRTUAL TABLE v USING fts5(a)", "CREATE VIRTUAL TABLE r USING rtree(id, x, y)",
                   "CREATE TABLE money(a)", "CREATE TABLE plain(a)")
        for sql in ("CREATE TRIGGER t AFTER INSERT ON v_data BEGIN SELECT RAISE(ABORT, 'no'); END",
                    "CREATE TRIGGER t BEFORE INSERT ON \"R_rowid\" BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
                    "CREATE TRIGGER t AFTER INSERT ON r_node BEGIN INSERT INTO money VALUES (1); END",
                    "CREATE TABLE c(p REFERENCES v_data(id))", "CREATE TABLE c(p REFERENCES V_CONTENT(id) ON DELETE CASCADE)",
                    "ALTER TABLE plain ADD COLUMN p REFERENCES v_docsize(id)"):
            error, _ = wire.ask("write", batch=[[sql]])
            assert error["code"] == "denied" and "shadow table" in error["message"], (sql, error)
        wire.call("begin", lease=1)
        error, _ = wire.ask("step", lease=1, sql="CREATE TEMP TRIGGER t AFTER INSERT ON main.v_data BEGIN SELECT 1; END")
        assert error["code"] == "denied", error
        wire.write("INSERT INTO v VALUES ('x')", "INSERT INTO v VALUES ('y')", "INSERT INTO r VALUES (1, 2, 3)")
    assert served.read("SELECT count(*) FROM money") == [(0,)] and served.read("SELECT count(*) FROM r") == [(1,)]


def test_incremental_vacuum_answers_a_map(daemon):
    """It gives a row without a column for each page; they were packed where keys are due."""
    served = daemon(start=False)
    with sqlite3.connect(served.db) as shell:
        shell.executescript("PRAGMA auto_vacuum = 2; VACUUM; CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(100000));"
                            "DELETE FROM t")
    shell.close()
    served.start()
    with served.wire(session=os.urandom(16)) as wire:
        step = {"changes": 0, "total": 0, "rowid": 0}
        assert wire.write("PRAGMA incremental_vacuum(5)", seq=1)["steps"] == [step]
        assert wire.write("PRAGMA incremental_vacuum(5)", seq=1)["steps"] == [step]
        assert wire.write(["PRAGMA incremental_vacuum", None, {"rows": 1}])["steps"] == [step]
    assert served.read("PRAGMA freelist_count") == [(0,)]


def test_a_commit_that_surely_failed_is_a_failure_and_no_more(daemon):
    """A full-text index that cannot be flushed was taken for an I/O error: the daemon stopped, poisoned."""
    served = daemon()
    insert = "INSERT INTO f VALUES ('hello')"
    with served.wire() as wire:
        wire.write("CREATE VIRTUAL TABLE f USING fts4(a)", "CREATE TABLE t(a)")
        for _ in range(16):  # the next commit merges these
            wire.write(insert)
    served.stop()
    other = sqlite3.connect(served.db)
    with other:
        other.execute("UPDATE f_segdir SET root = x'000fffffffffffffffff'")
    other.close()
    served.start()
    with served.wire() as wire:
        (first, _), (error, _), (last, _) = together(
            wire, ["INSERT INTO t VALUES (1)"], [insert], ["INSERT INTO t VALUES (2)"])
        assert first is None and last is None
        assert (error["code"], error["applied"], error["retry"]) == ("sql", "no", False)
    assert served.running() and not os.path.exists(served.db + "-poisoned")
    assert served.read("SELECT a FROM t") == [(1,), (2,)]


# ---- connections


def shows(count):
    return b"".join(asked(id, "show", what="config") for id in range(10, 10 + count))


def test_whole_requests_are_answered_after_a_pause(daemon):
    """A connection that was paused by its unread answers never got those of requests that had arrived."""
    with daemon(output_bytes_max="64KiB").wire() as wire:
        wire.send(shows(100))
        assert all(wire.reply(id)[0] is None for id in range(10, 110))


def test_half_close_behind_a_pause_loses_nothing(daemon):
    """21 of 100 requests were answered, and the connection closed."""
    with daemon(output_bytes_max="64KiB").wire() as wire:
        wire.send(shows(100))
        wire.socket.shutdown(1)
        assert all(wire.reply(id)[0] is None for id in range(10, 110))
        assert wire.wait_closed() is None


def test_a_clean_stop_answers_what_it_committed(daemon):
    """Answers of the last group were dropped while large ones went out: committed, unanswered, exit 0."""
    for round in range(4):
        served = daemon(drain_timeout="60s")
        served.write("CREATE TABLE t(a)")
        with served.wire() as wire:
            wire.send(b"".join(batch(id, "SELECT zeroblob(4000000)") for id in range(10, 16)) +
                      b"".join(batch(id, ["INSERT INTO t VALUES (?)", [id]]) for id in range(20, 80)))
            time.sleep(0.004 * round)
            served.process.send_signal(signal.SIGTERM)
            answered = set()
            try:
                while True:
                    message = wire.recv()
                    if message[0] == 1 and message[1] >= 20 and message[2] is None:
                        answered.add(message[1])
            except Closed:
                pass
        assert served.wait() == 0
        assert {row[0] for row in served.read("SELECT a FROM t")} == answered


def test_a_clean_stop_waits_for_who_still_reads(daemon):
    """Whoever took longer than a second for large answers lost those behind them, and the stop was called clean."""
    served = daemon(drain_timeout="60s")
    served.write("CREATE TABLE t(a)")
    with served.wire() as wire:
        wire.send(b"".join(batch(id, "SELECT zeroblob(4000000)") for id in range(10, 16)) +
                  b"".join(batch(id, ["INSERT INTO t VALUES (?)", [id]]) for id in range(20, 80)))
        wait_for(lambda: served.read("SELECT count(*) FROM t")[0][0] == 60, "all to be committed")
        served.process.send_signal(signal.SIGTERM)
        answered = set()
        try:
            while True:
                message = wire.recv()
                if message[0] == 1 and message[1] < 20:
                    time.sleep(0.4)
                elif message[0] == 1 and message[2] is None:
                    answered.add(message[1])
        except Closed:
            pass
    assert served.wait() == 0
    assert answered == set(range(20, 80))


def test_a_socket_that_has_just_filled_has_its_time(daemon):
    """Answers of the tick itself filled the socket, and the connection was closed at once as stalled."""
    served = daemon(stall_timeout="60s", exec_timeout="1500ms", in_flight_max=1000)
    sizes = range(20_000, 210_000, 20_000)  # some of them nearly fill it before
    wires = [served.wire(timeout=30) for _ in sizes]
    with served.wire() as busy:
        for wire, size in zip(wires, sizes):
            wire.send(batch(5, [f"SELECT zeroblob({size})"]))
        time.sleep(0.2)
        busy.send(batch(5, ENDLESS.format("count(*)")))
        time.sleep(0.05)
        for wire in wires:
            wire.send(b"".join(batch(id, "SELECT 1", deadline_ms=300) for id in range(10, 810)))
        assert busy.reply(5)[0]["code"] == "deadline"
        time.sleep(0.3)
        for wire in wires:
            for id in (5, *range(10, 810)):
                wire.reply(id)
            wire.close()


# ---- bounds


def test_answers_that_nobody_reads_are_bounded(daemon, litefunnel):
    """What one connection had in flight was executed and kept for it: 4 MB for each request."""
    served = daemon()
    before = highest = served.rss()
    with served.wire() as wire:
        wire.send(b"".join(batch(id, "SELECT zeroblob(4000000)") for id in range(10, 110)))
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            highest = max(highest, served.rss())
            time.sleep(0.02)
    served.write("CREATE TABLE t(a)")
    if not sanitizer(str(litefunnel)):
        assert highest - before < 160 * MIB


def test_large_statements_are_not_kept(daemon, litefunnel):
    """The statement cache counted statements and not bytes: 60 INSERTs of a dump took 480 MiB."""
    served = daemon(sync="normal", exec_timeout="10m")
    values = ",".join(f"({i},{i})" for i in range(30_000))
    with served.wire(timeout=300) as wire:
        wire.write("CREATE TABLE t(a, b)", f"INSERT INTO t VALUES {values}")
        before = served.rss()
        for number in range(20):
            wire.write(f"INSERT INTO t VALUES (1,{number}),{values}")
        if not sanitizer(str(litefunnel)):
            assert served.rss() - before < 32 * MIB


def test_memory_of_one_statement_is_bounded(daemon):
    """An ORDER BY took as much memory as it liked, until the daemon was killed."""
    served = daemon(heap_bytes_max="32MiB", cache_bytes="1MiB")
    with served.wire(timeout=60) as wire:
        wire.write("CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
        error, _ = wire.ask("write", batch=[[
            "INSERT INTO t " + ENDLESS.format("randomblob(10000) AS r") + " ORDER BY r"]])
        assert error["sqlite"] == 7 and error["applied"] == "no"
        wire.write("INSERT INTO t VALUES (2)")
    assert served.read("SELECT a FROM t") == [(1,), (2,)]


def test_names_are_looked_up_once_for_all_rows(daemon):
    """Each row of `many` searched each name among all: exec_timeout was passed twenty times over."""
    served = daemon(exec_timeout="10m")
    names = [f"p{i:04}" for i in range(8000)]
    sql = "SELECT coalesce(" + "),coalesce(".join(
        ",".join("$" + name for name in names[i:i + 100]) for i in range(0, len(names), 100)) + ") -- {}"
    row = dict.fromkeys(names, 1)
    used = []
    with served.wire(timeout=300) as wire:
        for rows in (1, 10):
            before = served.cpu_s()
            wire.write([sql.format(rows), [row] * rows, {"many": True}])
            used.append(served.cpu_s() - before)
    # Most is spent in compiling, once. It was 5 times as much.
    assert used[1] < 3 * used[0] + 0.1, used


def test_messages_of_errors_are_short(daemon):
    """An error with a megabyte of the client's own SQL in it was answered, and remembered, whole."""
    with daemon().wire(session=os.urandom(16)) as wire:
        error, _ = wire.ask("write", batch=[["SELECT " + "é" * 400_000]], seq=1)
        assert error["code"] == "sql" and len(error["message"].encode()) < 8192
        assert wire.ask("write", batch=[["SELECT " + "é" * 400_000]], seq=1)[0] == error
