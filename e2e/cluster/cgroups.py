"""The cgroup below which a node's pods live; the kubelet wants to find it there, ready to use."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from .layout import CGROUP, Node

ROOT = Path("/sys/fs/cgroup")


def is_unified() -> bool:
    """Whether the machine has cgroup v2 only."""
    return (ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """The folders under which a cgroup has to be made: one in v2, one a controller in v1."""
    if is_unified():
        return [ROOT]
    return [path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink()]


def make_cgroup(node: Node) -> None:
    """Makes the node's cgroup in every hierarchy, able to have children that hold processes."""
    for hierarchy in hierarchies():
        parent = hierarchy
        for name in (CGROUP, node.name):
            if is_unified():
                controllers = (parent / "cgroup.controllers").read_text().split()
                wanted = " ".join(f"+{controller}" for controller in controllers)
                (parent / "cgroup.subtree_control").write_text(wanted)
            child = parent / name
            child.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one of v1: nothing may run
                if not is_unified() and (child / file).exists():
                    (child / file).write_text((parent / file).read_text())
            parent = child


def remove_cgroups() -> None:
    """Removes what the nodes and their pods left; no process lives there any more."""
    for hierarchy in hierarchies():
        for folder in deepest_first(hierarchy / CGROUP):
            # The kernel answers "busy" for a moment after the last process has ended.
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                folder.rmdir()


def deepest_first(folder: Path) -> Iterator[Path]:
    """A cgroup after all cgroups below it."""
    with contextlib.suppress(FileNotFoundError):
        for child in folder.iterdir():
            if child.is_dir():
                yield from deepest_first(child)
        yield folder
