#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Leases against the same statements on plain SQLite.

A program is a random schema and some leases, one after the other: statements of every kind, savepoints,
TEMP objects, cursors, statements that fail in every way, and in the end a commit, a rollback, or the
client's death. Each answer and, after each lease, the content of the databases must be equal. Beside
it other clients write, whose batches must wait and never see an error for it, and steps are sent
ahead of their answers.

    LITEFUNNEL_BIN=build/server/litefunnel tests/oracle/leases.py --programs 500 --seed 7
"""
import pathlib
import random
import shutil
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
from daemon import Daemon  # noqa: E402
import trials  # noqa: E402
from plain import Failed, Plain, comparable_alone, lib  # noqa: E402
from programs import Program  # noqa: E402
from trials import Difference, settings, shown  # noqa: E402

SAVEPOINTS = ("a", "b", "\"c d\"")
TEMP = ["CREATE TEMP TABLE own(id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE)",
        "CREATE TEMP VIEW seen AS SELECT count(*) AS n FROM log",
        "CREATE TEMP TRIGGER spy AFTER INSERT ON log BEGIN INSERT INTO own(v) VALUES (NEW.n); END",
        "INSERT INTO own(v) VALUES (1)", "INSERT INTO own(v) VALUES (1), (2)", "SELECT * FROM own",
        "INSERT OR ROLLBACK INTO own(v) VALUES (1)", "SELECT n FROM seen", "DROP TABLE own",
        "DROP TRIGGER spy", "CREATE TEMP TABLE log(n INTEGER PRIMARY KEY, what, x, y)",
        "DROP TABLE temp.log", "SELECT name FROM sqlite_temp_schema ORDER BY name",
        "INSERT INTO temp.log(what) VALUES ('hidden')"]
TEMP_SHARE = 0.08


class PlainLease:
    """A transaction on plain SQLite, on a connection of its own, answering as a lease does."""

    def __init__(self, plain):
        self.plain = plain
        self.defers_changed = False
        plain.close()
        plain.open()
        plain.rows("BEGIN IMMEDIATE")
        self.open = True

    def step(self, step):
        opts = (step[2] if len(step) > 2 else None) or {}
        # What only reads, or cannot be compiled, leaves nothing to undo. A savepoint would make FTS5 write
        # what it holds back.
        guarded = not opts.get("script") and self.plain.only_reads(step[0]) is False and (
            "many" in opts or "expect" in opts or ("rows" in opts and "RETURNING" in step[0]))
        self.defers_changed |= "defer_foreign_keys" in step[0]
        try:
            if guarded:
                self.plain.rows("SAVEPOINT _oracle")
            result = self.plain._step(step)
            error = None
            if guarded:
                self.plain.rows("RELEASE _oracle")
        except Failed as failed:
            error, result = failed.args[0], None
            if guarded and not lib.sqlite3_get_autocommit(self.plain.db):
                if opts.get("many") or error["code"] != "sql":
                    self.plain.rows("ROLLBACK TO _oracle")
                self.plain.rows("RELEASE _oracle")
        self.open = not lib.sqlite3_get_autocommit(self.plain.db)
        return comparable_alone((error, result)), self.open

    def end(self, how):
        error = None
        try:
            self.plain.rows(how)
        except Failed as failed:
            error = failed.args[0]
            if self.defers_changed and how == "COMMIT":
                # The daemon has to try this COMMIT behind a savepoint, where FTS5 writes what it holds back.
                self.plain.rows("SAVEPOINT _oracle")
                self.plain.rows("RELEASE _oracle")
        self.open = not lib.sqlite3_get_autocommit(self.plain.db)
        return comparable_alone((error, None)), self.open

    def finish(self):
        if not lib.sqlite3_get_autocommit(self.plain.db):
            self.plain.rows("ROLLBACK")
        self.plain.close()
        self.plain.open()


class PlainLeases:
    """
    The same lease on plain SQLite and on plain SQLite with a hook that wants to see each row, as the
    daemon's does. There DELETE is compiled otherwise, and other moments may be those in which FTS5 writes
    what it holds back, which `total` counts: who has not agreed once is not asked again.
    """

    def __init__(self, plains):
        self.leases = {plain: PlainLease(plain) for plain in plains}
        self.agree = plains

    def _same(self, what, ours, theirs):
        self.agree = [plain for plain in self.agree if shown(theirs[plain]) == shown(ours)]
        if not self.agree:
            raise Difference("\n  ".join((f"{what!r}", f"leased: {shown(ours)}", *(
                f"plain:  {shown(answer)}" for answer in theirs.values()))))

    def step(self, step, ours):
        self._same(step, ours, {plain: self.leases[plain].step(step) for plain in self.agree})

    def end(self, how, ours):
        self._same(how, ours, {plain: self.leases[plain].end(how.upper()) for plain in self.agree})

    @property
    def open(self):
        return self.leases[self.agree[0]].open

    def finish(self):
        for lease in self.leases.values():
            lease.finish()


KEPT = ("changes", "total", "rowid", "columns", "types", "rows", "truncated")


def answer(error, result):
    """As PlainLease answers."""
    is_open = (error or result).get("open")
    if error is not None:
        return comparable_alone((error, None)), is_open
    return (None, {key: result[key] for key in KEPT if key in result}), is_open


class Neighbours(threading.Thread):
    """Others, who write all the time and must not notice more than a wait."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.daemon_, self.stop, self.error, self.written = daemon, False, None, 0

    def run(self):
        try:
            with self.daemon_.wire(timeout=60) as wire:
                while not self.stop:
                    wire.write("UPDATE neighbour SET n = n + 1", "SELECT n FROM neighbour")
                    self.written += 1
        except Exception as error:  # shown by the trial
            self.error = error


