# SPDX-License-Identifier: MIT
"""Turns for the database's own sake: halt, vacuum, optimize."""
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from daemon import wait_for


def run(litefunnel, command, served, *args, timeout=120):
    return subprocess.run([litefunnel, command, served.db, *map(str, args)], capture_output=True,
                          text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)


def python(code):
    return ["--", sys.executable, "-c", "import os, signal, sqlite3, sys, time\n"
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


@pytest.mark.parametrize("sql", ["INSERT INTO t VALUES (100000, 'foreign')", "VACUUM"])
def test_a_vacuum_right_behind_a_foreign_write(litefunnel, daemon, sql):
    """What it commits itself it counts as its own: that of others is looked at first."""
    served = daemon()
    fill(served)
    db = sqlite3.connect(served.db, timeout=5, isolation_level=None)
    db.execute(sql)
    db.close()
    done = run(litefunnel, "vacuum", served, "--yes")
    assert done.returncode == 0, done.stderr + served.log()
    served.write("INSERT INTO t VALUES (100001, 'goes on')")


def test_a_start_beside_a_halt_that_writes_names_it(litefunnel, daemon):
    """It cannot begin, and whose fault that is must not be told of the command."""
    served = daemon()
    served.write("CREATE TABLE t(a)")
    process = says_there(halt(litefunnel, served, served.db, *python(
        "db.execute('BEGIN IMMEDIATE')\n" + WAITS + "\ndb.execute('COMMIT')\nos.close(1)"), stdin=subprocess.PIPE))
    served.kill()
    assert f"litefunnel halt (process {process.pid})" in served.refuses_to_start()[1][0]
    process.stdin.write("\n")
    process.stdin.close()
    wait_for(lambda: served.read("SELECT a FROM t") == [(7,)], "the end of the command")
    served.start()
    assert process.wait(60) == 0, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    served.write("INSERT INTO t VALUES (8)")


def test_a_pause_of_a_halt_that_is_killed_ends_with_its_command(litefunnel, daemon):
    served = daemon()
    fill(served)
    process = halt(litefunnel, served, served.db, "--", "sh", "-c", "sleep 1")
    wait_for(lambda: os.path.exists(f"{served.db}-halt") and served.stats()["paused"] == 1, "the halt")
    time.sleep(0.3)
    process.kill()
    process.communicate()
    with served.wire() as wire:  # not after for + 70 s
        assert wire.ask("write", batch=[["INSERT INTO t VALUES (100000, 'x')"]], deadline_ms=20000)[0] is None


def test_halt_takes_what_pointed_nowhere_before_for_granted(litefunnel, daemon):
    """Mending a part of it must not leave the daemon paused."""
    served = daemon(foreign_keys="off")
    served.write("CREATE TABLE p(id INTEGER PRIMARY KEY)",
                 "CREATE TABLE c(p REFERENCES p(id), PRIMARY KEY (p)) WITHOUT ROWID",
                 "INSERT INTO c VALUES (7), (8), (9)")
    done = run(litefunnel, "halt", served, *python("db.execute('DELETE FROM c WHERE p = 9'); sys.exit(3)"))
    assert done.returncode == 3 and "2 foreign keys point nowhere" in done.stderr, done.stderr
    assert served.stats()["paused"] == 0
    done = run(litefunnel, "halt", served, *python("db.execute('INSERT INTO c VALUES (10)')"))
    assert done.returncode == 125 and served.stats()["paused"] == 1


def halt(litefunnel, served, *args, **options):
    return subprocess.Popen([litefunnel, "halt", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def says_there(process):
    assert process.stdout.readline() == "there\n"
    return process


def deadline_of(served, wire):
    return wire.ask("write", batch=[["INSERT INTO t VALUES (1)"]], deadline_ms=200)[0]


WAITS = "print('there', flush=True)\nsys.stdin.read()\ndb.execute('INSERT INTO t VALUES (7)')"


def test_one_halt_at_a_time(litefunnel, daemon):
    """The first to end resumed, and the daemon wrote beneath the second one's command."""
    served = daemon()
    served.write("CREATE TABLE t(a)")
    one = says_there(halt(litefunnel, served, served.db, *python(WAITS), stdin=subprocess.PIPE))
    two = run(litefunnel, "halt", served, *python(WAITS))
    assert two.returncode == 125 and f"process {one.pid}" in two.stderr, two
    with served.wire() as wire:
        error, _ = wire.ask("resume")
        assert error["code"] == "bad_request" and f"process {one.pid}" in error["message"], error
        wire.call("pause", for_ms=100)  # somebody else's, which would end beneath the command
        time.sleep(0.4)
        assert "halt" in deadline_of(served, wire)["message"]
        assert one.communicate("", timeout=60)[1] == "" and one.returncode == 0
        wait_for(lambda: served.stats()["paused"] == 0, "the end of the halt")
        wire.write("INSERT INTO t VALUES (8)")
    assert served.read("SELECT a FROM t") == [(7,), (8,)]
    assert not os.path.exists(f"{served.db}-halt")


def test_a_daemon_that_is_started_anew_stays_halted(litefunnel, daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    process = says_there(halt(litefunnel, served, served.db, *python(WAITS), stdin=subprocess.PIPE))
    served.kill()
    served.start()
    with served.wire() as wire:
        assert f"halt, process {process.pid}" in deadline_of(served, wire)["message"]
        assert process.communicate("", timeout=60)[1] == "" and process.returncode == 0
        wire.write("INSERT INTO t VALUES (8)")
    assert served.read("SELECT a FROM t") == [(7,), (8,)]


def test_a_halt_that_is_killed_leaves_the_file_to_its_command(litefunnel, daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    read, write = os.pipe()
    process = says_there(halt(litefunnel, served, served.db, *python(
        "print('there', flush=True)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsys.stdin.read()"), stdin=read))
    process.kill()
    process.wait()
    os.close(read)
    with served.wire() as wire:
        wire.call("pause", for_ms=50)
        assert "paused" in deadline_of(served, wire)["message"]
        os.close(write)
        wait_for(lambda: served.stats()["paused"] == 0, "the end of the command")
        wire.write("INSERT INTO t VALUES (8)")


@pytest.mark.parametrize("how", ["deadline", "signal"])
def test_a_halt_that_never_ran_its_command_leaves_no_pause(litefunnel, daemon, tmp_path, how):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    with served.wire() as wire:
        wire.call("begin", lease=1)
        wire.call("step", lease=1, sql="INSERT INTO t VALUES (1)")
        options = ["--deadline", "1500ms"] if how == "deadline" else []
        process = halt(litefunnel, served, served.db, *options, "--", "touch", tmp_path / "ran")
        if how == "signal":
            wait_for(lambda: served.stats()["paused"] == 1, "its pause")
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == (125 if how == "deadline" else 130)
        wire.call("rollback", lease=1)
        wire.write("INSERT INTO t VALUES (2)", deadline_ms=1000)
    assert not (tmp_path / "ran").exists() and served.read("SELECT a FROM t") == [(2,)]


CHILD = ("import os, signal, sqlite3, sys, time\nfor i in range(100):\n db = sqlite3.connect(os.environ['LITEFUNNEL_DB'])\n"
         " db.execute('INSERT INTO t VALUES (?)', (i,))\n db.commit()\n {}\n time.sleep(0.1)\n")


def test_what_the_command_has_started_ends_with_its_time(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    script = tmp_path / "child.py"
    script.write_text(CHILD.format("db.close()"), encoding="ascii")
    done = run(litefunnel, "halt", served, "--for", "1s", "--", "sh", "-c", f"/usr/bin/python3 {script}; true")
    assert done.returncode == 125 and "--for" in done.stderr, done
    count = served.read("SELECT count(*) FROM t")
    assert 0 < count[0][0] < 100
    time.sleep(0.5)
    assert served.read("SELECT count(*) FROM t") == count


def test_what_the_command_leaves_behind_with_the_database_open_is_waited_for(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    script = tmp_path / "child.py"
    script.write_text(CHILD.replace("100", "10").format("pass"), encoding="ascii")
    # It tells when it has begun, and is then left to itself.
    done = run(litefunnel, "halt", served, "--", "sh", "-c",
               f"/usr/bin/python3 {script} & while ! [ \"$(ls -l /proc/$!/fd | grep -c app.db$)\" -ge 1 ]; do sleep 0.02; done; exit 3")
    assert done.returncode == 3 and "still has the database open" in done.stderr, done
    assert served.read("SELECT count(*) FROM t") == [(10,)]
    served.write("INSERT INTO t VALUES (8)")


def test_halt_finds_what_the_daemon_does_not_go_on_with(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    copy = tmp_path / "copy.db"
    with sqlite3.connect(served.db) as db, sqlite3.connect(copy) as to:
        db.backup(to)
    served.write("INSERT INTO t VALUES (1)")
    served.write("INSERT INTO t VALUES (2)")
    restore = "source = sqlite3.connect(sys.argv[1])\nsource.backup(db)"
    done = run(litefunnel, "halt", served, *python(restore), copy)
    assert done.returncode == 125 and "older state" in done.stderr and "stays paused" in done.stderr, done
    served.kill()
    served.start()
    done = run(litefunnel, "halt", served, *python(
        "db.execute('CREATE TRIGGER x AFTER UPDATE ON _lf_state BEGIN SELECT 1; END')"))
    assert done.returncode == 125 and "litefunnel's tables" in done.stderr, done


def test_halt_by_another_name_of_the_file_finds_that_the_wal_was_taken(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    link = tmp_path / "link.db"
    link.symlink_to(served.db)
    done = subprocess.run([litefunnel, "halt", link, "--socket", served.socket, "--", "rm", f"{served.db}-wal"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125 and "removed or replaced" in done.stderr, done
    assert served.wait() == 3


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
