# SPDX-License-Identifier: MIT
"""
Batches that destroy the transaction which they share, among innocent ones: each innocent gets exactly
the answer that it would have got alone, and so does the guilty.

Alone means: plain SQLite, one transaction a batch, in the order of the daemon. That order is known,
because the batches of one connection are applied in the order in which they were sent; two connections
work on tables of their own, and share groups.
"""
import os
import random
import sqlite3

import pytest

from wire import REQUEST, frame, pack

SCHEMA = """
CREATE TABLE acc{n}(id INTEGER PRIMARY KEY, v INTEGER NOT NULL CHECK (v >= 0), s UNIQUE);
CREATE TABLE log{n}(id INTEGER PRIMARY KEY AUTOINCREMENT, what, v);
CREATE TABLE one{n}(a PRIMARY KEY ON CONFLICT ROLLBACK);
CREATE TABLE parent{n}(id INTEGER PRIMARY KEY);
CREATE TABLE child{n}(id INTEGER PRIMARY KEY, p REFERENCES parent{n} DEFERRABLE INITIALLY DEFERRED);
CREATE TRIGGER kill{n} BEFORE INSERT ON log{n} WHEN new.what = 'kill'
    BEGIN SELECT RAISE(ROLLBACK, 'killed by a trigger'); END;
CREATE TRIGGER fail{n} BEFORE INSERT ON log{n} WHEN new.what = 'fail'
    BEGIN SELECT RAISE(FAIL, 'failed by a trigger'); END;
CREATE TRIGGER also{n} AFTER INSERT ON acc{n} WHEN new.s LIKE 't%'
    BEGIN INSERT INTO log{n}(what, v) VALUES ('trigger', new.id); END;
INSERT INTO acc{n} VALUES (1, 100, 'a'), (2, 100, 'b'), (3, 100, 'c');
INSERT INTO one{n} VALUES (1);
INSERT INTO parent{n} VALUES (1), (2);
"""
FOREVER = ("INSERT INTO log{n}(what, v) WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c)"
           " SELECT 'never', i FROM c")


def innocent(rng, n):
    """A batch that harms nobody; some fail, by themselves."""
    i = rng.randrange(12)
    account, number = rng.randint(1, 6), rng.randint(0, 40)
    return [
        [[f"INSERT INTO log{n}(what, v) VALUES ('x', ?)", [number]]],
        [[f"INSERT INTO log{n}(what, v) VALUES (?, ?) RETURNING id, v", ["y", number]]],
        [[f"UPDATE acc{n} SET v = v + ? WHERE id = ?", [number, account]]],
        [[f"UPDATE acc{n} SET v = v - ? WHERE id = 1", [number]],
         [f"UPDATE acc{n} SET v = v + ? WHERE id = 2", [number]],
         [f"SELECT id, v FROM acc{n} WHERE id < 3"]],
        [[f"UPDATE acc{n} SET v = v + 1 WHERE id = ?", [account], {"expect": {"changes": 1}}]],
        [[f"INSERT INTO acc{n}(id, v, s) VALUES (?, ?, ?)", [account, number, f"t{account}"]]],
        [[f"INSERT INTO acc{n}(id, v) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET v = v + 1", [account]]],
        [[f"DELETE FROM acc{n} WHERE id > 3 AND id = ? RETURNING *", [account]]],
        [[f"INSERT INTO log{n}(what, v) VALUES (?, ?)", [["m", k] for k in range(number % 5)],
          {"many": True}], [f"SELECT count(*), max(id) FROM log{n}"]],
        [[f"INSERT INTO child{n}(p) VALUES (?)", [rng.randint(1, 2)]]],
        [[f"INSERT INTO parent{n}(id) VALUES (?)", [rng.randint(3, 9)]]],
        [[f"DELETE FROM parent{n} WHERE id > 2 AND id = ?", [rng.randint(3, 9)]],
         [f"SELECT count(*) FROM child{n}"]],
    ][i]


def killer(rng, n):
    account = rng.randint(1, 3)
    touch = [f"UPDATE acc{n} SET v = v + 1000"]
    missing = rng.randint(3, 9)  # a parent that may come later, or earlier
    return rng.choice([
        [[f"INSERT OR ROLLBACK INTO acc{n}(id, v) VALUES (?, 1)", [account]]],
        [[f"UPDATE OR ROLLBACK acc{n} SET s = 'a' WHERE id = 2"]],
        [[f"INSERT INTO one{n} VALUES (1)"]],
        [[f"INSERT INTO log{n}(what) VALUES ('kill')"]],
        [touch, [f"INSERT INTO log{n}(what) VALUES ('kill')"]],
        [touch, [f"INSERT OR ROLLBACK INTO one{n} VALUES (1)"], touch],
        [[f"INSERT INTO log{n}(what) VALUES ('a'), ('b'), ('fail'), ('c')"]],
        [[f"INSERT OR FAIL INTO acc{n}(id, v) VALUES (50, 1), (51, 1), (1, 1)"]],
        [[f"INSERT INTO child{n}(p) VALUES (?)", [missing]]],
        [touch, [f"INSERT INTO child{n}(p) VALUES (?)", [missing]], ["SELECT 1"]],
        [[f"UPDATE child{n} SET p = 77"], [f"INSERT INTO log{n}(what) VALUES ('after')"]],
        [touch, [f"INSERT INTO one{n} VALUES (?)", [[5], [6], [1]], {"many": True}]],
        [touch, ["COMMIT"]], [touch, ["ROLLBACK"]], [["RELEASE s"]], [touch, ["PRAGMA defer_foreign_keys=1"]],
        [touch, ["SELECT nothing FROM nowhere"]],
        [[f"UPDATE acc{n} SET v = v - 100000"]],
        [[f"UPDATE acc{n} SET v = v + 1000", None, {"expect": {"changes": 99}}]],
    ])


