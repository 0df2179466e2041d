# SPDX-License-Identifier: MIT
"""`litefunnel adopt` and `leave`, with an application, a daemon and readers of different uids."""
import grp
import json
import os
import pwd
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for second users")

APP, DAEMON, STRANGER = 20021, 20022, 20023
READERS, WRITERS = 20031, 20032


@pytest.fixture
def data():
    """An application's own directory with a database in it, as it is before litefunnel."""
    path = tempfile.mkdtemp(prefix="adopt-")
    os.chown(path, APP, APP)
    os.chmod(path, 0o775)
    with sqlite3.connect(f"{path}/app.db") as db:
        db.execute("CREATE TABLE visit(path)")
        db.execute("INSERT INTO visit VALUES ('/before')")
    db.close()
    os.chown(f"{path}/app.db", APP, APP)
    os.chmod(f"{path}/app.db", 0o664)
    yield path
    shutil.rmtree(path)


def run(litefunnel, *args, uid=None, gid=None, groups=()):
    who = {} if uid is None else {
        "user": uid, "group": uid if gid is None else gid, "extra_groups": list(groups)}
    return subprocess.run([str(litefunnel), *args], capture_output=True, text=True, timeout=60,
                          cwd="/", **who)


def good(result):
    assert result.returncode == 0, (result.stdout, result.stderr)
    return result.stdout


def bad(result):
    assert result.returncode == 1, (result.returncode, result.stdout, result.stderr)
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def adopt(litefunnel, data, *options, **who):
    return run(litefunnel, "adopt", f"{data}/app.db", "--user", str(DAEMON), *options, **who)


def look(path):
    st = os.lstat(path)
    return st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)


def look_at_all(data):
    return {name: look(f"{data}/{name}") for name in [".", *os.listdir(data)]}


def as_user(uid, code, *args, gid=None, groups=()):
    """Runs Python code as somebody; its output, or what it failed with."""
    result = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, cwd="/",
        user=uid, group=uid if gid is None else gid, extra_groups=list(groups))
    return result.stdout.strip() if result.returncode == 0 else result.stderr.strip()


READ = """
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
print(*(row[0] for row in db.execute("SELECT path FROM visit")))
"""
WRITE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("INSERT INTO visit VALUES ('/foreign')")
db.commit()
"""
HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("SELECT * FROM visit").fetchall()
print("open", flush=True)
sys.stdin.read()
"""
CONNECT = """
import socket, sys
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
print("connected")
"""


def journal_mode(path):
    with open(path, "rb") as file:
        return {1: "delete", 2: "wal"}[file.read(19)[18]]


def rows(path):
    db = sqlite3.connect(path)
    try:
        return [row[0] for row in db.execute("SELECT path FROM visit ORDER BY rowid")]
    finally:
        db.close()


class Daemon:
    def __init__(self, litefunnel, db, *options, uid=DAEMON, groups=()):
        self.process = subprocess.Popen(
            [str(litefunnel), "serve", db, *options], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, cwd="/", user=uid, group=uid,
            extra_groups=list(groups))

    def __enter__(self):
        line = self.process.stdout.readline()
        if not line.startswith("ready"):
            self.process.kill()
            pytest.fail(f"not ready: {line!r} {self.process.stderr.read()!r}")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=20)


# ---- adopt


def test_adopt_gives_the_files_to_the_daemon_and_the_rest_may_read(litefunnel, data):
    before = look(data), look(f"{data}/app.db")
    said = good(adopt(litefunnel, data))
    assert before == ((APP, APP, 0o775), (APP, APP, 0o664))
    assert look(data) == (DAEMON, APP, 0o2750)
    for name in ("app.db", "app.db-wal", "app.db-shm", "app.db-funnel.lock"):
        assert look(f"{data}/{name}") == (DAEMON, APP, 0o640), name
    assert journal_mode(f"{data}/app.db") == "wal"
    assert f"chown {DAEMON}:{APP} {data}/app.db (was {APP}:{APP})" in said
    assert f"chmod 2750 {data} (was 0775)" in said
    # the application, whose group it was, reads, and no longer writes; a stranger does neither
    assert as_user(APP, READ, f"{data}/app.db") == "/before"
    assert "readonly" in as_user(APP, WRITE, f"{data}/app.db")
    assert "unable to open" in as_user(STRANGER, READ, f"{data}/app.db")
    assert as_user(STRANGER, READ, f"{data}/app.db", groups=[APP]) == "/before"


