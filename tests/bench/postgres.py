# SPDX-License-Identifier: MIT
"""A PostgreSQL cluster of our own in a temporary directory, and pgbench on it: over a Unix socket, prepared
statements, Debian's version 15 with its defaults but for what is said below."""
import glob
import os
import pwd
import re
import shutil
import subprocess
import tempfile

CONFIG = """
listen_addresses = ''
max_connections = 200
shared_buffers = 256MB
max_wal_size = 4GB
logging_collector = off
"""
SCRIPT = "INSERT INTO bench_row(n, body) VALUES (:client_id, :body);\n"


def binaries():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return found[-1] if found and os.path.exists(os.path.join(found[-1], "pgbench")) else None


class Postgres:
    """with Postgres(directory) as cluster: cluster.inserts(writers, seconds, durable) -> rows a second."""

    def __init__(self, directory):
        self.place = tempfile.mkdtemp(prefix="litefunnel-postgres-", dir=directory)
        self.user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None  # it refuses to run as root
        if self.user:
            os.chown(self.place, self.user.pw_uid, self.user.pw_gid)

    def run(self, program, *arguments, **options):
        return subprocess.run([os.path.join(binaries(), program), *arguments], check=True, cwd=self.place,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              user=self.user and self.user.pw_uid, group=self.user and self.user.pw_gid, **options)

    def __enter__(self):
        data = os.path.join(self.place, "data")
        self.run("initdb", "-D", data, "-U", "postgres", "--auth=trust")
        with open(os.path.join(data, "postgresql.conf"), "a", encoding="ascii") as file:
            file.write(CONFIG + f"unix_socket_directories = '{self.place}'\n")
        # Its output goes to a file: the server keeps what it inherits open.
        self.run("pg_ctl", "-D", data, "-w", "-l", os.path.join(self.place, "log"), "start")
        with open(os.path.join(self.place, "insert.sql"), "w", encoding="ascii") as file:
            file.write(SCRIPT)
        os.chmod(os.path.join(self.place, "insert.sql"), 0o644)
        self.sql("CREATE TABLE bench_row(id bigserial PRIMARY KEY, n integer, body text)")
        return self

    def __exit__(self, *_):
        self.run("pg_ctl", "-D", os.path.join(self.place, "data"), "-m", "immediate", "stop")
        shutil.rmtree(self.place)

    def sql(self, text):
        return self.run("psql", "-h", self.place, "-U", "postgres", "-qAtc", text).stdout.strip()

    def version(self):
        return self.sql("SHOW server_version")

    def inserts(self, writers, seconds, durable, row_bytes=100):
        """One row a transaction, each client waiting for its answer."""
        self.sql("TRUNCATE bench_row")
        self.sql("CHECKPOINT")
        threads = min(writers, os.cpu_count())
        said = self.run("pgbench", "-h", self.place, "-U", "postgres", "-n", "-M", "prepared", "-f", "insert.sql",
                        "-c", str(writers), "-j", str(threads), "-T", str(max(1, round(seconds))), "-D",
                        "body=" + "p" * row_bytes, "postgres",
                        env={"PGOPTIONS": f"-c synchronous_commit={'on' if durable else 'off'}"}).stdout
        return float(re.search(r"^tps = ([0-9.]+)", said, re.M)[1])
