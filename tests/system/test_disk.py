# SPDX-License-Identifier: MIT
"""A disk that fills and empties, and one that cannot be written: who is told what, and what is there afterwards."""
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from daemon import READERS, Daemon, wait_for
from wire import Closed

MIB = 1 << 20
CLIENTS = 4


@contextlib.contextmanager
def disk_of(litefunnel, tmp_path, mib, kind="tmpfs", **settings):
    """A daemon, not started, on a file system of its own."""
    place = tempfile.mkdtemp(prefix="funnel-")
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "funnel", place], check=True)
    else:
        image = tmp_path / "image"
        with open(image, "wb") as file:
            file.truncate(mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        if subprocess.run(["mount", "-o", "loop", str(image), place], check=False).returncode != 0:
            os.rmdir(place)
            pytest.skip("no loop device can be mounted here")
    os.chown(place, 0, READERS)
    os.chmod(place, 0o2750)
    served = Daemon(litefunnel, f"{place}/app.db", **settings)
    served.log_path = str(tmp_path / "log")
    served.place = pathlib.Path(place)
    try:
        yield served
        served.finish()
    finally:
        if served.running():
            served.process.kill()
            served.process.wait()
        subprocess.run(["umount", "--lazy", place], check=True)
        os.rmdir(place)


class Writer(threading.Thread):
    """Writes its numbers one after the other, each until it is told OK."""

    def __init__(self, served, who):
        super().__init__(daemon=True)
        self.served, self.who = served, who
        self.acked = 0
        self.refused = {}
        self.error = None
        self.over = threading.Event()

    def run(self):
        try:
            with self.served.wire(session=os.urandom(16)) as wire:
                seq = 0
                while not self.over.is_set():
                    seq += 1
                    # Some are long, so that the cache spills and the disk is met inside of a batch.
                    steps = [["INSERT INTO t VALUES (?, ?)", [self.who, seq]],
                             ["REPLACE INTO large VALUES (?, zeroblob(?))",
                              [self.who, 1_000_000 if seq % 50 == 0 else 100]]]
                    while True:
                        error, _ = wire.ask("write", batch=steps, seq=seq, done=seq - 1)
                        if error is None:
                            break
                        assert error["applied"] == "no" and error["retry"], error
                        assert error["code"] == "disk_low" and error["sqlite"] == 13, error
                        self.refused[error["message"]] = True
                        if self.over.is_set():
                            return
                        time.sleep(0.002)
                    self.acked = seq
                    time.sleep(0.0005)
        except BaseException as error:  # the test's thread tells it
            self.error = error
            raise


class Filler:
    """Takes all room of a file system, at once or bit by bit, and gives it back."""

    def __init__(self, place):
        self.path = place / "filler"

    def fill(self, gradually):
        step = 64 << 10 if gradually else 4 * MIB
        with open(self.path, "ab", buffering=0) as file:
            while step >= 1024:
                try:
                    size = file.seek(0, os.SEEK_END)
                    os.posix_fallocate(file.fileno(), size, step)
                except OSError:
                    step //= 4

    def empty(self):
        self.path.unlink()


def cycles(served, rounds):
    filler = Filler(served.place)
    served.write("CREATE TABLE t(who, seq, PRIMARY KEY (who, seq)) WITHOUT ROWID",
                 "CREATE TABLE large(who PRIMARY KEY, content)")
    writers = [Writer(served, who) for who in range(CLIENTS)]
    for writer in writers:
        writer.start()
    pid = served.pid
    for cycle in range(rounds):
        for writer in writers:
            writer.refused = {}
        filler.fill(gradually=cycle % 4 == 0)
        wait_for(lambda: all(w.refused or w.error for w in writers), "the disk to be low")
        assert served.read("SELECT count(*) >= 0 FROM t") == [(1,)]
        if cycle % 2:
            filler.fill(gradually=False)  # also what the cut WAL has given back
        filler.empty()
        before = [w.acked for w in writers]
        wait_for(lambda: all(w.acked > b or w.error for w, b in zip(writers, before)), "room again")
        assert not any(w.error for w in writers), [w.error for w in writers]
    for writer in writers:
        writer.over.set()
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive() and writer.error is None, writer.error
    assert served.running() and served.pid == pid
    for writer in writers:
        rows = [row[0] for row in served.read("SELECT seq FROM t WHERE who = ? ORDER BY seq", writer.who)]
        assert rows[:writer.acked] == list(range(1, writer.acked + 1))
        assert len(rows) <= writer.acked + 1  # the one that was given up may have been the last
    assert served.read("PRAGMA integrity_check") == [("ok",)]
    stats = wait_for(lambda: (s := served.stats()) and not s["disk_low"] and s, "room")
    assert stats["disk_low_total"] >= rounds / 2 and stats["reserve_bytes"] > 0
    assert os.path.getsize(f"{served.db}-reserve") == stats["reserve_bytes"]


def test_a_disk_that_fills_and_empties(litefunnel, tmp_path, soak):
    """Nobody is told that something failed for good, nothing is lost or there twice, nothing restarts."""
    with disk_of(litefunnel, tmp_path, 32, cache_bytes="256KiB") as served:
        served.start()
        cycles(served, 2000 if soak else 200)


def test_the_same_on_ext4(litefunnel, tmp_path, soak):
    with disk_of(litefunnel, tmp_path, 32, "ext4", cache_bytes="256KiB") as served:
        served.start()
        cycles(served, 200 if soak else 20)


def test_a_full_disk_beside_virtual_tables(litefunnel, tmp_path, soak):
    """A statement that met it in the middle left FTS5 with rows in memory that were gone; and behind a COMMIT that met
    it the daemon ended, for SQLite repeats that error once."""
    rng = random.Random(33)

    def words(most):
        return " ".join(f"w{rng.randint(0, 9999)}" for _ in range(rng.choice([3, most])))

    with disk_of(litefunnel, tmp_path, 24, cache_bytes="64KiB", checkpoint_frames=100) as served:
        served.start()
        served.write("CREATE VIRTUAL TABLE f5 USING fts5(x)", "CREATE VIRTUAL TABLE f4 USING fts4(x)",
                     "CREATE VIRTUAL TABLE r USING rtree(id, a, b, +x)", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)",
                     "CREATE TABLE done(n INTEGER PRIMARY KEY)")
        good, told, number = set(), 0, 0
        with served.wire(timeout=60) as wire:
            for _ in range(2000 if soak else 150):
                room = shutil.disk_usage(served.place).free - rng.choice([0, 4096, 60_000, 500_000, 1_200_000, 2_000_000])
                with open(served.place / "filler", "ab") as file, contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.tell(), max(room, 1))
                asked = {}
                for _ in range(12):
                    number += 1
                    steps = [["INSERT INTO f5 VALUES (?)", [words(2000)]],
                             ["REPLACE INTO t VALUES (?, zeroblob(?))", [number % 30, rng.choice([10, 30_000])]],
                             [f"INSERT OR {rng.choice(['FAIL', 'ABORT', 'REPLACE'])} INTO r VALUES (?, ?, ?, ?)",
                              [number, number, number + 1, "y" * rng.choice([5, 3000, 30_000])]],
                             ["INSERT OR FAIL INTO f4 VALUES (?)", [words(800)]]]
                    rng.shuffle(steps)
                    batch = [*steps[:rng.randint(1, 4)], ["INSERT INTO done VALUES (?)", [number]]]
                    asked[number] = wire.request("write", batch=batch)
                for n, id in asked.items():
                    error, _ = wire.reply(id)
                    assert error is None or (error["code"], error["applied"]) == ("disk_low", "no"), error
                    good |= set() if error else {n}
                    told += error is not None
                (served.place / "filler").unlink()
                check = [["INSERT INTO f5(f5) VALUES ('integrity-check')"], ["INSERT INTO f4(f4) VALUES ('integrity-check')"],
                         ["SELECT rtreecheck('r')"]]
                result = wait_for(lambda: wire.ask("write", batch=check)[1], "room again, and whole tables")
                assert result["steps"][2]["rows"] == [["ok"]]
        assert {n for n, in served.read("SELECT n FROM done")} == good and told > 50


