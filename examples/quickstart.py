#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The main job on real input: Debian's package index, written by many processes into one file.

Four workers parse disjoint parts of the index and write packages, dependencies, tags and jobs, one
small batch a package. Two readers query the file while that happens, two job workers work the jobs.
In the middle the daemon is killed with SIGKILL and started again, and so is one worker. At the end
everything is compared with what one process gets that writes the same input to plain SQLite.

All of it is shipped to a replica meanwhile. When the work is done the daemon is killed, the database
is deleted with all that belongs to it, restored from the replica, and compared once more.

    quickstart.py PROGRAM DIRECTORY        (examples/quickstart.sh does the rest)
"""
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from client import Client  # noqa: E402

WORKERS, READERS, JOB_WORKERS = 4, 2, 2
JOB_EVERY = 25          # every so manieth package brings a job
CLAIM_SECONDS = 5       # after which a claimed job is somebody else's
DEADLINE = 60.0         # of a write: the daemon is killed meanwhile
RECORDS_MAX = 200_000

SCHEMA = """
CREATE TABLE package(id INTEGER PRIMARY KEY, name TEXT, version TEXT, architecture TEXT,
    section TEXT, installed_size INTEGER, maintainer TEXT, description TEXT);
CREATE INDEX package_name ON package(name);
CREATE TABLE dependency(package INTEGER REFERENCES package, kind TEXT, target TEXT,
    PRIMARY KEY (package, kind, target)) WITHOUT ROWID;
CREATE TABLE tag(package INTEGER REFERENCES package, tag TEXT,
    PRIMARY KEY (package, tag)) WITHOUT ROWID;
CREATE TABLE job(package INTEGER PRIMARY KEY REFERENCES package, state TEXT DEFAULT 'new',
    worker TEXT, claimed_at REAL, runs INTEGER DEFAULT 0, result TEXT);
