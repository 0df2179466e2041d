# SPDX-License-Identifier: MIT
"""
A WAL that is not what the daemon wrote: flipped bits, sectors that came back as zeros, a copy that was made
while the file changed. SQLite's recovery ends at the first frame that is wrong and says nothing; the daemon
must not go on as if what stands behind it had never been acknowledged.
"""
import os
import pathlib
import random
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest

COMMITS = 40
HEADER, FRAME = 32, 24 + 4096


class Base:
    """A database whose WAL holds 40 commits of a row each, killed or stopped, to be damaged again and again."""

    def __init__(self, served, end):
        self.served = served
        served.start()
        served.write("CREATE TABLE t(a)")
        for number in range(1, COMMITS + 1):
            served.write(f"INSERT INTO t VALUES ({number})")
        self.commit = served.stats()["commit"]
        served.kill() if end == "killed" else served.stop()
        self.kept = {suffix: pathlib.Path(served.db + suffix).read_bytes() for suffix in ("", "-wal")}
        wal = self.kept["-wal"]
        ends = [at for at in range(HEADER, len(wal) - FRAME + 1, FRAME) if wal[at + 4:at + 8] != bytes(4)]
        assert len(ends) > COMMITS, (len(self.kept[""]), len(wal), len(ends))
        self.last = ends[-2] + FRAME  # where the last commit begins

    def put(self, damaged):
        pathlib.Path(self.served.db).write_bytes(self.kept[""])
        pathlib.Path(self.served.db + "-wal").write_bytes(damaged)
        os.unlink(self.served.db + "-shm")

    def start(self, damaged):
        """The rows there are, or None if it says what is wrong, and has left all as it was."""
        self.put(damaged)
        self.served.launch()
        if self.served.process.stdout.readline().startswith("ready"):
            rows = [row for row, in self.served.read("SELECT a FROM t ORDER BY a")]
            self.served.stop()
            return rows
        assert self.served.wait() == 1
        said = self.served.log().splitlines()[-1]
        ends, lost = re.search(r"-wal is damaged: what counts ends with commit (\d+), .* up to (\d+) stand", said).groups()
        assert int(ends) + 2 <= int(lost) <= self.commit and "Restore" in said and "wal_checkpoint(TRUNCATE)" in said
        assert pathlib.Path(self.served.db + "-wal").read_bytes() == damaged
        assert pathlib.Path(self.served.db).read_bytes() == self.kept[""]
        return None


def flip(wal, pick):
    """Each of these returns where the damage ends."""
    at = pick.randrange(len(wal))
    wal[at] ^= 1 << pick.randrange(8)
    return at + 1


def zero(wal, pick):
    at = pick.choice([at for at in range(0, len(wal) - 511, 512) if any(wal[at:at + 512])])
    wal[at:at + 512] = bytes(512)
    return at + 512


