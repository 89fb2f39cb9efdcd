"""The real helm, of the version that e2e/cluster builds, or the one in PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cluster.commands import BRIEF

CHART = Path(__file__).parents[2] / "charts" / "modelfleet"
BUILT = Path.home() / ".cache" / "modelfleet" / "cluster" / "bin" / "helm"


def find_helm() -> Path | None:
    """None: there is none."""
    found = str(BUILT) if BUILT.exists() else shutil.which("helm")
    return Path(found) if found else None


def helm(
    *arguments: str, kubeconfig: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs to its end, whatever its exit code."""
    found = find_helm()
    assert found, "helm is missing: `make cluster` builds it"
    environment = {**os.environ, **BRIEF}
    if kubeconfig is not None:
        environment["KUBECONFIG"] = str(kubeconfig)
    return subprocess.run(
        [str(found), *arguments],
        check=False, capture_output=True, text=True, env=environment, timeout=timeout,
    )  # fmt: skip


def succeed(*arguments: str, kubeconfig: Path | None = None, timeout: float = 300) -> str:
    """What helm prints; a failure of it fails the test with its words."""
    done = helm(*arguments, kubeconfig=kubeconfig, timeout=timeout)
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout
