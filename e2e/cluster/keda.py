"""KEDA beside the cluster: its operator and its metrics adapter, without their pods.

They live in namespaces of their own, because some of their ports open on every address. They act
as KEDA's service account, with the roles that KEDA's own manifests give it, and no other rights.
"""

import base64
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from . import network, processes, up
from .certificates import AUTHORITY, issue, kubeconfig
from .components import program
from .kubectl import apply, get, kubectl
from .layout import KEDA, KEDA_ADDRESS, PKI, RUN
from .machine import start_machine, stop_machine

NAMESPACE = "keda"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:keda-operator"
SERVICE = "keda-metrics-apiserver"  # KEDA's name for the service of its adapter
API = "v1beta1.external.metrics.k8s.io"
ADAPTER_PORT = 6443
METRICS_SERVICE = "127.0.0.1:9666"  # where the adapter asks the operator for values
PROBES_PORT = 8081
FOLDER = RUN / "keda"
KUBECONFIG = FOLDER / "kubeconfig"
CERTIFICATES = FOLDER / "certificates"
# Of the folder `config` of KEDA's module: all of its installation but the workloads.
MANIFESTS = (
    "general/namespace.yaml",
    "service_account/service_account.yaml",
    "rbac/role.yaml",
    "rbac/role_binding.yaml",
    "rbac/aggregate_cluster_roles.yaml",
    "metrics-server/role.yaml",
    "metrics-server/role_binding.yaml",
)


def start_keda() -> None:
    """Returns when ScaledObjects are acted on and the external metrics API answers."""
    up.prepare([KEDA])
    config = program("keda-operator").parent / "config"
    kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", config / "crd")
    files = [argument for name in MANIFESTS for argument in ("--filename", config / name)]
    kubectl("apply", "--server-side", "--force-conflicts", *files)
    apply(*service())
    if processes.find("keda-adapter", "keda-adapter") is None:
        stop_machine(KEDA)
        start_processes()
    apply(metrics_api())
    needs = {"keda-operator", "keda-adapter"}
    processes.wait_until("KEDA's operator", operator_is_ready, needs=needs)
    processes.wait_until("the external metrics API", metrics_are_served, needs=needs)


def start_processes() -> None:
    """The operator and the adapter."""
    enter = start_machine(KEDA, KEDA_ADDRESS, FOLDER)
    network.connect_to_pods(KEDA)
    write_certificates()
    kubeconfig("admin", KUBECONFIG, impersonate=ACCOUNT)
    environment: dict[str, str | Path] = {
        "KUBECONFIG": KUBECONFIG,
        "WATCH_NAMESPACE": "",  # all
        "POD_NAMESPACE": NAMESPACE,
        "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
    }
    processes.start(
        *("keda-operator", program("keda-operator"), "--cert-dir", CERTIFICATES),
        *("--metrics-service-bind-address", METRICS_SERVICE, "--metrics-bind-address", "0"),
        *("--health-probe-bind-address", f":{PROBES_PORT}", "--ca-dir", CERTIFICATES),
        *("--zap-log-level", "info"),
        prefix=enter,
        environment=environment,
    )
    processes.start(
        *("keda-adapter", program("keda-adapter"), "--secure-port", str(ADAPTER_PORT)),
        *("--metrics-service-address", METRICS_SERVICE, "--cert-dir", CERTIFICATES),
        *("--client-ca-file", AUTHORITY, "--tls-cert-file", CERTIFICATES / "tls.crt"),
        *("--tls-private-key-file", CERTIFICATES / "tls.key", "--lister-kubeconfig", KUBECONFIG),
        *("--authentication-kubeconfig", KUBECONFIG, "--authorization-kubeconfig", KUBECONFIG),
        prefix=enter,
        environment=environment,
    )


def write_certificates() -> None:
    """One for both ends of each connection, under the names that KEDA gives its files."""
    names = [f"{SERVICE}.{NAMESPACE}.svc", "localhost"]
    issue("keda", "/CN=keda", names=names, addresses=[KEDA_ADDRESS, "127.0.0.1"])
    CERTIFICATES.mkdir(exist_ok=True)
    for ours, theirs in (("ca.crt", "ca.crt"), ("keda.crt", "tls.crt"), ("keda.key", "tls.key")):
        shutil.copy(PKI / ours, CERTIFICATES / theirs)


def service() -> list[dict[str, Any]]:
    """The adapter as the API server finds it."""
    port = {"name": "https", "port": ADAPTER_PORT}
    endpoints = {"name": f"{SERVICE}-host", "namespace": NAMESPACE}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": ADAPTER_PORT}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**endpoints, "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": [{"addresses": [KEDA_ADDRESS], "conditions": {"ready": True}}],
        },
    ]


def metrics_api() -> dict[str, Any]:
    """Registers the external metrics API with the API server."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "service": {"name": SERVICE, "namespace": NAMESPACE},
            "caBundle": base64.b64encode(AUTHORITY.read_bytes()).decode(),
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }


def operator_is_ready() -> bool:
    """What its probe says."""
    try:
        with urllib.request.urlopen(f"http://{KEDA_ADDRESS}:{PROBES_PORT}/readyz", timeout=2) as it:
            return bool(it.status == 200)
    except OSError:
        return False


def metrics_are_served() -> bool:
    """Whether the API server reaches the adapter."""
    conditions = get("apiservice", API).get("status", {}).get("conditions", [])
    return any((c["type"], c["status"]) == ("Available", "True") for c in conditions)


def stop_keda() -> None:
    """Ends the processes; the ScaledObjects stay, and have a finalizer of KEDA's."""
    # An API without its server would keep every deleted namespace from going.
    kubectl("delete", "apiservice", API, "--ignore-not-found")
    stop_machine(KEDA)
