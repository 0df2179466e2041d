# SPDX-License-Identifier: MIT
"""The spool on a disk of its own that is full: writes go on, the cause is named, and nothing is missing later."""
import contextlib
import os
import subprocess

import pytest

from daemon import wait_for
from shipping import equal_after_restore, ship


@pytest.fixture
def place(tmp_path):
    (tmp_path / "replica").mkdir()
    return tmp_path


@contextlib.contextmanager
def spool_of(one, mib):
    """The spool's directory on a file system of that size; what is yielded gives it another."""
    spool = f"{one.db}-ship"
    os.mkdir(spool, 0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "spool", spool], check=True)
    try:
        yield lambda mib: subprocess.run(["mount", "-o", f"remount,size={mib}m", spool], check=True)
    finally:
        if one.running():
            one.process.kill()
            one.process.wait()
        subprocess.run(["umount", "--lazy", spool], check=True)


def test_the_first_image_finds_the_disk_full(litefunnel, daemon, place):
    one = ship(daemon, place)
    replica = one.settings.pop("replica")
    one.start()
    one.write("CREATE TABLE t(id INTEGER PRIMARY KEY, content)",
              "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 64) "
              "INSERT INTO t(content) SELECT randomblob(100000) FROM n")
    one.stop()
    one.settings["replica"] = replica
    with spool_of(one, 2) as resize:
        one.start()
        with one.wire() as wire:
            trouble = wait_for(lambda: one.stats()["ship_trouble"], "the full spool to be named")
            assert f"{one.db}-ship" in trouble and "No space left on device" in trouble, trouble
            status = subprocess.run([litefunnel, "status", one.db], capture_output=True, text=True, check=False)
            assert "No space left on device" in status.stdout, status.stdout
            for _ in range(20):  # nobody who writes is held up by it
                wire.write("INSERT INTO t(content) VALUES (randomblob(10000))")
            assert not list((place / "replica").rglob("*.ltx"))
            pid = one.pid
            resize(64)
            wire.call("sync", deadline_ms=300_000, timeout=300)
            assert one.pid == pid and one.stats()["ship_trouble"] == ""
            wire.write("DELETE FROM t WHERE id % 2")
            wire.call("sync", deadline_ms=300_000, timeout=300)
        equal_after_restore(litefunnel, one, place)
        one.stop()
