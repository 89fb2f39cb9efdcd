"""Processes of the cluster: started, found again and ended without any file that remembers them.

Each carries two variables in its environment, the run folder and the name of its part. Children
inherit them, so what a crashed part leaves behind is found, too, and a reused process id never is.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .errors import NotReadyError
from .layout import LOGS, RUN

OWNER_VARIABLE = "MODELFLEET_CLUSTER"
PART_VARIABLE = "MODELFLEET_CLUSTER_PART"
# Go collects its garbage when there is four times as much of it as of what is used: memory for
# time, of which an API server's start takes a quarter less.
GARBAGE = "400"
# A process that becomes its program has no environment for a moment, on a busy machine a long one;
# it is no part until then. So many seconds without it, and it has ended.
UNSEEN = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A running process of the cluster."""

    pid: int
    part: str
    program: str  # the base name of argv[0]


def start(
    part: str,
    *arguments: str | Path,
    prefix: tuple[str, ...] = (),
    environment: Mapping[str, str | Path] = MappingProxyType({}),
) -> None:
    """Starts a part in the background, its output in its log; does nothing if it runs.

    The prefix is a command that enters namespaces before it becomes the program. Of our own
    environment only PATH is passed on.
    """
    if find(part, Path(arguments[0]).name) is not None:
        return
    LOGS.mkdir(parents=True, exist_ok=True)
    marks = {OWNER_VARIABLE: str(RUN), PART_VARIABLE: part}
    own = {name: str(value) for name, value in environment.items()}
    with (LOGS / f"{part}.log").open("ab") as log:
        subprocess.Popen(
            [*prefix, *map(str, arguments)],
            env={"PATH": os.environ["PATH"], "HOME": str(RUN), "GOGC": GARBAGE, **own, **marks},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,  # outlives us, and Ctrl-C in the terminal is not meant for it
        )


def running() -> Iterator[Process]:
    """Every process of this cluster, in no order."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # gone while we looked
                environment = (folder / "environ").read_bytes().split(b"\0")
                if f"{OWNER_VARIABLE}={RUN}".encode() in environment and is_alive(int(folder.name)):
                    program = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
                    yield Process(int(folder.name), part_of(environment), Path(program).name)


def part_of(environment: list[bytes]) -> str:
    """The part that the environment names."""
    prefix = f"{PART_VARIABLE}=".encode()
    return next((v.removeprefix(prefix).decode() for v in environment if v.startswith(prefix)), "")


def find(part: str, program: str) -> int | None:
    """The process that runs the program of the part; not what started it, nor its children."""
    found = [p.pid for p in running() if p.part == part and p.program == program]
    return min(found, default=None)


def stop(pids: list[int], *, with_signal: int = signal.SIGTERM, timeout: float = 10.0) -> None:
    """Ends processes and waits for their end; after `timeout` seconds they are killed."""
    for number in (with_signal, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pids = [pid for pid in pids if is_alive(pid)]
            if not pids:
                return
            time.sleep(0.02)
    raise NotReadyError(f"These processes do not end even when they are killed: {pids}.")


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie, which only waits to be buried, does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(
    what: str, true: Callable[[], object], *, needs: Set[str] = frozenset(), timeout: float = 60.0
) -> None:
    """Asks four times a second; raises NotReadyError after `timeout` seconds.

    When a part that it needs has ended, waiting is in vain: raises NotReadyError soon.
    """
    whole = time.monotonic()  # when every part was last seen
    deadline = whole + timeout
    while not true():
        missing = needs - {process.part for process in running()}
        if not missing:
            whole = time.monotonic()
        elif time.monotonic() > whole + UNSEEN:
            part = min(missing)
            words = (LOGS / f"{part}.log").read_text().splitlines()[-1:]
            raise NotReadyError(f"{part} has ended: {''.join(words) or 'it said nothing'}")
        if time.monotonic() > deadline:
            raise NotReadyError(f"Waited {timeout:.0f} s for {what}; see the logs in {LOGS}.")
        time.sleep(0.25)
