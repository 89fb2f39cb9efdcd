"""A DRA driver on a node: Kubernetes' own test driver, whose devices do not exist.

The kubelet has it prepare each claim of a pod, which writes a file for CDI, and take it back. The
node's containerd (1.6) knows no CDI, so a container gets nothing of its device.
"""

import signal
from pathlib import Path

from . import namespaces, processes
from .components import program
from .layout import PKI, Node
from .node import start_inside

DRIVER = "dra.modelfleet.test"
PART = "dra-driver"
CDI = "/run/cdi"  # of the node alone


def start_driver(node: Node, devices: int) -> None:
    """The node publishes so many devices a moment later."""
    root = node.folder / "kubelet"
    (root / "plugins" / DRIVER).mkdir(parents=True, exist_ok=True)  # it makes only the one above
    start_inside(
        *(node, PART, program("dra-test-driver"), "kubelet-plugin"),
        *("--drivername", DRIVER, "--node-name", node.name, "--num-devices", str(devices)),
        *("--kubeconfig", PKI / f"{node.name}.kubeconfig", "--cdi-dir", CDI),
        *("--datadir", root / "plugins", "--plugin-registration-path", root / "plugins_registry"),
    )


def stop_driver(node: Node) -> None:
    """What it has published stays until it is deleted."""
    pid = processes.find(f"{node.name}-{PART}", "dra-test-driver")
    if pid is not None:
        processes.stop([pid], with_signal=signal.SIGTERM)


def prepared_claims(node: Node) -> set[str]:
    """Names of the files that the driver has written for claims; each has the claim's uid."""
    return {Path(name).name for name in namespaces.inside(node.name, "ls", CDI).split()}