def test_daemon_serves_what_was_adopted_and_refuses_what_was_not(litefunnel, data):
    refusal = run(litefunnel, "serve", f"{data}/app.db", uid=DAEMON)
    assert refusal.returncode != 0 and "litefunnel adopt" in refusal.stderr
    good(adopt(litefunnel, data))
    with Daemon(litefunnel, f"{data}/app.db"):
        assert look(f"{data}/app.db-funnel") == (DAEMON, APP, 0o660)
        assert as_user(APP, CONNECT, f"{data}/app.db-funnel") == "connected"
        assert "Permission" in as_user(STRANGER, CONNECT, f"{data}/app.db-funnel")
        assert as_user(APP, READ, f"{data}/app.db") == "/before"
    assert as_user(APP, READ, f"{data}/app.db") == "/before"
    with Daemon(litefunnel, f"{data}/app.db"):
        pass


def test_adopt_twice_changes_nothing(litefunnel, data):
    good(adopt(litefunnel, data))
    first = look_at_all(data)
    memory = open(f"{data}/app.db-adopted").read()
    said = good(adopt(litefunnel, data))
    assert "nothing to change" in said and "chown" not in said and "chmod" not in said
    assert look_at_all(data) == first
    assert open(f"{data}/app.db-adopted").read() == memory
    with Daemon(litefunnel, f"{data}/app.db"):
        pass
    good(adopt(litefunnel, data))  # a socket and lock of before do not matter
    with Daemon(litefunnel, f"{data}/app.db"):
        pass


def test_adopt_again_does_not_mind_readers(litefunnel, data):
    good(adopt(litefunnel, data))
    reader = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{data}/app.db"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, user=APP, group=APP)
    try:
        assert reader.stdout.readline() == "open\n"
        good(adopt(litefunnel, data))
        assert as_user(APP, READ, f"{data}/app.db") == "/before"
    finally:
        reader.communicate(timeout=20)


def test_adopt_after_an_interrupted_one_keeps_the_first_memory(litefunnel, data):
    good(adopt(litefunnel, data))
    os.chown(data, 0, 0)  # as a crash in the middle leaves it
    os.chmod(data, 0o700)
    os.chown(f"{data}/app.db-shm", APP, APP)
    good(adopt(litefunnel, data))
    assert look(data) == (DAEMON, APP, 0o2750)
    assert look(f"{data}/app.db-shm") == (DAEMON, APP, 0o640)
    good(run(litefunnel, "leave", f"{data}/app.db"))
    assert look(data) == (APP, APP, 0o775)


def test_dry_run_changes_nothing(litefunnel, data):
    before = look_at_all(data), open(f"{data}/app.db", "rb").read()
    said = good(adopt(litefunnel, data, "--dry-run"))
    assert (look_at_all(data), open(f"{data}/app.db", "rb").read()) == before
    lines = said.splitlines()
    assert lines and all(line.startswith(("would ", "note: ")) for line in lines), said
    assert f"would chmod 2750 {data} (was 0775)" in lines


def test_json_holds_every_change(litefunnel, data):
    facts = json.loads(good(adopt(litefunnel, data, "--json")))
    assert facts["db"] == f"{data}/app.db" and facts["dry_run"] is False
    assert f"chmod 2750 {data} (was 0775)" in facts["changes"]
    facts = json.loads(good(adopt(litefunnel, data, "--json")))
    assert facts["changes"] == []
    result = run(litefunnel, "adopt", f"{data}/none.db", "--user", str(DAEMON), "--json")
    assert result.returncode == 1 and "cure" in json.loads(result.stdout)["error"]


