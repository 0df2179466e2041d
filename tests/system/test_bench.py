# SPDX-License-Identifier: MIT
"""litefunnel bench: short runs of every mode and workload; what it prints, and what it leaves behind."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

import pytest

QUICK = ("--seconds", "0.2", "--warmup", "0.05", "--writers", "2", "--table-rows", "500")


@pytest.fixture
def place():
    """An empty directory, with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="bench-") as path:
        yield pathlib.Path(path)


@pytest.fixture
def bench(litefunnel, place):
    """bench(*options) runs it in a directory of its own, which must be empty again afterwards."""
    def run(*options, code=0):
        ended = subprocess.run([litefunnel, "bench", "--db", place, *options], capture_output=True,
                               text=True, timeout=300)
        assert ended.returncode == code, ended.stderr
        assert list(place.iterdir()) == []
        return ended
    return run


def runs_of(bench, *options):
    return json.loads(bench("--json", *QUICK, *options).stdout)


@pytest.mark.parametrize("workload", ["insert", "update", "upsert", "tpcb", "jobs", "mixed"])
@pytest.mark.parametrize("mode", ["funnel", "direct", "raw"])
def test_the_database_holds_what_was_answered(bench, mode, workload):
    said = runs_of(bench, "--mode", mode, "--workload", workload, "--rows", "3", "--depth", "4")
    run, = said["runs"]
    assert run["mode"] == mode
    assert run["count"]["verdict"] == "right", run["count"]
    assert run["count"]["text"] != ""  # something was written, be it before or after the measured time
    assert run["writes"]["rows"] == run["writes"]["requests"] * run["batch_rows"]
    assert run["errors"] == {}


def test_the_shape_of_the_object(bench):
    said = runs_of(bench, "--readers", "1", "--bulk", "--sync", "normal", "--set", "commit_group_max=50")
    assert set(said) == {"machine", "load", "runs", "ratios"}
    assert said["load"]["settings"] == ["commit_group_max=50"] and said["load"]["sync"] == "normal"
    assert said["machine"]["cores"] >= 1 and said["machine"]["sync_us"] > 0
    run, = said["runs"]
    assert set(run) == {"mode", "round", "batch_rows", "seconds", "writes", "reads", "import", "errors", "cpu_s",
                        "commits", "group", "daemon_peak_bytes", "writer_s", "count", "written_bytes_per_row"}
    for side in "writes", "reads", "import":
        took = run[side]["latency_ms"]
        ordered = [took[name] for name in ("p50", "p90", "p99", "p99.9", "max")]
        assert ordered == sorted(ordered)
    shares = run["writes"]["shares"]
    assert shares["min"] <= shares["max"]
    assert run["cpu_s"]["daemon"] >= 0 and run["cpu_s"]["clients"] > 0
    assert run["group"] <= 50
    assert run["daemon_peak_bytes"] > 1 << 20


def test_compare_runs_the_modes_in_turn(bench):
    said = runs_of(bench, "--compare", "--rounds", "2", "--seconds", "0.5")
    assert [(run["round"], run["mode"]) for run in said["runs"]] == [
        (number, mode) for number in (1, 2) for mode in ("funnel", "funnel-no-keys", "direct", "raw")]
    ratios = {(ratio["mode"], ratio["of"]): ratio for ratio in said["ratios"]}
    assert ("direct", "direct") not in ratios
    for ratio in ratios.values():
        assert 0 <= ratio["min"] <= ratio["median"] <= ratio["max"]
    said = runs_of(bench, "--compare", "--rounds", "1", "--mode", "direct,funnel", "--no-keys")
    assert [run["mode"] for run in said["runs"]] == ["funnel-no-keys", "direct"]


def test_text_says_the_same_in_words(bench):
    text = bench(*QUICK, "--compare", "--rounds", "1").stdout
    for word in "machine", "disk", "p99.9", "shares", "commits", "written", "medians", "of direct", "right: ":
        assert word in text
    progress = bench("--writers", "1", "--seconds", "1.2", "--warmup", "0", "--progress").stderr
    assert "rows/s" in progress


def test_a_rate_is_kept_and_lateness_counts(bench):
    """What was due before the measured time and is answered in it counts too: so there is no time before."""
    said = runs_of(bench, "--rate", "200", "--seconds", "1", "--warmup", "0")
    assert said["runs"][0]["writes"]["requests"] <= 200


