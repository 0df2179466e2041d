# SPDX-License-Identifier: MIT
"""Compaction beside a running daemon: what was merged and removed changes no restore, also by stock Litestream."""
import os
import subprocess
import uuid

import pytest

import litestream
from daemon import wait_for
from shipping import churn, content, restore, start_with_table, sync
from test_stock import masked


@pytest.fixture
def both(s3, tmp_path, monkeypatch):
    """A replica in a directory and one in a bucket, for one daemon."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return [f"file://{tmp_path}/replica", s3.url(s3.bucket, uuid.uuid4().hex)]


def levels(replica, both):
    """How many files each level of each replica has."""
    counted = []
    for url in both:
        handle = replica(url, dict(os.environ))
        counted.append([len(handle.list(level)[0]) for level in (0, 1)])
    return counted


def test_a_compacted_replica_restores_the_same(litefunnel, daemon, replica, both, tmp_path):
    one = start_with_table(daemon(start=False, replica=" ".join(both), ship_linger="30ms"))
    for seed in range(40):
        churn(one, seed, 5)
        if seed % 2 == 0:  # so that there is more than one segment, however late the replicas began
            sync(litefunnel, one)
    before = levels(replica, both)
    assert all(level0 > 10 for level0, _ in before), before

    def merged():
        churn(one, 99, 1)
        return all(level1 >= 1 for _, level1 in levels(replica, both))
    wait_for(merged, 90)
    sync(litefunnel, one)
    stock = litestream.library() is not None
    for i, url in enumerate(both):
        verified = subprocess.run([litefunnel, "replica", "verify", url], capture_output=True, text=True,
                                  check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        restore(litefunnel, url, tmp_path / f"ours-{i}.db")
        assert content(tmp_path / f"ours-{i}.db") == content(one.db)
    if stock:
        assert litestream.restore(both[0], tmp_path / "theirs.db") == ""
        assert masked((tmp_path / "theirs.db").read_bytes()) == masked((tmp_path / "ours-0.db").read_bytes())