def test_readers_and_writers_may_be_groups_of_their_own(litefunnel, data):
    said = good(adopt(litefunnel, data, "--readers", str(READERS), "--writers", str(WRITERS)))
    assert f"socket_group = {WRITERS}" in said
    assert "usermod" in said  # the daemon's user is in no such group
    assert look(data) == (DAEMON, READERS, 0o2751)
    assert look(f"{data}/app.db-wal") == (DAEMON, READERS, 0o640)
    with Daemon(litefunnel, f"{data}/app.db", "--socket-group", str(WRITERS), groups=[WRITERS]):
        sock, db = f"{data}/app.db-funnel", f"{data}/app.db"
        assert look(sock) == (DAEMON, WRITERS, 0o660)
        assert as_user(STRANGER, CONNECT, sock, groups=[WRITERS]) == "connected"
        assert "unable to open" in as_user(STRANGER, READ, db, groups=[WRITERS])
        assert as_user(STRANGER, READ, db, groups=[READERS]) == "/before"
        assert "Permission" in as_user(STRANGER, CONNECT, sock, groups=[READERS])


def test_names_of_users_and_groups(litefunnel, data):
    user, group = pwd.getpwnam("nobody"), grp.getgrnam("daemon")
    good(run(litefunnel, "adopt", f"{data}/app.db", "--user", "nobody", "--readers", "daemon"))
    assert look(data) == (user.pw_uid, group.gr_gid, 0o2750)
    for option, kind in (("--user", "user"), ("--readers", "group"), ("--writers", "group")):
        said = bad(adopt(litefunnel, data, option, "no-such-name"))
        assert f"no {kind} no-such-name" in said


def test_root_s_group_is_no_group_of_readers(litefunnel, data):
    os.chown(f"{data}/app.db", 0, 0)
    good(adopt(litefunnel, data))
    assert look(data)[:2] == (DAEMON, DAEMON)


def test_create_makes_directory_and_database(litefunnel, data):
    db = f"{data}/new/fresh.db"
    assert "--create" in bad(run(litefunnel, "adopt", f"{data}/fresh.db", "--user", str(DAEMON)))
    good(run(litefunnel, "adopt", db, "--user", str(DAEMON), "--readers", str(READERS),
             "--create"))
    assert look(f"{data}/new") == (DAEMON, READERS, 0o2750)
    assert look(db) == (DAEMON, READERS, 0o640) and journal_mode(db) == "wal"
    with Daemon(litefunnel, db):
        pass


# ---- what adopt refuses


def test_shared_directory_is_not_taken_silently(litefunnel, data):
    open(f"{data}/uploads", "w").close()
    before = look_at_all(data)
    said = bad(adopt(litefunnel, data))
    assert "uploads" in said and "mkdir" in said and "--directory-too" in said
    assert look_at_all(data) == before
    good(adopt(litefunnel, data, "--directory-too"))
    assert look(data) == (DAEMON, APP, 0o2750)
    assert look(f"{data}/uploads") == before["uploads"]


def test_everybody_s_directory_is_never_taken(litefunnel, data):
    os.chmod(data, 0o1777)
    assert "belongs to everybody" in bad(adopt(litefunnel, data, "--directory-too"))
    assert look(data) == (APP, APP, 0o1777)


def test_process_that_has_it_open_for_writing_is_named(litefunnel, data):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{data}/app.db"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, user=APP, group=APP)
    try:
        assert holder.stdout.readline() == "open\n"
        before = look_at_all(data)
        assert f"pid {holder.pid} (python3" in bad(adopt(litefunnel, data))
        assert look_at_all(data) == {**before, "app.db-funnel.lock": (0, 0, 0o640)}
    finally:
        holder.communicate(timeout=20)
    good(adopt(litefunnel, data))


def test_running_daemon_is_named(litefunnel, data):
    good(adopt(litefunnel, data))
    with Daemon(litefunnel, f"{data}/app.db") as daemon:
        assert f"pid {daemon.process.pid}" in bad(adopt(litefunnel, data))
        assert f"pid {daemon.process.pid}" in bad(run(litefunnel, "leave", f"{data}/app.db"))
        assert "serves" in bad(adopt(litefunnel, data, "--dry-run"))


