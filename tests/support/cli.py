# SPDX-License-Identifier: MIT
"""The commands of the program, as a user runs them."""
import contextlib
import json
import os
import pty
import subprocess


class Cli:
    """The program, run. Bytes that are no UTF-8 come and go by surrogateescape."""

    def __init__(self, program, db=None):
        self.program = str(program)
        self.db = db

    def environment(self, extra):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LITEFUNNEL_")}
        return {**kept, **extra}

    def start(self, *args, env=None, **options):
        return subprocess.Popen([self.program, *args], env=self.environment(env or {}), text=True,
                                errors="surrogateescape", **options)

    def __call__(self, *args, code=0, stdin="", env=None, timeout=120):
        done = subprocess.run([self.program, *args], env=self.environment(env or {}), input=stdin,
                              capture_output=True, text=True, errors="surrogateescape",
                              timeout=timeout, check=False)
        assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
        return done

    def exec(self, *args, **options):
        return self("exec", self.db, *args, **options)

    def query(self, *args, **options):
        return self("query", self.db, *args, **options)

    def rows(self, *args):
        return json.loads(self.query(*args, "--json").stdout)

    def value(self, *args):
        (row,) = self.rows(*args)
        (value,) = row.values()
        return value

    def terminal(self, *args):
        """What it prints on a terminal."""
        ours, theirs = pty.openpty()
        process = self.start(*args, stdout=theirs, stderr=theirs)
        os.close(theirs)
        out = b""
        with contextlib.suppress(OSError):  # EIO is a terminal's end
            while True:
                out += os.read(ours, 65536)
        os.close(ours)
        assert process.wait() == 0, out
        return out.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def ndjson(*lines):
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


def insert(value):
    return [["INSERT INTO t(a) VALUES (?)", [value]]]


# For so many rows of n.
LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) "
BAD = [["INSERT INTO nowhere VALUES (1)"]]
