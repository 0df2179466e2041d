# SPDX-License-Identifier: MIT
"""
Other hands in the database: what another process writes, while a daemon lives and while none does, what happens
when its files or its locks go away, and who is named for locks that stand in the way.
"""
import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

from daemon import sanitizer, wait_for
from wire import Closed

SHM_WRITE, PENDING = 120, 1 << 30


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
        self.turn = threading.Lock()  # held around each write: whoever has it, nobody writes
        self.start()

    def run(self):
        with contextlib.suppress(Closed, OSError), self.served.wire(session=os.urandom(16)) as wire:
            a, seq = self.first, 0
            while not self.over.is_set():
                seq += 1
                with self.turn:
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

        def noticed():
            if served.stats()["foreign_total"] > foreign:
                return True
            if hand is checkpoint:
                # One that finds nothing to do, or is overtaken, leaves no trace: so one that nobody overtakes,
                # and then a write, which begins the WAL anew.
                with load.turn:
                    cli(served.db, ".timeout 5000", *hand(served, i))
                count = len(load.acked)
                wait_for(lambda: len(load.acked) > count, "a write")
            return False
        if hand is not checkpoint:
            # The very next commit stands in the new epoch. The count is no sign of it: it grows for the
            # checkpoint of the round before, too, which is looked for some times a second.
            assert served.write("INSERT INTO pad VALUES (1)")["epoch"] != before
        wait_for(noticed, "the other hand to be noticed")
        count = len(load.acked)
        wait_for(lambda: len(load.acked) > count + 3, "writes to go on")
    load.stop()
    assert not load.errors, load.errors[0]
    nothing_is_lost(served, load)
    if hand in (insert, insert_and_checkpoint):
        assert served.read("SELECT count(*) FROM t WHERE who = 'other'") == [(50 if soak else 5,)]
    log = served.log()
    said = ("has made a checkpoint", "changed by another process") if hand is checkpoint else \
        ("has a new epoch",)
    assert any(words in log for words in said)


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


@pytest.mark.parametrize("harm,lost", [
    ("DROP TABLE _lf_state", "_lf_state"), ("DROP TABLE _lf_key", "_lf_key"),
    ("DELETE FROM _lf_state", "the row of _lf_state")])
def test_our_own_tables_are_missed_at_once(daemon, litefunnel, harm, lost):
    """Writes waited without a word, and only a restart told why."""
    served = daemon()
    make_table(served)
    cli(served.db, harm)
    with served.wire() as wire:
        for _ in range(2):
            error, _ = wire.ask("write", batch=[["INSERT INTO t VALUES (1, 'x')"]])
            assert (error["code"], error["applied"]) == ("foreign_writer", "no")
            assert lost in error["message"] and "_lf_*" in error["message"], error
    status = subprocess.run([litefunnel, "status", served.db], text=True, stdout=subprocess.PIPE, check=False)
    assert status.stdout.startswith("stopped: another process has taken litefunnel's own tables"), status.stdout
    assert "nothing is served" in served.log() and lost in served.log()
    served.stop()
    if lost != "_lf_state":
        return
    code, said = served.refuses_to_start()
    assert code != 0 and "has lost litefunnel's table _lf_state" in said[0], said
    cli(served.db, *(f"DROP TABLE {name}" for name in ("_lf_group", "_lf_session", "_lf_key", "_lf_chunk", "_lf_drill")))
    served.start()
    served.write("INSERT INTO t VALUES (1, 'x')")


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


# ---- files that go away under it


def stops_for(served, load, name, verb):
    """It acknowledges nothing more, and ends with a line that names the file."""
    served.process.wait(10 * served.slow)
    load.stop()
    assert served.wait() == 3
    assert re.search(rf"{re.escape(name)} was {verb} under the running daemon", served.log()), served.log()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize("verb", ["deleted", "moved"])
