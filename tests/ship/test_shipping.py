# SPDX-License-Identifier: MIT
"""The shipper beside a real daemon: what is in a replica, restored, is what was committed; whatever is
killed in between, and whoever else wants the replica."""
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
from shipping import (LINGER, churn, content, equal_after_restore, no_shipper, replicas, restore, ship,
                      start_with_table, state, sync, try_to_churn, url)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "replica").mkdir()
    return tmp_path


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
