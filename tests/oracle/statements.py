#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Scripts of SQL through the wire against the same on plain SQLite.

A script (scripts/*.test) is made of blocks that are separated by empty lines. The first line of a
block says what the others are:

    ok            each statement is a batch of its own, and succeeds
    error         each statement is a batch of its own, and fails
    batch ok      all of them are one batch, and it succeeds
    batch error   all of them are one batch, and it fails
    any           each statement is a batch of its own, and may do either

The words keep the scripts honest: plain SQLite must agree with them. Everything else is compared:
counts, rowids, names, declared types, rows, messages, codes, and the content at the end. Each
script is run twice, one batch after the other and all at once, so that the batches share commit
groups.

    LITEFUNNEL_BIN=build/server/litefunnel tests/oracle/statements.py [SCRIPT…]
"""
import os
import pathlib
import shutil
import sqlite3
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
from daemon import Daemon  # noqa: E402
from differential import settings, shown  # noqa: E402
from plain import Plain, comparable, comparable_alone  # noqa: E402

SCRIPTS = sorted((HERE / "scripts").glob("*.test"))
KINDS = {"ok": True, "error": False, "batch ok": True, "batch error": False, "any": None}


def statements(lines):
    """The statements of a block; one may take several lines, a trigger's body too."""
    text, found = "", []
    for line in lines:
        text += line + "\n"
        if sqlite3.complete_statement(text):
            found.append(text.strip().removesuffix(";"))
            text = ""
    assert not text.strip(), f"a statement without its end: {text}"
    return found


def records(path):
    """The batches of a script, as (line number, must succeed, steps)."""
    found = []
    number = 1
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith("#")]
        if lines:
            kind, *body = lines
            assert kind in KINDS, f"{path.name}:{number}: {kind!r} is none of {list(KINDS)}"
            good, texts = KINDS[kind], statements(body)
            batches = [texts] if kind.startswith("batch") else [[text] for text in texts]
            found += [(number, good, [[text] for text in batch]) for batch in batches]
        number += block.count("\n") + 2
    return found


def run(program, path, pipelined, directory=None):
    """How many records, and what differs."""
    place = tempfile.mkdtemp(prefix="statements-", dir=directory)
    daemon = Daemon(program, f"{place}/funnel.db", log_level="error").start()
    alone = Plain(f"{place}/alone.db", setup=settings(daemon))
    differences = []
    script = records(path)
    try:
        with daemon.wire() as wire:
            if pipelined:
                ids = [wire.request("write", batch=steps) for _, _, steps in script]
                answers = [wire.reply(number) for number in ids]
            else:
                answers = [wire.ask("write", batch=steps) for _, _, steps in script]
        for (number, good, steps), (error, result) in zip(script, answers):
            ours = shown(comparable(error, result))
            answer = alone.batch(steps)
            theirs = shown(comparable_alone(answer))
            where = f"{path.name}:{number}: {'; '.join(step[0] for step in steps)}"
            if ours != theirs:
                differences.append(f"{where}\n  funnel: {ours}\n  plain:  {theirs}")
            if good is not None and good != (answer[0] is None):
                differences.append(f"{where}\n  the script is wrong: {theirs}")
        funnel = Plain(daemon.db, readonly=True)
        if funnel.content() != alone.content():
            differences.append(f"{path.name}: the contents differ")
        funnel.close()
    finally:
        alone.close()
        daemon.finish()
        shutil.rmtree(place)
    return len(script), differences


def main(arguments):
    program = os.environ.get("LITEFUNNEL_BIN")
    if not program:
        sys.exit("set LITEFUNNEL_BIN to the built program")
    total, failed = 0, 0
    for path in map(pathlib.Path, arguments or SCRIPTS):
        for pipelined in (False, True):
            count, differences = run(program, path, pipelined)
            total += 0 if pipelined else count
            failed += len(differences)
            for text in differences:
                print(text)
    print(f"statements: {total} records, each twice, {failed} differences")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
