"""Settings of the machine's kernel that a cluster changes; they are put back when it goes."""

import json
from pathlib import Path

from .layout import CACHE, RUN

# The kubelet sets these by itself.
BY_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Each pod and each program of a node watches files. The kernel counts watches per user, and its
# defaults are enough for three clusters: containerd then starts without its CRI service.
AT_LEAST = {"fs/inotify/max_user_instances": 8192, "fs/inotify/max_user_watches": 524288}
# Not in the run folder: another cluster of this machine may need it for longer.
MEMORY = CACHE / "tunables.json"


def change_tunables() -> None:
    """Writes down what the machine has, once: as soon as a kubelet ran, its values are there."""
    before = json.loads(MEMORY.read_text()) if MEMORY.exists() else {}
    now = {name: Path("/proc/sys", name).read_text() for name in (*BY_KUBELET, *AT_LEAST)}
    MEMORY.write_text(json.dumps(now | before))
    for name, enough in AT_LEAST.items():
        if int(now[name]) < enough:
            Path("/proc/sys", name).write_text(str(enough))


def restore_tunables() -> None:
    """Puts back what was written down, unless another cluster runs."""
    others = [folder for folder in CACHE.glob("run*") if folder != RUN]
    if MEMORY.exists() and not others:
        for name, value in json.loads(MEMORY.read_text()).items():
            Path("/proc/sys", name).write_text(value)
        MEMORY.unlink()
