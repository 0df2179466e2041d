# SPDX-License-Identifier: MIT
"""Shipping held by an administrator, stopped in the middle, short of room: what is in the spool stays there,
and nobody waits for what cannot come."""
import json
import pathlib
import subprocess

import pytest

from daemon import wait_for
from shipping import content, equal_after_restore, replicas, ship, start_with_table, sync, url


@pytest.fixture
def place(tmp_path):
    (tmp_path / "replica").mkdir()
    return tmp_path


def ask(litefunnel, *words):
    done = subprocess.run([litefunnel, *words], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def stats(one):
    with one.wire() as wire:
        return dict(wire.call("show", what="stats")["rows"])


def write(one, rows=1):
    with one.wire() as wire:
        for _ in range(rows):
            wire.write(["INSERT INTO t(b) VALUES (randomblob(500))"])


def told(one, column):
    """Of the first replica; None before the shipper has said anything."""
    return next((row[column] for row in replicas(one)), None)


def files(place, name="replica"):
    return sorted(p.relative_to(place) for p in (place / name).rglob("*") if p.is_file())


def test_paused_shipping_leaves_it_in_the_spool(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    code, said = ask(litefunnel, "pause", "--shipping", one.db, "--json")
    assert code == 0 and json.loads(said)["state"] == "paused", said
    before = files(place)
    segment = stats(one)["ship_segment"]
    write(one, 5)
    wait_for(lambda: stats(one)["ship_segment"] > segment, "a segment is cut all the same")
    assert ask(litefunnel, "sync", one.db, "--deadline", "300ms")[0] == 1
    assert files(place) == before
    code, said = ask(litefunnel, "status", one.db)
    assert said.startswith("degraded: shipping is paused"), said
    assert stats(one)["ship_paused"] == 1
    code, said = ask(litefunnel, "resume", "--shipping", one.db, "--json")
    assert code == 0 and json.loads(said)["paused_ms"] > 0, said
    equal_after_restore(litefunnel, one, place)
    assert stats(one)["ship_paused"] == 0 and ask(litefunnel, "status", one.db)[1].startswith("ok")
    assert json.loads(ask(litefunnel, "resume", "--shipping", one.db, "--json")[1]) == {"paused_ms": 0}


@pytest.fixture
def held(litefunnel, daemon, place):
    """A daemon whose replica gets nothing more."""
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    assert ask(litefunnel, "pause", "--shipping", one.db)[0] == 0
    write(one)
    return one


def test_sync_says_at_its_deadline_what_is_missing(litefunnel, held):
    code, said = ask(litefunnel, "sync", held.db, "--deadline", "100ms")
    assert code == 1 and "committed, but was not shipped" in said, said
    code, said = ask(litefunnel, "sync", held.db, "--deadline", "100ms", "--json")
    assert code == 1 and json.loads(said.splitlines()[0])["shipped"] is False, said


def test_what_is_committed_and_not_shipped_is_neither_done_nor_failed(litefunnel, held, place):
    shipped = ("--ack", "shipped", "--deadline", "100ms")
    code, said = ask(litefunnel, "exec", held.db, "INSERT INTO t(b) VALUES (1)", *shipped)
    assert code == 5 and "not shipped" in said and "do not send it again" in said, said
    done = subprocess.run([litefunnel, "exec", held.db, "INSERT INTO t(b) VALUES (1)", *shipped, "--json"],
                          capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert done.returncode == 5 and told["outcome"] == "ok" and told["code"] == "not_shipped"
    assert told["applied"] == "yes" and told["commit"] > 0
    lines = "".join(json.dumps([["INSERT INTO t(b) VALUES (?)", [i]]]) + "\n" for i in range(3))
    done = subprocess.run([litefunnel, "exec", held.db, "-", *shipped], input=lines, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("litefunnel exec: 3 lines applied; committed, but not shipped"), done.stderr
    assert "lines 1-3" in done.stderr and f"litefunnel sync {held.db}" in done.stderr, done.stderr
    assert held.read("SELECT count(*) FROM t WHERE b IN (0, 1, 2)") == [(5,)]


def test_an_import_that_is_not_shipped_says_so(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place, ack_shipped="bulk", drain_timeout="100ms"))
    sync(litefunnel, one)
    assert ask(litefunnel, "pause", "--shipping", one.db)[0] == 0
    (place / "rows.csv").write_text("7\n8\n")
    one.write("CREATE TABLE u(b)")
    command = (litefunnel, "import", one.db, "u", place / "rows.csv")
    importing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: one.read("SELECT count(*) FROM u") == [(2,)], "it is committed")
    one.stop()
    said, _ = importing.communicate(timeout=120)
    assert importing.returncode == 5 and "2 rows imported" in said and "not shipped in time" in said, said
    one.start()
    code, said = ask(*command, "--json")
    assert code == 0 and json.loads(said)["before"] is True, said


def test_a_pause_of_shipping_ends_by_itself_and_survives_the_shipper(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place))
    sync(litefunnel, one)
    assert ask(litefunnel, "pause", one.db, "--for", "1h", "--shipping")[0] == 0
    before = files(place)
    pid = one.child("shipper")
    subprocess.run(["kill", "-9", str(pid)], check=True)
    wait_for(lambda: one.child("shipper") not in (None, pid), "another shipper")
    write(one)
    wait_for(lambda: stats(one)["ship_spooled_commit"] > 0 or stats(one)["ship_segment"] > 0, "its report")
    assert files(place) == before and stats(one)["ship_paused"] == 1
    assert ask(litefunnel, "pause", one.db, "--for", "10ms", "--shipping")[0] == 0
    equal_after_restore(litefunnel, one, place)


def test_a_pause_of_shipping_needs_a_replica(litefunnel, daemon):
    one = daemon()
    for verb in ("pause", "resume"):
        code, said = ask(litefunnel, verb, "--shipping", one.db)
        assert code == 1 and "no replica" in said, said


def test_a_stop_does_not_wait_for_a_pause(litefunnel, daemon, place):
    one = start_with_table(ship(daemon, place, ship_timeout="10m"))
    sync(litefunnel, one)
    assert ask(litefunnel, "pause", "--shipping", one.db)[0] == 0
    before = files(place)
    write(one, 3)
    one.stop()
    assert files(place) == before
    one.start()
    equal_after_restore(litefunnel, one, place)


def test_a_stop_does_not_wait_for_what_cannot_begin(litefunnel, daemon, place):
    """No chain was ever begun, and the replica does not answer."""
    away = "s3://bucket/prefix?endpoint=http://127.0.0.1:1&region=x&force-path-style=true"
    one = start_with_table(ship(daemon, place, away, ship_timeout="10m",
                                env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}))
    wait_for(lambda: told(one, "state") == "failing", "the replica fails")
    write(one)
    one.stop()


