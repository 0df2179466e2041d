# SPDX-License-Identifier: MIT
"""exec with batches on standard input, a line each: what they may be, how they are answered, how it goes on."""
import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess

import pytest

from cli import BAD, LONG, insert, ndjson
from daemon import wait_for


# ---- exec, lines of stdin


def test_lines(cli):
    done = cli.exec("-", stdin=ndjson(
        "# a comment", "", "  \t", insert(1), "  # another",
        [["INSERT INTO t(a, b) VALUES (:a, $b)", {"a": None, "b": True}], ["DELETE FROM t WHERE a = 1"]],
        {"batch": insert("x"), "key": "lines-key", "deadline_ms": 5000, "class": "bulk",
         "ack": "committed"}))
    assert done.stdout == "3 lines applied\n" and done.stderr == ""
    # The third line is of another class: between classes there is no order.
    assert cli.rows("SELECT a, b FROM t ORDER BY b IS NULL") == [{"a": None, "b": 1}, {"a": "x", "b": None}]
    assert cli.exec("-", stdin="").stdout == "0 lines applied\n"
    assert cli.exec("-", stdin=json.dumps(insert(5))).stdout == "1 line applied\n"  # no newline
    assert cli.exec("-", stdin=ndjson(insert(5)).replace("\n", "\r\n")).stdout == "1 line applied\n"


VALUES = [None, True, False, 0, -2**63, 2**63 - 1, 2**53 + 1, 1.5, -0.1, 1e308, "", "Zoë \U0001f600",
          "nul\0inside", {"blob": "AP8="}, {"blob": ""}, {"text": "/w=="}]


def test_values_of_lines(cli):
    cli.exec("-", stdin=ndjson(*[insert(value) for value in VALUES]))
    expected = [int(value) if isinstance(value, bool) else value for value in VALUES]
    assert [row["a"] for row in cli.rows("SELECT a FROM t ORDER BY id")] == expected
    lines = cli.query("SELECT a FROM t ORDER BY id", "--ndjson").stdout.splitlines()
    assert [json.loads(line)["a"] for line in lines] == expected
    types = [row["k"] for row in cli.rows("SELECT typeof(a) k FROM t ORDER BY id")]
    assert types == (["null"] + ["integer"] * 6 + ["real"] * 3 + ["text"] * 3 + ["blob"] * 2 + ["text"])


def test_options_of_steps(cli):
    many = [["INSERT INTO t(a) VALUES (?)", [[1], [2], [3]], {"many": True, "expect": {"changes": 3}}]]
    named = [["INSERT INTO t(a) VALUES (:a)", [{"a": 4}], {"many": True}]]
    empty_rows = [["INSERT INTO t(a) VALUES (5)", [[], []], {"many": True}]]
    script = [["INSERT INTO t(a) VALUES (6); DELETE FROM t WHERE a = 6;", None, {"script": True}]]
    rows = [["SELECT a FROM t ORDER BY id", [], {"rows": 2, "truncate": True}]]
    guard = [["DELETE FROM t"], ["SELECT 1 WHERE 0", None, {"expect": {"rows": 1}}]]
    done = cli.exec("-", "--json", "--continue", code=5,
                    stdin=ndjson(many, named, empty_rows, script, rows, guard))
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert [o["line"] for o in out] == [1, 2, 3, 4, 5, 6]
    assert [o["outcome"] for o in out] == ["ok"] * 5 + ["failed"]
    assert [o["steps"][0]["changes"] for o in out[:4]] == [3, 1, 2, 2]
    assert out[4]["steps"][0]["rows"] == [[1], [2]] and out[4]["steps"][0]["truncated"] is True
    assert out[5]["code"] == "guard" and out[5]["step"] == 1
    assert cli.rows("SELECT count(*) n FROM t") == [{"n": 6}]


