"""A machine beside the nodes: namespaces of its own, and a cable to the cluster's network."""

import signal
from pathlib import Path

from . import namespaces, network, processes


def start_machine(part: str, address: str, folder: Path) -> tuple[str, ...]:
    """What comes before a command that is to run on it; `folder` is made for what it writes."""
    folder.mkdir(parents=True, exist_ok=True)
    namespaces.hold_machine(part)
    network.connect(part, address)
    return namespaces.enter(part)


def stop_machine(part: str) -> None:
    """Ends whatever runs on it."""
    if namespaces.is_held(part):
        processes.stop([namespaces.holder(part)], with_signal=signal.SIGKILL)
    processes.wait_until(f"the cable of {part} to go", lambda: not network.is_connected(part))
