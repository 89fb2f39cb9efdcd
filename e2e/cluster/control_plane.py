"""etcd, API server, controller manager and scheduler, as processes of the host."""

import ssl
import urllib.error
import urllib.request
from pathlib import Path

from . import processes
from .certificates import AUTHORITY
from .components import program
from .layout import (
    API_SERVER,
    API_SERVER_PORT,
    AUDIT_LOG,
    ETCD_PEER_PORT,
    ETCD_PORT,
    HOST_ADDRESS,
    PKI,
    RUN,
    SERVICE_NETWORK,
)

ETCD = f"http://127.0.0.1:{ETCD_PORT}"
PEER = f"http://127.0.0.1:{ETCD_PEER_PORT}"


def start_control_plane() -> None:
    """Returns when the API server is ready."""
    start_etcd()
    start_apiserver()
    wait_for_apiserver()
    start_controller_manager()
    start_scheduler()


def start_etcd() -> None:
    """One member, on loopback."""
    processes.start(
        *("etcd", "/usr/bin/etcd", "--name", "modelfleet", "--data-dir", RUN / "etcd"),
        *("--listen-client-urls", ETCD, "--advertise-client-urls", ETCD),
        *("--listen-peer-urls", PEER, "--initial-advertise-peer-urls", PEER),
        *("--initial-cluster", f"modelfleet={PEER}"),
        *("--quota-backend-bytes", str(4 << 30), "--auto-compaction-retention", "5m"),
        *("--auto-compaction-mode", "periodic", "--logger", "zap"),
    )


def start_apiserver() -> None:
    """Listens on the host's address of the nodes' network, which nothing outside reaches."""
    processes.start(
        *("kube-apiserver", program("kube-apiserver"), "--etcd-servers", ETCD),
        *("--bind-address", HOST_ADDRESS, "--advertise-address", HOST_ADDRESS),
        *("--secure-port", str(API_SERVER_PORT), "--service-cluster-ip-range", SERVICE_NETWORK),
        *("--authorization-mode", "Node,RBAC", "--allow-privileged=true"),
        *("--enable-admission-plugins", "NodeRestriction"),
        *("--client-ca-file", AUTHORITY, "--cert-dir", RUN),
        *("--tls-cert-file", PKI / "kube-apiserver.crt"),
        *("--tls-private-key-file", PKI / "kube-apiserver.key"),
        *("--service-account-issuer", "https://kubernetes.default.svc"),
        *("--service-account-key-file", PKI / "service-accounts.crt"),
        *("--service-account-signing-key-file", PKI / "service-accounts.key"),
        # Names of nodes resolve nowhere.
        *("--kubelet-preferred-address-types", "InternalIP"),
        *("--kubelet-certificate-authority", AUTHORITY),
        *("--kubelet-client-certificate", PKI / "kubelet-client.crt"),
        *("--kubelet-client-key", PKI / "kubelet-client.key"),
        # The metrics API is a process of the host behind a service without pods.
        "--enable-aggregator-routing=true",
        *("--proxy-client-cert-file", PKI / "front-proxy.crt"),
        *("--proxy-client-key-file", PKI / "front-proxy.key"),
        *("--requestheader-client-ca-file", AUTHORITY),
        *("--requestheader-allowed-names", "front-proxy"),
        *("--requestheader-username-headers", "X-Remote-User"),
        *("--requestheader-group-headers", "X-Remote-Group"),
        *("--requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        *("--audit-policy-file", Path(__file__).parent / "audit-policy.yaml"),
        *("--audit-log-path", AUDIT_LOG),
        *("--audit-log-maxsize", "100", "--audit-log-maxbackup", "1"),
    )


def start_controller_manager() -> None:
    """Every controller, with the rights of its own service account."""
    kubeconfig = PKI / "kube-controller-manager.kubeconfig"
    processes.start(
        *("kube-controller-manager", program("kube-controller-manager")),
        *("--kubeconfig", kubeconfig, "--bind-address", HOST_ADDRESS),
        *("--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig),
        *("--root-ca-file", AUTHORITY, "--client-ca-file", AUTHORITY),
        *("--service-account-private-key-file", PKI / "service-accounts.key"),
        *("--cluster-signing-cert-file", AUTHORITY, "--cluster-signing-key-file", PKI / "ca.key"),
        *("--use-service-account-credentials=true", "--leader-elect=false", "--cert-dir", RUN),
        # The default of 20 requests a second would be what a thousand objects wait for.
        *("--kube-api-qps", "400", "--kube-api-burst", "800"),
    )


def start_scheduler() -> None:
    """The scheduler that everybody runs."""
    kubeconfig = PKI / "kube-scheduler.kubeconfig"
    processes.start(
        *("kube-scheduler", program("kube-scheduler"), "--kubeconfig", kubeconfig),
        *("--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig),
        *("--bind-address", HOST_ADDRESS, "--leader-elect=false", "--cert-dir", RUN),
        *("--kube-api-qps", "400", "--kube-api-burst", "800"),
    )


def stop_apiserver() -> None:
    """Ends it at once, without the minute of grace that load balancers would want."""
    pid = processes.find("kube-apiserver", "kube-apiserver")
    if pid is not None:
        processes.stop([pid], timeout=2)


def wait_for_apiserver(timeout: float = 60.0) -> None:
    """Returns when /readyz says so; raises NotReadyError."""
    needs = {"etcd", "kube-apiserver"}
    processes.wait_until("the API server", is_ready, needs=needs, timeout=timeout)


def is_ready() -> bool:
    """What /readyz says."""
    context = ssl.create_default_context(cafile=str(AUTHORITY))
    context.load_cert_chain(PKI / "admin.crt", PKI / "admin.key")
    try:
        with urllib.request.urlopen(f"{API_SERVER}/readyz", context=context, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
