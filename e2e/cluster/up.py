"""Starts the cluster, or finds that it is up."""

import fcntl
import time
from collections.abc import Iterable

from . import namespaces, network, processes
from .build import build_missing
from .certificates import make_certificates
from .commands import say
from .components import COMPONENTS
from .control_plane import is_ready, start_control_plane
from .down import remove_cluster
from .images import pause_archive
from .kubectl import get
from .layout import CACHE, KUBECONFIG, NODES, PAUSE_IMAGE, RUN
from .node import has_image, load_image, start_node
from .node_configuration import resolv_conf
from .packages import install_missing
from .services import metrics_are_served, start_services
from .tunables import change_tunables

NEEDED = ("kubernetes", "coredns", "metrics-server")


def prepare(components: Iterable[str]) -> None:
    """Everything that is done once: packages, components, the pause image."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a cluster beside this one prepares the same
        install_missing()
        build_missing(COMPONENTS[name] for name in components)
        pause_archive()
        link_programs()


def link_programs() -> None:
    """A folder for PATH whose programs are those of the versions in use."""
    folder = CACHE / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for component in COMPONENTS.values():
        if component.is_built:
            for name in component.programs:
                link = folder / f".{name}"
                link.unlink(missing_ok=True)
                link.symlink_to(component.folder / name)
                link.rename(folder / name)


def start_cluster() -> None:
    """Starts what does not run, everything if need be; returns when both nodes are ready.

    Raises NotReadyError.
    """
    if is_up():
        say("The cluster is up.")
        return
    started = time.monotonic()
    if not namespaces.is_held(network.PART):  # else only a part of it is missing
        remove_cluster()  # what a crash left
        lay_foundation()
    start_control_plane()
    for node in NODES:
        start_node(node)
        if not has_image(node, PAUSE_IMAGE):
            load_image(node, pause_archive())
    start_services()
    processes.wait_until("the nodes", nodes_are_ready, needs=parts())
    processes.wait_until("the metrics API", metrics_are_served, needs=parts())
    say(f"The cluster is ready after {time.monotonic() - started:.0f} s.")


def lay_foundation() -> None:
    """What the parts of a cluster share, and what cannot be made again beneath them."""
    RUN.mkdir(parents=True)
    (RUN / "resolv.conf").write_text(resolv_conf())
    change_tunables()
    make_certificates()
    network.make_network()  # last: where it is, the rest is whole


def is_up() -> bool:
    """Whether the API server is ready and no part of it is missing."""
    if not KUBECONFIG.exists() or not is_ready():
        return False
    return {process.part for process in processes.running()} >= parts() and nodes_are_ready()


def parts() -> set[str]:
    """Every part of a whole cluster."""
    host = {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns"}
    programs = {f"{n.name}-{p}" for n in NODES for p in ("containerd", "kubelet", "kube-proxy")}
    return host | programs | {"metrics-server", "provisioner", "network"}


def nodes_are_ready() -> bool:
    """Whether every node is registered and says that it is ready."""
    ready = {
        node["metadata"]["name"]
        for node in get("nodes")["items"]
        for condition in node["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }
    return ready >= {node.name for node in NODES}
