# SPDX-License-Identifier: MIT
"""An S3 server; replicas driven through replica_cli. The fixtures of all tests are in ../conftest.py."""
import os
import pathlib
import subprocess
import uuid

import pytest

import s3 as s3_support


class Replica:
    """One handle of a replica; results are (name, values or error)."""

    def __init__(self, program, url, environment):
        self.url = url
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        clean.pop("HOME", None)
        self.process = subprocess.Popen([program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env={**clean, **environment})
        self.opened = self._line()

    def _line(self):
        line = self.process.stdout.readline()
        assert line, "replica_cli is gone"
        return line.rstrip("\n").split("\t")

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._line()

    def put(self, level, low, high, path, timestamp_ms=1795343655247, writer="01"):
        return self.ask("put", level, low, high, path, timestamp_ms, writer)

    def get(self, level, low, high, path, offset=0, length="-"):
        return self.ask("get", level, low, high, offset, length, path)

    def look(self, level, low, high):
        result, *values = self.ask("look", level, low, high)
        return result, dict(v.split("=", 1) for v in values) if result == "OK" else values

    def list(self, level, start=0):
        *files, result = self.ask("list", level, start)
        return [tuple(int(w, 16 if i in (1, 2) else 10) for i, w in enumerate(f.split()))
                for f in files], result

    def delete(self, level, low, high):
        return self.ask("delete", level, low, high)

    def stats(self):
        return {k: int(v) for k, v in (w.split("=") for w in self.ask("stats")[1:])}

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()


@pytest.fixture(scope="session")
def s3():
    """An S3 server with a bucket."""
    with s3_support.server() as server:
        server.bucket = "funnel-" + uuid.uuid4().hex[:12]
        server.make_bucket(server.bucket)
        yield server


@pytest.fixture(scope="session")
def replica_cli():
    build = os.environ.get("LITEFUNNEL_BUILD")
    assert build, "set LITEFUNNEL_BUILD to the build directory"
    return str(pathlib.Path(build) / "tests" / "ship" / "replica_cli")


@pytest.fixture
def replica(replica_cli):
    """replica(url, environment) opens a handle; all are closed at the end."""
    handles = []

    def make(url, environment=None):
        handles.append(Replica(replica_cli, url, environment or {}))
        return handles[-1]
    yield make
    for handle in handles:
        handle.close()


@pytest.fixture
def place_of(request, tmp_path):
    """place_of(kind): a new replica, its URL and the environment that it needs."""
    def make(kind):
        if kind == "file":
            return f"file://{tmp_path}/replica", {}
        server = request.getfixturevalue("s3")
        return server.url(server.bucket, uuid.uuid4().hex), server.environment()
    return make


@pytest.fixture(params=["file", "s3"])
def place(request, place_of):
    """A new replica of either kind."""
    return place_of(request.param)
