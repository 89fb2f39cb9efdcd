"""A worker node: namespaces held by one process, and in them containerd, kubelet and kube-proxy.

The processes see their own pids, mounts, network and host name. When the process that holds the
namespaces ends, the kernel ends every process in them, pods included, and removes their mounts: a
node cannot leave anything behind.
"""

import signal
from pathlib import Path

import yaml

from . import namespaces, network, processes
from .cgroups import make_cgroup
from .commands import command
from .components import program
from .errors import CommandError
from .layout import PKI, Node
from .node_configuration import cni, containerd, kube_proxy, kubelet

# Paths that node programs have built in and the two nodes must not share with each other or with
# the machine; a fresh tmpfs over each, seen by the node alone.
PRIVATE = ("/run", "/var/lib/kubelet", "/var/lib/cni", "/opt/cni", "/opt/containerd")


def start_node(node: Node) -> None:
    """Starts what does not run; the node registers itself a few seconds later."""
    if not namespaces.is_held(node.name):
        make_machine(node)
    start_containerd(node)
    start_kubelet(node)
    start_kube_proxy(node)


def make_machine(node: Node) -> None:
    """An empty machine: namespaces with a cable to the network, and configuration files."""
    node.folder.mkdir(parents=True, exist_ok=True)
    make_cgroup(node)
    write_configuration(node)
    namespaces.hold_machine(node.name)
    namespaces.inside(node.name, "hostname", node.name)
    namespaces.inside(node.name, "mount", "--make-rshared", "/")
    for path in PRIVATE:
        Path(path).mkdir(parents=True, exist_ok=True)
        namespaces.inside(node.name, "mount", "-t", "tmpfs", "tmpfs", path)
    network.connect_node(node)


def write_configuration(node: Node) -> None:
    """One file for each program of the node."""
    (node.folder / "cni").mkdir(exist_ok=True)
    (node.folder / "cni" / "10-modelfleet.conflist").write_text(cni(node))
    (node.folder / "containerd.toml").write_text(containerd(node))
    (node.folder / "kubelet.yaml").write_text(yaml.safe_dump(kubelet(node)))
    (node.folder / "kube-proxy.yaml").write_text(yaml.safe_dump(kube_proxy(node)))


def start_containerd(node: Node) -> None:
    """Returns when containerd answers."""
    start_inside(node, "containerd", "containerd", "--config", node.folder / "containerd.toml")

    def answers() -> bool:
        try:
            images(node, "list", "--quiet")
        except CommandError:
            return False
        return True

    processes.wait_until(f"containerd of {node.name}", answers)


def start_kubelet(node: Node) -> None:
    """The node is ready some seconds later."""
    start_inside(
        *(node, "kubelet", program("kubelet"), "--config", node.folder / "kubelet.yaml"),
        *("--kubeconfig", PKI / f"{node.name}.kubeconfig", "--root-dir", node.folder / "kubelet"),
        *("--hostname-override", node.name, "--node-ip", node.address),
        *("--cert-dir", node.folder / "kubelet-pki"),
        *("--node-labels", f"topology.kubernetes.io/zone=zone-{node.number}"),
    )


def stop_kubelet(node: Node, with_signal: int = signal.SIGKILL) -> None:
    """The pods go on; the cluster notices when the node's lease runs out."""
    pid = processes.find(f"{node.name}-kubelet", "kubelet")
    if pid is not None:
        processes.stop([pid], with_signal=with_signal)


def start_kube_proxy(node: Node) -> None:
    """Services: iptables rules in the node's own network namespace."""
    start_inside(
        node, "kube-proxy", program("kube-proxy"), "--config", node.folder / "kube-proxy.yaml"
    )


def start_inside(node: Node, name: str, *arguments: str | Path) -> None:
    """Starts one of the node's programs in its namespaces."""
    processes.start(f"{node.name}-{name}", *arguments, prefix=namespaces.enter(node.name))


def stop_node(node: Node) -> None:
    """Kills the holder of the namespaces, and with it everything inside."""
    processes.stop([namespaces.holder(node.name)], with_signal=signal.SIGKILL)
    processes.wait_until(f"{node.name}'s cable to go", lambda: not network.is_connected(node.name))
    node.socket.unlink(missing_ok=True)


def load_image(node: Node, archive: Path) -> None:
    """Imports an OCI or Docker archive into the node's containerd, where pods find it by name."""
    images(node, "import", str(archive))


def has_image(node: Node, reference: str | None) -> bool:
    """Whether the node has an image of this name; never without a name."""
    return reference is not None and bool(images(node, "list", "--quiet", f"name=={reference}"))


def images(node: Node, *arguments: str) -> str:
    """Containerd's own client, in the namespace that the kubelet uses."""
    address = ("--address", node.socket, "--namespace", "k8s.io")
    return command("ctr", *address, "images", *arguments).strip()