def test_a_file_beside_it_goes_away(daemon, suffix, verb):
    """What was acknowledged is brought into the database first; a new start goes on with all of it."""
    served = daemon()
    make_table(served)
    load = Load(served)
    wait_for(lambda: len(load.acked) > 50, "writes")
    if verb == "deleted":
        os.unlink(served.db + suffix)
    else:
        os.rename(served.db + suffix, served.db + ".elsewhere")
    stops_for(served, load, served.db + suffix, verb)
    served.start()
    nothing_is_lost(served, load)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_file_goes_away_right_before_the_end(daemon, suffix):
    """A clean stop left what was acknowledged in a file that was not there any more, and said nothing."""
    served = daemon()
    served.write("CREATE TABLE t(a)")
    for number in range(10):
        served.write(f"INSERT INTO t VALUES ({number})")
    with served.wire() as wire:
        os.unlink(served.db + suffix)
        wire.write("INSERT INTO t VALUES (10)")
    served.process.terminate()
    assert served.wait() == 3
    assert f"{served.db}{suffix} was deleted under the running daemon; all commits are in the database" in served.log()
    served.start()
    assert served.read("SELECT a FROM t") == [(number,) for number in range(11)]


def refused(served):
    with served.wire() as wire:
        error = wait_for(lambda: wire.ask("write", batch=[["REPLACE INTO t VALUES (-9, 'x')"]])[0], "a refusal")
    assert (error["code"], error["applied"], error["retry"]) == ("foreign_writer", "no", True), error
    return error["message"]


def test_the_database_is_moved_and_comes_back(daemon):
    served = daemon()
    make_table(served)
    load = Load(served)
    wait_for(lambda: len(load.acked) > 50, "writes")
    elsewhere = served.db + ".elsewhere"
    os.rename(served.db, elsewhere)
    assert f"moved to {elsewhere}" in refused(served)
    load.stop()
    # The moved file is whole, without any other.
    with contextlib.closing(sqlite3.connect(f"file:{elsewhere}?immutable=1", uri=True)) as other:
        rows = {a for (a,) in other.execute("SELECT a FROM t")}
        assert rows >= set(load.acked)
    os.rename(elsewhere, served.db)
    with served.wire() as wire:
        wait_for(lambda: wire.ask("write", batch=[["INSERT INTO t VALUES (-1, 'x')"]])[0] is None, "it to go on")
    nothing_is_lost(served, load)


def test_the_database_is_deleted(daemon, tmp_path):
    """The message says how to save it, and that works."""
    served = daemon()
    make_table(served)
    load = Load(served)
    wait_for(lambda: len(load.acked) > 50, "writes")
    os.unlink(served.db)
    message = refused(served)
    load.stop()
    saved = tmp_path / "saved.db"
    source = re.search(r"cp (/proc/\d+/fd/\d+) COPY", message).group(1)
    subprocess.run(["cp", source, saved], check=True)
    with contextlib.closing(sqlite3.connect(saved)) as other:
        assert {a for (a,) in other.execute("SELECT a FROM t")} >= set(load.acked)
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    served.kill()


def test_another_file_takes_its_place(daemon):
    served = daemon()
    make_table(served)
    load = Load(served)
    wait_for(lambda: len(load.acked) > 50, "writes")
    shutil.copy(served.db, served.db + ".new")
    os.rename(served.db + ".new", served.db)
    assert "another file stands in its place" in refused(served)
    load.stop()
    # Nothing of ours is left in the WAL to be read over the new file.
    assert os.path.getsize(served.db + "-wal") == 0
    served.kill()


# ---- locks

