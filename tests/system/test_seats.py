# SPDX-License-Identifier: MIT
"""
Users who want everything for themselves: all connections, the whole queue, the writer. Others find a
seat, are never refused, and keep their share of the writer. Nothing here is compared with a clock.
"""
import multiprocessing
import os
import subprocess

import pytest

from daemon import READERS, wait_for
from wire import Closed, Wire

HOG, OTHER, THIRD = 20501, 20502, 20503
TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, w, n)"
COSTLY = ("INSERT INTO t(w, n) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
          "x < 3000) SELECT ?, count(*) FROM c")


def is_in(wire):
    """Whether the connection is served."""
    try:
        return wire.call("ping") is not None
    except (Closed, ConnectionError):
        return False


def was_told(wire):
    """The code with which a connection was closed."""
    try:
        return wire.wait_closed()["code"]
    except ConnectionError:
        return None


def refused(served, uid):
    """One more connection of this user is closed at once."""
    wire = served.wire_as(uid, greet=False)
    with wire:
        return was_told(wire) == "overloaded"


@pytest.fixture
def seats(daemon):
    """A daemon with eight seats, all of which one user has; and a place for more connections."""
    served = daemon(connections_max=8, connections_reserved=0)
    served.write(TABLE)
    wait_for(lambda: served.stats()["clients"] == 1, "a connection stays")
    wires = [served.wire_as(HOG) for _ in range(8)]
    yield served, wires
    for wire in wires:
        wire.close()


def test_who_has_fewer_finds_a_seat_and_who_has_most_gives_it(seats):
    served, wires = seats
    assert refused(served, HOG)
    for count in range(1, 5):
        wires.append(served.wire_as(OTHER))
        assert was_told(wires[8 - count]) == "overloaded"
    assert refused(served, OTHER) and refused(served, HOG)  # four and four
    wires.append(served.wire_as(THIRD))
    gone = [wire for wire in wires if not is_in(wire)]
    assert len(gone) == 5 and wires[-1] not in gone


def test_a_seat_is_taken_from_who_rests_before_who_works(seats):
    served, wires = seats
    with served.wire() as holder:  # the daemon's own user, and he has none: one of the eight is his
        assert was_told(wires.pop()) == "overloaded"
        assert holder.call("begin", lease=1)
        waiting = [wire.request("write", batch=[["INSERT INTO t(w) VALUES ('waited')"]]) for wire in wires[1:]]
        wait_for(lambda: dict(holder.call("show", what="stats")["rows"])["queue_batches"] == 6, "all wait")
        other = served.wire_as(OTHER)
        wires.append(other)
        assert was_told(wires[0]) == "overloaded"  # the oldest, but it had asked for nothing
        again = served.wire_as(OTHER)  # now all work: the newest loses its answer, but not its write
        wires.append(again)
        assert was_told(wires[6]) == "overloaded"
        holder.call("rollback", lease=1)
        assert all(wire.reply(id)[0] is None for wire, id in zip(wires[1:6], waiting))
        assert other.write("INSERT INTO t(w) VALUES ('other')") and is_in(again)
    wait_for(lambda: served.read("SELECT count(*) FROM t WHERE w = 'waited'") == [(6,)], "a batch is lost")


def test_a_client_that_finds_no_seat_tries_again(seats, litefunnel):
    served, wires = seats
    root = served.wire()  # which costs the hog a seat
    assert was_told(wires.pop()) == "overloaded"
    client = subprocess.Popen(
        [litefunnel, "exec", "--deadline", "60s", served.db, "INSERT INTO t(w) VALUES ('late')"], cwd="/",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=HOG, group=HOG, extra_groups=[READERS])
    try:
        wait_for(lambda: dict(root.call("show", what="stats")["rows"])["connections_refused_total"],
                 "it is not refused")
        root.close()
        for wire in wires:
            wire.close()
        out, error = client.communicate(timeout=60)
        assert client.returncode == 0, (out, error)
    finally:
        client.kill()
        client.wait()
    assert served.read("SELECT w FROM t") == [("late",)]


