"""What this process may use of the machine: cores and memory, container limits included."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Cores to compute on: the affinity, and no more than the cgroup's quota (not nproc)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [
        math.ceil(quota)
        for folder in _cgroups("cpu", root)
        if (quota := _cpu_quota(folder)) is not None
    ]
    return max(1, min([cores or 1, *quotas]))


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that can still be taken before the machine or a cgroup runs out."""
    rooms = [
        room for folder in _cgroups("memory", root) if (room := _memory_room(folder)) is not None
    ]
    return max(0, min([psutil.virtual_memory().available, *rooms]))


def _cgroups(controller: str, root: Path) -> list[Path]:
    """The folders of this process's cgroup and its ancestors, versions 1 and 2.

    In a container the path of /proc/self/cgroup may not exist below the mount, which then shows
    the container's own group at its root.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / controller, root / "sys/fs/cgroup" / controllers]
        else:
            continue
        for mount in dict.fromkeys(mounts):
            folder = mount / path.lstrip("/")
            folders += [f for f in (folder, *folder.parents) if f.is_relative_to(mount)]
    return folders


def _cpu_quota(folder: Path) -> float | None:
    """Cores; None: unlimited."""
    quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
    if not period:
        quota = _read(folder / "cpu.cfs_quota_us") or "-1"
        period = _read(folder / "cpu.cfs_period_us") or "100000"
    return int(quota) / int(period) if quota.isdecimal() and int(period) > 0 else None


def _memory_room(folder: Path) -> int | None:
    """Bytes below the group's limit, the page cache it could drop included; None: unlimited."""
    limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes") or "max"
    used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
    if not limit.isdecimal() or used is None:
        return None
    stat = dict(line.split() for line in (_read(folder / "memory.stat") or "").splitlines())
    droppable = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return int(limit) - int(used) + droppable


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
