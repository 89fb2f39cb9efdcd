"""Kernel settings that the kubelet changes for the whole machine; they are put back."""

import json
from pathlib import Path

from .layout import CACHE, RUN

SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Not in the run folder: another cluster of this machine may need it for longer.
MEMORY = CACHE / "tunables.json"


def remember_tunables() -> None:
    """Writes down what the machine has, once: as soon as a kubelet ran, its values are there."""
    if not MEMORY.exists():
        values = {name: Path("/proc/sys", name).read_text() for name in SETTINGS}
        MEMORY.write_text(json.dumps(values))


def restore_tunables() -> None:
    """Puts back what was written down, unless another cluster runs."""
    others = [folder for folder in CACHE.glob("run*") if folder != RUN]
    if MEMORY.exists() and not others:
        for name, value in json.loads(MEMORY.read_text()).items():
            Path("/proc/sys", name).write_text(value)
        MEMORY.unlink()
