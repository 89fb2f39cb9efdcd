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
    holder = hold_network(PART)
    inside(holder, "ip", "link", "add", "bridge", "type", "bridge")
    inside(holder, "ip", "link", "set", "bridge", "up")
    add_cable(holder, "host", HOST_LINK, near=1)
    command("ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", HOST_LINK)
    command("ip", "link", "set", HOST_LINK, "up")


def connect(port: str, holder: int, address: str) -> None:
    """Gives the network namespace of a process a cable to the bridge and an address."""
    add_cable(holder_of(PART), port, "eth0", near=holder)
    inside(holder, "ip", "link", "set", "lo", "up")
    inside(holder, "ip", "address", "add", f"{address}/24", "dev", "eth0")
    inside(holder, "ip", "link", "set", "eth0", "up")


def connect_node(node: Node, holder: int) -> None:
    """Gives a node its cable, its address and the routes to the pods of the others."""
    connect(node.name, holder, node.address)
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


def hold_network(part: str) -> int:
    """Starts a process in a network namespace of its own; returns its process id."""
    processes.start(part, "sleep", "infinity", prefix=("unshare", "--net"))
    # The program is `unshare` until it has made the namespace and becomes `sleep`.
    processes.wait_until(f"the namespace of {part}", lambda: processes.find(part, "sleep"))
    return holder_of(part)


def holder_of(part: str) -> int:
    """The process that holds a namespace; raises NotRunningError."""
    pid = processes.find(part, "sleep")
    if pid is None:
        raise NotRunningError(f"The namespace of {part} is gone: `make cluster` makes it again.")
    return pid


def is_connected(port: str) -> bool:
    """Whether the cable is in the bridge; the kernel removes it soon after its holder's end."""
    return f"{port}@" in inside(holder_of(PART), "ip", "-brief", "link")


def is_gone() -> bool:
    """Whether the kernel has taken the host's cable away."""
    return not Path(f"/sys/class/net/{HOST_LINK}").exists()
