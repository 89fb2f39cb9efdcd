"""What a worker's pod says to the controllers of nodes, and the budget of the Eviction API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from ..errors import RejectedError
from .api import ClusterApi
from .known import Known
from .observing import Object, controller_uid
from .pods import DEPLOYMENT, owner_reference

PAUSE = 60.0  # seconds until a budget that the API server refused is tried again
SHOWN_AFTER = 60.0  # seconds after which the watch has shown what we wrote

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownBudget:
    """A PodDisruptionBudget of ours as the index holds it."""

    uid: str
    owner_uid: str
    min_available: int


def read_budget(body: Object) -> KnownBudget:
    """Reads it for the index; -1: another hand wrote something else, which is written over."""
    least = body.get("spec", {}).get("minAvailable")
    return KnownBudget(
        uid=body["metadata"]["uid"],
        owner_uid=controller_uid(body),
        min_available=least if isinstance(least, int) else -1,
    )


def budget_name(deployment: str) -> str:
    """Of the PodDisruptionBudget of a deployment's workers."""
    return f"modelfleet-{deployment}"


def disruption_budget(owner: Mapping[str, Any], min_available: int) -> dict[str, Any]:
    """`owner` is the metadata of the ModelDeployment.

    A count and not `maxUnavailable`: that is measured against spec.scaling.replicas through the
    scale subresource, which only mode External has.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": budget_name(owner["name"]),
            "namespace": owner["namespace"],
            "labels": {
                "app.kubernetes.io/managed-by": "modelfleet",
                DEPLOYMENT: owner["name"],
            },
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "minAvailable": min_available,
            # What is not ready serves nobody: it never keeps a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {DEPLOYMENT: owner["name"]}},
        },
    }


class DisruptionBudgets:
    """One for each deployment, written when the plan wants another number."""

    def __init__(
        self,
        api: ClusterApi,
        clock: Callable[[], float],
        post_event: Callable[[Known, Literal["Warning"], str, str], Awaitable[None]],
    ) -> None:
        self._api = api
        self._clock = clock
        self._post_event = post_event
        self._index: Mapping[str, Collection[KnownBudget]] | None = None
        self._written: dict[str, tuple[int, float]] = {}  # key -> what and when
        self._refused_until: dict[str, float] = {}

    def attach(self, index: Mapping[str, Collection[KnownBudget]] | None) -> None:
        """The live index; None: the operator may not keep any."""
        self._index = index

    @property
    def are_kept(self) -> bool:
        """Whether there is one for each deployment."""
        return self._index is not None

    def min_available(self, key: str, owner_uid: str) -> int | None:
        """What it says now; None: there is none."""
        written = self._written.get(key)
        if written is not None and self._clock() - written[1] < SHOWN_AFTER:
            return written[0]
        cached = self._cached(key, owner_uid)
        return cached.min_available if cached is not None else None

    def known(self, key: str, uid: str) -> KnownBudget | None:
        """What the index holds of the object with this uid; None: nothing."""
        return next((b for b in (self._index or {}).get(key, ()) if b.uid == uid), None)

    def is_as_written(self, key: str, known: KnownBudget) -> bool:
        """Whether it is what we wrote a moment ago."""
        written = self._written.get(key)
        return written is not None and written[0] == known.min_available

    def _cached(self, key: str, owner_uid: str) -> KnownBudget | None:
        there = (self._index or {}).get(key, ())
        return next((b for b in there if b.owner_uid == owner_uid), None)

    async def write(self, key: str, known: Known, min_available: int) -> str:
        """What was done; empty: nothing."""
        if self._clock() < self._refused_until.get(key, 0.0):
            return ""
        cached = self._cached(key, known.uid)
        body = disruption_budget(known.metadata, min_available)
        try:
            await self._api.write_budget(body, known.uid, cached.uid if cached else "")
        except RejectedError as error:
            self._refused_until[key] = self._clock() + PAUSE
            log.warning("the disruption budget is not kept", model=key, error=str(error))
            await self._post_event(known, "Warning", "DisruptionBudgetNotKept", str(error))
            return ""
        self._written[key] = (min_available, self._clock())
        return "disruptions limited"

    def gone(self, key: str) -> None:
        """The watch said that it was deleted."""
        self._written.pop(key, None)

    def forget(self, key: str) -> None:
        """The deployment is gone; the garbage collector has the rest."""
        self._written.pop(key, None)
        self._refused_until.pop(key, None)
