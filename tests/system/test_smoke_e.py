def test_smoke(daemon):
    d = daemon()
    d.write("CREATE TABLE t(a)", ["INSERT INTO t VALUES (?)", [1]])
    w = d.wire_as(20001)
    print(w.call("ping"))
    w2 = d.wire_as(0, userns="0 0 1", greet=False)
    print(w2.ask("hello", proto=1, client="x"))
    w.close(); w2.close()
    assert d.read("SELECT * FROM t") == [(1,)]
    print(d.stats())
