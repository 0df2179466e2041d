# SPDX-License-Identifier: MIT
"""Starts, stops and kills, as clients and readers see them; and the daemon that has nothing to do."""
import contextlib
import os
import pathlib
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time

import pytest

from daemon import READERS, Daemon, sanitizer, wait_for
from wire import Closed

BUSY = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT count(*) FROM n")


# ---- stopping


def test_sigterm_answers_what_is_queued(daemon):
    served = daemon(commit_group_max=5, drain_timeout="5m")
    with served.wire(timeout=60) as wire:
        wire.write("CREATE TABLE t(a)")
        ids = [wire.request("write", batch=[["INSERT INTO t VALUES (?)", [i]], [BUSY.format(20000 // served.slow)]])
               for i in range(100)]
        wait_for(lambda: served.read("SELECT count(*) FROM t")[0][0] > 0, "nothing was written")
        served.process.send_signal(signal.SIGTERM)
        answers = [wire.reply(id) for id in ids]
        good = [i for i, (error, _) in enumerate(answers) if error is None]
        for error, _ in answers:
            if error is not None:
                assert (error["code"], error["applied"], error["retry"]) == ("shutting_down", "no", True)
                assert error["retry_after_ms"] > 0
        assert wire.wait_closed()["code"] == "shutting_down"
    assert served.wait() == 0
    assert served.read("SELECT a FROM t") == [(i,) for i in good]
    assert not os.path.exists(served.socket)
    for suffix in ("", "-wal", "-shm", "-funnel.lock"):
        assert os.path.exists(served.db + suffix), suffix


def test_new_work_while_draining_is_refused_with_retry(daemon):
    served = daemon(exec_timeout="20s")
    with served.wire(timeout=60) as wire, served.wire(timeout=60) as other:
        wire.write("CREATE TABLE t(a)")
        slow = wire.request("write", batch=[[BUSY.format(4_000_000 // served.slow // served.slow)]])
        wait_for(lambda: dict(other.call("show", what="stats")["rows"])["running_batches"] > 0, "not running")
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "event=draining" in served.log(), "it does not drain")
        try:
            error, _ = other.ask("write", batch=[["INSERT INTO t VALUES (1)"]])
            assert (error["code"], error["applied"], error["retry"]) == ("shutting_down", "no", True)
        except (Closed, OSError):  # it has nothing in flight: it may be closed already
            assert other.wait_closed()["code"] == "shutting_down"
        assert wire.reply(slow)[0] is None
    assert served.wait() == 0
    assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_second_sigterm_is_prompt(daemon):
    served = daemon(exec_timeout="10m", drain_timeout="10m")
    wire = served.wire(timeout=60)
    wire.write("CREATE TABLE t(a)")
    wire.request("write", batch=[["INSERT INTO t VALUES (1)"], [BUSY.format(10**9)]])
    wait_for(lambda: served.stats()["running_batches"] > 0, "it does not run")
    served.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "event=draining" in served.log(), "it does not drain")
    assert served.running()
    served.process.send_signal(signal.SIGTERM)
    assert served.wait(60) == 0  # a tenth of what either limit would have let it take
    assert served.read("SELECT count(*) FROM t") == [(0,)]  # undone, and nobody was told otherwise
    wire.close()


def test_signals_without_end_are_a_clean_stop(daemon, slow):
    """Also one that comes when the loop has ended and the files are being closed."""
    served = daemon(start=False)
    for _ in range(100 // slow):
        served.start()
        while served.running():
            served.process.send_signal(signal.SIGTERM)
        assert served.wait() == 0
        assert not os.path.exists(served.socket)


def test_a_signal_right_behind_ready(daemon, slow):
    """A sanitizer's deferred handlers lost one in two hundred of them: there are none now."""
    served = daemon(start=False)
    for _ in range(200 // slow):
        served.start()
        served.stop()


def test_drain_has_an_end(daemon):
    served = daemon(exec_timeout="60s", drain_timeout="500ms")
    wire = served.wire(timeout=60)
    wire.request("write", batch=[[BUSY.format(10**9)]])
    wait_for(lambda: served.stats()["running_batches"] > 0, "it does not run")
    served.process.send_signal(signal.SIGTERM)
    assert served.wait(20) == 0
    wire.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_stop(daemon, number):
    served = daemon()
    served.stop(number)


def test_shutdown_verb(daemon):
    served = daemon()
    with served.wire() as wire, served.wire() as other:
        ids = [other.request("write", batch=[["SELECT 1"]]) for _ in range(10)]
        assert wire.call("shutdown") == {}
        for id in ids:
            error, _ = other.reply(id)
            assert error is None or error["code"] == "shutting_down"
        assert wire.wait_closed()["code"] == "shutting_down"
    assert served.wait() == 0


def test_stopping_with_silent_clients_is_prompt(daemon):
    served = daemon(hello_timeout="10m", drain_timeout="10m")
    wires = [served.wire() for _ in range(50)] + [served.wire(greet=False) for _ in range(50)]
    began = time.monotonic()
    served.stop()
    assert time.monotonic() - began < 60
    for wire in wires:
        closing = wire.wait_closed()
        assert closing is None or closing["code"] == "shutting_down"
        wire.close()


# ---- starting


def test_second_daemon_is_refused(daemon):
    served = daemon()
    for other in (Daemon(served.program, served.db), Daemon(served.program, served.db, socket=f"{served.db}.s2")):
        other.log_path += ".second"
        code, said = other.refuses_to_start()
        assert code == 1 and str(served.pid) in said[0], said
    assert served.write("CREATE TABLE t(a)")


def test_of_many_that_start_at_once_one_serves(daemon, slow):
    """A thousand starts, fifty at a time."""
    served = daemon()
    served.stop()
    for _ in range(20 // slow):
        others = [Daemon(served.program, served.db) for _ in range(50)]
        for number, other in enumerate(others):
            other.log_path += f".{number}"
            other.launch()
        try:
            ready = []
            for other in others:
                line = other.process.stdout.readline()
                if line.startswith("ready"):
                    ready.append(other)
            assert len(ready) == 1
            assert ready[0].write("SELECT 1")
        finally:
            for other in others:
                if other.running():
                    other.process.terminate()
                other.process.wait(60)
                other.process.stdout.close()


def test_stale_socket_is_replaced(daemon):
    served = daemon()
    served.kill()
    assert os.path.exists(served.socket)
    served.start()
    assert served.write("SELECT 1")


def test_a_stop_leaves_the_socket_of_another(daemon):
    """Whoever has removed ours and bound the path since keeps what he has."""
    served = daemon()
    os.unlink(served.socket)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(served.socket)
        served.stop()
        assert stat.S_ISSOCK(os.stat(served.socket).st_mode)
    os.unlink(served.socket)


def test_missing_database_needs_create(daemon):
    served = daemon(start=False, create=False)
    code, said = served.refuses_to_start()
    assert code == 1 and "--create" in said[0]
    assert not os.path.exists(served.db)


def test_not_a_database(daemon):
    served = daemon(start=False)
    with open(served.db, "wb") as file:
        file.write(b"not a database, but long enough to look like one" * 100)
    os.chmod(served.db, 0o640)
    code, said = served.refuses_to_start()
    assert code == 1 and served.db in said[0]
    with open(served.db, "rb") as file:
        assert file.read(5) == b"not a"


def test_existing_database_is_taken_as_it_is(daemon):
    served = daemon(start=False, create=False)
    with sqlite3.connect(served.db) as db:
        db.executescript("PRAGMA page_size=1024; VACUUM; CREATE TABLE t(a); INSERT INTO t VALUES (1);"
                         "PRAGMA user_version=7; CREATE TABLE u(a UNIQUE, b REFERENCES t(a));")
    db.close()
    os.chmod(served.db, 0o640)
    served.start()
    with served.wire(greet=False) as wire:
        assert wire.hello()["settings"]["page_size"] == 1024
        wire.write("INSERT INTO t VALUES (2)")
    assert served.read("SELECT a FROM t") == [(1,), (2,)]
    assert served.read("PRAGMA user_version") == [(7,)]


def test_after_an_io_error_the_start_looks_first(daemon):
    """The marker that a daemon leaves which could not tell what the disk holds."""
    served = daemon()
    served.write("CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    served.kill()
    marker = f"{served.db}-poisoned"
    with open(marker, "w", encoding="ascii") as file:
        file.write("disk I/O error")
    served.start()
    assert served.read("SELECT a FROM t") == [(1,)]
    assert not os.path.exists(marker)
    assert "I/O error" in served.log()
    assert served.write("INSERT INTO t VALUES (2)")


def test_poisoned_and_broken_stays_stopped(daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)", ["INSERT INTO t VALUES (zeroblob(5000))"], "CREATE INDEX i ON t(a)")
    served.stop()
    with sqlite3.connect(served.db) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with open(served.db, "r+b") as file:
        file.seek(os.path.getsize(served.db) - 4096)
        file.write(os.urandom(4096))
    with open(f"{served.db}-poisoned", "w", encoding="ascii"):
        pass
    code, said = served.refuses_to_start()
    assert code == 1 and said
    assert os.path.exists(f"{served.db}-poisoned")


def test_descriptors_that_are_closed_at_start(daemon):
    """SQLite must not get a descriptor that a message could be written to."""
    served = daemon(start=False)
    process = subprocess.Popen(["sh", "-c", f'exec "$0" serve "$1" --create <&- 2>&-', served.program, served.db],
                               stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline().startswith(b"ready")
        for fd in ("0", "2"):
            assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == "/dev/null"
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


# ---- readers


READER = """
import json, os, sqlite3, sys, time
db = sys.argv[1]
reads = errors = 0
handle = sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=5, isolation_level=None)
print("up", flush=True)
for line in sys.stdin:
    wanted = int(line)
    try:
        seen = handle.execute("SELECT max(a) FROM t").fetchone()[0]
        if wanted % 10 == 0:   # also whoever opens it anew
            handle.close()
            handle = sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=5, isolation_level=None)
        reads += 1
        answer = "ok" if seen >= wanted else f"sees {seen}, not {wanted}"
    except sqlite3.Error as error:
        answer = f"{type(error).__name__}: {error}"
    print(answer, flush=True)
"""
LOOP = """
import select, sqlite3, sys, time
handle = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=5, isolation_level=None)
print("up", flush=True)
reads, last = 0, 0
while not select.select([sys.stdin], [], [], 0)[0]:
    if reads % 50 == 0:
        handle.close()
        handle = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=5, isolation_level=None)
    until = time.monotonic() + 1
    while True:
        try:
            seen = handle.execute("SELECT max(a) FROM t").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            # PROTOCOL.md, "What a local reader may rely on": SQLite's read-only openers have a gap
            # while the daemon comes or goes, about one in 300,000 reads here. They look again.
            passing = ("SQLITE_READONLY_RECOVERY", "SQLITE_READONLY_CANTINIT")
            if error.sqlite_errorname not in passing or time.monotonic() > until:
                sys.exit(f"{error} ({error.sqlite_errorname}) at read {reads}")
    assert seen >= last, (seen, last)
    last, reads = seen, reads + 1
print(reads, flush=True)
"""
STRANGER = 20041


def as_stranger(code, *args):
    """A process of a user who may read, and write nothing anywhere."""
    return subprocess.Popen([sys.executable, "-u", "-c", code, *args], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
                            user=STRANGER, group=STRANGER, extra_groups=[READERS])


def test_readers_under_another_uid_through_100_ends_of_the_daemon(daemon, slow):
    """0 errors; and after each acknowledged write the row is there."""
    served = daemon()
    served.write("CREATE TABLE t(a INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (0)")
    reader, loops = as_stranger(READER, served.db), [as_stranger(LOOP, served.db) for _ in range(2)]
    try:
        for process in (reader, *loops):
            assert process.stdout.readline() == "up\n"
        number, wrong = 0, []

        def write_and_look():
            nonlocal number
            with served.wire() as wire:
                for _ in range(3):
                    number += 1
                    wire.write(["INSERT INTO t VALUES (?)", [number]])
                    reader.stdin.write(f"{number}\n")
                    reader.stdin.flush()
                    answer = reader.stdout.readline().strip()
                    if answer != "ok":
                        wrong.append((number, answer))

        def look():
            reader.stdin.write(f"{number}\n")
            reader.stdin.flush()
            answer = reader.stdout.readline().strip()
            if answer != "ok":
                wrong.append((number, "stopped", answer))

        for end in range(100 if slow == 1 else 30):
            write_and_look()
            if end % 3 == 0:
                served.stop()
            elif end % 3 == 1:
                served.kill()
            else:
                served.restart()
                look()
                continue
            look()
            served.start()
        write_and_look()
        assert not wrong, wrong
        for process in loops:
            out, err = process.communicate("end\n", timeout=30)
            assert process.returncode == 0 and int(out) > 100, err
    finally:
        for process in (reader, *loops):
            process.kill()
            process.communicate()


def test_read_only_users_can_write_nothing(daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    code = """
import os, sqlite3, sys
for suffix in ("", "-wal", "-shm", "-funnel.lock"):
    try:
        os.open(sys.argv[1] + suffix, os.O_RDWR)
        print("opened", suffix)
    except PermissionError:
        pass
try:
    open(os.path.dirname(sys.argv[1]) + "/new", "w")
    print("made a file")
except PermissionError:
    pass
try:
    sqlite3.connect(sys.argv[1]).execute("INSERT INTO t VALUES (1)")
    print("wrote")
except sqlite3.OperationalError:
    pass
print("done")
"""
    process = as_stranger(code, served.db)
    assert process.communicate(timeout=30)[0] == "done\n"


# ---- idle


def test_idle_costs_nothing(daemon, litefunnel):
    """0 % of a processor, under 16 MiB."""
    served = daemon()
    with served.wire() as wire, served.wire():
        wire.write("CREATE TABLE t(a)")
        for number in range(200):
            wire.write(["INSERT INTO t VALUES (?)", [number]])

        def switches():
            total = 0
            for task in os.listdir(f"/proc/{served.pid}/task"):
                with open(f"/proc/{served.pid}/task/{task}/status", encoding="ascii") as file:
                    total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
            return total

        def rests():
            before = switches()
            time.sleep(0.2)
            return switches() - before <= (1 if served.slow == 1 else 20)  # a sanitizer's own threads

        # The kernel charges whole ticks to whoever it meets: on a busy machine a wake-up may cost one each.
        for tries_left in (2, 1, 0):
            wait_for(rests, "it has something left to do")
            before, cpu = switches(), served.cpu_s()
            time.sleep(3)
            used = round(served.cpu_s() - cpu, 3)
            if used <= 0.01 * served.slow:  # a tick is 0.01, but not in binary
                break
            assert tries_left > 0, used
        if not sanitizer(str(litefunnel)):  # whose runtimes have threads of their own
            assert switches() - before <= 10
            assert served.rss() < 16 << 20, served.rss()


def test_rss_after_work_and_a_thousand_connections(daemon, litefunnel):
    served = daemon(sync="normal")
    with served.wire() as wire:
        wire.write("CREATE TABLE t(a, b)")
    sizes = []
    for _ in range(4):
        for _ in range(250):
            with served.wire(session=os.urandom(16)) as wire:
                wire.write(["INSERT INTO t VALUES (1, ?)", ["x" * 1000]], seq=1)
                wire.call("bye")
        sizes.append(served.rss())
    if not sanitizer(str(litefunnel)):
        assert sizes[-1] - sizes[1] < 1 << 20, sizes


def test_no_descriptor_outlives_exec(daemon, tmp_path):
    """Neither the daemon's nor the shipper's: who is started by either gets what it is given, and no more."""
    served = daemon(replica=f"file://{tmp_path}/replica", ship_linger="10ms")
    served.write("CREATE TABLE t(a)", ack="shipped")  # by now both have opened what they need
    pid = served.process.pid
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = file.read().split()
    assert children
    for process in (str(pid), *children):
        for fd in pathlib.Path(f"/proc/{process}/fdinfo").iterdir():
            if int(fd.name) > 2:
                with contextlib.suppress(FileNotFoundError):  # it has been closed meanwhile
                    flags = int(re.search(r"flags:\s*([0-7]+)", fd.read_text()).group(1), 8)
                    assert flags & os.O_CLOEXEC, os.readlink(f"/proc/{process}/fd/{fd.name}")
