"""What every cluster offers: names, metrics and volumes, by processes of the host."""

import base64
import sys
from pathlib import Path
from typing import Any

from . import processes
from .certificates import AUTHORITY
from .components import program
from .kubectl import apply, apply_manifest, kubectl
from .layout import DNS_DOMAIN, HOST_ADDRESS, KUBECONFIG, METRICS_SERVER_PORT, PKI, RUN

COREFILE = f"""\
{DNS_DOMAIN} in-addr.arpa ip6.arpa {{
    bind {HOST_ADDRESS}
    errors
    kubernetes {DNS_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {PKI}/coredns.kubeconfig
        ttl 5
    }}
}}
# The cluster knows no other names; it says so at once instead of letting clients wait.
. {{
    bind {HOST_ADDRESS}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def start_services() -> None:
    """Returns when their objects are there; they may take some seconds more to answer."""
    for manifest in ("dns.yaml", "metrics.yaml", "storage.yaml"):
        apply_manifest(manifest)
    apply(metrics_api())
    corefile = RUN / "Corefile"
    corefile.write_text(COREFILE)
    processes.start("coredns", program("coredns"), "-conf", corefile)
    start_metrics_server()
    start_provisioner()


def start_metrics_server() -> None:
    """The metrics API: `kubectl top` and autoscalers."""
    kubeconfig = PKI / "metrics-server.kubeconfig"
    processes.start(
        *("metrics-server", program("metrics-server"), "--kubeconfig", kubeconfig),
        *("--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig),
        *("--bind-address", HOST_ADDRESS, "--secure-port", str(METRICS_SERVER_PORT)),
        *("--tls-cert-file", PKI / "metrics-server.crt"),
        *("--tls-private-key-file", PKI / "metrics-server.key"),
        *("--kubelet-preferred-address-types", "InternalIP"),
        *("--kubelet-certificate-authority", AUTHORITY),
        *("--metric-resolution", "10s", "--kubelet-request-timeout", "5s", "--cert-dir", RUN),
    )


def start_provisioner() -> None:
    """The default storage class."""
    source = Path(__file__).parent / "provisioner.py"
    processes.start("provisioner", sys.executable, source, KUBECONFIG, RUN / "volumes")


def metrics_api() -> dict[str, Any]:
    """Registers the metrics API with the API server."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "service": {"name": "metrics-server", "namespace": "kube-system"},
            "caBundle": base64.b64encode(AUTHORITY.read_bytes()).decode(),
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }


def metrics_are_served() -> bool:
    """Whether the metrics API answers."""
    return "True" in kubectl(
        *("get", "apiservice", "v1beta1.metrics.k8s.io"),
        *("--output", "jsonpath={.status.conditions[?(@.type=='Available')].status}"),
    )
