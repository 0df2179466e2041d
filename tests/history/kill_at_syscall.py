#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Kills the daemon at every system call of a scripted run.

strace injects SIGKILL when the daemon makes its k-th call of a kind; k grows until the run
survives. Which kinds there are tells a run that is only watched; what the loader calls before main() is
passed over. After each kill the daemon is started again, the client resends what was not answered and
finishes its script, and the checker looks at the history. strace counts for each thread, so three
series are run: from the start with all threads, where the first thread to make k calls ends it, and
attached to the main thread and to the writer alone once the daemon is ready.

    LITEFUNNEL_BIN=build/server/litefunnel tests/history/kill_at_syscall.py --calls pwrite64,unlink
"""
import argparse
import collections
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
import checker  # noqa: E402
import workload  # noqa: E402
from daemon import Daemon, wait_for  # noqa: E402
from keyed import Keyed  # noqa: E402
from wire import Closed, Refused, Wire  # noqa: E402

FIRST_OF_OURS = "umask"  # the first call of serve's that the loader makes none of
SERIES = ("start", "main", "writer")


def inject(call, k):
    return ["-qq", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={k}",
            "-o", "/dev/null"]


def watch(place):
    return ["-qq", "-ff", "-e", "trace=all", "-o", f"{place}/trace"]


def calls_of(trace):
    """The kinds of a trace of one thread, in order."""
    with open(trace, encoding="ascii", errors="replace") as file:
        return [made[1] for made in (re.match(r"(\w+)\(", line) for line in file) if made]


def calls_made(options):
    """Each kind of call that a run makes, and how many of it the loader made before."""
    place = tempfile.mkdtemp(prefix="calls-", dir=options.dir)
    run = Run(options, "start", watch(place))
    findings = run.run()
    assert run.survived and not findings, findings
    made, loader = set(), collections.Counter()
    for trace in pathlib.Path(place).iterdir():
        calls = calls_of(trace)
        if FIRST_OF_OURS in calls:
            loader = collections.Counter(calls[:calls.index(FIRST_OF_OURS)])
            calls = calls[calls.index(FIRST_OF_OURS):]
        made.update(calls)
    shutil.rmtree(place)
    assert loader, f"nobody called {FIRST_OF_OURS}"
    return {call: loader[call] for call in sorted(made)}


def thread_id(pid, name):
    """The thread of that name; "main" is the process itself."""
    if name == "main":
        return pid
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as file:
            if file.read().strip() == name:
                return int(tid)
    raise AssertionError(f"no thread {name}")


def traced(tid):
    """Or killed already: the first call was the one."""
    try:
        with open(f"/proc/{tid}/status", encoding="ascii") as file:
            return next(line for line in file if line.startswith("TracerPid")).split()[1] != "0"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Run:
    """One scripted run with one kill in it, or none if it was over before the k-th call."""

    def __init__(self, options, series, tracing):
        self.options, self.series, self.tracing = options, series, tracing
        self.place = tempfile.mkdtemp(prefix="syscall-", dir=options.dir)
        self.path = f"{self.place}/app.db"
        self.strace = None
        self.survived = False

    def _daemon(self, prefix=()):
        return Daemon(self.options.program, self.path, prefix=prefix, checkpoint_frames=10,
                      log_level="error")

    def _launch(self):
        """The daemon under strace. It may die before it is ready."""
        if self.series == "start":
            return self._daemon(["strace", "-f", *self.tracing]).launch()
        daemon = self._daemon().start()
        tid = thread_id(daemon.pid, self.series)
        self.strace = subprocess.Popen(["strace", *self.tracing, "-p", str(tid)],
                                       stderr=subprocess.DEVNULL)
        wait_for(lambda: self.strace.poll() is not None or traced(tid), "strace attaches")
        return daemon

    def _script(self, keyed, daemon):
        """The client's batches up to the end, or to the death of the daemon."""
        draws = workload.rng_of(self.options.seed, "script")
        script = [workload.draw(draws, i) for i in range(self.options.batches)]
        while keyed.waiting or keyed.seq < len(script):
            if daemon is not None and not daemon.running():
                return False
            while len(keyed.waiting) < keyed.depth and keyed.seq < len(script):
                keyed.submit(*script[keyed.seq])
            keyed.step(0.01)
        return True

    def _schema(self, daemon):
        """Made by the daemon under test; made again if it died in that. Exactly once, by a key."""
        while daemon.running():
            try:
                with Wire(daemon.socket) as wire:
                    wire.hello()
                    wire.write(*workload.SCHEMA, key="schema")
                return True
            except (OSError, Closed, Refused):
                time.sleep(0.002)
        return False

    def _killed(self, daemon):
        """Waits for the end of a daemon that was told to stop, or that was killed."""
        code = daemon.process.wait(60)
        daemon.process.stdout.close()
        if self.strace is not None:
            self.strace.wait(10)
        assert code in (0, -signal.SIGKILL, 128 + signal.SIGKILL), (code, daemon.log()[-2000:])
        return code != 0

    def run(self):
        rng = workload.rng_of(self.options.seed, "client")
        keyed = Keyed(f"{self.path}-funnel", 1, rng, depth=3)
        daemon = self._launch()
        if self._schema(daemon) and self._script(keyed, daemon):
            try:
                with Wire(daemon.socket) as wire:
                    wire.hello()
                    wire.call("shutdown")
            except (OSError, Closed, Refused):
                pass  # it was killed
        self.survived = not self._killed(daemon)
        daemon = self._daemon().start()
        try:
            self._schema(daemon)
            self._script(keyed, None)
            keyed.close()
        finally:
            daemon.stop()
        findings = checker.check(keyed.log, [], workload.final(self.path))
        if not findings:
            shutil.rmtree(self.place)
        return findings


def series(options, name, call, first, say):
    """All k of one call from the first on. How many kills there were, and the findings."""
    k, kills = first, 0
    while True:
        run = Run(options, name, inject(call, k))
        findings = run.run()
        kills += not run.survived
        if findings:
            say(f"{name} {call} {k}: {findings[:5]}, files kept in {run.place}")
        if findings or run.survived or k == options.last:
            return kills, findings
        k += 1


def campaign(options, say=print):
    total, findings = 0, []
    made = calls_made(options)
    part, parts = options.part
    calls = options.calls.split(",") if options.calls else list(made)[part - 1 :: parts]
    for call in calls:
        for name in options.series.split(","):
            first = 1 + (made.get(call, 0) if name == "start" else 0)
            kills, found = series(options, name, call, first, say)
            say(f"{call}, {name}: killed at each of {kills}")
            total += kills
            findings += found
    return total, findings


def part_of(text):
    part, parts = (int(number) for number in text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def options_of(arguments):
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n", 1)[0])
    parser.add_argument("--program", default=os.environ.get("LITEFUNNEL_BIN"))
    parser.add_argument("--calls", help="kinds of calls; without it, all that the daemon makes")
    parser.add_argument("--part", type=part_of, default="1/1", help="K/N: of the kinds the K-th of N parts")
    parser.add_argument("--series", default=",".join(SERIES))
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--last", type=int, help="the last k")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--dir", default="/dev/shm" if os.path.isdir("/dev/shm") else None,
                        help="where the databases are; a kill loses nothing of the page cache")
    options = parser.parse_args(arguments)
    if not options.program:
        parser.error("set LITEFUNNEL_BIN or give --program")
    return options


def main(arguments=None):
    began = time.monotonic()
    total, findings = campaign(options_of(arguments), lambda text: print(text, flush=True))
    print(f"system calls: {total} kills in {time.monotonic() - began:.0f} s, "
          f"findings {len(findings)}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
