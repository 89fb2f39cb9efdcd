"""The NetworkPolicies of worker pods: only gateways and operators reach them.

Workers run in the namespaces of their ModelDeployments and WarmPools, which a chart does not know.
One policy each, and theirs: the garbage collector deletes it with its owner.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from ..errors import RejectedError, StartError
from .api import ClusterApi
from .pods import DEPLOYMENT, PORT, owner_reference

PORTS = ({"port": PORT}, {"port": 9001})  # plaintext, and TLS
REPEAT = 3600.0  # seconds after which it is written again, in case another hand changed it

Peer = Mapping[str, Any]  # a NetworkPolicyPeer

log = structlog.get_logger()


def read_peers(text: str, flag: str) -> tuple[Peer, ...]:
    """JSON as the `from` of a NetworkPolicy's rule; StartError names the flag."""
    try:
        found = json.loads(text) if text else []
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(peer, dict) and peer for peer in found):
        raise StartError(
            f'{flag}: expected JSON like [{{"podSelector": {{"matchLabels": {{...}}}}}}], the '
            "`from` of a NetworkPolicy's rule"
        )
    return tuple(found)


def worker_policy(
    owner: Mapping[str, Any], kind: str, label: str, peers: tuple[Peer, ...]
) -> dict[str, Any]:
    """`owner` is the metadata of the object whose pods have `label` with its name.

    What workers may call is left open: they read models from where those are.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": policy_name(owner["name"], label),
            "namespace": owner["namespace"],
            "labels": {"app.kubernetes.io/managed-by": "modelfleet", label: owner["name"]},
            "ownerReferences": [owner_reference(owner, kind)],
        },
        "spec": {
            "podSelector": {"matchLabels": {label: owner["name"]}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [dict(peer) for peer in peers], "ports": [*PORTS]}],
        },
    }


def policy_name(owner: str, label: str) -> str:
    """Of a deployment's workers, or of a pool's standbys."""
    return f"modelfleet-{'workers' if label == DEPLOYMENT else 'standbys'}-{owner}"


class WorkerPolicies:
    """One for each deployment or pool that has workers."""

    def __init__(
        self, api: ClusterApi, clock: Callable[[], float], peers: tuple[Peer, ...]
    ) -> None:
        """`peers` may reach workers; empty: no policy is written."""
        self._api = api
        self._clock = clock
        self._peers = peers
        self._written: dict[tuple[str, str], tuple[str, float]] = {}  # -> uid of the owner, when

    async def keep(self, owner: Mapping[str, Any], kind: str, label: str) -> None:
        """Call it before a worker starts, and while any run: another version may have begun them.

        PassingError: not now. What the API server refuses is the administrator's to correct, and
        holds no worker up.
        """
        if not self._peers or self._is_fresh(owner, label):
            return
        try:
            await self._api.apply_policy(worker_policy(owner, kind, label, self._peers))
        except RejectedError as error:
            model = f"{owner['namespace']}/{owner['name']}"
            log.warning(
                "no network policy is kept for workers: any pod reaches them",
                model=model,
                error=str(error),
            )
        self._written[_key(owner, label)] = owner["uid"], self._clock()

    def _is_fresh(self, owner: Mapping[str, Any], label: str) -> bool:
        uid, at = self._written.get(_key(owner, label), ("", 0.0))
        return uid == owner["uid"] and self._clock() - at < REPEAT

    def forget(self, key: str, label: str) -> None:
        """The owner is gone."""
        self._written.pop((key, label), None)


def _key(owner: Mapping[str, Any], label: str) -> tuple[str, str]:
    return f"{owner['namespace']}/{owner['name']}", label
