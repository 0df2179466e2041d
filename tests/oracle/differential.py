#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Grouped execution against the same batches executed alone.

Each program is a random schema with up to 100 batches, sent to a daemon without waiting, so that
they share commit groups, and then executed one by one on plain SQLite in the order in which the
daemon applied them. Answers (counts, rowids, rows, messages, codes) and the content of the
databases must be equal; what differs must be equal to plain SQLite with a preupdate hook, and is counted. A program is run in one of three ways, by how that order is known:

    one      one connection; its order is the order
    killers  the same, and other connections whose batches always fail in the middle of its groups
    tickets  several connections; each batch begins with a ticket from a counter

A batch without a ticket that is kept (it failed, or was never to be kept) has no effect, so it may
have run anywhere between its neighbours of the same connection: it must fit somewhere there.

    LITEFUNNEL_BIN=build/server/litefunnel tests/oracle/differential.py --programs 2000 --seed 7
"""
import json
import pathlib
import random
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
from daemon import Daemon  # noqa: E402
from plain import Plain, comparable, comparable_alone  # noqa: E402
import trials  # noqa: E402
from programs import Program  # noqa: E402
from trials import Difference, settings, shown  # noqa: E402
from wire import REQUEST, frame, pack  # noqa: E402

WAYS = ("one", "killers", "tickets")
TICKET = ["UPDATE ticket SET n = n + 1 RETURNING n"]


class Sent:
    """A batch, and the daemon's answer to it."""

    def __init__(self, batch):
        self.batch = batch
        self.answer = None
        self.ticket = None
        self.group = 0

    def take(self, error, result):
        self.answer = shown(comparable(error, result))
        if error is not None:
            assert error["applied"] == "no" and not error["retry"], error
        else:
            self.group = result["group"]
            if self.batch[0] == TICKET:
                self.ticket = result["steps"][0]["rows"][0][0]


class Trial:
    """One program."""

    def __init__(self, options, seed):
        self.rng = random.Random(seed)
        self.way = options.way or self.rng.choice(WAYS)
        self.program = Program(self.rng)
        self.place = tempfile.mkdtemp(prefix="oracle-", dir=options.dir)
        self.daemon = Daemon(options.program, f"{self.place}/grouped.db", log_level="error")
        self.alone = None
        self.batches = self.grouped = self.failed = self.hooked = 0

    def _queues(self):
        """For each connection its batches."""
        total = self.rng.randrange(1, 101)
        if self.way == "one":
            return [[Sent(self.program.batch()) for _ in range(total)]]
        if self.way == "killers":
            main = [Sent(self.program.batch()) for _ in range(total)]
            return [main, *([Sent(self.program.doomed())
                             for _ in range(self.rng.choice((1, 2, 5, 15)))]
                            for _ in range(self.rng.randrange(1, 4)))]
        queues = [[] for _ in range(self.rng.randrange(2, 5))]
        for _ in range(total):
            steps = self.program.batch()
            self.rng.choice(queues).append(Sent([TICKET, *steps]))
        return queues

    def _send(self, queues):
        """All of it, interleaved, then the answers."""
        wires = [self.daemon.wire() for _ in queues]
        ids = [[] for _ in queues]
        left = [list(queue) for queue in queues]
        while any(left):
            at = self.rng.choice([i for i, queue in enumerate(left) if queue])
            data = b""
            for _ in range(self.rng.randrange(1, 30)):
                if left[at]:
                    sent = left[at].pop(0)
                    wires[at].last_id += 1
                    ids[at].append((wires[at].last_id, sent))
                    data += frame(pack(
                        [REQUEST, wires[at].last_id, "write", {"batch": sent.batch}]))
            wires[at].send(data)
        for wire, sent in zip(wires, ids):
            for number, one in sent:
                one.take(*wire.reply(number))
            wire.close()

    def _alone(self, sent, keep=True):
        return shown(comparable_alone(self.alone.batch(sent.batch, keep)))

    def _fit(self, queues, spine):
        """Takes from the queues what has no known place and fits the database as it is now."""
        for queue in queues:
            while (queue and queue[0] not in spine
                   and self._alone(queue[0], False) == queue[0].answer):
                queue.pop(0)

    def _compare(self, queues):
        if self.way == "tickets":
            spine = sorted((sent for queue in queues for sent in queue if sent.ticket is not None),
                           key=lambda sent: sent.ticket)
            if [sent.ticket for sent in spine] != list(range(1, len(spine) + 1)):
                raise Difference(f"tickets {[sent.ticket for sent in spine]}")
        else:
            spine = list(queues[0])
        known = set(spine)
        queues = [list(queue) for queue in queues]
        for sent in spine:
            self._fit(queues, known)
            queue = next(queue for queue in queues if sent in queue)
            if queue[0] is not sent:
                raise Difference(f"nowhere between its neighbours: {json_of(queue[0])}\n"
                                 f"  now alone: {self._alone(queue[0], False)}")
            alone = self._alone(queue.pop(0))
            if alone != sent.answer:
                raise Difference(f"{json_of(sent)}\n  alone:   {alone}")
        self._fit(queues, known)
        for queue in queues:
            if queue:
                raise Difference(f"nowhere at the end: {json_of(queue[0])}\n"
                                 f"  now alone: {self._alone(queue[0], False)}")

    def _contents(self):
        grouped = Plain(self.daemon.db, readonly=True)
        try:
            ours, theirs = grouped.content(), self.alone.content()
        finally:
            grouped.close()
        trials.same_contents(ours, theirs, "grouped", "alone")

    def _all_alone(self, setup, queues, **plain):
        """Executes everything on plain SQLite and compares."""
        self.alone = Plain(f"{self.place}/alone{len(plain)}.db", setup=settings(self.daemon), **plain)
        for sent in setup:
            alone = self._alone(sent)
            if alone != sent.answer:
                raise Difference(f"schema: {json_of(sent)}\n  alone:   {alone}")
        self._compare(queues)
        self._contents()

    def run(self):
        self.daemon.start()
        try:
            setup = [Sent([[sql]]) for sql in self.program.schema]
            if self.way == "tickets":
                setup.append(Sent([["CREATE TABLE ticket(n)"], ["INSERT INTO ticket VALUES (0)"]]))
            queues = self._queues()
            self._send([setup])
            self._send(queues)
            try:
                self._all_alone(setup, queues)
            except Difference:
                # SQLite compiles DELETE otherwise where a hook wants to see each row, as the daemon's does;
                # then other moments may be those in which FTS5 writes what it holds back, which `total` counts.
                self.alone.close()
                self._all_alone(setup, queues, hook=True)
                self.hooked += 1
            everything = [sent for queue in queues for sent in queue]
            self.batches = len(everything)
            self.grouped = sum(sent.group > 1 for sent in everything)
            self.failed = sum(not sent.answer.startswith("[None") for sent in everything)
        finally:
            if self.alone is not None:
                self.alone.close()
            self.daemon.finish()
        shutil.rmtree(self.place)


def json_of(sent):
    return f"{json.dumps(sent.batch, default=lambda v: v.hex())}\n  grouped: {sent.answer}"


def campaign(options, say=print):
    """The figures, and the differences as (seed, text, place)."""
    return trials.campaign(Trial, options, ("batches", "grouped", "failed", "hooked"), say)


def options_of(arguments):
    parser = trials.parser_of(__doc__, 2000)
    parser.add_argument("--way", choices=WAYS, help="run all programs in this way")
    return trials.parse(parser, arguments)


if __name__ == "__main__":
    sys.exit(trials.main("differential", options_of(None), campaign))
