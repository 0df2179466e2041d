# SPDX-License-Identifier: MIT
"""The commands exec, query, status, show, reload, shutdown, check-config and version."""
import base64
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import time

import pytest

from cli import BAD, LONG, insert, ndjson
from daemon import wait_for

COMMANDS = ["exec", "query", "status", "show", "reload", "shutdown", "check-config", "version"]


# ---- the command line


def test_help_of_every_command(bare):
    names = re.findall(r"^  ([a-z-]+) {2,}", bare("--help").stdout, re.M)
    assert set(COMMANDS) < set(names)
    for name in names:
        lines = bare(name, "--help").stdout.splitlines()
        assert lines[0].startswith(f"usage: litefunnel {name}") and max(map(len, lines)) <= 100, name


@pytest.mark.parametrize("command", COMMANDS)
def test_help(bare, command):
    done = bare(command, "--help")
    assert done.stdout.startswith(f"usage: litefunnel {command}") and done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("args", [
    ("exec",), ("exec", "x.db"), ("exec", "-"), ("exec", "INSERT INTO t VALUES (1)", "2"),
    ("exec", "x.db", "-", "5"), ("exec", "x.db", "-", "--key", "k"), ("exec", "x.db", "-", "--text"),
    ("exec", "x.db", "SELECT 1", "--nonsense"), ("exec", "x.db", "SELECT 1", "--key"),
    ("exec", "x.db", "SELECT 1", "--key", ""), ("exec", "x.db", "SELECT 1", "--key", "k" * 256),
    ("exec", "x.db", "SELECT 1", "--ack", "never"), ("exec", "x.db", "SELECT 1", "--class", "vip"),
    ("exec", "x.db", "SELECT 1", "--deadline", "5"), ("exec", "x.db", "SELECT 1", "--deadline", "0s"),
    ("exec", "x.db", "SELECT 1", "--deadline", "99999h"), ("exec", "x.db", "SELECT 1", "--json=1"),
    ("exec", "x.db", "-", "--in-flight", "0"), ("exec", "x.db", "-", "--in-flight", "1001"),
    ("exec", "x.db", "SELECT 1", "--header", "perhaps"), ("exec", "", "SELECT 1"),
    ("exec", f"/tmp/{'d' * 100}/x.db", "SELECT 1"),
    ("query",), ("query", "x.db"), ("query", "x.db", "SELECT 1", "--header", "1"),
    ("query", "x.db", "SELECT 1", "--socket", "s"),
    ("status",), ("status", "x.db", "y.db"), ("status", "x.db", "--checks"),
    ("show", "x.db"), ("show", "x.db", "stats", "more"), ("show", "x.db", "stats", "--like"),
    ("reload",), ("reload", "x.db", "y.db"), ("shutdown",), ("shutdown", "x.db", "now"),
    ("check-config",), ("check-config", "a", "b"), ("check-config", "--sample", "a"),
    ("version", "x"), ("version", "--no"),
])
def test_usage_errors(bare, args):
    done = bare(*args, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith(f"litefunnel {args[0]}: ") and "--help" in done.stderr


def test_database_from_the_environment(cli):
    env = {"LITEFUNNEL_DB": cli.db}
    cli("exec", "INSERT INTO t(a) VALUES (?)", "1", env=env)
    cli("exec", "-", stdin=ndjson(insert(2)), env=env)
    assert cli("query", "SELECT count(*) FROM t", env=env).stdout == "2\n"
    assert cli("query", cli.db, "SELECT count(*) FROM t WHERE a > ?", "1", env=env).stdout == "1\n"
    assert cli("status", env=env).stdout.startswith("ok\n")
    assert cli("show", "queue", env=env).stdout.startswith("class\twaiting\n")
    assert cli("reload", env=env).stdout == "nothing changed\n"


def test_options_stand_anywhere_and_end_at_two_dashes(cli):
    cli("exec", "--deadline", "9s", cli.db, "INSERT INTO t(a, b) VALUES (?, ?)", "-5", "--json", "-x")
    cli("exec", cli.db, "INSERT INTO t(a, b) VALUES (?, ?)", "--", "--json", "-")
    assert cli.rows("SELECT a, b FROM t") == [{"a": -5, "b": "-x"}, {"a": "--json", "b": "-"}]


def test_socket(cli, served, tmp_path):
    path = str(tmp_path / "link")
    os.symlink(served.socket, path)
    elsewhere = str(tmp_path / "no.db")
    done = cli("exec", elsewhere, "INSERT INTO t(a) VALUES (1)", "--socket", path)
    assert done.stdout.startswith("1 row changed, commit ")
    cli("exec", elsewhere, "INSERT INTO t(a) VALUES (2)", env={"LITEFUNNEL_SOCKET": path})
    assert cli("show", elsewhere, "queue", "--socket", path).stdout.startswith("class")


# ---- parameters


@pytest.mark.parametrize("typed,kind,value", [
    ("5", "integer", 5), ("-5", "integer", -5), ("0", "integer", 0), ("-0", "text", "-0"),
    ("007", "text", "007"), ("+1", "text", "+1"), (" 1", "text", " 1"), ("1 ", "text", "1 "),
    ("", "text", ""), ("1_000", "text", "1_000"), ("0x10", "text", "0x10"),
    ("9223372036854775807", "integer", 2**63 - 1), ("-9223372036854775808", "integer", -2**63),
    ("9223372036854775808", "text", "9223372036854775808"),
    ("9007199254740993", "integer", 9007199254740993),
    ("1.5", "real", 1.5), ("-0.1", "real", -0.1), ("1.50", "text", "1.50"), ("1.", "text", "1."),
    (".5", "text", ".5"), ("3.0", "real", 3.0), ("1e5", "text", "1e5"), ("1e+100", "real", 1e100),
    ("1e400", "text", "1e400"), ("0.30000000000000004", "real", 0.1 + 0.2),
    ("0.1000000000000000055", "text", "0.1000000000000000055"), ("1,5", "text", "1,5"),
    ("inf", "text", "inf"), ("nan", "text", "nan"), ("NULL", "null", None), ("null", "text", "null"),
    ("x'00ff'", "blob", {"blob": "AP8="}), ("X'00FF'", "blob", {"blob": "AP8="}),
    ("x''", "blob", {"blob": ""}), ("x'0'", "text", "x'0'"), ("x'0g'", "text", "x'0g'"),
    ("x'00", "text", "x'00"), ("'x'", "text", "'x'"), ("@", "text", "@"), (":)", "text", ":)"),
    (":1=2", "text", ":1=2"), ("::1", "text", "::1"), ("a=b", "text", "a=b"), (":=", "text", ":="),
    ("Zoë 日本 \U0001f600", "text", "Zoë 日本 \U0001f600"), ("tab\there\n", "text", "tab\there\n"),
])
def test_param(cli, typed, kind, value):
    cli.exec("INSERT INTO t(a, b) VALUES (?1, typeof(?1))", typed)
    assert cli.rows("SELECT a, b FROM t") == [{"a": value, "b": kind}]
    assert cli.rows("SELECT ?1 a, typeof(?1) b", typed) == [{"a": value, "b": kind}]
    cli.exec("INSERT INTO t(a, b) VALUES (?1, typeof(?1))", typed, "--text")
    assert cli.rows("SELECT a, b FROM t WHERE id = 2") == [{"a": typed, "b": "text"}]
    assert cli.rows("SELECT ?1 a, typeof(?1) b", "--text", typed) == [{"a": typed, "b": "text"}]
    if kind in ("integer", "real"):
        assert cli.query("SELECT a FROM t WHERE id = 1").stdout == typed + "\n"


def test_named_params(cli):
    cli.exec("INSERT INTO t(a, b) VALUES (:first, @second)", ":second=NULL", ":first=1=2")
    assert cli.rows("SELECT a, b FROM t") == [{"a": "1=2", "b": None}]
    assert cli.value("SELECT $ü_1 + @b + :c", ":ü_1=1", ":b=2", ":c=3") == 6
    for run in (cli.exec, cli.query):
        assert "name all parameters or none" in run("SELECT :a, ?", ":a=1", "2", code=1).stderr
        assert "b" in run("SELECT :a", ":b=1", code=1).stderr
        run("SELECT ?", code=1)
        run("SELECT 1", "1", code=1)


def test_files_as_blobs(cli, tmp_path):
    data = bytes(range(256)) * 1000
    (tmp_path / "blob").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")
    cli.exec("INSERT INTO t(a, b) VALUES (?, :b)".replace(":b", "?"), f"@{tmp_path}/blob",
             f"@{tmp_path}/empty")
    assert base64.b64decode(cli.value("SELECT a FROM t")["blob"]) == data
    assert cli.rows("SELECT typeof(b) k, length(b) n FROM t") == [{"k": "blob", "n": 0}]
    assert cli.query("SELECT a FROM t").stdout == f"x'{data.hex()}'\n"
    assert cli.value("SELECT length(:x)", f":x=@{tmp_path}/blob") == len(data)
    for name in ("missing", ""):
        done = cli.exec("INSERT INTO t(a) VALUES (?)", f"@{tmp_path}/{name}", code=1)
        assert "cannot read" in done.stderr


def test_bytes_that_are_no_text(cli):
    broken = b"a\xffb\xc0\xaf\xed\xa0\x80".decode("utf-8", "surrogateescape")
    cli.exec("INSERT INTO t(a, b) VALUES (?1, typeof(?1))", broken)
    assert cli.query("SELECT a, b FROM t").stdout == f"{broken}\ttext\n"
    coded = {"text": base64.b64encode(broken.encode("utf-8", "surrogateescape")).decode()}
    assert cli.rows("SELECT a, b FROM t") == [{"a": coded, "b": "text"}]
    cli.exec("-", stdin=ndjson([["INSERT INTO t(a) VALUES (?)", [coded]]]))
    assert cli.value("SELECT count(*) FROM t WHERE a = ?", broken) == 2
    assert cli.terminal("query", cli.db, "SELECT a FROM t LIMIT 1").splitlines()[-1] == \
        r"a\xffb\xc0\xaf\xed\xa0\x80"
    assert "UTF-8" in cli.exec(f"SELECT '{broken}'", code=1).stderr


# ---- exec, one write


def test_exec_prints_changes(cli):
    assert re.fullmatch(r"2 rows changed, commit \d+\n",
                        cli.exec("INSERT INTO t(a) VALUES (1), (2)").stdout)
    assert re.fullmatch(r"1 row changed, commit \d+\n",
                        cli.exec("DELETE FROM t WHERE a = 1").stdout)


def test_exec_prints_returned_rows(cli):
    sql = "INSERT INTO t(a, b) VALUES (?, x'01'), (NULL, 'x') RETURNING id, a, b"
    assert cli.exec(sql, "1.5").stdout == "1\t1.5\tx'01'\n2\t\\N\tx\n"
    assert cli.exec(sql, "1.5", "--header", "on").stdout.startswith("id\ta\tb\n3\t")
    assert cli.exec("DELETE FROM t WHERE 0 RETURNING a").stdout == ""


def test_exec_json(cli):
    out = json.loads(cli.exec("INSERT INTO t(a) VALUES (?) RETURNING id, a", "x'ff'", "--json").stdout)
    assert out["outcome"] == "ok" and out["durability"] == "full" and len(out["epoch"]) == 32
    assert out["steps"] == [{"changes": 1, "total": 1, "rowid": 1, "columns": ["id", "a"],
                             "types": ["INTEGER", None], "rows": [[1, {"blob": "/w=="}]]}]
    assert {"commit", "queued_us", "exec_us", "commit_us", "group"} < set(out)
    done = cli.exec("INSERT INTO t(id) VALUES (1)", "--json", code=1)
    assert json.loads(done.stdout) == {
        "outcome": "failed", "code": "sql", "message": "UNIQUE constraint failed: t.id",
        "applied": "no", "retry": False, "sqlite": 1555, "step": 0}


def test_messages_of_sqlite_come_unchanged(cli):
    for sql in ("INSERT INTO nowhere VALUES (1)", "INSER", "SELECT * FROM t WHERE nope = 1"):
        with sqlite3.connect(f"file:{cli.db}?mode=ro", uri=True) as plain:
            with pytest.raises(sqlite3.OperationalError) as error:
                plain.execute(sql)
        assert cli.exec(sql, code=1).stderr == f"litefunnel exec: {error.value}\n"
        assert cli.query(sql, code=1).stderr == f"litefunnel query: {error.value}\n"


def test_key_makes_a_repetition_harmless(cli):
    sql = "INSERT INTO t(a) VALUES (?)"
    cli.exec(sql, "1", "--key", "test-key")
    assert "a repeat" in cli.exec(sql, "1", "--key", "test-key").stdout
    again = json.loads(cli.exec(sql, "1", "--key", "test-key", "--json").stdout)
    assert again["repeat"] is True
    assert cli.value("SELECT count(*) FROM t") == 1
    assert json.loads(cli.exec(sql, "2", "--key", "test-key", "--json", code=1).stdout)["code"] == \
        "key_mismatch"


def test_repeat_that_lost_its_rows_says_so(cli):
    sql = "INSERT INTO t(a) VALUES (zeroblob(100000)) RETURNING a"
    assert len(cli.exec(sql, "--key", "large").stdout) > 200000
    done = cli.exec(sql, "--key", "large")
    assert done.stdout == "" and "repeat" in done.stderr
    assert cli.value("SELECT count(*) FROM t") == 1


def test_ack_and_class(cli):
    cli.exec("INSERT INTO t(a) VALUES (1)", "--ack", "committed", "--class", "bulk")
    assert "replica" in cli.exec("INSERT INTO t(a) VALUES (1)", "--ack", "shipped", code=1).stderr
    line = {"batch": insert(1), "ack": "shipped"}
    assert "replica" in cli.exec("-", stdin=ndjson(line), code=1).stderr
    assert "replica" in cli.exec("-", "--ack", "shipped", stdin=ndjson(insert(1)), code=1).stderr
    assert cli.value("SELECT count(*) FROM t") == 1


def test_exit_4_without_a_daemon(bare, daemon):
    one = daemon()
    one.stop()
    for args in (("exec", one.db, "SELECT 1"), ("show", one.db, "stats"), ("reload", one.db),
                 ("shutdown", one.db)):
        done = bare(*args, "--deadline", "300ms", code=4)
        assert "no answer within 300 ms: cannot connect to" in done.stderr
    done = bare("exec", one.db, "-", "--deadline", "300ms", "--json", code=4, stdin=ndjson(BAD))
    assert json.loads(done.stdout)["code"] == "deadline"
    assert "0 lines applied" in done.stderr


def test_exit_4_when_the_queue_is_too_long(bare, daemon):
    one = daemon()
    bare("exec", one.db, "CREATE TABLE t(a)")
    slow = bare.start("exec", one.db, LONG.format(10**9) + "INSERT INTO t SELECT max(i) FROM n",
                      "--deadline", "1m", stderr=subprocess.DEVNULL)
    one.wait_runs(slow)
    for _ in range(10):  # the daemon's "no" may come too late for the client, who then knows less
        done = subprocess.run([bare.program, "exec", one.db, "INSERT INTO t VALUES (1)", "--deadline",
                               "900ms"], capture_output=True, text=True, check=False)
        assert done.returncode in (3, 4)
        if done.returncode == 4:
            break
    assert done.stderr == "litefunnel exec: the deadline passed while the request waited\n"
    one.kill()
    slow.kill()
    slow.wait()
    assert one.start().read("SELECT count(*) FROM t") == [(0,)]


def test_exit_3_when_the_daemon_dies_in_the_middle(bare, daemon):
    one = daemon()
    bare("exec", one.db, "CREATE TABLE t(a)")
    for json_too in ((), ("--json",)):
        slow = bare.start("exec", one.db, LONG.format(10**9) + "INSERT INTO t SELECT max(i) FROM n",
                          "--deadline", "5s", *json_too, stderr=subprocess.PIPE,
                          stdout=subprocess.PIPE)
        one.wait_runs(slow)
        one.kill()
        out, err = slow.communicate()
        assert slow.returncode == 3
        assert err.startswith("litefunnel exec: outcome unknown: ")
        assert not json_too or json.loads(out)["applied"] == "unknown"
        one.start()
    assert bare("query", one.db, "SELECT count(*) FROM t").stdout == "0\n"


def test_a_restart_is_not_noticed(bare, daemon):
    one = daemon()
    one.stop()
    waiting = bare.start("exec", one.db, "CREATE TABLE t(a)", stdout=subprocess.DEVNULL)
    one.start()
    assert waiting.wait() == 0


# ---- query


def test_query_needs_no_daemon(bare, daemon):
    one = daemon()
    bare("exec", one.db, "CREATE TABLE t(a)")
    bare("exec", one.db, "INSERT INTO t VALUES (1)")
    for end in (one.kill, one.start, one.stop):
        assert bare("query", one.db, "SELECT a FROM t").stdout == "1\n"
        end()
    assert bare("query", one.db, "SELECT a FROM t").stdout == "1\n"


def test_query_of_a_plain_database(bare, tmp_path):
    path = tmp_path / ("long" * 20) / ("name" * 20)
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.executescript("CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    before = path.read_bytes()
    assert bare("query", str(path), "SELECT a FROM t").stdout == "1\n"
    for sql in ("DELETE FROM t", "PRAGMA user_version = 5", "VACUUM", "CREATE TABLE u(a)"):
        bare("query", str(path), sql, code=1)
    assert path.read_bytes() == before
    assert "No such file" in bare("query", str(tmp_path / "no.db"), "SELECT 1", code=1).stderr
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    assert "not a database" in bare("query", str(tmp_path / "junk"), "SELECT * FROM t", code=1).stderr


@pytest.mark.parametrize("sql", [
    "INSERT INTO t(a) VALUES (1)", "DELETE FROM t", "CREATE TABLE u(a)", "BEGIN IMMEDIATE", "VACUUM",
    "PRAGMA user_version = 5",
])
def test_query_refuses_writes(cli, sql):
    assert "(use: litefunnel exec)" in cli.query(sql, code=1).stderr


def test_query_never_makes_a_file(cli, tmp_path):
    cli.query("VACUUM INTO ?", str(tmp_path / "copy.db"), code=1)
    cli("query", cli.db, f"ATTACH '{tmp_path}/new.db' AS n", code=1)
    assert list(tmp_path.iterdir()) == []


def test_query_takes_one_statement(cli):
    assert cli.query("SELECT 1; -- end\n ; /* nothing */").stdout == "1\n"
    assert "one statement only" in cli.query("SELECT 1; SELECT 2", code=1).stderr
    assert "one statement only" in cli.query("SELECT 1; nonsense", code=1).stderr
    assert "no statement" in cli.query(" -- nothing", code=1).stderr
    assert cli.query("SELECT 1 AS a WHERE 0").stdout == ""


def test_query_formats(cli):
    sql = r"SELECT 1 AS a, NULL AS a, 'tab' || char(9) || 'nl' || char(10) || '\' || char(0) AS b, " \
          "x'0aff' AS c, 1e999 AS d, -1e999 AS e, 0.1 AS f, 1e100 AS g, 100.0 AS h, '\"' AS i"
    lines = cli.query(sql, "--header", "on").stdout.splitlines()
    assert lines == ["a\ta\tb\tc\td\te\tf\tg\th\ti",
                     "1\t\\N\ttab\\tnl\\n\\\\\\0\tx'0aff'\tInf\t-Inf\t0.1\t1e+100\t100.0\t\""]
    row = {"a": 1, "a:2": None, "b": "tab\tnl\n\\\0", "c": {"blob": "Cv8="}, "d": float("inf"),
           "e": float("-inf"), "f": 0.1, "g": 1e100, "h": 100.0, "i": '"'}
    assert cli.rows(sql) == [row]
    assert [json.loads(line) for line in cli.query(sql, "--ndjson").stdout.splitlines()] == [row]
    assert cli.query("SELECT 1 WHERE 0", "--json").stdout == "[]\n"
    assert cli.query("SELECT 1 WHERE 0", "--ndjson").stdout == ""
    assert len(cli.rows("SELECT 1 UNION SELECT 2")) == 2


def test_query_on_a_terminal(cli):
    sql = ("SELECT 'abc' AS name, 1 AS n, NULL AS no_value UNION ALL "
           "SELECT '日本', 1234, char(27) || '[31mred' || char(0x9b) || '2J' || char(10)")
    assert cli.terminal("query", cli.db, sql).splitlines() == [
        "name  n     no_value",
        "----  ----  ---------------------",
        "abc      1  NULL",
        "日本  1234  \\x1b[31mred\\u{9b}2J\\n"]
    assert cli.terminal("query", cli.db, "SELECT 1", "--header", "off") == "1\n"
    assert cli.terminal("query", cli.db, "SELECT 1", "--json") == '[{"1":1}]\n'
    rows = cli.terminal("query", cli.db, LONG.format(1000) + "SELECT i, i * 100000 AS big FROM n")
    assert len(rows.splitlines()) == 1002


def test_query_streams(cli):
    """The first rows come long before the last, and memory does not grow with their number."""
    for form in ((), ("--json",), ("--ndjson",)):
        process = cli.start("query", cli.db, LONG.format(100000000) + "SELECT i, 'text' || i AS t FROM n",
                            *form, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            env={"ASAN_OPTIONS": "quarantine_size_mb=1"})
        for _ in range(20000):
            assert process.stdout.readline()
        with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
            early = int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])
        for _ in range(200000):
            assert process.stdout.readline()
        with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
            late = int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])
        process.stdout.close()
        assert process.wait() != 0
        assert late < early + 4096


