"""The flags of `modelfleet operator` as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..decisions.leadership import Pace
from ..errors import StartError
from .pods import PodSettings

_EVERYWHERE = {"0.0.0.0", "[::]"}


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
    kubeconfig: Path | None = None  # None: the pod's service account, or else the usual places


def advertised_address(listen: str, pod_ip: str) -> str:
    """Where gateways reach a server that listens here; on one machine it is that machine."""
    host, port = split_address(listen, "--fleet-listen")
    if pod_ip:
        host = f"[{pod_ip}]" if ":" in pod_ip else pod_ip
    elif host in _EVERYWHERE:
        host = "127.0.0.1"
    return f"{host}:{port}"


def split_address(address: str, flag: str) -> tuple[str, int]:
    """Host (an IPv6 one in brackets) and port; StartError names the flag."""
    host, _, port = address.rpartition(":")
    plain = host and (":" not in host or host.startswith("["))
    if not plain or not port.isdecimal() or int(port) > 65535:
        raise StartError(f"{flag}: expected HOST:PORT (like 0.0.0.0:9090), found {address!r}")
    return host, int(port)
