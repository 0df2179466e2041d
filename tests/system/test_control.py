# SPDX-License-Identifier: MIT
"""Pause and resume, checkpoint, kill; who waits for whom; who reads; classes and their turns."""
import contextlib
import json
import os
import re
import signal
import subprocess
import time
import sys

import pytest

from daemon import wait_for
from wire import Refused

SLOW_SQL = ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < %d) "
            "INSERT INTO t SELECT count(*) FROM c")
NOBODY = 20301


def table(wire, what, **params):
    """The rows of a show table as dicts."""
    answer = wire.call("show", what=what, **params)
    return [dict(zip(answer["columns"], row)) for row in answer["rows"]]


def run(daemon, *command, check=0):
    """A command of the program; its output, or its JSON."""
    done = subprocess.run([daemon.program, *command], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == check, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout) if "--json" in command else done.stdout


@pytest.fixture
def served(daemon):
    made = daemon()
    made.write("CREATE TABLE t(x)")
    return made


def busy(daemon, wire, ms=3000):
    """Sends a batch that runs until its own deadline, and returns when it runs."""
    id = wire.request("write", batch=[[SLOW_SQL % 10**12]], deadline_ms=ms * daemon.slow)
    with daemon.wire() as looking:
        wait_for(lambda: any(row["state"] == "running" for row in table(looking, "waits")),
                 "the slow batch runs")
    return id


# ---- pause and resume

def test_what_comes_during_a_pause_waits_and_nobody_gets_an_error(served):
    with served.wire() as admin, served.wire() as client:
        assert admin.call("pause")["state"] == "paused"
        ids = [client.request("write", batch=[["INSERT INTO t VALUES (?)", [i]]])
               for i in range(50)]
        wait_for(lambda: served.stats()["queue_batches"] == 50, "all wait")
        stats = served.stats()
        assert stats["paused"] == 1 and stats["paused_by"].startswith("uid ")
        assert served.read("SELECT count(*) FROM t") == [(0,)]
        assert admin.call("resume")["paused_ms"] >= 0
        commits = []
        for id in ids:
            error, result = client.reply(id)
            assert error is None
            commits.append(result["commit"])
        assert commits == sorted(commits)
        assert served.read("SELECT count(*) FROM t") == [(50,)]
        assert admin.call("resume") == {"paused_ms": 0}


