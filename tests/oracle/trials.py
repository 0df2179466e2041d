# SPDX-License-Identifier: MIT
"""What the random oracles share: options, the course of a campaign, and how answers are told apart."""
import argparse
import os
import time


class Difference(Exception):
    """The daemon and plain SQLite do not agree."""


def shown(value):
    """Text in which nothing that differs looks alike: 1, 1.0 and true, -0.0 and 0.0."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown, value)) + "]"
    return repr(value)


def settings(daemon):
    """The daemon's settings that show in answers, for plain SQLite."""
    with daemon.wire() as wire:
        rows = {name: wire.write(f"PRAGMA {name}")["steps"][0]["rows"]
                for name in ("trusted_schema", "recursive_triggers", "foreign_keys")}
    return [f"PRAGMA {name} = {value}" for name, [[value]] in rows.items()]


def same_contents(ours, theirs, name, others_name):
    """Raises what differs in two lists of lines."""
    if ours != theirs:
        raise Difference("content: " + "; ".join(
            f"{name} {a!r}, {others_name} {b!r}"
            for a, b in zip(ours + ["-"], theirs + ["-"]) if a != b)[:2000])


def campaign(trial, options, counted, say=print):
    """
    Runs options.programs trials, each trial(options, seed).run(), and sums their attributes `counted`:
    the figures, and the differences as (seed, text, place).
    """
    figures = {"programs": 0, **dict.fromkeys(counted, 0), "differences": 0}
    differences = []
    for number in range(options.first, options.first + options.programs):
        seed = f"{options.seed}.{number}"
        one = trial(options, seed)
        try:
            one.run()
        except Difference as difference:
            differences.append((seed, str(difference), one.place))
            say(f"{seed}: {difference}\n  files kept in {one.place}")
        figures["programs"] += 1
        for name in counted:
            figures[name] += getattr(one, name)
        figures["differences"] = len(differences)
        if len(differences) >= options.differences:
            break
    return figures, differences


def parser_of(doc, programs):
    """The options that each oracle has."""
    parser = argparse.ArgumentParser(description=doc.strip().split("\n\n", 1)[0])
    parser.add_argument("--program", default=os.environ.get("LITEFUNNEL_BIN"))
    parser.add_argument("--programs", type=int, default=programs)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--first", type=int, default=0, help="the number of the first program")
    parser.add_argument("--differences", type=int, default=10, help="stop after so many")
    parser.add_argument("--dir", default="/dev/shm" if os.path.isdir("/dev/shm") else None,
                        help="where the databases are; nothing here depends on a disk")
    return parser


def parse(parser, arguments):
    options = parser.parse_args(arguments)
    if not options.program:
        parser.error("set LITEFUNNEL_BIN or give --program")
    return options


def line(figures):
    return ", ".join(f"{name} {value}" for name, value in figures.items())


def main(name, options, run):
    """The exit code of a program: 1 if there are differences. run(options) is the campaign."""
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    figures, differences = run(options)
    print(f"{name}: {line(figures)}, {time.monotonic() - began:.0f} s")
    return 1 if differences else 0
