#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
How fast a database comes back: `restore` from a replica beside `cp` of the same database and an fsync, in
turn, and the memory that it takes. The daemon writes --gib of rows (half of each is random, half repeats) and
ships them; then it is stopped. --s3 restores from radosgw, which runs on the same machine and takes part of it.

    LITEFUNNEL_BIN=build/server/litefunnel tests/bench/restore.py --gib 2 --rounds 3
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import s3 as s3_support  # noqa: E402
from daemon import place_for_daemons  # noqa: E402

CHUNK_MIB = 16
ROW = "hex(randomblob(500)) || printf('%.1000c', 'x')"  # 2000 bytes
FILL = f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CHUNK_MIB << 20} / 2000)
INSERT INTO t(body) SELECT {ROW} FROM n"""


def fill(served, gib):
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)")
    with served.wire(timeout=600) as wire:
        for _ in range(int(gib * 1024 / CHUNK_MIB)):
            wire.write([FILL], deadline_ms=600_000)
        wire.write(["INSERT INTO t(body) VALUES ('the last')"], ack="shipped", deadline_ms=600_000)


def content(path):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as handle:
        return handle.execute("SELECT count(*), sum(unicode(substr(body, id % 1000 + 1))) FROM t").fetchone()


def timed(command, environment=None):
    """Seconds, and the greatest memory of the process in MiB."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return time.monotonic() - began, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    program = os.environ["LITEFUNNEL_BIN"]
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))
        environment = dict(os.environ)
        if options.s3:
            server = stack.enter_context(s3_support.server())
            environment.update(server.environment())
            bucket = f"restore-{uuid.uuid4().hex}"
            server.make_bucket(bucket)
            replica = server.url(bucket, "app")
        else:
            replica = f"file://{place}/replica"
        make = stack.enter_context(place_for_daemons(program))
        served = make(replica=replica, env=environment)
        fill(served, options.gib)
        served.stop()
        database = f"{place}/copied.db"
        with contextlib.closing(sqlite3.connect(served.db)) as handle:
            handle.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(served.db, database)
        ratios, memory = [], []
        for _ in range(options.rounds):
            copied, restored = f"{place}/cp.db", f"{place}/restored.db"
            copy_s, _ = timed(["sh", "-c", 'cp --reflink=never "$1" "$2" && sync "$2"', "sh", database, copied])
            restore_s, mib = timed([program, "restore", replica, "-o", restored], environment)
            assert content(restored) == content(served.db)
            ratios.append(copy_s / restore_s)
            memory.append(mib)
            print(f"cp and fsync {copy_s:6.2f} s, restore {restore_s:6.2f} s: {ratios[-1]:.2f} of its speed, "
                  f"{mib:.0f} MiB", flush=True)
            for path in (copied, restored, f"{restored}-wal", f"{restored}-shm"):
                pathlib.Path(path).unlink(missing_ok=True)
        size = os.path.getsize(database) / (1 << 30)
        print(f"{size:.2f} GiB: restore has {statistics.median(ratios):.2f} of the speed of cp and fsync "
              f"({min(ratios):.2f} to {max(ratios):.2f}; wanted: 0.50), {max(memory):.0f} MiB at most (wanted: 128)")


if __name__ == "__main__":
    main()
