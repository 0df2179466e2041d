# SPDX-License-Identifier: MIT
"""Replicas of both kinds: a directory, and a bucket of a real S3 server."""
import os
import random
import uuid

import pytest

CREATED_MS = 1795343655247


@pytest.fixture
def segments(tmp_path):
    """Files of some sizes, by name."""
    made = {}
    for name, size in (("a", 300_000), ("b", 300_000), ("tiny", 1), ("empty", 0)):
        path = tmp_path / f"segment-{name}"
        path.write_bytes(random.Random(name).randbytes(size))
        made[name] = path
    return made


def test_there_and_back(place, replica, segments, tmp_path):
    handle = replica(*place)
    for number, name in enumerate(segments, 1):
        assert handle.put(0, number, number, segments[name]) == ["OK"]
        assert handle.get(0, number, number, tmp_path / "out") == ["OK"]
        assert (tmp_path / "out").read_bytes() == segments[name].read_bytes()
        result, values = handle.look(0, number, number)
        assert result == "OK" and values["known"] == "1" and values["writer"] == "01" * 16
        assert int(values["size"]) == segments[name].stat().st_size
        assert int(values["created_ms"]) == CREATED_MS
    whole = segments["a"].read_bytes()
    for offset, length in ((0, 1), (299_999, 10), (300_000, 10), (300_001, "-"), (1000, 200_000)):
        assert handle.get(0, 1, 1, tmp_path / "out", offset, length) == ["OK"]
        end = None if length == "-" else offset + length
        assert (tmp_path / "out").read_bytes() == whole[offset:end]


def test_a_number_is_given_once(place, replica, segments):
    ours, other = replica(*place), replica(*place)
    assert ours.put(0, 1, 1, segments["a"], writer="01") == ["OK"]
    assert ours.put(0, 1, 1, segments["a"], writer="01") == ["OK"]
    for path, writer in (("a", "02"), ("b", "01"), ("b", "02"), ("a", "-")):
        result, why = other.put(0, 1, 1, segments[path], writer=writer)
        assert result == "EXISTS" and "another daemon" in why
    assert ours.look(0, 1, 1)[1]["writer"] == "01" * 16


def test_what_is_not_there(place, replica, segments, tmp_path):
    handle = replica(*place)
    assert handle.look(0, 1, 1)[0] == "MISSING"
    assert handle.get(0, 1, 1, tmp_path / "out")[0] == "MISSING"
    assert handle.delete(0, 1, 1) == ["OK"]
    assert handle.list(0) == ([], "OK")
    assert handle.ask("generations") == ["OK", "0"]
    assert handle.put(0, 1, 1, segments["a"]) == ["OK"]
    assert handle.delete(0, 1, 1) == ["OK"]
    assert handle.look(0, 1, 1)[0] == "MISSING"
    assert handle.list(0) == ([], "OK")


def test_a_probe_finds_the_fence(place, replica):
    handle = replica(*place)
    assert handle.ask("probe") == ["OK"]
    assert replica(*place).ask("probe") == ["OK"]
    assert handle.list(0) == ([], "OK")


def test_segments_without_a_record_are_litestream_s(place, replica, segments):
    handle = replica(*place)
    assert handle.put(0, 1, 1, segments["a"], writer="-") == ["OK"]
    result, values = handle.look(0, 1, 1)
    assert result == "OK" and values["known"] == "0" and "writer" not in values
    assert int(values["created_ms"]) == CREATED_MS


def test_lists_longer_than_a_page(s3, replica):
    """2,100 objects: three pages; from the middle; and names that are none are passed over."""
    prefix = uuid.uuid4().hex
    numbers = [*range(1, 2100), 0x10000]
    for n in numbers:
        status, _, body = s3.ask("PUT", f"/{s3.bucket}/{prefix}/0000/{n:016x}-{n:016x}.ltx")
        assert status == 200, body
    for stray in ("0000/manifest", f"0000/{1:016x}-{1:016x}.ltx.tmp", f"0000/x/{7:016x}-{7:016x}.ltX"):
        s3.ask("PUT", f"/{s3.bucket}/{prefix}/{stray}")
    handle = replica(s3.url(s3.bucket, prefix), s3.environment())
    files, result = handle.list(0)
    assert result == "OK" and [f[1] for f in files] == numbers
    assert all(f[1] == f[2] and f[3] == 0 and f[4] > 1.7e12 for f in files)
    for start in (1, 2, 1500, 2099, 2100, 0x10001):
        assert [f[1] for f in handle.list(0, start)[0]] == [n for n in numbers if n >= start]
    assert handle.stats()["list"] == 3 + 3 + 3 + 1 + 1 + 1 + 1


@pytest.mark.parametrize("prefix", ["a b/c+d", "k=v&x;y", "~tilde/%25/percent", "\u00e9t\u00e9/'quoted'\"",
                                    "a//b", "[x]{y}|^`<z>", "*(!)@,:$"])
