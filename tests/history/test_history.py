# SPDX-License-Identifier: MIT
"""
Short forms of the killing machines; LF_SCALE multiplies them. The long ones are the programs'
own options: kills.py --kills 20000, kill_at_syscall.py.
"""
import os
import pathlib
import shutil
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
import cgroup  # noqa: E402
import kill_at_syscall  # noqa: E402
import kills  # noqa: E402
from daemon import sanitizer, slowness  # noqa: E402

SCALE = float(os.environ.get("LF_SCALE", "1"))
PARTS = 8  # of the system calls, for two workers
PROGRAM = os.environ.get("LITEFUNNEL_BIN", "")


def scaled(number):
    """Of the full number, what this run does: less of a program that is slow by its sanitizer."""
    return max(int(number * SCALE / slowness(PROGRAM)), 1)


def test_nothing_is_lost_or_done_twice_when_it_is_killed():
    options = kills.options_of(["--kills", str(scaled(150))])
    figures, findings = kills.campaign(options)
    print(f"seed {options.seed}: {kills.line(figures)}")
    assert findings == []
    assert figures["repeats"] > 0 and figures["resends"] > figures["repeats"]
    assert figures["reads"] > 0


def test_nothing_is_lost_or_done_twice_when_it_is_stopped_for_a_while():
    options = kills.options_of(["--kills", str(scaled(10)), "--stops", str(scaled(20)),
                                "--short", "0.1", "--cut", "0.02"])
    figures, findings = kills.campaign(options)
    print(f"seed {options.seed}: {kills.line(figures)}")
    assert findings == []
    assert figures["unknown"] > 0


def test_nothing_is_lost_or_done_twice_when_it_is_restarted():
    options = kills.options_of(["--kills", "0", "--restarts", str(scaled(60))])
    figures, findings = kills.campaign(options)
    print(f"seed {options.seed}: {kills.line(figures)}")
    assert findings == []
    assert figures["restarts"] == scaled(60) and figures["reads"] > 0


def test_nothing_is_lost_or_done_twice_when_memory_runs_out():
    if sanitizer(PROGRAM):
        pytest.skip("a sanitizer takes memory of its own")
    try:
        cgroup.Memory("litefunnel-test").remove()
    except OSError as error:
        pytest.skip(str(error))
    options = kills.options_of(["--kills", "0", "--ooms", str(scaled(10))])
    figures, findings = kills.campaign(options)
    print(f"seed {options.seed}: {kills.line(figures)}")
    assert findings == []
    assert figures["ooms"] == scaled(10)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.skipif(slowness(PROGRAM) > 1 if PROGRAM else False,
                    reason="sanitizers do not run under strace")
@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_killed_at_each_system_call(part):
    kills_done, findings = kill_at_syscall.campaign(kill_at_syscall.options_of(
        ["--part", f"{part}/{PARTS}", "--batches", "12"]))
    assert findings == []
    assert kills_done > 0
