"""The cluster as tests drive it, with powers that no cluster of a provider would give."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import control_plane, devices, down, node, up
from .components import COMPONENTS, program
from .kubectl import kubectl
from .layout import KUBECONFIG, NODES, Node


class Cluster:
    """The one cluster of this machine; objects of this class hold nothing, so any may be used."""

    kubeconfig: Path = KUBECONFIG
    nodes: tuple[str, ...] = tuple(each.name for each in NODES)

    def start(self) -> None:
        """What `make cluster` does; at once if the cluster is up."""
        up.prepare(up.NEEDED)
        up.start_cluster()

    def stop(self) -> None:
        """What `make cluster-down` does."""
        down.stop_cluster()

    @property
    def kubectl(self) -> Path:
        """Kubectl of the cluster's own version."""
        return program("kubectl")

    def program(self, name: str) -> Path:
        """helm or another program of the components; built first if it is missing."""
        component = next(each for each in COMPONENTS.values() if name in each.programs)
        up.prepare([component.name])
        return program(name)

    def load_image(self, archive: Path, reference: str | None = None) -> None:
        """Gives every node an image from an OCI or Docker archive, unpacked and ready to start.

        With the name that the archive holds, nodes that have the image are left alone.
        """
        missing = [each for each in NODES if not node.has_image(each, reference)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda each: node.load_image(each, archive), missing))

    def advertise(self, node_name: str, resource: str, count: int) -> None:
        """Makes the scheduler believe that a node has `count` of a resource (nvidia.com/gpu).

        A kubelet that starts again forgets it. A count of zero takes the resource away.
        """
        amount = {resource: str(count) if count else None}
        # The kubelet would copy one to the other, up to ten seconds later.
        status = {"capacity": amount, "allocatable": amount}
        kubectl(
            *("patch", "node", node_name, "--subresource=status", "--type=merge"),
            *("--patch", json.dumps({"status": status})),
        )

    def start_devices(self, node_name: str, count: int) -> str:
        """A DRA driver on the node publishes so many devices; returns the driver's name."""
        self.program("dra-test-driver")
        devices.start_driver(named(node_name), count)
        return devices.DRIVER

    def stop_devices(self, node_name: str) -> None:
        """The driver ends; its devices go."""
        devices.stop_driver(named(node_name))
        kubectl("delete", "resourceslices", f"--field-selector=spec.nodeName={node_name}")

    def prepared_claims(self, node_name: str) -> set[str]:
        """What the driver has prepared for pods there; each name has the claim's uid."""
        return devices.prepared_claims(named(node_name))

    def stop_apiserver(self) -> None:
        """The API is away until `start_apiserver`; everything else goes on."""
        control_plane.stop_apiserver()

    def start_apiserver(self) -> None:
        """Returns when it is ready; does nothing if it runs."""
        control_plane.start_apiserver()
        control_plane.wait_for_apiserver()

    def restart_apiserver(self) -> None:
        """Every watch breaks, every request in flight fails; back after about three seconds."""
        self.stop_apiserver()
        self.start_apiserver()

    def stop_kubelet(self, node_name: str) -> None:
        """Its pods run on unsupervised; the cluster notices after its grace period of 50 s."""
        node.stop_kubelet(named(node_name), signal.SIGKILL)

    def start_kubelet(self, node_name: str) -> None:
        """Does nothing if it runs; a node that was deleted registers itself again."""
        node.start_kubelet(named(node_name))

    def stop_node(self, node_name: str) -> None:
        """The power fails: every process of the node ends, pods included."""
        node.stop_node(named(node_name))

    def start_node(self, node_name: str) -> None:
        """The power is back: the node starts its pods again with the images it had."""
        node.start_node(named(node_name))


def named(name: str) -> Node:
    """The node of this name; raises ValueError."""
    for each in NODES:
        if each.name == name:
            return each
    raise ValueError(f"no node {name}: there are {', '.join(each.name for each in NODES)}")
