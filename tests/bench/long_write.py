#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
What a long write does to everybody else, and they to it.

A table of --rows rows is updated as a chunk (with --delete: deleted, each time another table), and a file of
--import-rows lines is imported: alone, beside three writers of 50 commits a second each, and beside three
that write as fast as they can. Beside that, the same on plain SQLite: in one transaction, and cut by hand.
Latency is what a writer waits for its answer; durable everywhere.

    LITEFUNNEL_BIN=build/server/litefunnel tests/bench/long_write.py --rows 10000000 --import-rows 4000000
"""
import argparse
import multiprocessing
import os
import pathlib
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from daemon import place_for_daemons  # noqa: E402
from wire import Wire  # noqa: E402

WRITERS = 3
UPDATE, DELETE = "UPDATE {table} SET n = n + 1", "DELETE FROM {table}"
TABLES = ("big", "big1", "big2")


def fill(path, rows, tables):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = wal")
    db.execute("CREATE TABLE small(id INTEGER PRIMARY KEY, at REAL)")
    db.execute("CREATE TABLE loaded(id INTEGER, s TEXT, x REAL)")
    for table in tables:
        db.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, n INTEGER, s TEXT)")
        db.execute("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?) INSERT"
                   f" INTO {table} SELECT i, i, printf('%080d', i) FROM c", [rows])
    db.execute("PRAGMA wal_checkpoint(truncate)")
    db.close()


def through_the_funnel(path, rate, stop, queue):
    taken, errors = [], 0
    with Wire(path, timeout=120) as wire:
        wire.hello(**{"class": "interactive"})
        while not stop.is_set():
            began = time.monotonic()
            error, _ = wire.ask("write", batch=[["INSERT INTO small(at) VALUES (?)", [began]]])
            taken.append(time.monotonic() - began)
            errors += error is not None
            if rate:
                time.sleep(max(began + 1 / rate - time.monotonic(), 0))
    queue.put((taken, errors))


def plainly(path, rate, stop, queue):
    taken, errors = [], 0
    db = sqlite3.connect(path, timeout=5, isolation_level=None)
    db.execute("PRAGMA synchronous = full")
    while not stop.is_set():
        began = time.monotonic()
        try:
            db.execute("INSERT INTO small(at) VALUES (?)", [began])
        except sqlite3.OperationalError:
            errors += 1
        taken.append(time.monotonic() - began)
        if rate:
            time.sleep(max(began + 1 / rate - time.monotonic(), 0))
    queue.put((taken, errors))


def beside(writer, path, rate, work):
    """Seconds of the work, and what the writers beside it met."""
    queue, stop = multiprocessing.Queue(), multiprocessing.Event()
    writers = [multiprocessing.Process(target=writer, args=(path, rate, stop, queue))
               for _ in range(WRITERS if rate is not None else 0)]
    for each in writers:
        each.start()
    time.sleep(0.3 if writers else 0)
    began = time.monotonic()
    work()
    seconds = time.monotonic() - began
    stop.set()
    met = [queue.get() for _ in writers]
    for each in writers:
        each.join()
    return seconds, sorted(t for taken, _ in met for t in taken), sum(e for _, e in met)


def show(what, seconds, taken, errors, alone=None):
    line = f"{what:44} {seconds:7.1f} s"
    if alone:
        line += f" ({seconds / alone:.2f} x alone)"
    if taken:
        p50, p99 = (taken[min(int(len(taken) * s), len(taken) - 1)] * 1e3 for s in (0.5, 0.99))
        line += (f"; writers {len(taken) / seconds:.0f}/s, p50 {p50:.2f} ms, p99 {p99:.1f} ms,"
                 f" max {taken[-1] * 1e3:.1f} ms, {errors} errors")
    print(line, flush=True)


BESIDE = ((None, "alone"), (50, "beside 3 x 50/s"), (0, "beside 3 that write at will"))


def chunks(served, statement, tables):
    alone = None
    for number, (rate, what) in enumerate(BESIDE):
        def work(name=f"work {number}", sql=statement.format(table=tables[number % len(tables)])):
            with served.wire(timeout=3600) as wire:
                wire.call("chunk", sql=sql, name=name)
                end = wire.call("chunk_ctl", chunk=name, op="wait", timeout=3600)
                assert end["state"] == "done", end
                work.facts = end
        seconds, taken, errors = beside(through_the_funnel, served.socket, rate, work)
        alone = alone or seconds
        show(f"chunk, {what}", seconds, taken, errors, alone if rate is not None else None)
        print(f"    {work.facts['rows'] / seconds:.0f} rows/s, {work.facts['slices']} slices,"
              f" {work.facts['busy_us'] / seconds / 1e4:.0f} % of the writer's time")


def imports(served, program, rows, place):
    alone = None
    file = f"{place}/rows.csv"
    with open(file, "w", encoding="utf-8") as out:
        for i in range(rows):
            out.write(f"{i},text of row {i} and some more,{i}.5\n")
    for number, (rate, what) in enumerate(BESIDE):
        def work(name=f"import {number}"):
            subprocess.run([program, "import", served.db, "loaded", file, "--name", name],
                           check=True, stdout=subprocess.DEVNULL)
        seconds, taken, errors = beside(through_the_funnel, served.socket, rate, work)
        alone = alone or seconds
        show(f"import, {what}", seconds, taken, errors, alone if rate is not None else None)
        print(f"    {rows / seconds:.0f} rows/s")


def plain(path, rows, statement, tables):
    def one_transaction():
        db = sqlite3.connect(path, timeout=60, isolation_level=None)
        db.execute("PRAGMA synchronous = full")
        db.execute("BEGIN IMMEDIATE")
        db.execute(statement.format(table=tables[0]))
        db.execute("COMMIT")

    def by_hand():
        db = sqlite3.connect(path, timeout=60, isolation_level=None)
        db.execute("PRAGMA synchronous = full")
        for first in range(1, rows + 1, 10_000):
            db.execute(statement.format(table=tables[-1]) + " WHERE id BETWEEN ? AND ?",
                       [first, first + 9_999])

    for work, how in ((one_transaction, "one transaction"), (by_hand, "10000 rows a transaction")):
        show(f"plain SQLite, {how}, {BESIDE[1][1]}", *beside(plainly, path, 50, work))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--import-rows", type=int, default=400_000)
    parser.add_argument("--delete", action="store_true", help="delete the rows instead of updating them")
    args = parser.parse_args()
    program = os.environ["LITEFUNNEL_BIN"]
    statement, tables = (DELETE, TABLES) if args.delete else (UPDATE, TABLES[:1])
    with place_for_daemons(pathlib.Path(program).resolve()) as make:
        served = make(start=False)
        fill(served.db, args.rows, tables)
        served.start()
        chunks(served, statement, tables)
        imports(served, program, args.import_rows, os.path.dirname(served.db))
        served.stop()
        beside_it = f"{os.path.dirname(served.db)}/plain.db"
        fill(beside_it, args.rows, tables[:2])
        plain(beside_it, args.rows, statement, tables[:2])


if __name__ == "__main__":
    main()
