# SPDX-License-Identifier: MIT
"""
Files into tables: every record once, whoever is killed; bad records told by their line; formats as
other programs write them.
"""
import csv
import json
import random
import signal
import subprocess
import threading
import time

import pytest


def run(litefunnel, served, *args, stdin=None, timeout=120):
    return subprocess.run([litefunnel, "import", served.db, *map(str, args)], capture_output=True,
                          text=True, timeout=timeout, check=False, input=stdin)


def write_csv(path, rows, header=None, **style):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **style)
        if header:
            writer.writerow(header)
        writer.writerows(rows)


def test_csv_as_rfc_4180_says(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER, s TEXT, r REAL, b)")
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid,s,r,b\r\n1,"a ""q"", and\r\nmore",1.5,x\r\n2,,,""\r\n'
                     b'\r\n3,\xc3\xa4,1e3,"7"')
    done = run(litefunnel, served, "t", path, "--header")
    assert done.returncode == 0 and done.stdout == "3 rows imported\n", done.stderr
    assert served.read("SELECT *, typeof(id), typeof(r) FROM t ORDER BY id") == [
        (1, 'a "q", and\r\nmore', 1.5, "x", "integer", "real"),
        (2, None, None, "", "integer", "null"), (3, "ä", 1000.0, "7", "integer", "real")]


def test_what_python_writes_comes_back(litefunnel, daemon, tmp_path, soak):
    served = daemon()
    served.write("CREATE TABLE t(a TEXT, b TEXT, c TEXT)")
    rng = random.Random(4)
    alphabet = 'ab,"\n\r\'\\ \t;äé…'
    rows = [["".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 12)))
             for _ in range(3)] for _ in range(50_000 if soak else 4_000)]
    path = tmp_path / "a.csv"
    write_csv(path, rows, quoting=csv.QUOTE_ALL)
    done = run(litefunnel, served, "t", path)
    assert done.returncode == 0, done.stderr
    assert served.read("SELECT a, b, c FROM t ORDER BY rowid") == [tuple(row) for row in rows]


def test_any_way_of_writing_it_is_read_as_python_reads_it(litefunnel, daemon, tmp_path, soak):
    """Quotes where none are needed, LF and CRLF, empty lines, a byte order mark, no end of the last line."""
    served = daemon()
    rng = random.Random(7)
    alphabet = ["a", "b", "ä", ",", '"', "\n", "\r\n", " ", "'", "\\", "\t", ";"]

    def field():
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(6)))
        needs = any(c in text for c in ',"\n\r')
        return '"' + text.replace('"', '""') + '"' if needs or rng.random() < 0.3 else text

    for number in range(200 if soak else 25):
        name = f"t{number}"
        served.write(f"CREATE TABLE {name}(a TEXT, b TEXT, c TEXT)")
        lines = []
        for _ in range(rng.randrange(1, 60)):
            lines.append(",".join(field() for _ in range(3)) + rng.choice(["\n", "\r\n"]))
            if rng.random() < 0.1:
                lines.append(rng.choice(["\n", "\r\n"]))
        text = "".join(lines)
        text = text.rstrip("\r\n") if rng.random() < 0.3 else text
        path = tmp_path / f"{name}.csv"
        path.write_bytes((b"\xef\xbb\xbf" if rng.random() < 0.3 else b"") + text.encode())
        with open(path, newline="", encoding="utf-8-sig") as file:
            expected = [tuple(row) for row in csv.reader(file, strict=True) if row]
        done = run(litefunnel, served, name, path)
        assert done.returncode == 0, (done.stderr, path.read_bytes())
        # Nothing between two commas is NULL here, and "" is not: Python tells no difference.
        assert served.read(f"SELECT coalesce(a, ''), coalesce(b, ''), coalesce(c, '') FROM {name}"
                           " ORDER BY rowid") == expected, path.read_bytes()


