# SPDX-License-Identifier: MIT
"""The machine is gone at a random moment; what the replica had been said to have is all there."""
import os
import random
import shutil
import sqlite3
import threading
import time

import chains
from wire import Closed, Refused


def lose(daemon_of, litefunnel, tmp_path, seed):
    """One loss. Rows that were answered as shipped, and as committed; and what came back."""
    draw = random.Random(seed)
    root = tmp_path / f"replica-{seed}"
    served = daemon_of(name=f"l{seed}.db", replica=f"file://{root}", ship_linger=f"{draw.choice((10, 50, 500))}ms",
                       checkpoint_frames=draw.choice((20, 1000)))
    served.write(["CREATE TABLE t(worker, n, filler)"], ack="shipped")
    acked = {"shipped": {}, "committed": {}}  # row -> commit number
    reported = []  # what `status` says of the replica

    def work(worker):
        own = random.Random(seed * 10 + worker)
        try:
            with served.wire() as wire:
                for n in range(10 ** 9):
                    ack = "shipped" if own.random() < .2 else "committed"
                    row = [worker, n, own.choice((10, 3000))]
                    answer = wire.write(["INSERT INTO t VALUES (?, ?, randomblob(?))", row],
                                        ack=ack)
                    acked[ack][worker, n] = answer["commit"]
        except (Closed, Refused, OSError):
            pass

    def watch():
        try:
            with served.wire() as wire:
                while True:
                    shown = wire.call("show", what="replicas")
                    reported.append(dict(zip(shown["columns"], shown["rows"][0])))
        except (Closed, Refused, OSError):
            pass

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    workers.append(threading.Thread(target=watch))
    for worker in workers:
        worker.start()
    time.sleep(draw.uniform(.02, .4))  # the moment is what is random here
    served.process.kill()  # the power and the disk go together
    served.process.wait()
    place = os.path.dirname(served.db)
    log = served.log()
    shutil.rmtree(place)
    for worker in workers:
        worker.join()
    served.process.stdout.close()
    os.mkdir(place)
    with open(served.log_path, "w", encoding="utf-8") as file:
        file.write(log)
    code, said, errors = chains.restore(litefunnel, f"file://{root}", "-o", served.db)
    assert code == 0, f"seed {seed}: {errors}\n{log[-2000:]}"
    db = sqlite3.connect(served.db)
    rows = set(db.execute("SELECT worker, n FROM t"))
    twice = db.execute("SELECT count(*) FROM (SELECT 1 FROM t GROUP BY worker, n HAVING count(*) > 1)").fetchone()
    db.close()
    missing = acked["shipped"].keys() - rows
    assert not missing, f"seed {seed}: shipped and lost: {sorted(missing)[:5]}"
    lost = {row: commit for row, commit in acked["committed"].items() if row not in rows}
    assert all(commit > said["commit"] for commit in lost.values()), f"seed {seed}: {lost}"
    assert twice == (0,) and said["digest"] == "equal"
    # No more is lost than what status had called behind, and what was committed after it.
    assert not reported or said["commit"] >= reported[-1]["commit"], f"seed {seed}: {reported[-1]}"
    for worker in range(3):  # what is there has no holes: a prefix of each one's work
        numbers = sorted(n for w, n in rows if w == worker)
        assert numbers == list(range(len(numbers))), f"seed {seed}"
    return len(acked["shipped"]), len(lost)


def test_total_loss(litefunnel, daemon, tmp_path, soak, slow):
    first = int(os.environ.get("LF_SEED", random.randrange(1 << 20)))
    shipped = lost = 0
    for seed in range(first, first + (300 if soak else 12 if slow == 1 else 4)):
        some, gone = lose(daemon, litefunnel, tmp_path, seed)
        shipped += some
        lost += gone
    print(f"seed {first}: {shipped} rows were shipped and are there; {lost} were only committed")
    assert shipped > 0
