# SPDX-License-Identifier: MIT
"""
A daemon whose k-th allocation fails: its own, msgpack's, libevent's, SQLite's, of any thread, once or from
then on. Whatever it could not do it says in a way that lets the client go on, or it closes the connection;
afterwards it serves as before, and everything that is asked again is there exactly once. Each round plays
the same script with the next k, on the same daemon, until the script comes through.

And one whose sockets move single bytes.
"""
import itertools
import os
import random

import pytest

import frail
from daemon import Daemon, make_place, wait_for
from wire import Closed

SCHEMA = ("CREATE TABLE t(n, what, UNIQUE (n, what))", "CREATE TABLE u(a UNIQUE)", "INSERT INTO u VALUES (1)",
          "CREATE TABLE p(id INTEGER PRIMARY KEY)", "CREATE TABLE sum(v)", "INSERT INTO sum VALUES (0)",
          "CREATE TRIGGER also AFTER INSERT ON t WHEN new.what = 'seq' BEGIN UPDATE sum SET v = v + 1; END")
MANY = 3
CALM_ROUNDS = 2
TIMEOUT = 60.0
DEADLINE_MS = 50  # without memory nothing may be able to run; then this is when one is told so


@pytest.fixture
def ground():
    """A daemon on frail ground, started, with the page that decides over it."""
    page = frail.Page()
    place = make_place()
    served = Daemon(frail.program(), f"{place}/app.db", env=page.environment, sync="normal", slow="0",
                    checkpoint_frames=40)
    served.page = page
    try:
        served.start()
        served.write(*SCHEMA)
        yield served
        served.finish()
    finally:
        page.relent()
        if served.running():
            served.process.kill()
            served.process.wait()
        page.close()


def writes(n):
    """Round n's writes that must take effect once, as (params, may fail with)."""
    def into(what):
        return ["INSERT INTO t VALUES (?, ?)", [n, what]]
    return [
        ({"seq": 1, "batch": [into("seq")]}, None),
        ({"key": f"key {n}", "batch": [into("key")]}, None),
        ({"seq": 2, "batch": [["INSERT INTO t VALUES (?, 'rows') RETURNING n, what", [n]],
                              ["UPDATE sum SET v = v + 1"], ["SELECT count(*) FROM t WHERE n = ?", [n]]]}, None),
        ({"seq": 3, "batch": [["INSERT INTO u VALUES (1)"]]}, 2067),
        ({"seq": 4, "batch": [["CREATE TABLE s(a)"], ["CREATE INDEX i ON s(a)"], ["DROP TABLE s"], into("ddl")]}, None),
        ({"seq": 5, "batch": [["INSERT INTO t VALUES (?, ?)", [[n, f"many {i}"] for i in range(MANY)],
                               {"many": True}]]}, None),
        ({"seq": 6, "batch": [["INSERT OR ROLLBACK INTO u VALUES (1)"]]}, 2067),
    ]


def asks(n, deadline_ms):
    """What else is asked, all answered without leaving anything."""
    soon = {"deadline_ms": deadline_ms}
    return [
        ("write", {"batch": [["SELECT n, what FROM t WHERE n = ? ORDER BY 2", [n]]], **soon}),
        ("describe", {"sql": "SELECT n FROM t WHERE n = ?", **soon}),
        ("show", {"what": ("stats", "clients", "config", "queue")[n % 4]}),
        ("watch", {"tables": ["u"]}),
        ("begin", {"lease": 1, **soon}),
        ("step", {"lease": 1, "sql": "INSERT INTO t VALUES (?, 'lease')", "params": [n], **soon}),
        ("commit", {"lease": 1, "key": f"lease {n}", **soon}),
        ("ping", {}),
    ]


def expected(n):
    return sorted(["seq", "key", "rows", "ddl", *(f"many {i}" for i in range(MANY))])


def is_for_now(error):
    """A refusal that tells the client that it may, or must, ask again or look."""
    return error["retry"] or error["applied"] == "unknown"


