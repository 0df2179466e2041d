# SPDX-License-Identifier: MIT
"""The vectors against a second MessagePack implementation, and against a running daemon."""
import os
import pathlib
import struct
import subprocess
import sys

import msgpack
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from wire import REPLY, REQUEST, Wire, unpack, vector  # noqa: E402

GOOD = sorted((ROOT / "proto" / "vectors" / "good").glob("*.hex"))
BAD = sorted((ROOT / "proto" / "vectors" / "bad").glob("*.hex"))


def depth(value):
    """Nesting of containers that hold something; not by recursion, for there are bombs among them."""
    levels, here = 0, [value]
    while any(isinstance(item, (list, dict)) and item for item in here):
        levels += 1
        here = [
            child
            for item in here
            if isinstance(item, (list, dict))
            for child in (item if isinstance(item, list) else [*item.keys(), *item.values()])
        ]
    return levels


def is_message(payload):
    """What PROTOCOL.md calls a message, decided by python3-msgpack."""

    def ext(code, data):
        raise ValueError("ext")

    def pairs(items):
        return {repr(key): value for key, value in items}

    try:
        value = msgpack.unpackb(
            payload, raw=False, unicode_errors="surrogateescape", ext_hook=ext,
            object_pairs_hook=pairs, strict_map_key=False, timestamp=0)
    except Exception:
        return False
    if not isinstance(value, list) or depth(value) > 16 or b"\xd6\xff" in payload:
        return False
    length = {0: 4, 1: 4, 2: 3}.get(value[0] if value and type(value[0]) is int else None)
    if len(value) != length or len(str(value[0])) != 1:
        return False
    if value[0] != 2 and not (type(value[1]) is int and 0 <= value[1] < 2**32):
        return False
    return True


def test_there_are_enough():
    assert len(GOOD) >= 40 and len(BAD) >= 60


@pytest.mark.parametrize("path", GOOD + BAD, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_file(path):
    data, notes = vector(path)
    payload = data[4:]
    assert struct.unpack(">I", data[:4])[0] == len(payload)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and max(map(len, lines)) <= 120
    if path.parent.name == "good":
        assert is_message(payload)
    else:
        assert notes["level"] in ("message", "params", "hello")
        wide_type = path.stem == "type_wide"  # a number, but not in one byte
        assert is_message(payload) == (notes["expect"] == "bad_request" or wide_type)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    program = os.environ.get("LITEFUNNEL_BIN")
    if not program:
        pytest.skip("LITEFUNNEL_BIN names no built litefunnel")
    folder = tmp_path_factory.mktemp("vectors")
    folder.chmod(0o700)
    process = subprocess.Popen(
        [program, "serve", str(folder / "v.db"), "--create"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("ready")
        yield str(folder / "v.db-funnel")
    finally:
        process.terminate()
        assert process.wait(30) == 0


def connection(path, notes, name):
    wire = Wire(path)
    if not name.startswith("hello") or name == "hello_twice":
        session = {"session": os.urandom(16)} if "needs" in notes else {}
        wire.hello(**session)
        wire.last_id = 1000
    return wire


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_at_daemon(daemon, path):
    data, notes = vector(path)
    message = unpack(data[4:])
    with connection(daemon, notes, path.stem) as wire:
        wire.send(data)
        if message[0] == REQUEST:
            error, result = wire.reply(message[1])
            expected = {"method_64_bytes": "unknown_method", "unknown_method": "unknown_method",
                        "reserved_method": "unknown_method"}.get(path.stem)
            assert (error or {}).get("code") == expected, error
        wire.last_id = 1000
        if path.stem != "bye":
            wire.call("ping")
        assert not wire.notices and not wire.replies


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_at_daemon(daemon, path):
    data, notes = vector(path)
    with connection(daemon, notes, path.stem) as wire:
        wire.send(data)
        if notes["expect"] == "broken":
            closing = wire.wait_closed()
            assert closing["code"] == "bad_request" and closing["message"]
            return
        error, result = wire.reply(7)
        assert result is None
        assert (error["code"], error["applied"], error["retry"]) == ("bad_request", "no", False)
        assert error["message"]
        wire.last_id = 1000
        wire.hello() if notes["level"] == "hello" else wire.call("ping")
        assert not wire.notices


def test_bytewise_at_daemon(daemon):
    data, _ = vector(ROOT / "proto" / "vectors" / "good" / "write_params_array.hex")
    with connection(daemon, {}, "bytewise") as wire:
        for byte in data:
            wire.send(bytes([byte]))
        error, result = wire.reply(7)
        assert error is None
        assert result["steps"][0]["rows"] == [[None, 1, -5, 1.5, "text", b"\x00\xff"]]
