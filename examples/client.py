#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A complete litefunnel client, written from proto/PROTOCOL.md alone.

    from client import Client, Failed, Unknown

    db = Client("app.db")
    db.write([["INSERT INTO visit(path) VALUES (?)", ["/home"]]])
    rows = db.reader().execute("SELECT * FROM visit").fetchall()     # sees the row

It keeps one request in flight, reconnects and resends by itself, and survives fork(). It needs
Debian's python3-msgpack. `client.py DB` is an example that checks itself against a running daemon.
"""
import contextlib
import os
import random
import socket
import sqlite3
import struct
import sys
import time
import urllib.parse

import msgpack

FRAME_BEFORE_HELLO = 64 * 1024


class Failed(Exception):
    """Surely not applied. `error` is the daemon's map: code, message, sqlite, step, row, …"""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.error = error


class Unknown(Exception):
    """Nobody can tell whether it was applied: ask the database. Everything safe was tried."""


class Client:
    def __init__(self, path, socket_path=None, deadline=30.0, **hello):
        self.path = os.path.realpath(path)
        self.socket_path = socket_path or os.environ.get("LITEFUNNEL_SOCKET", self.path + "-funnel")
        self.deadline = deadline
        self.hello = {"proto": [1, 1], "client": "client.py/1.0", **hello}  # label=…, class=…
        self.epoch, self.commit = None, 0  # the newest that this client has seen
        self.socket = self.sqlite = self.sqlite_file = None
        self.last_id = self.seq = 0
        self.inherited = []  # SQLite handles of the parent: nobody may use or close them here
        self._new_session()

    def write(self, batch, *, key=None, deadline=None):
        """Applies all steps or none and returns the result map; raises Failed or Unknown."""
        self._after_fork()
        content = pack(batch)  # packed once: a resend must carry the same bytes
        self.seq += key is None
        params = {"key": key} if key is not None else {"seq": self.seq, "done": self.seq - 1}
        return self._request("write", params, deadline or self.deadline, content)

    def ask(self, method, **params):
        """ping, show, describe: what changes nothing may be sent again at will."""
        self._after_fork()
        return self._request(method, params, self.deadline)

    def close(self):
        self._after_fork()
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self._exchange("bye", {}, b"", time.monotonic() + 0.1)
        self._hang_up()
        self._close_reader()

    def _request(self, method, params, deadline, content=b""):
        """Sends until there is a final answer or the deadline has passed."""
        until, born = time.monotonic() + deadline, boottime()
        ttl = "session_ttl_s" if "seq" in params else "key_ttl_s"
        lost = False  # a write was sent and its answer never came
        pause = 0.001
        while True:
            sent = False
            try:
                self._connect(until, lost)
                if lost and boottime() - born > self.limits[ttl]:
                    raise Unknown("too old to be sent again: the daemon may have forgotten it")
                if content:
                    params["deadline_ms"] = max(int((until - time.monotonic()) * 1000), 1)
                    sent = True
                error, result = self._exchange(method, params, content, until)
            except OSError as reason:
                self._hang_up()
                lost = lost or sent
                error = failure("deadline", f"no answer in time: {reason}", retry=True)
            except BaseException:
                self._hang_up()  # half a message may be on its way
                raise
            if error is None or error["applied"] == "yes":  # "yes": but not as far as was asked
                return self._note(error["result"] if error else result)
            pause = min(pause * 2, 0.2) * random.uniform(0.8, 1)
            wait = max(pause, error.get("retry_after_ms", 0) / 1000)
            # After a lost answer, "not applied, retry" speaks of the last send only.
            unknown = error["applied"] == "unknown" or (lost and error["retry"])
            if not error["retry"] or time.monotonic() + wait >= until:
                raise Unknown(str(Failed(error))) if unknown else Failed(error)
            lost = unknown
            time.sleep(wait)

    def _connect(self, until, lost):
        while self.socket is None:
            hello = {**self.hello, "session": self.session}
            if self.epoch is not None:
                hello["seen"] = {"epoch": self.epoch, "commit": self.commit}
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._io(until).connect(self.socket_path)
            self.limits = {"frame": FRAME_BEFORE_HELLO}
            error, result = self._exchange("hello", hello, b"", until)
            if error is not None:
                if error["retry"]:
                    raise ConnectionError(error["message"])
                raise Unknown(error["message"]) if lost else Failed(error)
            self.limits = result["limits"]
            self._note(result)
            if "epoch_changed" in result:  # another lineage, which knows nothing of our session
                self._hang_up()
                self._new_session()
                if lost:
                    raise Unknown("the database was restored while this had no answer")

    def _exchange(self, method, params, content, until):
        """One request and its reply: (error, result). OSError: the connection is of no use now."""
        self.last_id = (self.last_id + 1) % 2**32
        payload = b"\x94\x00" + pack(self.last_id) + pack(method)
        payload += bytes([0x80 + len(params) + bool(content)])  # a map of less than 16 keys
        payload += b"".join(pack(key) + pack(value) for key, value in params.items())
        payload += pack("batch") + content if content else b""
        if len(payload) > self.limits["frame"]:
            raise Failed(failure("too_large", f"a frame holds {self.limits['frame']} bytes"))
        self._io(until).sendall(struct.pack(">I", len(payload)) + payload)
        while True:
            kind, *rest = self._receive(until)
            if kind == 1 and rest[0] == self.last_id:
                return rest[1], rest[2]
            if kind == 2 and rest[0] == "closing":
                raise ConnectionError(rest[1]["message"])

    def _receive(self, until):
        data = self._read(struct.unpack(">I", self._read(4, until))[0], until)
        return msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)

    def _read(self, count, until):
        data = bytearray()
        while len(data) < count:
            piece = self._io(until).recv(min(count - len(data), 1 << 16))
            if not piece:
                raise ConnectionError("the daemon closed the connection")
            data += piece
        return data

    def _io(self, until):
        self.socket.settimeout(max(until - time.monotonic(), 0.001))
        return self.socket

    def _hang_up(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None

    def _new_session(self):
        self.pid, self.session = os.getpid(), os.urandom(16)  # seq goes on: holes are allowed

    def _after_fork(self):
        if self.pid != os.getpid():
            self._hang_up()  # closes our copy; nothing is said on the parent's connection
            self._new_session()

    def _note(self, result):
        if "epoch" in result:
            before = self.commit if self.epoch == result["epoch"] else 0
            self.epoch, self.commit = result["epoch"], max(before, result["commit"])
        return result

    def reader(self):
        """The read-only handle: ask before each transaction. It sees all that was acknowledged."""
        status = os.stat(self.path)
        file = (os.getpid(), status.st_dev, status.st_ino)
        if self.sqlite_file != file:
            self._close_reader()
            uri = "file:" + urllib.parse.quote(self.path) + "?mode=ro"
            self.sqlite = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
            self.sqlite.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            self.sqlite_file = file
        return self.sqlite

    def _close_reader(self):
        if self.sqlite is not None and self.sqlite_file[0] == os.getpid():
            self.sqlite.close()
        self.inherited.append(self.sqlite)
        self.sqlite = self.sqlite_file = None

    def snapshot(self):
        """(epoch, commit number) that a read sees now."""
        return self.reader().execute("SELECT epoch, commit_no FROM _lf_state").fetchone()

    def wait_commit(self, epoch, commit, timeout=5.0):
        """Waits until reads see a commit whose number another process passed on."""
        until = time.monotonic() + timeout
        while (now := self.snapshot())[1] < commit or now[0] != epoch:
            if now[0] != epoch:
                raise LookupError("another epoch: the number means nothing here")
            if time.monotonic() >= until:
                raise TimeoutError(f"commit {commit} is not there yet")
            time.sleep(0.001)


def pack(value):
    return msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")


def failure(code, message, retry=False):
    return {"code": code, "message": message, "applied": "no", "retry": retry}


def boottime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine is suspended


class Forgetful(Client):
    """Loses an answer when it is told to, as a torn connection would."""

    lose = False

    def _receive(self, until):
        message, lose, self.lose = super()._receive(until), self.lose, False
        if lose:
            raise ConnectionError("lost on purpose")
        return message


def code(db, batch, **options):
    try:
        return db.write(batch, **options)
    except Failed as failed:
        return failed.error["code"]


def main(path):
    db = Forgetful(path, label="client.py example")
    create = "CREATE TABLE IF NOT EXISTS client_py(id INTEGER PRIMARY KEY, who TEXT, n)"
    db.write([[create], ["DELETE FROM client_py"]])

    def count():
        return db.reader().execute("SELECT count(*) FROM client_py").fetchone()[0]

    # Many rows, names, a guard, rows that come back; and what was written is read at once.
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")  # text need not be UTF-8
    insert = "INSERT INTO client_py(who, n) VALUES (:who, :n)"
    result = db.write([
        [insert, [{"who": "ann", "n": 2**60}, {"who": odd, "n": b"\x00"}], {"many": True}],
        ["UPDATE client_py SET n = n + 1 WHERE id = ? RETURNING n", [1], {"expect": {"rows": 1}}],
    ])
    assert [step.get("rows") for step in result["steps"]] == [None, [[2**60 + 1]]], result
    assert [who for (who,) in db.reader().execute("SELECT who FROM client_py")] == ["ann", odd]
    assert db.snapshot() >= (db.epoch, result["commit"])

    # Failures leave nothing behind.
    fixed = ["INSERT INTO client_py(id, who) VALUES (3, 'cleo')"]
    assert code(db, [fixed, fixed]) == "sql"
    assert code(db, [fixed, ["SELECT 1", None, {"expect": {"rows": 2}}]]) == "guard"
    assert count() == 2

    # An answer is lost; the client sends again; it is applied once.
    db.lose = True
    assert db.write([fixed])["repeat"] is True

    # The same key from two clients: once.
    key, other = f"client.py {os.urandom(8).hex()}", Client(path)
    first, second = (one.write([[insert, ["dora", 1]]], key=key) for one in (db, other))
    assert second["repeat"] and first["commit"] == second["commit"]
    assert code(other, [fixed], key=key) == "key_mismatch"
    other.close()

    # A child goes on with a session of its own.
    if (child := os.fork()) == 0:
        db.write([[insert, ["eve", None]]])
        os._exit(0 if count() == 5 else 1)
    assert os.waitpid(child, 0)[1] == 0
    db.wait_commit(db.epoch, db.ask("ping")["commit"])
    assert count() == 5
    db.close()
    print("ok: 5 rows, each once")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: client.py DB")
    main(sys.argv[1])