def test_a_pause_that_cannot_begin_in_time_says_so_and_holds(daemon):
    one = daemon(lease_idle="1h", lease_total="1h")
    with one.wire() as admin, one.wire() as client:
        client.call("begin", lease=1)
        done = subprocess.run([one.program, "pause", one.db, "--deadline", "100ms"],
                              capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 4 and "unknown" not in done.stderr, done.stderr
        assert one.stats()["paused"] == 1
        client.call("rollback", lease=1)
        admin.call("resume")


def test_a_pause_waits_for_what_runs(served):
    with served.wire() as admin, served.wire() as client:
        id = busy(served, client, 600)
        paused = admin.request("pause")
        assert admin.reply(paused)[0] is None
        # Its answer came behind that of the batch: nothing runs any more.
        error, _ = client.reply(id)
        assert error["code"] == "deadline" and error["applied"] == "no"
        waits = table(admin, "waits")
        assert waits[0]["state"] == "paused" and waits[0]["pid"] == os.getpid()
        admin.call("resume")


def test_who_waited_for_a_pause_is_told(served):
    with served.wire(label="the admin's") as admin, served.wire() as client:
        admin.call("pause")
        late = client.ask("write", batch=[["SELECT 1"]], deadline_ms=300)[0]["waited_for"]
        waiting = client.request("write", batch=[["INSERT INTO t VALUES (1)"]])
        wait_for(lambda: len(table(admin, "waits")) == 2, "the request")
        time.sleep(0.3)
        admin.call("resume")
        told = client.reply(waiting)[1]["waited_for"]
        for waited_for in (late, told):
            assert (waited_for["what"], waited_for["pid"], waited_for["label"]) == ("pause", os.getpid(), "the admin's")


def test_a_pause_ends_by_itself(served):
    with served.wire() as admin:
        admin.call("pause", for_ms=200)
        assert admin.write("INSERT INTO t VALUES (1)")["commit"] > 0
        assert served.stats()["paused"] == 0


def test_deadlines_during_a_pause(served):
    """A client's own deadline holds; the daemon's stands still."""
    served.stop()
    served.settings["deadline"] = "300ms"
    served.start()
    with served.wire() as admin, served.wire() as client:
        admin.call("pause")
        patient = client.request("write", batch=[["INSERT INTO t VALUES (1)"]])
        hasty = client.request("write", batch=[["INSERT INTO t VALUES (2)"]], deadline_ms=100)
        later = client.request("write", batch=[["INSERT INTO t VALUES (3)"]], deadline_ms=1000)
        error, _ = client.reply(hasty)
        assert error["code"] == "deadline" and "paused by uid" in error["message"]
        assert client.reply(later)[0]["code"] == "deadline"  # by now 300 ms are long over
        admin.call("resume")
        assert client.reply(patient)[0] is None
    assert served.read("SELECT x FROM t") == [(1,)]


def test_the_queue_is_bounded_during_a_pause(daemon):
    served = daemon(queue_max=20)
    with served.wire() as admin, served.wire() as client:
        client.write("CREATE TABLE t(x)")
        admin.call("pause")
        ids = [client.request("write", batch=[["INSERT INTO t VALUES (1)"]]) for _ in range(30)]
        wait_for(lambda: served.stats()["queue_refused_total"] > 0, "the queue is full")
        admin.call("resume")
        answers = [client.reply(id)[0] for id in ids]
        refused = [error for error in answers if error]
        assert 10 <= len(refused) < 15
        assert all(error["code"] == "overloaded" and error["retry"] for error in refused)


def test_a_stop_during_a_pause_runs_nothing(served):
    with served.wire() as admin, served.wire() as client:
        admin.call("pause")
        id = client.request("write", batch=[["INSERT INTO t VALUES (1)"]])
        wait_for(lambda: served.stats()["queue_batches"] == 1, "it waits")
        served.stop()
        error, _ = client.reply(id)
        assert error["code"] == "shutting_down" and error["retry"] and error["applied"] == "no"
    served.start()
    assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_pause_and_resume_as_commands(served):
    assert run(served, "pause", served.db, "--for", "1h", "--json")["state"] == "paused"
    assert run(served, "status", served.db).startswith("paused: for ")
    run(served, "status", served.db, "--check", check=1)
    assert run(served, "show", served.db, "waits", "--json")[0]["state"] == "paused"
    assert run(served, "resume", served.db, "--json")["paused_ms"] > 0
    assert run(served, "status", served.db).startswith("ok")
    assert run(served, "resume", served.db) == "it was not paused\n"
    run(served, "pause", served.db, "--for", "soon", check=2)


# ---- checkpoint

def test_a_checkpoint_now(served):
    with served.wire() as wire:
        for i in range(20):
            wire.write(["INSERT INTO t VALUES (?)", [i]])
        answer = wire.call("checkpoint")
        assert answer["frames"] == answer["backfilled"] >= 20
    reader = served.reader()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchone()
    served.write("INSERT INTO t VALUES (1)")
    served.write("INSERT INTO t VALUES (2)")
    answer = run(served, "checkpoint", served.db, "--json")
    assert answer["backfilled"] < answer["frames"]
    assert "readers" in run(served, "checkpoint", served.db)
    reader.close()
    run(served, "pause", served.db)
    answer = run(served, "checkpoint", served.db, "--json")  # also during a pause
    assert answer["backfilled"] == answer["frames"]
    run(served, "resume", served.db)


# ---- kill

def test_kill_what_waits(served):
    with served.wire() as admin, served.wire(label="victim") as client:
        admin.call("pause")
        one = client.request("write", batch=[["INSERT INTO t VALUES (1)"]])
        two = client.request("write", batch=[["INSERT INTO t VALUES (2)"]])
        waits = wait_for(lambda: (lambda rows: rows if len(rows) == 2 else None)(
            table(admin, "waits", like="victim")), "both wait")
        assert [row["sql"] for row in waits] == [f"INSERT INTO t VALUES ({i})" for i in (1, 2)]
        assert run(served, "kill", served.db, str(waits[0]["id"])) == "cancelled\n"
        error, _ = client.reply(one)
        assert error["code"] == "cancelled" and error["applied"] == "no" and not error["retry"]
        admin.call("resume")
        assert client.reply(two)[0] is None
        run(served, "kill", served.db, str(waits[0]["id"]), check=1)
        run(served, "kill", served.db, "x", check=2)
    assert served.read("SELECT x FROM t") == [(2,)]


def test_a_batch_that_runs_is_not_killed(served):
    with served.wire() as admin, served.wire() as client:
        id = busy(served, client)
        row = table(admin, "waits")[0]
        assert admin.call("kill", id_=row["id"]) == {"state": "running"}
        assert client.reply(id)[0]["code"] == "deadline"


def test_verbs_are_the_administrators(served):
    with served.wire_as(NOBODY) as wire:
        for verb, params in (("pause", {}), ("resume", {}), ("checkpoint", {}), ("kill", {"id_": 1})):
            error, _ = wire.ask(verb, **params)
            assert error["code"] == "denied", verb
    with served.wire() as admin:
        for params in ({"for_ms": 0}, {"for_ms": "x"}, {"for_ms": 1 << 60}):
            with pytest.raises(Refused):
                admin.call("pause", **params)
        for params in ({}, {"id_": -1}, {"id_": "x"}):
            with pytest.raises(Refused):
                admin.call("kill", **params)
        assert served.stats()["paused"] == 0


# ---- who waits for whom

def test_show_waits_names_the_holder_and_the_order(served):
    with served.wire(label="heavy report") as holder, served.wire() as admin, \
            served.wire(label="quick", class_="interactive") as quick, \
            served.wire_as(NOBODY) as stranger:
        id = busy(served, holder)
        bulk = stranger.request("write", batch=[["INSERT INTO t VALUES ('secret')"]],
                                class_="bulk")
        wait_for(lambda: len(table(admin, "waits")) == 2, "one waits")
        fast = quick.request("write", batch=[["INSERT INTO t VALUES (1)"]])
        rows = wait_for(lambda: (lambda rows: rows if len(rows) == 3 else None)(
            table(admin, "waits")), "two wait")
        assert [(row["position"], row["state"], row["class"]) for row in rows] == [
            (0, "running", "normal"), (1, "waiting", "interactive"), (2, "waiting", "bulk")]
        assert rows[0]["pid"] == os.getpid() and rows[0]["label"] == "heavy report"
        assert rows[0]["sql"].startswith("WITH RECURSIVE") and rows[0]["what"] == "write"
        assert rows[2]["sql"] == "INSERT INTO t VALUES ('secret')"  # an administrator reads it
        theirs = table(stranger, "waits")
        assert theirs[0]["sql"] is None and theirs[0]["digest"] == rows[0]["digest"]
        assert theirs[2]["sql"] == "INSERT INTO t VALUES ('secret')"  # its own
        assert holder.reply(id)[0]["code"] == "deadline"
        # Both are told for whom they waited: the text only to whom it belongs.
        told = quick.reply(fast)[1]["waited_for"]
        assert told["pid"] == os.getpid() and told["label"] == "heavy report"
        assert told["sql"].startswith("WITH RECURSIVE") and told["uid"] == os.getuid()
        told = stranger.reply(bulk)[1]["waited_for"]
        assert told["label"] == "heavy report" and told["sql"] == rows[0]["digest"]


def test_who_waits_in_vain_is_told_for_whom(served):
    with served.wire(label="heavy") as holder, served.wire() as client:
        id = busy(served, holder)
        error, _ = client.ask("write", batch=[["INSERT INTO t VALUES (1)"]], deadline_ms=50)
        assert error["code"] == "deadline" and error["retry"]
        assert error["waited_for"]["label"] == "heavy"
        assert holder.reply(id)[0]["code"] == "deadline"


def test_the_log_of_slow_batches_says_the_same(daemon):
    served = daemon(slow="50ms")
    with served.wire(label="heavy") as holder, served.wire(label="light") as client:
        client.write("CREATE TABLE t(x)")
        id = busy(served, holder, 500)
        client.write("INSERT INTO t VALUES (1)")
        holder.reply(id)
    lines = [line for line in served.log().splitlines() if "slow batch" in line]
    assert any("label=light" in line and "waited_for_label=heavy" in line and
               f"waited_for_pid={os.getpid()}" in line for line in lines), lines


def test_a_process_that_writes_past_the_daemon_is_named(served):
    code = ("import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "c.execute('BEGIN IMMEDIATE'); print('has it', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, served.db], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as foreign, \
            served.wire() as admin, served.wire() as client:
        assert foreign.stdout.readline() == "has it\n"
        id = client.request("write", batch=[["INSERT INTO t VALUES (1)"]])
        wait_for(lambda: table(admin, "waits")[:1] and
                 table(admin, "waits")[0]["state"] == "foreign", "it is seen")
        assert table(admin, "waits")[0]["pid"] == foreign.pid
        wait_for(lambda: table(admin, "waits")[0]["age_ms"], "its age")
        assert ("write", foreign.pid) in [(row["lock"], row["pid"])
                                          for row in table(admin, "readers")]
        wait_for(lambda: table(admin, "waits")[-1]["age_ms"] > 150, "it has waited long")
        foreign.stdin.close()
        answer = client.reply(id)
        assert answer[0] is None and answer[1]["waited_for"]["pid"] == foreign.pid
    assert f"pid {foreign.pid} " in served.log()


# ---- readers

READER = """
import sqlite3, sys
c = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
c.execute("BEGIN"); c.execute("SELECT count(*) FROM t").fetchone()
print("reads", flush=True)
sys.stdin.read()
"""


def start_reader(daemon, prefix=()):
    process = subprocess.Popen([*prefix, sys.executable, "-c", READER, daemon.db],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reads\n"
    return process


def end_reader(process):
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_readers_are_named(served):
    readers = []
    try:
        for i in range(4):
            prefix = ("unshare", "--pid", "--fork", "--kill-child") if i == 1 else ()
            readers.append(start_reader(served, prefix))
            served.write(*(f"INSERT INTO t VALUES ({k})" for k in range(3)))
            served.write("CREATE TABLE IF NOT EXISTS more%d(x)" % i)
        with served.wire() as admin:
            served.write("INSERT INTO t VALUES (9)")
            rows = [row for row in table(admin, "readers") if row["lock"] == "read"]
            by_pid = {row["pid"]: row for row in rows}
            for i in (0, 2, 3):
                row = by_pid[readers[i].pid]
                assert row["command"].startswith("python") and row["namespace"] == ""
            hidden = [row for row in rows if row["namespace"] == "another pid namespace"]
            assert len(hidden) == 1 and hidden[0]["pid"] not in [r.pid for r in readers]
            # The oldest holds back most of the WAL, and is the one that status names.
            pinned = {row["pid"]: row["frames_pinned"] for row in rows}
            assert pinned[readers[0].pid] == max(pinned.values()) > pinned[readers[3].pid] > 0
            assert f"pid {readers[0].pid} (python" in served.stats()["wal_pinned_by"]
            assert f"pinned by  pid {readers[0].pid}" in run(served, "status", served.db)
            end_reader(readers.pop(0))
            rows = [row for row in table(admin, "readers") if row["lock"] == "read"]
            assert len(rows) == 3
    finally:
        for reader in readers:
            end_reader(reader)
    served.write("INSERT INTO t VALUES (10)")
    with served.wire() as admin:
        assert table(admin, "readers") == []


def test_a_daemon_in_a_namespace_of_its_own_says_what_it_cannot_see(daemon):
    """The daemon in a container, the reader outside: the kernel's list leaves him out."""
    served = daemon(start=False, roles_admin=str(NOBODY),
                    prefix=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
    served.start()
    reader = None
    try:
        with served.wire_as(NOBODY) as admin:  # root from outside is no root in there
            admin.write("CREATE TABLE t(x)")
            reader = start_reader(served)
            admin.write("INSERT INTO t VALUES (1)")
            rows = table(admin, "readers")
            assert [(row["pid"], row["namespace"]) for row in rows] == [
                (None, "another pid namespace")]
            assert rows[0]["frames_pinned"] > 0
            stats = dict(admin.call("show", what="stats", like="wal_pinned_by")["rows"])
            assert "another pid namespace" in stats["wal_pinned_by"]
            admin.call("shutdown")
        assert served.wait() == 0
    finally:
        if reader is not None:
            end_reader(reader)


# ---- classes

def test_classes_by_who_somebody_is(daemon):
    served = daemon(classes=f"{NOBODY}=normal,label:import-*=bulk,label:web*=interactive,"
                            "role:query=bulk", roles_query=str(NOBODY + 1), roles_ddl="*")
    for label, asked, want in (("import-a", None, "bulk"), ("import-a", "interactive", "bulk"),
                               ("web", None, "interactive"), ("web", "bulk", "bulk"),
                               ("other", None, "normal"), ("other", "interactive", "interactive")):
        params = {"class_": asked} if asked else {}
        with served.wire(greet=False) as wire:
            assert wire.hello(label=label, **params)["class"] == want, (label, asked)
    with served.wire_as(NOBODY, greet=False) as wire:
        assert wire.hello(class_="interactive", label="web")["class"] == "normal"
        wire.write("CREATE TABLE t(x)", class_="interactive")
        served_in = {row["class"]: row["served_total"] for row in table(wire, "classes")}
        assert served_in["interactive"] == 0 and served_in["normal"] == 1


def test_classes_follow_a_reload(daemon, tmp_path):
    config = tmp_path / "c.conf"
    config.write_text("classes = *=bulk\n")
    served = daemon(config=config)
    with served.wire() as wire, served.wire() as admin:
        assert [r["class"] for r in table(admin, "clients")] == ["bulk", "bulk"]
        config.write_text("classes =\n")
        assert "classes" in admin.call("reload")["changed"]
        assert [r["class"] for r in table(admin, "clients")] == ["normal", "normal"]
        config.write_text("classes = *=fast\n")
        with pytest.raises(Refused, match="WHO=interactive"):
            admin.call("reload")
        assert wire.write("SELECT 1")["commit"] > 0


def test_one_user_cannot_fill_the_queue(daemon):
    served = daemon(queue_max=100)
    with served.wire() as admin, served.wire_as(NOBODY) as flood, \
            served.wire_as(NOBODY + 1) as good:
        admin.write("CREATE TABLE t(x)")
        admin.call("pause")
        ids = [flood.request("write", batch=[["INSERT INTO t VALUES (1)"]]) for _ in range(120)]
        wait_for(lambda: served.stats()["queue_refused_total"] >= 120 - 100, "it is refused")
        mine = good.request("write", batch=[["INSERT INTO t VALUES (2)"]])
        wait_for(lambda: any(row["uid"] == NOBODY + 1 for row in table(admin, "waits")),
                 "there is room for another user")
        admin.call("resume")
        assert good.reply(mine)[0] is None
        refused = sum(flood.reply(id)[0] is not None for id in ids)
        assert 20 < refused < 40


# ---- limits of execution

def test_a_batch_ends_at_its_own_deadline(served):
    with served.wire() as wire:
        error, _ = wire.ask("write", batch=[[SLOW_SQL % 10**12]], deadline_ms=100 * served.slow)
        assert error["code"] == "deadline" and error["applied"] == "no" and not error["retry"]
        assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_a_batch_ends_at_the_limit_of_all(daemon):
    with daemon(exec_timeout="300ms").wire() as wire:
        wire.write("CREATE TABLE t(x)")
        error, _ = wire.ask("write", batch=[[SLOW_SQL % 10**12]])
        assert error["code"] == "deadline" and not error["retry"]
        assert re.search(r": (300|2\d\d) ms after it began \(.*the setting exec_timeout\)", error["message"])


def test_a_batch_ends_at_its_number_of_instructions(daemon):
    served = daemon(exec_ops_max=1_000_000)
    with served.wire() as wire:
        wire.write("CREATE TABLE t(x)")
        for _ in range(3):
            error, _ = wire.ask("write", batch=[[SLOW_SQL % 10**12]])
            assert error["code"] == "deadline" and not error["retry"]
            assert "1000000 instructions of SQLite's machine (setting exec_ops_max)" in error["message"]
            wire.write([SLOW_SQL % 10_000])  # each batch has its own
    assert served.read("SELECT x FROM t") == [(10_000,)] * 3


def test_innocents_stand_beside_an_offender(served):
    """All of one commit group: the offender fails, the others are applied, once."""
    with served.wire() as admin, served.wire() as bad, served.wire() as good:
        admin.call("pause")
        ids = [good.request("write", batch=[["INSERT INTO t VALUES (?)", [i]]]) for i in range(20)]
        worse = bad.request("write", batch=[[SLOW_SQL % 10**12]], deadline_ms=2000 * served.slow)
        wait_for(lambda: served.stats()["queue_batches"] == 21, "all wait")
        admin.call("resume")
        assert bad.reply(worse, 60)[0]["code"] == "deadline"
        assert all(good.reply(id)[0] is None for id in ids)
        # From now on its connection runs alone, and last.
        admin.call("pause")
        first = bad.request("write", batch=[["INSERT INTO t VALUES ('bad')"]])
        ids = [good.request("write", batch=[["INSERT INTO t VALUES (?)", [i]]]) for i in range(20)]
        wait_for(lambda: served.stats()["queue_batches"] == 21, "all wait")
        admin.call("resume")
        commits = [good.reply(id)[1]["commit"] for id in ids]
        alone = bad.reply(first)[1]
        assert alone["group"] == 1 and alone["commit"] > max(commits)
    assert len(served.read("SELECT x FROM t")) == 41


def test_who_says_goodbye_waits_for_nothing(served):
    """`bye` stood among those who wait."""
    with served.wire() as admin, served.wire(session=os.urandom(16)) as leaver:
        leaver.write("CREATE TABLE x(a)", seq=1)
        admin.call("pause")
        leaver.request("bye")
        wait_for(lambda: served.stats()["queue_batches"] > 0, "it is queued")
        assert [row["what"] for row in table(admin, "waits")] == ["pause"]
        admin.call("resume")


def test_a_daemon_that_answers_late_is_waited_for(served, litefunnel):
    """Of a batch that a pause kept out, `exec` said that its outcome is unknown if the answer came a little late."""
    with served.wire() as admin:
        admin.write("CREATE TABLE x(a)")
        admin.call("pause")
        process = subprocess.Popen([litefunnel, "exec", served.db, "INSERT INTO x VALUES (1)", "--deadline", "500ms"],
                                   stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: served.stats()["queue_batches"] > 0 or process.poll() is not None, "it waits")
            served.process.send_signal(signal.SIGSTOP)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.8)
        finally:
            served.process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 4 and "paused" in said, said
        admin.call("resume")
    assert served.read("SELECT * FROM x") == []


def test_limits_say_their_value_and_their_setting(daemon):
    served = daemon(rows_max=5, result_bytes_max="64KiB", frame_bytes_max="64KiB", queue_max=10)
    numbers = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 9) SELECT i FROM c"
    with served.wire() as wire:
        for sql, words in ((numbers, ("5 rows", "rows_max")),
                           ("SELECT zeroblob(70000)", ("65536 bytes", "result_bytes_max"))):
            error, _ = wire.ask("write", batch=[[sql]])
            assert error["code"] == "too_large" and all(word in error["message"] for word in words), error
        wire.request("write", batch=[["SELECT ?", ["x" * 70_000]]])
        notice = wire.wait_closed()
        assert notice["code"] == "too_large" and "65536 bytes (setting frame_bytes_max)" in notice["message"]
    with served.wire() as admin, served.wire() as other:
        admin.call("pause")
        sent = [other.request("write", batch=[["SELECT 1"]]) for _ in range(20)]
        error, _ = other.reply(sent[-1])
        assert error["code"] == "overloaded" and "10 batches (setting queue_max)" in error["message"]
        admin.call("resume")
