# SPDX-License-Identifier: MIT
"""Commands beside a daemon that a whole file of tests shares. The fixtures of all tests are in ../conftest.py."""
import pytest

from cli import Cli


@pytest.fixture(scope="module")
def served(shared_daemon):
    return shared_daemon()


@pytest.fixture
def cli(litefunnel, served):
    program = Cli(litefunnel, served.db)
    program.exec("DROP TABLE IF EXISTS t")
    program.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)")
    return program


@pytest.fixture
def bare(litefunnel):
    """The program without a database."""
    return Cli(litefunnel)
