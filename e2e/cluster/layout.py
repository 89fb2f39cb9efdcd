"""Where everything of the cluster lives: folders, addresses, names."""

import os
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelfleet" / "cluster"
IMAGES = CACHE / "images"
IMAGE_STORE = CACHE / "buildah"
# More than one cluster fits on a machine: each number has its own folder, addresses and names.
NUMBER = int(os.environ.get("MODELFLEET_CLUSTER_NUMBER", "0"))
# Everything that a running cluster writes; gone after `make cluster-down`.
RUN = CACHE / (f"run-{NUMBER}" if NUMBER else "run")
LOGS = RUN / "logs"
AUDIT_LOG = LOGS / "audit.log"  # JSON lines: what Modelfleet's service accounts asked for
PKI = RUN / "pki"
KUBECONFIG = RUN / "admin.kubeconfig"

# One bridge is the network between the nodes; the host has the first address on it.
HOST_LINK = f"modelfleet{NUMBER}"
HOST_ADDRESS = f"10.{200 + NUMBER}.0.1"
POD_NETWORK = f"10.{244 + NUMBER}.0.0/16"
SERVICE_NETWORK = f"10.{96 + NUMBER}.0.0/16"
API_SERVICE_ADDRESS = f"10.{96 + NUMBER}.0.1"  # always the first of the service network
DNS_SERVICE_ADDRESS = f"10.{96 + NUMBER}.0.10"
DNS_DOMAIN = "cluster.local"
API_SERVER_PORT = 6443
API_SERVER = f"https://{HOST_ADDRESS}:{API_SERVER_PORT}"
METRICS_SERVER_PORT = 4443
ARGO_CD = "argocd"  # the part that holds its namespaces
ARGO_CD_ADDRESS = f"10.{200 + NUMBER}.0.3"
KEDA = "keda"  # the part that holds its namespaces
KEDA_ADDRESS = f"10.{200 + NUMBER}.0.4"
FAKE_POD_NETWORK = f"10.{230 + NUMBER}.0.0/16"  # of kwok's pods, which cannot be reached
ETCD_PORT = 12379 + 2 * NUMBER  # on loopback; not 2379, which another etcd of this machine may hold
ETCD_PEER_PORT = ETCD_PORT + 1

CGROUP = f"modelfleet-{NUMBER}" if NUMBER else "modelfleet"  # the nodes' cgroups are below it

PAUSE_IMAGE = "localhost/modelfleet/pause:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One worker node: its own process, mount, network and host name namespaces."""

    number: int  # from 1; part of its addresses

    @property
    def name(self) -> str:
        """The name of its Node object."""
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        """Its address on the bridge."""
        return f"10.{200 + NUMBER}.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The range its pods get their addresses from."""
        return f"10.{244 + NUMBER}.{self.number}.0/24"

    @property
    def folder(self) -> Path:
        """Everything its processes write."""
        return RUN / self.name

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return self.folder / "containerd.sock"


NODES = (Node(number=1), Node(number=2))
