#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The table of figures that the project promises: each load in several rounds, funnel, plain SQLite and PostgreSQL in
turn within a round, so that a machine which changes meanwhile changes all of them. Prints a table in Markdown with the
command beside each line, and leaves it, the runs (JSON) and pictures (PNG) in build/bench/.

    tests/bench/table.py build/gcc/server/litefunnel [--rounds 5] [--seconds 3] [--loads full,readers,…]

PostgreSQL and gnuplot are installed if they are missing (as root), unless --no-postgres or --no-plots is given.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import plots  # noqa: E402
import postgres  # noqa: E402

SWEEP = (2, 4, 8, 16, 32, 64)
TABLE_ROWS = (10 ** 5, 10 ** 6, 10 ** 7)
GROUPS = (1, 10, 100, 1000, 10000)


class Measuring:
    def __init__(self, options, cluster):
        self.options = options
        self.cluster = cluster
        self.lines = []
        self.runs = []
        self.machine = None

    def run(self, mode, load, seconds=None):
        """One run of one mode; its object."""
        command = [self.options.program, "bench", "--json", "--mode", mode, "--db", self.options.db, "--seconds",
                   str(seconds or self.options.seconds), "--warmup", "1", *load.split()]
        said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        run, = said["runs"]
        assert run["count"]["verdict"] == "right", (command, run["count"])
        run["load"] = load
        run["machine_load"] = os.getloadavg()[0]
        self.machine = self.machine or said["machine"]
        self.runs.append(run)
        return run

    def rounds(self, modes, load, durable=None):
        """mode -> its runs, round by round; "postgres" -> rows a second, if `durable` is given."""
        found = {mode: [] for mode in modes}
        rates = []
        for _ in range(self.options.rounds):
            for mode in modes:
                found[mode].append(self.run(mode, load))
            if self.cluster and durable is not None:
                writers = int(load.split()[load.split().index("--writers") + 1])
                rates.append(self.cluster.inserts(writers, self.options.seconds, durable))
        return found, rates

    def line(self, load, what, must, aim, values, command, good=None, unit=""):
        """values: one for each round. `good` decides by their median whether it was reached."""
        median = statistics.median(values)
        spread = f"{median:.2f}{unit} ({min(values):.2f} to {max(values):.2f})"
        verdict = "" if good is None else "yes" if good(median) else "**no**"
        self.lines.append((load, what, must, aim, spread, verdict, f"`litefunnel bench {command}`"))
        print("| " + " | ".join(self.lines[-1]) + " |", flush=True)


def rows_s(run):
    return run["writes"]["rows_s"]


def ratios(runs, bases):
    return [rows_s(run) / max(rows_s(base), 1) for run, base in zip(runs, bases)]


def at_least(limit):
    return lambda value: value >= limit


def at_most(limit):
    return lambda value: value <= limit


def latency(runs, quantile):
    return [run["writes"]["latency_ms"][quantile] for run in runs]


# ---- the loads


def full(m):
    load, what = "--writers 8", "8 writers, FULL"
    found, rates = m.rounds(("funnel-no-keys", "funnel", "direct"), load, durable=True)
    keys, bare, direct = found["funnel"], found["funnel-no-keys"], found["direct"]
    compare = f"--compare {load}"
    m.line(what, "rows/s, of direct", "3", "4", ratios(bare, direct), compare, at_least(3))
    m.line(what, "exactly-once, of direct", "2.5", "", ratios(keys, direct), compare, at_least(2.5))
    if rates:
        m.line(what, "of PostgreSQL", "2.5", "3", [rows_s(run) / rate for run, rate in zip(bare, rates)], compare,
               at_least(2.5))
    worst = [max(1 - run["writes"]["shares"]["min"], run["writes"]["shares"]["max"] - 1) for run in keys]
    m.line(what, "a share is off the mean by", "0.10", "", worst, compare, at_most(0.1))
    m.line(what, "p99.9, ms", "10", "", latency(keys, "p99.9"), compare, at_most(10))
    m.line(what, "direct: longest, ms", "", "", latency(direct, "max"), compare)
    if m.options.plots:
        bars = {mode: statistics.median(map(rows_s, runs)) for mode, runs in found.items()}
        if rates:
            bars["PostgreSQL"] = statistics.median(rates)
        plots.bars(m.options.out, "full", "8 processes, one row a transaction, synchronous FULL", bars)
        plots.latencies(m.options.out, "full-latency", "8 processes, one row a transaction, synchronous FULL",
                        {"funnel": keys, "direct": direct})