def test_a_stall_shows_in_every_request_that_it_held_up(litefunnel, place):
    """The daemon stands still for half a second: with a rate, not one request but all that were due then are late."""
    bench = subprocess.Popen([litefunnel, "bench", "--json", "--progress", "--db", place, "--writers", "1",
                              "--rate", "100", "--seconds", "4", "--warmup", "0", "--table-rows", "10"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    daemon = wait_for_child(bench.pid, "serve")
    assert b"rows/s" in bench.stderr.readline()  # one of four seconds is over
    os.kill(daemon, signal.SIGSTOP)
    time.sleep(0.6)  # the stall
    os.kill(daemon, signal.SIGCONT)
    run, = json.loads(bench.communicate(timeout=60)[0])["runs"]
    assert run["writes"]["latency_ms"]["max"] >= 500
    assert run["writes"]["latency_ms"]["p90"] >= 150  # of 400 requests 60 were held up, 40 for 200 ms and more


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def wait_for_child(pid, word, count=1):
    """The first child with that word in its command line, once there are `count` children."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = children(pid)
        for child in found:
            with open(f"/proc/{child}/cmdline", encoding="utf-8") as file:
                if word in file.read().split("\0") and len(found) >= count:
                    return child
        time.sleep(0.01)
    raise AssertionError(f"no child of {pid} runs {word}")


def test_an_interrupt_leaves_nothing_behind(litefunnel, place):
    bench = subprocess.Popen([litefunnel, "bench", "--db", place, "--seconds", "60", "--writers", "3"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    daemon = wait_for_child(bench.pid, "serve", count=4)
    bench.send_signal(signal.SIGINT)
    assert "interrupted" in bench.communicate(timeout=60)[1]
    assert bench.returncode == 1
    assert list(place.iterdir()) == []
    assert not os.path.exists(f"/proc/{daemon}")


def test_no_setting_of_the_environment_reaches_the_daemon(litefunnel, place):
    environment = dict(os.environ, LITEFUNNEL_COMMIT_GROUP_MAX="nonsense", LITEFUNNEL_SOCKET="/nowhere",
                       LITEFUNNEL_DB="/nowhere/app.db")
    subprocess.run([litefunnel, "bench", "--db", place, *QUICK], env=environment, check=True,
                   stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize("options, word", [
    (["--mode", "quick"], "--mode quick"),
    (["--mode", "direct,raw"], "--compare"),
    (["--workload", "all"], "--workload all"),
    (["--writers", "0"], "--writers 0"),
    (["--writers", "-1"], "--writers -1"),
    (["--rows", "1e3"], "--rows 1e3"),
    (["--rows", "10000", "--row-bytes", "1000"], "8 MiB"),
    (["--rows", "10000", "--workload", "tpcb"], "2000"),
    (["--rate", "nan"], "--rate nan"),
    (["--seconds", "0"], "--seconds 0"),
    (["--sync", "off"], "--sync off"),
    (["--set", "sync"], "NAME=VALUE"),
    (["--keys", "--no-keys"], "not both"),
    (["app.db"], "app.db"),
    (["--depth"], "--depth"),
])
def test_wrong_options(bench, options, word):
    assert word in bench(*options, code=2).stderr


def test_a_database_of_somebody_is_not_touched(litefunnel, place):
    path = place / "app.db"
    path.write_bytes(b"mine")
    ended = subprocess.run([litefunnel, "bench", "--db", path], capture_output=True, text=True)
    assert ended.returncode == 2 and "a directory" in ended.stderr
    assert path.read_bytes() == b"mine" and list(place.iterdir()) == [path]


def test_a_place_that_is_too_deep_for_a_socket_is_refused(litefunnel, place):
    deep = place / ("d" * 90)
    deep.mkdir()
    ended = subprocess.run([litefunnel, "bench", "--db", deep, *QUICK], capture_output=True, text=True)
    assert ended.returncode == 1 and "a shorter --db" in ended.stderr and list(deep.iterdir()) == []


def test_a_daemon_that_does_not_start_is_told(bench):
    assert "did not start" in bench(*QUICK, "--set", "no_such_setting=1", code=1).stderr
