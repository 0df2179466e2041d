# SPDX-License-Identifier: MIT
"""A daemon for a test: started, stopped, killed, looked at; and connections of other users.

Whoever stops a Daemon is told whether it ended as it should: the exit code is checked, and its log
for reports of sanitizers.
"""
import contextlib
import ctypes
import functools
import os
import pathlib
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time

from wire import TIMEOUT, Wire

READERS = 20100  # the group that may reach the files of a place
CLONE_NEWUSER, PR_SET_DUMPABLE = 0x10000000, 4
TICKS = os.sysconf("SC_CLK_TCK")


@functools.lru_cache(None)
def sanitizer(program):
    """"address", "thread" or "": what the program was built with."""
    data = pathlib.Path(program).read_bytes()
    return "address" if b"__asan_init" in data else "thread" if b"__tsan_init" in data else ""


def slowness(program):
    """How much longer things take under a sanitizer, for limits of time and for amounts of work."""
    return 5 if sanitizer(program) else 1


def wait_for(condition, what, timeout=30.0):
    """The first true value of condition(). It polls: use it only where nothing can be read."""
    until = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"waited in vain: {what}"
        time.sleep(0.005)


def make_place(group=READERS, mode=0o2750, owner=0):
    """A directory as `adopt` leaves one: other users may read in it if they are in the group."""
    path = tempfile.mkdtemp(prefix="funnel-")
    os.chown(path, owner, group)
    os.chmod(path, mode)
    return path


