# SPDX-License-Identifier: MIT
"""The wire, raw: for tests that must see each frame.

Nothing here retries, reconnects or checks what it sends. It knows only what PROTOCOL.md says about
frames and messages, so that it keeps the C library honest.

    with Wire(path) as wire:
        wire.hello(session=os.urandom(16))
        first = wire.request("write", batch=[["INSERT INTO t VALUES (?)", [1]]], seq=1)
        second = wire.request("ping")           # pipelined
        error, result = wire.reply(second)      # in any order
        error, result = wire.reply(first)
"""
import os
import socket
import struct
import time

import msgpack

REQUEST, REPLY, NOTICE = 0, 1, 2
TIMEOUT = 10.0


class Closed(Exception):
    """The peer closed the connection; `notice` is the params of its `closing`, or None."""

    def __init__(self, notice):
        super().__init__(f"closed by the peer, closing={notice}")
        self.notice = notice


class Refused(Exception):
    """call() was answered with an error; `error` is its map."""

    def __init__(self, error):
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = error
        self.code = error.get("code")


def pack(value):
    return msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")


def unpack(payload):
    return msgpack.unpackb(payload, unicode_errors="surrogateescape", strict_map_key=False)


def frame(payload):
    """Length and payload; payload may be any bytes."""
    return struct.pack(">I", len(payload)) + payload


def vector(path):
    """A file of proto/vectors: its bytes, header included, and its notes, as {"expect": …}."""
    notes, data = {}, bytearray()
    with open(path, encoding="utf-8") as file:
        for line in file:
            code, _, comment = line.partition("#")
            data += bytes.fromhex(code)
            key, colon, value = comment.strip().partition(": ")
            if not code.strip() and colon and key in ("expect", "level", "needs"):
                notes[key] = value
    return bytes(data), notes


class Wire:
    def __init__(self, path, timeout=TIMEOUT):
        self.timeout = timeout
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(os.fspath(path))
        self.received = bytearray()
        self.replies = {}  # id -> (error, result), read but not yet asked for
        self.notices = []  # (method, params), in order
        self.last_id = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    # ---- sending

    def send(self, data):
        """Bytes as they are."""
        self.socket.settimeout(self.timeout)
        self.socket.sendall(data)

    def send_message(self, message):
        self.send(frame(pack(message)))

    def request(self, method, id=None, **params):
        """Sends a request and returns its id without waiting. `class_` stands for `class`."""
        if id is None:
            self.last_id += 1
            id = self.last_id
        self.send_message([REQUEST, id, method, {key.rstrip("_"): v for key, v in params.items()}])
        return id

    def notice(self, method, **params):
        self.send_message([NOTICE, method, params])

    # ---- receiving

    def recv(self, timeout=None):
        """The next message, decoded. TimeoutError, or Closed at the end of the stream."""
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            if len(self.received) >= 4:
                length = struct.unpack_from(">I", self.received)[0]
                if len(self.received) >= 4 + length:
                    payload = bytes(self.received[4 : 4 + length])
                    del self.received[: 4 + length]
                    return unpack(payload)
            self.socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Closed(next((p for m, p in self.notices if m == "closing"), None))
            self.received += data

    def _take(self, timeout):
        message = self.recv(timeout)
        if message[0] == NOTICE:
            self.notices.append((message[1], message[2]))
        elif message[0] == REPLY:
            assert message[1] not in self.replies, f"a second reply to {message[1]}"
            self.replies[message[1]] = (message[2], message[3])
        else:
            raise AssertionError(f"a peer that is no client got {message!r}")

    def reply(self, id, timeout=None):
        """(error, result) of that request; whatever else arrives meanwhile is kept."""
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        while id not in self.replies:
            self._take(max(until - time.monotonic(), 0))
        return self.replies.pop(id)

    def next_notice(self, timeout=None):
        """The oldest notice not yet taken, as (method, params)."""
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not self.notices:
            self._take(max(until - time.monotonic(), 0))
        return self.notices.pop(0)

    def wait_closed(self, timeout=None):
        """Reads to the end of the stream; the params of `closing`, or None if there was none."""
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        try:
            while True:
                self._take(max(until - time.monotonic(), 0))
        except Closed as closed:
            return closed.notice

    # ---- both

    def ask(self, method, timeout=None, **params):
        """A request and its answer: (error, result)."""
        return self.reply(self.request(method, **params), timeout)

    def call(self, method, timeout=None, **params):
        """As ask(), but the result alone; an error is raised as Refused."""
        error, result = self.ask(method, timeout, **params)
        if error is not None:
            raise Refused(error)
        return result

    def hello(self, **params):
        return self.call("hello", **{"proto": [1, 1], "client": "wire-test/1", **params})

    def write(self, *steps, **params):
        """wire.write("SELECT 1") or wire.write(["INSERT …", [1]], ["…"], seq=1)"""
        batch = [[step] if isinstance(step, str) else list(step) for step in steps]
        return self.call("write", batch=batch, **params)
