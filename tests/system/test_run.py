# SPDX-License-Identifier: MIT
"""`litefunnel run DB -- CMD`: the supervisor, also as PID 1 of a pid namespace."""
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from wire import Closed, Wire

SLOW = 30


@pytest.fixture
def db():
    path = tempfile.mkdtemp(prefix="run-")
    os.chmod(path, 0o750)
    yield f"{path}/app.db"
    shutil.rmtree(path)


def command(litefunnel, db, *cmd, options=("--create",)):
    return [str(litefunnel), "run", db, *options, "--", *cmd]


def run(litefunnel, db, *cmd, options=("--create",), **kwargs):
    return subprocess.run(command(litefunnel, db, *cmd, options=options), capture_output=True,
                          text=True, timeout=SLOW, **kwargs)


def python(code, *args):
    return [sys.executable, "-u", "-c", code, *args]


def start(litefunnel, db, *cmd, options=("--create",), **kwargs):
    return subprocess.Popen(command(litefunnel, db, *cmd, options=options),
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **kwargs)


def wait_for(condition, what):
    until = time.monotonic() + SLOW
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, what
        time.sleep(0.01)


def funnel_pid(db):
    """The pid in the lock file, of a process that is alive; 0 if there is none."""
    try:
        with open(f"{db}-funnel.lock") as file:
            pid = int(file.read() or 0)
        with open(f"/proc/{pid}/stat") as file:
            return 0 if file.read().rpartition(")")[2].split()[0] == "Z" else pid
    except (OSError, ValueError):
        return 0


def accepts(db):
    """Whether it answers: the socket is there before the database is open."""
    try:
        with Wire(f"{db}-funnel", timeout=SLOW) as wire:
            return wire.hello()
    except (OSError, Closed):
        return False


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


# CMD that says "up", then waits for its stdin to end, and answers signals by printing their number.
WAIT = """
import signal, sys
for number in (1, 2, 3, 10, 12, 15, 28):
    signal.signal(number, lambda n, _: print("got", n, flush=True))
print("up", flush=True)
while True:
    try:
        sys.exit(0 if sys.stdin.read() == "" else 1)
    except InterruptedError:
        pass
"""
# A signal that comes just before a read begins is noticed only after it: so it never reads for long.
WAIT_AT_TERMINAL = """
import select, signal, sys
for number in (2, 10):
    signal.signal(number, lambda n, _: print("got", n, flush=True))
print("up", flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    pass
sys.exit(0 if input() == "" else 1)
"""


# ---- the life of CMD


def test_cmd_starts_when_the_funnel_accepts(litefunnel, db):
    result = run(litefunnel, db, *python("""
import os, socket
socket.socket(socket.AF_UNIX).connect(os.environ["LITEFUNNEL_SOCKET"])
print(os.environ["LITEFUNNEL_DB"], os.environ["LITEFUNNEL_SOCKET"])
print("LITEFUNNEL_READY_FD" in os.environ)
"""))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{db} {db}-funnel\nFalse\n"  # and nothing of the funnel
    assert funnel_pid(db) == 0


def test_relative_paths_and_another_socket(litefunnel, db, tmp_path):
    where = os.path.dirname(db)
    result = run(litefunnel, "app.db", "sh", "-c", "cd /; echo $LITEFUNNEL_DB $LITEFUNNEL_SOCKET",
                 options=("--create", "--socket", "s.sock"), cwd=where)
    assert result.stdout == f"{db} {where}/s.sock\n", result.stderr
    config = tmp_path / "f.conf"
    config.write_text(f"socket = {where}/c.sock\n")
    result = run(litefunnel, db, "sh", "-c", "echo $LITEFUNNEL_SOCKET",
                 options=("--create", f"--config={config}"))
    assert result.stdout == f"{where}/c.sock\n", result.stderr