class Trial:
    def __init__(self, options, seed):
        self.rng = random.Random(seed)
        self.program = Program(self.rng)
        self.place = tempfile.mkdtemp(prefix="leases-", dir=options.dir)
        self.daemon = Daemon(options.program, f"{self.place}/leased.db", log_level="error")
        self.plains = []
        self.agree = []  # of them, who has given the daemon's answers until now
        self.steps = self.failed = self.commits = self.kills = self.hooked = 0

    def _step(self):
        rng = self.rng
        draw = rng.random()
        if draw < 0.18:
            name = rng.choice(SAVEPOINTS)
            return [rng.choice(("SAVEPOINT {}", "SAVEPOINT {}", "RELEASE {}", "ROLLBACK TO {}",
                                "ROLLBACK TRANSACTION TO SAVEPOINT {}")).format(name)]
        if draw < 0.18 + TEMP_SHARE:
            return [rng.choice(TEMP)]
        if draw < 0.28:
            return [rng.choice(("PRAGMA defer_foreign_keys = 1", "BEGIN", "PRAGMA foreign_keys = 1",
                                "BEGIN EXCLUSIVE", "EXPLAIN COMMIT"))]
        return self.program.step()

    def _fetched(self, wire, step, params):
        """The answer to a SELECT that is read through a cursor, piece by piece."""
        wire_answer = wire.ask("step", lease=1, **params, opts={"cursor": self.rng.randrange(1, 4)})
        error, result = wire_answer
        while error is None and result["more"]:
            error, more = wire.ask("fetch", lease=1, cursor=result["cursor"], rows=self.rng.randrange(1, 4))
            assert error is None, (step, error)
            result = {**result, "rows": result["rows"] + more["rows"], "more": more["more"]}
        return error, result

    def _run_steps(self, wire, theirs):
        """Random steps until the lease is over, or enough. False: over."""
        rng = self.rng
        left = rng.randrange(1, 25)
        while left > 0 and theirs.open:
            batch = [self._step() for _ in range(rng.choice((1, 1, 1, 3, 8)))]
            left -= len(batch)
            params = [dict(zip(("sql", "params", "opts"), step)) for step in batch]
            if len(batch) == 1 and len(batch[0]) < 3 and batch[0][0].startswith("SELECT") and rng.random() < 0.5:
                answers = [self._fetched(wire, batch[0], params[0])]
            else:
                ids = [wire.request("step", lease=1, **one) for one in params]
                answers = [wire.reply(number) for number in ids]
            for step, (error, result) in zip(batch, answers):
                self.steps += 1
                self.failed += error is not None
                if not theirs.open:
                    assert error["code"] == "lease_gone" and error["applied"] == "no", error
                    continue
                theirs.step(step, answer(error, result))
        return theirs.open

    def _end(self, wire, theirs):
        rng = self.rng
        while theirs.open:
            how = rng.choice(("commit", "commit", "commit", "rollback", "kill"))
            if how == "kill":
                self.kills += 1
                return
            if rng.random() < 0.3:
                error, result = wire.ask("step", lease=1, sql=rng.choice(
                    {"commit": ("COMMIT", "END", "commit transaction;"), "rollback": ("ROLLBACK", "rollback -- x")}[how]))
            else:
                error, result = wire.ask(how, lease=1)
            theirs.end(how, (comparable_alone((error, None)), (error or result)["open"]))
            self.commits += how == "commit" and error is None
            if theirs.open:  # deferred constraints
                if not self._run_steps(wire, theirs):
                    return
                if rng.random() < 0.5:
                    error, result = wire.ask("rollback", lease=1)
                    theirs.end("rollback", (comparable_alone((error, None)), (error or result)["open"]))

    def _lease(self):
        with self.daemon.wire(timeout=60) as wire:
            begun = wire.call("begin", lease=1)
            assert begun["open"] is True and begun["lease"] == 1
            theirs = PlainLeases(self.agree)
            if self._run_steps(wire, theirs):
                self._end(wire, theirs)
        theirs.finish()
        self.agree = theirs.agree

    def _contents(self):
        leased = Plain(self.daemon.db, readonly=True)
        plain = self.agree[0]
        try:
            # The client may have just died: its lease is rolled back when the daemon notices, which
            # a write of ours waits for.
            self.daemon.write("UPDATE neighbour SET n = n")
            ours = [line for line in leased.content() if not line.startswith("neighbour: ")]
            theirs = [line for line in plain.content() if not line.startswith("neighbour: ")]
        finally:
            leased.close()
        trials.same_contents(ours, theirs, "leased", "plain")

    def run(self):
        self.daemon.start()
        neighbours = None
        try:
            setup = settings(self.daemon)
            self.plains = [Plain(f"{self.place}/plain.db", setup=setup),
                           Plain(f"{self.place}/hooked.db", setup=setup, hook=True)]
            self.agree = self.plains
            for sql in (*self.program.schema, "CREATE TABLE neighbour(n)", "INSERT INTO neighbour VALUES (0)"):
                with self.daemon.wire() as wire:
                    error, _ = wire.ask("write", batch=[[sql]])
                for plain in self.plains:
                    assert (error is None) == (plain.batch([[sql]])[0] is None), sql
            if self.rng.random() < 0.5:
                neighbours = Neighbours(self.daemon)
                neighbours.start()
            for _ in range(self.rng.randrange(1, 5)):
                self._lease()
                self._contents()
            # Nothing of a lease shows to a batch.
            left = self.daemon.write("SELECT * FROM sqlite_temp_schema", "SELECT last_insert_rowid(), changes()",
                                     "PRAGMA foreign_keys", "PRAGMA defer_foreign_keys")["steps"]
            assert [step["rows"] for step in left] == [[], [[0, 0]], [[1]], [[0]]], left
        finally:
            if neighbours is not None:
                neighbours.stop = True
                neighbours.join(60)
            for plain in self.plains:
                plain.close()
            self.daemon.finish()
        if neighbours is not None and neighbours.error is not None:
            raise neighbours.error
        self.hooked = self.plains[0] not in self.agree
        shutil.rmtree(self.place)


def campaign(options, say=print):
    """The figures, and the differences as (seed, text, place)."""
    return trials.campaign(Trial, options, ("steps", "failed", "commits", "kills", "hooked"), say)


def options_of(arguments):
    return trials.parse(trials.parser_of(__doc__, 500), arguments)


if __name__ == "__main__":
    sys.exit(trials.main("leases", options_of(None), campaign))
