# SPDX-License-Identifier: MIT
"""Two daemons want one replica, again and again: one goes on, and no write that either of them called
shipped is lost."""
import itertools
import os
import pathlib
import random
import shutil
import sqlite3
import threading

import chains
from daemon import wait_for
from shipping import replicas
from wire import Closed, Refused

WRITERS = 2


class Owner:
    """A daemon whose clients wait until their rows are shipped. Those rows go into `acked`, which outlives it."""

    def __init__(self, served, acked, number, rows):
        self.served, self.acked, self.number, self.rows = served, acked, number, rows
        self.leaving = threading.Event()
        self.writers = []

    def write(self, writer):
        try:
            with self.served.wire(timeout=120) as wire:
                while not self.leaving.is_set():
                    row = (self.number, writer, next(self.rows))
                    error, _ = wire.ask("write", batch=[["INSERT INTO t VALUES (?, ?, ?)", list(row)]],
                                        ack="shipped", deadline_ms=30000)
                    if error is None:
                        self.acked.add(row)
                    else:
                        assert error["code"] in ("not_shipped", "deadline", "shutting_down"), error
        except (Closed, Refused, OSError):
            pass

    def start(self):
        self.served.start()
        self.writers = [threading.Thread(target=self.write, args=(writer,)) for writer in range(WRITERS)]
        for writer in self.writers:
            writer.start()

    def rest(self):
        self.leaving.set()
        for writer in self.writers:
            writer.join()
        self.leaving.clear()

    def fall(self):
        self.served.kill()
        self.rest()
        for path in pathlib.Path(self.served.db).parent.glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix != ".log":
                path.unlink()  # a thousand reserves are many gigabytes

    def is_refused(self):
        shown = replicas(self.served)
        return bool(shown) and shown[0]["state"] == "refused"

    def ships(self):
        """A write of its own, waited for: true once it is shipped."""
        with self.served.wire(timeout=120) as wire:
            row = (self.number, WRITERS, next(self.rows))
            error, _ = wire.ask("write", batch=[["INSERT INTO t VALUES (?, ?, ?)", list(row)]], ack="shipped",
                                deadline_ms=30000)
            if error is None:
                self.acked.add(row)
            return error is None


class Takeovers:
    def __init__(self, daemon, litefunnel, root, draw):
        self.daemon, self.litefunnel, self.draw = daemon, litefunnel, draw
        self.root, self.url = root, f"file://{root}/replica"
        self.acked, self.number, self.rows = set(), 0, itertools.count()
        self.owner = self.another()
        self.owner.served.start()
        self.owner.served.write(["CREATE TABLE t(owner, writer, n)"])
        self.owner.served.stop()
        self.owner.start()

    def another(self):
        self.number += 1
        served = self.daemon(start=False, replica=self.url, ship_linger="10ms", name=f"{self.number}.db")
        return Owner(served, self.acked, self.number, self.rows)

    def restored(self):
        """Restored from the replica, while the owner goes on writing into it."""
        newcomer = self.another()
        code, _, errors = chains.restore(self.litefunnel, self.url, "-o", newcomer.served.db)
        assert code == 0, errors
        newcomer.served.create = False
        wait_some = self.draw.choice((0, 0, 1, 5))  # rows that the owner ships meanwhile
        have = len(self.acked)
        wait_for(lambda: len(self.acked) >= have + wait_some, "the owner ships", 120)
        newcomer.start()
        return newcomer

    def copied(self):
        """A copy of the whole machine, spool included; both wake up."""
        self.owner.rest()
        self.owner.served.stop()
        newcomer = self.another()
        for path in pathlib.Path(self.owner.served.db).parent.glob(f"{pathlib.Path(self.owner.served.db).name}*"):
            to = newcomer.served.db + path.name[len(os.path.basename(self.owner.served.db)):]
            if path.is_dir():
                shutil.copytree(path, to)
            elif path.is_file() and path.suffix != ".log":
                shutil.copy(path, to)
        newcomer.served.create = False
        for each in self.draw.sample((self.owner, newcomer), 2):
            each.start()
        return newcomer

    def round(self):
        newcomer = self.draw.choice((self.restored, self.copied))()
        pair = (self.owner, newcomer)
        wait_for(lambda: any(each.is_refused() for each in pair), "one of them is refused", 120)
        loser = next(each for each in pair if each.is_refused())
        winner = next(each for each in pair if each is not loser)
        taken = winner is newcomer
        wait_for(winner.ships, "the other one goes on", 120)
        assert loser.is_refused() and not winner.is_refused()
        loser.fall()
        self.owner = winner
        self.nothing_is_lost()
        return taken

    def nothing_is_lost(self):
        promised, out = set(self.acked), self.root / "check.db"
        code, said, errors = chains.restore(self.litefunnel, self.url, "-o", out, "--force")
        assert code == 0 and said["damage"] == "", errors
        db = sqlite3.connect(out)
        rows = db.execute("SELECT owner, writer, n FROM t").fetchall()
        db.close()
        assert len(rows) == len(set(rows))
        lost = promised - set(rows)
        assert not lost, f"{len(lost)} rows were called shipped and are lost, such as {sorted(lost)[:5]}"
        for path in self.root.glob("check.db*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def test_takeovers(litefunnel, daemon, tmp_path, soak, slow):
    seed = int(os.environ.get("LF_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    takeovers = Takeovers(daemon, litefunnel, tmp_path, random.Random(seed))
    taken = 0
    rounds = 1000 if soak else 8 if slow == 1 else 3
    for number in range(rounds):
        try:
            taken += takeovers.round()
        except AssertionError as error:
            raise AssertionError(f"LF_SEED={seed}, takeover {number}: {error}") from error
    print(f"{rounds} fights, {taken} times the newcomer won, {len(takeovers.acked)} rows called shipped")
    takeovers.owner.rest()
    takeovers.owner.served.stop()
