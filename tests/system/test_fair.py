# SPDX-License-Identifier: MIT
"""Saturated by many processes, each gets its share, and nobody an error."""
import multiprocessing
import time

from wire import Wire

PROCESSES = 12


def saturate(path, number, begin, seconds, queue):
    took = []
    with Wire(path, timeout=60) as wire:
        wire.hello(label=f"process {number}")
        queue.put("up")
        begin.wait()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            wire.write(["INSERT INTO t(w, b) VALUES (?, ?)", [number, "x" * 100]])
            took.append(time.monotonic() - began)
    queue.put((number, took))


def test_shares_of_twelve(daemon, soak, slow):
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, w, b)")
    context = multiprocessing.get_context("fork")
    begin, queue = context.Event(), context.Queue()
    processes = [context.Process(target=saturate, args=(served.socket, n, begin, 30 if soak else 5, queue),
                                 daemon=True) for n in range(PROCESSES)]
    for process in processes:
        process.start()
    try:
        assert [queue.get(timeout=60) for _ in processes] == ["up"] * PROCESSES
        begin.set()
        results = dict(queue.get(timeout=120) for _ in processes)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    counts = [len(results[n]) for n in range(PROCESSES)]
    assert served.read("SELECT w, count(*) FROM t GROUP BY w") == list(enumerate(counts))
    mean = sum(counts) / PROCESSES
    everything = sorted(t for took in results.values() for t in took)
    print(f"{sum(counts)} writes, p50 {everything[len(everything) // 2] * 1e3:.2f} ms, "
          f"p99.9 {everything[len(everything) * 999 // 1000] * 1e3:.2f} ms, "
          f"max {everything[-1] * 1e3:.2f} ms, shares {min(counts) / mean:.3f} to {max(counts) / mean:.3f}")
    assert all(0.9 * mean <= count <= 1.1 * mean for count in counts), counts