def test_a_late_replica_gets_the_first_image_too(litefunnel, daemon, place):
    """The fastest of several does not take it away from the others."""
    (place / "late" / "replica").mkdir(parents=True)
    (place / "late" / "replica" / "ltx").write_text("a file where a directory should be", encoding="ascii")
    one = start_with_table(ship(daemon, place, url(place), url(place, "late/replica")))
    write(one, 3)
    wait_for(lambda: (told(one, "commit") or 0) >= 5, "the first replica has all")
    (place / "late" / "replica" / "ltx").unlink()
    sync(litefunnel, one)
    names = [sorted(p.name for p in pathlib.Path(place, name, "ltx", "0").glob("*.ltx"))
             for name in ("replica", "late/replica")]
    assert names[0] == names[1]
    equal_after_restore(litefunnel, one, place, source=url(place, "late/replica"))
    spool = pathlib.Path(f"{one.db}-ship/images")
    wait_for(lambda: not list(spool.glob("*.ltx")), "the image has served its time")
    assert content(one.db)


def test_keys_in_a_url_are_in_no_argument(litefunnel, place):
    """The shipper's arguments are everybody's to read: it is not started with them."""
    done = subprocess.run([litefunnel, "serve", place / "k.db", "--create",
                           "--replica=s3://KEYX:SECRETX@bucket/p?endpoint=http://127.0.0.1:9&region=x"],
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "keys do not belong" in done.stderr and "SECRETX" not in done.stderr, done