def test_a_queue_that_is_full_for_a_moment(litefunnel, daemon, tmp_path):
    """A piece that found no room is sent again; those behind it were taken for another import's."""
    served = daemon(queue_max=20)
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, b)", "CREATE TABLE o(a)")
    file = tmp_path / "many.csv"
    file.write_text("".join(f"{i},{'x' * (i % 300)}\n" for i in range(1, 100_001)), encoding="ascii")
    over = threading.Event()

    def flood():
        with served.wire() as wire:
            while not over.is_set():
                for request in [wire.request("write", batch=[["INSERT INTO o VALUES (1)"]]) for _ in range(60)]:
                    wire.reply(request)
    threads = [threading.Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        done = run(litefunnel, served, "t", file)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert done.returncode == 0, done
    assert served.read("SELECT count(*), sum(id) FROM t") == [(100_000, 100_001 * 50_000)]


def test_rejects_out_of_order_stay_when_it_is_begun_again(litefunnel, daemon, tmp_path):
    """A piece is read, and its bad records written down, before an earlier one is refused: not all behind the mark goes."""
    served = daemon()
    served.write("CREATE TABLE t(a CHECK (a <> 'bad'))")
    file, rejects = tmp_path / "grows.csv", tmp_path / "rejects"
    file.write_text("".join("bad\n" if i in (5, 7) else f"{i}\n" for i in range(1, 10)), encoding="ascii")
    assert run(litefunnel, served, "t", file, "--rejects", rejects, "--name", "x").returncode == 0
    five, seven = rejects.read_text(encoding="ascii").splitlines(keepends=True)
    rejects.write_text(five + '{"line":50,"error":"x","record":"y"}\n' + seven + '{"line":51,"er', encoding="ascii")
    with open(file, "a", encoding="ascii") as more:
        more.write("10\nbad\n12\n")
    assert run(litefunnel, served, "t", file, "--rejects", rejects, "--name", "x").returncode == 0
    assert [json.loads(line)["line"] for line in rejects.read_text(encoding="ascii").splitlines()] == [5, 7, 11]
    assert served.read("SELECT count(*) FROM t") == [(9,)]


def test_pieces_become_smaller_at_the_daemons_limits(litefunnel, daemon, tmp_path):
    """exec_ops_max and exec_timeout count for a piece, and how large that is, the import decides."""
    served = daemon(exec_ops_max=40_000)
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY)", "CREATE TABLE log(id)",
                 "CREATE TRIGGER more AFTER INSERT ON t BEGIN INSERT INTO log WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL"
                 " SELECT i + 1 FROM c WHERE i < new.id % 100) SELECT max(i) FROM c; END")
    path = tmp_path / "a.csv"
    write_csv(path, [[i] for i in range(1, 3001)])
    done = run(litefunnel, served, "t", path)
    assert done.returncode == 0, done.stderr
    assert served.read("SELECT count(*), sum(id) FROM t") == [(3000, 3000 * 3001 // 2)]
    path.write_text("1000099\n", encoding="ascii")
    served.write("CREATE TRIGGER much AFTER INSERT ON t BEGIN INSERT INTO log WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL"
                 " SELECT i + 1 FROM c WHERE i < 100000) SELECT max(i) FROM c; END")
    done = run(litefunnel, served, "t", path)
    assert done.returncode == 1 and "exec_ops_max" in done.stderr, (done.returncode, done.stderr)


def test_names_behind_a_record_without(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a, b)")
    file = tmp_path / "mixed.ndjson"
    file.write_text('[1, 2]\n{"a": 5}\n[3, 4]\n', encoding="ascii")
    done = run(litefunnel, served, "t", file, "--rejects", tmp_path / "rejects")
    assert done.returncode == 0 and "2 rows imported, 1 rejected" in done.stdout, done
    assert 'the first record has no' in (tmp_path / "rejects").read_text(encoding="ascii")
    assert served.read("SELECT * FROM t") == [(1, 2), (3, 4)]


def test_tsv_and_ndjson(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a INTEGER, b TEXT, c)")
    tsv = tmp_path / "a.tsv"
    tsv.write_text("1\tx\\ty\t\\N\n2\t\\\\ \"\tz\n", encoding="utf-8")
    assert run(litefunnel, served, "t", tsv).returncode == 0
    lines = tmp_path / "a.ndjson"
    lines.write_text('{"b": "k", "a": 3}\n{"a": 9007199254740993, "b": null}\n', encoding="utf-8")
    done = run(litefunnel, served, "t", lines)
    assert done.returncode == 0, done.stderr
    arrays = tmp_path / "b.ndjson"
    arrays.write_text('[5, "v", 1.25]\n[6, true, false]\n', encoding="utf-8")
    assert run(litefunnel, served, "t", arrays).returncode == 0
    large = tmp_path / "c.ndjson"
    large.write_text('{"a": 18446744073709551616, "b": 18446744073709551616, "c": [1][0]}\n'
                     '[-9223372036854775808, "\\"1e999", 1e999]\n'
                     '[9223372036854775807, 123456789012345678901, -98765432109876543210]\n'.replace("[1][0]", "7"),
                     encoding="utf-8")
    done = run(litefunnel, served, "t", large, "--map", "1=a")
    assert done.returncode == 0, done.stderr
    assert served.read("SELECT a, b, c FROM t WHERE abs(a + 0.0) > 1e18 ORDER BY a") == [
        (-2**63, '"1e999', "1e999"), (2**63 - 1, "123456789012345678901", "-98765432109876543210"),
        (2.0**64, "18446744073709551616", 7)]
    served.write("DELETE FROM t WHERE abs(a + 0.0) > 1e18")
    assert served.read("SELECT * FROM t ORDER BY a") == [
        (1, "x\ty", None), (2, '\\ "', "z"), (3, "k", None), (5, "v", 1.25), (6, "1", 0),
        (9007199254740993, None, None)]


def test_map_and_conflicts(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n DEFAULT 5)")
    path = tmp_path / "a.csv"
    write_csv(path, [[1, "one", "u"], [2, "two", "u"]], header=["key", "label", "unused"])
    done = run(litefunnel, served, "t", path, "--header", "--map", "key=id,label=name,unused=")
    assert done.returncode == 0, done.stderr
    assert served.read("SELECT * FROM t") == [(1, "one", 5), (2, "two", 5)]
    other = tmp_path / "b.csv"
    write_csv(other, [["deux", 2], ["trois", 3]])
    done = run(litefunnel, served, "t", other, "--map", "1=name,2=id,3=")
    assert done.returncode == 1 and "2 values instead of 3" in done.stderr
    served.write("CREATE TABLE s(id INTEGER PRIMARY KEY, name TEXT)",
                 "INSERT INTO s VALUES (2, 'two')")
    for how, name in (("ignore", "two"), ("replace", "deux")):
        done = run(litefunnel, served, "s", other, "--map", "1=name,2=id", "--on-conflict", how,
                   "--again")
        assert done.returncode == 0, done.stderr
        assert served.read("SELECT name FROM s ORDER BY id") == [(name,), ("trois",)]


def test_a_map_says_how_many_fields_there_are(litefunnel, daemon, tmp_path):
    """A file with fewer fields than the table has columns was refused, whatever --map said."""
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b DEFAULT 'x', c)")
    path = tmp_path / "a.csv"
    path.write_text("one,1\ntwo,2\n", encoding="utf-8")
    done = run(litefunnel, served, "t", path, "--map", "1=a,2=id")
    assert done.returncode == 0, done.stderr
    assert served.read("SELECT * FROM t") == [(1, "one", "x", None), (2, "two", "x", None)]
    path.write_text("3,u,v,w,z\n4,u,v,w\n5,u,v,w,z\n", encoding="utf-8")
    done = run(litefunnel, served, "t", path)
    assert done.returncode == 1 and "5 values instead of 4" in done.stderr
    done = run(litefunnel, served, "t", path, "--map", "2=")
    assert done.returncode == 1 and "--map 5=column" in done.stderr
    done = run(litefunnel, served, "t", path, "--map", "2=,5=", "--rejects", tmp_path / "bad")
    assert done.returncode == 0 and "2 rows imported, 1 rejected" in done.stdout, done.stderr
    assert served.read("SELECT * FROM t WHERE id > 2") == [(3, None, "v", "w"), (5, None, "v", "w")]


@pytest.mark.parametrize("header,word", [
    ("id,,b", "field 2 has no name"), ("id,a,ID", 'fields 1 and 3 both go to the column "ID"')])
def test_a_header_with_holes_is_named(litefunnel, daemon, tmp_path, header, word):
    """An empty name was left out without a word; of two for one column one was lost."""
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)")
    path = tmp_path / "a.csv"
    path.write_text(header + "\n1,2,3\n", encoding="utf-8")
    done = run(litefunnel, served, "t", path, "--header")
    assert done.returncode == 1 and word in done.stderr and "--map" in done.stderr, done
    done = run(litefunnel, served, "t", path, "--header", "--map", "2=a,3=")
    assert done.returncode == 0, done.stderr
    assert served.read("SELECT * FROM t") == [(1, "2", None)]