def test_socket_that_systemd_holds_is_refused(litefunnel, data):
    good(adopt(litefunnel, data))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{data}/app.db-funnel")
        listener.listen()
        for command in ("adopt", "leave"):
            args = ["--user", str(DAEMON)] if command == "adopt" else []
            said = bad(run(litefunnel, command, f"{data}/app.db", *args))
            assert "systemctl stop" in said


def test_links_and_what_is_no_database_are_refused(litefunnel, data):
    os.link(f"{data}/app.db", f"{data}/app.db-shm")
    assert "hard links" in bad(adopt(litefunnel, data))
    os.unlink(f"{data}/app.db-shm")
    os.mkdir(f"{data}/app.db-ship")
    os.symlink("/etc/passwd", f"{data}/app.db-wal")
    before = look("/etc/passwd")
    bad(adopt(litefunnel, data))
    assert look("/etc/passwd") == before
    assert look(data) == (APP, APP, 0o775)  # given back
    assert look(f"{data}/app.db") == (APP, APP, 0o664)
    assert not os.path.exists(f"{data}/app.db-adopted")
    os.unlink(f"{data}/app.db-wal")
    with open(f"{data}/app.db", "wb") as file:
        file.write(b"This is no database." * 50)
    assert "not a SQLite 3 database" in bad(adopt(litefunnel, data))


def test_without_root_only_one_s_own(litefunnel, data):
    said = bad(adopt(litefunnel, data, uid=APP))
    assert "run as root" in said
    good(run(litefunnel, "leave", f"{data}/app.db", uid=APP))
    good(run(litefunnel, "adopt", f"{data}/app.db", uid=APP))
    assert look(data) == (APP, APP, 0o2750)
    with Daemon(litefunnel, f"{data}/app.db", uid=APP):
        pass
    good(run(litefunnel, "leave", f"{data}/app.db", uid=APP))


# ---- leave


def test_leave_restores_everything(litefunnel, data):
    before = look(data), look(f"{data}/app.db"), journal_mode(f"{data}/app.db")
    good(adopt(litefunnel, data, "--readers", str(READERS)))
    with Daemon(litefunnel, f"{data}/app.db"):
        pass
    said = good(run(litefunnel, "leave", f"{data}/app.db"))
    assert (look(data), look(f"{data}/app.db"), journal_mode(f"{data}/app.db")) == before
    assert sorted(os.listdir(data)) == ["app.db", "app.db-funnel.lock"]
    assert f"chmod 0775 {data} (was 2750)" in said
    assert as_user(APP, WRITE, f"{data}/app.db") == ""
    assert rows(f"{data}/app.db") == ["/before", "/foreign"]
    # and there and back again
    good(adopt(litefunnel, data))
    good(run(litefunnel, "leave", f"{data}/app.db"))
    assert (look(data), look(f"{data}/app.db"), journal_mode(f"{data}/app.db")) == before


def test_leave_copies_the_wal_into_the_database(litefunnel, data):
    good(adopt(litefunnel, data))
    killed = subprocess.Popen(
        [sys.executable, "-c", WRITE + "\nimport os; os.kill(os.getpid(), 9)", f"{data}/app.db"],
        user=DAEMON, group=DAEMON, extra_groups=[])
    killed.wait(timeout=20)
    assert os.path.getsize(f"{data}/app.db-wal") > 0
    good(run(litefunnel, "leave", f"{data}/app.db"))
    assert not os.path.exists(f"{data}/app.db-wal")
    assert rows(f"{data}/app.db") == ["/before", "/foreign"]


def test_leave_keeps_wal_where_it_was_before(litefunnel, data):
    db = sqlite3.connect(f"{data}/app.db")
    db.execute("PRAGMA journal_mode=wal").fetchall()
    db.close()
    good(adopt(litefunnel, data))
    good(run(litefunnel, "leave", f"{data}/app.db"))
    assert journal_mode(f"{data}/app.db") == "wal"


