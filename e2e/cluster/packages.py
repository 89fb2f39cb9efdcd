"""Debian's packages that the cluster runs on, installed without starting their services."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .commands import say
from .errors import PackageError

# Each package, and one file of it that proves it is there (a look at files takes no time).
PACKAGES = {
    "etcd-server": "/usr/bin/etcd",
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "buildah": "/usr/bin/buildah",
    "debootstrap": "/usr/sbin/debootstrap",
    "busybox-static": "/bin/busybox",
    "iptables": "/usr/sbin/iptables",
    "conntrack": "/usr/sbin/conntrack",
    "iproute2": "/usr/sbin/ip",
    "ethtool": "/usr/sbin/ethtool",
    "tini": "/usr/bin/tini",
    "openssl": "/usr/bin/openssl",
    "redis-server": "/usr/bin/redis-server",
    "git": "/usr/bin/git",
    "docker-registry": "/usr/bin/docker-registry",
}
# invoke-rc.d asks this program before it starts a service; 101 means "not allowed".
POLICY = Path("/usr/sbin/policy-rc.d")


def install_missing() -> None:
    """Installs what is missing; raises PackageError with apt's words."""
    missing = [package for package, file in PACKAGES.items() if not Path(file).exists()]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PackageError(
            "The cluster needs root on Debian bookworm or Ubuntu to install these packages: "
            f"{' '.join(missing)}."
        )
    say(f"Installing {' '.join(missing)}...")
    with services_stay_off():
        if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
            apt("update")
        apt("install", "-y", "--no-install-recommends", *missing)


@contextmanager
def services_stay_off() -> Iterator[None]:
    """Debian starts a service when its package is installed; ours are started by the cluster."""
    if POLICY.exists():
        yield  # the administrator (or the container's image) has decided
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def apt(*arguments: str) -> None:
    """apt-get, which never asks anything."""
    result = subprocess.run(
        ["apt-get", "-qq", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise PackageError(f"`apt-get {' '.join(arguments)}` failed:\n{result.stderr}")
