# SPDX-License-Identifier: MIT
"""A control group with a memory limit, so that the kernel's OOM killer has somebody to kill."""
import contextlib
import os
import pathlib
import sys

ROOT = pathlib.Path("/sys/fs/cgroup")
UNLIMITED = 1 << 40


class Memory:
    """Version 1 or 2, whichever can be made here. OSError with the reason if none can."""

    def __init__(self, name):
        if (ROOT / "memory").is_dir():
            self.path = ROOT / "memory" / name
            self.limit_file, self.used_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
            self.events_file = "memory.oom_control"
        else:
            self.path = ROOT / name
            self.limit_file, self.used_file = "memory.max", "memory.current"
            self.events_file = "memory.events"
        try:
            self.path.mkdir()
        except OSError as error:
            raise OSError(f"no control group can be made: {error}") from None
        if not (self.path / self.limit_file).exists():
            self.path.rmdir()
            raise OSError(f"{self.path} has no memory controller")
        for name in ("memory.swap.max", "memory.swappiness"):  # else it would only become slow
            with contextlib.suppress(OSError):
                (self.path / name).write_text("0")
        self.limit(UNLIMITED)

    def join(self):
        """For the child, before exec."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def limit(self, size):
        (self.path / self.limit_file).write_text(str(size))

    def used(self):
        return int((self.path / self.used_file).read_text())

    def kills(self):
        for line in (self.path / self.events_file).read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def remove(self):
        with contextlib.suppress(OSError):
            self.path.rmdir()


def main():
    """Can there be one? Says why not."""
    try:
        Memory("litefunnel-probe").remove()
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
