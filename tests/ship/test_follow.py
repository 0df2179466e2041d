# SPDX-License-Identifier: MIT
"""`litefunnel restore --follow`: a copy that is read while it follows; whatever is killed, whatever becomes
of the replica."""
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import threading

import pytest

import chains
import ltx
from daemon import Daemon, wait_for

INTERVAL = "20ms"


class Follower:
    """A process that follows; its events are read as they come."""

    def __init__(self, program, source, out, *options, prefix=()):
        self.out = pathlib.Path(out)
        self.process = subprocess.Popen(
            [*prefix, program, "restore", source, "-o", out, "--follow", "--json", "--interval", INTERVAL,
             *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "ASAN_OPTIONS": f"detect_leaks={int(not prefix)}"})  # none under strace

    def events(self):
        for line in self.process.stdout:
            said = json.loads(line)
            if "event" in said:
                yield said

    def until(self, condition):
        """The first event for which it is true."""
        for said in self.events():
            if condition(said):
                return said
        raise AssertionError(f"it ended: {self.process.wait()} {self.process.stderr.read()}")

    def at(self, txid):
        return self.until(lambda said: int(said["txid"], 16) >= txid)

    def end(self):
        """The last thing it says."""
        self.process.send_signal(signal.SIGTERM)
        said = self.until(lambda said: said["event"] == "ends")
        assert self.finish() == 0
        return said

    def finish(self):
        """The exit code of one that ends by itself, or was killed."""
        out, self.errors = self.process.communicate(timeout=60)
        assert "Sanitizer" not in self.errors and "runtime error" not in self.errors, self.errors
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.finish()


