# SPDX-License-Identifier: MIT
"""The shipper beside a real daemon: what is in a replica, restored, is what was committed; whatever is
killed in between, and whoever else wants the replica."""
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
import time

import pytest

from daemon import wait_for

LINGER = "30ms"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "replica").mkdir()
    return tmp_path


def url(place, name="replica"):
    return f"file://{place}/{name}"


def ship(daemon, place, *replicas, **settings):
    return daemon(place=place, start=False, replica=" ".join(replicas or [url(place)]),
                  ship_linger=LINGER, **settings)


def replicas(one):
    with one.wire() as wire:
        table = wire.call("show", what="replicas")
    return [dict(zip(table["columns"], row)) for row in table["rows"]]


def sync(litefunnel, one, deadline="30s"):
    done = subprocess.run([litefunnel, "sync", one.db, "--deadline", deadline, "--json"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + one.log()
    return json.loads(done.stdout)["commit"]


def restore(litefunnel, source, out, *options):
    done = subprocess.run([litefunnel, "restore", source, "-o", out, "--json", *options],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def content(path):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(db.iterdump())
    finally:
        db.close()


def equal_after_restore(litefunnel, one, place, name="restored.db", source=None):
    """Everything that is committed now comes back."""
    sync(litefunnel, one)
    restore(litefunnel, source or url(place), place / name)
    assert content(place / name) == content(one.db)
    for path in place.glob(f"{name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def no_shipper(one):
    """Whatever shipper is started meanwhile is killed."""
    stop = threading.Event()

    def murder():
        while not stop.is_set():
            pid = one.child("shipper")
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    murderer = threading.Thread(target=murder)
    murderer.start()
    try:
        yield
    finally:
        stop.set()
        murderer.join()


def churn(one, seed, rounds, **params):
    """Batches of all kinds, on one connection; which of them are there does not matter here."""
    pick = random.Random(seed)
    with one.wire() as wire:
        for _ in range(rounds):
            kind = pick.random()
            if kind < 0.6:
                step = ["INSERT INTO t(b) VALUES (randomblob(?))", [pick.choice((10, 500, 9000))]]
            elif kind < 0.8:
                step = ["UPDATE t SET b = randomblob(60) WHERE a % ? = 0", [pick.choice((3, 50))]]
            elif kind < 0.95:
                step = ["DELETE FROM t WHERE a % ? = 1", [pick.choice((5, 50))]]
            else:
                step = ["DELETE FROM t WHERE a < (SELECT max(a) - 20 FROM t)"]
            wire.write(step, **params)


def start_with_table(one):
    one.start()
    with one.wire() as wire:
        wire.write(["CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)"])
    return one


# ---- what is committed comes back

def test_what_is_committed_is_restored(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place, checkpoint_frames=50))
    for seed in range(4):
        churn(one, seed, 60)
        equal_after_restore(litefunnel, one, place)
    with one.wire() as wire:
        stats = dict(wire.call("show", what="stats")["rows"])
    assert stats["checkpoints_total"] > 0 and stats["ship_trouble"] == ""


@pytest.mark.parametrize("page_size", (512, 1024, 8192, 65536))
@pytest.mark.parametrize("auto_vacuum", ("none", "full"))
def test_page_sizes_and_shrinking(litefunnel, daemon, place, page_size, auto_vacuum):
    db = sqlite3.connect(place / "app.db")
    db.executescript(f"PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum};"
                     "PRAGMA journal_mode=wal; CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    db.close()
    one = start_with_table(ship(daemon, place, checkpoint_frames=50))
    churn(one, page_size, 40)
    equal_after_restore(litefunnel, one, place)
    with one.wire() as wire:
        wire.write(["DELETE FROM t"])
    churn(one, page_size + 1, 20)
    equal_after_restore(litefunnel, one, place)


@pytest.mark.parametrize("sync_mode", ("full", "normal"))
def test_nothing_that_dies_breaks_the_chain(litefunnel, daemon, place, sync_mode):
    """The daemon is killed or stopped, or its shipper is killed, under load: the chain goes on."""
    pick = random.Random(sync_mode)
    one = start_with_table(ship(daemon, place, checkpoint_frames=60, sync=sync_mode))
    for number in range(8):
        load = [threading.Thread(target=try_to_churn, args=(one, number * 10 + n)) for n in range(2)]
        for thread in load:
            thread.start()
        wait_for(lambda: one.stats()["commit"] > 0, "something is committed")
        what = pick.choice(("kill", "stop", "shipper"))
        if what == "kill":
            one.kill()
            one.start()
        elif what == "stop":
            one.stop()
            one.start()
        else:
            pid = wait_for(lambda: one.child("shipper"), "a shipper runs")
            os.kill(pid, signal.SIGKILL)
        for thread in load:
            thread.join()
        equal_after_restore(litefunnel, one, place)
    log = one.log()
    assert log.count("a chain begins") == 1, log
    assert "chain ends" not in log, log


def try_to_churn(one, seed):
    try:
        churn(one, seed, 80)
    except Exception:  # the daemon dies under it: that is the point
        pass


def test_a_shipper_that_stays_dead_costs_only_the_chain(litefunnel, daemon, place):
    """With no shipper the WAL grows only so far; then the chain is given up, and a new one begins."""
    one = start_with_table(ship(daemon, place, checkpoint_frames=4))
    sync(litefunnel, one)
    with no_shipper(one):
        churn(one, 1, 150)
        wait_for(lambda: churn(one, 2, 5) or one.stats()["gate_breaks"] > 0, "the gate is broken")
    equal_after_restore(litefunnel, one, place)
    assert one.log().count("a chain begins") >= 2


def test_a_chain_begins_where_the_wal_was_cut(litefunnel, daemon, place):
    """Without a shipper the WAL is copied and cut; the next one need not wait for a commit."""
    one = start_with_table(ship(daemon, place, checkpoint_frames=4))
    sync(litefunnel, one)
    wal = pathlib.Path(one.db + "-wal")
    with no_shipper(one):
        def cut():
            """Near the size at which the chain is given up each commit is let settle: then it is cut, once."""
            churn(one, 3, 1)
            until = time.monotonic() + (0.5 if wal.stat().st_size > 200 * 4120 else 0)
            while wal.stat().st_size > 0 and time.monotonic() < until:
                time.sleep(0.01)
            return wal.stat().st_size == 0
        wait_for(cut, "the WAL is cut", timeout=120)
    equal_after_restore(litefunnel, one, place)
    assert wal.stat().st_size == 0
    churn(one, 4, 20)
    equal_after_restore(litefunnel, one, place)


# ---- who waits for it

def test_shipped_means_shipped(litefunnel, daemon, place):
    """Each row that was answered "shipped" is in the replica at that moment, without the machine."""
    one = start_with_table(ship(daemon, place))
    with one.wire() as wire:
        for number in range(20):
            reply = wire.write(["INSERT INTO t(a) VALUES (?)", [number]], ack="shipped")
            assert reply["durability"] == "shipped"
            if number % 5 == 4:
                out = place / f"{number}.db"
                restore(litefunnel, url(place), out)
                rows = sqlite3.connect(out).execute("SELECT count(*), max(a) FROM t").fetchone()
                assert rows == (number + 1, number)


def test_a_class_can_wait_by_default(daemon, place):
    one = start_with_table(ship(daemon, place, ack_shipped="interactive"))
    with one.wire() as wire:
        said = wire.write(["INSERT INTO t(a) VALUES (1)"], **{"class": "interactive"})
        assert said["durability"] == "shipped"
        assert wire.write(["INSERT INTO t(a) VALUES (2)"])["durability"] == "full"
        said = wire.write(["INSERT INTO t(a) VALUES (3)"], ack="committed",
                          **{"class": "interactive"})
        assert said["durability"] == "full"


def test_not_shipped_is_applied(daemon, place):
    """An outage of the replica: the answer comes at the deadline, with what was done; a repeat waits
    again and executes nothing."""
    one = start_with_table(ship(daemon, place))
    session = os.urandom(16)
    assert state(one) == "shipping"
    level = place / "replica" / "ltx" / "0"
    level.rename(place / "away")
    level.write_text("in the way", encoding="ascii")
    batch = [["INSERT INTO t(a) VALUES (1)"]]
    with one.wire(session=session) as wire:
        error = refused(wire, batch=batch, seq=1, ack="shipped", deadline_ms=300)
        assert error["code"] == "not_shipped" and error["applied"] == "yes"
        assert not error["retry"]
        assert error["result"]["steps"][0]["changes"] == 1
        assert error["result"]["durability"] == "full"
        again = refused(wire, batch=batch, seq=1, ack="shipped", deadline_ms=300)
        assert again["code"] == "not_shipped" and again["result"]["repeat"]
        assert wire.write(["INSERT INTO t(a) VALUES (2)"])["durability"] == "full"
        assert replicas(one)[0]["state"] == "failing" and replicas(one)[0]["error"] != ""
        level.unlink()
        (place / "away").rename(level)
        said = wire.call("write", batch=batch, seq=1, ack="shipped", deadline_ms=30000)
        assert said["repeat"] and said["durability"] == "shipped"
    assert one.read("SELECT count(*) FROM t") == [(2,)]


def refused(wire, **params):
    id = wire.request("write", **params)
    error, _ = wire.reply(id, timeout=30)
    assert error is not None
    return error


def test_without_a_replica_shipped_is_refused(daemon, place):
    one = daemon(place=place)
    with one.wire() as wire:
        assert refused(wire, batch=[["SELECT 1"]], ack="shipped")["code"] == "bad_request"


def test_a_stop_ships_what_is_committed(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place, ship_timeout="30s"))
    churn(one, 3, 50)
    one.stop()
    restore(litefunnel, url(place), place / "out.db")
    assert content(place / "out.db") == content(one.db)


# ---- replicas that come late

class Absent:
    """A replica in whose place stands a file, until it comes."""

    def __init__(self, place, name):
        self.path, self.away = place / name, place / f"{name}.away"
        if self.path.exists():
            self.path.rename(self.away)
        self.path.write_text("no directory", encoding="ascii")

    def come(self):
        self.path.unlink()
        if self.away.exists():
            self.away.rename(self.path)


def arrives(one, index, **params):
    """Returns when the replica has what is committed now."""
    commit = one.write(["CREATE TABLE IF NOT EXISTS arrivals(a)"], **params)["commit"]
    wait_for(lambda: [row["commit"] for row in replicas(one)][index:index + 1] >= [commit],
             "the replica has it", 90 * one.slow)


def test_a_first_replica_that_fails_delays_nobody(daemon, place):
    """A chain waits 5 s for replicas that may hold one: not for this. One of three is in time, on any machine."""
    took = []
    for n in range(3):
        absent = Absent(place, f"absent{n}")
        (place / f"good{n}").mkdir()
        one = daemon(f"app{n}.db", place=place, start=False, ship_linger=LINGER, ship_timeout="1s",
                     replica=f"{url(place, absent.path.name)} {url(place, f'good{n}')}?ack=1")
        began = time.monotonic()
        one.start().write(["CREATE TABLE t(a)"], ack="shipped", deadline_ms=60000)
        took.append(time.monotonic() - began)
        absent.come()
        arrives(one, 0)
        one.stop()
        if took[-1] < 5:
            return
    raise AssertionError(f"the chain began late: {took}")


@pytest.mark.parametrize("rounds", (2, 40))
def test_a_replica_that_comes_late_may_hold_more(litefunnel, daemon, place, rounds):
    """The spool is lost, and the chain begins without the replica that holds one: below, or beyond its numbers."""
    one = start_with_table(ship(daemon, place, ship_timeout="1s"))
    for _ in range(30):
        one.write(["INSERT INTO t(b) VALUES ('before')"], ack="shipped")
    one.stop()
    shutil.rmtree(f"{one.db}-ship")
    absent = Absent(place, "replica")
    (place / "new").mkdir()
    one.settings["replica"] = f"{url(place)} {url(place, 'new')}?ack=1"
    one.start()
    for _ in range(rounds):
        one.write(["INSERT INTO t(b) VALUES ('meanwhile')"], ack="shipped", deadline_ms=60000)
    absent.come()
    arrives(one, 0)
    churn(one, 16, 20)
    for name in ("new", "replica"):
        equal_after_restore(litefunnel, one, place, source=url(place, name))


@pytest.mark.parametrize("restarted", (False, True))
def test_what_a_replica_holds_of_an_earlier_chain_is_not_continued(litefunnel, daemon, place, restarted):
    """Its newest number is one of the chain's, and means other pages: only all pages may follow."""
    (place / "other").mkdir()
    both = f"{url(place)}?ack=1 {url(place, 'other')}"
    one = start_with_table(ship(daemon, place, both, ship_timeout="1s"))
    sync(litefunnel, one)
    one.stop()
    one.settings["replica"] = url(place, "other")  # this one goes on alone
    one.start()
    for _ in range(10):
        one.write(["INSERT INTO t(b) VALUES ('alone')"], ack="shipped")
    one.stop()
    spool = pathlib.Path(f"{one.db}-ship")
    (spool / "position").unlink()
    for path in spool.glob("used-*"):
        path.unlink()  # neither is waited for
    absent = Absent(place, "other")
    one.settings["replica"] = both
    one.start()
    for _ in range(30):
        one.write(["INSERT INTO t(b) VALUES ('without it')"], ack="shipped", deadline_ms=60000)
    if restarted:
        one.restart()
    absent.come()
    arrives(one, 1)
    churn(one, 17, 20)
    for name in ("replica", "other"):
        equal_after_restore(litefunnel, one, place, source=url(place, name))


# ---- who owns a replica

def state(one):
    return wait_for(lambda: [r["state"] for r in replicas(one) if r["state"] != "starting"],
                    "the replica was looked at")[0]


def test_another_database_is_refused(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    one.stop()
    other = daemon("other.db", place=place, replica=url(place), ship_linger=LINGER)
    assert state(other) == "refused"
    assert "belongs to another database" in replicas(other)[0]["error"]
    with other.wire() as wire:
        wire.write(["CREATE TABLE x(a)"])  # writes go on
    restore(litefunnel, url(place), place / "out.db")
    assert content(place / "out.db") == content(one.db)


def test_a_restored_database_goes_on_in_its_replica(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place))
    churn(one, 5, 30)
    first = sync(litefunnel, one)
    churn(one, 6, 30)
    sync(litefunnel, one)
    one.stop()
    restore(litefunnel, url(place), one.db, "--force", "--commit", str(first))
    one.create = False
    one.start()
    assert state(one) == "shipping"
    churn(one, 7, 30)
    equal_after_restore(litefunnel, one, place)


def test_a_lost_spool_costs_a_whole_image(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place))
    churn(one, 8, 30)
    sync(litefunnel, one)
    one.stop()
    shutil.rmtree(f"{one.db}-ship")
    one.start()
    churn(one, 9, 30)
    equal_after_restore(litefunnel, one, place)


def test_a_replica_ahead_of_the_database_is_not_written_to(litefunnel, daemon, place):
    """An old copy of the database, in place of it: what only the replica knows stays there."""
    one = start_with_table(ship(daemon, place))
    churn(one, 10, 10)
    one.stop()
    old = {path: path.read_bytes() for path in (place / "app.db", place / "app.db-wal")}
    one.start()
    churn(one, 11, 10)
    last = sync(litefunnel, one)
    one.stop()
    for path, data in old.items():
        path.write_bytes(data)
    (place / "app.db-shm").unlink()
    shutil.rmtree(f"{one.db}-ship")
    one.start()
    assert state(one) == "refused"
    assert "ahead of the database" in replicas(one)[0]["error"]
    assert restore(litefunnel, url(place), place / "out.db")["commit"] == last


def test_an_emptied_replica_is_filled_again_when_somebody_says_so(litefunnel, daemon, place):
    """An empty directory may be that of a disk which is not mounted."""
    one = start_with_table(ship(daemon, place, ship_timeout="10ms"))
    churn(one, 12, 30)
    sync(litefunnel, one)
    one.stop()
    shutil.rmtree(place / "replica")
    (place / "replica").mkdir()
    one.start()
    churn(one, 13, 30)
    error = wait_for(lambda: "".join(row["error"] for row in replicas(one)), "it is named")
    assert "is its disk mounted" in error and not list((place / "replica").rglob("*.ltx"))
    pathlib.Path(error.rpartition("remove ")[2].rstrip(")")).unlink()
    equal_after_restore(litefunnel, one, place)


def test_a_disk_that_comes_back_is_shipped_to_again(litefunnel, daemon, place):
    """Nothing is written under its name while it is away, and it goes on where it was."""
    one = start_with_table(ship(daemon, place))
    churn(one, 12, 10)
    sync(litefunnel, one)
    for restart in (False, True):
        (place / "replica").rename(place / "away")
        (place / "replica").mkdir()
        if restart:
            one.kill()
            one.start()
        churn(one, 13, 10)
        wait_for(lambda: any("mount" in row["error"] for row in replicas(one)), "it is named")
        assert not list((place / "replica").rglob("*"))
        (place / "replica").rmdir()
        (place / "away").rename(place / "replica")
        equal_after_restore(litefunnel, one, place)


def test_a_second_replica_may_come_later(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place, checkpoint_frames=50))
    churn(one, 14, 100)
    sync(litefunnel, one)
    one.stop()
    (place / "second").mkdir()
    one.settings["replica"] = f"{url(place)} {url(place, 'second')}"
    one.start()
    churn(one, 15, 50)
    equal_after_restore(litefunnel, one, place)
    equal_after_restore(litefunnel, one, place, source=url(place, "second"))


@pytest.mark.parametrize("bad, shown, said", [
    ("s3://bucket/x?key=geheim", "s3://...", "keys do not belong into a URL"),
    ("http://user:geheim@host/x", "http://...", "file:///DIRECTORY or s3://BUCKET"),
    ("nonsense", "...", "file:///DIRECTORY or s3://BUCKET"),
    ("file://relative/path", "file://relative/path", "the path must be absolute")])
def test_a_replica_that_is_none_does_not_hurt_the_others(litefunnel, daemon, place, bad, shown, said):
    one = ship(daemon, place, bad, url(place)).start()
    pid = wait_for(lambda: one.child("shipper"), "a shipper runs")
    one.write(["CREATE TABLE t(a)"], ["INSERT INTO t VALUES (1)"])
    wait_for(lambda: [r["commit"] >= 2 for r in replicas(one)[1:]] == [True], "the good one gets it")
    refused, good = replicas(one)
    assert refused["url"] == shown and refused["state"] == "refused" and said in refused["error"]
    assert good["url"] == url(place) and good["state"] == "shipping" and good["error"] == ""
    done = subprocess.run([litefunnel, "status", one.db], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"degraded: the replica {shown} is refused"), done.stdout
    assert f"litefunnel restore '{url(place)}'" in done.stdout
    assert "geheim" not in done.stdout + one.log()
    assert one.child("shipper") == pid
    one.stop()
    assert restore(litefunnel, url(place), place / "out.db")
    assert content(place / "out.db") == content(one.db)


def test_a_replica_below_a_file_does_not_hurt_the_others(litefunnel, daemon, place):
    """It fails, and says so, until somebody mends it; then it gets all pages."""
    (place / "plain").write_text("no directory")
    one = ship(daemon, place, url(place, "plain/below"), url(place), ship_timeout="1s").start()
    one.write(["CREATE TABLE t(a)"], ["INSERT INTO t VALUES (1)"])
    wait_for(lambda: [r["commit"] >= 2 for r in replicas(one)[1:]] == [True], "the good one gets it")
    bad, good = replicas(one)
    assert bad["state"] == "failing" and "Not a directory" in bad["error"] and good["error"] == ""
    (place / "plain").unlink()
    wait_for(lambda: replicas(one)[0]["commit"] >= 2, "the other one, too", 90)
    equal_after_restore(litefunnel, one, place, source=url(place, "plain/below"))


def test_the_loser_of_two_daemons_stops(litefunnel, daemon, place):
    """A copy of the machine wakes up: both have the same chain. One goes on, the other is refused, and
    nothing that was answered "shipped" is lost."""
    one = start_with_table(ship(daemon, place))
    churn(one, 16, 10)
    sync(litefunnel, one)
    one.stop()
    twin = place / "twin"
    twin.mkdir()
    for path in place.glob("app.db*"):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, twin / path.name)
    two = daemon(place=twin, start=False, replica=url(place), ship_linger=LINGER)
    one.start()
    two.start()
    shipped = []
    for number in range(30):
        for each in (one, two):
            with each.wire() as wire:
                id = wire.request("write", batch=[["INSERT INTO t(b) VALUES (?)",
                                                   [f"{number} {each.db}"]]],
                                  ack="shipped", deadline_ms=3000 if number < 2 else 200)
                error, result = wire.reply(id, timeout=30)
                if error is None:
                    assert result["durability"] == "shipped"
                    shipped.append((number, each.db))
    states = sorted(replicas(each)[0]["state"] for each in (one, two))
    assert states == ["refused", "shipping"]
    restore(litefunnel, url(place), place / "out.db")
    rows = {row for (row,) in sqlite3.connect(place / "out.db").execute("SELECT b FROM t")}
    assert all(f"{number} {db}" in rows for number, db in shipped)
    assert len({db for _, db in shipped[1:]}) == 1


