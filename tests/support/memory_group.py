"""A memory cgroup below the test's own, with a limit: what a container runtime gives a pod."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryGroup:
    """Its folder, and the names that its version has for things."""

    folder: Path

    @property
    def entering(self) -> list[str]:
        """A command that puts itself into the group and becomes what follows."""
        procs = self.folder / "cgroup.procs"
        return ["sh", "-c", f'echo $$ > {procs} && exec "$@"', "sh"]


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup | None]:
    """None where no group can be made: not Linux, not root, or a mount that is read-only."""
    made = _make(limit)
    try:
        yield made
    finally:
        if made is not None:
            _remove(made.folder)


def reset_peak(pid: int) -> int:
    """Resident bytes of a process; its peak is counted anew from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def peak(pid: int) -> int:
    """The most bytes that were resident since."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) << 10


def _make(limit: int) -> MemoryGroup | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            parent, limit_file = _MOUNT / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
        elif controllers == "":
            parent, limit_file = _MOUNT / path.lstrip("/"), "memory.max"
        else:
            continue
        folder = parent / f"modelfleet-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / limit_file).exists():
            (folder / limit_file).write_text(str(limit))
            return MemoryGroup(folder)
        folder.rmdir()
    return None


def _remove(folder: Path) -> None:
    for _ in range(100):  # the kernel needs a moment for those that have just ended
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
