# SPDX-License-Identifier: MIT
"""A proxy between a client of S3 and its server that breaks things on purpose.

For each request one fault is drawn from a seed, or none. Some are applied and then hidden: the hard ones.
"""
import collections
import contextlib
import random
import socket
import struct
import threading
import time

# Name: how often, of 100 faults.
FAULTS = {
    "answer_lost": 16,          # applied, then the connection ends
    "500": 12,                  # not applied
    "500_applied": 12,
    "503": 10,
    "reset_in_request": 12,     # half a body, then RST
    "reset_in_answer": 10,      # applied, half an answer, then RST
    "cut_answer": 6,            # applied, less than its Content-Length, then the end
    "wrong_etag": 10,           # applied
    "flipped_request": 6,       # a byte of the body changed on the way
    "silence": 2,               # not applied, no answer
    "silence_applied": 2,
    "drip": 2,                  # applied, a byte now and then
}


class Broken(Exception):
    """The connection to the client is to end."""


class Proxy:
    def __init__(self, upstream, rate, seed, hold=2.0, faults=None):
        host, port = upstream.split(":")
        self.upstream = (host, int(port))
        self.rate, self.hold = rate, hold
        self.faults = faults or FAULTS
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.counts = collections.Counter()
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.stopping = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.stopping = True
        self.socket.close()

    def _draw(self):
        with self.lock:
            self.counts["requests"] += 1
            if self.random.random() >= self.rate:
                return None
            fault = self.random.choices(list(self.faults), list(self.faults.values()))[0]
            self.counts[fault] += 1
            return fault

    def _accept(self):
        while not self.stopping:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream = None
        try:
            upstream = socket.create_connection(self.upstream)
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader, answers = client.makefile("rb"), upstream.makefile("rb")
            while True:
                self._one(client, reader, upstream, answers, self._draw)
        except (Broken, OSError, ValueError):
            pass
        finally:
            for one in (client, upstream):
                with contextlib.suppress(OSError, AttributeError):
                    one.close()

    @staticmethod
    def _head(reader):
        """First line and headers of a message, as bytes; the body's length."""
        lines, length, chunked = [], 0, False
        while True:
            line = reader.readline()
            if not line:
                raise Broken
            lines.append(line)
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            chunked = chunked or (name.lower() == b"transfer-encoding" and b"chunked" in value)
            if line in (b"\r\n", b"\n"):
                return lines, length, chunked

    @staticmethod
    def _chunks(reader):
        """A body in chunks, as it came."""
        body = b""
        while True:
            line = reader.readline()
            size = int(line, 16)
            body += line + reader.read(size + 2)
            if size == 0:
                return body

    @staticmethod
    def _reset(client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Broken

    def _one(self, client, reader, upstream, answers, draw):
        head, length, _ = self._head(reader)
        method = head[0].split()[0]
        fault = draw()
        if fault == "reset_in_request":
            reader.read(length // 2)
            self._reset(client)
        body = bytearray(reader.read(length))
        if fault == "silence":
            time.sleep(self.hold)
            raise Broken
        if fault in ("500", "503"):
            self._error(client, fault)
            return
        if fault == "flipped_request" and body:
            body[len(body) // 2] ^= 0x20
        upstream.sendall(b"".join(head) + body)
        lines, length, chunked = self._head(answers)
        has_body = method != b"HEAD" and lines[0].split()[1] not in (b"204", b"304")
        answer = self._chunks(answers) if has_body and chunked else answers.read(
            length if has_body else 0)
        if fault == "answer_lost":
            raise Broken
        if fault == "silence_applied":
            time.sleep(self.hold)
            raise Broken
        if fault == "500_applied":
            self._error(client, "500")
            return
        if fault == "wrong_etag":
            lines = [b'ETag: "0123456789abcdef0123456789abcdef"\r\n'
                     if line.lower().startswith(b"etag:") else line for line in lines]
        whole = b"".join(lines) + answer
        if fault == "reset_in_answer":
            client.sendall(whole[:len(whole) // 2])
            self._reset(client)
        if fault == "cut_answer":
            client.sendall(whole[:max(len(whole) - 7, len(whole) // 2)])
            raise Broken
        if fault == "drip":
            for i in range(min(len(whole), 40)):
                client.sendall(whole[i:i + 1])
                time.sleep(self.hold / 40)
            raise Broken
        client.sendall(whole)

    @staticmethod
    def _error(client, status):
        code = {"500": "InternalError", "503": "SlowDown"}[status]
        body = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        client.sendall(f"HTTP/1.1 {status} On Purpose\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                       + body)


@contextlib.contextmanager
def proxy(upstream, rate, seed, **more):
    one = Proxy(upstream, rate, seed, **more)
    try:
        yield one
    finally:
        one.close()
