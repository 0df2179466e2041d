# SPDX-License-Identifier: MIT
"""A replica that somebody empties under a running daemon: noticed with the next thing that is done there, named
for what it is, and filled again, unless it may be a disk that is not mounted."""
import pathlib
import shutil

import pytest

from daemon import wait_for
from test_drills import PATIENCE
from shipping import content, equal_after_restore, replicas, restore, sync

OPTIONS = {"ship_linger": "30ms", "compact_every": "20ms", "disk_floor": 0}


def grow(one, rows=5):
    for _ in range(rows):
        one.write(["INSERT INTO t VALUES (randomblob(3000))"])


@pytest.fixture
def shipped(daemon, litefunnel, tmp_path):
    """A daemon that ships to a directory, where compaction has been."""
    one = daemon(replica=f"file://{tmp_path}/replica", ship_timeout="1s", **OPTIONS)
    one.write(["CREATE TABLE t(a)"])
    sync(litefunnel, one)  # the base, which is never merged
    grow(one)
    sync(litefunnel, one)
    wait_for(lambda: list((tmp_path / "replica/ltx/1").glob("*.ltx")), "compaction", PATIENCE)
    return one


def remove(place):
    """At once: a daemon works in it."""
    away = place.with_name("removed")
    place.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def error_of(one):
    return "".join(row["error"] for row in replicas(one) if row["state"] == "failing")


@pytest.mark.parametrize("what", ["whole", "content"])
@pytest.mark.parametrize("busy", [True, False])
def test_a_directory_is_named_and_left_alone(shipped, litefunnel, tmp_path, what, busy):
    """Also while nothing is written: to look whether a directory is there costs nothing."""
    place = tmp_path / "replica"
    remove(place)
    if what == "content":
        place.mkdir()
    if busy:
        grow(shipped)
    error = wait_for(lambda: error_of(shipped), "it is named", PATIENCE)
    assert "is its disk mounted" in error and not list(place.rglob("*"))
    pathlib.Path(error.rpartition("remove ")[2].rstrip(")")).unlink()
    grow(shipped)
    wait_for(lambda: replicas(shipped)[0]["commit"] > 0 and not replicas(shipped)[0]["error"], "it is filled",
             PATIENCE)
    equal_after_restore(litefunnel, shipped, tmp_path)
    assert shipped.log().count("gets all pages again") == 1


def test_a_directory_that_comes_back(shipped, litefunnel, tmp_path):
    (tmp_path / "replica").rename(tmp_path / "away")
    wait_for(lambda: error_of(shipped), "it is named", PATIENCE)
    (tmp_path / "away").rename(tmp_path / "replica")
    wait_for(lambda: [row["state"] for row in replicas(shipped)] == ["shipping"], "all is well", PATIENCE)
    grow(shipped)
    equal_after_restore(litefunnel, shipped, tmp_path)
    assert "gets all pages again" not in shipped.log()


def test_a_stop_does_not_wait_for_what_is_gone(shipped, tmp_path):
    """ship_timeout is for what can be shipped: the log says that it was not used up."""
    shipped.stop()
    shipped.settings["ship_timeout"] = "1h"
    shipped.start()
    remove(tmp_path / "replica")
    grow(shipped)
    wait_for(lambda: error_of(shipped), "it is named", PATIENCE)
    shipped.stop()
    assert 'event="not everything is shipped; the spool keeps it"' in shipped.log()


def test_segments_that_are_lost_are_replaced_by_all_pages(shipped, litefunnel, tmp_path):
    for file in (tmp_path / "replica/ltx").rglob("*.ltx*"):
        if file.is_file():
            file.unlink()
    grow(shipped)
    wait_for(lambda: list((tmp_path / "replica/ltx").glob("9/*.ltx")), "a snapshot", PATIENCE)
    equal_after_restore(litefunnel, shipped, tmp_path)


def test_an_emptied_bucket(daemon, litefunnel, s3, tmp_path, monkeypatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    prefix = tmp_path.name
    one = daemon(replica=s3.url(s3.bucket, prefix), env=s3.environment(), **OPTIONS)
    one.write(["CREATE TABLE t(a)"])
    sync(litefunnel, one)  # the base, which is never merged
    grow(one)
    sync(litefunnel, one)

    def keys(level):
        return [key for key in s3.keys(s3.bucket, f"{prefix}/{level}/") if key.endswith(".ltx")]
    wait_for(lambda: keys("0003"), "compaction", PATIENCE)
    for key in s3.keys(s3.bucket, prefix + "/"):
        assert s3.ask("DELETE", f"/{s3.bucket}/{key}")[0] == 204
    grow(one)
    wait_for(lambda: keys("0009"), "a snapshot", PATIENCE)
    wait_for(lambda: replicas(one)[0]["commit"] > 0, "it counts", PATIENCE)
    grow(one)
    sync(litefunnel, one)
    assert "it gets all pages again" in one.log()
    restore(litefunnel, s3.url(s3.bucket, prefix), tmp_path / "out.db")
    assert content(tmp_path / "out.db") == content(one.db)
