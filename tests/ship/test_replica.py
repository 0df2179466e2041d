# SPDX-License-Identifier: MIT
"""`litefunnel replica ls | verify` on replicas that ltx.py wrote."""
import contextlib
import json
import os
import subprocess
import threading

import pytest

import chains
import ltx


@contextlib.contextmanager
def small_disk(path, size):
    """A file system of its own; needs root."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def replica(program, *args, env=None):
    done = subprocess.run([program, "replica", *map(str, args), "--json"], capture_output=True, text=True,
                          timeout=300, env={**os.environ, **(env or {})})
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture
def walk(tmp_path):
    made = chains.ship_walk(tmp_path)
    made.merge(9, 1, 3)
    made.merge(1, 4, 6)
    return made


def test_ls(litefunnel, walk):
    code, rows, errors = replica(litefunnel, "ls", walk.url)
    assert code == 0, errors
    assert [(row["level"], row["min_txid"], row["max_txid"], row["kind"]) for row in rows] == [
        (9, f"{1:016x}", f"{3:016x}", "full"), (1, f"{4:016x}", f"{6:016x}", "changes"),
        (0, f"{1:016x}", f"{1:016x}", "full"),
        *((0, f"{i:016x}", f"{i:016x}", "changes") for i in range(2, 8))]
    assert rows[1]["commit_first"] == 4 and rows[1]["commit_last"] == 6
    assert rows[0]["bytes"] == walk.path(9, 1, 3).stat().st_size
    assert ltx.rfc3339(walk.times[3]).replace(".000", "") == rows[0]["committed"]
    code, rows, _ = replica(litefunnel, "ls", walk.url, "--names")
    assert code == 0 and rows[0]["commit_last"] is None
    assert replica(litefunnel, "ls", "file://relative")[0] == 2


def test_a_sound_replica_is_proven(litefunnel, walk, tmp_path):
    os.mkdir(tmp_path / "space")
    code, said, errors = replica(litefunnel, "verify", walk.url, "--dir", tmp_path / "space")
    assert code == 0, errors
    (one,) = said
    assert one["verdict"] == "proven" and one["issues"] == [] and one["files"] == 9
    assert one["digests"] == 2 and one["commit"] == 7
    assert os.listdir(tmp_path / "space") == []


def test_what_is_wrong_is_named(litefunnel, walk):
    data = bytearray(walk.path(0, 2, 2).read_bytes())
    data[-30] ^= 1
    walk.path(0, 2, 2).write_bytes(data)
    for path, key in ((walk.path(1, 4, 6), "digest-after"), (walk.path(9, 1, 3), "digest-after"),
                      (walk.path(0, 7, 7), "previous"), (walk.path(0, 5, 5), "digest-before")):
        record = ltx.read_record(path)
        ltx.write_record(path, {**record, key: "77" * (len(record[key]) // 2)})
    ltx.sidecar(walk.path(0, 3, 3)).write_text("epoch: no\n")
    code, said, _ = replica(litefunnel, "verify", walk.url)
    assert code == 1
    (one,) = said
    assert one["verdict"] == "bad"
    issues = "\n".join(one["issues"])
    for word in (f"{2:016x}-{2:016x} of level 0", "another digest than its record",
                 "ends in another database", "another segment as the one before",
                 "made on top of another database", f"{3:016x}-{3:016x} of level 0"):
        assert word in issues, issues


def test_nothing_can_be_told(litefunnel, walk, tmp_path):
    assert replica(litefunnel, "verify", f"file://{tmp_path}/nothing")[0] == 4
    code, said, _ = replica(litefunnel, "verify", walk.url, "--dir", tmp_path / "not there")
    assert code == 4 and said[0]["verdict"] == "unknown"


def test_the_worst_of_several_decides(litefunnel, walk, tmp_path):
    env = {"LITEFUNNEL_REPLICA": f"{walk.url} file://{tmp_path}/nothing"}
    code, said, _ = replica(litefunnel, "verify", tmp_path / "app.db", env=env)
    assert code == 4 and [one["verdict"] for one in said] == ["proven", "unknown"]
    walk.delete(0, 7, 7)
    walk.path(0, 6, 6).write_bytes(b"x" * 300)
    code, said, _ = replica(litefunnel, "verify", tmp_path / "app.db", env=env)
    assert code == 1 and [one["verdict"] for one in said] == ["bad", "unknown"]


def test_a_listing_beside_a_writer_has_no_holes(replica, tmp_path):
    """A directory that grows while it is read may show a file and not the one before it."""
    level = tmp_path / "replica" / "ltx" / "0"
    level.mkdir(parents=True)

    def ship():
        for n in range(1, 8001):
            (level / f"{n:016x}-{n:016x}.ltx").touch()

    handle = replica(f"file://{tmp_path}/replica")
    shipper = threading.Thread(target=ship)
    shipper.start()
    while shipper.is_alive():
        files, result = handle.list(0)
        assert result == "OK"
        assert [file[1] for file in files] == list(range(1, len(files) + 1))
    shipper.join()
