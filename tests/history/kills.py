#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Kills the daemon while clients write, and lets checker.py judge the history.

Clients and readers are processes of their own that live through the whole round; the daemon is
killed with SIGKILL at a random instant, also while it starts, and started again at once. With
--stops it is also stopped for a while with SIGSTOP, so that deadlines pass and answers are given
up; with --restarts it is told to end, once or twice, or to read its settings again, and sometimes
its program is replaced meanwhile; with --ooms the kernel kills it because its control group is out
of memory; with --cut clients drop their connections in the middle of things. A round ends with all
answers in and a check.

    LITEFUNNEL_BIN=build/server/litefunnel tests/history/kills.py --kills 1000 --seed 7
"""
import argparse
import dataclasses
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

import msgpack

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
import checker  # noqa: E402
import cgroup  # noqa: E402
import workload  # noqa: E402
from daemon import Daemon  # noqa: E402
from keyed import Keyed  # noqa: E402

TORMENTS = ("kills", "stops", "restarts", "ooms")
FIELDS = [field.name for field in dataclasses.fields(checker.Op)]


# ---- the processes of a round


def child(stop_fd, main):
    """main(stop) in a new process, until the write end of stop_fd's pipe is closed. Its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.set_blocking(stop_fd, False)

        def stop():
            try:
                return os.read(stop_fd, 1) == b""
            except BlockingIOError:
                return False

        main(stop)
        status = 0
    except BaseException:  # noqa: BLE001  the parent sees the status
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def write_all(path, rows):
    with open(path, "wb") as file:
        for row in rows:
            file.write(msgpack.packb(row, use_bin_type=True))


def read_all(path):
    with open(path, "rb") as file:
        yield from msgpack.Unpacker(file, strict_map_key=False)


def client_main(daemon, number, seed, options, stop):
    rng = workload.rng_of(seed, "client", number)
    keyed = Keyed(daemon.socket, number, rng, depth=rng.choice((1, 2, 4, 8)),
                  short=options.short, cut=options.cut)
    keyed.run(stop, options.pace)
    keyed.close()
    write_all(f"{daemon.db}.client.{number}", [
        [keyed.connects, keyed.resends],
        *([getattr(op, field) for field in FIELDS] for op in keyed.log)])


def reader_main(daemon, number, seed, _options, stop):
    rng = workload.rng_of(seed, "reader", number)
    log = []
    db = workload.open_reader(daemon.db)
    while not stop():
        began = time.monotonic_ns()
        seen = workload.snapshot(db, rng)
        log.append([number, began, time.monotonic_ns(), *seen])
        if rng.random() < 0.02:
            db.close()
            db = workload.open_reader(daemon.db)
        time.sleep(rng.uniform(0.005, 0.03))
    db.close()
    write_all(f"{daemon.db}.reader.{number}", log)


# ---- a round


