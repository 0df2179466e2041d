# SPDX-License-Identifier: MIT
"""deploy/: the units as systemd sees them, socket activation, the sample config, the man pages."""
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import msgpack
import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SERVICE = (DEPLOY / "litefunnel@.service.in").read_text()
SOCKET = (DEPLOY / "litefunnel@.socket").read_text()

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None,
                                   reason="needs systemd-analyze")


@pytest.fixture
def place():
    path = tempfile.mkdtemp(prefix="deploy-")
    os.chmod(path, 0o750)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def units(litefunnel, tmp_path):
    """The units as meson installs them, with the program that was built."""
    program = tmp_path / "bin" / "litefunnel"
    program.parent.mkdir()
    program.symlink_to(litefunnel)
    for name in ("litefunnel@", "litefunnel@app"):
        (tmp_path / f"{name}.service").write_text(
            SERVICE.replace("@bindir@", str(program.parent)))
        (tmp_path / f"{name}.socket").write_text(SOCKET)
    return tmp_path


def analyze(units, *args):
    return subprocess.run(["systemd-analyze", *args], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"})


def directives(text):
    return dict(re.findall(r"^([A-Z]\w+)=(.*)$", text, re.MULTILINE))


# ---- units


@needs_systemd
@pytest.mark.parametrize("kind", ["service", "socket"])
def test_units_are_clean(units, kind):
    result = analyze(units, "verify", "--man=no", str(units / f"litefunnel@app.{kind}"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd
def test_verify_would_find_a_mistake(units):
    unit = units / "litefunnel@app.service"
    unit.write_text(unit.read_text().replace("ProtectClock=", "ProtectClok="))
    assert "ProtectClok" in analyze(units, "verify", "--man=no", str(unit)).stderr


@needs_systemd
def test_exposure_is_low(units):
    result = analyze(units, "security", "--offline=true", "--threshold=20",
                     str(units / "litefunnel@app.service"))
    assert result.returncode == 0, result.stdout[-2000:]


def test_socket_stands_where_clients_look():
    served = re.search(r"^ExecStart=\S+ serve (\S+)", SERVICE, re.MULTILINE)[1]
    assert directives(SOCKET)["ListenStream"] == served + "-funnel"
    assert directives(SOCKET)["SocketMode"] == "0660"
    assert directives(SERVICE)["UMask"] == "0027"
    assert directives(SERVICE)["ReadWritePaths"] == os.path.dirname(served)


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="needs systemd-sysusers")
def test_account_and_directories(tmp_path):
    root = tmp_path / "root"
    for path in ("etc", "var/lib"):
        (root / path).mkdir(parents=True)
    subprocess.run(["systemd-sysusers", f"--root={root}", str(DEPLOY / "litefunnel.sysusers")],
                   check=True, capture_output=True)
    assert "\nlitefunnel:" in "\n" + (root / "etc/passwd").read_text()
    assert "\nlitefunnel:" in "\n" + (root / "etc/group").read_text()
    if os.geteuid() == 0:
        subprocess.run(["systemd-tmpfiles", f"--root={root}", "--create",
                        str(DEPLOY / "litefunnel.tmpfiles")], check=True, capture_output=True)
        assert (root / "var/lib/litefunnel").stat().st_mode & 0o7777 == 0o755
        assert (root / "etc/litefunnel").is_dir()


# ---- socket activation


def frame(message):
    payload = msgpack.packb(message)
    return struct.pack(">I", len(payload)) + payload


def receive(client):
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack_from(">I", data)[0]:
        more = client.recv(65536)
        assert more, "closed"
        data += more
    return msgpack.unpackb(data[4:], raw=False)


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None,
                    reason="needs systemd-socket-activate")
def test_client_that_connects_before_the_daemon_waits(litefunnel, place):
    db = f"{place}/app.db"
    activator = subprocess.Popen(
        ["systemd-socket-activate", "-l", f"{db}-funnel", str(litefunnel), "serve", db,
         "--create"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, umask=0o117)
    try:
        until = time.monotonic() + 20
        while not os.path.exists(f"{db}-funnel"):
            assert time.monotonic() < until and activator.poll() is None
            time.sleep(0.01)
        inode = os.stat(f"{db}-funnel").st_ino
        assert not os.path.exists(db)  # nobody has started yet
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            while client.connect_ex(f"{db}-funnel") != 0:  # it is bound before it listens
                assert time.monotonic() < until and activator.poll() is None
            client.sendall(frame([0, 1, "hello", {"proto": [1, 1], "client": "test/1"}]))
            kind, number, error, result = receive(client)
            assert (kind, number, error) == (1, 1, None)
            assert result["db"] == db
            assert result["pid"] == activator.pid  # it became the daemon
        assert os.stat(f"{db}-funnel").st_ino == inode
        activator.terminate()
        activator.communicate(timeout=20)
        assert activator.returncode == 0
        assert os.stat(f"{db}-funnel").st_ino == inode  # systemd's, not ours to remove
    finally:
        activator.kill()
        activator.communicate()


def test_service_manager_is_told(litefunnel, place):
    """READY=1 when it accepts, WATCHDOG=1 from then on, STOPPING=1 at the end."""
    db, told = f"{place}/app.db", f"{place}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(told)
        manager.settimeout(20)
        env = {**os.environ, "NOTIFY_SOCKET": told, "WATCHDOG_USEC": "400000"}
        env.pop("WATCHDOG_PID", None)
        daemon = subprocess.Popen([str(litefunnel), "serve", db, "--create"], env=env,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            said = ""
            while "READY=1" not in said:
                said += manager.recv(4096).decode() + "\n"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{db}-funnel")
            while said.count("WATCHDOG=1") < 3:
                said += manager.recv(4096).decode() + "\n"
            daemon.terminate()
            while "STOPPING=1" not in said:
                said += manager.recv(4096).decode() + "\n"
            assert daemon.wait(timeout=20) == 0
        finally:
            daemon.kill()
            daemon.communicate()


# ---- the documents


def options_of(litefunnel, command):
    said = subprocess.run([str(litefunnel), command, "--help"], capture_output=True, text=True,
                          timeout=20)
    assert said.returncode == 0
    return set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", said.stdout))


def sample_settings():
    text = (DEPLOY / "litefunnel.conf.sample").read_text()
    return dict(re.findall(r"^#(\w+) =[ ]?(.*)$", text, re.MULTILINE))


def test_sample_and_manual_hold_every_setting(litefunnel):
    not_settings = {"create", "config", "help", "restore-if-missing", "http"}
    settings = {name.replace("-", "_") for name in options_of(litefunnel, "serve") - not_settings}
    assert len(settings) > 20
    assert set(sample_settings()) == settings
    manual = (DEPLOY / "man/litefunnel.conf.5").read_text()
    assert set(re.findall(r"^\.It Ic (\w+) =", manual, re.MULTILINE)) == settings


def test_manual_tells_the_defaults_of_the_sample():
    manual = (DEPLOY / "man/litefunnel.conf.5").read_text()
    for name, default in sample_settings().items():
        entry = re.search(rf"^\.It Ic {name} =.*?(?=^\.It|^\.El)", manual,
                          re.MULTILINE | re.DOTALL)[0]
        told = re.search(r"^Default: (\S+)\.$", entry, re.MULTILINE)
        assert (told[1] if told else "") == default, name


@pytest.mark.parametrize("uncommented", [False, True])
def test_sample_is_a_good_config(litefunnel, tmp_path, uncommented):
    text = (DEPLOY / "litefunnel.conf.sample").read_text()
    if uncommented:
        text = re.sub(r"^#(\w+ =)", r"\1", text, flags=re.MULTILINE)
    config = tmp_path / "app.conf"
    config.write_text(text)
    result = subprocess.run([str(litefunnel), "check-config", str(config)], capture_output=True,
                            text=True, timeout=20)
    assert result.returncode == 0, result.stderr


def test_manual_names_every_command(litefunnel):
    manual = (DEPLOY / "man/litefunnel.1").read_text()
    said = subprocess.run([str(litefunnel), "--help"], capture_output=True, text=True, timeout=20)
    commands = set(re.findall(r"^\.It Cm ([a-z-]+)$", manual, re.MULTILINE))
    for command in ("serve", "run", "adopt", "leave", "exec", "query", "status", "show", "reload",
                    "shutdown", "check-config", "version"):
        assert command in commands
        assert re.search(rf"\b{command}\b", said.stdout), command
    for command in ("adopt", "leave"):
        for option in options_of(litefunnel, command) - {"help"}:
            assert re.search(rf"Fl -{option}\b", manual), (command, option)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
@pytest.mark.parametrize("page", ["litefunnel.1", "litefunnel.conf.5"])
def test_manual_is_well_formed(page):
    result = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(DEPLOY / "man" / page)],
                            capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stdout) == (0, "")


def test_image_keeps_to_its_promises():
    text = (DEPLOY / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert stages == ["debian:bookworm-slim"] * 2
    last = text[text.rindex("FROM"):]
    assert "-dev" not in last and "\nUSER litefunnel\n" in last and "\nVOLUME /data\n" in last
    assert " ca-certificates " in last  # else no store, and no heartbeat, is trusted
    for forbidden in ("curl ", "wget", "git clone", "ADD http"):
        assert forbidden not in text