def test_leave_drops_tables_only_when_told(litefunnel, data):
    def tables():
        db = sqlite3.connect(f"{data}/app.db")
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
        db.close()
        return names

    good(adopt(litefunnel, data))
    with Daemon(litefunnel, f"{data}/app.db"):
        pass
    said = good(run(litefunnel, "leave", f"{data}/app.db"))
    assert "--drop-tables" in said and "_lf_state" in tables()
    good(adopt(litefunnel, data))
    kept = look_at_all(data), tables()
    said = good(run(litefunnel, "leave", f"{data}/app.db", "--drop-tables", "--dry-run"))
    assert "would drop table _lf_state" in said and (look_at_all(data), tables()) == kept
    said = good(run(litefunnel, "leave", f"{data}/app.db", "--drop-tables"))
    assert "drop table _lf_state" in said and tables() == {"visit"}
    assert rows(f"{data}/app.db") == ["/before"]


def test_leave_refuses_while_a_reader_is_at_work(litefunnel, data):
    good(adopt(litefunnel, data))
    before = look_at_all(data)
    reader = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{data}/app.db"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, user=APP, group=APP)
    try:
        assert reader.stdout.readline() == "open\n"
        assert f"pid {reader.pid} " in bad(run(litefunnel, "leave", f"{data}/app.db"))
        assert look_at_all(data) == before
    finally:
        reader.communicate(timeout=20)
    good(run(litefunnel, "leave", f"{data}/app.db"))


def test_leave_believes_no_memory_that_another_could_have_written(litefunnel, data):
    good(adopt(litefunnel, data))
    memory = open(f"{data}/app.db-adopted").read()
    forged = json.loads(memory)
    forged["database"] = {"uid": 0, "gid": 0, "mode": "4755"}
    os.unlink(f"{data}/app.db-adopted")
    with open(f"{data}/app.db-adopted", "w") as file:
        json.dump(forged, file)
    assert "cannot be understood" in bad(run(litefunnel, "leave", f"{data}/app.db"))
    with open(f"{data}/app.db-adopted", "w") as file:
        file.write(memory)
    os.chown(f"{data}/app.db-adopted", DAEMON, DAEMON)
    assert "not written by this user or root" in bad(run(litefunnel, "leave", f"{data}/app.db"))
    assert look(f"{data}/app.db") == (DAEMON, APP, 0o640)


def test_leave_of_what_was_never_adopted_changes_no_owner(litefunnel, data):
    before = look_at_all(data)
    said = good(run(litefunnel, "leave", f"{data}/app.db"))
    assert "nothing is remembered" in said
    after = look_at_all(data)
    assert {name: after[name] for name in before} == before
    assert "there is no database" in bad(run(litefunnel, "leave", f"{data}/none.db"))
    open(f"{data}/app.db-poisoned", "w").close()
    assert "recovery is due" in bad(run(litefunnel, "leave", f"{data}/app.db"))


# ---- the command line


@pytest.mark.parametrize("command", ["adopt", "leave"])
def test_usage(litefunnel, command, monkeypatch):
    monkeypatch.delenv("LITEFUNNEL_DB", raising=False)
    said = run(litefunnel, command, "--help")
    assert said.returncode == 0 and said.stdout.startswith(f"usage: litefunnel {command} DB")
    for args in ([], ["a", "b"], ["a", "--no-such"], ["a", "--json=1"]):
        result = run(litefunnel, command, *args)
        assert result.returncode == 2 and result.stdout == "", args
        assert result.stderr.startswith(f"litefunnel {command}: "), args


def test_database_from_the_environment(litefunnel, data, monkeypatch):
    monkeypatch.setenv("LITEFUNNEL_DB", f"{data}/app.db")
    good(run(litefunnel, "adopt", "--user", str(DAEMON)))
    assert look(data) == (DAEMON, APP, 0o2750)
    good(run(litefunnel, "leave"))
    assert look(data) == (APP, APP, 0o775)