class Daemon:
    """`litefunnel serve` of one database. Options are settings: Daemon(…, rows_max=5)."""

    def __init__(self, program, db, *, create=True, config=None, env=None, uid=None, prefix=(),
                 limits=None, **settings):
        self.program = str(program)
        self.db = str(db)
        self.socket = str(settings.get("socket", f"{self.db}-funnel"))
        self.create = create
        self.config = config
        self.env = env or {}
        self.uid = uid
        self.prefix = list(prefix)  # a command to run it under
        self.limits = limits  # called in the child before exec
        self.settings = settings
        self.log_path = f"{self.db}.log"
        self.process = None
        self.slow = slowness(self.program)

    # ---- life

    def command(self):
        options = ["--create"] if self.create else []
        if self.config is not None:
            options += ["--config", str(self.config)]
        for name, value in self.settings.items():
            options.append(f"--{name.replace('_', '-')}={value}")
        return [*self.prefix, self.program, "serve", self.db, *options]

    def environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LITEFUNNEL_")}
        return {**kept,
                "ASAN_OPTIONS": "detect_leaks=1:exitcode=99",
                "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99",
                "TSAN_OPTIONS": "exitcode=99:second_deadlock_stack=1",
                **self.env}

    def launch(self):
        """Starts the process and does not wait."""
        who = {} if self.uid is None else {"user": self.uid, "group": READERS, "extra_groups": []}
        with open(self.log_path, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
                text=True, env=self.environment(), preexec_fn=self.limits, **who)
        return self

    def start(self, timeout=60.0):
        """Returns when the daemon says that it accepts."""
        self.launch()
        waiting = select.poll()
        waiting.register(self.process.stdout, select.POLLIN)
        ready = waiting.poll(timeout * 1000)
        line = self.process.stdout.readline() if ready else "(nothing in time)"
        assert line.startswith("ready"), f"not ready but {line!r}:\n{self.log()}"
        return self

    def refuses_to_start(self, timeout=30.0):
        """The exit code and the last line said, of a start that must fail."""
        self.launch()
        out, _ = self.process.communicate(timeout=timeout)
        assert "ready" not in out, out
        return self.process.returncode, self.log().strip().splitlines()[-1:]

    def wait(self, timeout=60.0):
        try:
            code = self.process.wait(timeout * self.slow)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it does not end:\n{self.log()}") from None
        self.process.stdout.close()
        self.check_log()
        return code

    def stop(self, number=signal.SIGTERM):
        """A clean end, asserted."""
        if self.running():
            self.process.send_signal(number)
        code = self.wait()
        assert code == 0, f"exit code {code}:\n{self.log()}"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.check_log()

    def restart(self):
        self.stop()
        return self.start()

    def running(self):
        return self.process is not None and self.process.poll() is None

    def finish(self):
        """For the end of a test: a clean stop of what still runs, a look at what does not."""
        if self.running():
            self.stop()
        else:
            self.check_log()

    # ---- looking at it

    @property
    def pid(self):
        """The daemon's own process, also below a prefix command."""
        return self.process.pid

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def check_log(self):
        text = self.log()
        for word in ("Sanitizer", "runtime error:", "Assertion"):
            assert word not in text, text[max(text.find(word) - 2000, 0):][:20000]

    def rss(self):
        """Resident bytes."""
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self):
        """Seconds of processor time used up to now."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def child(self, name):
        """The pid of its child process that calls itself so, or None."""
        children = []
        for task in pathlib.Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread, or below a child, that has just ended
                children += task.read_text(encoding="ascii").split()
        for pid in children:
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == name:
                    return int(pid)
        return None

    # ---- talking to it

    def wire(self, greet=True, timeout=None, **hello):
        """A connection that has said hello."""
        wire = Wire(self.socket, timeout=TIMEOUT * self.slow if timeout is None else timeout)
        if greet:
            wire.hello(**hello)
        return wire

    def wire_as(self, uid, *, greet=True, **who):
        """The same, but the daemon sees the user `uid`."""
        wire = WireAs(connect_as(self.socket, uid, **who), TIMEOUT * self.slow)
        if greet:
            wire.hello()
        return wire

    def write(self, *steps, **params):
        """One write on a connection of its own."""
        with self.wire() as wire:
            return wire.write(*steps, **params)

    def stats(self):
        with self.wire() as wire:
            return dict(wire.call("show", what="stats")["rows"])

    def wait_runs(self, client):
        """
        Returns when the writer has the one request of this client, a process that runs. "Some batch
        runs" would not do: an earlier client's `bye` is still with the writer when it is gone.
        """
        def with_the_writer():
            with self.wire() as wire:
                shown = wire.call("show", what="clients")
                rows = [dict(zip(shown["columns"], row)) for row in shown["rows"]]
                if not any(row["pid"] == client.pid and row["in_flight"] for row in rows):
                    assert client.poll() is None, "it has ended, and nobody saw it run"
                    return False
                stats = dict(wire.call("show", what="stats")["rows"])
                return stats["running_batches"] > 0 and stats["queue_batches"] == 0
        wait_for(with_the_writer, "the request runs")

    def read(self, sql, *params):
        """Rows from the file itself."""
        with contextlib.closing(self.reader()) as reader:
            return reader.execute(sql, params).fetchall()

    def reader(self):
        return sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=5, isolation_level=None)


class WireAs(Wire):
    """A Wire around a socket that is already connected."""

    def __init__(self, connected, timeout=TIMEOUT):
        self.timeout = timeout
        self.socket = connected
        self.received = bytearray()
        self.replies = {}
        self.notices = []
        self.last_id = 0


def connect_as(path, uid, gid=None, groups=(READERS,), userns=None):
    """
    A connected socket whose peer, to the daemon, is another user: a child becomes that user,
    connects, and hands the socket over. `userns` is the child's map of a user namespace of its own,
    "0 20001 1", or "" for none. The child lives until the socket's owner is gone, so that the daemon
    may look it up.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            # Nothing else stays open: not another child's end, not a connection of the test.
            os.closerange(3, theirs.fileno())
            os.closerange(theirs.fileno() + 1, 65536)
            os.setgroups(list(groups))
            os.setgid(uid if gid is None else gid)
            os.setuid(uid)
            if userns is not None:
                _enter_userns(userns)
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(path)
                except OSError as error:
                    theirs.sendall(b"E%d" % error.errno)
                else:
                    socket.send_fds(theirs, [b"k"], [client.fileno()])
            theirs.recv(1)  # the end, also of the test
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    data, fds, _, _ = socket.recv_fds(ours, 16, 1)
    if not fds:
        ours.close()
        os.waitpid(pid, 0)
        raise OSError(int(data[1:] or b"5"), f"cannot connect as {uid}: {data!r}")
    return _Connected(fds[0], ours, pid)


class _Connected(socket.socket):
    """The socket, and the child that connected it."""

    def __init__(self, fd, control, pid):
        super().__init__(fileno=fd)
        self.control = control
        self.pid = pid

    def close(self):
        super().close()
        if self.pid is not None:
            self.control.sendall(b"e")
            self.control.close()
            os.waitpid(self.pid, 0)
            self.pid = None


def _enter_userns(uid_map):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else our own uid_map is not ours to write
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if uid_map:
        with open("/proc/self/uid_map", "w", encoding="ascii") as file:
            file.write(uid_map)


@contextlib.contextmanager
def place_for_daemons(program):
    """Yields a factory of Daemons in directories of their own, and cleans up behind them."""
    daemons, places = [], []

    def make(name="app.db", place=None, start=True, **options):
        if place is None:
            place = make_place(owner=options.get("uid") or 0)
            places.append(place)
        daemon = Daemon(program, f"{place}/{name}", **options)
        daemons.append(daemon)
        return daemon.start() if start else daemon

    try:
        yield make
    finally:
        errors = []
        for daemon in daemons:
            try:
                if daemon.process is not None:
                    daemon.finish()
            except AssertionError as error:
                errors.append(error)
            finally:
                if daemon.running():
                    daemon.process.kill()
                    daemon.process.wait()
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        if errors:
            raise errors[0]
