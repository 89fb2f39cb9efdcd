"""Starts the cluster, or finds that it is up."""

import time
from collections.abc import Iterable

from . import processes
from .build import build_missing
from .certificates import make_certificates
from .commands import say
from .components import COMPONENTS
from .control_plane import is_ready, start_control_plane
from .down import remove_cluster
from .images import pause_archive
from .kubectl import get
from .layout import CACHE, KUBECONFIG, NODES, RUN
from .network import make_network
from .node import load_image, start_node
from .node_configuration import resolv_conf
from .packages import install_missing
from .services import metrics_are_served, start_services
from .tunables import remember_tunables

NEEDED = ("kubernetes", "coredns", "metrics-server")


def prepare(components: Iterable[str]) -> None:
    """Everything that is done once: packages, components, the pause image."""
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
    """Returns when both nodes are ready; raises NotReadyError."""
    if is_up():
        say("The cluster is up.")
        return
    remove_cluster()  # what a crash left
    started = time.monotonic()
    RUN.mkdir(parents=True)
    (RUN / "resolv.conf").write_text(resolv_conf())
    remember_tunables()
    make_certificates()
    make_network()
    start_control_plane()
    for node in NODES:
        start_node(node)
        load_image(node, pause_archive())
    start_services()
    processes.wait_until("the nodes", nodes_are_ready)
    processes.wait_until("the metrics API", metrics_are_served)
    say(f"The cluster is ready after {time.monotonic() - started:.0f} s.")


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
