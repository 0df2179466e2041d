# SPDX-License-Identifier: MIT
"""A line to a server that can be cut: refused at once, or silent, as when a network is gone."""
import contextlib
import socket
import threading

CHUNK = 1 << 16


class Line:
    def __init__(self, upstream):
        host, port = upstream.split(":")
        self.upstream = (host, int(port))
        self.open, self.lock = set(), threading.Lock()
        self.silent = False
        self.listening = None
        self.port = 0
        self.mend()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def mend(self):
        """What was left hanging stays so for its client to give up: a network does not come back for it."""
        self.silent = False
        if self.listening is None:
            self.listening = socket.create_server(("127.0.0.1", self.port), backlog=64)
            self.port = self.listening.getsockname()[1]
            threading.Thread(target=self._accept, args=(self.listening,), daemon=True).start()

    def cut(self, silent=False):
        self.silent = silent
        if not silent:
            self.listening.shutdown(socket.SHUT_RDWR)
            self.listening.close()
            self.listening = None
            with self.lock:
                for one in self.open:
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)

    def close(self):
        if self.listening is not None:
            self.cut()

    def _accept(self, listening):
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection(self.upstream)
            except OSError:
                return
            for one, other in ((client, server), (server, client)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one, other):
        with self.lock:
            self.open.add(one)
        try:
            while data := one.recv(CHUNK):
                if not self.silent:
                    other.sendall(data)
        except OSError:
            pass
        finally:
            with self.lock:
                self.open.discard(one)
            for end in (one, other):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def line(upstream):
    one = Line(upstream)
    try:
        yield one
    finally:
        one.close()