@pytest.mark.parametrize("cmd, code", [
    (["true"], 0),
    (["sh", "-c", "exit 7"], 7),
    (["sh", "-c", "exit 255"], 255),
    (["sh", "-c", "kill -TERM $$"], 143),
    (["sh", "-c", "kill -KILL $$"], 137),
    (["no-such-command-here"], 127),
    (["/etc/passwd"], 126),
])
def test_exit_code_is_that_of_cmd(litefunnel, db, cmd, code):
    assert run(litefunnel, db, *cmd).returncode == code
    assert funnel_pid(db) == 0


def test_funnel_that_cannot_start_is_125_and_cmd_never_runs(litefunnel, db):
    for options, path in (((), db), (("--create",), "/no/such/dir/app.db"),
                          (("--no-such-option",), db)):
        result = run(litefunnel, path, "touch", f"{db}.ran", options=options)
        assert result.returncode == 125 and result.stderr, (options, result)
    assert not os.path.exists(f"{db}.ran")


def test_usage(litefunnel, db, monkeypatch):
    monkeypatch.delenv("LITEFUNNEL_DB", raising=False)
    program = str(litefunnel)
    said = subprocess.run([program, "run", "--help"], capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith("usage: litefunnel run DB")
    for args in ([], [db], [db, "--"], ["--create", "--", "true"]):
        result = subprocess.run([program, "run", *args], capture_output=True, text=True)
        assert result.returncode == 2 and result.stderr.startswith("litefunnel run: "), args
    monkeypatch.setenv("LITEFUNNEL_DB", db)
    assert subprocess.run([program, "run", "--create", "--", "true"]).returncode == 0
    assert os.path.exists(f"{db}-funnel.lock")


def test_stdin_and_stdout_are_cmd_s(litefunnel, db):
    result = run(litefunnel, db, "cat", input="to cmd\n")
    assert result.stdout == "to cmd\n"


# ---- signals


def test_signals_reach_cmd(litefunnel, db):
    supervisor = start(litefunnel, db, *python(WAIT))
    try:
        assert supervisor.stdout.readline() == "up\n"
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1,
                       signal.SIGUSR2, signal.SIGTERM, signal.SIGWINCH):
            supervisor.send_signal(number)
            assert supervisor.stdout.readline() == f"got {int(number)}\n"
        assert funnel_pid(db) and accepts(db)
        supervisor.communicate("", timeout=SLOW)
        assert supervisor.returncode == 0
    finally:
        supervisor.kill()


def test_sigterm_ends_cmd_and_then_the_funnel(litefunnel, db):
    supervisor = start(litefunnel, db, *python(
        "import time\nprint('up')\ntime.sleep(60)"))
    try:
        assert supervisor.stdout.readline() == "up\n"
        supervisor.terminate()
        supervisor.communicate(timeout=SLOW)
        assert supervisor.returncode == 143
        assert funnel_pid(db) == 0
    finally:
        supervisor.kill()


def test_second_sigterm_gives_cmd_the_drain_timeout_and_no_more(litefunnel, db):
    supervisor = start(litefunnel, db, *python(WAIT),
                       options=("--create", "--drain-timeout", "300ms"))
    try:
        assert supervisor.stdout.readline() == "up\n"
        supervisor.terminate()
        assert supervisor.stdout.readline() == "got 15\n"
        time.sleep(0.6)
        assert supervisor.poll() is None  # the first is CMD's own business
        began = time.monotonic()
        supervisor.terminate()
        supervisor.wait(timeout=SLOW)
        assert supervisor.returncode == 137
        assert time.monotonic() - began < 10
    finally:
        supervisor.kill()


