# SPDX-License-Identifier: MIT
"""
The checker proves itself: a good history passes, and each of the planted anomalies is found.

The good history comes from a small daemon of its own, in memory, with commit groups, lost answers,
repeats, failures and readers.
"""
import copy
import pathlib
import pickle
import random
import sys
import time

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import checker  # noqa: E402
import workload  # noqa: E402
from checker import FAILED, OK, UNKNOWN, Final, Model, Op, Read  # noqa: E402

EPOCH = b"e" * 16


class History:
    """A run as it should be: ops, reads, final; and ways to find something in it."""

    made = {}

    def __init__(self, seed, batches=1500, clients=6):
        rng = random.Random(seed)
        self.ops, self.reads = [], []
        self.model, self.commit, self.time = Model(), 10, 1000
        self.order, self.groups = [], []
        seqs = [0] * clients
        while len(self.ops) < batches:
            group = []
            for client in rng.sample(range(clients), rng.randrange(1, clients + 1)):
                seqs[client] += 1
                kind, args = workload.draw(rng, seqs[client])
                self.time += rng.randrange(1, 5)
                group.append(Op(client, seqs[client], kind, args, self.time, 0, None))
            rng.shuffle(group)
            self.time += 10
            self._commit(group, rng)
            if rng.random() < 0.5:
                self._read(len(self.reads) % 2, rng)
        self.final = Final(
            EPOCH, self.commit,
            [[i + 1, op.client, op.seq, op.kind] for i, op in enumerate(self.order)],
            self.model.lists, self.model.balances, self.model.counters, self.model.items,
            self.model.claims, 0)

    def _commit(self, group, rng):
        self.commit += 1
        applied = []
        for op in group:
            lost = rng.random() < 0.03
            if lost and rng.random() < 0.5:
                op.outcome = UNKNOWN  # it never arrived
                continue
            try:
                steps = self.model.apply(op)
            except ValueError:
                self.model.ops -= 1  # all that a refused batch has changed in the model
                op.outcome, op.code = FAILED, "guard" if op.kind == "transfer" else "sql"
                continue
            self.order.append(op)
            applied.append(op)
            if lost:
                op.outcome = UNKNOWN  # its answer was lost for good
            else:
                op.outcome, op.commit, op.steps = OK, self.commit, steps
                op.repeat = rng.random() < 0.1
        for op in group:
            self.time += rng.randrange(1, 5)
            op.answered = self.time
        self.ops += group
        self.groups.append(applied)

    def _read(self, reader, rng):
        self.time += 5
        model = self.model
        key = rng.choice(list(model.lists) or [0])
        self.reads.append(Read(
            reader, self.time, self.time + 3, EPOCH, self.commit, model.ops, min(model.ops, 100),
            list(model.balances), list(model.counters), len(model.items),
            [key, model.lists[key]] if key in model.lists else None))
        self.time += 5

    @classmethod
    def of(cls, seed):
        """A fresh copy of the history of that seed."""
        if seed not in cls.made:
            cls.made[seed] = pickle.dumps(cls(seed))
        return pickle.loads(cls.made[seed])

    def check(self):
        return checker.check(self.ops, self.reads, self.final)

    def some(self, kind=None, outcome=OK, where=lambda op: True, skip=20):
        """An op from the middle."""
        found = [op for op in self.ops
                 if op.outcome == outcome and kind in (None, op.kind) and where(op)]
        return found[min(skip, len(found) - 1)]

    def ticket(self, op):
        return 1 + next(i for i, other in enumerate(self.order) if other is op)

    def absent_unknown(self):
        return self.some(outcome=UNKNOWN, skip=0,
                         where=lambda op: not any(other is op for other in self.order))

    def present_unknown(self):
        return self.some(outcome=UNKNOWN, skip=0,
                         where=lambda op: any(other is op for other in self.order))

    def full_group(self):
        """Members of one commit group, all answered OK."""
        return next(group for group in self.groups[30:]
                    if len(group) >= 3 and all(op.outcome == OK for op in group))

    def read(self):
        return self.reads[len(self.reads) // 2]


ANOMALIES = []


def anomaly(kind):
    """A function that spoils a history; `kind` must be among the findings."""

    def register(function):
        ANOMALIES.append(pytest.param(kind, function, id=function.__name__))
        return function

    return register


# ---- lost, repeated, alien


def forget(history, op):
    """The database without op, as if it had never run."""
    model, order = Model(), [other for other in history.order if other is not op]
    for other in order:
        try:
            model.apply(other)
        except ValueError:
            pass
    final = history.final
    final.ops = [[i + 1, other.client, other.seq, other.kind] for i, other in enumerate(order)]
    final.lists, final.balances, final.counters = model.lists, model.balances, model.counters
    final.items, final.claims = model.items, model.claims


@anomaly("lost")
def answered_and_lost(history):
    forget(history, history.some())


@anomaly("lost")
def last_answered_and_lost(history):
    forget(history, next(op for op in reversed(history.order) if op.outcome == OK))


@anomaly("lost")
def last_group_lost(history):
    for op in next(group for group in reversed(history.groups)
                   if any(op.outcome == OK for op in group)):
        history.order = [other for other in history.order if other is not op]
    forget(history, None)


@anomaly("gap")
def row_removed_and_effects_kept(history):
    del history.final.ops[50]


@anomaly("twice")
def applied_twice(history):
    op = history.some("single")
    history.final.ops.append([len(history.final.ops) + 1, op.client, op.seq, op.kind])


@anomaly("twice")
def applied_twice_with_its_effects(history):
    op = history.some("items")
    history.final.ops.append([len(history.final.ops) + 1, op.client, op.seq, op.kind])
    history.final.items += [[op.client, op.seq, i] for i in range(op.args[0])]


@anomaly("twice")
def unknown_applied_twice(history):
    op = history.present_unknown()
    history.final.ops.append([len(history.final.ops) + 1, op.client, op.seq, op.kind])


@anomaly("failed_applied")
def failed_and_there(history):
    op = history.some(outcome=FAILED)
    history.final.ops.append([len(history.final.ops) + 1, op.client, op.seq, op.kind])


@anomaly("impossible")
def doomed_batch_applied(history):
    op = history.some("doom", FAILED)
    op.outcome = UNKNOWN
    history.final.ops.append([len(history.final.ops) + 1, op.client, op.seq, op.kind])


@anomaly("alien")
def nobody_sent_it(history):
    history.final.ops.append([len(history.final.ops) + 1, 99, 1, "single"])


@anomaly("alien")
def applied_as_something_else(history):
    history.final.ops[40][3] = "other"


@anomaly("outcome")
def ok_without_commit(history):
    history.some().commit = None


@anomaly("outcome")
def commit_zero(history):
    history.some().commit = 0


@anomaly("outcome")
def no_outcome(history):
    history.some().outcome = None


@anomaly("log")
def seq_used_twice(history):
    history.ops.append(copy.copy(history.some()))


@anomaly("time")
def answered_before_sent(history):
    op = history.some()
    op.answered = op.sent - 1


# ---- order


def swap(history, first, second):
    """Two ops change places in the serial order; answers and database as if that were so."""
    one, two = history.ticket(first) - 1, history.ticket(second) - 1
    history.order[one], history.order[two] = second, first
    model = Model()
    for op in history.order:
        steps = model.apply(op)
        if op.outcome == OK:
            op.steps = steps
    final = history.final
    final.ops = [[i + 1, op.client, op.seq, op.kind] for i, op in enumerate(history.order)]
    final.lists, final.items, final.claims = model.lists, model.items, model.claims
    history.reads.clear()


def singles(history, same_client):
    """Two OK ops without values, the second sent after the first was answered."""
    ops = [op for op in history.order if op.kind == "single" and op.outcome == OK][20:]
    return next((a, b) for a in ops for b in ops
                if b.sent > a.answered and (a.client == b.client) == same_client)


@anomaly("real_time")
def answered_yet_later(history):
    swap(history, *singles(history, same_client=False))


@anomaly("session")
def session_out_of_order(history):
    first, second = singles(history, same_client=True)
    first.answered = second.answered  # as if pipelined
    swap(history, first, second)


@anomaly("commit")
def commit_goes_back(history):
    history.some(skip=200).commit -= 3


@anomaly("commit")
def commit_jumps_ahead(history):
    history.some(skip=200).commit += 3


@anomaly("commit")
def commit_beyond_the_last(history):
    next(op for op in reversed(history.order) if op.outcome == OK).commit += 5


@anomaly("real_time")
def same_commit_after_an_answer(history):
    first, *_, last = history.full_group()
    last.sent = first.answered + 1
    last.answered = last.sent + 1


@anomaly("answer")
def tickets_swapped_in_a_group(history):
    first, second, *_ = history.full_group()
    first.steps[0][1], second.steps[0][1] = second.steps[0][1], first.steps[0][1]


@anomaly("answer")
def two_answers_with_one_ticket(history):
    first, second, *_ = history.full_group()
    second.steps[0][1] = first.steps[0][1]


# ---- values


def spoil_list(history, change):
    op = history.some("append", where=lambda op: op.steps[1][2][0][0].count(",") >= 2)
    values = op.steps[1][2][0][0].split(",")
    op.steps[1][2] = [[",".join(change(values))]]


@anomaly("answer")
def stale_list_read(history):
    spoil_list(history, lambda values: values[1:])


@anomaly("answer")
def own_append_not_read(history):
    spoil_list(history, lambda values: values[:-1])


@anomaly("answer")
def dirty_list_read(history):
    spoil_list(history, lambda values: [values[0], "666", *values[1:]])


@anomaly("answer")
def reordered_list_read(history):
    spoil_list(history, lambda values: [values[1], values[0], *values[2:]])


@anomaly("answer")
def element_read_twice(history):
    spoil_list(history, lambda values: [values[0], *values])


def spoil_final_list(history, change):
    key = next(k for k, v in history.final.lists.items() if v.count(",") >= 2)
    history.final.lists[key] = ",".join(change(history.final.lists[key].split(",")))


@anomaly("final")
def element_lost_at_the_end(history):
    spoil_final_list(history, lambda values: values[:-1])


@anomaly("final")
def element_twice_at_the_end(history):
    spoil_final_list(history, lambda values: [*values, values[-1]])


@anomaly("final")
def elements_reordered_at_the_end(history):
    spoil_final_list(history, lambda values: values[::-1])


@anomaly("final")
def list_gone(history):
    del history.final.lists[next(iter(history.final.lists))]


@anomaly("answer")
def lost_update_of_a_counter(history):
    first, second = [op for op in history.order if op.kind == "count" and op.outcome == OK
                     and op.args[0] == 1][10:12]
    second.steps[1][2] = [[second.steps[1][2][0][0] - first.args[1]]]


@anomaly("final")
def counter_behind(history):
    history.final.counters[2] -= 1


@anomaly("answer")
def wrong_balance(history):
    history.some("transfer").steps[2][2][0][0] += 1


@anomaly("bank")
def money_made(history):
    history.final.balances[3] += 100


@anomaly("final")
def half_a_transfer(history):
    op = history.some("transfer")
    history.final.balances[op.args[1]] -= op.args[2]


@anomaly("final")
def transfer_to_another(history):
    history.final.balances[0] -= 5
    history.final.balances[1] += 5


@anomaly("final")
def half_a_batch_of_rows(history):
    op = history.some("items", where=lambda op: op.args[0] >= 5)
    history.final.items.remove([op.client, op.seq, 3])


@anomaly("final")
def rows_of_a_failed_batch(history):
    op = history.some("doom", FAILED)
    history.final.items += [[op.client, op.seq, i] for i in range(3)]


@anomaly("final")
def rows_twice(history):
    history.final.items.append(history.final.items[-1])


@anomaly("final")
def rows_of_an_unknown_batch_missing(history):
    op = history.present_unknown()
    index = history.ticket(op) - 1
    op.kind, op.args, history.final.ops[index][3] = "items", [7], "items"


@anomaly("final")
def row_of_a_doomed_statement(history):
    history.final.doomed = 1


@anomaly("final")
def claim_of_another(history):
    slot = next(iter(history.final.claims))
    history.final.claims[slot] = [0, 0]


@anomaly("impossible")
def slot_claimed_twice(history):
    first, second = [op for op in history.order if op.kind == "claim" and op.outcome == OK][5:7]
    second.args = first.args


@anomaly("refused")
def refused_for_nothing(history):
    op = history.some("claim", FAILED, skip=0)
    op.args = [10 ** 6, ""]


@anomaly("refused")
def failed_though_it_cannot(history):
    op = history.absent_unknown()
    op.kind, op.args, op.outcome, op.code = "single", [], FAILED, "sql"


@anomaly("answer")
def wrong_count(history):
    history.some("items").steps[1][0] += 1


@anomaly("answer")
def rowid_of_a_neighbour(history):
    history.some("items").steps[1][1] += 1


@anomaly("answer")
def answer_of_another(history):
    first, second, *_ = history.full_group()
    first.steps, second.steps = second.steps, first.steps


@anomaly("answer")
def steps_missing(history):
    history.some("transfer").steps.pop()


@anomaly("answer")
def rows_missing(history):
    history.some("count").steps[1][2] = []


@anomaly("corrupt")
def corrupt_database(history):
    history.final.integrity = "row 3 missing from index"


# ---- readers


@anomaly("reader_back")
def reader_goes_back(history):
    index = len(history.reads) // 2
    one, two = history.reads[index], history.reads[index + 1]
    one.began, two.began = two.began, one.began
    one.ended, two.ended = two.ended, one.ended


@anomaly("reader_back")
def reader_behind_another(history):
    index = next(i for i in range(50, len(history.reads) - 1)
                 if history.reads[i].ops < history.reads[i + 1].ops)
    stale = copy.copy(history.reads[index])
    stale.reader, stale.began, stale.ended = 7, history.time, history.time + 1
    history.reads.append(stale)


@anomaly("reader_stale")
def reader_misses_an_answered_batch(history):
    read = history.read()
    after = next(op for op in history.order[read.ops:] if op.outcome == OK)
    after.sent, after.answered = read.began - 3, read.began - 2


@anomaly("reader_dirty")
def reader_sees_what_was_not_yet_sent(history):
    read = history.read()
    op = history.order[read.ops - 1]
    op.sent, op.answered = read.ended + 1, read.ended + 2


@anomaly("snapshot")
def reader_sees_half_a_transfer(history):
    history.read().balances[2] -= 7


@anomaly("snapshot")
def reader_sees_another_counter(history):
    history.read().counters[0] += 1


@anomaly("snapshot")
def reader_sees_half_a_batch(history):
    history.read().items -= 1


@anomaly("snapshot")
def reader_misses_a_batch_in_between(history):
    history.read().tail -= 1


@anomaly("snapshot")
def reader_sees_another_list(history):
    read = next(read for read in history.reads[50:] if read.listed)
    read.listed = [read.listed[0], read.listed[1] + ",1"]


@anomaly("snapshot")
def reader_sees_a_list_too_early(history):
    read = history.read()
    key = max(history.final.lists)
    read.listed = [key, history.final.lists[key]]


@anomaly("snapshot")
def reader_commit_too_low(history):
    history.read().commit -= 1


@anomaly("snapshot")
def reader_commit_too_high(history):
    history.read().commit += 1


@anomaly("snapshot")
def reader_sees_half_a_group(history):
    """A snapshot in the middle of a commit group, consistent in itself."""
    group = history.full_group()
    model = Model()
    for op in history.order[:history.ticket(group[0])]:
        model.apply(op)
    history.reads.append(Read(
        5, group[0].sent, group[-1].answered, EPOCH, group[0].commit,
        model.ops, min(model.ops, 100), model.balances, model.counters, len(model.items), None))


@anomaly("snapshot")
def reader_sees_the_future(history):
    history.reads[-1].ops = len(history.final.ops) + 5


@anomaly("epoch")
def reader_of_another_lineage(history):
    history.read().epoch = b"x" * 16


@pytest.mark.parametrize("seed", range(5))
def test_a_good_history_passes(seed):
    history = History(seed)
    assert history.check() == []
    assert {op.outcome for op in history.ops} == {OK, FAILED, UNKNOWN}
    assert len(history.reads) > 100


@pytest.mark.parametrize("kind,spoil", ANOMALIES)
@pytest.mark.parametrize("seed", (1, 2))
def test_a_planted_anomaly_is_found(kind, spoil, seed):
    history = History.of(seed)
    spoil(history)
    findings = history.check()
    assert kind in findings.kinds(), findings[:5]


def test_there_are_enough_anomalies():
    assert len(ANOMALIES) >= 30


def test_the_check_is_quick():
    """A quadratic one would take a hundred times as long."""
    history = History(3, 16000)
    began = time.process_time()
    assert history.check() == []
    assert time.process_time() - began < 16000 * 0.0002
