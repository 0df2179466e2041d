# SPDX-License-Identifier: MIT
"""
Other hands in the database: what another process writes, while a daemon lives and while none does, what happens
when its files or its locks go away, and who is named for locks that stand in the way.
"""
import contextlib
import fcntl
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import threading
import time

import pytest

from daemon import wait_for
from wire import Closed

SHM_WRITE, SHM_CHECKPOINT, SHM_DMS, PENDING = 120, 121, 128, 1 << 30


def cli(db, *sql):
    """The command-line shell of SQLite, as the daemon's own user."""
    done = subprocess.run(["sqlite3", str(db), *sql], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_table(served):
    served.write("CREATE TABLE t(a INTEGER PRIMARY KEY, who TEXT)", "CREATE TABLE pad(content)")


class Load(threading.Thread):
    """Writes rows by seq on one connection, and notes what it was told."""

    def __init__(self, served, first=1):
        super().__init__(daemon=True)
        self.served, self.first = served, first
        self.acked, self.epochs, self.errors = [], [], []
        self.over = threading.Event()
        self.start()

    def run(self):
        with contextlib.suppress(Closed, OSError), self.served.wire(session=os.urandom(16)) as wire:
            a, seq = self.first, 0
            while not self.over.is_set():
                seq += 1
                error, result = wire.ask("write", batch=[["INSERT INTO t VALUES (?, 'funnel')", [a]]], seq=seq)
                if error is not None:
                    self.errors.append(error)
                    return
                self.acked.append(a)
                if not self.epochs or self.epochs[-1] != result["epoch"]:
                    self.epochs.append(result["epoch"])
                a += 1

    def stop(self):
        self.over.set()
        self.join(60)
        assert not self.is_alive()


def epoch(served):
    return served.read("SELECT epoch FROM _lf_state")[0][0]


def nothing_is_lost(served, load):
    rows = {a for (a,) in served.read("SELECT a FROM t WHERE who = 'funnel'")}
    assert rows >= set(load.acked), sorted(set(load.acked) - rows)[:10]
    assert served.read("PRAGMA integrity_check") == [("ok",)]


# ---- while it runs


def insert(served, i):
    return ["INSERT INTO t VALUES (-%d, 'other')" % (i + 1)]


def checkpoint(served, i):
    return ["PRAGMA wal_checkpoint(%s)" % ("PASSIVE", "RESTART", "TRUNCATE")[i % 3]]


def vacuum(served, i):
    return ["VACUUM"]


def insert_and_checkpoint(served, i):
    return [".timeout 5000", "INSERT INTO t VALUES (-%d, 'other')" % (i + 1001), "PRAGMA wal_checkpoint(TRUNCATE)"]


def schema(served, i):
    return [f"CREATE TABLE other{i}(a)", f"INSERT INTO other{i} VALUES (1)"]


@pytest.mark.parametrize("hand", [insert, checkpoint, vacuum, insert_and_checkpoint, schema],
                         ids=lambda hand: hand.__name__)
def test_another_hand_while_it_runs(daemon, soak, hand):
    """Nobody fails, nothing is lost on either side; what was written begins a new epoch."""
    served = daemon(checkpoint_frames=100)
    make_table(served)
    load = Load(served)
    for i in range(50 if soak else 5):
        before, count = epoch(served), len(load.acked)
        wait_for(lambda: len(load.acked) > count, "a write")
        foreign = served.stats()["foreign_total"]
        cli(served.db, ".timeout 5000", *hand(served, i))
        wait_for(lambda: served.stats()["foreign_total"] > foreign, "the other hand to be noticed")
        assert (epoch(served) != before) == (hand is not checkpoint or epoch(served) != before)
        if hand is not checkpoint:
            assert epoch(served) != before
        count = len(load.acked)
        wait_for(lambda: len(load.acked) > count + 3, "writes to go on")
    load.stop()
    assert not load.errors, load.errors[0]
    nothing_is_lost(served, load)
    if hand in (insert, insert_and_checkpoint):
        assert served.read("SELECT count(*) FROM t WHERE who = 'other'") == [(50 if soak else 5,)]
    log = served.log()
    assert ("has made a checkpoint" if hand is checkpoint else "has a new epoch") in log


def test_it_does_not_let_go_of_the_journal_mode(daemon):
    served = daemon()
    make_table(served)
    load = Load(served)
    wait_for(lambda: load.acked, "a write")
    for _ in range(5):
        done = subprocess.run(["sqlite3", served.db, "PRAGMA journal_mode = DELETE"], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        assert "locked" in done.stderr or done.stdout.strip() == "wal", done
    load.stop()
    assert not load.errors
    nothing_is_lost(served, load)


def test_a_hand_that_stays_is_named(daemon):
    """The log names pid and command of who has the file open for writing, and a client its own epoch."""
    served = daemon()
    make_table(served)
    with served.wire() as wire, contextlib.closing(sqlite3.connect(served.db)) as other:
        before = wire.call("ping")["epoch"]
        other.execute("INSERT INTO t VALUES (-1, 'other')")
        other.commit()
        result = wire.write("INSERT INTO t VALUES (1, 'funnel')")
        assert result["epoch"] != before
        assert wire.call("ping")["epoch"] == result["epoch"]
        with served.wire(greet=False) as second:
            hello = second.hello(seen={"epoch": before, "commit": 1})
            assert hello["epoch"] == result["epoch"] and hello["epoch_changed"]["was"] == before
    assert re.search(rf"new epoch.*pid {os.getpid()} \(", served.log()), served.log()


def test_harm_is_not_served(daemon, litefunnel):
    """A database that fails its checks stays as it is, with an error that says so; repaired, it goes on."""
    served = daemon()
    make_table(served)
    served.write("CREATE TABLE u(a, b)", "CREATE INDEX i ON u(a)", "INSERT INTO u VALUES (1, 2)")
    root = served.read("SELECT rootpage FROM sqlite_schema WHERE name = 'i'")[0][0]
    cli(served.db, ".dbconfig defensive off", "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 't')"
        " WHERE name = 'i'")
    with served.wire() as wire:
        for _ in range(3):
            error, _ = wire.ask("write", batch=[["INSERT INTO t VALUES (1, 'x')"]])
            assert (error["code"], error["applied"], error["retry"]) == ("foreign_writer", "no", True)
            assert "repair or restore" in error["message"]
        status = subprocess.run([litefunnel, "status", served.db], text=True, stdout=subprocess.PIPE,
                                check=False)
        assert status.stdout.startswith("stopped: another process has written"), status.stdout
        cli(served.db, ".dbconfig defensive off", "PRAGMA writable_schema = ON",
            f"UPDATE sqlite_schema SET rootpage = {root} WHERE name = 'i'")
        wait_for(lambda: wire.ask("write", batch=[["INSERT INTO t VALUES (1, 'x')"]])[0] is None,
                 "it to go on")


def test_another_state_over_ours(daemon, tmp_path):
    """A restore over the living file: it starts over under a new epoch, and says so to who knew more."""
    served = daemon()
    make_table(served)
    old = tmp_path / "old.db"
    cli(served.db, f"VACUUM INTO '{old}'")
    for i in range(5):
        with served.wire(session=os.urandom(16)) as wire:
            last = wire.write([f"INSERT INTO t VALUES ({i}, 'funnel')"], seq=1)
            cli(served.db, ".timeout 5000", f".restore {old}")
            with pytest.raises(Closed):
                wire.write("INSERT INTO t VALUES (100, 'funnel')", seq=2)
        assert served.wait() == 3 and "replaced by another state" in served.log()
        served.start()
        with served.wire(greet=False) as wire:
            hello = wire.hello(seen={"epoch": last["epoch"], "commit": last["commit"]})
            assert hello["epoch_changed"]["was"] == last["epoch"]
        assert served.read("SELECT count(*) FROM t") == [(0,)]


# ---- while no daemon runs, and in between


def as_last_closer(served):
    cli(served.db, "SELECT count(*) FROM t")


def writes_and_closes(served):
    cli(served.db, "INSERT INTO t VALUES (-1, 'other')")


def writes_and_is_killed(served):
    """It leaves its transaction in the WAL."""
    process = subprocess.Popen(["sqlite3", served.db], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("INSERT INTO t VALUES (-1, 'other'); SELECT 'done';\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    process.kill()
    process.wait()


def vacuums(served):
    cli(served.db, "VACUUM")


def switches_the_journal(served):
    cli(served.db, "PRAGMA journal_mode = DELETE", "INSERT INTO t VALUES (-1, 'other')")


def is_a_copy(served):
    """Restored over ours: the file alone, without its WAL."""
    copy = f"{served.db}.copy"
    cli(served.db, f"VACUUM INTO '{copy}'")
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(served.db + suffix)
    os.chmod(copy, 0o640)
    shutil.chown(copy, *[getattr(os.stat(served.db), x) for x in ("st_uid", "st_gid")])
    os.rename(copy, served.db)


DEAD = [as_last_closer, writes_and_closes, writes_and_is_killed, vacuums, switches_the_journal, is_a_copy]


@pytest.mark.parametrize("hand", DEAD, ids=lambda hand: hand.__name__)
@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_another_hand_while_no_daemon_runs(daemon, soak, hand, end):
    """The start notices, checks, begins a new epoch and says why; nothing acknowledged is lost."""
    served = daemon(checkpoint_frames=50)
    make_table(served)
    first = 1
    for _ in range(25 if soak else 2):
        load = Load(served, first)
        wait_for(lambda: len(load.acked) > 20, "writes")
        served.kill() if end == "killed" else served.stop()
        load.stop()
        first = load.acked[-1] + 10
        known = epoch(served)
        hand(served)
        served.start()
        assert epoch(served) != known
        assert "a new epoch begins" in served.log()
        nothing_is_lost(served, load)
        again = epoch(served)
        served.restart()
        assert epoch(served) == again
        served.write("DELETE FROM t WHERE who = 'other'")


def test_nobody_was_there(daemon):
    """Restarts, kills and readers alone are no reason for a new epoch."""
    served = daemon(checkpoint_frames=50)
    make_table(served)
    known = epoch(served)
    first = 1
    for i in range(6):
        load = Load(served, first)
        with contextlib.closing(served.reader()) as reader:
            reader.execute("SELECT count(*) FROM t").fetchall()
            wait_for(lambda: len(load.acked) > 100, "writes")
        served.kill() if i % 2 else served.stop()
        load.stop()
        first = load.acked[-1] + 10
        served.read("SELECT count(*) FROM t")
        served.start()
        assert epoch(served) == known
    assert served.stats()["foreign_total"] == 0