def test_a_quote_inside_a_value_is_a_character(litefunnel, daemon, tmp_path):
    """It swallowed the lines up to the next quote."""
    served = daemon()
    served.write("CREATE TABLE t(a TEXT, b TEXT, c TEXT)")
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"x, ""y""\n",5" pipe,\na,b"c,d\r\n1,2"",3\n"4"4,"5\n7,8\n9,\n",w,"e\n"\n')
    done = run(litefunnel, served, "t", path, "--rejects", tmp_path / "bad")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (tmp_path / "bad").read_text(encoding="utf-8").splitlines()]
    assert [(each["line"], each["record"]) for each in told] == [(5, '"4"4,"5\n7,8\n9,\n",w,"e\n"')]
    assert served.read("SELECT a, b, c FROM t ORDER BY rowid") == [
        ('x, "y"\n', '5" pipe', None), ("a", 'b"c', "d"), ("1", '2""', "3")]


def test_a_name_is_for_the_input_it_was_begun_with(litefunnel, daemon, tmp_path):
    """Another input under the same name was continued in its middle."""
    served = daemon()
    served.write("CREATE TABLE t(a INTEGER)")
    first = "".join(f"{i}\n" for i in range(10_000, 30_000)) + "bad,line\n"
    other = "".join(f"{i}\n" for i in range(50_000, 90_000))
    done = run(litefunnel, served, "t", "-", "--name", "n", stdin=first)
    assert done.returncode == 5 and "line 20001" in done.stderr
    path = tmp_path / "other.csv"
    path.write_text(other, encoding="utf-8")
    for args in (["-"], [path]):
        done = run(litefunnel, served, "t", *args, "--name", "n", stdin=other)
        assert done.returncode == 1 and "another --name" in done.stderr and "--again" in done.stderr, done
    done = run(litefunnel, served, "t", "-", "--name", "n", stdin=first[:100])
    assert done.returncode == 1 and "shorter" in done.stderr
    # The same, corrected behind the mark, and longer.
    good = first.replace("bad,line", "30000") + "30001\n"
    done = run(litefunnel, served, "t", "-", "--name", "n", stdin=good)
    assert done.returncode == 0, done.stderr
    assert served.read("SELECT count(*), sum(a) FROM t") == [(20_002, sum(range(10_000, 30_002)))]
    done = run(litefunnel, served, "t", path, "--name", "n", "--again")
    assert done.returncode == 0 and done.stdout == "40000 rows imported\n", done


