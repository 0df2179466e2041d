# SPDX-License-Identifier: MIT
"""What shipping costs in requests: counted whatever dies, and none at all while nothing is written."""
import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

import fault_proxy
from daemon import wait_for
from test_drills import PATIENCE, drill, shipper_of

# A period of compaction is 10 ms, so that what is an hour by default is over in a second.
PERIOD = "10ms"
KINDS = ("puts", "gets", "lists", "deletes")


def bill(one):
    with one.wire() as wire:
        table = wire.call("show", what="replicas")
    row, = [dict(zip(table["columns"], row)) for row in table["rows"]]
    for span in ("today", "month"):
        assert row[f"requests_{span}"] == sum(row[f"{kind}_{span}"] for kind in KINDS)
        assert row[f"received_{span}"] <= row[f"bytes_{span}"]
    return row


def counted(one):
    """Those of the month."""
    row = bill(one)
    return {kind: row[f"{kind}_month"] for kind in KINDS}


@pytest.fixture(autouse=True)
def same_day():
    """Days and months are those of UTC: a test that would meet midnight begins after it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    left = 24 * 3600 - (now.hour * 3600 + now.minute * 60 + now.second)
    if left < 180:
        time.sleep(left + 1)


@pytest.fixture(params=["file", "s3"])
def shipped(request, daemon, tmp_path):
    """A daemon, asked() for what the store has seen (None: nobody knows), names() of what is there by level."""
    options = {"ship_linger": "30ms", "compact_every": PERIOD, "disk_floor": 0}
    if request.param == "file":
        def names():
            root = tmp_path / "replica" / "ltx"
            return {int(level.name): sorted(f.name for f in level.glob("*.ltx")) for level in root.iterdir()}
        yield daemon(replica=f"file://{tmp_path}/replica", **options), lambda: None, names
        return
    server = request.getfixturevalue("s3")
    prefix = tmp_path.name
    with fault_proxy.proxy(server.address, 0.0, 1) as proxy:
        def names():
            found = {}
            for key in server.keys(server.bucket, prefix + "/"):
                match = re.fullmatch(r".*/([0-9a-f]{4})/([0-9a-f-]{33}\.ltx)", key)
                if match:
                    found.setdefault(int(match[1], 16), []).append(match[2])
            return found
        yield daemon(replica=server.url(server.bucket, prefix, proxy.endpoint), env=server.environment(),
                     **options), lambda: proxy.counts["requests"], names


def write(one):
    with one.wire() as wire:
        for _ in range(5):
            wire.call("write", batch=[["INSERT INTO t VALUES (randomblob(2000))"]], ack="shipped")


def settle(one, names):
    """Everything is merged as far as it goes, and what that made superfluous is gone."""
    def merged():
        newest = f"{one.stats()['ship_segment']:016x}.ltx"
        there = names()
        # The base is never merged, and the newest segment never removed.
        return there.get(3, [""])[-1].endswith(newest) and len(there[0]) == 2
    wait_for(merged, "compaction is done", PATIENCE)


def test_an_idle_replica_costs_nothing(shipped):
    """As the settings are shortened, this is more than an hour in which nobody writes."""
    one, asked, names = shipped
    one.write(["CREATE TABLE t(a)"])
    write(one)
    settle(one, names)

    def rests():
        before = bill(one)
        time.sleep(0.3)
        return bill(one) == before
    wait_for(rests, "the last pass is over", PATIENCE)
    before, seen = bill(one), asked()
    time.sleep(1.5)
    assert bill(one) == before and asked() == seen
    write(one)
    assert counted(one)["puts"] > before["puts_month"]


def test_what_is_asked_is_counted_whoever_dies(shipped, litefunnel):
    one, asked, names = shipped
    one.write(["CREATE TABLE t(a)"])
    write(one)
    first = counted(one)
    assert first["puts"] >= 2 and first["lists"] >= 10
    before = bill(one)
    assert drill(one)[0]["verdict"] == "pass"
    after = bill(one)
    assert after["gets_month"] > before["gets_month"], "the drill's"
    assert after["received_month"] > before["received_month"]
    settle(one, names)
    assert counted(one)["deletes"] >= 1, "those of compaction"
    kept = counted(one)
    pid = shipper_of(one)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: shipper_of(one) != pid, "another shipper")
    write(one)
    assert all(counted(one)[kind] >= kept[kind] for kind in KINDS)
    kept = counted(one)
    one.kill()
    one.start()
    write(one)
    now = counted(one)
    assert all(now[kind] >= kept[kind] for kind in KINDS) and now["puts"] > kept["puts"]
    settle(one, names)
    one.stop()  # nobody asks any more
    seen = asked()
    one.start()
    with one.wire() as wire:
        wire.call("sync")
    if seen is not None:
        told = sum(counted(one).values())
        # Who is killed between counting and sending has counted one that nobody saw.
        assert seen <= told <= asked() + 4
    status = subprocess.run([litefunnel, "status", one.db, "--json"], capture_output=True, text=True,
                            check=False)
    assert json.loads(status.stdout)["replicas"][0]["requests_month"] >= sum(now.values())
    files = list(pathlib.Path(f"{one.db}-ship").glob("usage-*"))
    assert len(files) == 1, files
    text = subprocess.run([litefunnel, "status", one.db], capture_output=True, text=True, check=False).stdout
    assert re.search(r"today \d+ requests, [0-9.]+ MiB; this month \d+ requests", text), text


def test_a_drill_of_a_replica_that_acks(daemon, tmp_path):
    """What stands behind the URL is said to the daemon, and no part of the place."""
    one = daemon(replica=f"file://{tmp_path}/replica?ack=1", disk_floor=0)
    one.write(["CREATE TABLE t(a)"])
    assert drill(one)[0]["verdict"] == "pass"
    assert bill(one)["gets_month"] > 0 and bill(one)["url"] == f"file://{tmp_path}/replica"
