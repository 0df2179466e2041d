# SPDX-License-Identifier: MIT
"""Stock Litestream 0.5.17, as far as restoring goes: its VFS library from the npm registry.

With hydration the library does what `litestream restore` does: the same planner, the same merge, the same
decoder, into a file. It is fetched once into build/tools, by npm where there is one.
"""
import base64
import hashlib
import io
import os
import pathlib
import platform
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

VERSION = "0.5.17"
PACKAGE = "litestream-vfs-linux-amd64"
INTEGRITY = "oCiQoDfHP3rasOnx2yjwOJ8IiLyAxuo61jke/117UA0WwKq3czbsiw2L5u8TZtt4VPET4f2Q+1s6CrQeqbF/JQ=="
INTEGRITY_OF_OLD = "zmcAR8q2TNiAsWRSWscrN+r4NNQ+FwfatKhcE3G/YticNSkNyIhtCTlvXxIyOG+E+UWa+j441cjbmb7p83JPEw=="
TOOLS = pathlib.Path(os.environ.get(
    "LITEFUNNEL_TOOLS", pathlib.Path(__file__).resolve().parents[2] / "build" / "tools"))


def _tarball(package, version):
    with tempfile.TemporaryDirectory() as directory:
        if shutil.which("npm"):
            subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=directory,
                           check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            return next(pathlib.Path(directory).glob("*.tgz")).read_bytes()
    url = f"https://registry.npmjs.org/{package}/-/{package.rpartition('/')[2]}-{version}.tgz"
    with urllib.request.urlopen(url, timeout=120) as reply:
        return reply.read()


def _fetched(name, package, version, integrity, member):
    """The path of a file of a package; None, with the reason on stderr, if it cannot be had."""
    path = TOOLS / name
    if path.exists():
        return path
    if platform.machine() != "x86_64":
        print("litestream: not for this machine", file=sys.stderr)
        return None
    try:
        data = _tarball(package, version)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"litestream: {error}", file=sys.stderr)
        return None
    assert base64.b64encode(hashlib.sha512(data).digest()).decode() == integrity, "not that package"
    TOOLS.mkdir(parents=True, exist_ok=True)
    made = TOOLS / f".{os.getpid()}.made"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        made.write_bytes(archive.extractfile(f"package/{member}").read())
    made.chmod(0o755)
    made.rename(path)
    return path


def library():
    """Litestream 0.5.17 as an extension of SQLite, or None."""
    return _fetched(f"litestream-vfs-{VERSION}.so", PACKAGE, VERSION, INTEGRITY, "litestream-vfs.so")


def program_of_old():
    """The program `litestream` 0.3.13, the newest that npm has, or None."""
    return _fetched("litestream-0.3.13", "@flydotio/litestream-linux-x64", "1.0.1", INTEGRITY_OF_OLD, "litestream")


def restore(url, out, *, at=None, timeout=60, env=None):
    """Restores to the file `out`. The empty string, or what Litestream had against it."""
    out = pathlib.Path(out)
    log = out.with_name(out.name + ".log")
    log.unlink(missing_ok=True)
    # With AWS_CA_BUNDLE set its S3 client does not start.
    inherited = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    child = subprocess.Popen(
        [sys.executable, __file__, library(), out, at or ""], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**inherited, **(env or {}), "LITESTREAM_REPLICA_URL": url,
             "LITESTREAM_HYDRATION_ENABLED": "false" if at else "true",
             "LITESTREAM_HYDRATION_PATH": str(out), "LITESTREAM_LOG_LEVEL": "DEBUG",
             "LITESTREAM_LOG_FILE": str(log)})
    until = time.monotonic() + timeout
    said = ""
    while child.poll() is None and time.monotonic() < until:
        said = log.read_text() if log.exists() else ""
        if "hydration complete" in said or "hydration failed" in said:
            break
        if not at and any("level=ERROR" in line for line in said.splitlines()):
            break
        time.sleep(0.02)
    try:
        printed, _ = child.communicate("\n", timeout=max(until - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        child.kill()
        printed, _ = child.communicate()
        return f"no end: {printed}{said[-2000:]}"
    said = log.read_text() if log.exists() else ""
    done = child.returncode == 0 if at else "hydration complete" in said
    return "" if done else f"{said[-2000:]}{printed}" or "silence"


def write(url, directory, *statements, env=None):
    """
    A session in which Litestream's own code writes; at its end what was committed goes up, as one segment (in
    the middle it must not: its library cannot always read what it has just sent). That library in write mode
    is all of its writing that can be had from npm.
    """
    log = pathlib.Path(directory) / "write.log"
    log.unlink(missing_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    script = "".join(f"{line}\n" for line in (".bail on", f".load {library()}", ".open file:written.db?vfs=litestream",
                                              *(f"{sql};" for sql in statements)))
    done = subprocess.run(["sqlite3"], input=script, capture_output=True, text=True, timeout=120, check=False,
                          env={**inherited, **(env or {}), "LITESTREAM_REPLICA_URL": url,
                               "LITESTREAM_WRITE_ENABLED": "true", "LITESTREAM_SYNC_INTERVAL": "1h",
                               "LITESTREAM_LOG_LEVEL": "INFO", "LITESTREAM_LOG_FILE": str(log)})
    said = log.read_text() if log.exists() else ""
    assert done.returncode == 0 and "synced to remote" in said, done.stdout + done.stderr + said


def main(extension, out, at):
    """A child: opens the replica; with a time, copies what the database was then, page by page."""
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)
    db = sqlite3.connect("file:restored.db?vfs=litestream&mode=ro", uri=True, isolation_level=None)
    if at:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        db.execute("SELECT litestream_set_time(?)", (at,)).fetchall()
        pathlib.Path(out).write_bytes(db.serialize())
    else:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
