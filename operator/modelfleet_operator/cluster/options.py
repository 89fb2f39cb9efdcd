"""The flags of `modelfleet operator` as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from modelfleet_process.addresses import dialled_here, join_address, split_address

from ..decisions.authorities import Lifetimes
from ..decisions.leadership import Pace
from .pods import PodSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """Where the ports with TLS are, and who is who."""

    accepts_plaintext: bool
    gateway_account: str  # NAMESPACE/NAME of the gateways' ServiceAccount
    objects: str = (
        "modelfleet-tls"  # name of the Secret, and of the ConfigMap, of --lease-namespace
    )
    fleet_listen: str = "0.0.0.0:9092"
    issuer_listen: str = "0.0.0.0:9093"
    lifetimes: Lifetimes = field(default_factory=Lifetimes)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOptions:
    """One replica's options; addresses are HOST:PORT or [IPv6]:PORT."""

    fleet_listen: str
    pods: PodSettings
    advertise: str = ""  # where gateways reach this replica; empty: where it listens
    metrics_listen: str = ""  # empty: no metrics
    endpoint: str = ""  # the gateways' URL for clients, shown in statuses; empty: not known
    namespaces: tuple[str, ...] = ()  # empty: all
    lease_namespace: str = "default"
    lease_name: str = "modelfleet-operator"
    lease_pace: Pace = field(default_factory=Pace)
    tls: TlsOptions | None = None  # None: no certificates
    key_namespaces: tuple[str, ...] = ()  # of API keys, beside `lease_namespace`
    kubeconfig: Path | None = None  # None: the pod's service account, or else the usual places


def advertised_address(listen: str, pod_ip: str) -> str:
    """Where gateways reach a server that listens here; on one machine it is that machine."""
    _, port = split_address(listen)
    return join_address(pod_ip, port) if pod_ip else dialled_here(listen)
