# SPDX-License-Identifier: MIT
"""Where `litefunnel serve` refuses to start: real mounts, real second users, real links."""
import ctypes
import os
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import tempfile
import threading

import pytest

ROOT = os.geteuid() == 0
ME, OTHER = 20011, 20012
libc = ctypes.CDLL(None, use_errno=True)

needs_root = pytest.mark.skipif(not ROOT, reason="needs root, for mounts and second users")


@pytest.fixture
def place():
    """A directory that other users may pass through, unlike pytest's own."""
    path = tempfile.mkdtemp(prefix="place-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


def make_db(path, uid=None, mode=0o640):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t(a)")
    db.close()
    os.chmod(path, mode)
    if uid is not None:
        os.chown(path, uid, uid)
    return path


def make_dir(path, uid=None, mode=0o750):
    os.mkdir(path)
    if uid is not None:
        os.chown(path, uid, uid)
    os.chmod(path, mode)
    return path


def serve(litefunnel, db, *options, uid=None):
    who = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    return subprocess.Popen(
        [str(litefunnel), "serve", db, *options], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd="/", **who)


def refused(litefunnel, db, *options, uid=None):
    """What it said, and that it refused."""
    daemon = serve(litefunnel, db, *options, uid=uid)
    try:
        out, err = daemon.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        raise
    assert daemon.returncode not in (0, None) and not out.startswith("ready"), (out, err)
    return err


def started(litefunnel, db, *options, uid=None):
    """Starts, stops, and returns what it logged."""
    daemon = serve(litefunnel, db, *options, uid=uid)
    try:
        line = daemon.stdout.readline()
        if not line.startswith("ready"):
            daemon.kill()
            pytest.fail(f"not ready: {line!r} {daemon.stderr.read()!r}")
        daemon.terminate()
        return daemon.communicate(timeout=20)[1]
    finally:
        daemon.kill()


def mount(source, target, fstype, flags=0, data=""):
    if libc.mount(source.encode(), target.encode(), fstype.encode(), flags, data.encode()) != 0:
        error = ctypes.get_errno()
        pytest.skip(f"cannot mount {fstype}: {os.strerror(error)}")


def umount(target):
    assert libc.umount2(target.encode(), 2) == 0, os.strerror(ctypes.get_errno())  # MNT_DETACH


class EmptyFuse:
    """A FUSE filesystem with an empty root directory, in a thread: as much as a refusal needs."""

    INIT, GETATTR, STATFS, LOOKUP, DESTROY = 26, 3, 17, 1, 38
    FORGETS = (2, 42)

    def __init__(self, target):
        self.target = target
        self.fd = os.open("/dev/fuse", os.O_RDWR)
        mount("empty", target, "fuse", 0,
              f"fd={self.fd},rootmode=40000,user_id=0,group_id=0,allow_other")
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def answer(self, opcode):
        if opcode == self.INIT:
            return 0, struct.pack("<IIIIHHIIHH8I", 7, 31, 0, 0, 0, 0, 4096, 0, 0, 0, *[0] * 8)
        if opcode == self.GETATTR:
            attr = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40700, 2, 0, 0, 0, 4096, 0)
            return 0, struct.pack("<QII", 1, 0, 0) + attr
        if opcode == self.STATFS:
            return 0, struct.pack("<5Q4I6I", *[1000] * 5, 4096, 255, 4096, 0, *[0] * 6)
        if opcode == self.LOOKUP:
            return -2, b""
        return (0 if opcode == self.DESTROY else -38), b""

    def run(self):
        while True:
            try:
                request = os.read(self.fd, 1 << 17)
            except OSError:
                return
            _, opcode, unique = struct.unpack_from("<IIQ", request)
            if opcode not in self.FORGETS:
                error, body = self.answer(opcode)
                os.write(self.fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)

    def close(self):
        umount(self.target)
        self.thread.join(10)
        os.close(self.fd)


# ---- filesystems


