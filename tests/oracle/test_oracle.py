# SPDX-License-Identifier: MIT
"""
Short forms of the oracles; LF_SCALE multiplies them. The long one is differential.py --programs 2000.
"""
import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
import differential  # noqa: E402
import statements  # noqa: E402
from daemon import slowness  # noqa: E402

SCALE = float(os.environ.get("LF_SCALE", "1"))
PROGRAM = os.environ.get("LITEFUNNEL_BIN", "")


@pytest.mark.parametrize("way", differential.WAYS)
def test_grouped_batches_are_answered_as_alone(way):
    programs = max(int(60 * SCALE / slowness(PROGRAM)), 3)
    options = differential.options_of(["--programs", str(programs), "--way", way])
    figures, differences = differential.campaign(options)
    print(f"seed {options.seed}, {way}: {differential.line(figures)}")
    assert differences == []
    assert figures["grouped"] > programs


@pytest.mark.parametrize("script", statements.SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("pipelined", (False, True), ids=("one_by_one", "pipelined"))
def test_statements_are_answered_as_by_plain_sqlite(script, pipelined):
    count, differences = statements.run(PROGRAM, script, pipelined)
    assert differences == []
    assert count > 10


def test_there_are_enough_statements():
    assert sum(len(statements.records(path)) for path in statements.SCRIPTS) >= 300
