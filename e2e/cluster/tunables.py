"""Kernel settings that the kubelet changes for the whole machine; they are put back."""

import json
from pathlib import Path

from .layout import CACHE

SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Not in the run folder: it is the last thing to go, and the only thing that cannot be made again.
MEMORY = CACHE / "tunables.json"


def remember_tunables() -> None:
    """Writes down what the machine has, once: after a crash the kubelet's values are there."""
    if not MEMORY.exists():
        values = {name: Path("/proc/sys", name).read_text() for name in SETTINGS}
        MEMORY.write_text(json.dumps(values))


def restore_tunables() -> None:
    """Puts back what was written down."""
    if MEMORY.exists():
        for name, value in json.loads(MEMORY.read_text()).items():
            Path("/proc/sys", name).write_text(value)
        MEMORY.unlink()
