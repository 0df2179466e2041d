# SPDX-License-Identifier: MIT
"""Drills of the daemon: on schedule and asked for, what they find, what gets in their way."""
import http.server
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import threading

import pytest

import ltx
from daemon import wait_for
from test_replica import small_disk
from wire import Closed, Refused

PATIENCE = 120


def drill(served):
    """One drill of every replica, by the daemon: the rows, as maps."""
    with served.wire() as wire:
        return rows_of(wire.call("drill", timeout=PATIENCE * served.slow))


def rows_of(result):
    return [dict(zip(result["columns"], row)) for row in result["rows"]]


def shown(served):
    with served.wire() as wire:
        return rows_of(wire.call("show", what="drills"))


def state(served):
    return served.stats()["drill_state"]


def command(program, *args):
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE * 5)
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def shipper_of(served):
    return wait_for(lambda: served.child("shipper"), "the shipper")


class Held:
    """
    A drill in the state `hashing`, asked for on a connection of its own: its process is stopped. The
    shipper is, too, until that is done, so that the drill cannot come so far before.
    """

    def __init__(self, served):
        self.served = served
        shipper = shipper_of(served)
        with served.wire() as wire:
            wire.call("sync")
        os.kill(shipper, signal.SIGSTOP)
        served.write(["CREATE TABLE IF NOT EXISTS held(a)"], ["INSERT INTO held VALUES (1)"])
        self.wire = served.wire(timeout=PATIENCE * served.slow)
        self.id = self.wire.request("drill")
        self.pid = wait_for(lambda: served.child("drill"), "the drill's process", PATIENCE)
        os.kill(self.pid, signal.SIGSTOP)
        os.kill(shipper, signal.SIGCONT)
        wait_for(lambda: state(served) == "hashing", "the file stands still", PATIENCE)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def answer(self):
        error, result = self.wire.reply(self.id)
        self.wire.close()
        assert error is None, error
        return rows_of(result)


@pytest.fixture
def served(daemon, tmp_path):
    made = daemon(replica=f"file://{tmp_path}/replica", disk_floor=0)
    made.write(["CREATE TABLE t(a, b)"])
    for n in range(20):
        made.write(["INSERT INTO t VALUES (?, randomblob(3000))", [n]])
    return made


def test_a_drill_that_passes_is_recorded(served, litefunnel, tmp_path):
    assert shown(served) == []
    one, = drill(served)
    assert one["verdict"] == "pass" and one["reason"] == "" and not one["scheduled"]
    assert json.loads(one["tables"]) == {"t": 20} and one["rto_ms"] >= 0 and one["segment"] > 0
    assert one["replica"] == f"file://{tmp_path}/replica" and one["ended_ms"] >= one["began_ms"]
    assert shown(served) == [one]
    assert served.read("SELECT verdict, commit_no, hex(digest) FROM _lf_drill") == \
        [("pass", one["commit"], one["digest"].upper())]
    stats = served.stats()
    assert stats["drills_passed_total"] == 1 and stats["drill_state"] == "idle"
    assert stats["drill_last_verdict"] == "pass" and stats["drill_last_success_at"] == one["ended_ms"] // 1000
    assert not os.path.exists(f"{served.db}-ship/drill")
    served.restart()
    assert shown(served) == [one]


