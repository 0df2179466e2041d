# SPDX-License-Identifier: MIT
"""
Checks what clients and readers saw of a run against what is left in the database.

There is one serial order, and it can be read: each batch of the workload first inserts a row into
`op`, whose rowid is one more than the last; a batch that fails takes its row with it. So the rowid
is a ticket, also within a commit group, and the tickets in the final database are the serial order
of what was applied. With that no search is needed: everything is sorted once and looked at once.

It knows the workload (workload.py) as a model and nothing of the daemon. What it checks:

 1. tickets and commit numbers grow together, and with seq within a session
 2. what was answered before something else was sent comes before it
 3. the model, run in the order of the tickets, gives the rows, rowids and counts of each answer
 4. each OK is in the database once, each FAILED not at all, each UNKNOWN once or not at all
 5. what is in the database at the end is what the model ends with
 6. a reader's snapshot is the model at some ticket, never goes back, holds all that was answered
    before it began and nothing that was sent after it ended
"""
import bisect
import collections
import dataclasses

ACCOUNTS, BALANCE, COUNTERS = 8, 1000, 4
OK, FAILED, UNKNOWN = "OK", "FAILED", "UNKNOWN"


@dataclasses.dataclass(slots=True)
class Op:
    """A batch, as the client that sent it knows it."""

    client: int
    seq: int
    kind: str
    args: list
    sent: int  # nanoseconds, when it was first sent
    answered: int  # when it was given up, if UNKNOWN
    outcome: str
    commit: int = None
    steps: list = None  # of an OK: [changes, rowid, rows] a step; rows is None without columns
    sends: int = 1
    refused: int = 0  # answers with `retry`; whoever was refused has lost its place in the order
    repeat: bool = False  # the answer came from the daemon's memory
    code: str = None  # of a FAILED


@dataclasses.dataclass(slots=True)
class Read:
    """A snapshot, as a process saw it that opened the file."""

    reader: int
    began: int
    ended: int
    epoch: bytes
    commit: int
    ops: int  # newest ticket
    tail: int  # how many of the last 100 tickets are there
    balances: list
    counters: list
    items: int
    listed: list = None  # [key, value] of one list


@dataclasses.dataclass(slots=True)
class Final:
    """The database at the end."""

    epoch: bytes
    commit: int
    ops: list  # [ticket, client, seq, kind], by ticket
    lists: dict  # key -> "a,b,c"
    balances: list
    counters: list
    items: list  # [client, seq, i], by rowid
    claims: dict  # slot -> [client, seq]
    doomed: int  # rows of what must always be rolled back
    integrity: str = "ok"


class Model:
    """The workload's tables, and what each batch does to them and answers."""

    def __init__(self):
        self.ops = 0
        self.lists = {}
        self.balances = [BALANCE] * ACCOUNTS
        self.counters = [0] * COUNTERS
        self.items = []
        self.claims = {}

    def apply(self, op):
        """The steps that op must have been answered with; ValueError: it cannot have succeeded."""
        self.ops += 1
        first = [1, self.ops, None]
        return [first, *getattr(self, f"_{op.kind}")(op, self.ops)]

    def _single(self, _op, _ticket):
        return []

    def _append(self, op, ticket):
        key, value = op.args
        old = self.lists.get(key)
        self.lists[key] = str(value) if old is None else f"{old},{value}"
        # An upsert that inserts moves last_insert_rowid(); one that updates does not.
        return [[1, key if old is None else ticket, [[self.lists[key]]]]]

    def _transfer(self, op, ticket):
        source, target, amount = op.args
        if self.balances[source] < amount:
            raise ValueError(f"account {source} has {self.balances[source]}, not {amount}")
        self.balances[source] -= amount
        taken = self.balances[source]
        self.balances[target] += amount
        return [[1, ticket, [[taken]]], [1, ticket, [[self.balances[target]]]]]

    def _count(self, op, ticket):
        counter, by = op.args
        self.counters[counter] += by
        return [[1, ticket, [[self.counters[counter]]]]]

    def _items(self, op, _ticket):
        self.items += [[op.client, op.seq, i] for i in range(op.args[0])]
        newest = len(self.items)
        return [[op.args[0], newest, None], [0, newest, [[newest]]]]

    def _claim(self, op, _ticket):
        slot = op.args[0]
        if slot in self.claims:
            raise ValueError(f"slot {slot} belongs to {self.claims[slot]}")
        self.claims[slot] = [op.client, op.seq]
        return [[1, slot, None]]

    def _doom(self, op, _ticket):
        raise ValueError(f"a batch that always fails ({op.args[0]})")


class Findings(list):
    """What is wrong, as (kind, text). The kinds are few, the texts are for people."""

    def add(self, kind, text):
        self.append((kind, text))

    def kinds(self):
        return {kind for kind, _ in self}


def name(op):
    return f"{op.kind} {op.client}/{op.seq}"


