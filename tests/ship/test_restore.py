# SPDX-License-Identifier: MIT
"""`litefunnel restore` from replicas that ltx.py wrote: which point, by which way, and what is refused."""
import fcntl
import os
import pathlib
import shutil
import sqlite3
import subprocess

import pytest

import chains
import ltx
from chains import restore, same


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A replica of seven commits, for tests that do not change it."""
    return chains.ship_walk(tmp_path_factory.mktemp("walk"))


@pytest.fixture
def copy(walk, tmp_path):
    """The same, for tests that do."""
    return copy_of(walk, tmp_path / "copy")


def copy_of(walk, root):
    shutil.copytree(walk.root, root)
    made = object.__new__(ltx.Replica)
    made.__dict__.update(walk.__dict__)
    made.root = root
    made.sha256 = dict(walk.sha256)
    return made


# ---- the point

def test_the_newest_point(litefunnel, walk, tmp_path):
    code, said, errors = restore(litefunnel, walk.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert same(tmp_path / "out.db", walk, 7)
    assert said["commit"] == 7 and said["txid"] == "0000000000000007" and said["digest"] == "equal"
    assert said["complete"] and said["files"] == 7 and said["damage"] == ""
    assert sorted(os.listdir(tmp_path)) == ["out.db", "out.db-funnel.lock", "out.db-restored"]


@pytest.mark.parametrize("page_size", (512, 1024, 8192, 65536))
def test_page_sizes(litefunnel, tmp_path, page_size):
    replica = chains.ship_walk(tmp_path, page_size=page_size)
    code, said, errors = restore(litefunnel, replica.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert said["page_size"] == page_size and same(tmp_path / "out.db", replica, 7)


@pytest.mark.parametrize("mode", ("full", "incremental"))
def test_auto_vacuum(litefunnel, tmp_path, mode):
    replica = chains.ship_walk(tmp_path, pragmas=(f"PRAGMA auto_vacuum={mode}",))
    code, _, errors = restore(litefunnel, replica.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert same(tmp_path / "out.db", replica, 7)


def test_each_point_by_commit_by_txid_and_by_time(litefunnel, walk, tmp_path):
    for txid in range(1, 8):
        for how in (("--commit", walk.commits[txid]), ("--txid", f"{txid:x}"),
                    ("--at", ltx.rfc3339(walk.times[txid])),
                    ("-timestamp", ltx.rfc3339(walk.times[txid] + 999))):
            out = tmp_path / f"{txid}{how[0]}.db"
            code, said, errors = restore(litefunnel, walk.url, "-o", out, *how)
            assert code == 0, errors
            assert int(said["txid"], 16) == txid and said["commit"] == walk.commits[txid]
            assert same(out, walk, txid)


def test_what_is_older_than_all(litefunnel, walk, tmp_path):
    for how, word in ((("--commit", 0), "number"), (("--at", "2001-01-01T00:00:00Z"), "oldest"),
                      (("--txid", "99"), "beside"), (("--at", "yesterday"), "no time")):
        code, _, errors = restore(litefunnel, walk.url, "-o", tmp_path / "out.db", *how)
        assert code in (1, 2) and word in errors, errors
    assert not (tmp_path / "out.db").exists()


def test_commits_of_an_older_epoch(litefunnel, tmp_path):
    """Back to commit 3, then another 4 and 5: --commit 4 is the newer one."""
    history = chains.History(tmp_path)
    replica = ltx.Replica(tmp_path / "replica", history.page_size)
    states = []
    for pages in history.walk():
        states.append(pages)
        replica.ship(pages, history.commit)
    replica.epoch = os.urandom(16)
    history.commit = 2
    replica.ship(history.change("DELETE FROM t"), 3, full=True)
    replica.ship(history.grow(7), 4)
    for commit, txid in ((4, 9), (3, 8), (2, 2), (100, 9)):
        code, said, errors = restore(litefunnel, replica.url, "-o", tmp_path / f"{commit}.db",
                                     "--commit", commit)
        assert code == 0, errors
        assert int(said["txid"], 16) == txid and same(tmp_path / f"{commit}.db", replica, txid)


def test_a_fuzzy_base_is_no_restore_point(litefunnel, copy, tmp_path):
    record = ltx.read_record(copy.path(0, 1, 1))
    ltx.write_record(copy.path(0, 1, 1), {k: v for k, v in record.items() if "digest" not in k})
    code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "a.db")
    assert code == 0 and said["commit"] == 7, errors
    code, _, errors = restore(litefunnel, copy.url, "-o", tmp_path / "b.db", "--commit", 1)
    assert code == 1 and "no restore point yet" in errors


# ---- the way

def test_snapshots_and_merged_files_are_used(litefunnel, copy, tmp_path):
    copy.merge(9, 1, 3)
    copy.merge(1, 4, 6)
    for txid in (1, 2, 3, 4, 5, 6):
        copy.delete(0, txid, txid)
    code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert said["files"] == 3 and same(tmp_path / "out.db", copy, 7)


def test_files_that_overlap(litefunnel, copy, tmp_path):
    copy.merge(9, 1, 4)
    copy.merge(1, 3, 6)
    for txid in (2, 3, 4, 5, 6):
        copy.delete(0, txid, txid)
    code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert said["files"] == 3 and same(tmp_path / "out.db", copy, 7)


def test_a_merged_file_of_another_database_is_gone_around(litefunnel, copy, tmp_path):
    """A daemon that lost the replica, and merges what it believes to be there."""
    path = copy.merge(1, 3, 5)
    record = ltx.read_record(path)
    record["digest-before"] = os.urandom(16)
    ltx.write_record(path, record)
    code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert same(tmp_path / "out.db", copy, 7) and "another database" in said["damage"]
    assert said["complete"]


def test_a_merged_file_with_wrong_pages_is_gone_around(litefunnel, copy, tmp_path):
    pages = dict(ltx.changes(copy.states[2], copy.states[5]))
    pages[max(pages)] = os.urandom(copy.page_size)
    copy.put(1, 3, 5, pages)
    code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert same(tmp_path / "out.db", copy, 7) and "another digest" in said["damage"]


def test_a_damaged_snapshot_is_gone_around(litefunnel, copy, tmp_path):
    path = copy.merge(9, 1, 6)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert same(tmp_path / "out.db", copy, 7) and said["files"] == 7 and said["damaged_files"] == 1


def test_a_full_segment_replaces_a_lost_snapshot(litefunnel, copy, tmp_path):
    copy.put(0, 5, 5, copy.states[5], full=True)
    copy.delete(0, 1, 1)
    code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "out.db")
    assert code == 0, errors
    assert same(tmp_path / "out.db", copy, 7) and said["files"] == 3


def test_a_gap_stops_at_the_last_good_commit(litefunnel, copy, tmp_path):
    copy.delete(0, 5, 5)
    out = tmp_path / "out.db"
    code, said, errors = restore(litefunnel, copy.url, "-o", out)
    assert code == 1 and said is None and "commit 4" in errors and "--to-last-good" in errors
    assert not out.exists() and not pathlib.Path(f"{out}.restore-tmp").exists()
    code, said, errors = restore(litefunnel, copy.url, "-o", out, "--to-last-good")
    assert code == 0 and said["commit"] == 4 and not said["complete"], errors
    assert same(out, copy, 4)


@pytest.mark.parametrize("harm", ("cut", "longer", "swapped", "other name", "empty", "no record"))
def test_a_harmed_segment(litefunnel, copy, tmp_path, harm):
    path, other = copy.path(0, 5, 5), copy.path(0, 6, 6)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif harm == "longer":
        path.write_bytes(path.read_bytes() + b"more")
    elif harm == "swapped":
        data = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif harm == "other name":
        path.write_bytes(other.read_bytes())
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "no record":
        ltx.sidecar(path).unlink()
    code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "a.db", "--to-last-good")
    assert code == 0, errors
    # What Litestream wrote has no record either: its checksums and the digest at the end decide.
    good = 7 if harm == "no record" else 4
    assert said["commit"] == good and same(tmp_path / "a.db", copy, good)


@pytest.mark.parametrize("harm", ["lost", "damaged"])
def test_a_record_that_is_gone_leads_no_commit_astray(litefunnel, copy, tmp_path, harm):
    """A segment without one is of no known commit: who asks for one that may be in it is told."""
    record = ltx.sidecar(copy.root / "ltx" / "0" / "0000000000000004-0000000000000004.ltx")
    if harm == "lost":
        record.unlink()
    else:
        record.write_text("no record\n")
    for wish in (2, 3, 5, 6, 7) if harm == "lost" else (2, 3):  # no way leads over a damaged one
        out = tmp_path / f"{wish}.db"
        code, said, errors = restore(litefunnel, copy.url, "-o", out, "--commit", str(wish))
        assert code == 0 and said["commit"] == wish and same(out, copy, wish), (wish, said, errors)
    out = tmp_path / "4.db"
    code, _, errors = restore(litefunnel, copy.url, "-o", out, "--commit", "4")
    assert code == 1 and not out.exists() and "--to-last-good" in errors, errors
    said = "its record is lost" if harm == "lost" else "its record cannot be read"
    assert f"0000000000000004 of level 0: {said}, and commit 4 may be in it" in errors, errors
    assert ("--txid 0000000000000004 restores" in errors) == (harm == "lost"), errors
    code, said, errors = restore(litefunnel, copy.url, "-o", out, "--commit", "4", "--to-last-good")
    assert code == 0 and said["commit"] == 3 and said["complete"] is False and same(out, copy, 3), (said, errors)
    if harm == "lost":
        code, said, errors = restore(litefunnel, copy.url, "-o", tmp_path / "exact.db", "--txid", "4")
        assert code == 0 and same(tmp_path / "exact.db", copy, 4), (said, errors)
    done = subprocess.run([litefunnel, "replica", "verify", copy.url], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "0000000000000004 of level 0: " in done.stdout, done.stdout
    assert ("its record is lost" if harm == "lost" else ".record cannot be read") in done.stdout, done.stdout


def test_every_byte_flipped(litefunnel, tmp_path, slow, soak):
    """Of all files of a small chain, records too: never a wrong database."""
    history = chains.History(tmp_path, page_size=512)
    replica = ltx.Replica(tmp_path / "replica", 512)
    for make in (history.pages, lambda: history.grow(2, 60), lambda: history.change("DELETE FROM t WHERE a>9")):
        replica.ship(make(), history.commit)
    images = {ltx.image(state, 512): txid for txid, state in replica.states.items() if state}
    files = [file for file in replica.root.rglob("*") if file.is_file()]
    step = 1 if soak or slow == 1 else 13
    outcomes = {"whole": 0, "shorter": 0, "refused": 0}
    out, at = tmp_path / "out.db", 0
    for file in files:
        good = file.read_bytes()
        for offset in range(at % step, len(good), step):
            harmed = bytearray(good)
            harmed[offset] ^= 1 << offset % 8
            file.write_bytes(harmed)
            code, said, errors = restore(litefunnel, replica.url, "-o", out, "--to-last-good")
            assert code in (0, 1), errors
            if code == 0:
                txid = images[out.read_bytes()]  # KeyError: a wrong database
                assert txid == int(said["txid"], 16)
                assert txid == 3 or said["damage"], (file, offset)
                outcomes["whole" if txid == 3 else "shorter"] += 1
                for made in tmp_path.glob("out.db*"):
                    made.unlink()
            else:
                assert not out.exists() and not said
                outcomes["refused"] += 1
        file.write_bytes(good)
        at += len(good)
    print(outcomes)
    assert outcomes["shorter"] > 0 and outcomes["refused"] > 0


# ---- the place

def test_nothing_is_overwritten(litefunnel, walk, tmp_path):
    out = tmp_path / "out.db"
    out.write_bytes(b"mine")
    code, _, errors = restore(litefunnel, walk.url, "-o", out)
    assert code == 1 and "--force" in errors and out.read_bytes() == b"mine"
    code, said, _ = restore(litefunnel, walk.url, "-o", out, "-if-db-not-exists")
    assert code == 0 and said is None and out.read_bytes() == b"mine"


def test_force_moves_all_that_belongs_to_it(litefunnel, walk, tmp_path):
    out = tmp_path / "out.db"
    db = sqlite3.connect(out, isolation_level=None)
    db.execute("PRAGMA journal_mode=wal")
    db.execute("CREATE TABLE old(x)")
    db.execute("INSERT INTO old VALUES (1)")
    wal = pathlib.Path(f"{out}-wal").read_bytes()
    code, _, errors = restore(litefunnel, walk.url, "-o", out, "--force")
    assert code == 1 and "open" in errors  # we have it open
    shm = pathlib.Path(f"{out}-shm").read_bytes()
    db.close()
    pathlib.Path(f"{out}-wal").write_bytes(wal)
    pathlib.Path(f"{out}-shm").write_bytes(shm)
    pathlib.Path(f"{out}-ship").mkdir()
    os.chmod(out, 0o604)
    os.chown(out, 20001, 20002)
    code, said, errors = restore(litefunnel, walk.url, "-o", out, "--force")
    assert code == 0, errors
    assert same(out, walk, 7)
    status = out.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (20001, 20002, 0o604)
    moved = pathlib.Path(said["moved_to"])
    assert sorted(os.listdir(moved)) == ["out.db", "out.db-ship", "out.db-shm", "out.db-wal"]
    old = sqlite3.connect(moved / "out.db")
    assert old.execute("SELECT x FROM old").fetchall() == [(1,)]
    old.close()


def test_a_wal_that_was_left_alone_counts(litefunnel, walk, tmp_path):
    """A crash in the middle of moving: the next restore takes the rest away too."""
    wal = tmp_path / "out.db-wal"
    wal.write_bytes(b"frames of another database")
    code, _, errors = restore(litefunnel, walk.url, "-o", tmp_path / "out.db")
    assert code == 1 and "out.db-wal exists" in errors
    code, said, errors = restore(litefunnel, walk.url, "-o", tmp_path / "out.db", "--force")
    assert code == 0 and not wal.exists(), errors
    assert os.listdir(said["moved_to"]) == ["out.db-wal"]


def test_a_running_daemon_is_a_refusal(litefunnel, walk, daemon):
    served = daemon()
    code, _, errors = restore(litefunnel, walk.url, "-o", served.db, "--force")
    assert code == 1 and f"pid {served.pid}" in errors
    assert served.running() and served.read("SELECT count(*) FROM _lf_state") == [(1,)]


def test_two_restores_at_a_time(litefunnel, walk, tmp_path):
    with open(tmp_path / "out.db-funnel.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, errors = restore(litefunnel, walk.url, "-o", tmp_path / "out.db")
    assert code == 1 and "another litefunnel" in errors


@pytest.fixture
def served(daemon, tmp_path):
    """A daemon that was stopped, a replica of its database, and the last answer that it gave."""
    made = daemon()
    made.write(["CREATE TABLE t(x)"])
    made.answer = made.write(["INSERT INTO t VALUES (1)"])
    made.stop()
    made.replica = ltx.Replica(tmp_path / "replica", 4096, epoch=made.answer["epoch"])
    made.replica.ship(whole(made.db), made.answer["commit"])
    return made


def test_the_next_start_begins_a_new_epoch(litefunnel, served):
    epoch, commit = served.answer["epoch"], served.answer["commit"]
    code, _, errors = restore(litefunnel, served.replica.url, "-o", served.db, "--force")
    assert code == 0, errors
    assert os.path.exists(f"{served.db}-restored")
    served.start()
    assert not os.path.exists(f"{served.db}-restored")
    with served.wire(greet=False) as wire:
        hello = wire.hello(seen={"epoch": epoch, "commit": commit + 5})
        assert hello["epoch"] != epoch
        assert hello["epoch_changed"]["was"] == epoch
        assert hello["epoch_changed"]["restored_to"] == commit + 1  # a start is a commit
    epoch = served.write(["INSERT INTO t VALUES (2)"])["epoch"]
    served.restart()
    assert served.write(["INSERT INTO t VALUES (3)"])["epoch"] == epoch
    assert served.read("SELECT x FROM t") == [(1,), (2,), (3,)]


def whole(path):
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return ltx.read_pages(path)


# ---- the replica

def test_replicas_of_litestream(litefunnel, tmp_path):
    replica = chains.ship_walk(tmp_path, records=False)
    code, said, errors = restore(litefunnel, replica.url, "-o", tmp_path / "a.db")
    assert code == 0 and "commit" not in said and said["digest"] == "none", errors
    assert same(tmp_path / "a.db", replica, 7)
    code, said, errors = restore(litefunnel, replica.url, "-o", tmp_path / "b.db", "--at",
                                 ltx.rfc3339(replica.times[4]))
    assert code == 0 and same(tmp_path / "b.db", replica, 4), errors
    code, _, errors = restore(litefunnel, replica.url, "-o", tmp_path / "c.db", "--commit", 3)
    assert code == 1 and "Litestream" in errors


def test_an_empty_replica(litefunnel, tmp_path):
    url = f"file://{tmp_path}/nothing"
    assert restore(litefunnel, url, "-o", tmp_path / "a.db")[0] == 1
    assert restore(litefunnel, url, "-o", tmp_path / "a.db", "-if-replica-exists")[0] == 0
    assert not (tmp_path / "a.db").exists()


def test_the_replica_that_reaches_furthest(litefunnel, walk, tmp_path):
    behind = copy_of(walk, tmp_path / "behind")
    behind.delete(0, 7, 7)
    env = {**os.environ, "LITEFUNNEL_REPLICA": f"{behind.url} {walk.url}"}
    subprocess.run([litefunnel, "restore", tmp_path / "a.db"], env=env, check=True, stdout=subprocess.DEVNULL)
    assert same(tmp_path / "a.db", walk, 7)
    broken = copy_of(walk, tmp_path / "broken")
    broken.path(0, 3, 3).write_bytes(b"x" * 500)
    env["LITEFUNNEL_REPLICA"] = f"{broken.url} {behind.url}"
    done = subprocess.run([litefunnel, "restore", tmp_path / "b.db"], env=env, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "warning" in done.stderr and same(tmp_path / "b.db", walk, 6)


def test_usage(litefunnel, walk, tmp_path):
    out = tmp_path / "out.db"
    for args in ((), (walk.url,), (walk.url, "-o", out, "--commit", "1", "--txid", "1"),
                 (walk.url, "-o", out, "--commit", "x"), (walk.url, "-o", out, "more"),
                 (walk.url, "-o", out, "--sideways"), ("s4://x/y", "-o", out)):
        code, said, errors = restore(litefunnel, *args)
        assert code in (2, 4) and said is None and errors, args
    assert not out.exists()


# ---- serve --restore-if-missing

def remove(db):
    for path in pathlib.Path(db).parent.glob("app.db*"):
        if path.suffix != ".log":
            path.unlink()


def test_serve_restores_a_missing_database(litefunnel, served):
    remove(served.db)
    served.create = False
    code, said = served.refuses_to_start()
    assert code == 1 and "--create" in said[0]
    served.command = lambda: [litefunnel, "serve", served.db, "--restore-if-missing",
                              f"--replica={served.replica.url}"]
    served.start()
    assert served.read("SELECT x FROM t") == [(1,)]
    served.write(["INSERT INTO t VALUES (2)"])
    served.restart()  # it is there now: nothing is restored
    assert served.read("SELECT x FROM t") == [(1,), (2,)]


def test_serve_makes_no_new_database_where_a_replica_may_hold_one(litefunnel, served):
    remove(served.db)
    how = {"url": "file://relative"}
    served.command = lambda: [litefunnel, "serve", served.db, "--create", "--restore-if-missing",
                              f"--replica={how['url']}"]
    assert served.refuses_to_start()[0] != 0 and not os.path.exists(served.db)
    how["url"] = served.replica.url
    good = served.replica.path(0, 1, 1).read_bytes()
    served.replica.path(0, 1, 1).write_bytes(good[:-1])
    assert served.refuses_to_start()[0] == 1 and not os.path.exists(served.db)
    how["url"] = f"file://{os.path.dirname(served.db)}/empty"
    served.start()
    assert served.read("SELECT count(*) FROM sqlite_schema WHERE name='t'") == [(0,)]