def test_prefixes_of_all_kinds(s3, replica, segments, tmp_path, prefix):
    spelt = prefix
    for c in "%?#@ \"<>&":
        spelt = spelt.replace(c, f"%{ord(c):02x}") if c != "%" else spelt
    handle = replica(s3.url(s3.bucket, spelt), s3.environment())
    assert handle.opened[0] == "OK", handle.opened
    assert handle.put(0, 1, 1, segments["tiny"]) == ["OK"]
    assert handle.get(0, 1, 1, tmp_path / "out") == ["OK"]
    assert handle.list(0)[0][0][:4] == (0, 1, 1, 1)
    assert handle.delete(0, 1, 1) == ["OK"]


def test_large_segments_go_up_in_parts(s3, replica, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(random.Random(1).randbytes(70 << 20))
    prefix = uuid.uuid4().hex
    handle = replica(s3.url(s3.bucket, prefix), s3.environment())
    assert handle.put(9, 1, 5, path) == ["OK"]
    assert handle.stats()["put"] == 1 + 5 + 1
    assert handle.get(9, 1, 5, tmp_path / "out") == ["OK"]
    assert (tmp_path / "out").read_bytes() == path.read_bytes()
    assert handle.put(9, 1, 5, path) == ["OK"]
    assert handle.put(9, 1, 5, path, writer="02")[0] == "EXISTS"
    result, values = handle.look(9, 1, 5)
    assert values["known"] == "1" and int(values["created_ms"]) == CREATED_MS
    # Level 0 is fenced by one conditional request.
    before = handle.stats()["put"]
    assert handle.put(0, 1, 5, path) == ["OK"]
    assert handle.stats()["put"] == before + 1
    # Nothing is left behind that costs money unseen.
    assert b"<Upload>" not in s3.ask("GET", f"/{s3.bucket}", {"uploads": "", "prefix": prefix})[2]


def test_credentials_that_are_refused(s3, replica, segments):
    url = s3.url(s3.bucket, uuid.uuid4().hex)
    secret = "wrong/secret+that-must-not-be-shown"
    handle = replica(url, {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": secret})
    for words in (("probe",), ("list", 0, 0), ("look", 0, 1, 1), ("delete", 0, 1, 1),
                  ("put", 0, 1, 1, segments["tiny"], CREATED_MS, "01")):
        result, why = handle.ask(*words)
        assert result == "DENIED" and secret not in why
    assert replica(url).ask("probe")[0] == "DENIED"


def test_credentials_may_be_rotated(s3, replica, segments, tmp_path):
    path = tmp_path / "credentials"
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    path.write_text(text.format(s3.access_key, s3.secret_key))
    handle = replica(s3.url(s3.bucket, uuid.uuid4().hex), {"AWS_SHARED_CREDENTIALS_FILE": path})
    assert handle.put(0, 1, 1, segments["tiny"]) == ["OK"]
    path.write_text(text.format("old", "old"))
    assert handle.put(0, 2, 2, segments["tiny"]) == ["OK"]
    handle = replica(handle.url, {"AWS_SHARED_CREDENTIALS_FILE": path})
    assert handle.put(0, 3, 3, segments["tiny"])[0] == "DENIED"
    path.write_text(text.format(s3.access_key, s3.secret_key))
    assert handle.put(0, 3, 3, segments["tiny"]) == ["OK"]


def test_secrets_are_in_no_argument(s3, replica):
    handle = replica(s3.url(s3.bucket, "x"), s3.environment())
    assert handle.ask("list", 0, 0)[-1] == "OK"
    with open(f"/proc/{handle.process.pid}/cmdline", "rb") as file:
        assert s3.secret_key.encode() not in file.read()


def test_a_bucket_that_is_not_there(s3, replica, segments):
    handle = replica(s3.url("no-such-" + s3.bucket, "p"), s3.environment())
    for words in (("probe",), ("list", 0, 0), ("put", 0, 1, 1, segments["tiny"], CREATED_MS, "01")):
        result, why = handle.ask(*words)
        assert result == "DENIED" and "NoSuchBucket" in why


def test_a_store_that_is_away(replica, segments):
    handle = replica("s3://bucket/p?endpoint=http://127.0.0.1:1&timeout-ms=100",
                     {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"})
    result, why = handle.put(0, 1, 1, segments["tiny"])
    assert result == "AGAIN" and "127.0.0.1" in why


def test_directories_that_are_in_the_way(replica, segments, tmp_path):
    (tmp_path / "file").write_text("")
    handle = replica(f"file://{tmp_path}/file")
    assert handle.put(0, 1, 1, segments["tiny"])[0] == "DENIED"
    assert handle.ask("probe")[0] == "DENIED"


def test_a_full_directory_is_no_end(replica, segments, tmp_path):
    """What did not fit leaves nothing behind, and fits later."""
    import subprocess
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", small], check=True)
    try:
        handle = replica(f"file://{small}/r")
        result, why = handle.put(0, 1, 1, segments["a"])
        assert result == "AGAIN" and "No space" in why
        assert os.listdir(small / "r" / "ltx" / "0") == []
        subprocess.run(["mount", "-o", "remount,size=2m", small], check=True)
        assert handle.put(0, 1, 1, segments["a"]) == ["OK"]
    finally:
        subprocess.run(["umount", small], check=True)