class Oracle:
    """What a batch gets alone."""

    def __init__(self, schemas):
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.execute("PRAGMA foreign_keys=ON")
        for schema in schemas:
            self.db.executescript(schema)

    def run(self, batch):
        at = None
        try:
            self.db.execute("BEGIN IMMEDIATE")
            steps = []
            for at, step in enumerate(batch):
                steps.append(self.step(*step))
            at = None
            self.db.execute("COMMIT")
            return steps
        except sqlite3.Error as error:
            return self.failed("sql", at, str(error), error.sqlite_errorcode)
        except Refusal as refusal:
            return self.failed(refusal.args[0], at)

    def failed(self, code, at, message=None, number=None):
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        return (code, at, message, number)

    def step(self, sql, params=None, opts=None):
        word = sql.split()[0]
        if word in ("COMMIT", "ROLLBACK", "RELEASE", "PRAGMA"):
            raise Refusal("denied")
        if "RECURSIVE" in sql:
            raise Refusal("deadline")
        opts = opts or {}
        before, changes, rows, columns = self.db.total_changes, 0, [], None
        for row in params if opts.get("many") else [params or []]:
            cursor = self.db.execute(sql, row)
            rows += [list(r) for r in cursor.fetchall()]
            columns = cursor.description and [c[0] for c in cursor.description]
            if word != "SELECT":
                changes += self.db.execute("SELECT changes()").fetchone()[0]
        result = {"changes": changes, "total": self.db.total_changes - before}
        if columns:
            result["columns"], result["rows"] = columns, rows
        if opts.get("expect", {}).get("changes", changes) != changes:
            raise Refusal("guard")
        return result

    def dump(self, n):
        return dump(self.db, n)


class Refusal(Exception):
    pass


def dump(db, n):
    return [db.execute(f"SELECT * FROM {table}{n} ORDER BY 1").fetchall()
            for table in ("acc", "log", "one", "parent", "child")]


def answer(error, result):
    """What the daemon said, in the oracle's words."""
    if error is None:
        return [{k: step[k] for k in ("changes", "total", "columns", "rows") if k in step}
                for step in result["steps"]]
    assert error["applied"] == "no", error
    if error["code"] == "sql":
        return ("sql", error.get("step"), error["message"], error["sqlite"])
    return (error["code"], error.get("step"), None, None)


