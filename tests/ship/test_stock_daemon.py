# SPDX-License-Identifier: MIT
"""What a daemon shipped under load, stock Litestream 0.5.17 restores, byte for byte as we do: latest and at
moments, from a directory and from a bucket. It lived through kills, stops and the daemon's VACUUM."""
import json
import os
import random
import shutil
import sqlite3
import subprocess
import threading

import pytest

import daemon as daemons
import litestream
import ltx
from chains import restore
from test_stock import CHANGE_COUNTER, JOURNAL_MODE
from wire import Closed, Refused

LIVES = 3
WRITERS = 2
TIMEOUT_S = 600

SHAPES = {
    "plain": (),
    "pages of 512": ("PRAGMA page_size=512",),
    "pages of 64 KiB": ("PRAGMA page_size=65536",),
    "auto-vacuum": ("PRAGMA auto_vacuum=full",),
    "incremental": ("PRAGMA auto_vacuum=incremental",),
}
SOAK_SHAPES = {f"pages of {size}, {vacuum}": (f"PRAGMA page_size={size}", f"PRAGMA auto_vacuum={vacuum}")
               for size in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536) for vacuum in ("none", "full")}

STEPS = (
    "INSERT INTO t(b) VALUES (randomblob(900))",
    "INSERT INTO t(b) SELECT randomblob(400) FROM (SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3)",
    "UPDATE t SET b = randomblob(700) WHERE a % 7 = 0",
    "DELETE FROM t WHERE a % 3 = 0",
)


@pytest.fixture(scope="module", autouse=True)
def stock():
    if litestream.library() is None:
        pytest.skip("litestream-vfs 0.5.17 of the npm registry cannot be had")


@pytest.fixture
def replica_at(kind, place_of, monkeypatch):
    """The URL for us, and for Litestream."""
    url, environment = place_of(kind)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return url, f"{url}&region=us-east-1&forcePathStyle=true" if url.startswith("s3:") else url


def served_database(daemon, url, shape):
    served = daemon(start=False, replica=url, ship_linger="20ms", checkpoint_frames=60)
    with sqlite3.connect(served.db) as db:
        for pragma in shape:
            db.execute(pragma)
        db.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    db.close()
    os.chmod(served.db, 0o640)
    shutil.chown(served.db, 0, daemons.READERS)
    return served


def load(served, seed, batches):
    """Batches of one writer, until it has none left or the daemon dies under it."""
    draw = random.Random(seed)
    try:
        with served.wire(timeout=60) as wire:
            for _ in range(batches):
                ack = draw.choice(("committed", "committed", "shipped"))
                wire.write([draw.choice(STEPS)], ack=ack, deadline_ms=60000)
    except (Closed, OSError):
        pass
    except Refused as refused:
        assert refused.code == "shutting_down", refused


