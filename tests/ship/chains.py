# SPDX-License-Identifier: MIT
"""Databases as they were after each of some commits, and replicas made of them."""
import json
import pathlib
import sqlite3
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import ltx  # noqa: E402


class History:
    """A database in a directory, looked at after each change: pages and commit number."""

    def __init__(self, directory, page_size=4096, pragmas=()):
        self.path = pathlib.Path(directory) / "source.db"
        self.page_size = page_size
        self.db = sqlite3.connect(self.path, isolation_level=None)
        for sql in (f"PRAGMA page_size={page_size}", *pragmas, "PRAGMA journal_mode=wal",
                    "PRAGMA wal_autocheckpoint=0"):
            self.db.execute(sql)
        self.db.executescript(
            "CREATE TABLE _lf_state(id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL,"
            " epoch BLOB NOT NULL, commit_no INTEGER NOT NULL, session_window INTEGER NOT NULL);"
            "INSERT INTO _lf_state VALUES (1, 1, zeroblob(16), 1, 1024);"
            "CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        self.commit = 1

    def pages(self):
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return ltx.read_pages(self.path, self.page_size)

    def change(self, *statements):
        """One more commit; the pages after it."""
        self.commit += 1
        for sql in statements:
            if sql == "VACUUM":
                self.db.execute(sql)
        self.db.execute("BEGIN")
        for sql in statements:
            if sql != "VACUUM":
                self.db.execute(sql)
        self.db.execute("UPDATE _lf_state SET commit_no=?", (self.commit,))
        self.db.execute("COMMIT")
        return self.pages()

    def grow(self, rows=50, size=300):
        return self.change(
            f"INSERT INTO t(b) SELECT randomblob({size}) FROM (WITH RECURSIVE r(x) AS (SELECT 1 "
            f"UNION ALL SELECT x+1 FROM r WHERE x<{rows}) SELECT x FROM r)")

    def walk(self):
        """Some commits of different kinds; yields the pages after each."""
        yield self.pages()
        yield self.grow()
        yield self.change("UPDATE t SET b='new' WHERE a%10=0")
        yield self.grow(40)
        yield self.change("DELETE FROM t WHERE a>20", "VACUUM")
        yield self.grow(5)
        yield self.change("UPDATE t SET b=randomblob(700) WHERE a%3=0")


def ship_walk(directory, **options):
    """A replica with a level 0 segment for each commit of a walk."""
    kept = {key: options.pop(key) for key in ("page_size", "pragmas") if key in options}
    history = History(directory, **kept)
    replica = ltx.Replica(pathlib.Path(directory) / "replica", history.page_size, **options)
    for pages in history.walk():
        replica.ship(pages, history.commit)
    history.db.close()
    return replica


def restore(program, *args):
    """The exit code, the object that was printed (or None), and what was said on stderr."""
    done = subprocess.run([program, "restore", "--json", *map(str, args)], capture_output=True,
                          text=True, timeout=300)
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else None, done.stderr


def same(path, replica, txid):
    return pathlib.Path(path).read_bytes() == ltx.image(replica.states[txid], replica.page_size)