def test_what_is_said_at_the_floor(litefunnel, tmp_path):
    """Reads and remembered answers go on; the message says where, how much there is and is needed."""
    with disk_of(litefunnel, tmp_path, 32) as served:
        served.start()
        filler, session = Filler(served.place), os.urandom(16)
        with served.wire(session=session) as wire:
            wire.write("CREATE TABLE t(a)")
            first = wire.write("INSERT INTO t VALUES (1)", seq=1)
            filler.fill(gradually=False)
            refusals = (wire.ask("write", batch=[["INSERT INTO t VALUES (2)"]])[0] for _ in range(10_000))
            error = next(e for e in refusals if e is not None and "MiB" in e["message"])
            assert (error["code"], error["applied"], error["retry"]) == ("disk_low", "no", True)
            assert error["retry_after_ms"] > 0
            assert str(served.place) in error["message"] and "MiB are needed" in error["message"]
            assert wire.write("SELECT a FROM t")["steps"][0]["rows"][0] == [1]
            assert wire.write("INSERT INTO t VALUES (1)", seq=1)["commit"] == first["commit"]
            assert wire.call("describe", sql="INSERT INTO t VALUES (?)")["params"] == 1
        status = subprocess.run([litefunnel, "status", served.db, "--json"], text=True,
                                stdout=subprocess.PIPE, check=True)
        facts = json.loads(status.stdout)
        assert facts["status"] == "degraded" and facts["reason"].startswith("disk: ")
        # A start finds room in the reserve, and writes go on when there is room without one.
        served.kill()
        served.start()
        assert served.read("SELECT a FROM t") == [(1,)]
        filler.empty()
        wait_for(lambda: served.wire().ask("write", batch=[["INSERT INTO t VALUES (3)"]])[0] is None, "room")
        wait_for(lambda: os.path.exists(f"{served.db}-reserve"), "a new reserve")
        assert served.read("SELECT a FROM t") == [(1,), (3,)]


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_start_without_any_room(litefunnel, tmp_path, kind, end):
    """
    Not a block is free, and the reserve is spent: it starts all the same, and waits for room. In the
    first round the WAL may have kept blocks for the commit of a start; in the others it has none.
    """
    with disk_of(litefunnel, tmp_path, 32, kind) as served:
        served.start()
        filler, session = Filler(served.place), os.urandom(16)
        with served.wire(session=session) as wire:
            wire.write("CREATE TABLE t(a)", "CREATE TABLE large(content)")
            first = wire.write("INSERT INTO t VALUES (1)", seq=1)
            for _ in range(3):  # there is little in the WAL that a cut could give back
                filler.fill(gradually=False)
                wait_for(lambda: wire.ask("write", batch=[["INSERT INTO large VALUES (zeroblob(100000))"]])[0],
                         "a refusal")
            os.unlink(f"{served.db}-reserve") if os.path.exists(f"{served.db}-reserve") else None
            filler.fill(gradually=False)
        commits = []
        for attempt in range(4):
            served.kill() if end == "kill" else served.stop()
            if attempt > 0:
                os.truncate(f"{served.db}-wal", os.path.getsize(f"{served.db}-wal"))
            filler.fill(gradually=False)
            served.start()
            with served.wire(session=session) as wire:
                commits.append(wire.call("ping")["commit"])
                assert wire.write("INSERT INTO t VALUES (1)", seq=1)["commit"] == first["commit"]
                assert wire.write("SELECT a FROM t")["steps"][0]["rows"] == [[1]]
                error = wait_for(lambda: wire.ask("write", batch=[["INSERT INTO t VALUES (3)"]])[0], "a refusal")
                assert error["code"] == "disk_low" and error["retry"], error
        assert commits[0] == commits[3] or commits[0] < commits[1] <= commits[2] <= commits[3]
        assert served.read("SELECT commit_no FROM _lf_state") == [(commits[3],)]
        filler.empty()
        wait_for(lambda: served.wire().ask("write", batch=[["INSERT INTO t VALUES (2)"]])[0] is None, "room")
        assert served.read("SELECT a FROM t") == [(1,), (2,)]