class Round:
    """One database, its clients, so many of each torment, and the verdict."""

    def __init__(self, options, seed, torments):
        self.options = options
        self.seed = seed
        self.torments = torments
        self.rng = workload.rng_of(seed, "killer")
        self.place = tempfile.mkdtemp(prefix="kills-", dir=options.dir)
        program = shutil.copy(options.program, self.place) if torments["restarts"] else options.program
        self.memory = cgroup.Memory(os.path.basename(self.place)) if torments["ooms"] else None
        self.daemon = Daemon(program, f"{self.place}/app.db", checkpoint_frames=200,
                             log_level="error", limits=self.memory.join if self.memory else None)
        self.ready = True  # the present daemon has said so
        self.children = []
        self.figures = dict.fromkeys(
            ("kills", "in_start", "stops", "restarts", "ooms", "batches", "ok", "failed", "unknown", "unknown_applied",
             "resends", "repeats", "connects", "reads"), 0)

    def run(self):
        self.daemon.start().write(*workload.SCHEMA)
        stop_read, stop_write = os.pipe()
        for number in range(self.options.clients):
            self._child(stop_read, stop_write, client_main, number)
        for number in range(self.options.readers):
            self._child(stop_read, stop_write, reader_main, number)
        os.close(stop_read)
        began = time.monotonic()
        try:
            self._torment()
        finally:
            os.close(stop_write)
            if not self.daemon.running():
                self.daemon.start()
            statuses = [os.waitpid(pid, 0)[1] for pid in self.children]
        self.figures["seconds"] = time.monotonic() - began
        assert not any(statuses), f"a client or reader failed (seed {self.seed}, {self.place})"
        self.daemon.stop()
        if self.memory is not None:
            self.memory.remove()
        return self._judge()

    def _child(self, stop_read, stop_write, main, number):
        sys.stdout.flush()

        def start(stop):
            os.close(stop_write)
            main(self.daemon, number, self.seed, self.options, stop)

        self.children.append(child(stop_read, start))

    def _torment(self):
        order = [name for name in TORMENTS for _ in range(self.torments[name])]
        self.rng.shuffle(order)
        for name in order:
            {"kills": self._kill, "stops": self._stop, "restarts": self._restart,
             "ooms": self._starve}[name]()

    def _pause(self):
        """Mostly enough for some groups, sometimes hardly any time at all."""
        draw = self.rng.random()
        return (self.rng.uniform(0, 0.003) if draw < 0.15 else
                self.rng.uniform(0, 0.15) if draw < 0.95 else self.rng.uniform(0.15, 0.6))

    def _kill(self):
        if self.rng.random() < 0.1:  # while it starts
            time.sleep(self.rng.uniform(0, 0.02))
            self.figures["in_start"] += 1
        else:
            self._await_ready()
            time.sleep(self._pause())
        assert self.daemon.running(), f"it ended by itself:\n{self.daemon.log()[-3000:]}"
        self.daemon.process.kill()
        self.daemon.process.wait()
        self.daemon.process.stdout.close()
        self.figures["kills"] += 1
        self.daemon.launch()
        self.ready = False

    def _await_ready(self):
        if not self.ready:
            said = self.daemon.process.stdout.readline()
            assert said.startswith("ready"), f"not ready: {said!r}:\n{self.daemon.log()[-3000:]}"
            self.ready = True

    def _stop(self):
        """SIGSTOP, then SIGCONT or SIGKILL."""
        self._await_ready()
        time.sleep(self._pause())
        self.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.01, 0.8))
        self.daemon.process.send_signal(signal.SIGCONT)
        self.figures["stops"] += 1

    def _restart(self):
        """A SIGHUP, or an end as systemd makes it; perhaps with another program behind it."""
        self._await_ready()
        time.sleep(self._pause())
        self.figures["restarts"] += 1
        process = self.daemon.process
        draw = self.rng.random()
        if draw < 0.2:
            process.send_signal(signal.SIGHUP)
            return
        if draw < 0.4:
            fresh = shutil.copy(self.options.program, f"{self.place}/next")
            os.rename(fresh, self.daemon.program)
        process.send_signal(signal.SIGTERM)
        if draw > 0.7:
            time.sleep(self.rng.uniform(0, 0.01))
            process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        assert code == 0, f"exit code {code}:\n{self.daemon.log()[-3000:]}"
        process.stdout.close()
        self.daemon.launch()
        self.ready = False

    def _starve(self):
        """One statement takes more memory than there is: the kernel kills the daemon for it."""
        self._await_ready()
        time.sleep(self._pause())
        before = self.memory.kills()
        self.memory.limit(self.memory.used() + (4 << 20))
        try:
            with self.daemon.wire() as wire:
                wire.request("write", batch=[["SELECT length(hex(zeroblob(60000000)))"]])
                self.daemon.process.wait(timeout=60)
        except OSError:
            self.daemon.process.wait(timeout=60)  # somebody else's batch was the last straw
        self.memory.limit(cgroup.UNLIMITED)
        assert self.daemon.process.returncode == -signal.SIGKILL
        assert self.memory.kills() > before, "killed, but not by the kernel"
        self.daemon.process.stdout.close()
        self.figures["ooms"] += 1
        self.daemon.launch()
        self.ready = False

    def _judge(self):
        ops, reads = [], []
        for number in range(self.options.clients):
            rows = read_all(f"{self.daemon.db}.client.{number}")
            connects, resends = next(rows)
            self.figures["connects"] += connects
            self.figures["resends"] += resends
            ops += [checker.Op(*row) for row in rows]
        for number in range(self.options.readers):
            reads += [checker.Read(*row) for row in read_all(f"{self.daemon.db}.reader.{number}")]
        final = workload.final(self.daemon.db)
        findings = checker.check(ops, reads, final)
        there = {(client, seq) for _, client, seq, _ in final.ops}
        for outcome in (checker.OK, checker.FAILED, checker.UNKNOWN):
            self.figures[outcome.lower()] += sum(op.outcome == outcome for op in ops)
        self.figures["unknown_applied"] += sum(
            op.outcome == checker.UNKNOWN and (op.client, op.seq) in there for op in ops)
        self.figures["repeats"] += sum(op.repeat for op in ops)
        self.figures["batches"] += len(ops)
        self.figures["reads"] += len(reads)
        self.figures["lost"] = sum(kind == "lost" for kind, _ in findings)
        self.figures["twice"] = sum(kind == "twice" for kind, _ in findings)
        if not findings:
            shutil.rmtree(self.place)
        return findings