def test_query_that_fails_in_the_middle(cli):
    cli.exec("INSERT INTO t(a) VALUES (1), ('not json')")
    done = cli.query("SELECT json(a) FROM t ORDER BY id", code=1)
    assert done.stdout == "1\n" and done.stderr == "litefunnel query: malformed JSON\n"


def test_query_sees_what_was_acknowledged(cli):
    for i in range(20):
        cli.exec("INSERT INTO t(a) VALUES (?)", str(i))
        assert cli.value("SELECT max(a) FROM t") == i


def test_full_disk_is_no_success(cli):
    with open("/dev/full", "w", encoding="ascii") as full:
        for args in (("query", cli.db, "SELECT 1"), ("show", cli.db, "stats"), ("status", cli.db),
                     ("version",), ("check-config", "--sample")):
            process = cli.start(*args, stdout=full, stderr=subprocess.PIPE)
            _, err = process.communicate()
            assert process.returncode == 1 and "cannot write the output: No space" in err, args


# ---- status, show, reload, shutdown


def test_status_ok(cli, served):
    lines = cli("status", cli.db).stdout.splitlines()
    assert lines[0] == "ok"
    assert any(line.startswith("daemon") and f"pid {served.process.pid}," in line for line in lines)
    assert cli("status", cli.db, "--check").stdout == "ok\n"
    facts = json.loads(cli("status", cli.db, "--json").stdout)
    assert facts["status"] == "ok" and facts["role"] == "admin" and facts["db"] == cli.db
    assert facts["commit"] == served.stats()["commit"] and facts["wal_bytes"] > 0


