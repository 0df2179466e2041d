# SPDX-License-Identifier: MIT
"""Turns for the database's own sake: halt, vacuum, optimize."""
import json
import subprocess
import sys
import threading

import pytest


def run(litefunnel, command, served, *args, timeout=120):
    return subprocess.run([litefunnel, command, served.db, *map(str, args)], capture_output=True,
                          text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)


def python(code):
    return ["--", sys.executable, "-c", "import os, sqlite3, sys, time\n"
            "db = sqlite3.connect(os.environ['LITEFUNNEL_DB'], timeout=5, isolation_level=None)\n" + code]


def fill(served):
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT)",
                 "CREATE INDEX t_s ON t(s)",
                 "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 20000)"
                 " INSERT INTO t SELECT i, printf('%0100d', i) FROM c")


def test_vacuum_says_the_cost_and_gives_pages_back(litefunnel, daemon):
    served = daemon()
    fill(served)
    served.write("DELETE FROM t WHERE id > 2000")
    done = run(litefunnel, "vacuum", served)
    assert done.returncode == 1 and "--yes" in done.stderr and "free" in done.stderr
    with served.wire() as wire:
        commit = wire.call("ping")["commit"]
        look = wire.call("vacuum", look=1)
        assert look["free_bytes"] > look["bytes"] / 2 and wire.call("ping")["commit"] == commit
    done = run(litefunnel, "vacuum", served, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["bytes"] < facts["bytes_before"] / 2 and facts["commit"] == commit + 2
    assert served.read("SELECT commit_no FROM _lf_state") == [(commit + 2,)]
    assert served.write("INSERT INTO t VALUES (50000, 'x')")["commit"] == commit + 3
    assert served.read("PRAGMA integrity_check") == [("ok",)]
    assert served.read("SELECT count(*) FROM t") == [(2001,)]
    served.restart()
    assert served.read("SELECT count(*) FROM t") == [(2001,)]


def test_a_vacuum_touches_all_tables(daemon):
    """It renumbers rowids without a name: a batch by rowid, guarded by what was read before, hit another row."""
    served = daemon()
    served.write("CREATE TABLE x(a)", ["INSERT INTO x VALUES (?)", [[n] for n in range(1, 6)], {"many": True}])
    served.write("DELETE FROM x WHERE rowid = 2")
    with served.wire() as wire, served.wire() as watcher:
        at = wire.call("ping")
        watch = watcher.call("watch", tables=["x"])["watch"]
        commit = wire.call("vacuum")["commit"]
        error, _ = wire.ask("write", batch=[["DELETE FROM x WHERE rowid = 4"]],
                            if_commit={"at": {"epoch": at["epoch"], "commit": at["commit"]}, "tables": ["x"]})
        assert error["code"] == "snapshot_changed", error
        method, notice = watcher.next_notice()
        assert (method, notice["watch"], notice["commit"]) == ("commit", watch, commit)
    assert served.read("SELECT count(*) FROM x") == [(4,)]


def test_vacuum_is_refused_while_a_chunk_is_open(daemon):
    served = daemon()
    fill(served)
    with served.wire() as wire:
        wire.call("chunk", sql="UPDATE t SET s = 'x'", name="c", rate=100)
        error, _ = wire.ask("vacuum")
        assert error["code"] == "bad_request" and "chunk" in error["message"]
        wire.call("chunk_ctl", chunk="c", op="cancel")
        wire.call("vacuum")
        # A statement that was compiled before, and a chunk that begins after.
        wire.write(["INSERT INTO t VALUES (?, ?)", [30000, "y"]])
        wire.call("chunk", sql="UPDATE t SET s = 'z'", name="d")
        assert wire.call("chunk_ctl", chunk="d", op="wait", timeout=60)["state"] == "done"


def test_writers_wait_for_a_vacuum_and_get_no_error(daemon):
    served = daemon()
    fill(served)
    errors, stop = [], threading.Event()

    def write():
        with served.wire() as wire:
            while not stop.is_set():
                error, _ = wire.ask("write", batch=[["UPDATE t SET s = s || 'a' WHERE id = 1"]])
                if error:
                    errors.append(error)
    thread = threading.Thread(target=write)
    thread.start()
    with served.wire(timeout=120) as wire:
        for _ in range(5):
            wire.call("vacuum")
    stop.set()
    thread.join()
    assert errors == []


def test_optimize(litefunnel, daemon):
    served = daemon()
    fill(served)
    done = run(litefunnel, "optimize", served)
    assert done.returncode == 0 and "commit" in done.stdout, done.stderr
    stats = served.read("SELECT tbl, idx FROM sqlite_stat1")
    assert ("t", "t_s") in stats and not [row for row in stats if row[0].startswith("_lf_")]
    assert served.write("PRAGMA analysis_limit")["steps"][0]["rows"] == [[0]]


def test_upkeep_is_for_admins(daemon):
    served = daemon()
    with served.wire_as(20071) as wire:
        assert wire.ask("vacuum")[0]["code"] == "denied"
        assert wire.ask("optimize")[0]["code"] == "denied"


def test_halt_lets_another_program_write(litefunnel, daemon):
    served = daemon()
    fill(served)
    done = run(litefunnel, "halt", served, *python(
        "db.execute(\"INSERT INTO t VALUES (100000, 'by hand')\")\nprint('done')\nsys.exit(7)"))
    assert done.returncode == 7 and done.stdout == "done\n", done.stderr
    assert served.write("INSERT INTO t VALUES (100001, 'by the daemon')")["commit"] > 0
    assert served.read("SELECT count(*) FROM t WHERE id >= 100000") == [(2,)]
    done = run(litefunnel, "halt", served, *python("db.execute('CREATE TABLE fresh(a)')"))
    assert done.returncode == 0, done.stderr
    served.write("INSERT INTO fresh VALUES (1)")
    assert served.read("PRAGMA integrity_check") == [("ok",)]


def test_what_comes_during_a_halt_waits(litefunnel, daemon, tmp_path):
    served = daemon()
    fill(served)
    go = tmp_path / "go"
    with served.wire() as wire:
        process = subprocess.Popen(
            [litefunnel, "halt", served.db, *python(
                "print('there', flush=True)\n"
                f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
                "db.execute(\"UPDATE t SET s = 'one' WHERE id = 1\")")],
            stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "there\n"
        waiting = wire.request("write", batch=[["UPDATE t SET s = s || ' two' WHERE id = 1"]])
        assert wire.call("ping")["commit"] > 0  # answered, though what was sent before waits
        assert waiting not in wire.replies
        assert served.read("SELECT count(*) FROM t") == [(20000,)]
        go.touch()
        assert process.wait(60) == 0
        process.stdout.close()
        error, _ = wire.reply(waiting)
        assert error is None
    assert served.read("SELECT s FROM t WHERE id = 1") == [("one two",)]


def test_halt_that_takes_too_long_or_cannot(litefunnel, daemon):
    served = daemon()
    fill(served)
    done = run(litefunnel, "halt", served, "--for", "300ms", *python("time.sleep(60)"))
    assert done.returncode == 125 and "--for" in done.stderr
    served.write("INSERT INTO t VALUES (200000, 'after')")
    done = run(litefunnel, "halt", served, "--", "/no/such/program")
    assert done.returncode == 125
    done = run(litefunnel, "halt", served)
    assert done.returncode == 125 and "--" in done.stderr
    served.write("INSERT INTO t VALUES (200001, 'after')")


def test_halt_finds_that_the_wal_was_taken(litefunnel, daemon):
    """It said that all was well, and the daemon ended a second later."""
    served = daemon()
    served.write("CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    done = run(litefunnel, "halt", served, "--", "rm", f"{served.db}-wal")
    assert done.returncode == 125 and "rm has removed or replaced" in done.stderr and f"{served.db}-wal" in done.stderr, done
    assert served.wait() == 3
    assert "all commits are in the database" in served.log()
    served.start()
    assert served.read("SELECT a FROM t") == [(1,)]


def test_halt_finds_damage_and_leaves_the_daemon_paused(litefunnel, daemon):
    served = daemon()
    served.write("CREATE TABLE p(id INTEGER PRIMARY KEY)", "CREATE TABLE c(p REFERENCES p(id))")
    done = run(litefunnel, "halt", served, *python("db.execute('INSERT INTO c VALUES (9)')"))
    assert done.returncode == 125 and "foreign key" in done.stderr and "resume" in done.stderr
    with served.wire() as wire:
        assert wire.ask("write", batch=[["DELETE FROM c"]], deadline_ms=50)[0]["code"] == "deadline"
    stats = served.stats()  # the pause has no end of its own, and another halt does not end it
    assert stats["paused"] == 1 and stats["pause_left_s"] == 0
    done = run(litefunnel, "halt", served, *python("db.execute('DELETE FROM c')"))
    assert done.returncode == 0 and "paused before" in done.stderr and served.stats()["paused"] == 1
    assert run(litefunnel, "resume", served).returncode == 0
    served.write("DELETE FROM c")
    done = run(litefunnel, "halt", served, "--no-check", *python("db.execute('INSERT INTO c VALUES (9)')"))
    assert done.returncode == 0


@pytest.mark.parametrize("how", ["db.execute('VACUUM')", "db.execute('PRAGMA wal_checkpoint(restart)')",
                                 "db.execute('ALTER TABLE t ADD COLUMN more')"])
def test_halt_for_what_tools_do(litefunnel, daemon, how):
    served = daemon()
    fill(served)
    done = run(litefunnel, "halt", served, *python(
        "try:\n  " + how + "\nexcept sqlite3.OperationalError as error:\n  assert 'locked' in str(error)"))
    assert done.returncode == 0, done.stderr
    with served.wire() as wire:
        wire.write("INSERT INTO t(id, s) VALUES (300000, 'x')")
    assert served.read("PRAGMA integrity_check") == [("ok",)]
    assert served.read("SELECT count(*) FROM t") == [(20001,)]
