# SPDX-License-Identifier: MIT
"""Stock Litestream 0.5.17 and `litefunnel restore` make the same file of the same replica."""
import os
import random

import pytest

import chains
import litestream
import ltx
from chains import restore

JOURNAL_MODE, CHANGE_COUNTER = range(18, 20), range(24, 28)


@pytest.fixture(scope="session", autouse=True)
def stock():
    if litestream.library() is None:
        pytest.skip("litestream-vfs 0.5.17 of the npm registry cannot be had")


def compare(litefunnel, replica, directory):
    ours, theirs = directory / "ours.db", directory / "theirs.db"
    code, said, errors = restore(litefunnel, replica.url, "-o", ours)
    assert code == 0 and said["damage"] == "", errors
    assert litestream.restore(replica.url, theirs) == ""
    assert ours.read_bytes() == theirs.read_bytes()
    return int(said["txid"], 16)


def compare_at(litefunnel, replica, directory, ms):
    """Up to and with that moment: Litestream says before, we say not after."""
    ours, theirs = directory / f"ours-{ms}.db", directory / f"theirs-{ms}.db"
    code, said, errors = restore(litefunnel, replica.url, "-o", ours, "--at", ltx.rfc3339(ms))
    assert code == 0, errors
    assert litestream.restore(replica.url, theirs, at=ltx.rfc3339(ms + 1)) == ""
    assert masked(ours.read_bytes()) == masked(theirs.read_bytes())
    return int(said["txid"], 16)


def masked(data):
    """Its library changes six bytes of the header as it reads."""
    data = bytearray(data)
    for at in (*JOURNAL_MODE, *CHANGE_COUNTER):
        data[at] = 0
    return data


@pytest.mark.parametrize("page_size", (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536))
def test_page_sizes(litefunnel, tmp_path, page_size):
    assert compare(litefunnel, chains.ship_walk(tmp_path, page_size=page_size), tmp_path) == 7


@pytest.mark.parametrize("mode", ("full", "incremental"))
def test_auto_vacuum(litefunnel, tmp_path, mode):
    replica = chains.ship_walk(tmp_path, pragmas=(f"PRAGMA auto_vacuum={mode}",))
    assert compare(litefunnel, replica, tmp_path) == 7


def test_moments(litefunnel, tmp_path):
    replica = chains.ship_walk(tmp_path)
    for txid in (1, 3, 4, 6, 7):
        assert compare_at(litefunnel, replica, tmp_path, replica.times[txid]) == txid
    assert compare_at(litefunnel, replica, tmp_path, replica.times[5] - 1) == 4


def test_replicas_of_all_shapes(litefunnel, tmp_path, soak):
    """Levels, snapshots, overlaps and what retention leaves, at random."""
    seed = int(os.environ.get("LF_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    for round_no in range(60 if soak else 6):
        draw = random.Random(seed + round_no)
        place = tmp_path / str(round_no)
        place.mkdir()
        replica = chains.ship_walk(place, page_size=draw.choice((512, 4096)), records=draw.random() < .7)
        snapshot = draw.choice((0, 0, 2, 3, 5))
        if snapshot:
            replica.merge(9, 1, snapshot)
        first = draw.randint(1, snapshot + 1)
        last = draw.randint(max(first, snapshot), 7)
        replica.merge(draw.choice((1, 2, 3)), first, last)
        for txid in range(1, 7):
            if txid <= snapshot or first <= txid <= last:
                replica.delete(0, txid, txid)
        assert compare(litefunnel, replica, place) == 7, f"LF_SEED={seed + round_no}"


def test_a_gap_is_refused_by_both(litefunnel, tmp_path):
    replica = chains.ship_walk(tmp_path)
    replica.delete(0, 5, 5)
    assert restore(litefunnel, replica.url, "-o", tmp_path / "ours.db")[0] == 1
    assert litestream.restore(replica.url, tmp_path / "theirs.db", timeout=4) != ""
