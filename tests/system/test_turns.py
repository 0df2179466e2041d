# SPDX-License-Identifier: MIT
"""
Users and classes share the writer, whatever they keep in flight. Each batch here costs the writer far
more than it costs its client, so that the daemon is what they compete for; and what they got is compared
with what the others got, never with a clock.
"""
import multiprocessing

ALICE, BOB = 20401, 20402
TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, w, n)"
COSTLY = ("INSERT INTO t(w, n) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
          "x < 3000) SELECT ?, count(*) FROM c")


def keep_busy(wires, depth, who, params):
    """Writes on all of them in turn, with so many requests unanswered on each, for ever."""
    batch = [[COSTLY, [who]]]
    ids = [[wire.request("write", batch=batch, **params) for _ in range(depth)] for wire in wires]
    while True:
        for wire, waiting in zip(wires, ids):
            error, _ = wire.reply(waiting.pop(0), 60)
            assert error is None, error
            waiting.append(wire.request("write", batch=batch, **params))


def compete(served, groups, enough):
    """
    groups: name -> (wires, depth, params), each in a process of its own. What each had got when all
    together had got `enough`, the first fifth left out, for not all begin at once.
    """
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=keep_busy, args=(wires, depth, name, params), daemon=True)
                 for name, (wires, depth, params) in groups.items()]
    for process in processes:
        process.start()
    try:
        highest = 0
        while highest < enough:
            assert all(process.is_alive() for process in processes)
            highest = served.read("SELECT coalesce(max(id), 0) FROM t")[0][0]
    finally:
        for process in processes:
            process.kill()
            process.join()
    counts = dict(served.read("SELECT w, count(*) FROM t WHERE id BETWEEN ? AND ? GROUP BY w",
                              enough // 5, enough))
    print(counts)
    return counts


def test_fifty_connections_of_a_user_get_no_more_than_one_of_another(daemon, soak):
    served = daemon()
    served.write(TABLE)
    crowd, single = [served.wire_as(ALICE) for _ in range(50)], served.wire_as(BOB)
    try:
        counts = compete(served, {"alice": (crowd, 2, {}), "bob": ([single], 64, {})},
                         20000 if soak else 2000)
    finally:
        for wire in [*crowd, single]:
            wire.close()
    assert 0.45 < counts["alice"] / sum(counts.values()) < 0.55, counts


def test_a_flood_of_bulk_lets_others_go_first(daemon):
    served = daemon(queue_max=20000, in_flight_max=5000)
    served.write(TABLE)
    with served.wire(class_="bulk") as flood, served.wire(class_="interactive") as quick:
        ids = [flood.request("write", batch=[[COSTLY, ["bulk"]]]) for _ in range(1500)]
        for _ in range(10):
            quick.write(["INSERT INTO t(w) VALUES ('quick')"])
        bulk = served.read("SELECT count(*) FROM t WHERE w = 'bulk'")[0][0]
        assert bulk < 1500  # none of the ten stood behind what had come before it
        for id in ids:
            assert flood.reply(id, 60)[0] is None
        rows = {row[0]: row for row in quick.call("show", what="classes")["rows"]}
        assert rows["bulk"][2] == 1500 and rows["interactive"][2] == 10


def test_bulk_is_served_beside_higher_classes_that_never_pause(daemon, soak):
    served = daemon()
    served.write(TABLE)
    wires, bulk = [served.wire() for _ in range(4)], served.wire()
    try:
        counts = compete(served, {"normal": (wires, 64, {}), "bulk": ([bulk], 64, {"class_": "bulk"})},
                         20000 if soak else 2000)
    finally:
        for wire in [*wires, bulk]:
            wire.close()
    # A quarter of the time, of which its commits take their part.
    assert 0.12 < counts["bulk"] / (counts["bulk"] + counts["normal"]) < 0.4, counts
