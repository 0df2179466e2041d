# SPDX-License-Identifier: MIT
"""A daemon that ships to a directory beside it, and what its replica gives back."""
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading

from daemon import wait_for

LINGER = "30ms"


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


def try_to_churn(one, seed):
    try:
        churn(one, seed, 80)
    except Exception:  # the daemon dies under it: that is the point
        pass


def start_with_table(one):
    one.start()
    with one.wire() as wire:
        wire.write(["CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)"])
    return one


def state(one):
    return wait_for(lambda: [r["state"] for r in replicas(one) if r["state"] != "starting"],
                    "the replica was looked at")[0]