def campaign(options, say=print):
    """All rounds. The figures and the findings."""
    total, findings = {}, []
    wanted = {name: getattr(options, name) for name in TORMENTS}
    rounds = -(-sum(wanted.values()) // options.round)
    for number in range(rounds):
        seed = f"{options.seed}.{number}"
        one = Round(options, seed, {name: count * (number + 1) // rounds - count * number // rounds
                                    for name, count in wanted.items()})
        findings += one.run()
        for key, value in one.figures.items():
            total[key] = total.get(key, 0) + value
        say(f"round {number + 1}: {line(total)}")
        if findings:
            say(f"seed {seed}, files kept in {one.place}")
            break
    return total, findings


def line(figures):
    per_s = sum(figures[name] for name in TORMENTS) / figures["seconds"]
    return (f"kills {figures['kills']} ({figures['in_start']} in starts), "
            f"stops {figures['stops']}, restarts {figures['restarts']}, ooms {figures['ooms']}, "
            f"{per_s:.1f}/s, "
            f"batches {figures['batches']} (OK {figures['ok']}, "
            f"FAILED {figures['failed']}, UNKNOWN {figures['unknown']}, "
            f"{figures['unknown_applied']} of them applied), resends {figures['resends']}, "
            f"repeats {figures['repeats']}, snapshots {figures['reads']}, "
            f"lost {figures['lost']}, twice {figures['twice']}")


def options_of(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--program", default=os.environ.get("LITEFUNNEL_BIN"))
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--ooms", type=int, default=0)
    parser.add_argument("--round", type=int, default=250, help="torments of one database")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--short", type=float, default=0.02,
                        help="share of batches with a deadline that may pass")
    parser.add_argument("--cut", type=float, default=0.002,
                        help="share of sends after which a client drops its connection")
    parser.add_argument("--pace", type=float, default=0.002, help="a client's pause, in seconds")
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--dir", help="where the databases are; default: TMPDIR")
    options = parser.parse_args(arguments)
    if not options.program:
        parser.error("set LITEFUNNEL_BIN or give --program")
    return options


def main(arguments=None):
    options = options_of(arguments)
    print(f"seed {options.seed}")
    figures, findings = campaign(options, lambda text: print(text, flush=True))
    for kind, text in findings[:50]:
        print(f"{kind}: {text}")
    print(f"history: {line(figures)}, findings {len(findings)}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
