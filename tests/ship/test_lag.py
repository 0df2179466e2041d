# SPDX-License-Identifier: MIT
"""How old the oldest commit is that a replica lacks: never told too young, whoever dies and whatever is refused."""
import contextlib
import os
import signal
import sqlite3
import time

import pytest

from daemon import wait_for
from shipping import no_shipper, replicas, restore, ship, start_with_table, sync, url

LATE_MS = 60  # a commit's time is kept to 10 ms; the rest is this machine's


@pytest.fixture
def place(tmp_path):
    (tmp_path / "replica").mkdir()
    return tmp_path


@contextlib.contextmanager
def away(place, name="replica"):
    """The replica takes nothing."""
    level = place / name / "ltx" / "0"
    level.rename(place / "away")
    level.write_text("in the way", encoding="ascii")
    yield
    level.unlink()
    (place / "away").rename(level)


def told(one, index=0):
    """A row of `show replicas`, and between which times of the clock it was told, in ms."""
    def row():
        before_ms = time.time() * 1000
        rows = replicas(one)
        return len(rows) > index and {**rows[index], "before_ms": before_ms, "after_ms": time.time() * 1000}
    return wait_for(row, "it is shown")  # not by a shipper that only just begins


def is_since(row, low_ms, high_ms):
    """The lag is that of something that was committed between these times."""
    assert row["behind"] > 0
    assert row["lag_ms"] >= row["before_ms"] - high_ms - 2, row
    assert row["lag_ms"] <= row["after_ms"] - low_ms + LATE_MS, row


def write_one(one):
    """Between which times it was committed."""
    low_ms = time.time() * 1000
    one.write(["INSERT INTO t(b) VALUES (?)", [low_ms]])
    return low_ms, time.time() * 1000


def rows(path):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute("SELECT b FROM t ORDER BY a").fetchall()


def test_a_commit_after_a_rest_is_young(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    assert told(one)["lag_ms"] == 0
    time.sleep(1.5)
    with away(place):
        times = write_one(one)
        for _ in range(20):
            is_since(told(one), *times)
            time.sleep(0.02)
    sync(litefunnel, one)
    assert told(one)["lag_ms"] == 0 and told(one)["behind"] == 0


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


def test_it_goes_on_over_shippers_that_die(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    with away(place):
        times = write_one(one)
        for _ in range(4):
            shipper = wait_for(lambda: one.child("shipper"), "a shipper")
            os.kill(shipper, signal.SIGKILL)
            wait_for(lambda gone=shipper: one.child("shipper") not in (None, gone), "the next one")
            for _ in range(20):
                is_since(told(one), *times)
                one.write(["INSERT INTO t(b) VALUES (2)"])


def test_it_is_told_while_no_shipper_lives(litefunnel, daemon, place):
    """Commits that no segment has had are counted from when they were made, not from when a shipper saw them."""
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    with away(place):
        with no_shipper(one):
            times = write_one(one)
            time.sleep(1)
        wait_for(lambda: one.child("shipper"), "a shipper")
        is_since(told(one), *times)


def test_it_goes_on_over_restarts_of_the_daemon(litefunnel, daemon, place):
    """The first commit that is missing is then at most as old as the last that is there."""
    one = start_with_table(ship(daemon, place, ship_timeout="100ms"))
    low_ms, _ = write_one(one)
    sync(litefunnel, one)
    with away(place):
        _, high_ms = write_one(one)
        one.kill()
        one.create = False
        for _ in range(2):
            one.start()
            for _ in range(20):
                is_since(told(one), low_ms, high_ms)
                time.sleep(0.02)
            one.write(["INSERT INTO t(b) VALUES (2)"])
            is_since(told(one), low_ms, high_ms)
            one.stop()
    one.start()
    sync(litefunnel, one)
    assert told(one)["lag_ms"] == 0


def test_of_a_replica_that_was_never_reached_it_is_since_the_start(daemon, place):
    (place / "replica").rmdir()
    (place / "replica").write_text("no directory", encoding="ascii")
    low_ms = time.time() * 1000
    one = start_with_table(ship(daemon, place))
    high_ms = time.time() * 1000
    time.sleep(0.5)
    is_since(told(one), low_ms, high_ms)


def test_of_a_refused_replica_it_grows(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    one.stop()
    low_ms = time.time() * 1000
    other = daemon("other.db", place=place, replica=url(place), ship_linger="30ms")
    other.write("CREATE TABLE x(a)")
    high_ms = time.time() * 1000
    wait_for(lambda: told(other)["state"] == "refused", "it is refused")
    time.sleep(0.5)
    is_since(told(other), low_ms, high_ms)


def test_what_a_loss_costs_is_not_more_than_was_told(litefunnel, daemon, place):
    """Daemon and shipper go at once: of what the replica lacks, the oldest is not older than was told last."""
    one = start_with_table(ship(daemon, place))
    for round_ in range(6):
        sync(litefunnel, one)
        with away(place):
            for _ in range(30):
                write_one(one)
            if round_ % 2:
                os.kill(wait_for(lambda: one.child("shipper"), "a shipper"), signal.SIGKILL)
                write_one(one)
            row = told(one)
            one.kill()
        restore(litefunnel, url(place), place / f"out-{round_}.db")
        written_ms, there = ([ms for ms, in rows(path)] for path in (one.db, place / f"out-{round_}.db"))
        assert written_ms[:len(there)] == there and len(there) < len(written_ms)
        # The time in the row was read before the write was sent.
        assert row["lag_ms"] >= row["before_ms"] - written_ms[len(there)] - LATE_MS, row
        one.create = False
        one.start()