def normal(m):
    load, what = "--writers 8 --sync normal", "8 writers, NORMAL"
    found, rates = m.rounds(("funnel-no-keys", "direct"), load, durable=False)
    bare, direct = found["funnel-no-keys"], found["direct"]
    compare = f"--compare {load}"
    m.line(what, "rows/s, of direct", "0.9", "1.2", ratios(bare, direct), compare, at_least(0.9))
    tails = [own / other for own, other in zip(latency(bare, "p99.9"), latency(direct, "p99.9"))]
    m.line(what, "p99.9, of direct's", "0.25", "", tails, compare, at_most(0.25))
    if rates:
        m.line(what, "of PostgreSQL, synchronous_commit off", "", "",
               [rows_s(run) / rate for run, rate in zip(bare, rates)], compare)


def single(m):
    load = "--writers 1"
    found, _ = m.rounds(("funnel-no-keys", "direct"), load)
    m.line("1 writer, FULL", "rows/s, of direct", "0.85", "1.0", ratios(found["funnel-no-keys"], found["direct"]),
           f"--compare {load}", at_least(0.85))


def pipelined(m):
    load, what = "--writers 4 --depth 64", "4 writers, 64 in flight, FULL"
    found, _ = m.rounds(("funnel", "funnel-no-keys", "raw"), load)
    m.line(what, "exactly-once, of raw", "0.4", "0.55", ratios(found["funnel"], found["raw"]), f"--compare {load}",
           at_least(0.4))
    m.line(what, "without keys, of raw", "0.55", "0.7", ratios(found["funnel-no-keys"], found["raw"]),
           f"--compare {load}", at_least(0.55))


def batches(m):
    load = "--writers 1 --rows 100 --depth 64"
    found, _ = m.rounds(("funnel", "raw"), load)
    m.line("1 client, 100 rows a request", "rows/s, of raw", "0.75", "0.95", ratios(found["funnel"], found["raw"]),
           f"--compare {load}", at_least(0.75))


def readers(m):
    load = "--writers 4 --readers 16"
    found, _ = m.rounds(("funnel", "direct"), load)
    values = [run["reads"]["rows_s"] / other["reads"]["rows_s"]
              for run, other in zip(found["funnel"], found["direct"])]
    m.line("16 readers beside 4 writers", "reads/s, of beside direct", "0.95", "1.0", values, f"--compare {load}",
           at_least(0.95))


def bulk(m):
    load, what = "--writers 4 --rate 400 --bulk", "400 writes/s beside an import"
    found, _ = m.rounds(("funnel", "direct"), load)
    m.line(what, "p99, ms", "25", "12", latency(found["funnel"], "p99"), load, at_most(25))
    m.line(what, "max, ms", "100", "40", latency(found["funnel"], "max"), load, at_most(100))
    m.line(what, "direct: max, ms", "", "", latency(found["direct"], "max"), load)