@needs_root
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse")
def test_fuse_is_refused(litefunnel, place):
    fuse = EmptyFuse(make_dir(f"{place}/fuse"))
    try:
        said = refused(litefunnel, f"{place}/fuse/app.db", "--create")
        assert "fuse" in said and "cure" in said and "named volume" in said
    finally:
        fuse.close()


@needs_root
def test_overlay_is_a_warning(litefunnel, place):
    ground = make_dir(f"{place}/ground")
    mount("tmpfs", ground, "tmpfs")
    try:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{ground}/{name}", 0o750)
        mount("overlay", f"{ground}/merged", "overlay", 0,
              f"lowerdir={ground}/lower,upperdir={ground}/upper,workdir={ground}/work")
        try:
            said = started(litefunnel, f"{ground}/merged/app.db", "--create")
            assert "overlay" in said
        finally:
            umount(f"{ground}/merged")
    finally:
        umount(ground)


@needs_root
def test_read_only_mount_is_refused(litefunnel, place):
    ground = make_dir(f"{place}/ground")
    mount("tmpfs", ground, "tmpfs", 0, "mode=0750")
    try:
        make_db(f"{ground}/app.db")
        assert libc.mount(None, ground.encode(), None, 32 | 1, None) == 0  # REMOUNT | RDONLY
        assert "read-only" in refused(litefunnel, f"{ground}/app.db")
    finally:
        umount(ground)


@needs_root
def test_file_that_is_mounted_alone_is_refused(litefunnel, place):
    make_dir(f"{place}/host")
    make_dir(f"{place}/inside")
    make_db(f"{place}/host/app.db")
    open(f"{place}/inside/app.db", "w").close()
    mount(f"{place}/host/app.db", f"{place}/inside/app.db", "none", 4096)  # MS_BIND
    try:
        said = refused(litefunnel, f"{place}/inside/app.db")
        assert "mount the directory, not the file" in said
    finally:
        umount(f"{place}/inside/app.db")
    assert started(litefunnel, f"{place}/host/app.db") is not None


@needs_root
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="no mkfs.ext4")
def test_disk_of_its_own_is_good(litefunnel, place):
    image, disk = f"{place}/image", make_dir(f"{place}/disk")
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, disk]).returncode != 0:
        pytest.skip("no loop devices")
    try:
        os.chmod(disk, 0o750)
        assert started(litefunnel, f"{disk}/app.db", "--create") is not None
        assert os.path.exists(f"{disk}/lost+found")
    finally:
        subprocess.run(["umount", disk], check=True)


# ---- users


@needs_root
def test_one_s_own_database_is_good(litefunnel, place):
    make_dir(f"{place}/d", ME)
    make_db(f"{place}/d/app.db", ME)
    started(litefunnel, f"{place}/d/app.db", uid=ME)
    for name in ("app.db", "app.db-wal", "app.db-shm", "app.db-funnel.lock"):
        st = os.stat(f"{place}/d/{name}")
        assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (ME, 0o640), name
    started(litefunnel, f"{place}/d/app.db", uid=ME)  # and what it left is good again


@needs_root
@pytest.mark.parametrize("dir_uid, dir_mode, db_uid, db_mode, says", [
    (ME, 0o750, OTHER, 0o640, "adopt"),
    (OTHER, 0o755, ME, 0o640, "adopt"),
    (ME, 0o750, ME, 0o660, "adopt"),
    (ME, 0o750, ME, 0o646, "adopt"),
    (ME, 0o757, ME, 0o640, "anybody"),
    (0, 0o1777, ME, 0o640, "anybody"),
    (0, 0o755, ME, 0o640, "adopt"),
])
def test_what_others_may_write_is_refused(litefunnel, place, dir_uid, dir_mode, db_uid, db_mode,
                                          says):
    make_dir(f"{place}/d", dir_uid, dir_mode)
    make_db(f"{place}/d/app.db", db_uid, db_mode)
    before = sorted(os.listdir(f"{place}/d"))
    said = refused(litefunnel, f"{place}/d/app.db", uid=ME)
    assert says in said and "cure" in said
    assert sorted(os.listdir(f"{place}/d")) == before


