#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Twelve processes write one small transaction after another, as fast as they can: through the funnel,
and to plain SQLite (WAL, synchronous FULL, busy_timeout 5000, BEGIN IMMEDIATE). Prints throughput, how
long a write took, errors, and how evenly the processes were served.

    fair.py PROGRAM [--processes 12] [--seconds 30] [--rounds 1]
"""
import argparse
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from wire import Wire  # noqa: E402

INSERT = "INSERT INTO t(w, b) VALUES (?, ?)"
TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, w, b)"
ROW_BYTES = 100


class Funnel:
    """One connection, exactly-once on: every write carries its number in a session."""

    def __init__(self, path):
        self.wire = Wire(path + "-funnel", timeout=60)
        self.wire.hello(session=os.urandom(16))
        self.seq = 0

    def write(self, values):
        self.seq += 1
        self.wire.call("write", batch=[[INSERT, values]], seq=self.seq, done=self.seq - 1)


class Direct:
    def __init__(self, path):
        self.handle = sqlite3.connect(path, timeout=5, isolation_level=None)
        self.handle.execute("PRAGMA synchronous = FULL")

    def write(self, values):
        self.handle.execute("BEGIN IMMEDIATE")
        self.handle.execute(INSERT, values)
        self.handle.execute("COMMIT")


def work(mode, path, number, begin, seconds, results):
    client, took, errors = mode(path), [], 0
    values = [number, "x" * ROW_BYTES]
    begin.wait()
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        try:
            client.write(values)
            took.append(time.monotonic() - began)
        except sqlite3.OperationalError:
            errors += 1
    results.put((len(took), errors, took))


def saturate(mode, path, processes, seconds):
    context = multiprocessing.get_context("fork")
    begin, results = context.Event(), context.Queue()
    workers = [context.Process(target=work, args=(mode, path, n, begin, seconds, results))
               for n in range(processes)]
    for worker in workers:
        worker.start()
    time.sleep(0.5)  # all are connected
    begin.set()
    answers = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    counts = [count for count, _, _ in answers]
    took = sorted(t for _, _, all_took in answers for t in all_took)
    mean = sum(counts) / processes
    return (f"{sum(counts) / seconds:9,.0f}/s  p50 {took[len(took) // 2] * 1e3:7.2f} ms  "
            f"p99.9 {took[len(took) * 999 // 1000] * 1e3:8.2f} ms  max {took[-1] * 1e3:8.2f} ms  "
            f"shares {min(counts) / mean:.2f} to {max(counts) / mean:.2f}  "
            f"errors {sum(errors for _, errors, _ in answers)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            path = f"{directory}/app.db"
            daemon = subprocess.Popen([options.program, "serve", path, "--create"],
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert daemon.stdout.readline().startswith(b"ready")
            with Wire(path + "-funnel") as wire:
                wire.hello()
                wire.write(TABLE)
            print("funnel ", saturate(Funnel, path, options.processes, options.seconds), flush=True)
            daemon.terminate()
            assert daemon.wait() == 0
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            path = f"{directory}/app.db"
            with sqlite3.connect(path) as handle:
                handle.execute("PRAGMA journal_mode = WAL")
                handle.execute(TABLE)
            print("direct ", saturate(Direct, path, options.processes, options.seconds), flush=True)


if __name__ == "__main__":
    main()
