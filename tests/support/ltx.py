# SPDX-License-Identifier: MIT
"""Segments and replicas, written and read without litefunnel: the second implementation.

Slow and plain. A segment is LTX as Litestream 0.5 has it: header, pages as LZ4 blocks, index, trailer.
Databases are dicts of page number -> bytes, without the lock page.
"""
import ctypes
import datetime
import functools
import hashlib
import os
import pathlib
import struct

FLAG = 1 << 63
NO_CHECKSUM = 2


# ---- numbers

def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ 0xD800000000000000 if byte & 1 else byte >> 1
        table.append(byte)
    return table


TABLE = _table()


def crc64(data, crc=0):
    """CRC-64/GO-ISO of bytes, going on from an earlier one."""
    table = TABLE
    crc ^= 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFFFFFFFFFF


def lock_page(page_size):
    return 0x40000000 // page_size + 1


def digest(pages, page_size):
    """Of a whole database."""
    total = 0
    for number, page in pages.items():
        if number != lock_page(page_size):
            total ^= page_digest(number, page)
    return total.to_bytes(16, "big")


def page_digest(number, page):
    return int.from_bytes(hashlib.sha256(struct.pack(">I", number) + page).digest()[:16], "big")


# ---- LZ4

@functools.lru_cache(None)
def _lz4():
    return ctypes.CDLL("liblz4.so.1")