@needs_root
def test_root_refuses_a_database_of_another(litefunnel, place):
    make_dir(f"{place}/d", ME)
    make_db(f"{place}/d/app.db", ME)
    assert "adopt" in refused(litefunnel, f"{place}/d/app.db")


@needs_root
def test_sidecars_that_differ_are_refused(litefunnel, place):
    make_dir(f"{place}/d", ME)
    db = make_db(f"{place}/d/app.db", ME)
    started(litefunnel, db, uid=ME)
    for name in (f"{db}-wal", f"{db}-shm"):
        os.chmod(name, 0o600)
        assert os.path.basename(name) in refused(litefunnel, db, uid=ME)
        os.chmod(name, 0o640)
        os.chown(name, -1, OTHER)
        assert "adopt" in refused(litefunnel, db, uid=ME)
        os.chown(name, -1, ME)
    started(litefunnel, db, uid=ME)


# ---- files


def test_missing_database_is_refused_and_not_made(litefunnel, place):
    said = refused(litefunnel, f"{place}/app.db")
    assert "--create" in said
    assert os.listdir(place) == []


def test_wal_without_its_database_is_refused_also_with_create(litefunnel, place):
    with open(f"{place}/app.db-wal", "wb") as wal:
        wal.write(b"commits")
    assert "may hold commits" in refused(litefunnel, f"{place}/app.db", "--create")
    assert os.listdir(place) == ["app.db-wal"]


def test_links_are_refused(litefunnel, place):
    make_db(f"{place}/app.db")
    os.symlink("app.db", f"{place}/link.db")
    assert "symbolic link" in refused(litefunnel, f"{place}/link.db")
    os.link(f"{place}/app.db", f"{place}/hard.db")
    assert "hard links" in refused(litefunnel, f"{place}/app.db")
    os.unlink(f"{place}/hard.db")
    started(litefunnel, f"{place}/app.db")


def test_directory_through_a_link_is_the_same_database(litefunnel, place):
    make_dir(f"{place}/real")
    os.symlink("real", f"{place}/alias")
    make_db(f"{place}/real/app.db")
    daemon = serve(litefunnel, f"{place}/alias/app.db")
    try:
        assert daemon.stdout.readline().startswith("ready")
        assert os.path.exists(f"{place}/real/app.db-funnel")
        assert f"pid {daemon.pid}" in refused(litefunnel, f"{place}/real/app.db")
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)


def test_second_daemon_is_refused_until_the_first_is_gone(litefunnel, place):
    db = make_db(f"{place}/app.db")
    first = serve(litefunnel, db)
    try:
        assert first.stdout.readline().startswith("ready")
        said = refused(litefunnel, db, "--socket", f"{place}/other.sock")
        assert f"pid {first.pid}" in said
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=20)
    assert os.path.exists(f"{db}-funnel.lock")
    started(litefunnel, db)


def test_socket_path_that_is_too_long_is_refused(litefunnel, place):
    deep = place + "/" + "d" * 100
    os.mkdir(deep)
    make_db(f"{deep}/app.db")
    said = refused(litefunnel, f"{deep}/app.db")
    assert "107" in said and "--socket" in said
    started(litefunnel, f"{deep}/app.db", "--socket", f"{place}/s")


def test_fuse_server_of_this_test_answers(place):
    """Otherwise test_fuse_is_refused could pass for a reason of its own."""
    if not ROOT or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    fuse = EmptyFuse(make_dir(f"{place}/fuse"))
    try:
        assert stat.S_ISDIR(os.stat(f"{place}/fuse").st_mode)
        assert os.statvfs(f"{place}/fuse").f_namemax == 255
        with pytest.raises(FileNotFoundError):
            os.stat(f"{place}/fuse/x")
    finally:
        fuse.close()
