# SPDX-License-Identifier: MIT
"""valgrind finds no leak after 10,000 requests and 1,000 connections."""
import os
import pathlib

VALGRIND = ["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full",
            "--show-leak-kinds=definite,indirect,possible",
            "--errors-for-leak-kinds=definite,indirect,possible", "--num-callers=30"]
REQUESTS, CONNECTIONS, AT_ONCE = 10_000, 1_000, 250


def requests(wire, number):
    """Ten requests of all kinds, good and bad, as (method, params)."""
    return [
        ("write", {"batch": [["INSERT INTO t VALUES (?, ?)", [number, "x" * (number % 200)]]]}),
        ("write", {"batch": [["INSERT INTO t VALUES (:a, :b) RETURNING a", {"a": 1, "b": b"\0"}]],
                   "seq": number + 1, "done": number}),
        ("write", {"batch": [["SELECT * FROM t LIMIT 3"], ["DELETE FROM t WHERE a = 1"]]}),
        ("write", {"batch": [["INSERT INTO nowhere VALUES (1)"]], "key": f"k{number}"}),
        ("write", {"batch": [["INSERT INTO t VALUES (?, 1)", [[1], [2]], {"many": True}],
                             ["INSERT INTO u VALUES (1)"], ["INSERT OR ROLLBACK INTO u VALUES (1)"]]}),
        ("write", {"batch": [["SELECT"]], "deadline_ms": 0}),
        ("describe", {"sql": "SELECT a, b FROM t WHERE a = ?"}),
        ("show", {"what": ("clients", "queue", "config", "stats", "none")[number % 5]}),
        ("nothing", {}),
        ("ping", {}),
    ]


def test_no_leak(daemon):
    served = daemon(prefix=VALGRIND, sync="normal", statement_cache_max=20)
    assert "valgrind" in os.readlink(f"/proc/{served.pid}/exe")
    with served.wire(timeout=120) as first:
        first.write("CREATE TABLE t(a, b)", "CREATE TABLE u(a UNIQUE)")
    number = 0
    for _ in range(CONNECTIONS // AT_ONCE):
        wires = [served.wire(timeout=120, session=os.urandom(16)) for _ in range(AT_ONCE)]
        for index, wire in enumerate(wires):
            ids = []
            for method, params in requests(wire, number):
                ids.append(wire.request(method, **params))
            number += 1
            if index % 10 == 9:
                wire.send(b"\0\0\0\1\xc1")  # broken
                wire.wait_closed(120)
            elif index % 10 != 8:  # some go without their answers
                for id in ids:
                    wire.reply(id, 120)
            if index % 10 == 7:
                wire.call("bye", 120)
            wire.close()
    assert number * 10 == REQUESTS
    with served.wire(timeout=120) as last:
        assert last.call("reload") == {"changed": []}
        last.call("shutdown")
    code = served.wait()
    log = pathlib.Path(served.log_path).read_text(errors="replace")
    assert code == 0, log[-5000:]
    assert "==" not in log, log[-5000:]
