# SPDX-License-Identifier: MIT
"""A network and a store that fail: nothing is lost, nothing is taken for another's, nothing is believed.

A real server behind a proxy that breaks three requests of ten, most of them after they were carried out.
"""
import concurrent.futures
import hashlib
import random
import uuid

import fault_proxy
import pytest

WRITERS = 8


@pytest.fixture
def puts(soak):
    return 100_000 if soak else 3_200


@pytest.fixture
def timeout_ms(soak):
    """Of a request. The long form must not take a machine that is busy for hours for one that is silent."""
    return 2000 if soak else 400


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def put_until_answered(handle, number, path, writer):
    """What a shipper does: the same again until there is an answer."""
    for _ in range(100):
        result, *why = handle.put(0, number, number, path, writer=writer)
        if result != "AGAIN":
            return result, why
    raise AssertionError(f"{number}: still {why}")


def assert_stored(s3, prefix, expected):
    """Each number is there once, with these bytes; and nothing else."""
    keys = s3.keys(s3.bucket, f"{prefix}/0000/")
    assert keys == [f"{prefix}/0000/{n:016x}-{n:016x}.ltx" for n in sorted(expected)]
    for n in random.Random(1).sample(sorted(expected), min(len(expected), 200)):
        status, headers, _ = s3.ask("HEAD", f"/{s3.bucket}/{prefix}/0000/{n:016x}-{n:016x}.ltx")
        path, writer = expected[n]
        assert status == 200 and headers["etag"].strip('"') == md5_of(path)
        assert headers["x-amz-meta-litefunnel-writer"] == writer * 16


@pytest.fixture
def files(tmp_path):
    paths = []
    for i in range(8):
        paths.append(tmp_path / f"segment{i}")
        paths[-1].write_bytes(random.Random(i).randbytes(200 * 3 ** i))
    return paths


def test_no_gap_and_no_false_fence(s3, replica, files, puts, timeout_ms):
    def ship(writer):
        prefix, name = uuid.uuid4().hex, f"{writer:02x}"
        handle = replica(s3.url(s3.bucket, prefix, proxy.endpoint, **{"timeout-ms": timeout_ms}),
                         s3.environment())
        # The large ones at the beginning only: the server keeps everything in memory.
        expected = {n: (files[n % (len(files) if n <= 400 else 4)], name)
                    for n in range(1, puts // WRITERS + 1)}
        for n, (path, _) in expected.items():
            result, why = put_until_answered(handle, n, path, name)
            assert result == "OK", f"false fence at {n}: {result} {why}"
        return prefix, expected

    with fault_proxy.proxy(s3.address, 0.3, seed=7, hold=5 * timeout_ms / 1000) as proxy:
        with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
            shipped = list(pool.map(ship, range(1, WRITERS + 1)))
        print(dict(proxy.counts))
        assert all(proxy.counts[fault] for fault in fault_proxy.FAULTS)
    for prefix, expected in shipped:
        assert_stored(s3, prefix, expected)


def test_of_two_writers_one_owns_each_number(s3, replica, files, puts, timeout_ms):
    """The fence is true: who is told OK owns the number, the other is told so."""
    prefix = uuid.uuid4().hex

    def contend(writer):
        handle = replica(s3.url(s3.bucket, prefix, proxy.endpoint, **{"timeout-ms": timeout_ms}),
                         s3.environment())
        name, won = f"{writer:02x}", set()
        for n in range(1, puts // 20 + 1):
            result, why = put_until_answered(handle, n, files[(n + writer) % 5], name)
            assert result in ("OK", "EXISTS"), why
            if result == "OK":
                won.add(n)
        return won

    with fault_proxy.proxy(s3.address, 0.3, seed=8, hold=5 * timeout_ms / 1000) as proxy:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            won = list(pool.map(contend, (1, 2, 3)))
    assert sum(map(len, won)) == puts // 20 and len(set.union(*won)) == puts // 20
    assert_stored(s3, prefix, {n: (files[(n + w) % 5], f"{w:02x}")
                               for w in (1, 2, 3) for n in won[w - 1]})


def test_transfers_that_break_are_taken_up_again(s3, replica, tmp_path):
    path = tmp_path / "segment"
    path.write_bytes(random.Random(3).randbytes(3_000_000))
    prefix = uuid.uuid4().hex
    assert replica(s3.url(s3.bucket, prefix), s3.environment()).put(0, 1, 1, path) == ["OK"]
    whole = path.read_bytes()
    with fault_proxy.proxy(s3.address, 0.4, seed=9) as proxy:
        handle = replica(s3.url(s3.bucket, prefix, proxy.endpoint, **{"timeout-ms": 400}),
                         s3.environment())
        for i in range(40):
            offset = i * 70_000
            for _ in range(50):
                result, *why = handle.get(0, 1, 1, tmp_path / "out", offset)
                if result != "AGAIN":
                    break
            assert result == "OK", why
            assert (tmp_path / "out").read_bytes() == whole[offset:]


def test_parts_survive_faults(s3, replica, tmp_path):
    """Also a completion whose answer is lost: the object tells whose it is."""
    path = tmp_path / "large"
    path.write_bytes(random.Random(4).randbytes(66 << 20))
    prefix = uuid.uuid4().hex
    with fault_proxy.proxy(s3.address, 0.3, seed=10, hold=8.0) as proxy:
        handle = replica(s3.url(s3.bucket, prefix, proxy.endpoint, **{"timeout-ms": 4000}),
                         s3.environment())
        for _ in range(30):
            result, *why = handle.put(9, 1, 1, path)
            if result != "AGAIN":
                break
        assert result == "OK", why
        assert handle.put(9, 1, 1, path, writer="02")[0] in ("EXISTS", "AGAIN")
    handle = replica(s3.url(s3.bucket, prefix), s3.environment())
    assert handle.get(9, 1, 1, tmp_path / "out") == ["OK"]
    assert (tmp_path / "out").read_bytes() == path.read_bytes()
