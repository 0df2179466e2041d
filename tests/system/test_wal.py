# SPDX-License-Identifier: MIT
"""A WAL that a reader has held back for long: it is copied in parts, and nobody waits for all of it."""
import os
import threading

from daemon import wait_for

ROWS, ROUNDS = 4_000, 5
MANY = (f"INSERT INTO t(b) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
        " SELECT randomblob(3000) FROM n")


class Onlooker(threading.Thread):
    """Reads in one transaction after the other what must be equal in each."""

    def __init__(self, served):
        super().__init__()
        self.served, self.stop, self.looks, self.wrong = served, False, 0, []

    def run(self):
        reader = self.served.reader()
        while not self.stop:
            (counted, rows), = reader.execute("SELECT n, (SELECT count(*) FROM t) FROM counted").fetchall()
            if counted != rows:
                self.wrong.append((counted, rows))
            self.looks += 1
        reader.close()


def grown(daemon, **settings):
    """A daemon whose WAL has grown behind a reader, who has just left."""
    served = daemon(**settings)
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, b)", "CREATE TABLE counted(n)", "INSERT INTO counted VALUES (0)")
    reader = served.reader()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchall()
    with served.wire(timeout=120) as wire:
        for _ in range(ROUNDS):
            wire.write(MANY, f"UPDATE counted SET n = n + {ROWS}")
    reader.close()
    return served


def one_more(wire):
    wire.write("INSERT INTO t(b) VALUES (1)", "UPDATE counted SET n = n + 1")


def test_it_is_copied_in_parts_beside_readers_and_writers(daemon):
    served = grown(daemon, sync="normal")
    # Two: a third may take the last read mark, and then the daemon has none of its own for a part.
    onlookers = [Onlooker(served) for _ in range(2)]
    for onlooker in onlookers:
        onlooker.start()
    with served.wire(timeout=120) as wire:
        for number in range(200):
            one_more(wire)
        # The rest is copied also if nobody writes any more.
        wait_for(lambda: served.stats()["checkpoint_parts_total"] > 3, "parts", timeout=60)
        for onlooker in onlookers:
            onlooker.stop = True
            onlooker.join()
            assert onlooker.wrong == [] and onlooker.looks > 0
        # What was held back by a reader to the end is tried again after some more writes.
        for _ in range(100):
            one_more(wire)
        wait_for(lambda: served.stats()["wal_backfilled"] == served.stats()["wal_frames"] or
                 os.path.getsize(served.db + "-wal") < 10 << 20, "all of it", timeout=60)
    assert served.read("SELECT (SELECT count(*) FROM t) = n FROM counted") == [(1,)]
    assert served.read("PRAGMA integrity_check") == [("ok",)]


def test_an_end_between_two_parts_loses_nothing(daemon):
    served = grown(daemon)
    with served.wire(timeout=120) as wire:
        rows = ROWS * ROUNDS
        while served.stats()["checkpoint_parts_total"] == 0:
            one_more(wire)
            rows += 1
    served.kill()
    served.start()
    assert served.read("SELECT n, (SELECT count(*) FROM t) FROM counted") == [(rows,) * 2]
    assert served.read("PRAGMA integrity_check") == [("ok",)]
