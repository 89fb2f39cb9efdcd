"""The network between the host and the nodes.

The bridge lives in a network namespace of its own, held by one process: when that process ends, the
kernel removes the bridge, every cable and every route through them, however the end came.

    host 10.200.0.1 ── modelfleet0 ═╗
    node-1 10.200.0.11 ── eth0 ═════╬═ bridge
    node-2 10.200.0.12 ── eth0 ═════╝
"""

from pathlib import Path

from .commands import command
from .layout import HOST_ADDRESS, HOST_LINK, NODES, SERVICE_NETWORK, Node
from .namespaces import hold_network, holder, inside_network

PART = "network"
HOST_NAMESPACE = 1  # any process of the host


def make_network() -> None:
    """Makes the bridge and the host's cable to it."""
    hold_network(PART)
    inside_network(PART, "ip", "link", "add", "bridge", "type", "bridge")
    inside_network(PART, "ip", "link", "set", "bridge", "up")
    add_cable("host", HOST_LINK, HOST_NAMESPACE)
    command("ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", HOST_LINK)
    command("ip", "link", "set", HOST_LINK, "up")


def connect(part: str, address: str) -> None:
    """Gives the namespace of a part a cable to the bridge and an address."""
    add_cable(part, "eth0", holder(part))
    inside_network(part, "ip", "link", "set", "lo", "up")
    inside_network(part, "ip", "address", "add", f"{address}/24", "dev", "eth0")
    inside_network(part, "ip", "link", "set", "eth0", "up")


def connect_to_pods(part: str) -> None:
    """Lets a part that is connected reach pods, as the host does."""
    for node in NODES:
        inside_network(part, "ip", "route", "add", node.pods, "via", node.address)


def connect_node(node: Node) -> None:
    """Gives a node its cable, its address and the routes to the pods of the others."""
    connect(node.name, node.address)
    inside_network(node.name, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    # The way to services is kube-proxy's; the route only lets packets reach it.
    inside_network(node.name, "ip", "route", "add", "default", "via", HOST_ADDRESS)
    for other in NODES:
        if other != node:
            inside_network(node.name, "ip", "route", "add", other.pods, "via", other.address)
    command("ip", "route", "replace", node.pods, "via", node.address)
    if node == NODES[0]:
        # The host reaches services through the kube-proxy of the first node: it needs none itself,
        # and so no packet filter rule is ever written outside of our namespaces.
        command("ip", "route", "replace", SERVICE_NETWORK, "via", node.address)


def add_cable(port: str, link: str, process: int) -> None:
    """One end in the bridge, the other in the network namespace of a process."""
    here, there = ("netns", str(holder(PART))), ("netns", str(process))
    command("ip", "link", "add", port, *here, "type", "veth", "peer", "name", link, *there)
    inside_network(PART, "ip", "link", "set", port, "master", "bridge", "up")


def is_connected(part: str) -> bool:
    """Whether the cable is in the bridge; the kernel removes it soon after its holder's end."""
    return f"{part}@" in inside_network(PART, "ip", "-brief", "link")


def is_gone() -> bool:
    """Whether the kernel has taken the host's cable away."""
    return not Path(f"/sys/class/net/{HOST_LINK}").exists()