def test_status_stopped(bare, daemon):
    one = daemon()
    bare("exec", one.db, "CREATE TABLE t(a)")
    pid = one.process.pid
    for end in (one.kill, one.stop):
        end()
        ((commit,),) = one.read("SELECT commit_no FROM _lf_state")
        began = time.monotonic()
        lines = bare("status", one.db, code=4).stdout.splitlines()
        assert time.monotonic() - began < 4 * one.slow
        assert lines[0] == f"stopped: no daemon runs; the last one was pid {pid}, which is dead"
        assert f"commit     {commit}" in lines
        assert bare("status", one.db, "--check", code=4).stdout == lines[0] + "\n"
        facts = json.loads(bare("status", one.db, "--json", code=4).stdout)
        assert (facts["status"], facts["lock"], facts["last_pid"]) == ("stopped", "free", pid)
        assert facts["commit"] == commit and len(facts["epoch"]) == 32
        one.start()
        pid = one.process.pid


def test_status_of_a_daemon_that_does_not_answer(bare, daemon):
    one = daemon()
    os.kill(one.process.pid, signal.SIGSTOP)
    try:
        done = bare("status", one.db, "--deadline", "600ms", code=4)
        assert done.stdout.startswith(f"stopped: the daemon, pid {one.process.pid}, does not answer (")
        assert json.loads(bare("status", one.db, "--deadline", "600ms", "--json",
                               code=4).stdout)["lock"] == "held"
    finally:
        os.kill(one.process.pid, signal.SIGCONT)


