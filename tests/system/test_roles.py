# SPDX-License-Identifier: MIT
"""Who may do what: the peer's uid, groups and user namespace against the settings roles_…."""
import errno
import os
import socket

import pytest

from daemon import READERS, WireAs, connect_as
from wire import Closed, Refused

USER, OTHER, GROUP, GROUP2 = 20031, 20032, 20033, 20034


def role_of(served, uid, **who):
    """What hello says, or "denied" after the connection was closed for it."""
    wire = served.wire_as(uid, greet=False, **who)
    try:
        return wire.hello()["role"]
    except Refused as refused:
        assert refused.error["applied"] == "no" and refused.error["sqlite"] == 23
        assert f"uid {uid}" in refused.error["message"]
        assert wire.wait_closed()["code"] == "denied"
        return refused.code
    finally:
        wire.close()


def test_defaults(daemon):
    served = daemon()
    assert role_of(served, 0) == "admin"
    assert role_of(served, USER) == "ddl"
    assert role_of(served, USER, groups=(READERS, 5, 6)) == "ddl"


def test_the_daemon_s_own_user_is_admin(daemon):
    served = daemon(uid=USER)
    assert role_of(served, USER) == "admin"
    assert role_of(served, 0) == "admin"
    assert role_of(served, OTHER) == "ddl"


@pytest.mark.parametrize("settings, who, role", [
    ({"roles_ddl": ""}, {}, "denied"),
    ({"roles_ddl": "", "roles_stats": "*"}, {}, "stats"),
    ({"roles_ddl": "", "roles_query": str(USER)}, {}, "query"),
    ({"roles_ddl": "", "roles_write": f"1, {USER}"}, {}, "write"),
    ({"roles_ddl": "", "roles_write": f"1,{USER},2"}, {}, "write"),
    ({"roles_ddl": "", "roles_write": f"@{GROUP}"}, {}, "denied"),
    ({"roles_ddl": "", "roles_write": f"@{GROUP}"}, {"gid": GROUP}, "write"),
    ({"roles_ddl": "", "roles_write": f"@{GROUP}"}, {"groups": (READERS, GROUP)}, "write"),
    ({"roles_ddl": "", "roles_write": f"@{GROUP}", "roles_admin": f"@{GROUP2}"},
     {"groups": (READERS, GROUP2, GROUP)}, "admin"),  # the highest match
    ({"roles_ddl": "", "roles_write": f"{USER}", "roles_stats": f"{USER}"}, {}, "write"),
    ({"roles_admin": "*"}, {}, "admin"),
    ({"roles_ddl": "", "roles_write": "daemon"}, {}, "denied"),
    ({"roles_ddl": "", "roles_write": f"{USER}0,{str(USER)[:-1]},@{USER}"}, {"gid": GROUP}, "denied"),
    ({"roles_ddl": "", "roles_query": "@daemon"}, {"groups": (READERS, 1)}, "query"),
    ({"roles_ddl": "", "roles_write": f"@{GROUP}"},
     {"groups": (READERS, GROUP, *range(30000, 30200))}, "write"),  # more than fit at first
])
def test_lists(daemon, settings, who, role):
    assert role_of(daemon(**settings), USER, **who) == role


def test_names_of_users(daemon):
    served = daemon(roles_ddl="", roles_write="daemon", roles_query="@bin")
    assert role_of(served, 1) == "write"
    assert role_of(served, 2, gid=2) == "query"


def test_nobody_is_nobody(daemon):
    """The overflow uid is what all that have no name here look like: it matches nothing."""
    overflow = int(open("/proc/sys/kernel/overflowuid", encoding="ascii").read())
    served = daemon(roles_admin=f"*,{overflow},nobody")
    assert role_of(served, overflow) == "denied"
    assert role_of(served, USER) == "admin"


def test_root_of_another_user_namespace_is_not_root(daemon):
    served = daemon(roles_stats="*")
    for uid_map in ("0 0 1", ""):
        wire = served.wire_as(0, greet=False, userns=uid_map)
        error, result = wire.ask("hello", proto=1, client="container")
        assert error is not None or result["role"] not in ("admin",), (uid_map, result)
        wire.close()
    wire = served.wire_as(USER, userns=f"0 {USER} 1")  # root inside, an ordinary user here
    assert wire.call("show", what="stats")
    assert wire.ask("reload")[0]["code"] == "denied"
    wire.close()


