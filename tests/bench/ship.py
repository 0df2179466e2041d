#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
What shipping gives, and what it costs: with a real S3 server (radosgw) beside the daemon.

How long from a commit to the moment at which it is durable in the store, with the defaults and with
ack: "shipped"; and what the replica costs the writers, as a ratio of runs with it and without it in turn:
eight durable writers of depth 1, and both processors saturated by appending in bulk. The server of the
store runs on the same machine and takes part of it: --file ships into a directory instead.

    LITEFUNNEL_BIN=build/server/litefunnel tests/bench/ship.py --rounds 5 --seconds 5
"""
import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import s3 as s3_support  # noqa: E402
from daemon import place_for_daemons  # noqa: E402

LOADS = (
    ("8 writers, depth 1", 10, ["--writers", "8"]),
    ("appending in bulk", 35, ["--writers", "2", "--depth", "4", "--rows", "100"]),
)


def at(values, share):
    values = sorted(values)
    return values[min(int(len(values) * share), len(values) - 1)]


def show(what, seconds):
    print(f"{what:32} p50 {at(seconds, .5) * 1e3:7.1f} ms, p99 {at(seconds, .99) * 1e3:7.1f} ms,"
          f" max {max(seconds) * 1e3:7.1f} ms, {len(seconds)} commits", flush=True)


def watch(served, seen, stop):
    """When the replica was first seen to hold each commit: it errs to the late side, by a round trip."""
    with served.wire() as wire:
        known = 0
        while not stop.is_set() or known < stop.last:
            shown = wire.call("show", what="replicas")
            commit = dict(zip(shown["columns"], shown["rows"][0]))["commit"]
            now = time.monotonic()
            seen.update((number, now) for number in range(known + 1, commit + 1))
            known = max(known, commit)
            time.sleep(.002)


def delay(make, replica, environment, ack, rate, seconds):
    """Of each commit: from its answer (sending, if the answer waits for the store) until it is durable there."""
    served = make(replica=replica, env=environment)
    served.write("CREATE TABLE t(a, b)", ack="shipped", deadline_ms=60000)
    taken, seen, stop = {}, {}, threading.Event()
    watcher = threading.Thread(target=watch, args=(served, seen, stop))
    if ack == "committed":
        watcher.start()
    with served.wire(timeout=60) as wire:
        until = time.monotonic() + seconds
        while (sent := time.monotonic()) < until:
            commit = wire.write(["INSERT INTO t VALUES (?, randomblob(100))", [sent]], ack=ack,
                                deadline_ms=60000)["commit"]
            answered = time.monotonic()
            taken[commit] = answered if ack == "committed" else answered - sent
            time.sleep(max(sent + 1 / rate - answered, 0))
    if ack == "committed":
        stop.last = max(taken)
        stop.set()
        watcher.join()
        taken = {commit: seen[commit] - answered for commit, answered in taken.items()}
    served.stop()
    return list(taken.values())


def rows_a_second(program, load, seconds, replica, environment):
    settings = ["--set", f"replica={replica}"] if replica else []
    done = subprocess.run([program, "bench", "--json", "--seconds", str(seconds), *load, *settings],
                          stdout=subprocess.PIPE, env={**os.environ, **environment}, check=True)
    writes = json.loads(done.stdout)["runs"][0]["writes"]
    return writes["rows_s"], writes["latency_ms"]["p99"]


def cost(program, new_replica, environment, args):
    for name, limit, load in LOADS:
        pairs = []
        for number in range(args.rounds):
            results = {}
            for shipped in ((False, True), (True, False))[number % 2]:
                results[shipped] = rows_a_second(program, load, args.seconds, new_replica() if shipped else None,
                                                 environment)
            pairs.append((results[False], results[True]))
        ratios = [with_it[0] / without[0] for without, with_it in pairs]
        medians = [statistics.median(pair[i][j] for pair in pairs) for j in (0, 1) for i in (0, 1)]
        print(f"{name:32} {medians[0]:9.0f} rows/s without, {medians[1]:9.0f} with: "
              f"{100 * (1 - statistics.median(ratios)):5.1f} % less (wanted: at most {limit} %), "
              f"rounds {', '.join(f'{100 * (1 - r):.1f}' for r in ratios)}; "
              f"p99 {medians[2]:.2f} and {medians[3]:.2f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, default=50, help="commits a second while delays are measured")
    parser.add_argument("--file", action="store_true", help="ship into a directory")
    parser.add_argument("--only", choices=("delay", "cost"))
    args = parser.parse_args()
    program = pathlib.Path(os.environ["LITEFUNNEL_BIN"]).resolve()
    with contextlib.ExitStack() as stack:
        if args.file:
            root, environment = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")), {}

            def new_replica():
                return f"file://{root}/{uuid.uuid4().hex}"
        else:
            server = stack.enter_context(s3_support.server())
            bucket, environment = "bench-" + uuid.uuid4().hex[:12], server.environment()
            server.make_bucket(bucket)

            def new_replica():
                return server.url(bucket, uuid.uuid4().hex)
        print(f"into {'a directory' if args.file else 'radosgw'}; load of the machine before: {os.getloadavg()[0]:.1f}")
        if args.only != "cost":
            make = stack.enter_context(place_for_daemons(program))
            seconds = args.rounds * args.seconds
            show("commit to durable, defaults", delay(make, new_replica(), environment, "committed", args.rate, seconds))
            show("ack: shipped", delay(make, new_replica(), environment, "shipped", args.rate, seconds))
        if args.only != "delay":
            cost(program, new_replica, environment, args)


if __name__ == "__main__":
    main()