def garble(wal, pick):
    at = pick.randrange(len(wal) // 4096) * 4096
    wal[at:at + 4096] = pick.randbytes(4096)
    return at + 4096


def header(wal, pick):
    at = pick.randrange(HEADER)
    wal[at] ^= 1 << pick.randrange(8)
    return at + 1


@pytest.mark.parametrize("how", [flip, zero, garble, header], ids=lambda how: how.__name__)
@pytest.mark.parametrize("last", ["killed", "stopped"])
def test_a_damaged_wal_is_not_written_upon(daemon, soak, slow, how, last):
    base = Base(daemon(start=False, checkpoint_frames=100_000), last)
    seed = random.randrange(1 << 32)
    pick = random.Random(seed)
    base.served.settings["session_window"] = 500  # a smaller one is noted at a start that may go on
    refused = 0
    for _ in range(600 if soak else max(20 // slow, 4)):
        wal = bytearray(base.kept["-wal"])
        end = how(wal, pick)
        rows = base.start(bytes(wal))
        refused += rows is None
        # Of the last commit nobody can tell whether it was finished; nor, without the checksum before it, of two.
        assert rows is None or len(rows) == COMMITS or \
            (end > base.last - FRAME and len(rows) >= COMMITS - 2), (seed, end, rows)
    assert refused > 0, (seed, len(base.kept[""]), len(base.kept["-wal"]), base.last)
    assert base.start(base.kept["-wal"]) == list(range(1, COMMITS + 1))


def test_what_is_left_can_be_kept(daemon):
    base = Base(daemon(start=False, checkpoint_frames=100_000), "killed")
    wal = bytearray(base.kept["-wal"])
    wal[base.last // FRAME // 2 * FRAME + HEADER + 100] ^= 1
    assert base.start(bytes(wal)) is None
    with sqlite3.connect(base.served.db) as shell:
        assert shell.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    shell.close()
    base.served.start()
    rows = [row for row, in base.served.read("SELECT a FROM t ORDER BY a")]
    assert 5 < len(rows) < COMMITS and rows == list(range(1, len(rows) + 1))
    assert "a new epoch begins" in base.served.log()
    base.served.stop()


def test_it_was_agreed_to_under_normal(daemon):
    """There the machine may go down with more than one commit, so it goes on, but says it, in a new epoch."""
    base = Base(daemon(start=False, checkpoint_frames=100_000, sync="normal"), "killed")
    wal = bytearray(base.kept["-wal"])
    wal[base.last // FRAME // 2 * FRAME + HEADER + 100] ^= 1
    assert 5 < len(base.start(bytes(wal))) < COMMITS
    assert re.search(r"a new epoch begins.*the last commits are gone", base.served.log())


def test_a_copy_that_was_made_while_it_changed(daemon):
    """The first half of the file is of one time, the second of a later one."""
    base = Base(daemon(start=False, checkpoint_frames=100_000), "stopped")
    served = base.served
    shutil.copy(served.db + "-wal", served.db + ".early")
    served.start()
    with served.wire() as wire:
        wire.call("checkpoint")
    for number in range(COMMITS + 1, 3 * COMMITS):
        served.write(f"INSERT INTO t VALUES ({number})")
    served.kill()
    early = pathlib.Path(served.db + ".early").read_bytes()
    late = pathlib.Path(served.db + "-wal").read_bytes()
    base.kept[""] = pathlib.Path(served.db).read_bytes()
    base.commit = 10_000
    half = (len(early) - HEADER) // FRAME // 2 * FRAME + HEADER
    assert base.start(early[:half] + late[half:]) is None


def test_all_of_it_is_gone_under_normal(daemon):
    """Its own table stood behind the damage, too."""
    base = Base(daemon(start=False, checkpoint_frames=100_000, sync="normal"), "killed")
    wal = bytearray(base.kept["-wal"])
    wal[16] ^= 1
    base.put(bytes(wal))
    base.served.start()
    assert base.served.read("SELECT count(*) FROM sqlite_schema WHERE name = 't'") == [(0,)]
    assert re.search(r"a new epoch begins.*the last commits are gone", base.served.log())


LEAVE = """
import os, sqlite3, sys
shell = sqlite3.connect(sys.argv[1], isolation_level=None)
shell.execute("PRAGMA wal_checkpoint(RESTART)")
for name, in shell.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '_lf_*'").fetchall():
    shell.execute(f"DROP TABLE {name}")
shell.execute("PRAGMA wal_checkpoint(RESTART)")
shell.execute("INSERT INTO t VALUES (0)")
os._exit(0)  # so that the WAL stays
"""


def test_an_earlier_life_with_litefunnel_is_no_damage(daemon):
    base = Base(daemon(start=False, checkpoint_frames=100_000), "stopped")
    served = base.served
    subprocess.run([sys.executable, "-c", LEAVE, served.db], check=True)
    wal = pathlib.Path(served.db + "-wal").read_bytes()
    assert wal[-FRAME // 2:] == base.kept["-wal"][-FRAME // 2:], "frames of the earlier life stand at its end"
    served.start()
    assert served.read("SELECT count(*) FROM t") == [(COMMITS + 1,)]
    assert served.stats()["commit"] < 5 and "damaged" not in served.log()