@pytest.mark.parametrize("line,why", [
    ("[[", "not JSON"), ("[] []", "not JSON"), ("5", "not JSON"), ("[]", "array of one step"),
    ("{}", "array of one step"), ('["SELECT 1"]', "a step is"), ('[["SELECT 1"', "not JSON"),
    ("[[]]", "a step is"), ("[[5]]", "a step is"), ('[["a", [], {}, 1]]', "a step is"),
    ('[["SELECT 1", 5]]', "params are"), ('[["SELECT ?", [[1]]]]', "a value is"),
    ('[["SELECT ?", [{"blob": 5}]]]', "base64"), ('[["SELECT ?", [{"blob": "A"}]]]', "base64"),
    ('[["SELECT ?", [{"blob": "AA=A"}]]]', "base64"), ('[["SELECT ?", [{"blob": "AA==", "x": 1}]]]', "blob"),
    ('[["SELECT ?", [{"date": "x"}]]]', "blob"), ('[["SELECT ?", [9223372036854775808]]]', "too big"),
    ('[["SELECT ?", [1e999]]]', "overflow"), ('[["SELECT :a", {"a": 1, "a": 2}]]', "duplicate"),
    ('[["SELECT 1", [], {"expects": 1}]]', 'no option "expects"'),
    ('[["SELECT 1", [], {"expect": 1}]]', "expect is"), ('[["SELECT 1", [], {"expect": {"x": 1}}]]', "expect is"),
    ('[["SELECT 1", [], {"expect": {"rows": 1, "changes": 1}}]]', "expect is"),
    ('[["SELECT 1", [], {"expect": {"rows": -1}}]]', "expect is"),
    ('[["SELECT 1", [], {"rows": -1}]]', "rows is"), ('[["SELECT 1", [], {"many": 1}]]', "true or false"),
    ('[["SELECT 1", [], {"truncate": true}]]', "truncate needs rows"),
    ('[["SELECT 1", [], {"many": true}]]', "with many"), ('[["SELECT 1", [1], {"script": true}]]', "no params"),
    ('[["SELECT 1", [], []]]', "options"), ('[["a\\u0000b"]]', "NUL"),
    ('{"batch": [["SELECT 1"]], "if": 1}', 'no key "if"'), ('{"batch": 5}', "array of one step"),
    ('{"batch": [["SELECT 1"]], "key": ""}', "key is"), ('{"batch": [["SELECT 1"]], "key": 5}', "key is"),
    ('{"batch": [["SELECT 1"]], "deadline_ms": 0}', "deadline_ms is"),
    ('{"batch": [["SELECT 1"]], "class": "x"}', "class is"), ('{"batch": [["SELECT 1"]], "ack": "x"}', "ack is"),
])
def test_lines_that_are_no_batch(cli, line, why):
    done = cli.exec("-", stdin=ndjson("", insert(1), line, insert(2)), code=5)
    first, last = done.stderr.splitlines()
    assert first.startswith("litefunnel exec: line 3: ") and why in first, first
    assert last == ("litefunnel exec: 1 line applied; failed: line 3; correct what failed; then go on "
                    f"with: tail -n +3 FILE | litefunnel exec {cli.db} -")
    assert cli.rows("SELECT a FROM t") == [{"a": 1}]


def test_failure_in_the_middle_can_be_gone_on_from(cli):
    """What the last line says, done literally, leaves each line applied once."""
    lines = [insert(i) for i in range(1, 101)]
    lines[49] = BAD
    done = cli.exec("-", "--in-flight", "1", stdin=ndjson(*lines), code=5)
    assert done.stderr.splitlines() == [
        "litefunnel exec: line 50: no such table: nowhere",
        "litefunnel exec: 49 lines applied; failed: line 50; correct what failed; then go on with: "
        f"tail -n +50 FILE | litefunnel exec {cli.db} -"]
    lines[49] = insert(50)
    cli.exec("-", stdin=ndjson(*lines[49:]))
    assert [row["a"] for row in cli.rows("SELECT a FROM t ORDER BY id")] == list(range(1, 101))


def test_failure_in_the_middle_of_many_in_flight(cli):
    lines = [insert(i) for i in range(1, 3001)]
    lines[1499] = BAD
    done = cli.exec("-", "--json", stdin=ndjson(*lines), code=5)
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert [o["line"] for o in out] == list(range(1, len(out) + 1))
    way = re.fullmatch(r"litefunnel exec: (\d+) lines applied; failed: line 1500; correct what failed"
                       r"(?: and send it by itself; the rest|; then go on with): tail -n \+(\d+) FILE \| .*\n",
                       done.stderr)
    applied, rest = int(way[1]), int(way[2])
    assert applied == sum(o["outcome"] == "ok" for o in out)
    assert {o["code"] for o in out if o["outcome"] == "failed"} <= {"sql", "cancelled"}
    lines[1499] = insert(1500)
    if "by itself" in done.stderr:
        cli.exec("-", stdin=ndjson(lines[1499]))
    cli.exec("-", stdin=ndjson(*lines[rest - 1:]))
    assert [row["a"] for row in cli.rows("SELECT a FROM t ORDER BY a")] == list(range(1, 3001))


def test_continue(cli):
    lines = [insert(1), BAD, insert(2), "nonsense", insert(3), BAD, BAD, insert(4)]
    done = cli.exec("-", "--continue", stdin=ndjson(*lines), code=5)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 5
    assert done.stderr.splitlines()[-1] == (
        "litefunnel exec: 4 lines applied; failed: lines 2, 4, 6-7; correct what failed and send it by "
        "itself")
    assert cli.value("SELECT group_concat(a) FROM t") == "1,2,3,4"
    many = cli.exec("-", "--continue", stdin=ndjson(*[BAD, insert(1)] * 40), code=5)
    assert many.stderr.splitlines()[-1].count(",") == 15 and "and 24 more" in many.stderr


def test_nothing_applied_is_exit_1(cli):
    for more in ((), ("--continue",)):
        done = cli.exec("-", *more, stdin=ndjson(BAD, BAD), code=1)
        assert "0 lines applied; failed: line" in done.stderr.splitlines()[-1]