def test_what_is_called_equal_is_the_database(served, litefunnel, tmp_path):
    """The digest that both sides had is that of what anybody restores at that commit."""
    one, = drill(served)
    code, said, errors = command(litefunnel, "restore", f"file://{tmp_path}/replica", "-o", tmp_path / "out.db",
                                 "--commit", one["commit"], "--json")
    assert code == 0, errors
    assert json.loads(said)["commit"] == one["commit"]
    data = (tmp_path / "out.db").read_bytes()
    pages = {at // 4096 + 1: data[at:at + 4096] for at in range(0, len(data), 4096)}
    assert ltx.digest(pages, 4096).hex() == one["digest"]


def test_the_record_is_part_of_the_chain(served, litefunnel, tmp_path):
    one, = drill(served)
    with served.wire() as wire:
        wire.call("sync")
    code, _, errors = command(litefunnel, "restore", f"file://{tmp_path}/replica", "-o", tmp_path / "out.db")
    assert code == 0, errors
    db = sqlite3.connect(tmp_path / "out.db")
    assert db.execute("SELECT commit_no, verdict FROM _lf_drill").fetchall() == [(one["commit"], "pass")]
    db.close()


def test_the_command(served, litefunnel, tmp_path):
    code, said, errors = command(litefunnel, "drill", served.db, "--live", "--json")
    assert code == 0, errors
    one, = json.loads(said)
    assert one["verdict"] == "pass" and one["tables"] == {"t": 20}
    code, said, _ = command(litefunnel, "drill", served.db, "--live")
    assert code == 0 and said.startswith("pass\n") and '{"t":20}' in said
    assert command(litefunnel, "drill", served.db, "--live", "--assert", "SELECT 1")[0] == 2
    assert command(litefunnel, "drill", "file:///nowhere", "--live")[0] == 2
    code, said, _ = command(litefunnel, "show", served.db, "drills", "--json")
    assert code == 0 and [row["verdict"] for row in json.loads(said)] == ["pass", "pass"]


def test_without_a_replica_there_is_nothing_to_drill(daemon):
    bare = daemon()
    with bare.wire() as wire, pytest.raises(Refused) as refused:
        wire.call("drill")
    assert refused.value.code == "bad_request" and shown(bare) == []


def test_each_replica_is_drilled(daemon, tmp_path):
    two = daemon(replica=f"file://{tmp_path}/one file://{tmp_path}/two")
    two.write(["CREATE TABLE t(a)"])
    assert [(one["replica"], one["verdict"]) for one in drill(two)] == \
        [(f"file://{tmp_path}/one", "pass"), (f"file://{tmp_path}/two", "pass")]


def test_on_schedule(daemon, tmp_path):
    """In turn, and again when the time has come; a restart does not make it begin anew."""
    two = daemon(replica=f"file://{tmp_path}/one file://{tmp_path}/two", drill_every="1s")
    two.write(["CREATE TABLE t(a)"])
    wait_for(lambda: len(shown(two)) >= 4, "two drills of each replica", PATIENCE)
    rows = shown(two)
    assert [row for row in rows if row["verdict"] != "pass" or not row["scheduled"]] == []
    for name in ("one", "two"):
        own = [row for row in rows if row["replica"].endswith(name)]
        assert len(own) >= 1
        for before, after in zip(own, own[1:]):  # counted from the end of the last
            assert after["began_ms"] - before["ended_ms"] >= 900
    for before, after in zip(rows, rows[1:]):  # one at a time
        assert after["began_ms"] >= before["ended_ms"]


def test_never_if_that_is_wanted(daemon, tmp_path):
    config = tmp_path / "funnel.conf"
    config.write_text("drill_every = 0\n", encoding="ascii")
    quiet = daemon(replica=f"file://{tmp_path}/replica", config=config)
    quiet.write(["CREATE TABLE t(a)"])
    assert [one["scheduled"] for one in drill(quiet)] == [0]
    config.write_text("drill_every = 1s\n", encoding="ascii")
    with quiet.wire() as wire:
        assert wire.call("reload")["changed"] == ["drill_every"]
    wait_for(lambda: shown(quiet)[-1]["scheduled"], "the first on schedule", PATIENCE)


def segments(root):
    """Files of the replica that hold pages, largest first."""
    return sorted((path for path in pathlib.Path(root).rglob("*.ltx")), key=lambda path: -path.stat().st_size)


def harm(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def test_a_damaged_file_is_named(served, litefunnel, tmp_path):
    assert drill(served)[0]["verdict"] == "pass"
    for path in segments(tmp_path / "replica"):
        harm(path)
    one, = drill(served)
    assert one["verdict"] == "fail" and "0000000000000001" in one["reason"]
    code, said, _ = command(litefunnel, "drill", served.db, "--live")
    assert code == 1 and said.startswith("fail: ")
    code, said, _ = command(litefunnel, "status", served.db, "--check")
    assert code == 1 and said.startswith(f"degraded: the drill of file://{tmp_path}/replica failed: ")
    assert served.write("SELECT 1")  # nobody else minds


def test_a_replica_that_is_gone_never_passes(served, tmp_path):
    assert drill(served)[0]["verdict"] == "pass"
    shutil.rmtree(tmp_path / "replica")
    one, = drill(served)
    assert one["verdict"] != "pass" and one["reason"] != ""


def test_assertions(served, daemon, tmp_path):
    asked = tmp_path / "asked.sql"
    conf = {"drill_assertions": asked}
    second = daemon(replica=f"file://{tmp_path}/second", **conf)
    second.write(["CREATE TABLE t(a)"], ["INSERT INTO t VALUES (1), (2)"])
    asked.write_text("-- how many\nSELECT count(*) = 2 FROM t;\n\nSELECT a > 0 FROM t; -- each\n", encoding="utf-8")
    one, = drill(second)
    assert one["verdict"] == "pass" and one["assertions"] == 2
    asked.write_text("SELECT 1; SELECT a > 1 FROM t; SELECT 1;", encoding="utf-8")
    one, = drill(second)
    assert one["verdict"] == "fail" and "SELECT a > 1 FROM t" in one["reason"]
    asked.write_text("SELECT a FROM nowhere;", encoding="utf-8")
    one, = drill(second)
    assert one["verdict"] == "fail" and "no such table" in one["reason"]
    asked.unlink()
    one, = drill(second)
    assert one["verdict"] == "inconclusive" and str(asked) in one["reason"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_no_room_to_restore(daemon, tmp_path):
    with small_disk(tmp_path / "disk", "48k") as disk:
        small = daemon(replica=f"file://{tmp_path}/replica", drill_dir=disk, disk_floor=0)
        small.write(["CREATE TABLE t(a)"], ["INSERT INTO t VALUES (randomblob(200000))"])
        one, = drill(small)
        assert one["verdict"] == "inconclusive" and "1.2 times" in one["reason"]
        assert os.listdir(disk) == []


def test_what_the_floor_keeps_is_not_used(daemon, tmp_path):
    free = os.statvfs(tmp_path)
    floor = free.f_bavail * free.f_frsize * 2
    full = daemon(replica=f"file://{tmp_path}/replica", drill_dir=tmp_path, disk_floor=0)
    full.write(["CREATE TABLE t(a)"])
    full.stop()
    full.settings["disk_floor"] = floor
    full.start()
    one, = drill(full)
    assert one["verdict"] == "inconclusive"
    assert "1.2 times" in one["reason"] or "disk" in one["reason"]


def test_heartbeats(daemon, tmp_path):
    seen = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    asked = tmp_path / "asked.sql"
    asked.write_text("SELECT count(*) = 0 FROM t;", encoding="ascii")
    heard = daemon(replica=f"file://{tmp_path}/replica", drill_heartbeat=f"{url}/secret",
                   drill_heartbeat_fail=f"{url}/secret/fail", drill_assertions=asked, roles_stats="20007")
    heard.write(["CREATE TABLE t(a)"])
    assert drill(heard)[0]["verdict"] == "pass" and seen == ["/secret"]
    heard.write(["INSERT INTO t VALUES (1)"])
    assert drill(heard)[0]["verdict"] == "fail" and seen == ["/secret", "/secret/fail"]
    asked.unlink()
    assert drill(heard)[0]["verdict"] == "inconclusive" and len(seen) == 2
    assert "secret" not in heard.log()
    with heard.wire() as wire:
        mine = dict((row[0], row[1]) for row in wire.call("show", what="config", like="drill_heart*")["rows"])
    assert mine["drill_heartbeat"] == f"{url}/secret"
    with heard.wire_as(20007) as wire:
        theirs = dict((row[0], row[1]) for row in wire.call("show", what="config", like="drill_heart*")["rows"])
    assert "secret" not in str(theirs)
    server.shutdown()
    server.server_close()


# ---- what gets in the way

def test_writers_do_not_wait_for_a_long_wal_to_be_copied(daemon, tmp_path):
    """Beside writers a drill waits until a checkpoint has copied what a reader held back."""
    crowded = daemon(replica=f"file://{tmp_path}/replica", disk_floor=0, checkpoint_frames=1000)
    crowded.write(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"])
    reader = crowded.reader()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchall()
    crowded.write(["WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) "
                   "INSERT INTO t SELECT i, randomblob(4000) FROM n"])
    stop = threading.Event()

    def keep_writing():
        with crowded.wire() as wire:
            while not stop.is_set():
                ids = [wire.request("write", batch=[["UPDATE t SET b = randomblob(100) WHERE a = 1"]])
                       for _ in range(20)]
                for one in ids:
                    error, _ = wire.reply(one)
                    assert error is None, error

    writers = [threading.Thread(target=keep_writing) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        with crowded.wire(timeout=PATIENCE * crowded.slow) as wire:
            asked = wire.request("drill")
            wait_for(lambda: "checkpoint_frames" in crowded.stats()["drill_waits_for"], "it waits", PATIENCE)
            assert crowded.stats()["drill_state"] in ("cutting", "marking")
            reader.close()
            error, result = wire.reply(asked)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert error is None, error
    assert rows_of(result)[0]["verdict"] == "pass"
    assert crowded.stats()["drill_waits_for"] == ""


def test_its_process_is_killed(served):
    one = Held(served)
    os.kill(one.pid, signal.SIGKILL)
    row, = one.answer()
    assert row["verdict"] == "inconclusive" and "died" in row["reason"]
    assert drill(served)[0]["verdict"] == "pass"


def test_it_takes_too_long(daemon, tmp_path):
    slow = daemon(replica=f"file://{tmp_path}/replica", drill_timeout="1s")
    slow.write(["CREATE TABLE t(a)"])
    one = Held(slow)
    row, = one.answer()
    assert row["verdict"] == "inconclusive" and "drill_timeout" in row["reason"]
    assert slow.child("drill") is None and state(slow) == "idle"


@pytest.mark.parametrize("how", ("stop", "kill"))
def test_a_stop_in_the_middle(served, how):
    """No verdict, nothing left running, and what it left on the disk goes with the next one."""
    one = Held(served)
    getattr(served, how)()
    with pytest.raises((Closed, OSError)):
        while True:
            one.wire.recv()
    one.wire.close()
    wait_for(lambda: not os.path.exists(f"/proc/{one.pid}"), "its process is gone")
    left = pathlib.Path(f"{served.db}-ship/drill")
    left.mkdir(mode=0o700, exist_ok=True)
    (left / "restored.db").write_bytes(bytes(5000))
    served.start()
    assert shown(served) == []
    assert drill(served)[0]["verdict"] == "pass"
    assert not left.exists()


def test_a_directory_of_somebody_else_is_not_used(served):
    left = pathlib.Path(f"{served.db}-ship/drill")
    left.mkdir(mode=0o777)
    left.chmod(0o777)
    (left / "precious").write_bytes(b"x")
    row, = drill(served)
    assert row["verdict"] == "inconclusive" and "drill_dir" in row["reason"]
    assert (left / "precious").exists()


def test_the_wal_does_not_grow_without_end(daemon, tmp_path):
    busy = daemon(replica=f"file://{tmp_path}/replica", wal_warn_bytes="1MiB", checkpoint_frames=20)
    busy.write(["CREATE TABLE t(a)"])
    one = Held(busy)
    while state(busy) == "hashing":
        busy.write(["INSERT INTO t VALUES (randomblob(100000))"])
    row, = one.answer()
    assert row["verdict"] == "inconclusive" and "the WAL grew" in row["reason"]
    before = busy.stats()["checkpoints_total"]
    for _ in range(60):
        busy.write(["INSERT INTO t VALUES (randomblob(10000))"])
    wait_for(lambda: busy.stats()["checkpoints_total"] > before, "checkpoints go on")
    assert drill(busy)[0]["verdict"] == "pass"


def test_writes_and_no_checkpoint_while_the_file_is_read(served):
    one = Held(served)
    for n in range(50):
        served.write(["INSERT INTO t VALUES (?, randomblob(3000))", [100 + n]])
    with served.wire() as wire:
        assert wire.call("checkpoint")["put_off"]
    one.go_on()
    row, = one.answer()
    assert row["verdict"] == "pass" and json.loads(row["tables"]) == {"t": 20, "held": 1}
    with served.wire() as wire:
        wire.call("sync")  # what is not in the spool may not be copied
        assert not wire.call("checkpoint")["put_off"]


def test_another_process_makes_a_checkpoint_meanwhile(served):
    one = Held(served)
    other = sqlite3.connect(served.db, isolation_level=None, timeout=30)
    other.execute("INSERT INTO t VALUES (7777, 'x')")
    other.execute("PRAGMA wal_checkpoint").fetchall()
    other.close()
    one.go_on()
    row, = one.answer()
    assert row["verdict"] == "inconclusive" and "another process" in row["reason"]
    assert drill(served)[0]["verdict"] == "pass"


def test_a_reader_in_the_way_is_waited_for(served):
    reader = served.reader()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchall()
    served.write(["INSERT INTO t VALUES (100, randomblob(3000))"])
    with served.wire(timeout=PATIENCE * served.slow) as wire:
        id = wire.request("drill")
        wait_for(lambda: served.stats()["drill_held_us_max"] > 0, "it was tried", PATIENCE)
        assert state(served) in ("cutting", "marking")
        served.write(["INSERT INTO t VALUES (101, randomblob(3000))"])
        reader.close()
        error, result = wire.reply(id)
    assert error is None and rows_of(result)[0]["verdict"] == "pass"


def test_who_asks_need_not_wait(served):
    one = Held(served)
    with served.wire() as wire, pytest.raises(Refused) as refused:
        wire.call("drill", deadline_ms=50)
    assert refused.value.code == "deadline"
    one.wire.notice("cancel", id=one.id)
    error, _ = one.wire.reply(one.id)
    assert error["code"] == "cancelled"
    gone = served.wire()
    gone.request("drill")
    gone.close()
    one.go_on()
    wait_for(lambda: shown(served), "the drill goes on", PATIENCE)
    assert shown(served)[0]["verdict"] == "pass"
    one.wire.close()


def test_who_comes_late_gets_a_drill_of_its_own(served):
    one = Held(served)
    served.write(["INSERT INTO t VALUES (100, 'late')"])
    with served.wire(timeout=PATIENCE * served.slow) as wire:
        id = wire.request("drill")
        wire.call("ping")
        one.go_on()
        first, = one.answer()
        error, result = wire.reply(id)
        assert error is None
        second, = rows_of(result)
    assert second["commit"] > first["commit"] and json.loads(second["tables"])["t"] == 21


# ---- what `status` says

def test_status(served, litefunnel, tmp_path):
    def status():
        code, said, _ = command(litefunnel, "status", served.db)
        assert code == 0
        return said

    def later(days):
        """The drills are as old as that. The replica begins anew: it would not take what we have changed."""
        served.stop()
        shutil.rmtree(tmp_path / "replica")
        shutil.rmtree(f"{served.db}-ship")
        db = sqlite3.connect(served.db)
        db.execute("UPDATE _lf_drill SET began_ms = began_ms - ?1, ended_ms = ended_ms - ?1", (days * 86400000,))
        db.commit()
        db.close()
        served.start()
        with served.wire() as wire:
            wire.call("sync")

    said = status()
    assert "drill      none yet" in said and "no verified backup" in said
    drill(served)
    said = status()
    assert "drill      pass at " in said and "no verified backup" not in said
    code, text, _ = command(litefunnel, "status", served.db, "--json")
    assert code == 0 and json.loads(text)["verified_backup"] is True
    later(29)
    assert "no verified backup" not in status()
    later(2)
    assert status().startswith("degraded: no verified backup: no drill has passed for 30 days")
    assert command(litefunnel, "status", served.db, "--check")[0] == 1
    drill(served)
    assert "no verified backup" not in status()


# ---- under load

def test_live_drills_while_all_is_written(daemon, tmp_path, soak, slow):
    """Writers at full speed, checkpoints all the time, and each drill is equal at its commit."""
    busy = daemon(replica=f"file://{tmp_path}/replica", checkpoint_frames=200, ship_linger="50ms")
    busy.write(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"])
    done = threading.Event()
    failures, written = [], [0] * 4

    def work(worker):
        try:
            with busy.wire(timeout=PATIENCE * slow) as wire:
                while not done.is_set():
                    wire.write(["INSERT OR REPLACE INTO t VALUES (abs(random()) % 5000, randomblob(500))"],
                               ["DELETE FROM t WHERE a = abs(random()) % 5000"])
                    written[worker] += 1
        except Exception as error:  # noqa: BLE001 # any at all is a finding
            failures.append(error)

    writers = [threading.Thread(target=work, args=(worker,)) for worker in range(len(written))]
    for writer in writers:
        writer.start()
    rows = []
    try:
        for _ in range(200 if soak else 6 if slow == 1 else 3):
            rows += drill(busy)
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert failures == []
    assert [row for row in rows if row["verdict"] != "pass"] == []
    commits = [row["commit"] for row in rows]
    assert commits == sorted(set(commits)) and all(written)
    stats = busy.stats()
    print(f"{len(rows)} drills equal, {sum(written)} batches, {stats['checkpoints_total']} checkpoints, "
          f"longest hold {stats['drill_held_us_max'] / 1000:.1f} ms, "
          f"{max(row['database_bytes'] for row in rows) / 1e6:.1f} MB")
    kept = shown(busy)
    assert len(kept) == min(len(rows), 100) and kept[-1] == rows[-1]
    assert busy.read("SELECT count(*) FROM _lf_drill") == [(len(kept),)]
