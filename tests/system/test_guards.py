# SPDX-License-Identifier: MIT
"""`if_commit`: a batch that is applied only if what it rests on has not changed."""
import contextlib
import os
import random
import re
import threading

import pytest

from wire import Refused

SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a);
CREATE TABLE other(id INTEGER PRIMARY KEY, a);
CREATE TABLE keyless(a, b, PRIMARY KEY (a)) WITHOUT ROWID;
CREATE TABLE parent(id INTEGER PRIMARY KEY);
CREATE TABLE child(id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE);
CREATE VIEW v AS SELECT * FROM t;
CREATE TRIGGER instead INSTEAD OF INSERT ON v BEGIN INSERT INTO t(a) VALUES (new.a); END;
CREATE VIRTUAL TABLE words USING fts5(w);
CREATE VIRTUAL TABLE bare USING fts5(w, content='', columnsize=0);
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, row);
CREATE VIRTUAL TABLE outside USING fts5(a, content=other, content_rowid=id);
CREATE VIRTUAL TABLE box USING rtree(id, x0, x1);
INSERT INTO t VALUES (1, 1); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1);
"""


@pytest.fixture(scope="module")
def served(shared_daemon):
    daemon = shared_daemon()
    daemon.write([SCHEMA, None, {"script": True}])
    return daemon


@pytest.fixture
def wire(served):
    with served.wire(session=os.urandom(16)) as wire:
        yield wire


def snapshot(served):
    [(epoch, commit)] = served.read("SELECT epoch, commit_no FROM _lf_state")
    return {"epoch": epoch, "commit": commit}


def changed(wire, at, *tables, batch=("SELECT 1",)):
    """Whether the guard does not hold."""
    guard = {"at": at, **({"tables": list(tables)} if tables else {})}
    error, _ = wire.ask("write", batch=[[sql] for sql in batch], if_commit=guard)
    if error is None:
        return False
    assert (error["code"], error["applied"], error["retry"], error["sqlite"]) == (
        "snapshot_changed", "no", False, 517), error
    return True


def test_tables_that_show_others_change_with_these(served, wire):
    for table, sql in (("vocabulary", "INSERT INTO words VALUES ('new')"), ("outside", "INSERT INTO other(a) VALUES (7)")):
        at = snapshot(served)
        assert not changed(wire, at, table)
        wire.write(sql)
        assert changed(wire, at, table)


TOUCHES = [
    ("INSERT INTO t(a) VALUES (1)", "t"),
    ("UPDATE t SET a = a WHERE id = 1", "t"),
    ("INSERT OR REPLACE INTO keyless VALUES (1, 2)", "keyless"),
    ("DELETE FROM keyless", "keyless"),
    ("INSERT INTO v(a) VALUES (3)", "t"),
    ("DELETE FROM parent WHERE id = 1", "parent child"),
    ("INSERT INTO words VALUES ('one two')", "words"),
    ("INSERT INTO bare(rowid, w) VALUES (1, 'one two')", "bare"),
    ("INSERT INTO box VALUES (1, 2, 3)", "box"),
    ("INSERT INTO words(words) VALUES ('rebuild')", "words"),
    ("CREATE TABLE made(a)", None),
    ("ALTER TABLE other ADD COLUMN b", None),
    ("PRAGMA user_version = 7", None),
    ("DROP TABLE made", None),
]
TABLES = {"t", "other", "keyless", "parent", "child", "words", "bare", "box"}


@pytest.mark.parametrize("sql, touched", TOUCHES, ids=lambda value: value and value[:30])
def test_what_a_statement_changes(served, wire, sql, touched):
    at = snapshot(served)
    wire.write(sql)
    seen = {table for table in TABLES if changed(wire, at, table)}
    assert seen == (TABLES if touched is None else set(touched.split()))
    assert changed(wire, at)
    # And from now on nothing has.
    now = snapshot(served)
    assert not any(changed(wire, now, table) for table in TABLES) and not changed(wire, now)


@pytest.mark.parametrize("sql", (
    "DELETE FROM t WHERE id = -1", "SELECT * FROM t", "INSERT OR IGNORE INTO t(id) VALUES (1)",
    "DROP TABLE IF EXISTS nowhere", "PRAGMA journal_mode = wal"))
def test_what_changes_nothing(served, wire, sql):
    wire.write("INSERT OR IGNORE INTO t(id) VALUES (1)")
    at = snapshot(served)
    wire.write(sql, seq=1)  # remembered, so that there is a commit
    assert not changed(wire, at, "t")
    if "DROP" not in sql:
        assert not changed(wire, at)


def test_a_batch_that_was_undone_changes_nothing(served, wire):
    at = snapshot(served)
    for batch in (["INSERT INTO t(a) VALUES (1)", "SELECT nosuch"],
                  ["INSERT INTO t(a) VALUES (1)", "INSERT OR ROLLBACK INTO t(id) VALUES (1), (1)"],
                  ["CREATE TABLE undone(a)", "INSERT INTO undone VALUES (1)", "SELECT nosuch"]):
        with pytest.raises(Refused):
            wire.write(*batch)
    wire.write("INSERT INTO other(a) VALUES (1)")
    assert not changed(wire, at, "t") and changed(wire, at, "other")


def test_names(served, wire):
    at = snapshot(served)
    for name in ("v", "nowhere", "_lf_state", "sqlite_schema", "t; --", "main.t"):
        error, _ = wire.ask("write", batch=[["SELECT 1"]], if_commit={"tables": ["t", name], "at": at})
        assert (error["code"], error["applied"], error["retry"]) == ("not_found", "no", False)
        assert name in error["message"]
    wire.write("INSERT INTO t(a) VALUES (1)")
    assert changed(wire, at, "T") and changed(wire, at, "other", "t") and not changed(wire, at, "oTHER")
    # A shadow table counts as its virtual table, also when it is named itself.
    wire.write("INSERT INTO words VALUES ('x')")
    assert changed(wire, at, "words_content")


def test_other_snapshots(served, wire):
    at = snapshot(served)
    error, _ = wire.ask("write", batch=[["SELECT 1"]],
                        if_commit={"tables": ["t"], "at": {**at, "epoch": bytes(16)}})
    assert (error["code"], error["applied"], error["retry"]) == ("epoch_changed", "no", False)
    assert changed(wire, {**at, "commit": at["commit"] + 1000}, "t")


def test_batches_of_one_group_see_each_other(served, wire):
    """All of them are sent at once, on one snapshot: the first wins, whoever shares its group."""
    at = snapshot(served)
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT max(i) FROM n"
    first = wire.request("write", batch=[[slow]])
    guard = {"tables": ["t"], "at": at}
    ids = [wire.request("write", batch=[["INSERT INTO t(a) VALUES (?)", [i]]], if_commit=guard)
           for i in range(20)]
    bare = [wire.request("write", batch=[["INSERT INTO bare(rowid, w) VALUES (?, 'w')", [100 + i]]],
                         if_commit={"tables": ["bare"], "at": at}) for i in range(5)]
    assert wire.reply(first)[0] is None
    for sent in (ids, bare):
        codes = [error and error["code"] for error, _ in map(wire.reply, sent)]
        assert codes == [None] + ["snapshot_changed"] * (len(sent) - 1)


def test_a_refusal_is_remembered(served, wire):
    at = snapshot(served)
    wire.write("INSERT INTO t(a) VALUES (1)")
    params = {"batch": [["INSERT INTO t(a) VALUES (2)"]], "if_commit": {"tables": ["t"], "at": at}, "seq": 5}
    first, _ = wire.ask("write", **params)
    again, _ = wire.ask("write", **params)
    assert first["code"] == "snapshot_changed" and first == again
    # The guard is part of what was sent.
    for other in ({"tables": ["other"], "at": at}, None):
        guarded = {"if_commit": other} if other else {}
        error, _ = wire.ask("write", batch=params["batch"], seq=5, **guarded)
        assert error["code"] == "key_mismatch"
    # What was applied under a guard is answered again although the guard holds no more.
    params = {**params, "seq": 6, "if_commit": {"tables": ["t"], "at": snapshot(served)}}
    assert "repeat" not in wire.call("write", **params)
    assert wire.call("write", **params)["repeat"] is True


def test_a_start_counts_as_a_change(daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    at = snapshot(served)
    served.restart()
    with served.wire() as wire:
        assert changed(wire, at, "t")
        assert not changed(wire, snapshot(served), "t")


# ---- at random

COUNTERS = [f"c{i}" for i in range(6)]


class Worker(threading.Thread):
    """Reads some counters locally, raises some of them by what it has read, under a guard."""

    def __init__(self, served, seed, rounds):
        super().__init__()
        self.served, self.rng, self.rounds = served, random.Random(seed), rounds
        self.applied, self.refused, self.error = [], [], None

    def run(self):
        try:
            with self.served.wire() as wire, contextlib.closing(self.served.reader()) as reader:
                for _ in range(self.rounds):
                    self._round(wire, reader)
        except Exception as error:  # shown by the test
            self.error = error

    def _round(self, wire, reader):
        rng = self.rng
        read = rng.sample(COUNTERS, rng.randrange(1, 4))
        written = rng.sample(read, rng.randrange(1, len(read) + 1))
        reader.execute("BEGIN")
        epoch, commit = reader.execute("SELECT epoch, commit_no FROM _lf_state").fetchone()
        values = {name: reader.execute(f"SELECT n FROM {name}").fetchone()[0] for name in read}
        reader.execute("COMMIT")
        if rng.random() < 0.2:  # somebody who changes a counter, and is undone
            name = rng.choice(COUNTERS)
            error, _ = wire.ask("write", batch=[[f"UPDATE {name} SET n = -1"],
                                                [rng.choice(("SELECT nosuch", "INSERT OR ROLLBACK INTO one VALUES (1)"))]])
            assert error["applied"] == "no"
        batch = [[f"UPDATE {name} SET n = ?", [values[name] + 1]] for name in written]
        doomed = rng.random() < 0.1
        if doomed:
            batch.append(["INSERT INTO one VALUES (1)"])
        error, result = wire.ask("write", batch=batch,
                                 if_commit={"tables": read, "at": {"epoch": epoch, "commit": commit}})
        if error is None:
            self.applied.append((result["commit"], written))
        elif error["code"] == "snapshot_changed":
            self.refused.append((commit, read, error["message"], wire.call("ping")["commit"]))
        else:
            assert doomed and error["code"] == "sql", error


def test_random_guarded_batches_against_a_serial_checker(daemon, soak, slow):
    served = daemon()
    served.write(*[f"CREATE TABLE {name}(n)" for name in COUNTERS],
                 *[f"INSERT INTO {name} VALUES (0)" for name in COUNTERS],
                 "CREATE TABLE one(a UNIQUE)", "INSERT INTO one VALUES (1)")
    rounds = (2500 if soak else 250) // (2 if slow > 1 else 1)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    workers = [Worker(served, seed + i, rounds) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.error is None, worker.error
    applied = [one for worker in workers for one in worker.applied]
    refused = [one for worker in workers for one in worker.refused]
    print(f"{len(applied)} applied, {len(refused)} refused")
    assert len(applied) > rounds / 4 and refused
    # No update is lost: each that was applied is in the sum.
    for name in COUNTERS:
        assert served.read(f"SELECT n FROM {name}") == [(sum(name in w for _, w in applied),)]
    # No conflict is false: whoever is named has changed that table, after the snapshot.
    for at, read, message, until in refused:
        table, by = re.fullmatch(
            r'the table "(c\d)" was changed (?:by commit (\d+)|just now), after commit .*', message).groups()
        assert table in read
        low, high = (int(by), int(by)) if by else (at + 1, until)
        assert any(table in written and at < commit and low <= commit <= high
                   for commit, written in applied), (at, message)
