# SPDX-License-Identifier: MIT
"""`litefunnel drill`: what passes, what fails, and what nobody can tell."""
import http.server
import json
import os
import subprocess
import threading

import pytest

import chains
import ltx
from test_replica import small_disk


def drill(program, *args, env=None):
    done = subprocess.run([program, "drill", *map(str, args), "--json"], capture_output=True, text=True,
                          timeout=300, env={**os.environ, **(env or {})})
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture
def walk(tmp_path):
    return chains.ship_walk(tmp_path)


def test_a_pass(litefunnel, walk, tmp_path):
    os.mkdir(tmp_path / "space")
    code, said, errors = drill(litefunnel, walk.url, "--dir", tmp_path / "space", "--assert",
                               "SELECT count(*) > 10 FROM t", "--assert", "SELECT 1")
    assert code == 0, errors
    assert said["verdict"] == "pass" and said["commit"] == 7 and said["digest"] == "equal"
    assert said["tables"] == {"t": 25} and said["assertions"] == 2 and said["rto_s"] >= 0
    assert os.listdir(tmp_path / "space") == []


@pytest.mark.parametrize("sql", ("SELECT 0", "SELECT NULL", "SELECT a FROM t WHERE 0", "SELECT nothing",
                                 "SELECT a < 3 FROM t", ""))
def test_an_assertion_that_is_not_true(litefunnel, walk, sql):
    code, said, _ = drill(litefunnel, walk.url, "--assert", sql)
    assert code == 1 and said["verdict"] == "fail" and sql in said["reason"]


def test_damage_fails_also_where_it_can_be_gone_around(litefunnel, walk):
    path = walk.merge(1, 3, 5)
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    code, said, _ = drill(litefunnel, walk.url)
    assert code == 1 and f"{3:016x}-{5:016x} of level 1" in said["reason"]
    assert said["commit"] == 7  # and yet it can be restored


def test_a_gap_fails(litefunnel, walk):
    walk.delete(0, 5, 5)
    code, said, _ = drill(litefunnel, walk.url)
    assert code == 1 and "no segment leads on" in said["reason"] and "commit" not in said


def test_the_live_digest(litefunnel, walk):
    right = ltx.digest(walk.states[5], walk.page_size).hex()
    code, said, _ = drill(litefunnel, walk.url, "--commit", 5, "--digest", right)
    assert code == 0 and said["commit"] == 5
    code, said, _ = drill(litefunnel, walk.url, "--commit", 5, "--digest", "77" * 16)
    assert code == 1 and "differ at commit 5" in said["reason"]
    walk.merge(9, 1, 4)
    walk.merge(1, 5, 6)
    walk.delete(0, 5, 5)
    code, said, _ = drill(litefunnel, walk.url, "--commit", 5, "--digest", right)
    assert code == 4 and said["verdict"] == "inconclusive"


def test_rows_without_their_parent_are_counted(litefunnel, tmp_path):
    history = chains.History(tmp_path)
    replica = ltx.Replica(tmp_path / "replica", 4096)
    replica.ship(history.pages(), 1)
    replica.ship(history.change("CREATE TABLE c(x REFERENCES t(a))", "INSERT INTO c VALUES (77)"), 2)
    code, said, _ = drill(litefunnel, replica.url)
    assert code == 0 and said["foreign_key_violations"] == 1


def test_nobody_can_tell(litefunnel, walk, tmp_path):
    code, said, errors = drill(litefunnel, walk.url, "--dir", tmp_path / "missing")
    assert code == 4 and "--dir" in errors
    code, said, _ = drill(litefunnel, f"file://{tmp_path}/nothing")
    assert code == 1 and "does not exist" in said["reason"]  # there is no backup: no doubt about that
    (tmp_path / "empty").mkdir()
    code, said, _ = drill(litefunnel, f"file://{tmp_path}/empty")
    assert code == 1 and "no segment" in said["reason"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_no_space_is_inconclusive_and_fills_no_disk(litefunnel, walk, tmp_path):
    with small_disk(tmp_path / "disk", "24k") as disk:
        code, said, _ = drill(litefunnel, walk.url, "--dir", disk)
        assert code == 4 and said["verdict"] == "inconclusive" and "1.2 times" in said["reason"]
        assert os.listdir(disk) == []


def test_how_far_it_is_behind(litefunnel, daemon, tmp_path):
    served = daemon(replica=f"file://{tmp_path}/replica")
    env = {"LITEFUNNEL_REPLICA": f"file://{tmp_path}/replica"}
    served.write(["CREATE TABLE t(a)"])
    shipped = served.write(["INSERT INTO t VALUES (1)"], ack="shipped")
    code, said, errors = drill(litefunnel, served.db, env=env)
    assert code == 0, errors
    assert said["commit"] == said["live_commit"] == shipped["commit"]
    assert said["commits_behind"] == 0 and said["rpo_s"] == 0 and said["tables"] == {"t": 1}


def test_a_heartbeat_comes_after_a_pass_only(litefunnel, walk):
    seen = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/secret"
    assert drill(litefunnel, walk.url, "--heartbeat", url)[0] == 0 and seen == ["/secret"]
    assert drill(litefunnel, walk.url, "--heartbeat", url, "--assert", "SELECT 0")[0] == 1
    assert seen == ["/secret"]
    server.shutdown()
    server.server_close()
    code, _, errors = drill(litefunnel, walk.url, "--heartbeat", url)
    assert code == 0 and "heartbeat failed" in errors and "secret" not in errors