def test_segments_that_were_dropped_become_an_image(litefunnel, daemon, place):
    """The spool is full while the replica is away: writes go on, and it is filled by an image."""
    one = start_with_table(ship(daemon, place, spool_max="16MiB"))
    sync(litefunnel, one)
    level = place / "replica" / "ltx" / "0"
    level.rename(place / "away")
    level.write_text("in the way", encoding="ascii")
    with one.wire() as wire:
        def fill():
            wire.write(["INSERT INTO t(b) VALUES (randomblob(1000000))"])
            return "segments were dropped" in one.log()
        wait_for(fill, "segments are dropped", timeout=120)
    level.unlink()
    (place / "away").rename(level)
    equal_after_restore(litefunnel, one, place)


# ---- beside it

def test_a_vacuum_is_shipped(litefunnel, daemon, place):
    """It is in the chain like everything else."""
    one = start_with_table(ship(daemon, place, checkpoint_frames=50))
    churn(one, 21, 60)
    subprocess.run([litefunnel, "vacuum", one.db, "--yes"], check=True, capture_output=True)
    equal_after_restore(litefunnel, one, place)


def halt(litefunnel, one, *statements):
    by_hand = (f"import sqlite3; db = sqlite3.connect({one.db!r}, isolation_level=None)\n"
               f"for sql in {statements!r}: print(db.execute(sql).fetchall())")
    done = subprocess.run([litefunnel, "halt", one.db, "--", "/usr/bin/python3", "-c", by_hand], check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + one.log()
    return done.stdout


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("how", [
    ["INSERT INTO t(b) VALUES ('by hand')"],
    ["BEGIN", "CREATE TABLE more(a, b)", "INSERT INTO more SELECT a, b FROM t", "COMMIT", "CREATE INDEX i ON more(b)"],
    ["WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 3000) INSERT INTO t(b)"
     " SELECT randomblob(5000) FROM c", "DELETE FROM t WHERE a % 3 = 0", "PRAGMA wal_checkpoint(TRUNCATE)",
     "UPDATE t SET b = 'after it'", "PRAGMA wal_checkpoint(PASSIVE)"],
    ["DELETE FROM t WHERE a % 2", "VACUUM"]], ids=["insert", "schema", "much", "vacuum"])
def test_what_a_halt_commits_goes_on_in_the_chain(litefunnel, daemon, place, how, copied):
    """Under the same epoch, and counted; also when the WAL was all copied, so that it begins anew."""
    one = start_with_table(ship(daemon, place))
    churn(one, 21, 60)
    sync(litefunnel, one)
    if copied:
        with one.wire() as wire:
            assert wire.call("checkpoint")["put_off"] is False
    churn(one, 22, 0 if copied else 30)
    before = one.stats()
    halt(litefunnel, one, *how)
    after = one.stats()
    assert after["epoch"] == before["epoch"] and after["commit"] > before["commit"]
    equal_after_restore(litefunnel, one, place)
    churn(one, 23, 20)
    equal_after_restore(litefunnel, one, place)
    one.kill()
    one.start()
    churn(one, 24, 20)
    equal_after_restore(litefunnel, one, place)
    log = one.log()
    assert "the command of a halt has written" in log and log.count("a chain begins") == 1, log
    assert "the chain ends" not in log and one.stats()["epoch"] == before["epoch"]


def test_what_a_halt_puts_into_the_file_begins_a_new_epoch(litefunnel, daemon, place):
    """Nobody knows which pages that were: neither chain nor epoch can go on."""
    one = start_with_table(ship(daemon, place))
    churn(one, 25, 30)
    sync(litefunnel, one)
    with one.wire() as wire:
        assert wire.call("checkpoint")["put_off"] is False
    before = one.stats()["epoch"]
    overwrite = (f"data = open({one.db!r}, 'rb').read(); at = data.index(b'CREATE TABLE t(a')\n"
                 f"file = open({one.db!r}, 'r+b'); file.seek(at); file.write(b'CREATE TABLE t(a'.lower())")
    done = subprocess.run([litefunnel, "halt", one.db, "--", "/usr/bin/python3", "-c", overwrite], check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one.write(["INSERT INTO t(a) VALUES (NULL)"])
    wait_for(lambda: one.stats()["epoch"] != before, "a new epoch")
    equal_after_restore(litefunnel, one, place)


def test_a_halt_ahead_of_the_shipper(litefunnel, daemon, place):
    """Its command copies what was not captured: the chain begins anew, and nothing of it is lost."""
    one = start_with_table(ship(daemon, place))
    churn(one, 26, 40)
    sync(litefunnel, one)
    with one.wire() as wire:
        assert wire.call("checkpoint")["put_off"] is False
    shipper = one.child("shipper")
    os.kill(shipper, signal.SIGSTOP)
    churn(one, 27, 20)
    before = one.stats()["epoch"]
    halt(litefunnel, one, "PRAGMA wal_checkpoint(PASSIVE)", "UPDATE t SET b = 'by hand' WHERE a % 2")
    os.kill(shipper, signal.SIGCONT)
    equal_after_restore(litefunnel, one, place)
    churn(one, 28, 20)
    equal_after_restore(litefunnel, one, place)
    assert one.stats()["epoch"] == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_sync_behind_a_halt_has_what_it_committed(litefunnel, daemon, place, fails):
    """Also while the daemon stays paused, by somebody else or because the check has failed."""
    one = start_with_table(ship(daemon, place))
    with one.wire() as wire:
        wire.write(["CREATE TABLE p(id INTEGER PRIMARY KEY)"], ["CREATE TABLE c(p REFERENCES p(id))"])
        if not fails:
            wire.call("pause")
    by_hand = (f"import sqlite3; db = sqlite3.connect({one.db!r}, isolation_level=None)\n"
               f"db.execute('INSERT INTO {'c' if fails else 'p'} VALUES (7)')")
    done = subprocess.run([litefunnel, "halt", one.db, "--", "/usr/bin/python3", "-c", by_hand], check=False,
                          capture_output=True, text=True)
    assert done.returncode == (125 if fails else 0) and one.stats()["paused"] == 1, done.stderr
    equal_after_restore(litefunnel, one, place)


def foreign_write(litefunnel, one):
    db = sqlite3.connect(one.db, timeout=5, isolation_level=None)
    db.execute("INSERT INTO t(b) VALUES ('foreign')")
    db.close()
    one.write(["INSERT INTO t(b) VALUES ('behind it')"])


@pytest.mark.parametrize("order", ["pkf", "pffk", "pfkf", "pfDSf", "pDSfDSfk"])
def test_epochs_that_a_replica_has_missed(litefunnel, daemon, place, order):
    """It is this database's as before, however many began while it was away: f a foreign write, k the shipper killed."""
    one = start_with_table(ship(daemon, place))
    churn(one, 41, 10)
    sync(litefunnel, one)
    for what in order:
        if what == "p":
            with one.wire() as wire:
                wire.call("pause", shipping=0)
        elif what == "f":
            foreign_write(litefunnel, one)
            time.sleep(0.3)
        elif what == "k":
            os.kill(one.child("shipper"), signal.SIGKILL)
            time.sleep(0.5)
        elif what == "D":
            (place / "replica").rename(place / "away")
            one.stop()
        elif what == "S":
            one.start()
            time.sleep(0.3)
            (place / "away").rename(place / "replica")
            with one.wire() as wire:
                wire.call("pause", shipping=0)
    with one.wire() as wire:
        wire.call("resume", shipping=1)
    equal_after_restore(litefunnel, one, place)
    assert replicas(one)[0]["state"] == "shipping"


@pytest.mark.parametrize("mode", ["PASSIVE", "TRUNCATE"])
def test_a_foreign_checkpoint_ahead_of_the_shipper(litefunnel, daemon, place, mode):
    """It copies what is in no segment yet: what the pages held before, which the digest needs, is gone then."""
    one = start_with_table(ship(daemon, place))
    churn(one, 31, 40)
    one.stop()
    one.start()  # the shipper has no page in its memory
    sync(litefunnel, one)
    for _ in range(2):  # the WAL begins anew
        with one.wire() as wire:
            assert wire.call("checkpoint")["put_off"] is False
            wire.write(["INSERT INTO t(b) VALUES (1)"])
        sync(litefunnel, one)
    shipper = one.child("shipper")
    os.kill(shipper, signal.SIGSTOP)
    churn(one, 32, 10)
    db = sqlite3.connect(one.db, timeout=5)
    assert db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0] == 0
    db.close()
    os.kill(shipper, signal.SIGCONT)
    equal_after_restore(litefunnel, one, place)  # without another commit, too
    churn(one, 33, 10)
    equal_after_restore(litefunnel, one, place)
    assert "the chain ends" in one.log()


def test_foreign_checkpoints_beside_images(litefunnel, daemon, place):
    """What they copy while the first file of a chain is read is not of the commit that it shows."""
    one = start_with_table(daemon(place=place, start=False, checkpoint_frames=100000))
    with one.wire() as wire:
        wire.write(["WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 200) INSERT INTO t(b)"
                    " SELECT randomblob(100000) FROM c"])
    one.stop()
    stop = threading.Event()

    def checkpoints():
        db = sqlite3.connect(one.db, timeout=5)
        while not stop.is_set():
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        db.close()
    one.settings.update(replica=url(place), ship_linger=LINGER)
    one.start()
    thread = threading.Thread(target=checkpoints)
    thread.start()
    with one.wire() as wire:
        for i in range(300):
            wire.write(["UPDATE t SET b = randomblob(50000) WHERE a = ?", [i % 200 + 1]])
    stop.set()
    thread.join()
    equal_after_restore(litefunnel, one, place)
    with one.wire() as wire:
        wire.write(["UPDATE t SET b = 1"])
    equal_after_restore(litefunnel, one, place)


def test_what_waits_for_a_replica_grows_older_only(litefunnel, daemon, place):
    """Also when it is cut into a segment, and while the replica does not take that."""
    one = start_with_table(daemon(place=place, start=False, replica=url(place), ship_linger="300ms"))
    sync(litefunnel, one)
    level = place / "replica" / "ltx" / "0"
    level.rename(place / "away")
    level.write_text("in the way", encoding="ascii")
    one.write(["INSERT INTO t(a) VALUES (1)"])
    latest = None  # since when a commit waits: not later than this

    def fails():
        nonlocal latest
        before_ms = time.time() * 1000
        told = replicas(one)[0]
        if latest is not None:
            assert before_ms - told["lag_ms"] <= latest, told
        elif told["lag_ms"] > 0:
            latest = time.time() * 1000 - told["lag_ms"] + 1
        return told["state"] == "failing" and told["waiting"] > 0
    wait_for(fails, "the replica fails")
    assert latest is not None
    level.unlink()
    (place / "away").rename(level)


def test_a_sync_can_be_given_up(daemon, place):
    """Cancelled while it waits for the replicas, it leaves the queue alone, in which it never was."""
    one = start_with_table(ship(daemon, place))
    assert state(one) == "shipping"
    level = place / "replica" / "ltx" / "0"
    level.rename(place / "away")
    level.write_text("in the way", encoding="ascii")
    with one.wire() as wire:
        wire.write(["INSERT INTO t(a) VALUES (1)"])
        id = wire.request("sync")
        wire.notice("cancel", id=id)
        wire.write(["INSERT INTO t(a) VALUES (2)"])
        assert dict(wire.call("show", what="stats")["rows"])["queue_batches"] == 0
    level.unlink()
    (place / "away").rename(level)


def test_shipped_before_a_restore_is_not_shipped_after_it(litefunnel, daemon, place):
    """The replica knows higher commit numbers, of the epoch before: they say nothing of the new ones."""
    one = start_with_table(ship(daemon, place))
    first = sync(litefunnel, one)
    churn(one, 31, 40)
    sync(litefunnel, one)
    one.stop()
    restore(litefunnel, url(place), one.db, "--force", "--commit", str(first))
    level = place / "replica" / "ltx" / "0"
    level.chmod(0o550)
    one.create = False
    one.start()
    with one.wire() as wire:
        reply = wire.call("write", batch=[["INSERT INTO t(b) VALUES ('new')"]], ack="shipped",
                          deadline_ms=30000)
    assert reply["durability"] == "shipped"
    restore(litefunnel, url(place), place / "out.db")
    assert content(place / "out.db") == content(one.db)
