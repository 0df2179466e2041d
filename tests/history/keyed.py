# SPDX-License-Identifier: MIT
"""
A client that keeps its promises: a session, the same bytes at each resend, three outcomes. It is
written from PROTOCOL.md over bare sockets, so that it keeps the client library honest.

It sends the batches of workload.py and logs each as a checker.Op.
"""
import collections
import select
import socket
import struct
import time

import msgpack

import workload
from checker import FAILED, OK, UNKNOWN, Op

PAUSE_S, PAUSE_MAX_S = 0.001, 0.05


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


class Lost(Exception):
    """The connection is gone."""


class Waiting:
    """A request without its final answer."""

    def __init__(self, op, batch, deadline):
        self.op = op
        self.batch = batch  # the encoded bytes, for every send
        self.deadline = deadline
        self.id = None  # of the send on the present connection; None: not sent on it
        self.not_before = 0


class Keyed:
    def __init__(self, path, client, rng, *, depth=4, short=0.0, cut=0.0, log=None):
        self.path = str(path)
        self.client = client
        self.rng = rng
        self.depth = depth
        self.short = short  # share of requests with a deadline that may pass
        self.cut = cut  # share of sends after which the connection is dropped
        self.log = [] if log is None else log
        self.session = rng.randbytes(16)
        self.epoch = None
        self.socket = None
        self.received = bytearray()
        self.waiting = collections.OrderedDict()  # seq -> Waiting, in order
        self.seq = 0
        self.last_id = 0
        self.ids = {}  # id -> seq, of the present connection
        self.resends = 0
        self.connects = 0
        self.pause = PAUSE_S

    # ---- bytes

    def _send(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Lost from error

    def _message(self, method, params):
        """A request; params are the encoded pairs of a map."""
        self.last_id += 1
        body = b"".join(params)
        payload = (b"\x94\x00" + pack(self.last_id) + pack(method)
                   + bytes([0x80 | len(params) // 2]) + body)
        self._send(struct.pack(">I", len(payload)) + payload)
        return self.last_id

    def _receive(self, timeout):
        """The messages that are there within timeout."""
        if not select.select([self.socket], [], [], max(timeout, 0))[0]:
            return
        try:
            data = self.socket.recv(1 << 18)
        except OSError as error:
            raise Lost from error
        if not data:
            raise Lost
        self.received += data
        while len(self.received) >= 4:
            length = struct.unpack_from(">I", self.received)[0]
            if len(self.received) < 4 + length:
                return
            payload = bytes(self.received[4:4 + length])
            del self.received[:4 + length]
            yield msgpack.unpackb(payload, strict_map_key=False)

    # ---- connection

    def _drop(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None
        self.received.clear()
        self.ids.clear()
        for waiting in self.waiting.values():
            waiting.id = None

    def _connect(self):
        """Says hello; False: not now."""
        self.connects += 1
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.settimeout(5)
        try:
            self.socket.connect(self.path)
            hello = self._message("hello", [
                pack("proto"), pack([1, 1]), pack("client"), pack("history/1"),
                pack("session"), pack(self.session)])
            until = time.monotonic() + 5
            while time.monotonic() < until:
                for message in self._receive(until - time.monotonic()):
                    if message[:2] == [1, hello] and message[2] is None:
                        result = message[3]
                        assert self.epoch in (None, result["epoch"]), "another epoch"
                        self.epoch = result["epoch"]
                        assert result["session"]["max_seq"] <= self.seq, result["session"]
                        self.pause = PAUSE_S
                        return True
                    raise Lost
        except (OSError, Lost):
            pass
        self._drop()
        return False

    # ---- requests

    def submit(self, kind, args):
        """A new batch. Call it while fewer than depth are waiting."""
        self.seq += 1
        seconds = self.rng.uniform(0.02, 0.5) if self.rng.random() < self.short else 60.0
        op = Op(self.client, self.seq, kind, args, 0, 0, None, sends=0)
        batch = pack(workload.batch(self.client, self.seq, kind, args))
        self.waiting[self.seq] = Waiting(op, batch, time.monotonic() + seconds)

    def _send_one(self, waiting):
        op, now = waiting.op, time.monotonic()
        params = [pack("batch"), waiting.batch, pack("seq"), pack(op.seq),
                  pack("done"), pack(next(iter(self.waiting)) - 1),
                  pack("deadline_ms"), pack(max(int((waiting.deadline - now) * 1000), 1))]
        if op.sends == 0:
            op.sent = time.monotonic_ns()
        else:
            self.resends += 1
        op.sends += 1
        waiting.id = self._message("write", params)
        self.ids[waiting.id] = op.seq

    def _finish(self, waiting, outcome):
        op = waiting.op
        op.answered = time.monotonic_ns()
        op.outcome = outcome
        self.log.append(op)
        del self.waiting[op.seq]

    def _answered(self, message):
        seq = self.ids.pop(message[1], None)
        waiting = self.waiting.get(seq)
        if waiting is None or waiting.id != message[1]:
            return  # given up before
        op, error, result = waiting.op, message[2], message[3]
        if error is None:
            op.commit = result["commit"]
            op.steps = workload.answer(result["steps"])
            op.repeat = result.get("repeat", False)
            assert result["epoch"] == self.epoch, "another epoch"
            self._finish(waiting, OK)
        elif error["retry"] and time.monotonic() < waiting.deadline:
            op.refused += 1
            waiting.id = None
            waiting.not_before = time.monotonic() + error.get("retry_after_ms", 5) / 1000
        elif error["applied"] == "no" and (op.sends == 1 or not error["retry"]):
            op.code = error["code"]
            self._finish(waiting, FAILED)
        else:
            self._finish(waiting, UNKNOWN)

    def step(self, timeout=0.05):
        """Sends what is to be sent, takes what has come. Never blocks much longer than timeout."""
        now = time.monotonic()
        for waiting in list(self.waiting.values()):
            if now < waiting.deadline:
                continue
            if waiting.op.sends == 0:
                waiting.op.sent = time.monotonic_ns()
                waiting.op.code = "never sent"
                self._finish(waiting, FAILED)
            else:
                self._finish(waiting, UNKNOWN)
        try:
            if self.socket is None and not self._connect():
                time.sleep(self.pause * self.rng.uniform(0.5, 1))
                self.pause = min(self.pause * 2, PAUSE_MAX_S)
                return
            for waiting in list(self.waiting.values()):
                if waiting.id is None and time.monotonic() >= waiting.not_before:
                    self._send_one(waiting)
                    if self.cut and self.rng.random() < self.cut:
                        raise Lost
            if self.waiting:
                for message in self._receive(timeout):
                    if message[0] == 1:
                        self._answered(message)
                    elif message[1] == "closing":
                        raise Lost
        except Lost:
            self._drop()

    def run(self, stop, pace=0.0):
        """Batches until stop() says so, then the answers that are missing."""
        while not stop():
            while len(self.waiting) < self.depth:
                self.submit(*workload.draw(self.rng, self.seq + 1))
            self.step()
            if pace:
                time.sleep(pace)
        self.settle()

    def settle(self):
        while self.waiting:
            self.step()

    def close(self):
        self._drop()