def test_ctrl_c_reaches_cmd_once_and_leaves_the_funnel(litefunnel, db):
    pid, terminal = pty.fork()
    if pid == 0:
        args = command(litefunnel, db, *python(WAIT_AT_TERMINAL))
        os.execv(args[0], args)
    seen = b""

    def read_until(text):
        nonlocal seen
        until = time.monotonic() + SLOW
        while text not in seen:
            left = until - time.monotonic()
            assert left > 0 and select.select([terminal], [], [], left)[0], seen
            seen += os.read(terminal, 1024)

    try:
        read_until(b"up\r\n")
        os.write(terminal, b"\x03")
        read_until(b"got 2\r\n")
        os.kill(pid, signal.SIGUSR1)
        read_until(b"got 10\r\n")
        assert seen.count(b"got 2\r\n") == 1
        assert funnel_pid(db) and accepts(db)
        os.write(terminal, b"\n")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


# ---- the life of the funnel


def test_funnel_that_dies_comes_back_and_cmd_does_not_notice(litefunnel, db):
    supervisor = start(litefunnel, db, *python(WAIT))
    try:
        assert supervisor.stdout.readline() == "up\n"
        for _ in range(3):
            old = wait_for(lambda: funnel_pid(db), "no funnel")
            wait_for(lambda: accepts(db), "the funnel does not accept")
            os.kill(old, signal.SIGKILL)
            wait_for(lambda: funnel_pid(db) not in (0, old), "no new funnel")
        wait_for(lambda: accepts(db), "the new funnel does not accept")
        out, err = supervisor.communicate("", timeout=SLOW)
        assert supervisor.returncode == 0 and out == ""
        assert "funnel ended" in err and "funnel back" in err
        assert funnel_pid(db) == 0
    finally:
        supervisor.kill()


def test_cmd_that_ends_while_the_funnel_is_down(litefunnel, db):
    result = run(litefunnel, db, "sh", "-c", f"kill -9 $(cat {db}-funnel.lock); exit 9")
    assert result.returncode == 9
    assert funnel_pid(db) == 0


def test_funnel_drains_when_the_supervisor_is_killed(litefunnel, db):
    supervisor = start(litefunnel, db, *python(WAIT))
    try:
        assert supervisor.stdout.readline() == "up\n"
        assert funnel_pid(db)
        supervisor.kill()
        supervisor.wait(timeout=SLOW)
        wait_for(lambda: funnel_pid(db) == 0, "the funnel stays")
    finally:
        supervisor.stdin.close()


# ---- processes


ORPHAN = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.3)          # outlives its parent, then is a zombie if nobody reaps
        os._exit(0)
    os._exit(0)
os.wait()
print("up", flush=True)
input()
"""


def test_orphans_are_reaped(litefunnel, db):
    supervisor = start(litefunnel, db, *python(ORPHAN))
    try:
        assert supervisor.stdout.readline() == "up\n"
        assert len(children(supervisor.pid)) == 3  # funnel, CMD, the orphan
        wait_for(lambda: len(children(supervisor.pid)) == 2, "the orphan was not reaped")
        supervisor.communicate("\n", timeout=SLOW)
        assert supervisor.returncode == 0
    finally:
        supervisor.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a pid namespace")
def test_as_pid_1(litefunnel, db):
    args = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
            *command(litefunnel, db, "sh", "-c",
                     "cat /proc/1/comm; (sleep 0.1 &) ; sleep 0.5; "
                     "grep -c '^State:.*zombie' /proc/[0-9]*/status | grep -c ':[1-9]'; exit 5")]
    result = subprocess.run(args, capture_output=True, text=True, timeout=SLOW)
    if "unshare" in result.stderr and "ailed" in result.stderr:
        pytest.skip(result.stderr)
    comm, zombies = result.stdout.split()
    assert comm == os.path.basename(str(litefunnel))[:15]
    assert zombies == "0" and result.returncode == 5, result.stderr


def test_nothing_is_inherited_that_cmd_should_not_have(litefunnel, db):
    result = run(litefunnel, db, *python(
        "import os, signal\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:3])\n"
        "print(len(os.listdir('/proc/self/fd')))\n"
        "print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"))
    assert result.stdout == "[0, 1, 2]\n4\n[]\n", (result.stdout, result.stderr)