def test_who_is_outside_cannot_connect(daemon):
    served = daemon()
    with pytest.raises(OSError) as caught:
        connect_as(served.socket, USER, groups=())
    assert caught.value.errno == errno.EACCES


def test_the_role_is_of_who_connected(daemon):
    """A socket that is handed over stays what it was; so does one whose owner has become another."""
    served = daemon(roles_ddl="", roles_query=USER)
    wire = served.wire_as(USER)  # connected by a child, used by root
    assert wire.ask("write", batch=[["CREATE TABLE t(a)"]])[0]["code"] == "denied"
    wire.close()
    ours, theirs = socket.socketpair()
    with served.wire(greet=False) as mine:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(USER)
                os.setuid(USER)
                mine.hello()
                theirs.sendall(mine.write("SELECT 'still root'")["steps"][0]["rows"][0][0].encode())
                status = 0
            finally:
                os._exit(status)
        assert ours.recv(100) == b"still root"
        os.waitpid(pid, 0)


def test_each_method_by_role(daemon):
    served = daemon(roles_ddl="4", roles_write="3", roles_query="2", roles_stats="1", roles_admin="5")
    wires = [served.wire_as(uid) for uid in range(1, 6)]
    try:
        for method, params, least in (
                ("ping", {}, 1), ("bye", {}, 1), ("show", {"what": "clients"}, 1),
                ("show", {"what": "config"}, 1), ("describe", {"sql": "SELECT 1"}, 2),
                ("write", {"batch": [["SELECT 1"]]}, 2), ("reload", {}, 5)):
            for uid, wire in enumerate(wires, start=1):
                error, _ = wire.ask(method, **params)
                assert (error is None) == (uid >= least), (method, uid, error)
                if error:
                    assert error["code"] == "denied" and f"uid {uid} " in error["message"]
        for wire in wires[:4]:
            assert wire.ask("shutdown")[0]["code"] == "denied"
        assert served.running() and wires[0].call("ping")
    finally:
        for wire in wires:
            wire.close()


def test_reload_changes_roles(daemon, tmp_path):
    config = tmp_path / "f.conf"
    config.write_text(f"roles_ddl =\nroles_write = {USER}\n")
    served = daemon(config=config)
    with served.wire() as root:
        root.write("CREATE TABLE t(a)")
        assert role_of(served, USER) == "write" and role_of(served, OTHER) == "denied"
        config.write_text(f"roles_ddl =\nroles_query = {USER}, {OTHER}\n")
        changed = root.call("reload")["changed"]
        assert sorted(changed) == ["roles_query", "roles_write"]
        assert role_of(served, USER) == role_of(served, OTHER) == "query"
        assert root.call("reload") == {"changed": []}


def test_reload_reaches_connections_that_are_open(daemon, tmp_path):
    config = tmp_path / "f.conf"
    config.write_text(f"roles_ddl = {USER}\n")
    served = daemon(config=config)
    with served.wire() as root:
        wire = served.wire_as(USER)
        wire.write("CREATE TABLE t(a)")
        config.write_text("roles_ddl =\nroles_query = *\n")
        root.call("reload")
        try:
            error, _ = wire.ask("write", batch=[["DROP TABLE t"]])
            assert error["code"] == "denied"
        except Closed as closed:  # or it must come again
            assert closed.notice["code"] == "denied"
        wire.close()


def test_a_reload_may_take_the_role_of_whoever_asked_for_it(daemon, tmp_path):
    config = tmp_path / "f.conf"
    config.write_text(f"roles_ddl =\nroles_admin = {USER}\n")
    served = daemon(config=config)
    wire = served.wire_as(USER)
    config.write_text("roles_ddl =\n")
    assert wire.call("reload") == {"changed": ["roles_admin"]}
    assert wire.wait_closed()["code"] == "denied"
    wire.close()


def test_labels_are_shown(daemon):
    served = daemon()
    wire = WireAs(connect_as(served.socket, USER))
    wire.hello(label="nightly import", client="importer/2")
    with served.wire() as root:
        table = root.call("show", what="clients")
        rows = [dict(zip(table["columns"], row)) for row in table["rows"]]
        row = next(row for row in rows if row["label"] == "nightly import")
        assert (row["uid"], row["client"], row["role"]) == (USER, "importer/2", "ddl")
    wire.close()