def test_bad_records_go_to_the_rejects(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY CHECK (id <> 500), s TEXT NOT NULL)")
    lines = [f"{i},row {i}" for i in range(1, 3001)]
    lines[9] = "10,too,many"
    lines[99] = '"x" y,1'
    lines[499] = "500,forbidden"
    lines[699] = "5,twice"
    lines[2999] = "3000,"
    path, rejects = tmp_path / "a.csv", tmp_path / "bad"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = run(litefunnel, served, "t", path)
    assert done.returncode in (1, 5) and "line 10:" in done.stderr
    done = run(litefunnel, served, "t", path, "--rejects", rejects, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    told = [json.loads(line) for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert [each["line"] for each in told] == [10, 100, 500, 700, 3000]
    assert told[0]["record"] == "10,too,many" and "UNIQUE" in told[3]["error"]
    assert facts["rejected"] == 5
    assert served.read("SELECT count(*), sum(id) FROM t") == [
        (2995, sum(range(1, 3001)) - 10 - 100 - 500 - 700 - 3000)]


def test_a_record_that_no_frame_holds_is_a_bad_one(litefunnel, daemon, tmp_path):
    """Those around it are imported, also if it came in one piece with them."""
    served = daemon()
    served.write("CREATE TABLE t(a INTEGER, b TEXT)")
    path, rejects = tmp_path / "a.csv", tmp_path / "rejects"
    write_csv(path, [(1, "x"), (2, "y" * 9_000_000), (3, "z" * 5_000_000), (4, "w")])
    done = run(litefunnel, served, "t", path, "--rejects", rejects)
    assert (done.returncode, done.stdout) == (0, f"3 rows imported, 1 rejected: see {rejects}\n"), done.stderr
    [told] = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert told["line"] == 2 and "a frame at most" in told["error"] and len(told["record"]) > 9_000_000
    assert served.read("SELECT a, length(b) FROM t ORDER BY a") == [(1, 1), (3, 5_000_000), (4, 1)]


def test_a_column_that_is_none_names_the_cure(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a, b)")
    path = tmp_path / "a.csv"
    write_csv(path, [(1, 2)], header=("a", "nope"))
    done = run(litefunnel, served, "t", path, "--header")
    assert done.returncode == 1 and "no column named nope" in done.stderr and "--map field=column" in done.stderr
    assert run(litefunnel, served, "t", path, "--header", "--map", "nope=b").returncode == 0
    done = run(litefunnel, served, "t", path, "--map", "0=a")
    assert done.returncode == 2 and "numbered from 1 on" in done.stderr


def test_many_bad_records_cost_no_commit_each(litefunnel, daemon, tmp_path):
    """Each took the piece that it stood in, and a commit, with it."""
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY CHECK (id % 7 <> 0), s TEXT NOT NULL)")
    path, rejects = tmp_path / "a.csv", tmp_path / "bad"
    path.write_text("".join(f"{i},row {i}\n" for i in range(7_000)), encoding="utf-8")
    before = served.stats()["commit"]
    done = run(litefunnel, served, "t", path, "--rejects", rejects, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["rows"], facts["rejected"]) == (6_000, 1_000)
    told = [json.loads(line) for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert sorted(each["line"] for each in told) == list(range(1, 7_001, 7))
    assert all(each["record"] == f"{each['line'] - 1},row {each['line'] - 1}" for each in told)
    assert all("CHECK" in each["error"] for each in told)
    assert served.read("SELECT count(*), sum(id) FROM t") == [(6_000, sum(i for i in range(7_000) if i % 7))]
    assert served.stats()["commit"] - before < 300


def test_a_bad_record_that_takes_the_transaction_with_it(litefunnel, daemon, tmp_path):
    """It cannot be sifted: the piece is done over, and nothing comes twice."""
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER)",
                 "CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.id % 100 = 50"
                 " BEGIN SELECT RAISE(ROLLBACK, 'all or nothing'); END")
    path, rejects = tmp_path / "a.csv", tmp_path / "bad"
    path.write_text("".join(f"{i}\n" for i in range(1_000)), encoding="utf-8")
    done = run(litefunnel, served, "t", path, "--rejects", rejects)
    assert done.returncode == 0 and "990 rows imported, 10 rejected" in done.stdout, done
    told = [json.loads(line)["line"] for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert sorted(told) == list(range(51, 1_000, 100))
    assert served.read("SELECT count(*), count(DISTINCT id) FROM t") == [(990, 990)]


def test_killed_while_bad_records_are_sifted(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER, s TEXT CHECK (s <> 'bad'))")
    rows = 6_000
    path, rejects = tmp_path / "a.csv", tmp_path / "rejects"
    path.write_text("".join(f"{i},{'bad' if i % 5 == 0 else 'good'}\n" for i in range(rows)), encoding="utf-8")
    rng = random.Random(9)
    for round_ in range(8):
        process = subprocess.Popen([litefunnel, "import", served.db, "t", str(path), "--rejects", str(rejects)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        done = served.read("SELECT count(*) FROM t")[0][0]
        until = done + rng.randrange(1, rows // 10)
        while process.poll() is None and done < until:
            done = served.read("SELECT count(*) FROM t")[0][0]
        if round_ % 2 == 0:
            process.kill()
            process.wait()
        else:
            served.kill()
            served.start()
            assert process.wait(120) == 0, process.stderr.read()
        process.stderr.close()
    last = run(litefunnel, served, "t", path, "--rejects", rejects)
    assert last.returncode == 0, last.stderr
    assert served.read("SELECT count(*), count(DISTINCT id) FROM t") == [(rows * 4 // 5, rows * 4 // 5)]
    told = [json.loads(line)["line"] for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert sorted(told) == list(range(1, rows, 5))


def test_rejects_when_every_record_is_bad(litefunnel, daemon, tmp_path):
    """A piece of one row that was refused said so without its number, and ended the import."""
    served = daemon()
    served.write("CREATE TABLE t(id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1), (2), (3)")
    for count in (1, 3):
        path, rejects = tmp_path / f"{count}.csv", tmp_path / f"bad {count}"
        path.write_text("".join(f"{i}\n" for i in range(1, count + 1)), encoding="utf-8")
        done = run(litefunnel, served, "t", path, "--rejects", rejects)
        assert done.returncode == 0, done.stderr
        told = [json.loads(line)["line"] for line in rejects.read_text(encoding="utf-8").splitlines()]
        assert told == list(range(1, count + 1))


@pytest.mark.parametrize("text", ["7\n8\n", "7", '{"line":9,"t":1}\n'])
def test_only_a_file_of_rejects_is_written_over(litefunnel, daemon, tmp_path, text):
    """--rejects with the name of the file itself emptied it."""
    served = daemon()
    served.write("CREATE TABLE t(line, t)")
    (tmp_path / "a").write_text(text, encoding="utf-8")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        done = run(litefunnel, served, "t", tmp_path / "a", "--format", "ndjson" if "{" in text else "csv",
                   "--rejects", tmp_path / name)
        assert done.returncode == 1 and "no file of rejects" in done.stderr, done
    other = tmp_path / "notes"
    other.write_text("mine", encoding="utf-8")
    done = run(litefunnel, served, "t", tmp_path / "a", "--rejects", other)
    assert done.returncode == 1 and other.read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "a").read_text(encoding="utf-8") == text


def test_refusals(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a, b)")
    path = tmp_path / "a.csv"
    path.write_text("1,2\n", encoding="utf-8")
    for args, code, word in ((["missing", path], 1, "no table"), (["t", tmp_path / "no"], 1, "No such"),
                             (["t", path, "--map", "x=a"], 2, "no field"),
                             (["t", path, "--format", "xml"], 2, "--format"),
                             (["t", path, "--map", "1=zz"], 1, "zz"), (["t"], 2, "file"),
                             (["t", tmp_path], 1, "directory")):
        done = run(litefunnel, served, *args)
        assert done.returncode == code and word in done.stderr, (args, done)
    assert served.read("SELECT count(*) FROM t") == [(0,)]


def test_a_quote_that_is_never_closed_is_named(litefunnel, daemon, tmp_path):
    """It swallows the rest of the file, whatever stands there: also bytes that are no text."""
    served = daemon()
    served.write("CREATE TABLE t(a, b)")
    path = tmp_path / "a.csv"
    path.write_bytes(b'1,"x\ny"\n2,z\n3,"a ""\nb\n\xff\xfe,5\n')
    done = run(litefunnel, served, "t", path)
    assert done.returncode == 1 and "a quote is not closed: it opens in line 4" in done.stderr, done.stderr
    rejects = tmp_path / "rejects"
    done = run(litefunnel, served, "t", path, "--rejects", rejects)
    assert done.returncode == 0 and "2 rows imported, 1 rejected" in done.stdout, done.stderr
    assert "it opens in line 4" in rejects.read_text(encoding="utf-8", errors="replace")


def test_done_is_done(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a)")
    path = tmp_path / "a.csv"
    path.write_text("1\n2\n", encoding="utf-8")
    assert run(litefunnel, served, "t", path).returncode == 0
    again = run(litefunnel, served, "t", path)
    assert again.returncode == 0 and "imported before" in again.stdout
    again = run(litefunnel, served, "t", path, "--json")
    told = json.loads(again.stdout)
    assert again.returncode == 0 and (told["complete"], told["before"], told["rows"]) == (True, True, 0)
    served.restart()
    assert "imported before" in run(litefunnel, served, "t", path).stdout
    assert served.read("SELECT count(*) FROM t") == [(2,)]
    assert run(litefunnel, served, "t", path, "--again").returncode == 0
    assert served.read("SELECT count(*) FROM t") == [(4,)]
    for _ in range(2):  # a stream that is sent anew, under a name
        assert run(litefunnel, served, "t", "-", "--name", "s", stdin="5\n6\n").returncode == 0
    assert served.read("SELECT count(*) FROM t") in ([(6,)], [(8,)])


def test_killed_on_either_side_each_record_once(litefunnel, daemon, tmp_path, soak):
    """No key in the table: a record that comes twice would stay twice."""
    rows, kills = (400_000, 40) if soak else (40_000, 10)
    served = daemon()
    served.write("CREATE TABLE t(a INTEGER, s TEXT)")
    path, rejects = tmp_path / "a.csv", tmp_path / "bad"
    bad = {rows // 7, rows // 2, rows - 3}
    with open(path, "w", encoding="utf-8") as file:
        file.write("a,s\n")
        for i in range(rows):
            file.write("bad\n" if i in bad else f"{i},text of {i}\n")
    rng = random.Random(3)
    command = [litefunnel, "import", served.db, "t", str(path), "--header", "--rejects", str(rejects)]
    done = 0
    for round_ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until = done + rng.randrange(1, 2 * rows // kills)
        while process.poll() is None and done < until:
            done = served.read("SELECT count(*) FROM t")[0][0]
        if round_ % 2 == 0:
            process.kill()
            process.wait()
        else:
            served.kill()
            served.start()
            if rng.random() < 0.5:
                time.sleep(rng.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                process.wait()
            else:
                assert process.wait(120) == 0, process.stderr.read()
        process.stderr.close()
    last = run(litefunnel, served, "t", path, "--header", "--rejects", rejects, timeout=300)
    assert last.returncode == 0, last.stderr
    good = rows - len(bad)
    assert served.read("SELECT count(*), count(DISTINCT a), sum(a) FROM t") == [
        (good, good, sum(i for i in range(rows) if i not in bad))]
    told = [json.loads(line)["line"] for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert told == sorted(line + 2 for line in bad)


def test_the_mark_moves_only_from_where_it_stands(daemon):
    served = daemon(roles_query="20061", roles_ddl="0")
    with served.wire() as wire:
        wire.write("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        move = "SELECT lf_mark('m', ?, ?)"
        assert wire.write([move, [0, 10]], "INSERT INTO t VALUES (1)")["steps"][1]["rowid"] == 1
        error, _ = wire.ask("write", batch=[[move, [0, 10]], ["INSERT INTO t VALUES (2)"]])
        assert error["code"] == "sql" and "stands at 10, not at 0" in error["message"]
        error, _ = wire.ask("write", batch=[[move, [10, 20]], ["INSERT INTO t VALUES (1)"]])
        assert error["sqlite"] == 1555, "the mark of a batch that was undone moved"
        assert wire.write(["SELECT lf_mark('m')"])["steps"][0]["rows"] == [[10]]
        assert wire.write(["SELECT lf_mark_note('m')"])["steps"][0]["rows"] == [[None]]
        wire.write(["SELECT lf_mark('m', 10, 12, 'of a')"], ["SELECT lf_mark('m', 12, 10)"])
        assert wire.write(["SELECT lf_mark_note('m')"])["steps"][0]["rows"] == [["of a"]]
        wire.write([move, [10, None]])
        assert wire.write(["SELECT lf_mark('m')"])["steps"][0]["rows"] == [[0]]
        for bad in ("lf_mark('')", "lf_mark(5)", "lf_mark('m', -1, 2)", "lf_mark('m', 'x', 2)",
                    "lf_mark('m', 0, 2, 7)", "lf_mark('m', 0, 2, zeroblob(65))", "lf_mark_note('')"):
            assert wire.ask("write", batch=[["SELECT " + bad]])[0]["code"] == "sql", bad
        wire.write("CREATE VIEW v AS SELECT lf_mark('m', 0, 7)")
        assert wire.ask("write", batch=[["SELECT * FROM v"]])[0]["code"] == "sql"
    with served.wire_as(20061) as reader:
        assert reader.ask("write", batch=[["SELECT lf_mark('m')"]])[0]["code"] == "denied"
    assert served.read("SELECT count(*) FROM t") == [(1,)]


def test_interrupted_goes_on(litefunnel, daemon, tmp_path):
    served = daemon()
    served.write("CREATE TABLE t(a INTEGER)")
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{i}\n" for i in range(300_000)), encoding="utf-8")
    process = subprocess.Popen([litefunnel, "import", served.db, "t", str(path)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while served.read("SELECT count(*) FROM t")[0][0] == 0 and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    if process.returncode != 0:  # it may have been done
        assert process.returncode == 5 and "--name import-" in said
    assert run(litefunnel, served, "t", path).returncode == 0
    assert served.read("SELECT count(*), sum(a) FROM t") == [(300_000, sum(range(300_000)))]


@pytest.mark.parametrize("text", ["", "\n\n", "a,b\n"])
def test_nothing_to_import(litefunnel, daemon, tmp_path, text):
    served = daemon()
    served.write("CREATE TABLE t(a, b)")
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    args = ["--header"] if text.startswith("a") else []
    done = run(litefunnel, served, "t", path, *args)
    assert done.returncode == 0 and done.stdout.startswith("0 rows"), done


def test_once_more_begins_once_more_only_once(litefunnel, daemon, tmp_path):
    """Whoever followed the advice of a second --again imported the first rows again and again."""
    served = daemon()
    served.write("CREATE TABLE ck(a INT, b CHECK (b <> 'bad'))")
    path = tmp_path / "g.csv"
    write_csv(path, [*([n, "x"] for n in range(20_000)), [20_000, "bad"], [20_001, "x"]])
    done = run(litefunnel, served, "ck", path, "--again")
    assert done.returncode == 5 and "without --again" in done.stderr, done
    for _ in range(2):
        done = run(litefunnel, served, "ck", path)
        assert done.returncode in (1, 5) and "without --again" not in done.stderr, done
    assert served.read("SELECT count(*) = count(DISTINCT a) FROM ck") == [(1,)]