def test_status_degraded(bare, daemon):
    one = daemon(exec_timeout="10m")
    bare("exec", one.db, "CREATE TABLE t(a)")
    slow = bare.start("exec", one.db, "--deadline", "10m", LONG.format(10**9) +
                      "INSERT INTO t SELECT max(i) FROM n", stdout=subprocess.DEVNULL)
    one.wait_runs(slow)
    waiting = bare.start("exec", one.db, "INSERT INTO t VALUES (1)", stdout=subprocess.DEVNULL)
    wait_for(lambda: one.stats()["queue_batches"] == 1, "another waits")
    assert bare("status", one.db).stdout.startswith("ok\n")
    for process in (one, slow, waiting):
        process.kill()
    assert slow.wait() < 0 and waiting.wait() < 0


def test_status_of_nothing(bare, tmp_path):
    done = bare("status", str(tmp_path / "no.db"), code=4)
    assert done.stdout.startswith(f"stopped: there is no database {tmp_path}/no.db\n")
    assert list(tmp_path.iterdir()) == []
    assert "cannot" in bare("status", str(tmp_path / "no" / "no.db"), code=1).stderr or True
    with contextlib.closing(sqlite3.connect(tmp_path / "plain.db")) as plain:
        plain.executescript("CREATE TABLE t(a)")
    done = bare("status", str(tmp_path / "plain.db"), code=4)
    assert done.stdout.startswith("stopped: no daemon runs, and none has\n")
    assert "commit     unknown: " in done.stdout


