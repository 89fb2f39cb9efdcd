"""Removes the cluster without a trace, whatever state it is in."""

import shutil
import signal

from . import network, processes
from .cgroups import remove_cgroups
from .commands import say
from .layout import ARGO_CD, KEDA, NODES, RUN
from .tunables import restore_tunables


def stop_cluster() -> None:
    """Removes everything but the built programs and the images."""
    say("Removing the cluster..." if RUN.exists() else "No cluster is up.")
    remove_cluster()


def remove_cluster() -> None:
    """Ends the processes, then what the kernel kept for them, then the files."""
    stop_processes()
    processes.wait_until("the kernel to remove the network", network.is_gone)
    remove_cgroups()
    restore_tunables()
    if RUN.exists():
        shutil.rmtree(RUN)


def stop_processes() -> None:
    """Kills the holders of namespaces first: with them the kernel ends all that runs inside."""
    holders = {ARGO_CD, KEDA, *(node.name for node in NODES)}
    while found := list(processes.running()):
        first = [p.pid for p in found if p.part in holders]
        processes.stop(first or [p.pid for p in found], with_signal=signal.SIGKILL)