def check(ops, reads, final):
    findings = Findings()
    known = _index(findings, ops)
    if final.integrity != "ok":
        findings.add("corrupt", final.integrity)
    tickets = _presence(findings, ops, known, final)
    serial = _replay(findings, known, reads, final)
    _orders(findings, ops, tickets)
    _commits(findings, ops, tickets, reads, final, serial)
    _readers(findings, ops, tickets, reads, final)
    _refusals(findings, ops, known, final)
    return findings


def _index(findings, ops):
    """(client, seq) -> op, and what each says of itself."""
    known = {}
    for op in ops:
        if (op.client, op.seq) in known:
            findings.add("log", f"{name(op)} is logged twice")
        known[op.client, op.seq] = op
        if op.outcome not in (OK, FAILED, UNKNOWN):
            findings.add("outcome", f"{name(op)} ended as {op.outcome!r}")
        if op.outcome == OK and not (isinstance(op.commit, int) and op.commit > 0):
            findings.add("outcome", f"{name(op)} is OK in commit {op.commit!r}")
        if (op.outcome == FAILED and op.kind in ("single", "append", "count", "items")
                and op.code not in ("deadline", "never sent", "shutting_down")):
            findings.add("refused", f"{name(op)} cannot fail, and did: {op.code}")
        if op.answered < op.sent:
            findings.add("time", f"{name(op)} was answered before it was sent")
    return known


def _presence(findings, ops, known, final):
    """OK once, FAILED never, UNKNOWN at most once. (client, seq) -> ticket in the database."""
    tickets = {}
    for ticket, client, seq, kind in final.ops:
        op = known.get((client, seq))
        if (client, seq) in tickets:
            findings.add("twice", f"{kind} {client}/{seq} is there twice, as {ticket} and "
                                  f"{tickets[client, seq]}")
        tickets[client, seq] = ticket
        if op is None:
            findings.add("alien", f"{kind} {client}/{seq} was never sent")
        elif op.outcome == FAILED:
            findings.add("failed_applied", f"{name(op)} was answered FAILED and is there")
        elif op.kind != kind:
            findings.add("alien", f"{name(op)} is there as {kind}")
    for op in ops:
        if op.outcome != OK:
            continue
        ticket = tickets.get((op.client, op.seq))
        if ticket is None:
            findings.add("lost", f"{name(op)}, answered OK in commit {op.commit}, is not there")
        elif not op.steps or op.steps[0][1] != ticket:
            findings.add("answer", f"{name(op)} was told another ticket than {ticket}")
    if [row[0] for row in final.ops] != list(range(1, len(final.ops) + 1)):
        findings.add("gap", "the tickets have gaps")
    return tickets


def _replay(findings, known, reads, final):
    """The model in serial order, against answers, readers and the end. The serial order as ops."""
    model, serial = Model(), []
    waiting = collections.deque(sorted(reads, key=lambda read: read.ops))

    def show_readers():
        while waiting and waiting[0].ops <= model.ops:
            read = waiting.popleft()
            for what, seen, real in (
                    ("balances", read.balances, model.balances),
                    ("counters", read.counters, model.counters),
                    ("items", read.items, len(model.items)),
                    ("tail", read.tail, min(read.ops, 100)),
                    ("list", read.listed and read.listed[1],
                     read.listed and model.lists.get(read.listed[0]))):
                if seen != real:
                    findings.add("snapshot", f"reader {read.reader} at ticket {read.ops}: {what} "
                                             f"{seen!r} where {real!r} is right")

    show_readers()
    for _, client, seq, kind in final.ops:
        op = known.get((client, seq))
        serial.append(op)
        try:
            if op is None:
                raise ValueError("it was never sent")
            steps = model.apply(op)
        except ValueError as error:
            findings.add("impossible", f"{kind} {client}/{seq} was applied: {error}")
            continue
        if op.outcome == OK and op.steps != steps:
            findings.add("answer", f"{name(op)} was answered {op.steps!r} where {steps!r} is right")
        show_readers()
    if waiting:
        findings.add("snapshot", f"reader {waiting[0].reader} saw ticket {waiting[0].ops}; there "
                                 f"are {model.ops}")
    for what, real, right in (
            ("lists", final.lists, model.lists), ("balances", final.balances, model.balances),
            ("counters", final.counters, model.counters), ("items", final.items, model.items),
            ("claims", final.claims, model.claims), ("doomed", final.doomed, 0)):
        if real != right:
            findings.add("final", f"{what}: {_difference(real, right)}")
    if sum(final.balances) != ACCOUNTS * BALANCE:
        findings.add("bank", f"the accounts hold {sum(final.balances)}")
    return serial


def _difference(real, right):
    """Where two values differ, in short."""
    if isinstance(real, dict):
        keys = [key for key in {**real, **right} if real.get(key) != right.get(key)]
        return "; ".join(f"{key}: {real.get(key)!r}, right is {right.get(key)!r}"
                         for key in keys[:3])
    if isinstance(real, list):
        if len(real) != len(right):
            return f"{len(real)} of them where {len(right)} are right"
        return "; ".join(f"{i}: {a!r}, right is {b!r}"
                         for i, (a, b) in enumerate(zip(real, right)) if a != b)[:300]
    return f"{real!r}, right is {right!r}"


