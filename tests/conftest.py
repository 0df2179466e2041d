# SPDX-License-Identifier: MIT
"""Fixtures of all tests in Python. LITEFUNNEL_BIN names the built program."""
import os
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import daemon as daemons  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true",
                     help="the long forms of tests: more rounds, more seconds")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What a test leaves in its directory is kept if it failed. All of a run together are gigabytes."""
    outcome = yield
    item.has_failed = getattr(item, "has_failed", False) or outcome.get_result().failed
    if call.when == "teardown" and not item.has_failed and "tmp_path" in item.funcargs:
        shutil.rmtree(item.funcargs["tmp_path"], ignore_errors=True)


@pytest.fixture(scope="session")
def litefunnel():
    """The path of the program under test."""
    path = os.environ.get("LITEFUNNEL_BIN")
    assert path, "set LITEFUNNEL_BIN to the built program, for example build/gcc/server/litefunnel"
    assert os.access(path, os.X_OK), f"LITEFUNNEL_BIN: {path} is no program"
    return pathlib.Path(path).resolve()


@pytest.fixture(scope="session")
def soak(request):
    return request.config.getoption("--soak")


@pytest.fixture(scope="session")
def slow(litefunnel):
    """How many times longer a thing may take, because of a sanitizer."""
    return daemons.slowness(str(litefunnel))


@pytest.fixture
def daemon(litefunnel):
    """daemon(**settings) starts a daemon of a new database; all are stopped, and looked at, at the end."""
    with daemons.place_for_daemons(litefunnel) as make:
        yield make


@pytest.fixture(scope="module")
def shared_daemon(litefunnel):
    """The same for a whole file of tests."""
    with daemons.place_for_daemons(litefunnel) as make:
        yield make
