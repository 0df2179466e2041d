# SPDX-License-Identifier: MIT
"""A replica that Litestream 0.5.17 wrote: our restore reads it, and a daemon goes on behind it."""
import sqlite3

import pytest

import litestream
from chains import restore
from shipping import content, replicas, state

SESSIONS = (
    ("CREATE TABLE t(a INTEGER PRIMARY KEY, b)",),
    ("INSERT INTO t(b) VALUES (randomblob(90000))", "INSERT INTO t(b) VALUES ('two')"),
    ("UPDATE t SET b = randomblob(200) WHERE a = 1", "CREATE INDEX i ON t(b)"),
    ("DELETE FROM t WHERE a = 1", "INSERT INTO t(b) VALUES (randomblob(5000))"),
)


@pytest.fixture(scope="module", autouse=True)
def stock():
    if litestream.library() is None:
        pytest.skip("litestream-vfs 0.5.17 of the npm registry cannot be had")


@pytest.fixture
def written(place, monkeypatch, tmp_path):
    """The URL of such a replica, for us and for Litestream."""
    url, environment = place
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    theirs = f"{url}&region=us-east-1&forcePathStyle=true" if url.startswith("s3:") else url
    for statements in SESSIONS:
        litestream.write(theirs, tmp_path, *statements)
    return url, theirs


def same_restore(litefunnel, written, directory, name):
    ours, theirs = directory / f"ours-{name}.db", directory / f"theirs-{name}.db"
    code, said, errors = restore(litefunnel, written[0], "-o", ours)
    assert code == 0 and said["damage"] == "", errors
    assert litestream.restore(written[1], theirs) == ""
    assert ours.read_bytes() == theirs.read_bytes()
    return ours, said


def test_what_litestream_wrote_is_restored(litefunnel, written, tmp_path):
    ours, said = same_restore(litefunnel, written, tmp_path, "latest")
    assert int(said["txid"], 16) == len(SESSIONS) and said["digest"] != "equal"
    db = sqlite3.connect(ours)
    assert db.execute("SELECT a, length(b) FROM t ORDER BY a").fetchall() == [(2, 3), (3, 5000)]
    db.close()
    for txid in range(1, len(SESSIONS)):
        code, said, errors = restore(litefunnel, written[0], "-o", tmp_path / f"{txid}.db", "--txid", f"{txid:x}")
        assert code == 0 and int(said["txid"], 16) == txid, errors


def test_a_daemon_goes_on_behind_litestream(litefunnel, daemon, written, tmp_path):
    """Only if it is told to; what both wrote is one chain, which both restore."""
    _, said = same_restore(litefunnel, written, tmp_path, "before")
    served = daemon(start=False, replica=written[0], ship_linger="10ms")
    assert restore(litefunnel, written[0], "-o", served.db)[0] == 0
    served.create = False
    served.start()
    assert state(served) == "refused"
    assert "litefunnel did not write" in replicas(served)[0]["error"]
    served.stop()
    served.settings["continue_litestream"] = "on"
    served.start()
    for size in (10, 70000, 300):
        served.write(["INSERT INTO t(b) VALUES (randomblob(?))", [size]], ack="shipped", deadline_ms=60000)
    served.restart()
    served.write(["DELETE FROM t WHERE a = 2"], ack="shipped", deadline_ms=60000)
    ours, after = same_restore(litefunnel, written, tmp_path, "after")
    assert int(after["txid"], 16) > int(said["txid"], 16) and after["digest"] == "equal"
    assert content(ours) == content(served.db)
    code, old, errors = restore(litefunnel, written[0], "-o", tmp_path / "old.db", "--txid", said["txid"])
    assert code == 0 and old["txid"] == said["txid"], errors
