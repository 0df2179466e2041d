# SPDX-License-Identifier: MIT
"""
What was once wrong stays right: remembered answers, and disks that are full. Each test's line says what
happened before.
"""
import contextlib
import os
import sqlite3
import subprocess
import tempfile
import time

from daemon import READERS, Daemon, wait_for
from wire import REQUEST, frame, pack

COUNTING = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000)"
            " SELECT count(*) FROM n")


def batch(id, *steps, **params):
    """The bytes of a write; several sent at once share a group."""
    steps = [[step] if isinstance(step, str) else list(step) for step in steps]
    return frame(pack([REQUEST, id, "write", {"batch": steps, **params}]))


def insert(value):
    return ["INSERT INTO t VALUES (?)", [value]]


@contextlib.contextmanager
def on_small_disk(program, tmp_path, mib, **settings):
    """A daemon on a disk of a few MiB, and a function that makes the disk large."""
    place = tempfile.mkdtemp(prefix="funnel-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=2750,gid={READERS}", "funnel", place],
                   check=True)
    served = Daemon(program, f"{place}/app.db", **settings)
    served.log_path = str(tmp_path / "log")
    try:
        yield served.start(), lambda: subprocess.run(
            ["mount", "-o", "remount,size=64m", place], check=True)
        served.finish()
    finally:
        if served.running():
            served.process.kill()
            served.process.wait()
        subprocess.run(["umount", "--lazy", place], check=True)
        os.rmdir(place)


# ---- replays


def test_bye_does_not_forget_when_its_group_is_replayed(daemon):
    """A group with a `bye` was thrown away and replayed: the repeat in front of the bye ran again."""
    served, session = daemon(), os.urandom(16)
    served.write("CREATE TABLE t(a)", "CREATE TABLE u(a UNIQUE)", "INSERT INTO u VALUES (1)")
    with served.wire(session=session) as wire, served.wire(session=session) as other:
        wire.write(insert(5), seq=1)
        other.send(batch(11, insert(5), seq=1) + frame(pack([REQUEST, 12, "bye", {}])) +
                   batch(13, "INSERT OR ROLLBACK INTO u VALUES (1)"))
        assert other.reply(11)[1]["repeat"]
        assert other.reply(12) == (None, {})
        assert other.reply(13)[0]["code"] == "sql"
    assert served.read("SELECT a FROM t") == [(5,)]


def test_a_seq_that_was_rolled_back_moves_no_window(daemon):
    """The highest seq of an attempt that was undone dropped answers below it: their repeats ran again."""
    served = daemon(session_window=10, exec_timeout="400ms", commit_group_max_us=5_000_000)
    served.write("CREATE TABLE t(a)")
    slow = ("INSERT INTO t SELECT 0 FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            " SELECT count(*) FROM n)")
    with served.wire(session=os.urandom(16)) as wire:
        for seq in (1, 2, 3):
            wire.write(insert(seq), seq=seq)
        wire.send(batch(10, "SELECT 1") + batch(11, insert(100), seq=100, deadline_ms=200) +
                  batch(12, slow, seq=101, done=1))
        wire.reply(11)
        assert wire.reply(12)[0]["code"] == "deadline"
        error, result = wire.ask("write", batch=[insert(3)], seq=3)
        assert result["repeat"] if error is None else error["code"] == "session_expired"
    assert served.read("SELECT count(*) FROM t WHERE a = 3") == [(1,)]


# ---- restarts and bounds


def test_sessions_that_said_bye_do_not_come_back(daemon):
    """After a restart they were known again, filled sessions_max, and everybody new was refused."""
    served = daemon(sessions_max=3)
    served.write("CREATE TABLE t(a)")
    sessions = [os.urandom(16) for _ in range(6)]
    for session in sessions:
        with served.wire(session=session) as wire:
            wire.write(insert(1), seq=1)
            wire.call("bye")
    served.restart()
    assert served.stats()["sessions"] == 0
    for session in sessions[:3]:
        with served.wire(greet=False) as wire:
            assert not wire.hello(session=session)["session"]["known"]
            wire.write(insert(1), seq=1)


def test_the_window_may_not_grow(daemon):
    """With a larger session_window after a restart, seqs whose answers were forgotten ran again."""
    served, session = daemon(session_window=5), os.urandom(16)
    served.write("CREATE TABLE t(a)")
    with served.wire(session=session) as wire:
        for seq in range(1, 20):
            wire.write(insert(seq), seq=seq)
    served.stop()
    served.settings["session_window"] = 100
    code, said = served.refuses_to_start()
    assert code != 0 and "cannot grow" in said[0]
    served.settings["session_window"] = 4
    served.start()
    with served.wire(session=session) as wire:
        assert wire.ask("write", batch=[insert(1)], seq=1)[0]["code"] == "session_expired"
    assert served.read("SELECT count(*) FROM t WHERE a = 1") == [(1,)]