def test_an_administrator_sees_a_daemon_full_of_his_own_connections(daemon, litefunnel):
    served = daemon(connections_max=5, connections_reserved=2)
    wires = [served.wire() for _ in range(7)]
    try:
        said = subprocess.run([litefunnel, "show", served.db, "clients"], capture_output=True, text=True,
                              timeout=60, check=False)
        assert said.returncode == 0, said.stderr
        assert was_told(wires[6]) == "overloaded"  # an idle one that stood beyond the five
        assert all(is_in(wire) for wire in wires[:6])
        user = served.wire_as(OTHER)
        wires.append(user)
        assert is_in(user) and sum(is_in(wire) for wire in wires[:6]) == 5
    finally:
        for wire in wires:
            wire.close()


# ---- three who are hostile beside one who is not


def become(uid):
    os.setgroups([READERS])
    os.setgid(uid)
    os.setuid(uid)


def flood(wire, requests):
    """Keeps them in flight on a connection, whatever is answered."""
    ids = [wire.request(method, **params) for method, params in requests]
    while True:
        for index, (method, params) in enumerate(requests):
            wire.reply(ids[index], 300)
            ids[index] = wire.request(method, **params)
            yield


def take_every_seat(path, uid, begun):
    become(uid)
    hello = {"proto": 1, "client": "hostile", "class": "interactive"}
    costly = ("write", {"batch": [[COSTLY, ["seats"]]]})
    floods = []
    while True:
        try:
            wire = Wire(path, timeout=300)
            wire.call("hello", **hello)
            floods.append(flood(wire, [costly] * 10))
        except (Closed, ConnectionError):
            begun.set()  # there is no more to be had
        for one in list(floods):
            try:
                next(one)
            except (Closed, ConnectionError, StopIteration):
                floods.remove(one)


def send_giants(path, uid, begun):
    become(uid)
    wide = [["INSERT INTO g VALUES (?)", [["x" * 1000]] * 500, {"many": True}]] * 10  # 5 MB in a frame
    with Wire(path, timeout=300) as wire:
        wire.call("hello", proto=1, client="hostile", **{"class": "interactive"})
        for _ in flood(wire, [("write", {"batch": wide})] * 12):
            begun.set()


def start_chunks(path, uid, begun):
    become(uid)
    with Wire(path, timeout=300) as wire:
        wire.call("hello", proto=1, client="hostile")
        for number in range(1 << 30):
            name = f"endless {number}"
            for other in "ab":
                wire.ask("chunk", name=f"{name} {other}", sql=f"UPDATE big SET {other} = {other} + 1")
            begun.set()
            for other in "ab":
                wire.ask("chunk_ctl", chunk=f"{name} {other}", op="wait")


def test_who_behaves_keeps_his_share_beside_three_who_do_not(daemon, soak, slow):
    served = daemon(connections_max=40, sync="normal", disk_floor=0)
    served.write(TABLE, "CREATE TABLE g(x)", "CREATE TABLE big(id INTEGER PRIMARY KEY, a, b)",
                 "INSERT INTO big WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
                 "x < 200000) SELECT x, 0, 0 FROM c")
    context = multiprocessing.get_context("fork")
    hostile = []
    for uid, what in ((HOG, take_every_seat), (OTHER, send_giants), (THIRD, start_chunks)):
        begun = context.Event()
        process = context.Process(target=what, args=(served.socket, uid, begun), daemon=True)
        process.start()
        hostile.append((process, begun))
    try:
        for process, begun in hostile:
            wait_for(lambda: begun.is_set() or not process.is_alive(), "it does not begin", timeout=60 * slow)
        with served.wire_as(20504) as good, served.wire() as root:
            def spent():
                """What all batches have run, and what the chunks have had."""
                classes = {row[0]: row[3] for row in root.call("show", what="classes")["rows"]}
                return dict(root.call("show", what="stats")["rows"])["exec_us_total"] + classes["bulk"]
            enough = (20000 if soak else 600) // slow
            costly = {"batch": [[COSTLY, ["good"]]], "class": "interactive"}
            ids = [good.request("write", **costly) for _ in range(64)]
            got, began = 0, None
            for count in range(enough):
                if count == enough // 10:
                    got, began = 0, spent()
                error, result = good.reply(ids.pop(0), 300)
                assert error is None, error
                got += result["exec_us"]
                ids.append(good.request("write", **costly))
            share = got / (spent() - began)
            assert all(process.is_alive() for process, _ in hostile)
    finally:
        for process, _ in hostile:
            process.kill()
            process.join()
    print(f"share {share:.2f}")
    assert share > 0.8 / 4