class Round:
    """The script, once: what was told OK is kept in `told`."""

    def __init__(self, served, n):
        self.served, self.n = served, n
        self.session = os.urandom(16)
        self.told = {}
        self.leased = False

    def play(self, calm):
        """All of it on one connection; `calm` means that nothing may go wrong. False: the connection was closed."""
        try:
            with self.served.wire(greet=False, timeout=TIMEOUT) as wire:
                error, _ = wire.ask("hello", proto=1, client="frail/1", session=self.session)
                if error is not None:
                    assert not calm and is_for_now(error), error
                    return False
                self.play_on(wire, calm)
                return True
        except (Closed, OSError) as error:
            assert not calm, error
            assert not isinstance(error, TimeoutError), "a request without an answer"
            return False

    def play_on(self, wire, calm):
        deadline_ms = 30_000 if calm else DEADLINE_MS
        for index, (params, fails) in enumerate(writes(self.n)):
            error, result = wire.ask("write", deadline_ms=deadline_ms, **params)
            self.took(index, fails, error, result, calm)
        stepped = False
        for method, params in asks(self.n, deadline_ms):
            error, result = wire.ask(method, **params)
            stepped = stepped or (method == "step" and error is None)
            if method == "commit":
                self.leased = stepped and error is None
            # A lease that has lost its memory is over, and what is asked of it then is in vain.
            assert error is None or (not calm and (is_for_now(error) or params.get("lease"))), (method, error)

    def took(self, index, fails, error, result, calm):
        if fails is not None and error is not None and error.get("sqlite") == fails:
            assert error["applied"] == "no" and not error["retry"], error
            self.told.setdefault(index, error["message"])
        elif error is None:
            assert fails is None, f"write {index} succeeds although it must not"
            before = self.told.setdefault(index, result["commit"])
            assert result["commit"] == before, (index, result)
        else:
            assert not calm and is_for_now(error), (index, error)

    def settle(self):
        """Memory is back: whatever has no answer is asked again, and whatever has one gives the same."""
        with self.served.wire(session=self.session, timeout=TIMEOUT) as wire:
            for index, (params, fails) in enumerate(writes(self.n)):
                error, result = wire.ask("write", **params)
                assert error is None or error.get("sqlite") == fails, (index, error)
                known = index in self.told
                self.took(index, fails, error, result, True)
                assert not known or error is not None or result.get("repeat"), (index, result)
            rows = sorted(row[0] for row in wire.write(
                ["SELECT what FROM t WHERE n = ? AND what <> 'lease'", [self.n]])["steps"][0]["rows"])
            assert rows == expected(self.n)
            leased = wire.write(["SELECT count(*) FROM t WHERE n = ? AND what = 'lease'",
                                 [self.n]])["steps"][0]["rows"]
            assert leased == [[1]] or (leased == [[0]] and not self.leased)
            wire.call("bye")


def settled(served, this):
    """False if the daemon has stopped first, as it may where only a start can tell what became of a COMMIT."""
    try:
        this.settle()
        return True
    except (Closed, OSError):
        code = served.wait()
        assert code == 3 and "stopping, to find out" in served.log(), (code, served.log())
        served.start()
        this.settle()
        return False


def starve_rounds(served, ks, sticky):
    """Plays a round for each k; ends behind the last allocation of the script. Returns how often it stopped."""
    page, stops, n = served.page, 0, 0
    for before in range(CALM_ROUNDS):  # what is kept, such as statements, is there from then on
        calm = Round(served, -before)
        assert calm.play(True)
        calm.settle()
    for k in ks:
        n += 1
        this = Round(served, n)
        page.starve(k, sticky)
        this.play(False)
        struck = page.relent()
        stops += not settled(served, this)
        if not struck:
            break
    else:
        raise AssertionError("the script has more allocations than were tried")
    return stops, n


@pytest.mark.parametrize("sticky, stride", [(False, 7), (True, 37)], ids=["once", "for ever"])
def test_each_allocation_of_a_script(ground, soak, slow, sticky, stride):
    stride = 1 if soak else stride * slow
    first = random.randrange(stride) + 1
    stops, rounds = starve_rounds(ground, itertools.count(first, stride), sticky)
    print(f"calls {first}, {first + stride} …: {rounds} rounds, {stops} stops")
    assert ground.read("PRAGMA integrity_check") == [("ok",)]
    assert ground.read("SELECT v FROM sum") == [((rounds + CALM_ROUNDS) * 2,)]
    assert wait_for(lambda: ground.stats()["clients"] == 1, "connections stay")


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "for ever"])
def test_each_allocation_of_a_start(ground, soak, slow, sticky):
    """It starts, or says in a line why not; and then it starts with all that was there."""
    this = Round(ground, 1)
    assert this.play(True)
    this.settle()
    stride = 1 if soak else 41 * slow
    first = random.randrange(stride) + 1
    ground.stop()
    for k in itertools.count(first, stride):
        ground.page.starve(k, sticky)
        ground.launch()
        ready = ground.process.stdout.readline().startswith("ready")
        struck = ground.page.relent()
        if ready:
            ground.stop()
        else:
            assert ground.wait() in (1, 2)
            assert any(line.startswith("litefunnel serve: ") for line in ground.log().splitlines()[-2:]), ground.log()
        if not struck:
            break
    print(f"calls {first}, {first + stride} … {k}")
    ground.start()
    this.session = os.urandom(16)
    assert this.told and ground.read("SELECT count(*) FROM t WHERE n = 1") == [(len(expected(1)) + 1,)]


def test_single_bytes_and_interrupts(ground, slow):
    """Each call of a socket moves one byte, and every third is interrupted: all is as ever."""
    plain, drip = Round(ground, 1), Round(ground, 2)
    assert plain.play(True)
    ground.page.drip(1)
    assert drip.play(True)
    drip.settle()
    big = os.urandom(50_000 // slow)
    with ground.wire(timeout=TIMEOUT) as wire:
        ids = [wire.request("write", batch=[["SELECT ?, length(?1)", [big]]]) for _ in range(4)]
        assert all(wire.reply(id)[1]["steps"][0]["rows"] == [[big, len(big)]] for id in ids)
    assert ground.page["moved"] > 8 * len(big)
    ground.page.relent()
    plain.settle()
    assert [list(told) for told in (plain.told, drip.told)] == [list(range(len(writes(0))))] * 2
