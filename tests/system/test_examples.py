# SPDX-License-Identifier: MIT
"""Each example does its work against a daemon and finds it done: exit code 0."""
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = sorted(path.stem for path in (ROOT / "examples").glob("*.c"))


@pytest.fixture(scope="module")
def build(litefunnel):
    """The build directory of the program under test."""
    return pathlib.Path(os.environ.get("LITEFUNNEL_BUILD") or litefunnel.parents[1])


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(daemon, build, name):
    served = daemon()
    for _ in range(2):  # also on a database that has seen it before
        result = subprocess.run([build / "examples" / f"example_{name}", served.db], text=True,
                                capture_output=True, timeout=120)
        assert result.returncode == 0, result.stdout + result.stderr


def test_client_in_python(daemon):
    served = daemon()
    for _ in range(2):
        result = subprocess.run(["/usr/bin/python3", ROOT / "examples" / "client.py", served.db],
                                text=True, capture_output=True, timeout=120)
        assert result.returncode == 0, result.stdout + result.stderr
