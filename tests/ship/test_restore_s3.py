# SPDX-License-Identifier: MIT
"""Shipped to a real S3 server, restored from it: by us, by us through a line that breaks, by Litestream."""
import os
import random
import urllib.parse
import uuid

import pytest

import fault_proxy
import litestream
from chains import restore


@pytest.fixture(scope="module")
def shipped(s3, shared_daemon):
    """A replica in a bucket with some dozen segments, one of them large, and a daemon that was stopped."""
    url = s3.url(s3.bucket, uuid.uuid4().hex)
    served = shared_daemon(replica=url, env=s3.environment(), ship_linger="10ms")
    with served.wire(timeout=120) as wire:
        wire.write(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"], ack="shipped", deadline_ms=60000)
        for i in range(12):
            wire.write(["INSERT INTO t(b) VALUES (randomblob(?))", [9_000_000 if i == 5 else 2000]], ack="shipped",
                       deadline_ms=60000)
        served.answer = wire.write(["DELETE FROM t WHERE a = 3"], ack="shipped", deadline_ms=60000)
    served.stop()
    return served, url


@pytest.fixture
def environment(s3, monkeypatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)


def test_ours_and_theirs(litefunnel, shipped, environment, tmp_path, s3):
    served, url = shipped
    code, said, errors = restore(litefunnel, url, "-o", tmp_path / "ours.db")
    assert code == 0 and said["digest"] == "equal", errors
    assert said["commit"] >= served.answer["commit"] and said["files"] >= 10
    if litestream.library() is None:
        pytest.skip("litestream-vfs 0.5.17 of the npm registry cannot be had")
    plain = f"{url}&region=us-east-1&forcePathStyle=true"
    assert litestream.restore(plain, tmp_path / "theirs.db") == ""
    assert (tmp_path / "ours.db").read_bytes() == (tmp_path / "theirs.db").read_bytes()


def test_a_line_that_breaks(litefunnel, shipped, environment, tmp_path, s3, soak):
    """What is lost on the way is asked for again; nothing wrong is ever taken."""
    _, url = shipped
    assert restore(litefunnel, url, "-o", tmp_path / "good.db")[0] == 0
    good = (tmp_path / "good.db").read_bytes()
    seed = int(os.environ.get("LF_SEED", random.randrange(1 << 30)))
    reached = 0
    for i in range(30 if soak else 3):
        with fault_proxy.proxy(s3.address, rate=.3, seed=seed + i, hold=.2) as proxy:
            parts = urllib.parse.urlsplit(url)
            broken = f"s3://{parts.netloc}{parts.path}?endpoint={proxy.endpoint}&timeout-ms=1000"
            out = tmp_path / f"{i}.db"
            code, said, errors = restore(litefunnel, broken, "-o", out)
        assert code in (0, 1, 4), errors
        if code == 0:
            assert out.read_bytes() == good and said["complete"], f"LF_SEED={seed + i}"
            reached += 1
    assert reached > 0, f"LF_SEED={seed}"