def test_status_does_not_keep_a_daemon_from_starting(bare, daemon):
    one = daemon()
    one.stop()
    looks = [bare.start("status", one.db, stdout=subprocess.DEVNULL) for _ in range(4)]
    one.start()
    for look in looks:
        assert look.wait() in (0, 4)


def test_show(cli, served):
    lines = cli("show", cli.db, "stats").stdout.splitlines()
    assert lines[0] == "name\tvalue" and f"db\t{cli.db}" in lines
    stats = {row["name"]: row["value"] for row in json.loads(cli("show", cli.db, "stats", "--json").stdout)}
    assert stats["pid"] == served.process.pid
    like = json.loads(cli("show", cli.db, "stats", "--like", "wal_*", "--json").stdout)
    assert [row["name"] for row in like] == [name for name in stats if name.startswith("wal_")]
    (me,) = json.loads(cli("show", cli.db, "clients", "--like", "litefunnel-cli/*", "--json").stdout)
    assert me["label"] == "show" and me["role"] == "admin"
    config = json.loads(cli("show", cli.db, "config", "--json").stdout)
    assert {"name": "sync", "value": "full", "default": "full", "source": "default"}.items() <= \
        next(row for row in config if row["name"] == "sync").items()
    assert [row["class"] for row in json.loads(cli("show", cli.db, "queue", "--json").stdout)] == \
        ["interactive", "normal", "bulk"]
    assert cli.terminal("show", cli.db, "queue").startswith("class        waiting\n")
    assert "there are clients, queue, waits," in cli("show", cli.db, "nothing", code=1).stderr


