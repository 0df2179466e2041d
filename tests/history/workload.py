# SPDX-License-Identifier: MIT
"""
The batches that the history machines send, as statements. checker.py has the same as a model.

Each begins with a row in `op`, whose rowid is its place in the serial order. No table has a
constraint that would hide a batch that is applied twice.
"""
import contextlib
import random
import sqlite3

from checker import ACCOUNTS, BALANCE, COUNTERS, Final

SCHEMA = [
    ["CREATE TABLE op(id INTEGER PRIMARY KEY, client INTEGER, seq INTEGER, kind TEXT)"],
    ["CREATE TABLE list(k INTEGER PRIMARY KEY, vs TEXT NOT NULL)"],
    ["CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)"],
    ["CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL)"],
    ["CREATE TABLE item(id INTEGER PRIMARY KEY, client INTEGER, seq INTEGER, i INTEGER)"],
    ["CREATE TABLE claim(slot INTEGER PRIMARY KEY, client INTEGER, seq INTEGER)"],
    ["CREATE TABLE doom(a NOT NULL, b UNIQUE ON CONFLICT ROLLBACK,"
     " c REFERENCES account DEFERRABLE INITIALLY DEFERRED, d CHECK (d < 2))"],
    ["CREATE TRIGGER doomed AFTER INSERT ON doom WHEN NEW.a = 'raise' BEGIN"
     " SELECT RAISE(ROLLBACK, 'doomed'); END"],
    ["INSERT INTO account VALUES (?, ?)", [[i, BALANCE] for i in range(ACCOUNTS)], {"many": True}],
    ["INSERT INTO counter VALUES (?, 0)", [[i] for i in range(COUNTERS)], {"many": True}],
]

# What always fails, and most of it takes the transaction of the group with it.
DOOMS = {
    "guard": ["UPDATE counter SET n = n + 1", None, {"expect": {"changes": 99}}],
    "not_null": ["INSERT INTO doom(a) VALUES (NULL)"],
    "raise": ["INSERT INTO doom(a) VALUES ('raise')"],
    "unique": ["INSERT INTO doom(a, b) VALUES (1, 1), (2, 1)"],
    "deferred": ["INSERT INTO doom(a, c) VALUES (1, 12345)"],
    "or_fail": ["INSERT OR FAIL INTO doom(a, d) VALUES (1, 1), (2, 2)"],
    "or_rollback": ["UPDATE OR ROLLBACK account SET id = 1 WHERE id = 0"],
    "syntax": ["INSERT INTO doom VALUE (1)"],
}

WEIGHTS = {"single": 20, "append": 20, "transfer": 15, "count": 15, "items": 15,
           "claim": 8, "doom": 7}


def draw(rng, number):
    """Kind and args of a client's number-th batch. Keys move on, so that no list grows long."""
    kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    if kind == "append":
        return kind, [number // 16 * 4 + rng.randrange(4), rng.randrange(1 << 31)]
    if kind == "transfer":
        source, target = rng.sample(range(ACCOUNTS), 2)
        return kind, [source, target, rng.randrange(1, BALANCE // 2)]
    if kind == "count":
        return kind, [rng.randrange(COUNTERS), rng.randrange(1, 10)]
    if kind == "items":
        return kind, [rng.choice((1, 2, 3, 5, 20))]
    if kind == "claim":
        return kind, [number + rng.randrange(4), rng.choice(("", "OR ROLLBACK", "OR FAIL"))]
    if kind == "doom":
        return kind, [rng.choice(list(DOOMS))]
    return kind, []


def batch(client, seq, kind, args):
    """The steps of a batch."""
    steps = [["INSERT INTO op(client, seq, kind) VALUES (?, ?, ?)", [client, seq, kind]]]
    many = ["INSERT INTO item(client, seq, i) VALUES (?, ?, ?)",
            [[client, seq, i] for i in range(args[0] if kind == "items" else 3)], {"many": True}]
    if kind == "append":
        steps.append(["INSERT INTO list VALUES (?, ?) ON CONFLICT (k) DO UPDATE"
                      " SET vs = vs || ',' || excluded.vs RETURNING vs", [args[0], str(args[1])]])
    elif kind == "transfer":
        source, target, amount = args
        steps.append(["UPDATE account SET balance = balance - ?1 WHERE id = ?2 AND balance >= ?1"
                      " RETURNING balance", [amount, source], {"expect": {"changes": 1}}])
        steps.append(["UPDATE account SET balance = balance + ? WHERE id = ? RETURNING balance",
                      [amount, target]])
    elif kind == "count":
        steps.append(["UPDATE counter SET n = n + ? WHERE id = ? RETURNING n", [args[1], args[0]]])
    elif kind == "items":
        steps += [many, ["SELECT max(id) FROM item"]]
    elif kind == "claim":
        steps.append([f"INSERT {args[1]} INTO claim VALUES (?, ?, ?)", [args[0], client, seq]])
    elif kind == "doom":
        steps += [many, DOOMS[args[0]]]
    return steps


def answer(steps):
    """Of the steps of a result what the checker compares."""
    return [[step["changes"], step["rowid"], step.get("rows")] for step in steps]


def open_reader(path):
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30, isolation_level=None)


def snapshot(db, rng):
    """What a direct reader looks at, as the fields of checker.Read after the times."""
    db.execute("BEGIN")
    try:
        epoch, commit = db.execute("SELECT epoch, commit_no FROM _lf_state").fetchone()
        ops = db.execute("SELECT max(id) FROM op").fetchone()[0] or 0
        tail = db.execute("SELECT count(*) FROM op WHERE id > ?", [ops - 100]).fetchone()[0]
        balances = [row[0] for row in db.execute("SELECT balance FROM account ORDER BY id")]
        counters = [row[0] for row in db.execute("SELECT n FROM counter ORDER BY id")]
        items = db.execute("SELECT max(id) FROM item").fetchone()[0] or 0
        key = (db.execute("SELECT max(k) FROM list").fetchone()[0] or 0) - rng.randrange(8)
        listed = db.execute("SELECT k, vs FROM list WHERE k = ?", [key]).fetchone()
    finally:
        db.execute("COMMIT")
    return [epoch, commit, ops, tail, balances, counters, items, listed and list(listed)]


def final(path):
    """The database at the end, for the checker."""
    with contextlib.closing(open_reader(path)) as db:
        db.execute("BEGIN")

        def rows(sql):
            return [list(row) for row in db.execute(sql)]

        problems = [row[0] for row in db.execute("PRAGMA integrity_check")]
        problems += [f"foreign key: {row}" for row in db.execute("PRAGMA foreign_key_check")]
        epoch, commit = rows("SELECT epoch, commit_no FROM _lf_state")[0]
        return Final(
            epoch, commit, rows("SELECT id, client, seq, kind FROM op ORDER BY id"),
            dict(rows("SELECT k, vs FROM list")),
            [row[0] for row in rows("SELECT balance FROM account ORDER BY id")],
            [row[0] for row in rows("SELECT n FROM counter ORDER BY id")],
            rows("SELECT client, seq, i FROM item ORDER BY id"),
            {slot: owner for slot, *owner in rows("SELECT slot, client, seq FROM claim")},
            rows("SELECT count(*) FROM doom")[0][0], "; ".join(problems))


def rng_of(*words):
    """A generator that the same words give again."""
    return random.Random(" ".join(map(str, words)))
