# SPDX-License-Identifier: MIT
"""The program on frail ground (tests/crash/frail.c): whose allocations fail, and whose sockets move single bytes."""
import mmap
import os
import pathlib
import struct
import sys
import tempfile

FIELDS = ("armed", "fail_at", "sticky", "calls", "failed", "io_bytes", "moved")


def program():
    """Built with the tests of LITEFUNNEL_BUILD, beside the program under test."""
    path = pathlib.Path(os.environ["LITEFUNNEL_BUILD"]) / "tests/crash/litefunnel-frail"
    assert path.exists(), f"{path}: build it, and set LITEFUNNEL_BUILD"
    return path


class Page:
    """What is shared with the program; page.environment is for its process."""

    def __init__(self):
        with tempfile.NamedTemporaryFile(prefix="frail-") as file:
            file.truncate(mmap.PAGESIZE)
            self.map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
            self.fd = os.dup(file.fileno())
        self.environment = {"LF_FRAIL": f"/proc/{os.getpid()}/fd/{self.fd}"}

    def close(self):
        self.map.close()
        os.close(self.fd)

    def __getitem__(self, name):
        return struct.unpack_from("<Q", self.map, 8 * FIELDS.index(name))[0]

    def __setitem__(self, name, value):
        struct.pack_into("<Q", self.map, 8 * FIELDS.index(name), value)

    def starve(self, fail_at, sticky):
        """From now on allocations are counted, and that one fails, or that and all behind it; 0: none."""
        self.relent()
        self["calls"] = self["failed"] = 0
        self["fail_at"], self["sticky"] = fail_at, int(sticky)
        self["armed"] = 1

    def drip(self, io_bytes):
        """From now on a call moves so many bytes of a socket at most, and every third is interrupted."""
        self["fail_at"], self["io_bytes"] = 0, io_bytes
        self["armed"] = 1

    def relent(self):
        """True if an allocation has failed."""
        self["armed"] = 0
        return self["failed"] > 0


if __name__ == "__main__":
    # frail.py FILE BYTES: a page for whole suites, LF_FRAIL=FILE LITEFUNNEL_BIN=…/litefunnel-frail pytest …
    with open(sys.argv[1], "wb") as page:
        page.write(struct.pack("<7Q", 1, 0, 0, 0, 0, int(sys.argv[2]), 0).ljust(mmap.PAGESIZE, b"\0"))
