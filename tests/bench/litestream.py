#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
litefunnel beside Litestream 0.3.13, the newest program of it that npm has (2023), into a directory.

Litestream: processes with their own handles, as it recommends (WAL, busy_timeout 5000, synchronous NORMAL,
wal_autocheckpoint 0), and the sidecar with its defaults, or with both intervals at 100 ms. litefunnel: the
same writers through a daemon with --sync normal, with its defaults, or with ship_linger 10ms.

  lag        from a commit at a random moment to the file in the replica that must hold it
  writers    commits a second of --writers processes as fast as they go, with replication and without
  WAL        how large it was at most meanwhile, and the processor time of what ships
  restore    of what they wrote
  BUSY       errors of one writer of --rate commits a second that does not wait for locks (timeout 0)

    LITEFUNNEL_BIN=build/server/litefunnel tests/bench/litestream.py --rounds 3 --seconds 10
"""
import argparse
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import litestream  # noqa: E402
from daemon import TICKS, Daemon  # noqa: E402

TABLE = "CREATE TABLE t(a INTEGER PRIMARY KEY, b)"
INSERT = "INSERT INTO t(b) VALUES (?)"
ROW = "x" * 1000


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Litestream:
    """Plain SQLite; with an interval, the sidecar beside it."""
    name = "Litestream 0.3.13"

    def __init__(self, place, interval):
        self.db, self.replica, self.sidecar = f"{place}/app.db", pathlib.Path(place) / "replica", None
        self.handle(5000).execute(TABLE)
        if interval:
            config = pathlib.Path(place) / "litestream.yml"
            config.write_text(f"dbs:\n  - path: {self.db}\n    monitor-interval: {interval}\n    replicas:\n"
                              f"      - type: file\n        path: {self.replica}\n        sync-interval: {interval}\n",
                              encoding="ascii")
            self.sidecar = subprocess.Popen([litestream.program_of_old(), "replicate", "-config", config],
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def handle(self, timeout_ms):
        db = sqlite3.connect(self.db, timeout=timeout_ms / 1000, isolation_level=None)
        db.execute("PRAGMA journal_mode = wal")
        db.execute("PRAGMA synchronous = normal")
        if self.replica.exists() or self.sidecar:
            db.execute("PRAGMA wal_autocheckpoint = 0")
        return db

    def writer(self, timeout_ms=5000):
        db = self.handle(timeout_ms)
        return lambda: db.execute(INSERT, [ROW])

    def shipper_cpu_s(self):
        return cpu_s(self.sidecar.pid) if self.sidecar else 0

    def stop(self):
        if self.sidecar:
            self.sidecar.send_signal(signal.SIGINT)
            self.sidecar.wait()

    def restore(self, out):
        return [litestream.program_of_old(), "restore", "-o", out, f"file://{self.replica}"]


class Funnel:
    name = "litefunnel"

    def __init__(self, place, linger):
        self.replica = pathlib.Path(place) / "replica"
        shipped = {"replica": f"file://{self.replica}", "ship_linger": linger} if linger else {}
        os.chmod(place, 0o750)
        self.program = os.environ["LITEFUNNEL_BIN"]
        self.served = Daemon(self.program, f"{place}/app.db", sync="normal", **shipped).start()
        self.db = self.served.db
        self.served.write([TABLE], **({"ack": "shipped"} if linger else {}))

    def writer(self, timeout_ms=5000):
        wire = self.served.wire(timeout=60)
        return lambda: wire.write([INSERT, [ROW]])

    def shipper_cpu_s(self):
        pid = self.served.child("shipper")
        return cpu_s(pid) if pid else 0

    def stop(self):
        self.served.stop()

    def restore(self, out):
        return [self.program, "restore", f"file://{self.replica}", "-o", out]


def new(kind, interval):
    return kind(tempfile.mkdtemp(prefix="beside-", dir="/var/tmp"), interval)


def remove(one):
    one.stop()
    shutil.rmtree(os.path.dirname(one.db))


def files(replica):
    return {path for suffix in ("*.ltx", "*.wal.lz4") for path in replica.rglob(suffix)}


def lag(kind, interval, commits):
    """Alone on the replica: whatever appears in it after a commit is of that commit."""
    one, taken = new(kind, interval), []
    write = one.writer()
    write()
    while not files(one.replica):
        time.sleep(.01)
    for _ in range(commits):
        time.sleep(random.uniform(1.2, 2.2))  # what went before is shipped, and the moment is any
        known = files(one.replica)
        write()
        began = time.monotonic()
        while not files(one.replica) - known:
            time.sleep(.001)
        taken.append(time.monotonic() - began)
    remove(one)
    return sorted(taken)


def hammer(one, seconds, rate, timeout_ms, queue):
    write, done, busy = one.writer(timeout_ms), 0, 0
    began = due = time.monotonic()
    while due < began + seconds:
        try:
            write()
            done += 1
        except sqlite3.OperationalError:
            busy += 1
        due = due + 1 / rate if rate else time.monotonic()
        time.sleep(max(due - time.monotonic(), 0) if rate else 0)
    queue.put((done / (time.monotonic() - began), busy, done))


def load(kind, interval, writers, seconds, rate=0, timeout_ms=5000):
    """Commits a second, errors, bytes of the WAL, processor seconds of the shipper, seconds of the restore."""
    one, queue = new(kind, interval), multiprocessing.Queue()
    processes = [multiprocessing.Process(target=hammer, args=(one, seconds, rate, timeout_ms, queue))
                 for _ in range(writers)]
    before, wal = one.shipper_cpu_s(), 0
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes) and queue.qsize() < writers:
        wal = max(wal, os.path.getsize(one.db + "-wal"))
        time.sleep(.05)
    counted = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    used = one.shipper_cpu_s() - before
    one.stop()
    restored = 0.0
    if interval:
        out = f"{os.path.dirname(one.db)}/out.db"
        began = time.monotonic()
        subprocess.run(one.restore(out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        restored = time.monotonic() - began
        rows = sqlite3.connect(out).execute("SELECT count(*) FROM t").fetchone()[0]
        assert rows == sum(done for _, _, done in counted), f"{kind.name}: {rows} rows restored of {counted}"
    shutil.rmtree(os.path.dirname(one.db))
    return sum(rate for rate, _, _ in counted), sum(busy for _, busy, _ in counted), wal, used, restored


def beside(kind, interval, label, args):
    print(f"{kind.name}, {label}")
    taken = lag(kind, interval, args.commits)
    print(f"  lag      p50 {statistics.median(taken) * 1e3:.0f} ms, p99 {taken[int(len(taken) * .99)] * 1e3:.0f} ms,"
          f" {len(taken)} commits", flush=True)
    rounds = [(load(kind, None, args.writers, args.seconds), load(kind, interval, args.writers, args.seconds))
              for _ in range(args.rounds)]
    alone, shipped = (statistics.median(pair[i][0] for pair in rounds) for i in (0, 1))
    ratio = statistics.median(with_it[0] / without[0] for without, with_it in rounds)
    most = max(with_it[2] for _, with_it in rounds) / 2**20
    print(f"  writers  {alone:.0f} commits/s without, {shipped:.0f} with: {100 * (1 - ratio):.1f} % less")
    print(f"  WAL      {most:.1f} MiB at most ({max(w[2] for w, _ in rounds) / 2**20:.1f} without),"
          f" {statistics.median(w[3] for _, w in rounds) / args.seconds * 100:.1f} % of a processor ships")
    print(f"  restore  {statistics.median(w[4] for _, w in rounds):.2f} s", flush=True)
    paced = load(kind, interval, 1, args.seconds, args.rate, 0)
    print(f"  BUSY     {paced[1]} of {paced[0] * args.seconds:.0f} commits at {args.rate:.0f}/s, WAL {paced[2] / 2**20:.1f} MiB",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--commits", type=int, default=20, help="for the lag")
    args = parser.parse_args()
    if litestream.program_of_old() is None:
        return 1
    for kind, interval, label in ((Litestream, "1s", "defaults"), (Litestream, "100ms", "intervals of 100 ms"),
                                  (Funnel, "500ms", "defaults"), (Funnel, "10ms", "ship_linger 10ms")):
        beside(kind, interval, label, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
