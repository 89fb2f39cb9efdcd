"""Cores and memory of a container, read from a pretended /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from modelfleet_worker.devices.host import available_memory, usable_cores

MIB = 2**20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/memory.max": f"{100 * MIB}\n",
                "sys/fs/cgroup/pod/memory.current": f"{70 * MIB}\n",
                "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {20 * MIB}\n",
                "sys/fs/cgroup/pod/box/memory.max": "max\n",
                "sys/fs/cgroup/pod/box/memory.current": "1\n",
            },
            id="version 2: the tightest ancestor counts, its page cache can go",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/not/mounted\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{100 * MIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{50 * MIB}\n",
            },
            id="version 1: the container sees its own group at the mount",
        ),
    ],
)
def test_memory_ends_at_the_cgroup_limit(tmp_path: Path, files: dict[str, str]):
    assert available_memory(write(tmp_path, files)) == 50 * MIB


def test_without_a_limit_the_machine_decides(tmp_path: Path):
    assert 0 < available_memory(tmp_path) <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
        {
            "proc/self/cgroup": "2:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_a_quota_of_one_core_is_one_thread(tmp_path: Path, files: dict[str, str]):
    assert usable_cores(write(tmp_path, files)) == 1


def test_no_quota_leaves_the_affinity(tmp_path: Path):
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}
    assert usable_cores(write(tmp_path, files)) == usable_cores(tmp_path) >= 1