def test_step_of_the_failure_is_named(cli):
    done = cli.exec("-", stdin=ndjson([["INSERT INTO t(a) VALUES (1)"], *BAD]), code=1)
    assert done.stderr.startswith("litefunnel exec: line 1, step 2: no such table: nowhere\n")
    assert cli.value("SELECT count(*) FROM t") == 0


def test_database_in_the_last_line_can_be_copied(bare, daemon):
    one = daemon(name="it's a.db")
    done = bare("exec", one.db, "-", stdin=ndjson(BAD), code=1)
    quoted = done.stderr.strip().partition("litefunnel exec ")[2].removesuffix(" -")
    assert subprocess.check_output(["sh", "-c", f"printf %s {quoted}"], text=True) == one.db


def test_lines_are_answered_as_they_come(cli):
    process = cli.start("exec", cli.db, "-", "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for i in range(5):
        process.stdin.write(ndjson(insert(i)))
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 30)[0]
        assert json.loads(process.stdout.readline())["line"] == i + 1
    process.stdin.close()
    assert process.wait() == 0
    process.stdout.close()


def test_interrupted_stream_says_how_far(cli):
    for number in (signal.SIGINT, signal.SIGTERM):
        process = cli.start("exec", cli.db, "-", "--json", stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write(ndjson(insert(1), insert(2)))
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait() == 5
        assert process.stderr.read() == (
            "litefunnel exec: interrupted; 2 lines applied; the rest: tail -n +3 FILE | "
            f"litefunnel exec {cli.db} -\n")
        process.communicate()


def test_reader_of_results_that_leaves(cli):
    process = cli.start("exec", cli.db, "-", "--json", stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    lines = [insert(i) for i in range(1, 20001)]
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(ndjson(*lines))
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    assert process.wait() == 5
    error = process.stderr.read()
    process.stderr.close()
    rest = int(re.search(r"tail -n \+(\d+) ", error)[1])
    assert cli.value("SELECT count(*) FROM t") == rest - 1
    assert cli.value("SELECT max(a) FROM t") == rest - 1


def test_stream_through_kills_is_applied_once(bare, daemon):
    one = daemon()
    bare("exec", one.db, "CREATE TABLE t(a)")
    count = 30000
    process = bare.start("exec", one.db, "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    half = count // 2
    for low, high in ((0, half), (half, count)):
        process.stdin.write(ndjson(*[insert(i) for i in range(low, high)]))
        process.stdin.flush()
        wait_for(lambda: one.read("SELECT count(*) FROM t")[0][0] > low, "it writes")
        one.kill()
        one.start()
    out, _ = process.communicate()
    assert process.returncode == 0 and out == f"{count} lines applied\n"
    assert one.read("SELECT count(*), count(DISTINCT a) FROM t") == [(count, count)]


def test_stream_without_a_daemon_any_more(bare, daemon):
    one = daemon()
    bare("exec", one.db, "CREATE TABLE t(a)")
    process = bare.start("exec", one.db, "-", "--json", "--deadline", "5s", stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(ndjson(insert(1)))
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["outcome"] == "ok"
    process.stdin.write(ndjson([[LONG.format(10**9) + "INSERT INTO t SELECT max(i) FROM n"]], insert(2)))
    process.stdin.flush()
    wait_for(lambda: one.stats()["running_batches"] > 0, "the second line runs")
    one.kill()
    out, err = process.communicate()
    assert process.returncode == 3
    assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["unknown", "unknown"]
    assert "1 line applied; unknown: lines 2-3; look in the database" in err


def test_progress_on_a_terminal(cli):
    ours, theirs = pty.openpty()
    process = cli.start("exec", cli.db, "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    process.stdin.write(ndjson(*[insert(i) for i in range(1000)]))
    out, _ = process.communicate()
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed and all of it is read
        while piece := os.read(ours, 65536):
            seen += piece
    seen = seen.decode()
    os.close(ours)
    assert out == "1000 lines applied\n" and "lines applied" in seen and seen.endswith("\r\x1b[K")


def test_large_batches(cli):
    text = "x" * 1000000
    lines = [[["INSERT INTO t(a) VALUES (?)", [text]]] for _ in range(60)]
    assert cli.exec("-", stdin=ndjson(*lines)).stdout == "60 lines applied\n"
    assert cli.value("SELECT sum(length(a)) FROM t") == 60000000
    done = cli.exec("-", stdin=ndjson(insert("x" * 20000000)), code=1)
    assert "frame" in done.stderr


def test_many_processes_at_once(cli):
    count, each = 8, 500
    processes = [cli.start("exec", cli.db, "-", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
                 for _ in range(count)]
    for number, process in enumerate(processes):
        process.stdin.write(ndjson(*[insert(number * each + i) for i in range(each)]))
        process.stdin.close()
    seen = 0
    while any(process.poll() is None for process in processes):
        now = cli.value("SELECT count(*) FROM t")
        assert now >= seen
        seen = now
    assert [process.wait() for process in processes] == [0] * count
    assert cli.rows("SELECT count(*) n, count(DISTINCT a) d FROM t") == [{"n": 4000, "d": 4000}]