DROPPER = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
/* Opens and closes the file that it is told, as no code in the daemon may. */
static void drop(int number)
{
    (void)number;
    close(open(getenv("DROP_LOCKS_OF"), O_RDONLY));
}
__attribute__((constructor)) static void begin(void)
{
    struct sigaction action = {.sa_handler = drop, .sa_flags = SA_RESTART};
    sigaction(SIGUSR2, &action, NULL);
}
"""


@pytest.mark.parametrize("suffix", ["", "-shm"])
def test_locks_that_are_lost(daemon, tmp_path, suffix):
    """It stops within a second, and says so; a new start holds them again."""
    source, library = tmp_path / "drop.c", tmp_path / "drop.so"
    source.write_text(DROPPER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    served = daemon(start=False)
    served.env = {"LD_PRELOAD": str(library), "DROP_LOCKS_OF": served.db + suffix,
                  "ASAN_OPTIONS": "detect_leaks=1:exitcode=99:verify_asan_link_order=0"}
    served.start()
    make_table(served)
    load = Load(served)
    wait_for(lambda: len(load.acked) > 50, "writes")
    served.process.send_signal(signal.SIGUSR2)
    began = time.monotonic()
    served.process.wait(30 * served.slow)
    took = time.monotonic() - began
    load.stop()
    assert served.wait() == 3 and "locks on" in served.log(), served.log()
    assert took < 5 * served.slow, took
    served.start()
    nothing_is_lost(served, load)


def test_nobody_but_sqlite_opens_the_files(daemon, tmp_path):
    """Whoever opens and closes one of them drops its locks: over a life, each is opened once."""
    if sanitizer(os.environ["LITEFUNNEL_BIN"]):
        pytest.skip("sanitizers do not run under strace")
    trace = tmp_path / "trace"
    served = daemon(start=False, prefix=["strace", "-f", "-D", "-qq", "-e", "trace=openat,open,openat2",
                                         "-o", str(trace)], checkpoint_frames=20)
    served.start()
    make_table(served)
    served.restart()
    trace.write_text("")
    with served.wire(session=os.urandom(16)) as wire:
        for i in range(1, 200):
            wire.write(["INSERT INTO t VALUES (?, 'x')", [i]], seq=i)
        wire.write("INSERT INTO pad VALUES (zeroblob(3000000))")
        for what in ("stats", "clients", "config", "queue"):
            wire.call("show", what=what)
        cli(served.db, "INSERT INTO t VALUES (-1, 'other')")
        wire.write("INSERT INTO t VALUES (1000, 'x')")
        wire.call("reload")
        time.sleep(2)  # the looks that are taken each second
    served.stop()
    opened = re.findall(r'open[^(]*\([^"]*"([^"]+)"', trace.read_text())
    assert "/proc/locks" in opened or opened, "the trace has seen nothing"
    assert [path for path in opened if path in (served.db, served.db + "-shm")] == []


HOLDER = """
import fcntl, struct, sys, time
file = open(sys.argv[1], "rb")
fcntl.fcntl(file, fcntl.F_SETLKW, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, int(sys.argv[2]), 1, 0))
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def lock_held(path, byte):
    """By a process that may only read; it is polite only about beginning."""
    process = subprocess.Popen(["/usr/bin/python3", "-c", HOLDER, path, str(byte)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_a_lock_of_a_reader_in_the_way(daemon, litefunnel):
    """Writes wait and are told by whom they are kept; when it goes, they go on."""
    served = daemon()
    make_table(served)
    with served.wire() as wire:
        for i in range(20 // served.slow):
            with lock_held(served.db + "-shm", SHM_WRITE) as pid:
                error, _ = wire.ask("write", batch=[[f"INSERT INTO t VALUES ({i}, 'x')"]],
                                    deadline_ms=500 * served.slow)  # all of /proc is looked through for it
                assert (error["code"], error["applied"], error["retry"]) == ("deadline", "no", True)
                assert f"pid {pid} (python3, uid 0) holds a lock on {served.db}-shm" in error["message"], error
                if i == 0:
                    status = subprocess.run([litefunnel, "status", served.db], text=True,
                                            stdout=subprocess.PIPE, check=False).stdout
                    assert status.startswith(f"degraded: writes wait: pid {pid}"), status
            assert wire.write(f"INSERT INTO t VALUES ({i}, 'x')")
        assert served.stats()["trouble"] == ""
    assert re.search(r"writes wait.*holder=\"?pid \d+ \(python3", served.log()), served.log()


@pytest.mark.parametrize("byte", [121, 122, 123, 124, 125, 126, 127])
def test_locks_of_readers_that_are_not_in_the_way(daemon, byte):
    """A held checkpoint, recovery or read mark costs a checkpoint at most."""
    served = daemon(checkpoint_frames=20)
    make_table(served)
    with lock_held(served.db + "-shm", byte), served.wire() as wire:
        for i in range(20):
            wire.write(f"INSERT INTO t VALUES ({i}, 'x')")


def test_a_lock_on_the_pending_byte(daemon):
    """Whoever holds it keeps others from opening the file, and us from nothing."""
    served = daemon()
    make_table(served)
    with lock_held(served.db, PENDING), served.wire() as wire:
        for i in range(100):
            wire.write(f"INSERT INTO t VALUES ({i}, 'x')")
