# SPDX-License-Identifier: MIT
"""`watch`: whoever watches is told of each commit, or told that it has missed some."""
import json
import os
import random
import subprocess
import threading
import time

import pytest

from wire import Closed, Refused

SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a);
CREATE TABLE Other(id INTEGER PRIMARY KEY, a);
CREATE TABLE log(id INTEGER PRIMARY KEY, a);
CREATE TRIGGER told AFTER INSERT ON log BEGIN SELECT lf_notify('log'); END;
CREATE VIRTUAL TABLE words USING fts5(w);
"""


@pytest.fixture(scope="module")
def served(shared_daemon):
    daemon = shared_daemon(roles_query="*,20001", roles_ddl="root", output_bytes_max="1MiB")
    daemon.write([SCHEMA, None, {"script": True}])
    return daemon


@pytest.fixture
def wire(served):
    with served.wire(session=os.urandom(16)) as wire:
        yield wire


def told(wire, last):
    """The notices up to that commit, which must be among them."""
    notices = []
    while not notices or notices[-1][1].get("commit", notices[-1][1].get("to")) < last:
        notices.append(wire.next_notice())
    return notices


def commit_notice(watch, commit, tables=(), channels=(), **more):
    return "commit", {"watch": watch, "commit": commit, "tables": list(tables), "channels": list(channels), **more}


def test_tables_and_channels(served, wire):
    with served.wire() as other:
        begun = other.call("watch", tables=["T", "words"], channels=["mail"])
        watch = begun["watch"]
        assert begun["commit"] == other.call("ping")["commit"]
        expected = []
        for sql, tables, channels in (
                ("INSERT INTO t(a) VALUES (1)", ["t"], []),
                ("INSERT INTO other(a) VALUES (1)", None, None),
                ("INSERT INTO words VALUES ('x')", ["words"], []),
                ("SELECT lf_notify('mail')", [], ["mail"]),
                ("SELECT lf_notify('Mail')", None, None),
                ("INSERT INTO t(a) SELECT lf_notify('mail') FROM log", None, None),
                ("INSERT INTO t(a) VALUES (lf_notify('mail')), (lf_notify('mail'))", ["t"], ["mail"])):
            commit = wire.write(sql)["commit"]
            if tables is not None:
                expected.append(commit_notice(watch, commit, tables, channels))
        assert told(other, commit) == expected
        # A change of the schema may be one of anything.
        commit = wire.write("CREATE TABLE IF NOT EXISTS made(a)")["commit"]
        assert told(other, commit) == [commit_notice(watch, commit, ["T", "words"], schema=True)]
        assert other.call("unwatch", watch=watch) == {}
        wire.write("INSERT INTO t(a) VALUES (1)")
        other.call("ping")
        assert not other.notices
        with pytest.raises(Refused) as caught:
            other.call("unwatch", watch=watch)
        assert caught.value.code == "not_found"


def test_everything(served, wire):
    watch = wire.call("watch")["watch"]
    commit = wire.write("INSERT INTO other(a) VALUES (lf_notify('x'))", "INSERT INTO t(a) VALUES (1)")["commit"]
    [(method, notice)] = told(wire, commit)
    assert sorted(notice["tables"]) == ["Other", "t"] and notice["channels"] == ["x"]
    commit = wire.write("INSERT INTO log(a) VALUES (1)")["commit"]  # its trigger notifies
    assert told(wire, commit) == [commit_notice(watch, commit, ["log"], ["log"])]
    commit = wire.write("PRAGMA user_version = 3")["commit"]
    assert told(wire, commit) == [commit_notice(watch, commit, schema=True)]


def test_what_was_undone_is_not_told(served, wire):
    watch = wire.call("watch", tables=["t"], channels=["a"])["watch"]
    for batch in (["INSERT INTO t(a) VALUES (lf_notify('a'))", "SELECT nosuch"],
                  ["SELECT lf_notify('a')", "INSERT OR ROLLBACK INTO t(id) VALUES (1), (1)"],
                  ["SELECT lf_notify('a')", "CREATE TABLE t(a)"]):
        error, _ = wire.ask("write", batch=[[sql] for sql in batch], seq=None or 1 + len(wire.notices))
        assert error["applied"] == "no"
    commit = wire.write("INSERT INTO t(a) VALUES (1)")["commit"]
    assert told(wire, commit) == [commit_notice(watch, commit, ["t"])]


def notify(channel, more=""):
    return f"INSERT INTO t(a) VALUES (lf_notify('{channel}')){more}"


def test_what_a_lease_has_taken_back_is_not_told(served, wire):
    """Steps undone alone, and what lies behind a savepoint that was gone back to."""
    steps = [(notify("before"), True), ("SAVEPOINT a", True), (notify("gone"), True), (notify("before"), True),
             ("SAVEPOINT b", True), (notify("gone too"), True), ("ROLLBACK TO A", True), (notify("kept"), True),
             ("SAVEPOINT a", True), (notify("inner"), True), ("RELEASE a", True), ("SAVEPOINT c", True),
             (notify("gone as well"), True), ("ROLLBACK TO c", True), ("RELEASE c", True),
             (f"SAVEPOINT d; {notify('script')}; SAVEPOINT e; {notify('gone script')}; ROLLBACK TO e; RELEASE d", True),
             (notify("failed", ", (abs(-9223372036854775808))"), False), ("ROLLBACK TO nosuch", False),
             ("INSERT OR FAIL INTO t(id, a) VALUES (77001, lf_notify('in part')), (77001, 1)", False)]
    with served.wire() as other:
        watch = other.call("watch", channels=["before", "gone", "gone too", "kept", "inner", "gone as well", "script",
                                              "gone script", "failed", "in part"])["watch"]
        wire.call("begin", lease=1)
        for sql, good in steps:
            opts = {"opts": {"script": True}} if ";" in sql else {}
            error, _ = wire.ask("step", lease=1, sql=sql, **opts)
            assert (error is None) == good, (sql, error)
        commit = wire.call("commit", lease=1)["commit"]
        [(_, notice)] = told(other, commit)
        assert notice["watch"] == watch
        assert sorted(notice["channels"]) == ["before", "in part", "inner", "kept", "script"]


def test_a_repeat_is_not_told_again(served, wire):
    wire.call("watch", channels=["once"])
    first = wire.write("SELECT lf_notify('once')", seq=1)
    assert wire.write("SELECT lf_notify('once')", seq=1)["repeat"]
    wire.call("ping")
    assert [notice["commit"] for _, notice in wire.notices] == [first["commit"]]


def test_what_the_rows_of_a_cursor_notify_is_told(served, wire):
    with served.wire() as other:
        watch = other.call("watch", channels=["one", "two"])["watch"]
        rows = "WITH c(a) AS (VALUES ('one'), ('two')) SELECT lf_notify(a) FROM c"
        wire.call("begin", lease=1)
        cursor = wire.call("step", lease=1, sql=rows, opts={"cursor": 1})["cursor"]
        assert wire.ask("step", lease=1, sql="SELECT nosuch")[0]["code"] == "sql"
        wire.call("fetch", lease=1, cursor=cursor, rows=5)
        wire.call("step", lease=1, sql="SELECT ?", params=[[1], [2]], opts={"many": True})
        commit = wire.call("commit", lease=1)["commit"]
        [notice] = told(other, commit)
        assert (notice[1]["watch"], sorted(notice[1]["channels"])) == (watch, ["one", "two"])


def test_lf_notify(served, wire):
    for value in ("''", "7", "NULL", "x'41'", "printf('%256s', 'x')", "'a' || char(0)"):
        with pytest.raises(Refused) as caught:
            wire.write(f"SELECT lf_notify({value})")
        assert "a channel is a text of 1 to 255 bytes" in caught.value.error["message"]
    with served.wire_as(20001) as reader:
        assert reader.call("watch")["watch"] > 0
        with pytest.raises(Refused) as caught:
            reader.write("SELECT lf_notify('x')")
        assert caught.value.code == "denied" and "write" in caught.value.error["message"]


def test_more_channels_than_are_kept(served, wire):
    watch = wire.call("watch", channels=["c7"])["watch"]
    commit = wire.write("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
                        " SELECT count(lf_notify('c' || i)) FROM n")["commit"]
    assert told(wire, commit) == [("missed", {"watch": watch, "from": commit, "to": commit})]


@pytest.mark.parametrize("params", (
    {"tables": []}, {"channels": []}, {"tables": "t"}, {"tables": [1]}, {"tables": [""]},
    {"channels": ["x" * 256]}, {"tables": ["t"] * 600, "channels": ["c"] * 401}, {"since": 5},
    {"since": {"epoch": bytes(15), "commit": 1}}, {"since": {"commit": 1}}))
def test_bad_wishes(wire, params):
    with pytest.raises(Refused) as caught:
        wire.call("watch", **params)
    assert caught.value.code == "bad_request"


def test_watches_are_bounded(wire):
    for _ in range(64):
        wire.call("watch", channels=["x"])
    with pytest.raises(Refused) as caught:
        wire.call("watch")
    assert caught.value.code == "bad_request"


def test_the_names_of_a_connection_are_bounded(served):
    """64 watches of 1000 long names each were 16 MiB, of each connection."""
    with served.wire() as wire:
        watch = wire.call("watch", channels=[f"c{i}" for i in range(600)])["watch"]
        wire.call("watch", tables=["t"], channels=[f"d{i}" for i in range(399)])
        error, _ = wire.ask("watch", tables=["other"])
        assert error["code"] == "bad_request" and "1000 names" in error["message"]
        wire.call("watch")
        wire.call("unwatch", watch=watch)
        wire.call("watch", channels=[f"e{i}" for i in range(600)])


def test_since(served, wire):
    start = wire.write("INSERT INTO t(a) VALUES (1)")
    now = {"epoch": start["epoch"], "commit": start["commit"]}
    current = wire.call("watch", tables=["t"], since=now)
    wire.call("ping")
    assert current["commit"] == start["commit"] and current["epoch"] == start["epoch"] and not wire.notices
    behind = wire.call("watch", tables=["t"], since={**now, "commit": now["commit"] - 2})["watch"]
    assert wire.next_notice() == (
        "missed", {"watch": behind, "from": now["commit"] - 1, "to": now["commit"]})
    other = wire.call("watch", tables=["t"], since={**now, "epoch": bytes(16)})["watch"]
    assert wire.next_notice() == ("missed", {"watch": other, "from": 1, "to": now["commit"]})


def test_a_slow_watcher_is_told_what_it_missed(served, wire):
    """One that does not read: its notices stop, the daemon goes on, and the rest is one range."""
    table = "long" * 60
    wire.write(f"CREATE TABLE {table}(a)", f"INSERT INTO {table} VALUES (1)")
    with served.wire() as slow:
        begun = slow.call("watch", tables=[table])
        for _ in range(4000):  # each a commit of its own, because the next waits for it
            last = wire.write(f"UPDATE {table} SET a = 1")["commit"]
        notices = told(slow, last)
        assert any(method == "missed" for method, _ in notices), len(notices)
        at = begun["commit"]
        for method, notice in notices:
            assert notice["commit" if method == "commit" else "from"] == at + 1
            at = notice["commit" if method == "commit" else "to"]
        assert at == last
        # From there on it hears of each commit again.
        commit = wire.write(f"UPDATE {table} SET a = 1")["commit"]
        assert told(slow, commit) == [commit_notice(begun["watch"], commit, [table])]


# ---- the command, and with it the C library

def test_the_command_goes_on_after_a_kill(daemon):
    served = daemon()
    served.write("CREATE TABLE t(a)", "CREATE TABLE u(a)")
    with subprocess.Popen(
            [served.program, "watch", served.db, "T", "--channel", "mail\n", "--json"], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr.readline() == "watching\n"
            first = served.write("INSERT INTO t VALUES (1)")["commit"]
            served.write("INSERT INTO u VALUES (1)")
            second = served.write("SELECT lf_notify('mail' || char(10))")["commit"]
            lines = [json.loads(process.stdout.readline()) for _ in range(2)]
            assert lines == [{"commit": first, "tables": ["t"], "channels": []},
                             {"commit": second, "tables": [], "channels": ["mail\n"]}]
            at = second
            for _ in range(3):
                served.kill()
                served.start()
                last = served.write("INSERT INTO t VALUES (1)")["commit"]
                while at < last:
                    line = json.loads(process.stdout.readline())
                    if "missed" in line:
                        assert line["missed"]["from"] == at + 1, line
                        at = line["missed"]["to"]
                    else:
                        at = line["commit"]
                assert at == last
        finally:
            process.kill()


def test_the_command_s_options(served, tmp_path):
    def run(*arguments):
        return subprocess.run([served.program, "watch", *map(str, arguments)], capture_output=True, text=True,
                              timeout=60, check=False)

    assert run("--help").returncode == 0
    assert run(served.db, "--count", "0").returncode == 2
    assert run(served.db, "--nonsense").returncode == 2
    nobody = run(tmp_path / "nobody.db", "--deadline", "50ms")
    assert nobody.returncode == 4 and "nobody answered in time" in nobody.stderr
    served.write("CREATE TABLE IF NOT EXISTS Wanted(a)")
    watching = subprocess.Popen([served.program, "watch", served.db, "wANTED", "mistyped", "--count", "1"], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watching.stderr.readline() == 'litefunnel watch: there is no table "mistyped" yet\n'
    assert watching.stderr.readline() == "watching\n"
    served.write("INSERT INTO WANTED VALUES (1)")
    assert watching.communicate(timeout=60)[0].endswith(" Wanted\n") and watching.returncode == 0
    refused = run(served.db, "t" * 256)
    assert refused.returncode == 1 and "bad_request" in refused.stderr


# ---- kills

class Watcher(threading.Thread):
    """Watches across kills of the daemon, and notes what it was told."""

    def __init__(self, served):
        super().__init__(daemon=True)
        self.served, self.since, self.error = served, None, None
        self.commits, self.missed, self.stop = set(), [], None

    def run(self):
        try:
            while self.stop is None or self.since["commit"] < self.stop:
                try:
                    self._connection()
                except (Closed, OSError):
                    time.sleep(0.005)  # no daemon now
        except Exception as error:  # shown by the test
            self.error = error

    def _connection(self):
        with self.served.wire(timeout=60) as wire:
            begun = wire.call("watch", tables=["job"], channels=["job", "undone"],
                              **({"since": self.since} if self.since else {}))
            if self.since is None:
                self.since = {"epoch": begun["epoch"], "commit": begun["commit"]}
            while self.stop is None or self.since["commit"] < self.stop:
                try:
                    method, notice = wire.next_notice(timeout=0.2)
                except TimeoutError:
                    continue
                if method == "closing":
                    continue
                assert "undone" not in notice.get("channels", ())
                if method == "commit":
                    assert notice["commit"] > self.since["commit"]
                    assert notice.get("schema") or (notice["tables"], notice["channels"]) == (["job"], ["job"])
                    self.commits.add(notice["commit"])
                    self.since["commit"] = notice["commit"]
                else:
                    assert notice["from"] == self.since["commit"] + 1
                    self.missed.append((notice["from"], notice["to"]))
                    self.since["commit"] = notice["to"]


def test_kills(daemon, soak, slow):
    """None is missed unannounced, none is told of a batch that was undone."""
    served = daemon()
    served.write("CREATE TABLE job(id INTEGER PRIMARY KEY, a)")
    watchers = [Watcher(served) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
        while watcher.since is None:
            time.sleep(0.005)
    first = watchers[-1].since["commit"]
    total, rng, commits = (100000 if soak else 6000) // slow, random.Random(), set()
    good = [["INSERT INTO job(a) VALUES (lf_notify('job'))"]]
    bad = [["INSERT INTO job(a) VALUES (lf_notify('undone'))"], ["SELECT nosuch"]]
    while len(commits) < total:
        with served.wire() as wire:
            ids = []
            for _ in range(rng.randrange(100, 1000)):
                # Groups of a few: some are waited for.
                ids.append((wire.request("write", batch=good), True))
                if rng.random() < 0.2:
                    ids.append((wire.request("write", batch=bad), False))
                if rng.random() < 0.5:
                    for number, well in ids:
                        error, result = wire.reply(number)
                        assert (error is None) == well
                        if well:
                            commits.add(result["commit"])
                    ids = []
        if rng.random() < (0.1 if soak else 0.4):
            served.kill()
            served.start()
    last = served.write("INSERT INTO job(a) VALUES (lf_notify('job'))")["commit"]
    for watcher in watchers:
        watcher.stop = last
    for watcher in watchers:
        watcher.join(60)
        assert watcher.error is None, watcher.error
        assert not watcher.is_alive()
        unannounced = [c for c in commits if c > first and c not in watcher.commits
                       and not any(low <= c <= high for low, high in watcher.missed)]
        assert not unannounced, unannounced[:10]
    print(f"{len(commits)} commits, {len(watchers[0].commits)} told, {len(watchers[0].missed)} ranges missed")