CREATE INDEX job_state ON job(state, claimed_at);
"""
PACKAGE = "INSERT INTO package VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
DEPENDENCY = "INSERT INTO dependency VALUES (?, ?, ?)"
TAG = "INSERT INTO tag VALUES (?, ?)"
JOB = "INSERT INTO job(package) VALUES (?)"
CLAIM = """UPDATE job SET state = 'claimed', worker = ?, claimed_at = ?, runs = runs + 1
    WHERE package = (SELECT package FROM job WHERE state = 'new' OR
        (state = 'claimed' AND claimed_at < ?) LIMIT 1) RETURNING package"""
FINISH = "UPDATE job SET state = 'done', result = ? WHERE package = ? AND worker = ?"


# ---- the input

def records():
    """Every record of the index as a dict, numbered from 1, the same in each process."""
    number = 0
    for path in sorted(glob.glob("/var/lib/apt/lists/*_Packages*")):
        # apt keeps its lists plain or compressed as it likes; its own helper reads them all.
        text = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path],
                              check=True, stdout=subprocess.PIPE).stdout
        for block in text.decode("utf-8", "surrogateescape").split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+): (.*(?:\n .*)*)", block, re.MULTILINE))
            if "Package" in fields and number < RECORDS_MAX:
                number += 1
                yield number, fields


def rows(number, fields):
    """What a record becomes: the package, its dependencies, its tags."""
    package = [number, fields["Package"], fields.get("Version"), fields.get("Architecture"),
               fields.get("Section"), int(fields.get("Installed-Size", 0)),
               fields.get("Maintainer"), fields.get("Description")]
    dependencies = {(number, kind, re.split(r"[ (:|]", item.strip())[0])
                    for kind in ("Depends", "Recommends", "Suggests")
                    for item in fields.get(kind, "").split(",") if item.strip()}
    tags = {(number, tag.strip()) for tag in fields.get("Tag", "").replace("\n", " ").split(",")
            if tag.strip()}
    return package, sorted(dependencies), sorted(tags)


def work_of_job(description):
    return hashlib.sha256((description or "").encode("utf-8", "surrogateescape")).hexdigest()


# ---- the processes

def worker(part, directory):
    """Writes its part, one batch a package. The key makes a batch that is sent again by the worker
    that replaces a killed one the same batch."""
    db = Client(f"{directory}/app.db", deadline=DEADLINE, label=f"worker {part}")
    acknowledged = os.open(f"{directory}/acknowledged.{part}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    begun = db.reader().execute(
        "SELECT max(id) FROM package WHERE id % ? = ?", [WORKERS, part]).fetchone()[0] or 0
    for number, fields in records():
        if number % WORKERS != part or number < begun:
            continue
        package, dependencies, tags = rows(number, fields)
        batch = [[PACKAGE, package]]
        if dependencies:
            batch.append([DEPENDENCY, dependencies, {"many": True}])
        if tags:
            batch.append([TAG, tags, {"many": True}])
        if number % JOB_EVERY == 0:
            batch.append([JOB, [number]])
        sent = time.monotonic()
        result = db.write(batch, key=f"package {number}")
        took_us = (time.monotonic() - sent) * 1e6
        again = " again" if result.get("repeat") else ""
        os.write(acknowledged, f"{number} {took_us:.0f}{again}\n".encode())
    db.close()


def job_worker(place, directory):
    """Claims a job, reads its package from the file, does the work, finishes the job."""
    name = f"job worker {place} ({os.getpid()})"
    db = Client(f"{directory}/app.db", deadline=DEADLINE, label=name)
    while True:
        now = time.time()
        claimed = db.write([[CLAIM, [name, now, now - CLAIM_SECONDS]]])["steps"][0]["rows"]
        if not claimed:
            if os.path.exists(f"{directory}/all-queued"):
                break
            time.sleep(0.05)
            continue
        package = claimed[0][0]
        description, = db.reader().execute(
            "SELECT description FROM package WHERE id = ?", [package]).fetchone()
        db.write([[FINISH, [work_of_job(description), package, name]]])
    db.close()


def reader(place, directory):
    """Queries the file itself, whatever happens to the daemon, and counts what goes wrong."""
    db = Client(f"{directory}/app.db")
    queries = errors = 0
    newest = 0
    while not os.path.exists(f"{directory}/all-queued"):
        try:
            handle = db.reader()
            count, = handle.execute("SELECT count(*) FROM package").fetchone()
            assert count >= newest, "a snapshot went backwards"
            newest = count
            handle.execute("SELECT section, count(*) FROM package GROUP BY section").fetchall()
            handle.execute("SELECT p.name, count(*) FROM package p JOIN dependency d ON d.target = "
                           "p.name WHERE p.name = 'libc6'").fetchall()
            queries += 3
        except sqlite3.OperationalError as error:
            errors += 1
            print(f"reader {place}: {error}", file=sys.stderr)
        time.sleep(0.02)
    with open(f"{directory}/reader.{place}", "w", encoding="utf-8") as file:
        json.dump({"queries": queries, "errors": errors}, file)


# ---- the comparison

def content_hash(path):
    """Over all rows of the three tables, in the order of their keys."""
    digest = hashlib.sha256()
    handle = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    handle.text_factory = bytes
    for query in ("SELECT * FROM package ORDER BY id",
                  "SELECT * FROM dependency ORDER BY package, kind, target",
                  "SELECT * FROM tag ORDER BY package, tag"):
        for row in handle.execute(query):
            digest.update(repr(row).encode())
    handle.close()
    return digest.hexdigest()


def write_plainly(path):
    """The same input, by one process, to plain SQLite: what should come out."""
    handle = sqlite3.connect(path, isolation_level=None)
    handle.executescript("PRAGMA synchronous = OFF;" + SCHEMA + "BEGIN;")
    for number, fields in records():
        package, dependencies, tags = rows(number, fields)
        handle.execute(PACKAGE, [value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                                 if isinstance(value, str) else value for value in package])
        handle.executemany(DEPENDENCY, dependencies)
        handle.executemany(TAG, tags)
        if number % JOB_EVERY == 0:
            handle.execute(JOB, [number])
    handle.execute("COMMIT")
    handle.close()


# ---- the conductor

def spawn(function, *arguments):
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - the process ends here either way
            print(f"{function.__name__} {arguments[0]}: {error!r}", file=sys.stderr)
            os._exit(1)
    return child


def start_daemon(program, directory):
    daemon = subprocess.Popen([program, "serve", f"{directory}/app.db", "--create",
                               "--replica", f"file://{os.path.abspath(directory)}/replica"],
                              stdout=subprocess.PIPE, stderr=open(f"{directory}/daemon.log", "ab"))
    if not daemon.stdout.readline().startswith(b"ready"):
        sys.exit(f"the daemon does not start; see {directory}/daemon.log")
    return daemon


def acknowledgements(directory):
    for part in range(WORKERS):
        path = f"{directory}/acknowledged.{part}"
        if os.path.exists(path):
            with open(path, encoding="ascii") as file:
                yield from (line.split() for line in file)


def watch(program, directory, daemon, workers, total, began):
    """Waits for the workers; kills the daemon at one third and a worker at two thirds."""
    shown = last = 0
    victim = None
    tty = sys.stdout.isatty()
    while workers:
        time.sleep(0.25)
        done = sum(1 for _ in acknowledgements(directory))
        if victim is None and done > total / 3:
            daemon.kill()
            daemon.wait()
            print(f"  {done:>7,} packages: daemon killed with SIGKILL, started again")
            daemon = start_daemon(program, directory)
            victim = next(iter(workers))
        if victim in workers and done > total * 2 / 3:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            part = workers.pop(victim)
            workers[spawn(worker, part, directory)] = part
            print(f"  {done:>7,} packages: worker {part} killed with SIGKILL, replaced")
        for child in list(workers):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid and status:
                sys.exit(f"worker {workers[child]} failed")
            if pid:
                del workers[child]
        if time.monotonic() - shown >= (0.5 if tty else 3):
            rate = (done - last) / max(time.monotonic() - (shown or began), 0.001)
            shown, last = time.monotonic(), done
            print(f"  {done:>7,} of {total:,} packages, {rate:,.0f}/s", end="\r" if tty else "\n",
                  flush=True)
    return daemon


def judge(directory, total, seconds):
    """Compares and reports. True if all is as it should be."""
    lines = list(acknowledgements(directory))
    times = sorted(int(line[1]) for line in lines)
    numbers = [int(line[0]) for line in lines]
    handle = sqlite3.connect(f"file:{directory}/app.db?mode=ro", uri=True)
    counts = {table: handle.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
              for table in ("package", "dependency", "tag", "job")}
    plain = sqlite3.connect(f"file:{directory}/plain.db?mode=ro", uri=True)
    expected = {table: plain.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in counts}
    present = {row[0] for row in handle.execute("SELECT id FROM package")}
    lost = sum(1 for number in set(numbers) if number not in present)
    # A package that was acknowledged again must have been a repeat: applied once all the same.
    repeated = counts["package"] - len(present)
    undone = handle.execute("SELECT count(*) FROM job WHERE state <> 'done'").fetchone()[0]
    wrong = sum(1 for result, description in handle.execute(
        "SELECT result, description FROM job JOIN package ON package.id = job.package")
        if result != work_of_job(description))
    runs = handle.execute("SELECT sum(runs) FROM job").fetchone()[0]
    readers = [json.load(open(f"{directory}/reader.{place}", encoding="utf-8"))
               for place in range(READERS)]
    same = content_hash(f"{directory}/app.db") == content_hash(f"{directory}/plain.db")
    rows_written = counts["package"] + counts["dependency"] + counts["tag"]
    good = (same and counts == expected and len(present) == total and
            not any((lost, repeated, undone, wrong)) and not any(r["errors"] for r in readers))

    print(f"""
  packages, dependencies, tags  {counts['package']:,}, {counts['dependency']:,}, {counts['tag']:,}
  rate                          {len(numbers) / seconds:,.0f} batches/s, {rows_written / seconds:,.0f} rows/s, {WORKERS} workers
  a write took                  p50 {times[len(times) // 2] / 1000:.2f} ms, p99 {times[len(times) * 99 // 100] / 1000:.2f} ms
  lock errors                   {sum(r['errors'] for r in readers)} (of {sum(r['queries'] for r in readers):,} queries, and of all writes)
  acknowledged and lost         {lost}
  applied twice                 {repeated}
  sent again and recognised     {sum(1 for line in lines if len(line) > 2)}
  jobs                          {counts['job']:,} done, {runs - counts['job']} claimed again after a crash, {undone + wrong} wrong
  content                       {'equal to' if same else 'DIFFERS FROM'} plain SQLite written by one process
""")
    return good


def lose_and_restore(program, directory, daemon):
    """The database is gone, the replica is there. True if what comes back is what was lost."""
    subprocess.run([program, "sync", f"{directory}/app.db"], check=True)
    daemon.kill()
    daemon.wait()
    jobs = "SELECT count(*), sum(runs), count(result) FROM job"
    before = sqlite3.connect(f"file:{directory}/app.db?mode=ro", uri=True).execute(jobs).fetchone()
    for path in glob.glob(f"{directory}/app.db*"):
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    print("the daemon was killed and the database deleted; restoring it:", flush=True)
    restored = subprocess.run([program, "restore", f"file://{os.path.abspath(directory)}/replica",
                               "-o", f"{directory}/app.db"])
    if restored.returncode != 0:
        return False
    after = sqlite3.connect(f"file:{directory}/app.db?mode=ro", uri=True).execute(jobs).fetchone()
    same = content_hash(f"{directory}/app.db") == content_hash(f"{directory}/plain.db")
    print(f"""
  jobs after the restore        {after[0]:,}, {'the same' if after == before else 'DIFFERENT'}
  content after the restore     {'equal to' if same else 'DIFFERS FROM'} plain SQLite written by one process
""")
    return same and after == before


def main(program, directory):
    daemon = start_daemon(program, directory)
    setup = Client(f"{directory}/app.db")
    setup.write([[SCHEMA, None, {"script": True}]])
    setup.close()
    print("writing the index to plain SQLite, to compare with …", flush=True)
    write_plainly(f"{directory}/plain.db")
    total = sqlite3.connect(f"{directory}/plain.db").execute(
        "SELECT count(*) FROM package").fetchone()[0]
    print(f"{total:,} packages; {WORKERS} workers, {READERS} readers, {JOB_WORKERS} job workers:", flush=True)
    if total < 60_000:
        sys.exit("the package index is too small: run apt-get update with Debian's main archive")

    began = time.monotonic()
    workers = {spawn(worker, part, directory): part for part in range(WORKERS)}
    others = [spawn(reader, place, directory) for place in range(READERS)]
    others += [spawn(job_worker, place, directory) for place in range(JOB_WORKERS)]
    daemon = watch(program, directory, daemon, workers, total, began)
    seconds = time.monotonic() - began
    open(f"{directory}/all-queued", "w", encoding="ascii").close()
    failed = [child for child in others if os.waitpid(child, 0)[1] != 0]
    good = judge(directory, total, seconds) and not failed
    good = lose_and_restore(program, directory, daemon) and good
    daemon = start_daemon(program, directory)
    daemon.terminate()
    good = daemon.wait() == 0 and good
    print("all is as it should be" if good else "SOMETHING IS WRONG")
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: quickstart.py PROGRAM DIRECTORY")
    sys.exit(main(sys.argv[1], sys.argv[2]))
