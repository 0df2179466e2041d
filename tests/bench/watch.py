#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
How long after a commit a watcher knows of it.

Writers in processes of their own commit at a given rate, or as fast as they can; watchers, in processes
of their own, note when each notice arrives. Two figures: from the moment the writer sent its batch (an
upper bound, the fsync included), and from the moment it had its answer (below zero: the watcher knew
first).

    LITEFUNNEL_BIN=build/server/litefunnel tests/bench/watch.py --seconds 10 --writers 2 --rate 100
"""
import argparse
import multiprocessing
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from daemon import place_for_daemons  # noqa: E402
from wire import Wire  # noqa: E402


def write(path, rate, seconds, queue):
    times = {}
    with Wire(path) as wire:
        wire.hello()
        until = time.monotonic() + seconds
        while (sent := time.monotonic()) < until:
            commit = wire.write("UPDATE t SET a = a + 1 WHERE id = 1")["commit"]
            times.setdefault(commit, (sent, time.monotonic()))
            if rate:
                time.sleep(max(sent + 1 / rate - time.monotonic(), 0))
    queue.put(times)


def watch(path, ready, last, queue):
    times = {}
    with Wire(path) as wire:
        wire.hello()
        wire.call("watch", tables=["t"])
        ready.release()
        while True:
            method, notice = wire.next_notice(timeout=60)
            now = time.monotonic()
            assert method == "commit", notice
            times[notice["commit"]] = now
            if last.value and notice["commit"] >= last.value:
                break
    queue.put(times)


def show(what, seconds):
    seconds.sort()
    at = [seconds[min(int(len(seconds) * share), len(seconds) - 1)] * 1e3 for share in (0.5, 0.99, 0.999)]
    print(f"{what}: p50 {at[0]:.3f} ms, p99 {at[1]:.3f} ms, p99.9 {at[2]:.3f} ms, max {seconds[-1] * 1e3:.3f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--watchers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100, help="commits a second of each writer; 0: saturated")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    with place_for_daemons(os.environ["LITEFUNNEL_BIN"]) as make:
        served = make()
        served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", "INSERT INTO t VALUES (1, 0)")
        written, seen, ready = context.Queue(), context.Queue(), context.Semaphore(0)
        last = context.Value("L", 0)
        watchers = [context.Process(target=watch, args=(served.socket, ready, last, seen))
                    for _ in range(options.watchers)]
        for process in watchers:
            process.start()
        for _ in watchers:
            ready.acquire()
        writers = [context.Process(target=write, args=(served.socket, options.rate, options.seconds, written))
                   for _ in range(options.writers)]
        for process in writers:
            process.start()
        times = [written.get() for _ in writers]
        last.value = max(max(one) for one in times)
        served.write("UPDATE t SET a = 0")
        notices = [seen.get() for _ in watchers]
        for process in (*writers, *watchers):
            process.join()
        pairs = [(sent, answered, told[commit]) for told in notices for one in times
                 for commit, (sent, answered) in one.items()]
        print(f"{len(pairs)} commits told")
        show("from sending", [told - sent for sent, _, told in pairs])
        show("from the answer", [told - answered for _, answered, told in pairs])


if __name__ == "__main__":
    main()
