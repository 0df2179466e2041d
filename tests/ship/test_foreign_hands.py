# SPDX-License-Identifier: MIT
"""Shipping beside other hands on the database: a halt's command, writes and checkpoints of other processes."""
import os
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

from daemon import wait_for
from shipping import LINGER, churn, equal_after_restore, replicas, ship, start_with_table, sync, url


@pytest.fixture
def place(tmp_path):
    (tmp_path / "replica").mkdir()
    return tmp_path


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
