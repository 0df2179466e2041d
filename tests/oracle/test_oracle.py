# SPDX-License-Identifier: MIT
""" Short forms of the oracles; LF_SCALE multiplies them. The long one is differential.py --programs
2000.
"""
import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
import differential  # noqa: E402
import leases  # noqa: E402
import statements  # noqa: E402
import trials  # noqa: E402
from daemon import place_for_daemons, slowness  # noqa: E402
from wire import REQUEST, frame, pack  # noqa: E402

SCALE = float(os.environ.get("LF_SCALE", "1"))
PROGRAM = os.environ.get("LITEFUNNEL_BIN", "")


@pytest.mark.parametrize("way", differential.WAYS)
def test_grouped_batches_are_answered_as_alone(way):
    programs = max(int(60 * SCALE / slowness(PROGRAM)), 3)
    options = differential.options_of(["--programs", str(programs), "--way", way])
    figures, differences = differential.campaign(options)
    print(f"seed {options.seed}, {way}: {trials.line(figures)}")
    assert differences == []
    assert figures["grouped"] > programs


def test_leases_are_answered_as_by_plain_sqlite():
    programs = max(int(60 * SCALE / slowness(PROGRAM)), 3)
    options = leases.options_of(["--programs", str(programs)])
    figures, differences = leases.campaign(options)
    print(f"seed {options.seed}: {figures}")
    assert differences == []
    assert figures["commits"] > programs / 3 and figures["failed"] > programs


@pytest.mark.parametrize("script", statements.SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("pipelined", (False, True), ids=("one_by_one", "pipelined"))
def test_statements_are_answered_as_by_plain_sqlite(script, pipelined):
    count, differences = statements.run(PROGRAM, script, pipelined)
    assert differences == []
    assert count > 10


def test_there_are_enough_statements():
    assert sum(len(statements.records(path)) for path in statements.SCRIPTS) >= 300


def test_a_schema_that_was_undone_is_gone_for_everybody():
    """
    SQLite forgets that a transaction changed the schema once a DDL statement has failed in it, and
    keeps the changed schema when the transaction is lost: the replay must not be misled by it.
    """
    batches = [
        # Slow, and looks at no table: the group begins behind it, and is not healed by a look.
        [["WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)"
          " SELECT count(*) FROM n"]],
        [["ALTER TABLE t ADD COLUMN c"],
         ["CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END"]],
        [["ALTER TABLE s ADD COLUMN untyped DEFAULT 4"]],
        [["SELECT * FROM s"]],
        [["INSERT OR ROLLBACK INTO t(id) VALUES (90), (1)"]],
        [["SELECT * FROM t"]],
    ]
    with place_for_daemons(PROGRAM) as make, make().wire() as wire:
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)",
                   "CREATE TABLE s(id INTEGER PRIMARY KEY) STRICT")
        wire.send(b"".join(frame(pack([REQUEST, 100 + i, "write", {"batch": batch}]))
                           for i, batch in enumerate(batches)))
        answers = [wire.reply(100 + i) for i in range(len(batches))]
    assert [error and error["message"] for error, _ in answers] == [
        None, None, "error in table s after add column: missing datatype for s.untyped", None,
        "UNIQUE constraint failed: t.id", None]
    assert answers[-1][1]["steps"][0]["columns"] == ["id", "c"]