@pytest.fixture
def follow(litefunnel):
    made = []

    def start(source, out, *options, **more):
        made.append(Follower(litefunnel, source, out, *options, **more))
        return made[-1]
    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def reader(path):
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def dump(path):
    with contextlib.closing(reader(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(db.iterdump())


def image_dump(tmp_path, replica, txid):
    path = tmp_path / "image.db"
    path.write_bytes(ltx.image(replica.states[txid], replica.page_size))
    db = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    with contextlib.closing(db):
        return list(db.iterdump())


def equals(out, replica, txid):
    """Byte for byte, once nobody follows and the WAL was brought into the file."""
    with contextlib.closing(sqlite3.connect(out)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return pathlib.Path(out).read_bytes() == ltx.image(replica.states[txid], replica.page_size)


def deliver(replica, root, level, min_txid, max_txid):
    """As a shipper does: the record first, then the file as a whole."""
    path = replica.path(level, min_txid, max_txid)
    target = root / "ltx" / str(level)
    target.mkdir(parents=True, exist_ok=True)
    for one in (ltx.sidecar(path), path):
        if one.exists():
            shutil.copy2(one, target / f".{one.name}")
            os.rename(target / f".{one.name}", target / one.name)


# ---- segments

@pytest.mark.parametrize("page_size,records", ((512, True), (4096, False), (65536, True)))
def test_each_segment_arrives_as_a_whole(tmp_path, follow, page_size, records):
    history = chains.History(tmp_path, page_size)
    replica = ltx.Replica(tmp_path / "made", page_size, records=records)
    walk = history.walk()
    replica.ship(next(walk), history.commit)
    deliver(replica, tmp_path / "replica", 0, 1, 1)
    one = follow(f"file://{tmp_path}/replica", tmp_path / "out.db")
    one.at(1)
    with contextlib.closing(reader(one.out)) as db:
        for pages in walk:
            replica.ship(pages, history.commit)
            deliver(replica, tmp_path / "replica", 0, replica.txid, replica.txid)
            said = one.at(replica.txid)
            assert said["event"] == "applied" and said["lag_commits"] == 0 and said["files"] == 1
            assert db.execute("SELECT commit_no FROM _lf_state").fetchall() == [(history.commit,)]
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert dump(one.out) == image_dump(tmp_path, replica, replica.txid)
    assert one.end()["txid"] == f"{replica.txid:016x}"
    assert equals(one.out, replica, replica.txid)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A replica of seven commits, for tests that work on copies of it."""
    return chains.ship_walk(tmp_path_factory.mktemp("walked"), page_size=1024)


@pytest.fixture
def walk(walked, tmp_path):
    shutil.copytree(walked.root, tmp_path / "replica")
    made = object.__new__(ltx.Replica)
    made.__dict__.update(walked.__dict__)
    made.root = tmp_path / "replica"
    made.sha256 = dict(walked.sha256)
    return made


def hide(replica, tmp_path, first):
    """Takes the segments from `first` on away; returns what brings one back."""
    away = tmp_path / "away"
    away.mkdir()
    for txid in range(first, replica.txid + 1):
        for path in (replica.path(0, txid, txid), ltx.sidecar(replica.path(0, txid, txid))):
            shutil.move(path, away / path.name)

    def back(txid):
        path = replica.path(0, txid, txid)
        for name in (ltx.sidecar(path).name, path.name):  # as the shipper does: the record first
            shutil.move(away / name, path.parent / name)
    return back


def copy_at(follow, replica, out, txid):
    one = follow(replica.url, out)
    one.at(txid)
    one.end()


def test_a_kill_at_any_call(tmp_path, follow, walk, soak):
    """Where the note says that a commit may count, the WAL says whether it does. --soak: at every call."""
    back = hide(walk, tmp_path, 5)
    copy_at(follow, walk, tmp_path / "kept.db", 4)
    back(5)
    back(6)
    wanted = {txid: image_dump(tmp_path, walk, txid) for txid in (4, 5, 6)}
    for call in ("pwrite64", "fdatasync", "rename"):
        for k in range(1, 1000, 1 if soak else 6):
            out = tmp_path / f"{call}-{k}.db"
            for name in ("", "-wal", "-shm", "-restored"):
                shutil.copy(f"{tmp_path}/kept.db{name}", f"{out}{name}")
            one = follow(walk.url, out, prefix=[
                "strace", "-D", "-f", "-qq", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={k}",
                "-o", "/dev/null"])
            with contextlib.suppress(AssertionError):
                one.at(6)
                one.process.send_signal(signal.SIGTERM)
            survived = one.finish() == 0
            assert dump(out) in wanted.values()
            again = follow(walk.url, out)
            again.at(6)
            again.end()
            assert equals(out, walk, 6)
            for path in tmp_path.glob(f"{out.name}*"):
                path.unlink()
            if survived:
                break
        assert k > 1, f"it makes no {call}"  # the first was not survived


# ---- what becomes of the replica

def test_retention_has_passed_it_by(tmp_path, follow, walk):
    back = hide(walk, tmp_path, 4)
    copy_at(follow, walk, tmp_path / "out.db", 3)
    for txid in (4, 5, 6, 7):
        back(txid)
    walk.merge(9, 1, 6)
    for txid in (1, 2, 3, 4, 5, 6):
        walk.delete(0, txid, txid)
    one = follow(walk.url, tmp_path / "out.db")
    assert one.at(7)["from_snapshot"]
    one.end()
    assert equals(one.out, walk, 7)


def test_merged_files_lead_on(tmp_path, follow, walk):
    back = hide(walk, tmp_path, 5)
    copy_at(follow, walk, tmp_path / "out.db", 4)
    for txid in (5, 6, 7):
        back(txid)
    walk.merge(1, 3, 6)
    for txid in (1, 2, 3, 4, 5, 6):
        walk.delete(0, txid, txid)
    one = follow(walk.url, tmp_path / "out.db")
    said = one.at(7)
    assert not said["from_snapshot"] and said["files"] == 2
    one.end()
    assert equals(one.out, walk, 7)


def test_a_new_epoch_takes_it_back(tmp_path, follow, walk):
    one = follow(walk.url, tmp_path / "out.db")
    one.at(7)
    root, walk.root, walk.epoch = walk.root, tmp_path / "made", os.urandom(16)
    walk.ship(walk.states[3], 3, full=True)
    deliver(walk, root, 0, 8, 8)
    said = one.at(8)
    assert said["event"] == "new epoch" and said["commit"] == 3
    one.end()
    assert equals(one.out, walk, 3) and equals(one.out, walk, 8)


def test_an_emptied_replica_changes_nothing(tmp_path, follow, walk):
    """A directory that is not mounted is empty, too."""
    back = hide(walk, tmp_path, 7)
    one = follow(walk.url, tmp_path / "out.db")
    one.at(6)
    walk.root.rename(tmp_path / "unmounted")
    said = one.until(lambda said: said["event"] == "waits")
    assert "mount" in said["error"] and said["lag_commits"] is None
    assert dump(one.out) == image_dump(tmp_path, walk, 6)
    (tmp_path / "unmounted").rename(walk.root)
    back(7)
    assert one.until(lambda said: said["event"] == "goes on")["commit"] >= 6
    wait_for(lambda: dump(one.out) == image_dump(tmp_path, walk, 7), "the last segment")
    one.end()


@pytest.mark.parametrize("place", (0, 0.5, 1))
def test_what_is_damaged_is_not_shown(tmp_path, follow, walk, place):
    back = hide(walk, tmp_path, 6)
    one = follow(walk.url, tmp_path / "out.db")
    one.at(5)
    whole = (tmp_path / "away" / ltx.name(6, 6)).read_bytes()
    at = int(place * (len(whole) - 1))
    (tmp_path / "away" / ltx.name(6, 6)).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    back(6)
    assert f"{6:016x}" in one.until(lambda said: said["event"] == "waits")["error"]
    assert dump(one.out) == image_dump(tmp_path, walk, 5)
    walk.path(0, 6, 6).write_bytes(whole)
    back(7)
    one.at(7)
    one.end()
    assert equals(one.out, walk, 7)


def test_a_copy_that_was_changed_is_not_followed_on(tmp_path, follow, walk):
    back = hide(walk, tmp_path, 6)
    one = follow(walk.url, tmp_path / "out.db")
    one.at(5)
    with contextlib.closing(sqlite3.connect(one.out, isolation_level=None)) as db:
        db.execute("UPDATE t SET b = 'mine' WHERE a = 1")
        back(6)
        assert one.finish() == 1
    assert "somebody else has written to it" in one.errors
    # Next time it finds that out by the commit's digest, and begins with a snapshot.
    walk.merge(9, 1, 6)
    again = follow(walk.url, tmp_path / "out.db")
    assert again.at(6)["from_snapshot"]
    again.end()
    assert equals(one.out, walk, 6)


# ---- beside others

def test_a_reader_keeps_its_state_and_holds_up_nobody(tmp_path, follow, walk):
    back = hide(walk, tmp_path, 2)
    one = follow(walk.url, tmp_path / "out.db")
    one.at(1)
    with contextlib.closing(reader(one.out)) as db:
        db.execute("BEGIN")
        before = db.execute("SELECT count(*), max(commit_no) FROM _lf_state").fetchall()
        for txid in range(2, 8):
            back(txid)
            one.at(txid)
            assert db.execute("SELECT count(*), max(commit_no) FROM _lf_state").fetchall() == before
        db.execute("COMMIT")
        assert db.execute("SELECT commit_no FROM _lf_state").fetchall() == [(7,)]
    one.end()


def test_the_wal_starts_over(tmp_path, follow, litefunnel, daemon):
    """Many frames: SQLite's own checkpoints, and the note beside them."""
    (tmp_path / "replica").mkdir()
    url = f"file://{tmp_path}/replica"
    source = daemon(place=tmp_path, replica=url, ship_linger="20ms")
    with source.wire() as wire:
        wire.write(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"])
        subprocess.run([litefunnel, "sync", source.db], check=True)
        one = follow(url, tmp_path / "out.db")
        one.until(lambda said: said["event"] == "follows")
        for _ in range(12):
            wire.write(["INSERT INTO t(b) SELECT randomblob(3000) FROM (WITH RECURSIVE r(x) AS (SELECT 1 "
                        "UNION ALL SELECT x+1 FROM r WHERE x<300) SELECT x FROM r)"])
            commit = wire.call("ping")["commit"]
            one.until(lambda said: said["commit"] >= commit)
    assert os.path.getsize(f"{one.out}-wal") < 8 << 20, "12 times 1 MiB went through it"
    one.end()
    assert dump(one.out) == dump(source.db)
    # It is a database that was restored: whoever serves it begins an epoch of its own.
    taken = Daemon(litefunnel, one.out, create=False).start()
    with source.wire(False) as old, taken.wire(False) as new:
        assert old.hello()["epoch"] != new.hello()["epoch"]
    taken.stop()
    again = follow(url, tmp_path / "out.db")
    assert again.finish() == 1 and "exists" in again.errors


def test_nobody_serves_what_follows(tmp_path, follow, litefunnel, walk):
    one = follow(walk.url, tmp_path / "out.db")
    one.at(7)
    refused = subprocess.run([litefunnel, "serve", one.out], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1 and str(one.process.pid) in refused.stderr, refused.stderr
    one.end()


def test_usage(tmp_path, litefunnel, walk):
    for options in (("--at", "now"), ("--commit", "3"), ("--to-last-good",), ("--interval", "soon")):
        done = subprocess.run([litefunnel, "restore", walk.url, "-o", tmp_path / "x.db", "--follow",
                               *options], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr


# ---- under load

class Reading(threading.Thread):
    """Reads as an application does, and keeps what it saw that cannot be."""

    def __init__(self, out):
        super().__init__()
        self.out, self.stop, self.wrong, self.rounds, self.last = out, threading.Event(), [], 0, 0

    def look(self, db):
        db.execute("BEGIN")
        number, total, mixed = db.execute("SELECT n, total, mixed FROM sums").fetchone()
        seen = db.execute("SELECT count(*), sum(b), max(a) FROM t").fetchone()
        halves = db.execute("SELECT sum(v) FROM pairs").fetchone()
        db.execute("COMMIT")
        if (number, total, 0) != (seen[0], seen[1] or 0, halves[0] or 0) or number < self.last:
            self.wrong.append((number, total, mixed, seen, halves, self.last))
        self.last = number
        self.rounds += 1

    def run(self):
        with contextlib.closing(reader(self.out)) as db:
            while not self.stop.is_set():
                try:
                    self.look(db)
                except sqlite3.OperationalError as error:
                    self.wrong.append(str(error))
                    return


def write_pairs(daemon, done, seed):
    pick = random.Random(seed)
    with daemon.wire() as wire:
        while not done.is_set():
            number = pick.randrange(1000)
            wire.write(["INSERT INTO t(b, c) VALUES (?, randomblob(?))", [number, pick.randrange(3000)]],
                       ["UPDATE sums SET n = n + 1, total = total + ?", [number]],
                       ["UPDATE pairs SET v = v + ? WHERE k = ?", [number, pick.randrange(500)]],
                       ["UPDATE pairs SET v = v - ? WHERE k = ?", [number, 500 + pick.randrange(500)]])


def test_killed_under_load_while_others_read(tmp_path, follow, litefunnel, daemon, soak):
    (tmp_path / "replica").mkdir()
    url = f"file://{tmp_path}/replica"
    source = daemon(place=tmp_path, replica=url, ship_linger="10ms")
    pick = random.Random(5)
    with source.wire() as wire:
        wire.write(["CREATE TABLE t(a INTEGER PRIMARY KEY, b, c)"],
                   ["CREATE TABLE sums(n, total, mixed)"], ["INSERT INTO sums VALUES (0, 0, 0)"],
                   ["CREATE TABLE pairs(k PRIMARY KEY, v)"],
                   ["INSERT INTO pairs WITH RECURSIVE r(x) AS (SELECT 0 UNION ALL SELECT x+1 FROM r "
                    "WHERE x<999) SELECT x, 0 FROM r"])
    subprocess.run([litefunnel, "sync", source.db], check=True)
    out = tmp_path / "out.db"
    one = follow(url, out)
    one.until(lambda said: said["event"] == "follows")
    done = threading.Event()
    writer = threading.Thread(target=write_pairs, args=(source, done, 1))
    readers = [Reading(out) for _ in range(2)]
    for thread in (writer, *readers):
        thread.start()
    try:
        for _ in range(100 if soak else 8):
            for _ in range(pick.randrange(1, 6)):
                one.until(lambda said: said["event"] == "applied")
            one.kill()
            one = follow(url, out)
    finally:
        done.set()
        writer.join()
    subprocess.run([litefunnel, "sync", source.db], check=True)
    with source.wire() as wire:
        commit = wire.call("ping")["commit"]
    one.until(lambda said: said["commit"] >= commit)
    for thread in readers:
        thread.stop.set()
        thread.join()
        assert not thread.wrong, thread.wrong[:3]
        assert thread.rounds > 0
    one.end()
    assert dump(out) == dump(source.db)