def _orders(findings, ops, tickets):
    """Real time, and the order of a session."""
    applied = [op for op in ops if (op.client, op.seq) in tickets]
    applied.sort(key=lambda op: tickets[op.client, op.seq])
    earliest = None  # of all later tickets: the one that was answered first
    for op in reversed(applied):
        if earliest is not None and earliest.answered < op.sent:
            findings.add("real_time", f"{name(op)} was sent after {name(earliest)} had been "
                                      "answered, and comes before it")
        if op.outcome == OK and (earliest is None or op.answered < earliest.answered):
            earliest = op
    last = {}
    for op in sorted(applied, key=lambda op: (op.client, op.seq)):
        if op.outcome != OK or op.refused or op.sends > 1:
            continue  # sent again on another connection: between two of them there is no order
        before = last.get(op.client)
        if before is not None and tickets[op.client, op.seq] <= tickets[op.client, before.seq]:
            findings.add("session", f"{name(op)} comes before {name(before)}")
        last[op.client] = op


def _commits(findings, ops, tickets, reads, final, serial):
    """Commit numbers: by ticket, by real time, by session, and of snapshots."""
    order = [(tickets[op.client, op.seq], op) for op in serial
             if op is not None and op.outcome == OK and isinstance(op.commit, int)]
    order.sort(key=lambda pair: pair[0])
    for (_, before), (_, op) in zip(order, order[1:]):
        if op.commit < before.commit:
            findings.add("commit", f"{name(op)} in commit {op.commit} follows {name(before)} in "
                                   f"{before.commit}")
    if order and order[-1][1].commit > final.commit:
        findings.add("commit", f"commit {order[-1][1].commit} was answered, the newest is "
                               f"{final.commit}")
    # Answered before another was sent: not in the same commit either.
    by_answer = sorted((op for _, op in order), key=lambda op: op.answered)
    highest, at = 0, 0
    for op in sorted((op for _, op in order), key=lambda op: op.sent):
        while at < len(by_answer) and by_answer[at].answered < op.sent:
            highest = max(highest, by_answer[at].commit)
            at += 1
        if op.commit <= highest:
            findings.add("real_time", f"{name(op)} is in commit {op.commit}, and {highest} had "
                                      "been answered when it was sent")
    numbers = [ticket for ticket, _ in order]
    for read in reads:
        at = bisect.bisect_right(numbers, read.ops)
        if at > 0 and order[at - 1][1].commit > read.commit:
            findings.add("snapshot", f"reader {read.reader}: commit {read.commit} holds "
                                     f"{name(order[at - 1][1])} of {order[at - 1][1].commit}")
        if at < len(order) and order[at][1].commit <= read.commit:
            findings.add("snapshot", f"reader {read.reader}: commit {read.commit} lacks "
                                     f"{name(order[at][1])} of {order[at][1].commit}")
        if read.epoch != final.epoch:
            findings.add("epoch", f"reader {read.reader} saw another epoch")


def _readers(findings, ops, tickets, reads, final):
    """Snapshots in real time, against one another and against the batches."""
    highest, high_commit, at = 0, 0, 0
    ended = sorted(reads, key=lambda read: read.ended)
    answered = sorted((op for op in ops if op.outcome == OK and (op.client, op.seq) in tickets),
                      key=lambda op: op.answered)
    seen, done = 0, 0
    for read in sorted(reads, key=lambda read: read.began):
        while at < len(ended) and ended[at].ended < read.began:
            highest = max(highest, ended[at].ops)
            high_commit = max(high_commit, ended[at].commit)
            at += 1
        if read.ops < highest or read.commit < high_commit:
            findings.add("reader_back", f"reader {read.reader} sees ticket {read.ops}, commit "
                                        f"{read.commit} after {highest}, {high_commit}")
        while done < len(answered) and answered[done].answered < read.began:
            seen = max(seen, tickets[answered[done].client, answered[done].seq])
            done += 1
        if read.ops < seen:
            findings.add("reader_stale", f"reader {read.reader} sees ticket {read.ops}; {seen} had "
                                         "been answered before")
    sent = sorted((op for op in ops if (op.client, op.seq) in tickets), key=lambda op: -op.sent)
    lowest, done = len(final.ops) + 1, 0
    for read in sorted(reads, key=lambda read: -read.ended):
        while done < len(sent) and sent[done].sent > read.ended:
            lowest = min(lowest, tickets[sent[done].client, sent[done].seq])
            done += 1
        if read.ops >= lowest:
            findings.add("reader_dirty", f"reader {read.reader} sees ticket {read.ops}; {lowest} "
                                         "was sent only later")


def _refusals(findings, ops, known, final):
    """A claim may fail only if another may have had the slot by then."""
    for op in ops:
        if op.kind != "claim" or op.outcome != FAILED or op.code != "sql":
            continue
        owner = known.get(tuple(final.claims.get(op.args[0], ())))
        if owner is None or owner is op or owner.sent > op.answered:
            findings.add("refused", f"{name(op)} failed for slot {op.args[0]}, which nobody had")
