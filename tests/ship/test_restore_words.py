# SPDX-License-Identifier: MIT
"""What `restore` and `replica` say of a place that is not there, of a commit that is not there yet, and of a
daemon that alone knows its replicas."""
import json
import os
import subprocess

import pytest

from shipping import content, ship, start_with_table, sync, url


@pytest.fixture
def place(tmp_path):
    (tmp_path / "replica").mkdir()
    return tmp_path


@pytest.fixture
def ask(litefunnel):
    def run(*words, code=0):
        done = subprocess.run([litefunnel, *map(str, words)], capture_output=True, text=True, timeout=120,
                              check=False)
        assert done.returncode == code, (words, done)
        return done
    return run


def test_a_directory_that_does_not_exist_is_named(ask, place):
    for command in (("restore", "-o", place / "x.db"), ("replica", "ls"), ("replica", "verify")):
        for where, code, word in ((url(place, "nowhere"), 1, "no such directory"),
                                  (url(place), 1, "holds no segment")):
            ls = command == ("replica", "ls")
            code = 4 if command == ("replica", "verify") else 0 if ls and where == url(place) else code
            done = ask(*command, where, code=code)
            assert word in done.stderr or code == 0, done


def test_a_commit_beyond_the_replica_is_named(litefunnel, ask, daemon, place):
    one = start_with_table(ship(daemon, place))
    last = sync(litefunnel, one)
    done = ask("restore", url(place), "-o", place / "x.db", "--commit", last + 1000)
    assert f"commit {last + 1000} is beyond" in done.stderr and f"commit {last}" in done.stderr, done.stderr
    done = ask("restore", url(place), "-o", place / "y.db", "--commit", last)
    assert done.stderr == ""
    # What the first restore said beside a file that is gone is not in the way of another.
    os.unlink(place / "x.db")
    assert (place / "x.db-restored").exists()
    ask("restore", url(place), "-o", place / "x.db")
    assert content(place / "x.db") == content(place / "y.db")
    done = ask("restore", url(place), "-o", place / "x.db", code=1)
    assert "x.db exists (cure: --force" in done.stderr


def test_the_daemon_knows_its_replicas(litefunnel, ask, daemon, place):
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    rows = json.loads(ask("replica", "ls", one.db, "--json").stdout)
    assert rows and {row["replica"] for row in rows} == {url(place)}
    one.stop()
    assert "no replica is known" in ask("replica", "ls", one.db, code=2).stderr
