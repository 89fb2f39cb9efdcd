"""What NetworkPolicies allow, by the rules of networking.k8s.io/v1, as far as ours use them.

The cluster of the end-to-end tests has no network plugin that enforces them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]
NAMESPACE_NAME = "kubernetes.io/metadata.name"  # a label that each namespace has


@dataclass(frozen=True)
class Pod:
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)  # by name


def may_connect(policies: Iterable[Object], source: Pod, target: Pod, port: int) -> bool:
    """Whether a TCP connection is allowed: out of the source, and into the target."""
    policies = list(policies)
    return all(
        any(
            _allows(rule, peers, _namespace(policy), other, target, port)
            for policy in applying
            for rule in policy["spec"].get(rules) or ()
        )
        for this, other, direction, rules, peers in (
            (source, target, "Egress", "egress", "to"),
            (target, source, "Ingress", "ingress", "from"),
        )
        if (applying := [p for p in policies if _selects(p, this, direction)])
    )


def _selects(policy: Object, pod: Pod, direction: str) -> bool:
    spec = policy["spec"]
    return (
        _namespace(policy) == pod.namespace
        and direction in spec["policyTypes"]
        and _matches(spec["podSelector"], pod.labels)
    )


def _allows(rule: Object, peers: str, namespace: str, other: Pod, target: Pod, port: int) -> bool:
    ports = rule.get("ports")
    if ports and not any(
        entry.get("protocol", "TCP") == "TCP"
        and (target.ports.get(entry["port"]) if isinstance(entry["port"], str) else entry["port"])
        == port
        for entry in ports
    ):
        return False
    named = rule.get(peers)
    return not named or any(_is_peer(peer, namespace, other) for peer in named)


def _is_peer(peer: Object, namespace: str, pod: Pod) -> bool:
    assert not peer.keys() - {"namespaceSelector", "podSelector"}, peer
    if "namespaceSelector" not in peer:
        is_in = pod.namespace == namespace
    else:
        is_in = _matches(peer["namespaceSelector"], {NAMESPACE_NAME: pod.namespace})
    return is_in and _matches(peer.get("podSelector", {}), pod.labels)


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    assert not selector.keys() - {"matchLabels", "matchExpressions"}, selector
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _namespace(policy: Object) -> str:
    return str(policy["metadata"]["namespace"])