def sweep(m):
    points = {mode: {} for mode in ("funnel", "funnel-no-keys", "direct")}
    for writers in SWEEP:
        found, _ = m.rounds(tuple(points), f"--writers {writers}")
        for mode, runs in found.items():
            points[mode][writers] = statistics.median(map(rows_s, runs))
    for mode, rates in points.items():
        peak, worst = 0, 1.0
        for _, rate in sorted(rates.items()):
            peak = max(peak, rate)
            worst = min(worst, rate / peak)
        promised = mode != "direct"
        m.line("2 to 64 writers, FULL", f"{mode}: least, of the peak before it", "0.9" if promised else "", "",
               [worst], "--writers N", at_least(0.9) if promised else None)
    if m.options.plots:
        plots.sweep(m.options.out, points)


def memory(m):
    load = "--writers 64 --depth 64"
    found, _ = m.rounds(("funnel",), load)
    m.line("64 writers, 64 in flight", "memory of the daemon, MiB", "64", "32",
           [run["daemon_peak_bytes"] / (1 << 20) for run in found["funnel"]], load, at_most(64))


def growth(m):
    base = {}
    for what, values, option in (("rows in the table", TABLE_ROWS, "--table-rows {}"),
                                 ("batches a commit group", GROUPS, "--set commit_group_max={}")):
        for value in values:
            load = f"--writers 4 --depth 64 {option.format(value)}"
            found, _ = m.rounds(("funnel",), load)
            spent = [1e6 * run["writer_s"]["batches"] / run["writes"]["rows"] for run in found["funnel"]]
            first = base.setdefault(what, statistics.median(spent))
            m.line(f"{value:,} {what}", "writer's time for a row, of the first", "0.85 to 1.15", "",
                   [us / first for us in spent], load, lambda ratio: 0.85 <= ratio <= 1.15)


LOADS = {load.__name__: load
         for load in (full, normal, single, pipelined, batches, readers, bulk, sweep, memory, growth)}


def install(packages):
    script = f'source {HERE}/../support/packages.sh; packages_install "${{{packages}[@]}}"'
    subprocess.run(["bash", "-c", script], check=True)


def write_out(m, version):
    head = ["load", "figure", "must", "aim", f"median of {m.options.rounds} (least to most)", "reached", "command"]
    rows = [head, ["---"] * len(head), *m.lines]
    machine = m.machine
    facts = (f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']:.0f} GiB, {machine['kernel']}, "
             f"{machine['filesystem']}, a page and its fdatasync {machine['sync_us']:.0f} us, SQLite "
             f"{machine['sqlite']}, PostgreSQL {version}; runs of {m.options.seconds:g} s; load of the machine "
             f"{min(run['machine_load'] for run in m.runs):.1f} to {max(run['machine_load'] for run in m.runs):.1f}")
    out = pathlib.Path(m.options.out)
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    (out / "table.md").write_text(table + "\n\n" + facts + "\n", encoding="utf-8")
    (out / "runs.json").write_text(json.dumps({"machine": machine, "runs": m.runs}), encoding="utf-8")
    print("\n" + facts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--loads", default=",".join(LOADS), help="some of: " + ", ".join(LOADS))
    parser.add_argument("--db", default="/var/tmp", help="the directory, and so the disk")
    parser.add_argument("--out", default=str(HERE.parents[1] / "build" / "bench"))
    parser.add_argument("--no-postgres", dest="postgres", action="store_false")
    parser.add_argument("--no-plots", dest="plots", action="store_false")
    options = parser.parse_args()
    loads = options.loads.split(",")
    if set(loads) - set(LOADS):
        parser.error("no load " + ", ".join(set(loads) - set(LOADS)))
    os.makedirs(options.out, exist_ok=True)
    if options.postgres and postgres.binaries() is None:
        install("packages_postgres")
    if options.plots:
        install("packages_plots")
    if options.postgres:
        with postgres.Postgres(options.db) as cluster:
            measure(Measuring(options, cluster), loads, cluster.version())
    else:
        measure(Measuring(options, None), loads, "not measured")


def measure(measuring, loads, version):
    for load in loads:
        LOADS[load](measuring)
    write_out(measuring, version)


if __name__ == "__main__":
    main()
