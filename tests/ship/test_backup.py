# SPDX-License-Identifier: MIT
"""`litefunnel backup`: one plain file of one moment, with a daemon at work or without."""
import json
import os
import pathlib
import sqlite3
import subprocess
import threading

import pytest


def backup(program, *args):
    done = subprocess.run([program, "backup", *map(str, args), "--json"], capture_output=True, text=True,
                          timeout=300)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def rows(path, sql):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def test_a_moment_while_writes_go_on(litefunnel, daemon, tmp_path):
    """Two tables that are always changed together are equal in every copy."""
    served = daemon()
    served.write(["CREATE TABLE a(x)"], ["CREATE TABLE b(x)"])
    stop = threading.Event()

    def work():
        with served.wire() as wire:
            while not stop.is_set():
                wire.write(["INSERT INTO a VALUES (randomblob(3000))"], ["INSERT INTO b SELECT count(*) FROM a"])

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for i in range(8):
            out = tmp_path / f"{i}.db"
            code, said, errors = backup(litefunnel, served.db, "-o", out)
            assert code == 0, errors
            assert os.listdir(tmp_path).count(f"{i}.db") == 1 and not os.path.exists(f"{out}-wal")
            ((a, b, last, commit, mode),) = rows(out, (
                "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b), (SELECT max(x) FROM b), "
                "(SELECT commit_no FROM _lf_state), (SELECT journal_mode FROM pragma_journal_mode)"))
            assert a == b and (last or 0) == a and commit == said["commit"] and mode == "delete"
            assert rows(out, "PRAGMA integrity_check") == [("ok",)]
    finally:
        stop.set()
        worker.join()
    assert len(os.listdir(tmp_path)) == 8


def test_without_a_daemon_and_for_a_daemon(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write(["CREATE TABLE t(x)"])
    before = served.write(["INSERT INTO t VALUES (1)"])
    served.stop()
    other = daemon(start=False, create=False)
    code, _, errors = backup(litefunnel, served.db, "-o", other.db)
    assert code == 0, errors
    other.start()
    again = other.write(["INSERT INTO t VALUES (2)"])
    assert again["epoch"] != before["epoch"]  # its commits are its own
    served.start()
    assert served.write(["INSERT INTO t VALUES (3)"])["epoch"] == before["epoch"]
    assert backup(litefunnel, served.db, "-o", other.db, "--force")[0] == 1  # it is served
    assert rows(other.db, "SELECT x FROM t") == [(1,), (2,)]


def test_any_database(litefunnel, tmp_path):
    with sqlite3.connect(tmp_path / "plain.db") as db:
        db.execute("PRAGMA page_size=512")
        db.execute("CREATE TABLE t(x)")
    db.close()
    code, said, errors = backup(litefunnel, tmp_path / "plain.db", "-o", tmp_path / "copy.db")
    assert code == 0 and "commit" not in said, errors
    assert rows(tmp_path / "copy.db", "SELECT count(*) FROM t") == [(0,)]


@pytest.mark.parametrize("what", ("exists", "itself", "wal", "missing", "no directory", "no database"))
def test_what_is_refused(litefunnel, tmp_path, what):
    source, out = tmp_path / "app.db", tmp_path / "copy.db"
    with sqlite3.connect(source) as db:
        db.execute("CREATE TABLE t(x)")
    args = [source, "-o", out]
    if what == "exists":
        out.write_bytes(b"mine")
    elif what == "itself":
        args = [source, "-o", source, "--force"]
    elif what == "wal":
        pathlib.Path(f"{out}-wal").write_bytes(b"frames")
    elif what == "missing":
        args[0] = tmp_path / "other.db"
    elif what == "no directory":
        args[2] = tmp_path / "nowhere" / "copy.db"
    elif what == "no database":
        source.write_bytes(b"x" * 5000)
    before = sorted(os.listdir(tmp_path)), source.read_bytes()
    code, said, errors = backup(litefunnel, *args)
    assert code == 1 and said is None and errors
    db.close()
    assert (sorted(os.listdir(tmp_path)), source.read_bytes()) == before
