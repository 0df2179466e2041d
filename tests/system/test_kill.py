# SPDX-License-Identifier: MIT
"""
SIGKILL of the daemon, again and again, under writers who resend by the rules: every row that was
acknowledged is there exactly once, and nothing is there that nobody sent.
"""
import multiprocessing
import os
import random
import time

from wire import Closed, Wire

WRITERS = 8


class Keyed:
    """The least of a client that keeps its promise: one session, resends of the same bytes."""

    def __init__(self, path, stop):
        self.path, self.stop = path, stop
        self.session = os.urandom(16)
        self.seq = self.done = 0
        self.wire = None
        self.repeats = self.resends = 0

    def write(self, batch):
        self.seq += 1
        sent = False
        while True:
            try:
                if self.wire is None:
                    self.wire = Wire(self.path, timeout=30)
                    self.wire.hello(session=self.session)
                self.resends += sent
                sent = True
                error, result = self.wire.ask("write", batch=batch, seq=self.seq, done=self.done)
            except (Closed, OSError):
                if self.wire is not None:
                    self.wire.close()
                self.wire = None
                time.sleep(0.002)
                continue
            if error is not None and error["retry"]:
                time.sleep(error.get("retry_after_ms", 5) / 1000)
                continue
            self.done = self.seq
            self.repeats += bool(result and result.get("repeat"))
            return error, result


def writer(path, number, stop, queue):
    client = Keyed(path, stop)
    acknowledged, failed = [], []
    rng = random.Random(number)
    n = 0
    while not stop.is_set():
        n += 1
        if rng.random() < 0.1:  # one that must fail, before and after a kill
            error, _ = client.write([["INSERT INTO t(w, n) VALUES (?, ?)", [number, n]],
                                     ["INSERT INTO t(id) VALUES (1)"]])
            assert error is not None and error["code"] == "sql", error
            failed.append(n)
        else:
            error, result = client.write([["INSERT INTO t(w, n) VALUES (?, ?) RETURNING id", [number, n]],
                                          ["UPDATE total SET n = n + 1 WHERE w = ?", [number]]])
            assert error is None, error
            rows = result["steps"][0].get("rows")
            acknowledged.append((n, rows[0][0] if rows else None, result["commit"]))
    queue.put((number, acknowledged, failed, client.resends, client.repeats))


def test_hundred_kills(daemon, slow, soak):
    served = daemon()
    served.write(["CREATE TABLE t(id INTEGER PRIMARY KEY, w, n); CREATE TABLE total(w PRIMARY KEY, n);"
                  "INSERT INTO t VALUES (1, -1, 0)", None, {"script": True}],
                 ["INSERT INTO total VALUES (?, 0)", [[w] for w in range(WRITERS)], {"many": True}])
    context = multiprocessing.get_context("fork")
    stop, queue = context.Event(), context.Queue()
    writers = [context.Process(target=writer, args=(served.socket, w, stop, queue), daemon=True)
               for w in range(WRITERS)]
    for process in writers:
        process.start()
    rng = random.Random(1)
    kills = 1000 if soak else 100 if slow == 1 else 20
    try:
        for _ in range(kills):
            time.sleep(rng.random() * 0.05 * slow)
            served.kill()
            served.start()
        time.sleep(0.1)
        stop.set()
        results = [queue.get(timeout=120) for _ in writers]
        for process in writers:
            process.join(60)
    finally:
        for process in writers:
            process.kill()

    rows = served.read("SELECT w, n, id FROM t WHERE w >= 0")
    there = {(w, n): id for w, n, id in rows}
    assert len(there) == len(rows), "a row is there twice"
    sent = 0
    for number, acknowledged, failed, _, _ in results:
        sent += len(acknowledged)
        for n, id, commit in acknowledged:
            assert (number, n) in there, f"lost: writer {number}, row {n}, commit {commit}"
            assert id is None or there[number, n] == id
        assert not [n for n in failed if (number, n) in there]
        commits = [commit for _, _, commit in acknowledged]
        assert commits == sorted(commits)
        assert served.read("SELECT n FROM total WHERE w = ?", number) == [(len(acknowledged),)]
    assert len(rows) == sent, "rows that nobody was told of"
    assert sum(resends for *_, resends, _ in results) > kills, "the kills hit nothing"
    assert sum(repeats for *_, repeats in results) > 0, "no answer was lost"
    assert served.read("PRAGMA integrity_check") == [("ok",)]
