# SPDX-License-Identifier: MIT
"""A real store that knows no conditional PUT (OpenStack Swift): it is recognised, and not shipped to."""
import os
import uuid

import pytest

import s3 as s3_support
from daemon import wait_for
from shipping import replicas


@pytest.fixture(scope="module")
def swift(request):
    if not request.config.getoption("--soak"):
        pytest.skip("--soak")
    with s3_support.server("swift.sh") as server:
        server.bucket = "funnel-" + uuid.uuid4().hex[:12]
        server.make_bucket(server.bucket)
        yield server


def test_a_store_without_conditions_is_recognised(swift, replica, tmp_path):
    """A put looks before it does, which is all that can be done where one daemon is known to be alone."""
    segment = tmp_path / "segment"
    segment.write_bytes(os.urandom(5000))
    handle = replica(swift.url(swift.bucket, uuid.uuid4().hex), swift.environment())
    result, why = handle.ask("probe")
    assert result == "UNFENCED" and "If-None-Match" in why
    assert handle.put(0, 1, 1, segment) == ["OK"]
    assert handle.put(0, 1, 1, segment) == ["OK"]
    assert handle.put(0, 1, 1, segment, writer="02")[0] == "EXISTS"
    assert handle.get(0, 1, 1, tmp_path / "out") == ["OK"]
    assert (tmp_path / "out").read_bytes() == segment.read_bytes()


def test_a_daemon_refuses_it_and_writes_on(swift, daemon):
    one = daemon(replica=swift.url(swift.bucket, uuid.uuid4().hex), env=swift.environment())
    told = wait_for(lambda: [r for r in replicas(one) if r["state"] == "refused"], "the replica is refused", 120)
    assert "If-None-Match" in told[0]["error"]
    one.write("CREATE TABLE t(a)")
    assert one.read("SELECT count(*) FROM t") == [(0,)]
