"""Namespaces that a process holds: when it ends, the kernel removes all that is in them.

A *machine* has its own pids, mounts, network and host name; every process in it ends with the
process that holds it. A *network* is only that.
"""

from pathlib import Path

from . import processes
from .commands import command
from .errors import NotRunningError

MACHINE = ("--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--net", "--uts")
ENTER_MACHINE = ("--pid", "--mount", "--net", "--uts")
ENTER_NETWORK = ("--net",)


def hold_machine(part: str) -> None:
    """Makes the namespaces of a machine."""
    # tini buries the orphans that end up with the first process of a pid namespace.
    processes.start(part, "tini", "--", "sleep", "infinity", prefix=("unshare", *MACHINE))
    processes.wait_until(f"the namespaces of {part}", lambda: is_held(part))


def hold_network(part: str) -> None:
    """Makes a network namespace."""
    processes.start(part, "sleep", "infinity", prefix=("unshare", "--net"))
    # The program is `unshare` until it has made the namespace and becomes `sleep`.
    processes.wait_until(f"the namespace of {part}", lambda: is_held(part))


def is_held(part: str) -> bool:
    """Whether the namespaces are there."""
    return processes.find(part, "sleep") is not None


def holder(part: str) -> int:
    """The process whose namespaces they are; raises NotRunningError."""
    pid = processes.find(part, "sleep")
    if pid is None:
        raise NotRunningError(f"{part} is not running: `make cluster` starts it again.")
    return pid


def enter(part: str, namespaces: tuple[str, ...] = ENTER_MACHINE) -> tuple[str, ...]:
    """The start of a command that runs in the namespaces of a part."""
    # Not `ip netns exec`: it mounts /sys anew, which hides the cgroups.
    return ("nsenter", "--target", str(holder(part)), *namespaces)


def inside(part: str, *arguments: str | Path) -> str:
    """Runs a command in the namespaces of a machine and returns what it printed."""
    return command(*enter(part), *arguments)


def inside_network(part: str, *arguments: str) -> str:
    """Runs a command that sees the files of the host and the network of the part."""
    return command(*enter(part, ENTER_NETWORK), *arguments)
