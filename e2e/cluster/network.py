"""The network between the host and the nodes.

The bridge lives in a network namespace of its own, held by one process: when that process ends, the
kernel removes the bridge, every cable and every route through them, however the end came.

    host 10.200.0.1 ── modelfleet0 ═╗
    node-1 10.200.0.11 ── eth0 ═════╬═ bridge
    node-2 10.200.0.12 ── eth0 ═════╝
"""

from pathlib import Path

from . import processes
from .commands import command
from .errors import NotRunningError
from .layout import HOST_ADDRESS, HOST_LINK, NODES, SERVICE_NETWORK, Node

PART = "network"


def make_network() -> None:
    """Makes the bridge and the host's cable to it."""
    holder = processes.start(PART, "sleep", "infinity", prefix=("unshare", "--net"))
    processes.wait_until("the namespace of the bridge", lambda: has_own_network(holder))
    inside(holder, "ip", "link", "add", "bridge", "type", "bridge")
    inside(holder, "ip", "link", "set", "bridge", "up")
    add_cable(holder, "host", HOST_LINK, near=1)
    command("ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", HOST_LINK)
    command("ip", "link", "set", HOST_LINK, "up")


def connect(node: Node, holder: int) -> None:
    """Gives a node its cable, its address and the routes to the pods of the others."""
    add_cable(bridge_holder(), node.name, "eth0", near=holder)
    inside(holder, "ip", "link", "set", "lo", "up")
    inside(holder, "ip", "address", "add", f"{node.address}/24", "dev", "eth0")
    inside(holder, "ip", "link", "set", "eth0", "up")
    inside(holder, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    # The way to services is kube-proxy's; the route only lets packets reach it.
    inside(holder, "ip", "route", "add", "default", "via", HOST_ADDRESS)
    for other in NODES:
        if other != node:
            inside(holder, "ip", "route", "add", other.pods, "via", other.address)
    command("ip", "route", "replace", node.pods, "via", node.address)
    if node == NODES[0]:
        # The host reaches services through the kube-proxy of the first node: it needs none itself,
        # and so no packet filter rule is ever written outside of our namespaces.
        command("ip", "route", "replace", SERVICE_NETWORK, "via", node.address)


def add_cable(network: int, port: str, link: str, *, near: int) -> None:
    """One end in the bridge, the other in the namespace of the process `near`."""
    ends = (port, "netns", str(network), "type", "veth", "peer", "name", link, "netns", str(near))
    command("ip", "link", "add", *ends)
    inside(network, "ip", "link", "set", port, "master", "bridge", "up")


def inside(holder: int, *arguments: str) -> str:
    """Runs a command in the network namespace of a process."""
    # Not `ip netns exec`: it mounts /sys anew, which hides the cgroups.
    return command("nsenter", "--target", str(holder), "--net", *arguments)


def has_own_network(pid: int) -> bool:
    """Whether the process has left the host's network namespace."""
    own = Path("/proc/self/ns/net").readlink()
    return Path(f"/proc/{pid}/ns/net").readlink() != own


def is_connected(node: Node) -> bool:
    """Whether the node's cable is in the bridge; the kernel removes it after the node's end."""
    return node.name in inside(bridge_holder(), "ip", "-brief", "link")


def bridge_holder() -> int:
    """The process whose network namespace has the bridge."""
    pid = processes.find(PART, "sleep")
    if pid is None:
        raise NotRunningError("The network is not there: `make cluster-down`, `make cluster`.")
    return pid


def is_gone() -> bool:
    """Whether the kernel has taken the host's cable away."""
    return not Path(f"/sys/class/net/{HOST_LINK}").exists()