def live(litefunnel, served, draw, batches):
    """A few lives under load: each ends by a kill in the middle or by a stop; there is a VACUUM in each."""
    for number in range(LIVES):
        served.start()
        writers = [threading.Thread(target=load, args=(served, draw.random(), batches)) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        done = subprocess.run([litefunnel, "vacuum", served.db, "--yes", "--deadline", "5m"], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr + served.log()
        if number < LIVES - 1 and draw.random() < .7:
            served.process.kill()
            served.process.wait()
        for writer in writers:
            writer.join()
        if served.process.poll() is None:
            served.stop()
        else:
            served.kill()


def same_bytes(ours, theirs, but=()):
    """No byte differs, or only some at these offsets; files may be large."""
    with subprocess.Popen(["cmp", "-l", ours, theirs], stdout=subprocess.PIPE, text=True) as cmp:
        wrong = next((line for line in cmp.stdout if int(line.split()[0]) - 1 not in but), None)
        if wrong is not None:
            cmp.kill()
    return wrong is None and os.path.getsize(ours) == os.path.getsize(theirs)


def moments(litefunnel, url, draw, count):
    """Of some restore points, when they were committed."""
    done = subprocess.run([litefunnel, "replica", "ls", url, "--json"], capture_output=True, text=True, check=True)
    times = sorted({file["committed"] for file in json.loads(done.stdout)})
    return [times[-1], *draw.sample(times[:-1], count - 1)]


def compare(litefunnel, replica_at, directory, live=None):
    """Latest: ours, theirs, and the file that the daemon left."""
    (url, theirs_url), ours, theirs = replica_at, directory / "ours.db", directory / "theirs.db"
    code, said, errors = restore(litefunnel, url, "-o", ours)
    assert code == 0 and said["digest"] == "equal" and said["damage"] == "", errors
    assert litestream.restore(theirs_url, theirs, timeout=TIMEOUT_S) == ""
    assert same_bytes(ours, theirs)
    if live is not None:
        with sqlite3.connect(live) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        assert same_bytes(ours, live)
    return said


def cut_to_header(path):
    """Its library reads a database that has shrunk at its old length, whatever the header says."""
    with open(path, "r+b") as file:
        header = file.read(32)
        page_size = int.from_bytes(header[16:18], "big")
        file.truncate((65536 if page_size == 1 else page_size) * int.from_bytes(header[28:32], "big"))


def compare_at(litefunnel, replica_at, handle, directory, moment):
    """We go by when the last commit of a segment was made, Litestream by when the file was; it says before."""
    ours, theirs = directory / "ours-then.db", directory / "theirs-then.db"
    code, said, errors = restore(litefunnel, replica_at[0], "-o", ours, "--at", moment, "--force")
    assert code == 0, errors
    txid = int(said["txid"], 16)
    result, found = handle.look(0, txid, txid)
    assert result == "OK", found
    at = ltx.rfc3339(int(found["created_ms"]) + 1)
    assert litestream.restore(replica_at[1], theirs, at=at, timeout=TIMEOUT_S) == ""
    cut_to_header(theirs)
    assert same_bytes(ours, theirs, but=(*JOURNAL_MODE, *CHANGE_COUNTER)), f"segment {txid}, at {at}"


def pytest_generate_tests(metafunc):
    """All shapes in a directory, one in a bucket; in the long form all in both."""
    if "shape" in metafunc.fixturenames:
        shapes = {**SHAPES, **SOAK_SHAPES} if metafunc.config.getoption("--soak") else SHAPES
        buckets = shapes if metafunc.config.getoption("--soak") else ["auto-vacuum"]
        cases = [("file", shape) for shape in shapes] + [("s3", shape) for shape in buckets]
        metafunc.parametrize(("kind", "shape"), cases)


def test_what_a_daemon_shipped(litefunnel, daemon, replica, replica_at, tmp_path, shape, soak):
    seed = int(os.environ.get("LF_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    draw = random.Random(seed)
    served = served_database(daemon, replica_at[0], {**SHAPES, **SOAK_SHAPES}[shape])
    live(litefunnel, served, draw, 300 if soak else 25)
    verified = subprocess.run([litefunnel, "replica", "verify", replica_at[0]], capture_output=True, text=True,
                              check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    compare(litefunnel, replica_at, tmp_path, served.db)
    handle = replica(replica_at[0], dict(os.environ))
    for moment in moments(litefunnel, replica_at[0], draw, 6 if soak else 2):
        compare_at(litefunnel, replica_at, handle, tmp_path, moment)


@pytest.mark.parametrize("kind", ("file", "s3"))
def test_more_than_a_gigabyte(litefunnel, daemon, replica, replica_at, kind, tmp_path, soak):
    """The page of the lock bytes, at 1 GiB, is in no segment and reads as zeros."""
    if not soak:
        pytest.skip("--soak")
    served = daemon(replica=replica_at[0])
    with served.wire(timeout=TIMEOUT_S) as wire:
        wire.write(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"])
        for _ in range(12):
            wire.write([f"INSERT INTO t(b) SELECT zeroblob(1000000) FROM ({' UNION ALL '.join(['SELECT 1'] * 100)})"])
        wire.write(["UPDATE t SET b = randomblob(5000) WHERE a % 100 = 0"], ack="shipped", deadline_ms=300000)
    before = moments(litefunnel, replica_at[0], random.Random(1), 1)[0]
    with served.wire(timeout=TIMEOUT_S) as wire:
        wire.write(["DELETE FROM t WHERE a % 100 = 1"])
    done = subprocess.run([litefunnel, "vacuum", served.db, "--yes", "--deadline", "10m"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr + served.log()
    with served.wire(timeout=TIMEOUT_S) as wire:  # behind all pages
        wire.write(["INSERT INTO t(b) VALUES (randomblob(100000))"], ack="shipped", deadline_ms=300000)
    served.stop()
    assert compare(litefunnel, replica_at, tmp_path, served.db)["pages"] > 262145
    if kind == "file":  # for a moment, its library asks the store for each page by itself
        compare_at(litefunnel, replica_at, replica(replica_at[0], dict(os.environ)), tmp_path, before)