def test_reload(bare, daemon, tmp_path):
    config = tmp_path / "app.conf"
    config.write_text("rows_max = 5\n")
    one = daemon(config=config)
    assert bare("reload", one.db).stdout == "nothing changed\n"
    config.write_text("rows_max = 7\nslow = 2s\nsync = normal\n")
    assert bare("reload", one.db).stdout == "rows_max: 5 -> 7\nslow: 1s -> 2s\n"
    config.write_text("rows_max = 9\nslow = 2s\n")
    assert json.loads(bare("reload", one.db, "--json").stdout) == {
        "changed": [{"name": "rows_max", "was": "7", "is": "9"}]}
    config.write_text("rows_max = many\n")
    assert "rows_max" in bare("reload", one.db, code=1).stderr
    assert bare("show", one.db, "config", "--like", "rows_max").stdout.splitlines()[1].startswith(
        "rows_max\t9\t")


def test_shutdown(bare, daemon):
    one = daemon()
    assert bare("shutdown", one.db).stdout == "stopping\n"
    assert one.wait() == 0
    one.start()
    assert bare("shutdown", one.db, "--wait").stdout == "stopped\n"
    assert one.wait(5) == 0
    bare("shutdown", one.db, "--wait", "--deadline", "300ms", code=4)


def test_shutdown_waits_for_what_runs(bare, daemon):
    one = daemon(drain_timeout="10m", exec_timeout="10m")
    bare("exec", one.db, "CREATE TABLE t(a)")
    slow = bare.start("exec", one.db, "--deadline", "10m",
                      LONG.format(10**7 // one.slow) + "INSERT INTO t SELECT max(i) FROM n",
                      stdout=subprocess.DEVNULL)
    one.wait_runs(slow)
    done = bare("shutdown", one.db, "--wait", "--deadline", "500ms", code=3)
    assert "has not ended in time" in done.stderr
    bare("status", one.db, "--deadline", "300ms", code=4)  # who drains takes no new clients
    assert slow.wait() == 0 and one.wait() == 0
    assert bare("query", one.db, "SELECT a FROM t").stdout == f"{10**7 // one.slow}\n"


def test_roles_are_told(bare, daemon):
    one = daemon(roles_ddl="", roles_query="*")
    os.chmod(os.path.dirname(one.db), 0o2755)
    os.chmod(one.socket, 0o666)
    who = ["setpriv", "--reuid", "20077", "--regid", "20077", "--clear-groups"]
    for args in (("exec", one.db, "CREATE TABLE t(a)"), ("reload", one.db), ("shutdown", one.db)):
        done = subprocess.run([*who, bare.program, *args], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "needs the role" in done.stderr, done


# ---- check-config, version


def test_check_config_names_who_is_unknown(bare, tmp_path):
    path = tmp_path / "app.conf"
    path.write_text("roles_ddl = root, 12345, @99999, *\nroles_write = nobdy, @wheeel\n"
                    "classes = batchs=bulk, label:x=normal, role:query=normal, *=interactive\n")
    said = bare("check-config", str(path))
    assert said.stdout == f"{path} is good\n"
    want = ['roles_write: this machine knows no user "nobdy"', 'roles_write: this machine knows no group "wheeel"',
            'classes: this machine knows no user "batchs"']
    assert [line.partition("warning: ")[2] for line in said.stderr.splitlines()] == want
    assert json.loads(bare("check-config", str(path), "--json").stdout) == {"ok": True, "error": "", "warnings": want}


def test_check_config(bare, tmp_path):
    path = tmp_path / "app.conf"
    path.write_text("# comment\nsync = normal\n\nrows_max=5\n")
    assert bare("check-config", str(path)).stdout == f"{path} is good\n"
    assert json.loads(bare("check-config", str(path), "--json").stdout) == {"ok": True, "error": "", "warnings": []}
    printed = bare("check-config", str(path), "--print").stdout
    assert "sync = normal  ; from the file\n" in printed and "rows_max = 5  ; from the file\n" in printed
    assert "foreign_keys = on\n" in printed
    path.write_text(printed)
    again = bare("check-config", str(path), "--print").stdout
    assert again.replace("  ; from the file", "") == printed.replace("  ; from the file", "")
    facts = json.loads(bare("check-config", str(path), "--print", "--json").stdout)
    sync = next(row for row in facts["settings"] if row["name"] == "sync")
    assert sync == {"name": "sync", "value": "normal", "default": "full", "source": "file",
                    "reloads": False}


@pytest.mark.parametrize("text,why", [
    ("sync = fast", "use one of full|normal"), ("nonsense = 1", "unknown setting"),
    ("[daemon]\nsync = full", "no sections"), ("sync", "not a line"), ("rows_max = 0x", "number"),
    ("replica = ftp://x/y", "file:///DIRECTORY or s3://"), ("replica = file:///tmp/a /tmp/b", "file:///DIRECTORY or s3://"),
    ("replica = file://relative", "file://relative"), ("replica = s3://", "s3://"),
    ("replica = " + " ".join(f"file:///tmp/{n}" for n in range(9)), "more than 8"),
])
def test_check_config_refuses(bare, tmp_path, text, why):
    path = tmp_path / "app.conf"
    path.write_text(text + "\n")
    done = bare("check-config", str(path), code=1)
    assert why in done.stderr and f"{path}:" in done.stderr
    out = json.loads(bare("check-config", str(path), "--json", code=1).stdout)
    assert out["ok"] is False and why in out["error"]


def test_check_config_of_a_missing_file(bare, tmp_path):
    assert "No such file" in bare("check-config", str(tmp_path / "no.conf"), code=1).stderr


def test_sample_is_what_is_shipped(bare, tmp_path):
    sample = bare("check-config", "--sample").stdout
    shipped = os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "litefunnel.conf.sample")
    with open(shipped, encoding="utf-8") as file:
        assert file.read() == sample
    assert not re.search(r"[ \t]$", sample, re.M)
    path = tmp_path / "all.conf"
    path.write_text(re.sub(r"^#(?=\w+ =)", "", sample, flags=re.M))
    assert bare("check-config", str(path)).stdout == f"{path} is good\n"


def test_version(bare):
    lines = bare("version").stdout.splitlines()
    facts = json.loads(bare("version", "--json").stdout)
    assert lines[0] == f"litefunnel {facts['litefunnel']}"
    assert lines[1].startswith(f"SQLite {facts['sqlite']['version']} (")
    version = tuple(map(int, facts["sqlite"]["version"].split(".")))
    bug = (3, 7, 0) <= version <= (3, 51, 2) and not (
        (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45))
    assert facts["sqlite"]["wal_reset_bug"] is bug
    assert ("has the WAL-reset bug" in lines[2]) is bug
    assert any(option.startswith("THREADSAFE=") for option in facts["sqlite"]["options"])
    assert facts["build"]["assertions"] is True
    assert bare("--version").stdout == "\n".join(lines) + "\n"
