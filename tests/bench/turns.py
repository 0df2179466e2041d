#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a flood of bulk batches costs an interactive client: it writes at a steady rate, at first alone, then
beside a process that sends batches of the class bulk as fast as they are taken. Prints the latencies of
both stages and their difference.

    turns.py PROGRAM [--batches 100000] [--rate 50] [--seconds 10] [--json]
"""
import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from wire import Wire  # noqa: E402

INSERT = "INSERT INTO t(w, b) VALUES (?, ?)"
TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, w, b)"
IN_FLIGHT = 1000


def flood(path, batches, begun):
    batch = [[INSERT, ["bulk", "x" * 100]]]
    with Wire(path, timeout=120) as wire:
        wire.hello(class_="bulk", label="flood")
        ids = [wire.request("write", batch=batch) for _ in range(min(IN_FLIGHT, batches))]
        begun.set()
        for sent in range(len(ids), batches + len(ids)):
            error, _ = wire.reply(ids.pop(0))
            assert error is None, error
            if sent < batches:
                ids.append(wire.request("write", batch=batch))


def steady(wire, rate, goes_on):
    """Milliseconds that each write took, counted from when it was due: nobody's delay is left out."""
    took, due = [], time.monotonic()
    while goes_on():
        time.sleep(max(due - time.monotonic(), 0))
        wire.call("write", batch=[[INSERT, ["interactive", "x" * 100]]])
        took.append((time.monotonic() - due) * 1e3)
        due += 1 / rate
    return sorted(took)


def figures(took):
    at = lambda part: round(took[min(int(len(took) * part), len(took) - 1)], 3)  # noqa: E731
    return {"writes": len(took), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("program")
    parser.add_argument("--batches", type=int, default=100000)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        db = f"{place}/app.db"
        daemon = subprocess.Popen([options.program, "serve", db, "--create"], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert daemon.stdout.readline().startswith("ready")
            wire = Wire(f"{db}-funnel", timeout=60)
            wire.hello(class_="interactive", label="steady")
            wire.call("write", batch=[[TABLE]])
            until = time.monotonic() + options.seconds
            alone = figures(steady(wire, options.rate, lambda: time.monotonic() < until))
            begun = multiprocessing.Event()
            process = multiprocessing.Process(target=flood, args=(wire.socket.getpeername(),
                                                                  options.batches, begun))
            process.start()
            begun.wait()
            beside = figures(steady(wire, options.rate, process.is_alive))
            process.join()
            assert process.exitcode == 0
        finally:
            daemon.terminate()
            daemon.wait()
    result = {"alone": alone, "beside": beside,
              "p99_added_ms": round(beside["p99_ms"] - alone["p99_ms"], 3)}
    if options.json:
        print(json.dumps(result))
        return
    for stage in ("alone", "beside"):
        print(f"{stage:7}", ", ".join(f"{name} {value}" for name, value in result[stage].items()))
    print(f"p99 added: {result['p99_added_ms']} ms")


if __name__ == "__main__":
    main()