def test_a_chunk_waits_for_room(litefunnel, tmp_path):
    """Its slices ask, too; a new one is not begun; whoever gives up may."""
    with disk_of(litefunnel, tmp_path, 32) as served:
        served.start()
        filler = Filler(served.place)
        with served.wire() as wire:
            wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY, n)",
                       "INSERT INTO t WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c"
                       " WHERE i < 3000) SELECT i, i FROM c")
            wire.call("chunk", sql="UPDATE t SET n = n + 1", name="c", rate=500)

            def filled(ask, **params):  # also what a cut of the WAL has given back
                filler.fill(gradually=False)
                return wire.ask(ask, **params)

            state = wait_for(lambda: (s := filled("chunk_ctl", chunk="c", op="wait", wait_ms=0)[1])
                             and "are needed" in s.get("error", "") and s, "a chunk that waits")
            assert state["state"] == "running" and state["error"].startswith("waits: ")
            error = wait_for(lambda: filled("chunk", sql="UPDATE t SET n = n", name="late", rate=1)[0],
                             "a refusal")
            assert error["code"] == "disk_low" and error["applied"] == "no" and error["retry"]
            filler.empty()
            end = wire.call("chunk_ctl", chunk="c", op="wait", timeout=120)
            assert end["state"] == "done" and "error" not in end and end["rows"] == 3000
        assert served.read("SELECT sum(n) FROM t") == [(3000 * 3001 // 2 + 3000,)]


def low(served, filler, wire):
    """The disk is filled, and the daemon knows it."""
    filler.fill(gradually=False)
    wait_for(lambda: "disk:" in (wire.ask("write", batch=[["INSERT INTO t VALUES (0)"]])[0] or {"message": ""})["message"],
             "the floor")


def test_leases_and_bye_ask_the_floor_too(litefunnel, tmp_path):
    """A lease may read; a session that says bye is kept until there is room to forget it."""
    with disk_of(litefunnel, tmp_path, 32) as served:
        served.start()
        filler, session = Filler(served.place), os.urandom(16)
        with served.wire() as wire, served.wire(session=session) as other:
            wire.write("CREATE TABLE t(a)", "CREATE TABLE u(a)", "INSERT INTO u VALUES (1)")
            other.write("INSERT INTO t VALUES (1)", seq=1)
            low(served, filler, wire)
            wire.call("begin", lease=1)
            assert wire.call("step", lease=1, sql="SELECT count(*) FROM u")["rows"] == [[1]]
            error, _ = wire.ask("step", lease=1, sql="UPDATE u SET a = 0")
            assert (error["code"], error["applied"], error["open"]) == ("disk_low", "no", True), error
            assert wire.call("commit", lease=1)["open"] is False
            said = other.ask("bye")[0]
            assert said["code"] == "disk_low" and said["retry"]
            filler.empty()
            wait_for(lambda: other.ask("bye")[0] is None, "room")


def test_a_wal_that_a_reader_keeps_is_cut_when_it_goes(litefunnel, tmp_path):
    """Room is low, and stays so: what could not be given back at once is given back later."""
    with disk_of(litefunnel, tmp_path, 32, checkpoint_frames=100) as served:
        served.start()
        filler = Filler(served.place)
        with served.wire() as wire, contextlib.closing(served.reader()) as reader:
            wire.write("CREATE TABLE t(a)", "CREATE TABLE u(a, content)")
            # The database has its pages already: to copy them there takes no more room.
            wire.write(["INSERT INTO u VALUES (?, randomblob(3000))", [[i] for i in range(1000)], {"many": True}])
            wire.call("checkpoint")
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM t").fetchall()
            wire.write("UPDATE u SET content = randomblob(3000)")
            low(served, filler, wire)
            assert os.path.getsize(f"{served.db}-wal") > 3_000_000
            reader.execute("COMMIT")
            wait_for(lambda: os.path.getsize(f"{served.db}-wal") < 100_000, "the WAL is cut")
        filler.empty()


def test_a_vacuum_needs_four_times_the_room(litefunnel, tmp_path):
    """Before anything is written: it writes the database to the WAL, and that into the database."""
    with disk_of(litefunnel, tmp_path, 32) as served:
        served.start()
        with served.wire() as wire:
            wire.write("CREATE TABLE t(a)", "INSERT INTO t VALUES (randomblob(6000000))")
            wire.call("checkpoint")
            look = wire.call("vacuum", look=1)
            assert 0 < look["disk_free"] < 4 * (look["bytes"] - look["free_bytes"])
            error, _ = wire.ask("vacuum")
            assert error["code"] == "bad_request" and "free" in error["message"]
            wire.write("DELETE FROM t")
            wire.call("vacuum")  # what is not used does not count


def test_no_floor_and_no_reserve(litefunnel, tmp_path):
    with disk_of(litefunnel, tmp_path, 32, disk_floor=0, reserve_bytes=0) as served:
        served.start()
        served.write("CREATE TABLE t(a)")
        assert not os.path.exists(f"{served.db}-reserve")
        filler = Filler(served.place)
        with served.wire() as wire:
            filler.fill(gradually=False)
            big = ["INSERT INTO t VALUES (zeroblob(1000000))"]
            error = wait_for(lambda: wire.ask("write", batch=[big])[0], "a full disk")
            assert error["code"] == "disk_low" and error["retry"]
            filler.empty()
            assert wire.write(*[big])


def test_a_log_that_takes_no_more(litefunnel, tmp_path):
    """A full disk under the log, and none for temporary files, are nothing to commits."""
    small = tempfile.mkdtemp(prefix="funnel-log-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "funnel", small], check=True)
    try:
        with disk_of(litefunnel, tmp_path, 64, log_level="debug",
                     env={"SQLITE_TMPDIR": small, "TMPDIR": small}) as served:
            served.log_path = f"{small}/log"
            Filler(pathlib.Path(small)).fill(gradually=False)
            served.start()
            with served.wire(session=os.urandom(16)) as wire:
                wire.write("CREATE TABLE t(a)")
                for i in range(1, 2001):
                    wire.write(["INSERT INTO t VALUES (?)", [i]], seq=i)
                wire.write("CREATE INDEX i ON t(a)", "SELECT a FROM t ORDER BY a DESC")
            served.stop()
            assert served.read("SELECT count(*), sum(a) FROM t") == [(2000, 2001000)]
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
        os.rmdir(small)


def write_until_it_stops(served, session, acked):
    """Writes by seq until the daemon is gone: the last seq that was answered OK."""
    with contextlib.suppress(Closed, OSError), served.wire(session=session) as wire:
        while acked < 1_000_000:
            wire.write(["INSERT INTO t VALUES (?)", [acked + 1]], seq=acked + 1, done=acked)
            acked += 1
    assert served.wait() == 3, served.log()
    assert "stopping, to find out" in served.log()
    return acked


def goes_on(served, session, acked):
    """All that was answered is there once, and the one without an answer is applied once."""
    served.start()
    with served.wire(session=session) as wire:
        wire.write(["INSERT INTO t VALUES (?)", [acked + 1]], seq=acked + 1, done=acked)
    assert [row[0] for row in served.read("SELECT a FROM t ORDER BY a")] == list(range(1, acked + 2))
    return acked + 1


def abort(served):
    """
    Makes the file system read-only beneath the daemon, between two of its system calls: ext4 (of Linux 6.18 at
    least) says that fdatasync() went well, and loses what it was for, if it is aborted meanwhile.
    """
    with contextlib.suppress(ProcessLookupError):  # it is gone, and why is looked at elsewhere
        os.kill(served.pid, signal.SIGSTOP)
        tasks = pathlib.Path(f"/proc/{served.pid}/task")
        wait_for(lambda: all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
                             for task in tasks.iterdir()), "all of its threads stand still")
        subprocess.run(["mount", "-o", "remount,abort", served.place], check=True)
        os.kill(served.pid, signal.SIGCONT)


def mend(served, image):
    """The disk is well again; not before the kernel has let go of it, or two would write to it."""
    subprocess.run(["umount", served.place], check=True)
    wait_for(lambda: not subprocess.run(["losetup", "-j", image], check=True, stdout=subprocess.PIPE).stdout,
             "nobody has the image")
    check = subprocess.run(["e2fsck", "-fy", image], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert check.returncode in (0, 1), check.stdout
    subprocess.run(["mount", "-o", "loop", image, served.place], check=True)
    assert not os.statvfs(served.place).f_flag & os.ST_RDONLY, check.stdout


def test_a_disk_that_becomes_read_only(litefunnel, tmp_path, soak):
    """It stops and says so; a start names what is wrong; on a disk that is well again all is there."""
    with disk_of(litefunnel, tmp_path, 32, "ext4", checkpoint_frames=50) as served:
        session, acked = os.urandom(16), 0
        served.start()
        served.write("CREATE TABLE t(a)")
        for cycle in range(200 if soak else 20):
            timer = threading.Timer(0.03 + 0.002 * (cycle % 20), abort, (served,))
            timer.start()
            acked = write_until_it_stops(served, session, acked)
            timer.join()
            code, said = served.refuses_to_start()
            assert code == 1 and "ead-only" in said[0], said
            mend(served, tmp_path / "image")
            acked = goes_on(served, session, acked)


@contextlib.contextmanager
def frozen(place):
    """Whatever would write to the file system of that place waits in the kernel, as if the disk did not answer."""
    subprocess.run(["fsfreeze", "--freeze", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", place], check=True)


@pytest.mark.parametrize("group", [1, 40], ids=["the loop in the writer's place", "the writer"])
def test_a_disk_that_stalls(litefunnel, tmp_path, soak, group):
    """Whoever asks is answered, deadlines hold, the queue is bounded; then all goes on where it stood."""
    with disk_of(litefunnel, tmp_path, 64, "ext4", queue_max=100) as served:
        served.start()
        served.write("CREATE TABLE t(a)")
        sent = 0
        with served.wire(timeout=120) as client, served.wire(timeout=120) as other:
            for _ in range(20 if soak else 2):
                for i in range(30):  # commits are quick: the loop does them itself
                    client.write(["INSERT INTO t VALUES (?)", [i]])
                with frozen(served.place):
                    ids = [client.request("write", batch=[["INSERT INTO t VALUES ('held up')"]]) for _ in range(group)]
                    # One of them runs; or the writer was at something else that writes, and all wait. For long:
                    # a group that is not at its COMMIT yet takes in whoever comes, and no deadline ends a COMMIT.
                    rows = wait_for(lambda: [row for row in other.call("show", what="waits")["rows"]
                                             if row[10] > (1000 if row[2] == "running" else 2000)],
                                    "somebody is held up")
                    error, _ = other.ask("write", batch=[["INSERT INTO t VALUES ('never')"]], deadline_ms=200)
                    assert error["code"] == "deadline" and error["applied"] == "no" and error["retry"]
                    assert rows[0][2] != "running" or error["waited_for"]["sql"].startswith("INSERT INTO t")
                    assert other.call("show", what="stats")["rows"]
                    many = [other.request("write", batch=[["INSERT INTO t VALUES ('too many')"]], deadline_ms=3000)
                            for _ in range(300)]
                    said = [other.reply(id)[0]["code"] for id in many]
                    assert set(said) == {"overloaded", "deadline"}
                    with served.wire() as late:
                        assert late.call("ping") is not None
                assert all(client.reply(id)[0] is None for id in ids)
                sent += group
        assert served.read("SELECT count(*) FROM t WHERE a = 'held up'") == [(sent,)]
        assert served.read("SELECT count(*) FROM t WHERE a IN ('never', 'too many')") == [(0,)]
        served.stop()


def test_a_shipper_that_dies_while_the_disk_stalls(litefunnel, tmp_path):
    """The kernel ends a child with the thread that started it: the one that minds the loop starts none."""
    with disk_of(litefunnel, tmp_path, 64, "ext4", replica=f"file://{tmp_path}/replica", ship_linger="10ms") as served:
        served.start()
        served.write("CREATE TABLE t(a)", ack="shipped")
        with served.wire(timeout=120) as client, served.wire(timeout=120) as other:
            for i in range(30):
                client.write(["INSERT INTO t VALUES (?)", [i]])
            client.write(["INSERT INTO t VALUES (30)"], ack="shipped")
            first = served.child("shipper")
            with frozen(served.place):
                id = client.request("write", batch=[["INSERT INTO t VALUES (31)"]], ack="shipped", deadline_ms=100_000)
                wait_for(lambda: other.call("show", what="waits")["rows"], "it is held up")
                os.kill(first, signal.SIGKILL)
                wait_for(lambda: "the shipper cannot be started" in served.log() or served.child("shipper"), "it is missed")
            assert client.reply(id)[0] is None
            assert wait_for(lambda: served.child("shipper"), "a shipper") != first
        served.stop()  # it ships what is left, and is not ended before
        assert "not everything is shipped" not in served.log()


def test_a_file_that_may_not_be_written_any_more(litefunnel, tmp_path):
    with disk_of(litefunnel, tmp_path, 32, "ext4") as served:
        session, acked = os.urandom(16), 0
        served.start()
        served.write("CREATE TABLE t(a)")
        for _ in range(5):
            timer = threading.Timer(0.05, subprocess.run, (["chattr", "+i", f"{served.db}-wal"],))
            timer.start()
            acked = write_until_it_stops(served, session, acked)
            timer.join()
            code, said = served.refuses_to_start()
            assert code == 1 and served.db in said[0], said
            subprocess.run(["chattr", "-i", f"{served.db}-wal"], check=True)
            acked = goes_on(served, session, acked)