def test_full_keys_make_room_again_and_again(daemon, tmp_path):
    """
    1000 free keys went in a minute: with more than 17 a second keys_max filled, whatever key_ttl. They
    live long while they are to fill it, so that it does not matter how long that takes.
    """
    config = tmp_path / "ttl.conf"
    config.write_text("key_ttl = 1h\n")
    served = daemon(config=config, keys_max=2500, in_flight_max=3000, sync="normal")
    served.write("CREATE TABLE t(a)")
    with served.wire(timeout=60 * served.slow) as wire:
        for round in "abc":  # filled again, it makes room again
            wire.send(b"".join(batch(id, insert(1), key=f"{round}{id}") for id in range(10, 2511)))
            answers = [wire.reply(id)[0] for id in range(10, 2511)]
            assert any(error is not None and error["code"] == "overloaded" for error in answers)
            config.write_text("key_ttl = 1s\n")
            wire.call("reload")
            wait_for(lambda: wire.ask("write", batch=[insert(1)], key=round)[0] is None, "no room", 40)
            config.write_text("key_ttl = 1h\n")
            wire.call("reload")


def test_a_memory_that_cannot_be_read_is_refused_at_start(daemon):
    """A page of remembered answers that was unreadable was taken for the end of them."""
    served = daemon()
    served.write("CREATE TABLE t(a)")
    with served.wire(session=os.urandom(16)) as wire:
        for seq in (1, 2, 3):
            wire.write(insert(seq), "SELECT hex(zeroblob(20000))", seq=seq)
    served.stop()
    other = sqlite3.connect(served.db)
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (size,) = other.execute("PRAGMA page_size").fetchone()
    (root,) = other.execute("SELECT rootpage FROM sqlite_schema WHERE name = '_lf_group'").fetchone()
    other.close()
    with open(served.db, "r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\7")  # no kind of page
    code, said = served.refuses_to_start()
    assert code != 0 and "cannot be read" in said[0]


# ---- full disks


def test_the_end_of_an_autoincrement_is_no_full_disk(daemon):
    """It was answered `disk_low`, try again: SQLite calls both SQLITE_FULL."""
    served = daemon()
    served.write("CREATE TABLE a(i INTEGER PRIMARY KEY AUTOINCREMENT)", "CREATE TABLE t(a)",
                 "INSERT INTO a VALUES (9223372036854775807)")
    with served.wire(session=os.urandom(16)) as wire:
        wire.send(batch(10, insert(1), seq=1) + batch(11, "INSERT INTO a VALUES (NULL)", seq=2) +
                  batch(12, insert(2), seq=3))
        assert wire.reply(10)[0] is None and wire.reply(12)[0] is None
        error, _ = wire.reply(11)
        assert (error["code"], error["sqlite"], error["applied"], error["retry"]) == (
            "sql", 13, "no", False)
    assert served.read("SELECT a FROM t") == [(1,), (2,)]


def test_a_repeat_keeps_its_answer_beside_a_full_disk(litefunnel, tmp_path):
    """A repeat that shared a group with a batch too large for the disk was told `applied: no`."""
    with on_small_disk(litefunnel, tmp_path, 6) as (served, _):
        served.write("CREATE TABLE t(a)")
        with served.wire(session=os.urandom(16)) as wire:
            first = wire.write(insert(1), seq=1)
            wire.send(batch(11, insert(1), seq=1) +
                      batch(12, "INSERT INTO t VALUES (zeroblob(7000000))"))
            error, again = wire.reply(11)
            assert error is None and again["repeat"] and again["commit"] == first["commit"]
            error, _ = wire.reply(12)
            assert (error["code"], error["applied"], error["retry"]) == ("disk_low", "no", True)
        assert served.read("SELECT a FROM t") == [(1,)]


def was_taken(wire, i):
    """Sent again while the daemon has not yet seen that there is room."""
    id = wire.request("write", batch=[insert(i)], seq=i + 1)
    error, _ = wire.reply(id)
    assert error is None or (error["code"] == "disk_low" and error["retry"]), error
    return error is None


def test_nothing_is_written_outside_a_transaction(litefunnel, tmp_path):
    """A disk that filled while a failure was remembered ended the transaction unseen: what followed was
    written alone, without number and memory, then the daemon aborted, and a resend ran it twice."""
    failures, rows, session = 1000, range(5), os.urandom(16)
    with on_small_disk(litefunnel, tmp_path, 4, cache_bytes="64KiB", commit_group_max_us=8_000_000,
                       checkpoint_frames=100_000, in_flight_max=4000, deadline="10m") as (served, make_large):
        served.write("CREATE TABLE t(a)")
        with served.wire(session=session, timeout=120) as wire:
            wire.send(batch(9, COUNTING) + b"".join(
                batch(10 + i, "SELECT " + "x" * 5000, key=f"k{i}") for i in range(failures)) + b"".join(
                batch(5000 + i, insert(i), seq=i + 1) for i in rows))
            answers = [wire.reply(10 + i) for i in range(failures)]
            assert "disk_low" in {error["code"] for error, _ in answers}
            before = [wire.reply(5000 + i)[0] for i in rows]
        assert served.running()
        assert [row[0] for row in served.read("SELECT a FROM t ORDER BY a")] == [
            i for i in rows if before[i] is None]
        make_large()
        with served.wire(session=session) as wire:
            for i in rows:
                wait_for(lambda: was_taken(wire, i), "there is room again")
        assert served.read("SELECT a, count(*) FROM t GROUP BY a") == [(i, 1) for i in rows]