def compress(data):
    out = ctypes.create_string_buffer(len(data) + len(data) // 255 + 16)
    size = _lz4().LZ4_compress_default(data, out, len(data), len(out))
    assert size > 0
    return out.raw[:size]


def literal_block(data):
    """An LZ4 block that is one run of literals."""
    size = len(data)
    if size < 15:
        return bytes([size << 4]) + data
    rest = size - 15
    return b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + data


def decompress(block, size):
    """By hand: no library has a say in what is accepted."""
    out, at = bytearray(), 0

    def length(start):
        nonlocal at
        total = start
        if start == 15:
            while True:
                total += block[at]
                at += 1
                if block[at - 1] != 255:
                    break
        return total

    while at < len(block):
        token = block[at]
        at += 1
        count = length(token >> 4)
        out += block[at:at + count]
        at += count
        if at == len(block):
            break
        offset = block[at] | block[at + 1] << 8
        at += 2
        count = length(token & 15) + 4
        assert 0 < offset <= len(out), "an offset before the beginning"
        for _ in range(count):
            out.append(out[-offset])
    assert len(out) == size, f"{len(out)} bytes instead of {size}"
    return bytes(out)


# ---- segments

def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(page_size, commit, min_txid, max_txid, pages, *, timestamp_ms=0, literal=False):
    """The bytes of a segment that brings `pages` and leaves a database of `commit` pages."""
    header = struct.pack(">4sIIIQQqQqqIIQ20s", b"LTX1", NO_CHECKSUM, page_size, commit, min_txid,
                         max_txid, timestamp_ms, 0, 32, 0, 0, 0, 0, b"")
    body, crc, index = bytearray(header), crc64(header), bytearray()
    for number in sorted(pages):
        if number == lock_page(page_size):
            continue
        block = (literal_block if literal else compress)(pages[number])
        head = struct.pack(">IHI", number, 1, len(block))
        index += varint(number) + varint(len(body)) + varint(len(head) + len(block))
        body += head + block
        crc = crc64(pages[number], crc64(head, crc))
    index += b"\0"
    tail = b"\0" * 6 + index + struct.pack(">QQ", len(index), 0)
    crc = crc64(tail, crc)
    return bytes(body) + tail + struct.pack(">Q", crc | FLAG)


class Segment:
    """A segment that was read, and checked to the last byte."""

    def __init__(self, data):
        (magic, flags, self.page_size, self.commit, self.min_txid, self.max_txid, self.timestamp_ms,
         before, _, _, _, _, _, _) = struct.unpack(">4sIIIQQqQqqIIQ20s", data[:100])
        assert magic == b"LTX1" and flags == NO_CHECKSUM and before == 0, (magic, flags, before)
        self.pages, crc, at = {}, crc64(data[:100]), 100
        index = bytearray()
        while True:
            number, kind = struct.unpack(">IH", data[at:at + 6])
            if number == 0:
                assert kind == 0
                break
            assert kind == 1 and number > max(self.pages, default=0) and number <= self.commit
            assert number != lock_page(self.page_size)
            size, = struct.unpack(">I", data[at + 6:at + 10])
            page = decompress(data[at + 10:at + 10 + size], self.page_size)
            crc = crc64(page, crc64(data[at:at + 10], crc))
            index += varint(number) + varint(at) + varint(10 + size)
            self.pages[number] = page
            at += 10 + size
        index += b"\0"
        tail = data[at:-8]
        assert tail == b"\0" * 6 + index + struct.pack(">QQ", len(index), 0), "index or trailer"
        assert struct.unpack(">Q", data[-8:])[0] == crc64(tail, crc) | FLAG, "file checksum"


# ---- databases

def read_pages(path, page_size=None):
    data = pathlib.Path(path).read_bytes()
    if page_size is None:
        page_size = int.from_bytes(data[16:18], "big")
        page_size = 65536 if page_size == 1 else page_size
    pages = {i + 1: data[i * page_size:(i + 1) * page_size] for i in range(len(data) // page_size)}
    pages.pop(lock_page(page_size), None)
    return pages


def image(pages, page_size):
    count = max(pages)
    return b"".join(pages.get(i + 1, bytes(page_size)) for i in range(count))


def changes(before, after):
    return {number: page for number, page in after.items() if before.get(number) != page}


# ---- replicas

def name(min_txid, max_txid):
    return f"{min_txid:016x}-{max_txid:016x}.ltx"


class Replica:
    """A directory that segments are put into as a shipper would."""

    def __init__(self, root, page_size, epoch=None, records=True):
        self.root = pathlib.Path(root)
        self.page_size = page_size
        self.epoch = epoch or os.urandom(16)
        self.writer = os.urandom(16)
        self.records = records
        self.states = {0: {}}  # txid -> the database after it
        self.commits = {0: 0}  # txid -> commit number
        self.times = {}
        self.sha256 = {}
        self.txid = 0

    @property
    def url(self):
        return f"file://{self.root}"

    def path(self, level, min_txid, max_txid):
        return self.root / "ltx" / str(level) / name(min_txid, max_txid)

    def ship(self, pages, commit, *, time_ms=None, full=False, literal=False):
        """The next segment of level 0: the database is `pages` now, at this commit number."""
        before = self.states[self.txid]
        self.txid += 1
        self.states[self.txid] = dict(pages)
        self.commits[self.txid] = commit
        self.times[self.txid] = time_ms or 1_700_000_000_000 + 1000 * self.txid
        brought = dict(pages) if full or self.txid == 1 else changes(before, pages)
        return self.put(0, self.txid, self.txid, brought, full=full, literal=literal)

    def merge(self, level, min_txid, max_txid):
        """What compaction makes of min_txid..max_txid; from 1 it is a snapshot."""
        brought = changes(self.states[min_txid - 1], self.states[max_txid])
        if min_txid == 1:
            brought = self.states[max_txid]
        return self.put(level, min_txid, max_txid, brought)

    def put(self, level, min_txid, max_txid, brought, *, full=False, literal=False, **changed):
        state = self.states[max_txid]
        time_ms = self.times[max_txid]
        data = encode(self.page_size, max(state), min_txid, max_txid, brought, timestamp_ms=time_ms,
                      literal=literal)
        path = self.path(level, min_txid, max_txid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(time_ms * 1_000_000,) * 2)
        self.sha256[min_txid, max_txid, level] = hashlib.sha256(data).digest()
        if self.records:
            full = full or min_txid == 1
            record = {
                "epoch": self.epoch, "writer": self.writer,
                "commit-first": self.commits[min_txid - 1] + 1, "commit-last": self.commits[max_txid],
                "committed-ms": time_ms, "sha256": self.sha256[min_txid, max_txid, level],
                "previous": self.sha256.get((min_txid - 1, min_txid - 1, 0), bytes(32)),
                "full": "yes" if full else "no",
                "digest-before": bytes(16) if full else digest(self.states[min_txid - 1], self.page_size),
                "digest-after": digest(state, self.page_size), **changed}
            write_record(path, record)
        return path

    def delete(self, level, min_txid, max_txid):
        path = self.path(level, min_txid, max_txid)
        path.unlink()
        sidecar(path).unlink(missing_ok=True)


def sidecar(path):
    return path.with_name(path.name + ".record")


def write_record(path, record):
    lines = (f"{key}: {value.hex() if isinstance(value, bytes) else value}\n"
             for key, value in record.items() if value is not None)
    sidecar(path).write_text("".join(lines), encoding="ascii")


def read_record(path):
    record = {}
    for line in sidecar(path).read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(": ")
        record[key] = value
    return record


def rfc3339(ms):
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.timezone.utc).isoformat(
        timespec="milliseconds").replace("+00:00", "Z")
