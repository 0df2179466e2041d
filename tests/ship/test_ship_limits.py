# SPDX-License-Identifier: MIT
"""What shipping may cost: memory that does not grow with what is shipped."""
import pathlib

import pytest

from daemon import sanitizer, wait_for
from test_drills import shipper_of

MIB = 1 << 20


def peak_rss(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_a_part_of_a_large_transaction_needs_no_memory_of_its_size(litefunnel, daemon, tmp_path, soak):
    """128 MiB (--soak: 1 GiB) in one transaction, secured before a segment is due, and then shipped."""
    if sanitizer(str(litefunnel)):
        pytest.skip("a sanitizer's memory is not ours")
    mib, peak_max = (1024, 64) if soak else (128, 40)
    one = daemon(replica=f"file://{tmp_path}/replica", disk_floor=0, ship_linger="1h")
    with one.wire(timeout=600) as wire:
        one.write(["CREATE TABLE t(a)"])
        wire.call("sync")
        pid = shipper_of(one)
        commit = wire.call("write", deadline_ms=500_000, batch=[[
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO t SELECT zeroblob(65000) FROM n", [mib * 16]]])["commit"]
        assert one.stats()["wal_bytes"] > mib * MIB * 0.9

        def secured():
            wire.call("checkpoint")
            return one.stats()["ship_spooled_commit"] >= commit
        wait_for(secured, "it stands in a part", 300)
        assert peak_rss(pid) < peak_max * MIB
        wire.call("sync", deadline_ms=500_000)
    assert shipper_of(one) == pid
    assert peak_rss(pid) < peak_max * MIB
