#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
What an outage of the store, and a reader that holds the WAL, do to those who write.

Writers in processes of their own append rows at a given rate. A reader keeps a transaction open for
--reader seconds; in the middle of it the line to the store (radosgw) is cut for --outage seconds. In the
end: how long a write took before, during and after the outage, how many failed, how soon the replica had
caught up, how large WAL and spool became, and whether a restore has every row.

    LITEFUNNEL_BIN=build/server/litefunnel tests/bench/outage.py --reader 1800 --outage 600
"""
import argparse
import contextlib
import multiprocessing
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import line as lines  # noqa: E402
import s3 as s3_support  # noqa: E402
from daemon import place_for_daemons  # noqa: E402
from wire import Wire  # noqa: E402

WRITERS, ROWS = 4, 25
PHASES = ("before", "reader", "outage", "after")
CAUGHT_UP_MS, PATIENCE_S = 2000, 600


def write(path, number, rate, phase, counted):
    """ROWS rows a request, at its own pace; a request that comes late counts from when it was due."""
    taken, errors, rows = {name: [] for name in PHASES}, 0, 0
    with Wire(path, timeout=120) as wire:
        wire.hello()
        due = time.monotonic()
        while phase.value >= 0:
            during = PHASES[phase.value]
            values = [[number, rows + i, "x" * 80] for i in range(ROWS)]
            error, _ = wire.ask("write", batch=[["INSERT INTO t VALUES (?, ?, ?)", values, {"many": True}]])
            taken[during].append(time.monotonic() - due)
            errors += error is not None
            rows += 0 if error else ROWS
            due += ROWS * WRITERS / rate
            time.sleep(max(due - time.monotonic(), 0))
    counted.put((taken, errors, rows))


class Watch:
    """A look at the daemon each half second, and what was largest."""

    def __init__(self, served):
        self.served, self.wire = served, served.wire(timeout=120)
        self.wal = self.spool = self.lag_ms = 0
        self.began = time.monotonic()
        self.seconds = 0.0

    def look(self):
        stats = dict(self.wire.call("show", what="stats")["rows"])
        shown = self.wire.call("show", what="replicas")
        replica = dict(zip(shown["columns"], shown["rows"][0]))
        self.seconds = time.monotonic() - self.began
        self.wal = max(self.wal, os.path.getsize(self.served.db + "-wal"))
        self.spool = max(self.spool, stats["ship_spool_bytes"])
        self.lag_ms = max(self.lag_ms, replica["lag_ms"])
        return replica

    def during(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            time.sleep(.5)


def run(served, line, args, phase):
    """The course of events; seconds until the replica had caught up."""
    watch = Watch(served)
    watch.during(args.before)
    reader = served.reader()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchall()
    ends = time.monotonic() + args.reader
    phase.value = PHASES.index("reader")
    watch.during(max(args.reader - args.outage, 0) / 2)
    phase.value = PHASES.index("outage")
    line.cut(silent=args.silent)
    watch.during(args.outage)
    line.mend()
    phase.value = PHASES.index("after")
    mended = time.monotonic()
    while watch.look()["lag_ms"] > CAUGHT_UP_MS and time.monotonic() < mended + PATIENCE_S:
        time.sleep(.1)
    caught_up = time.monotonic() - mended
    watch.during(max(ends - time.monotonic(), args.before))
    reader.close()
    phase.value = -1
    return caught_up, watch


def report(args, counted, caught_up, watch):
    for name in PHASES:
        taken = sorted(t for each, _, _ in counted for t in each[name])
        if taken:
            p50, p99 = (taken[min(int(len(taken) * share), len(taken) - 1)] * 1e3 for share in (.5, .99))
            print(f"{name:8} p50 {p50:7.2f} ms, p99 {p99:7.2f} ms, max {taken[-1] * 1e3:8.1f} ms, {len(taken)} writes")
    wrote = sum(rows for _, _, rows in counted)
    print(f"{wrote} rows, {wrote / watch.seconds:.0f}/s of the {args.rate:.0f}/s that were wanted, {sum(errors for _, errors, _ in counted)} errors;"
          f" reader {args.reader:.0f} s, outage {args.outage:.0f} s ({'silent' if args.silent else 'refused'})")
    print(f"lag under {CAUGHT_UP_MS / 1000:.0f} s {caught_up:.1f} s after the outage, {watch.lag_ms / 1000:.0f} s at most;"
          f" WAL {watch.wal / 2**20:.0f} MiB, spool {watch.spool / 2**20:.0f} MiB at most")


def count_restored(program, url, environment):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        subprocess.run([program, "restore", url, "-o", f"{directory}/out.db"], check=True,
                       stdout=subprocess.DEVNULL, env={**os.environ, **environment})
        db = sqlite3.connect(f"{directory}/out.db")
        rows = db.execute("SELECT count(*), count(DISTINCT writer << 40 | n) FROM t").fetchone()
        db.close()
        return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=5000, help="rows a second of all writers")
    parser.add_argument("--before", type=float, default=20, help="seconds without reader and outage")
    parser.add_argument("--reader", type=float, default=180)
    parser.add_argument("--outage", type=float, default=60)
    parser.add_argument("--silent", action="store_true", help="no answer, instead of a refusal")
    args = parser.parse_args()
    program = pathlib.Path(os.environ["LITEFUNNEL_BIN"]).resolve()
    context = multiprocessing.get_context("fork")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(s3_support.server())
        bucket = "outage-" + uuid.uuid4().hex[:12]
        server.make_bucket(bucket)
        line = stack.enter_context(lines.line(server.address))
        url = server.url(bucket, "p", line.endpoint)
        served = stack.enter_context(place_for_daemons(program))(replica=url, env=server.environment())
        served.write("CREATE TABLE t(writer, n, text)", ack="shipped", deadline_ms=60000)
        phase, queue = context.Value("i", 0), context.Queue()
        writers = [context.Process(target=write, args=(served.socket, number, args.rate, phase, queue))
                   for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        caught_up, watch = run(served, line, args, phase)
        counted = [queue.get() for _ in writers]
        for writer in writers:
            writer.join()
        report(args, counted, caught_up, watch)
        served.stop()
        rows = sum(rows for _, _, rows in counted)
        print(f"restored: {'all rows' if count_restored(program, url, server.environment()) == (rows, rows) else 'WRONG'}")


if __name__ == "__main__":
    main()