def play(served, rounds, seed, innocents=100, interrupts=0, guilty=(1, 5), keyed=None):
    """Runs the rounds on two connections; returns the sizes of the groups in which killers were. `keyed` gets what each
    request of the last round was and was answered: (session, seq, batch, answer)."""
    rng = random.Random(seed)
    oracle = Oracle([SCHEMA.format(n=n) for n in (1, 2)])
    sizes = []
    sessions = os.urandom(16), os.urandom(16)
    with served.wire(timeout=120, session=sessions[0]) as one, served.wire(timeout=120, session=sessions[1]) as two:
        for n in (1, 2):
            one.write([SCHEMA.format(n=n), None, {"script": True}])
        seq = done = 1000
        for number in range(rounds):
            sent = []
            for wire, n in ((one, 1), (two, 2)):
                batches = [(innocent(rng, n), False) for _ in range(innocents // 2)]
                for _ in range(rng.randint(*guilty)):
                    batches.insert(rng.randint(0, len(batches)), (killer(rng, n), True))
                if interrupts and number % interrupts == n:
                    batches.insert(rng.randint(0, len(batches)), ([[FOREVER.format(n=n)]], True))
                burst = b""  # in one piece, so that they meet in the daemon's queue
                for batch, bad in batches:
                    seq += 1
                    identity = {"seq": seq, "done": done} if keyed is not None else {}
                    burst += frame(pack([REQUEST, seq, "write", {"batch": batch, **identity}]))
                    sent.append((wire, seq, batch, bad))
                wire.send(burst)
            done = seq
            if keyed is not None:
                keyed.clear()
            for wire, id, batch, bad in sent:
                error, result = wire.reply(id)
                got, alone = answer(error, result), oracle.run(batch)
                assert got == alone, f"round {number}, seed {seed}: {batch}"
                if keyed is not None:
                    keyed.append((sessions[wire is two], id, batch, got))
                if not bad and error is None:
                    sizes.append(result["group"])
        for n in (1, 2):
            reader = served.reader()
            assert dump(reader, n) == oracle.dump(n)
            reader.close()
    assert served.read("PRAGMA integrity_check") == [("ok",)]
    return sizes


@pytest.mark.parametrize("seed", [18, 19])
def test_thousand_groups(daemon, slow, soak, seed):
    """Half of them each."""
    served = daemon(sync="normal")
    rounds = 10_000 if soak else 500 // slow
    sizes = play(served, rounds, seed)
    stats = served.stats()
    # The groups did form, and were lost and replayed: otherwise this would show nothing. A group has so
    # much time, not so many members: a sanitizer's are smaller.
    assert sum(size >= (10 if slow == 1 else 5) for size in sizes) > len(sizes) // 4
    assert stats["replays_total"] > rounds // 2
    assert stats["batches_failed_total"] > rounds


def test_interrupts(daemon, slow):
    # An innocent whom the kernel lets wait for so long is as guilty as one who takes it.
    served = daemon(sync="normal", exec_timeout="300ms" if slow == 1 else "1s", commit_group_max_us=200_000)
    play(served, 120 // slow, seed=9, interrupts=6, guilty=(0, 1))
    assert served.stats()["replays_total"] > 20 // slow


def test_deferred_foreign_keys(daemon, slow):
    """Only batches that leave a violation, cure one of before, or inherit one."""
    served, rng = daemon(sync="normal"), random.Random(20)
    oracle = Oracle([SCHEMA.format(n=1)])
    with served.wire(timeout=120) as wire:
        wire.write([SCHEMA.format(n=1), None, {"script": True}])
        for number in range(500 // slow):
            sent = []
            for _ in range(60):
                id = rng.randint(1, 12)
                batch = rng.choice([
                    [["INSERT INTO child1(p) VALUES (?)", [id]]],
                    [["INSERT OR IGNORE INTO parent1 VALUES (?)", [id]]],
                    [["DELETE FROM parent1 WHERE id = ?", [id]]],
                    [["INSERT INTO child1(p) VALUES (?)", [id]], ["INSERT OR IGNORE INTO parent1 VALUES (?)", [id]]],
                    [["DELETE FROM child1 WHERE p = ?", [id]], ["DELETE FROM parent1 WHERE id = ?", [id]]],
                    [["UPDATE child1 SET p = ? WHERE p = ?", [id, id - 1]]],
                    [["SELECT count(*), total(p) FROM child1"]],
                ])
                sent.append((wire.request("write", batch=batch), batch))
            for id, batch in sent:
                assert answer(*wire.reply(id)) == oracle.run(batch), f"round {number}: {batch}"
    assert served.read("PRAGMA foreign_key_check") == []
    assert dump(served.reader(), 1) == oracle.dump(1)


def test_with_sequence_numbers_and_a_kill_behind(daemon, slow):
    """The stored answers are those that were given, also of the guilty."""
    served, last = daemon(sync="normal"), []
    play(served, 100 // slow, seed=4, keyed=last)
    before = served.read("SELECT count(*), sum(v) FROM acc1")
    for _ in range(2):
        repeats = 0
        for session in {session for session, *_ in last}:
            with served.wire(session=session) as wire:
                for _, seq, batch, told in [item for item in last if item[0] == session]:
                    error, result = wire.ask("write", batch=batch, seq=seq)
                    assert answer(error, result) == told, (seq, batch)
                    repeats += error is None and result["repeat"]
        assert repeats > 50 and served.read("SELECT count(*), sum(v) FROM acc1") == before
        served.kill()
        served.start()


@pytest.mark.parametrize("alone", [1, 2, 3])
def test_small_groups(daemon, alone):
    served = daemon(sync="normal")
    play(served, 60, seed=alone, innocents=alone * 2, guilty=(0, 3))


def test_first_error_of_the_guilty_is_its_own(daemon):
    """A killer behind a failure, a killer behind a killer: each has its own message."""
    served = daemon()
    with served.wire() as wire:
        wire.write([SCHEMA.format(n=1), None, {"script": True}])
        ids = [wire.request("write", batch=[[sql]]) for sql in (
            "INSERT INTO log1(what) VALUES ('kill')", "INSERT INTO one1 VALUES (1)", "SELECT 1",
            "INSERT OR ROLLBACK INTO acc1(id, v) VALUES (1, 1)", "SELEC", "INSERT INTO log1(what) VALUES ('ok')")]
        errors = [wire.reply(id)[0] for id in ids]
        assert [e and (e["message"], e["sqlite"]) for e in errors] == [
            ("killed by a trigger", 1811), ("UNIQUE constraint failed: one1.a", 1555), None,
            ("UNIQUE constraint failed: acc1.id", 1555), ('near "SELEC": syntax error', 1), None]
