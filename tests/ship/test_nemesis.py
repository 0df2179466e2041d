# SPDX-License-Identifier: MIT
"""Random trouble around shipping, then quiet: without another commit everything reaches each replica, and
what comes back is what was committed. LF_SEED=N runs one program again."""
import contextlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import daemon as daemons
from shipping import churn, content, no_shipper, restore, ship, start_with_table, sync, try_to_churn


class Trouble:
    """One program: each method with a public name is something that may happen."""

    def __init__(self, litefunnel, one, urls, pick):
        self.litefunnel, self.one, self.urls, self.pick = litefunnel, one, urls, pick
        self.readers = []
        self.trace = []

    def _command(self, *words):
        subprocess.run([self.litefunnel, *words], capture_output=True, check=False)

    def _signal(self, number):
        pid = self.one.child("shipper")
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self):
        self.one.kill()
        self.one.start()

    def kill_twice(self):
        self.kill()
        self.kill()

    def stop(self):
        self.one.stop()
        self.one.start()

    def kill_shipper(self):
        self._signal(signal.SIGKILL)

    def freeze_shipper(self):
        self._signal(signal.SIGSTOP)
        time.sleep(self.pick.choice((0.01, 0.2)))
        self._signal(signal.SIGCONT)

    def no_shipper_lives(self):
        with no_shipper(self.one):
            for seed in range(self.pick.choice((1, 10, 40))):
                churn(self.one, seed, 5)

    def checkpoint(self):
        self._command("checkpoint", self.one.db)

    def vacuum(self):
        self._command("vacuum", self.one.db)

    def pause(self):
        self._command("pause", self.one.db, "--shipping", "--for", "1s")
        if self.pick.random() < 0.5:
            self._command("resume", self.one.db, "--shipping")

    def unplug(self):
        """A replica is away for a moment; one that was never written to may be made meanwhile."""
        replica = pathlib.Path(self.pick.choice(self.urls).removeprefix("file://"))
        if not list(replica.glob("ltx/0/*.ltx")):
            return
        away = replica.with_suffix(".away")
        replica.rename(away)
        time.sleep(self.pick.choice((0, 0.1, 0.6)))
        assert not replica.exists(), "what was shipped to is not made anew"
        away.rename(replica)

    def read(self):
        """A reader keeps its snapshot, and with it the WAL."""
        reader = sqlite3.connect(f"file:{self.one.db}?mode=ro", uri=True, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchall()
        self.readers.append(reader)

    def stop_reading(self):
        while self.readers:
            self.readers.pop().close()

    def roll_back(self):
        """More than fits into the cache: frames in the WAL that no commit follows."""
        with self.one.wire() as wire:
            wire.ask("write", batch=[
                ["INSERT INTO t(b) WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c"
                 " WHERE i < 3000) SELECT randomblob(900) FROM c"], ["SELECT nothing_of_that_name"]])

    def run(self):
        names = [name for name in dir(self) if callable(getattr(self, name))
                 and not name.startswith("_") and name not in ("run", "pick")]
        for number in range(self.pick.choice((2, 4, 8))):
            load = [threading.Thread(target=try_to_churn, args=(self.one, number * 10 + n))
                    for n in range(self.pick.choice((0, 1, 2)))]
            for thread in load:
                thread.start()
            for _ in range(self.pick.choice((1, 2, 4))):
                self.trace.append(self.pick.choice(names))
                getattr(self, self.trace[-1])()
            for thread in load:
                thread.join()


def one_program(litefunnel, make, place, seed):
    pick = random.Random(seed)
    urls = [f"file://{place}/replica", f"file://{place}/second"][:pick.choice((1, 1, 2))]
    one = start_with_table(ship(make, place, *urls, checkpoint_frames=pick.choice((4, 20, 200)),
                                sync=pick.choice(("full", "normal"))))
    trouble = Trouble(litefunnel, one, urls, pick)
    try:
        trouble.run()
        sync(litefunnel, one, deadline="60s")
        expected = content(one.db)
        for number, url in enumerate(urls):
            restore(litefunnel, url, place / f"restored-{number}.db")
            assert content(place / f"restored-{number}.db") == expected, url
    except AssertionError as error:
        raise AssertionError(f"LF_SEED={seed}: {trouble.trace}\n{error}") from error
    finally:
        trouble.stop_reading()


def test_whatever_happens_all_is_shipped_in_the_end(litefunnel, tmp_path, soak, slow):
    only = os.environ.get("LF_SEED")
    first = int(only or random.randrange(1 << 20))
    programs = 1 if only else 300 if soak else 6 if slow == 1 else 2
    for seed in range(first, first + programs):
        place = tmp_path / str(seed)
        place.mkdir()
        with daemons.place_for_daemons(litefunnel) as make:
            one_program(litefunnel, make, place, seed)
        shutil.rmtree(place)
