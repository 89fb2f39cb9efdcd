"""What nodes and pods say before a worker goes: one table of signs, and how long remains.

docs/spot.md shows the same rows with their sources. Nothing here knows the clock: a sign that has
no time of its own counts from when it was first seen (Memory.noticed).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .capacity import SPOT, capacity_of
from .signs import (
    AKS_SECONDS,
    EMPTY,
    EXCLUDED,
    SHUTTING_DOWN,
    TERMINATION,
    Find,
    NoticeKind,
    Object,
    azure,
    disrupted,
    find_cordon,
    find_deletion,
    find_label,
    find_shutdown,
    find_silence,
    find_termination_time,
    taint,
)

SPOT_SECONDS: Final = 120.0  # AWS, between the notice and the end
GKE_SECONDS: Final = 15.0  # of ordinary pods, whatever their grace: GKE's and kubelets' usual share


# After these a spot market was short of capacity at that place.
RECLAIMS: Final = frozenset(
    {NoticeKind.SPOT_RECLAIM, NoticeKind.REBALANCE, NoticeKind.NODE_SHUTDOWN}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What was said about the end of a worker, or of its node."""

    kind: NoticeKind
    source: str  # what said it, for a person
    seconds: float | None = None  # that remain from when it was first seen; None: no end is known
    deadline: float | None = None  # said by itself, Unix seconds; it comes before `seconds`
    since: float | None = None  # when the sign came, by its own time; None: it has none

    def ends_at(self, first_seen: float) -> float | None:
        """By when the worker may be gone, Unix seconds; None: nothing says so.

        120 s, first seen at 1000 -> 1120; the sign itself says that it came at 990 -> 1110.
        """
        if self.deadline is not None:
            return self.deadline
        if self.seconds is None:
            return None
        return min(first_seen if self.since is None else self.since, first_seen) + self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """One row of the table."""

    name: str  # as docs/spot.md has it
    kind: NoticeKind
    find: Find
    seconds: float | None = None
    spot_seconds: float | None = None  # the same on a node that is known to be spot


def notice_of(node: Object, pod: Object, now: float) -> Notice | None:
    """The most urgent of all that a Node and the status of a pod on it say; None: it stays.

    Objects as the API server shows them; `EMPTY`: it was not seen. A Node with the taint
    `aws-node-termination-handler/spot-itn` -> SpotReclaim, 120 s from when it is first seen.
    """
    return min(_notices(node, pod), key=lambda notice: _urgency(notice, now), default=None)


def more_urgent(one: Notice | None, other: Notice | None, now: float) -> Notice | None:
    """The one that ends first; None: there is neither."""
    there = [notice for notice in (one, other) if notice is not None]
    return min(there, key=lambda notice: _urgency(notice, now), default=None)


def _notices(node: Object, pod: Object) -> Iterator[Notice]:
    is_spot = capacity_of(node.get("metadata", EMPTY).get("labels") or EMPTY) == SPOT
    for sign in SIGNS:
        found = sign.find(node, pod)
        if found is not None:
            usual = sign.spot_seconds if is_spot and sign.spot_seconds else sign.seconds
            yield Notice(
                kind=found.kind or sign.kind,
                source=sign.name,
                seconds=usual if found.seconds is None else found.seconds,
                deadline=found.deadline,
                since=found.since,
            )


def _urgency(notice: Notice, now: float) -> tuple[bool, float]:
    """What says an end before what says none; the nearest end before others."""
    end = notice.ends_at(now)
    return end is None, end or 0.0


_NTH: Final = "aws-node-termination-handler/"

# Karpenter and EKS say nothing that tells an interruption from a consolidation: on a spot node it
# may be one, so it has the time of one.
SIGNS: Final = (
    Sign(
        name="taint karpenter.sh/disrupted",
        kind=NoticeKind.DISRUPTION,
        find=taint("karpenter.sh/disrupted"),
        spot_seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"label {EXCLUDED}",
        kind=NoticeKind.DISRUPTION,
        find=find_label,
        spot_seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"annotation {TERMINATION}",
        kind=NoticeKind.NODE_DELETION,
        find=find_termination_time,
    ),
    Sign(
        name="deletionTimestamp of the Node",
        kind=NoticeKind.NODE_DELETION,
        find=find_deletion,
        spot_seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"taint {_NTH}spot-itn",
        kind=NoticeKind.SPOT_RECLAIM,
        find=taint(f"{_NTH}spot-itn"),
        seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"taint {_NTH}rebalance-recommendation",
        kind=NoticeKind.REBALANCE,
        find=taint(f"{_NTH}rebalance-recommendation"),
    ),
    Sign(
        name=f"taint {_NTH}scheduled-maintenance",
        kind=NoticeKind.MAINTENANCE,
        find=taint(f"{_NTH}scheduled-maintenance"),
    ),
    Sign(
        name=f"taint {_NTH}asg-lifecycle-termination",
        kind=NoticeKind.NODE_DELETION,
        find=taint(f"{_NTH}asg-lifecycle-termination"),
        seconds=SPOT_SECONDS,
    ),
    Sign(
        name="spec.unschedulable",
        kind=NoticeKind.CORDON,
        find=find_cordon,
        spot_seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"condition Ready: {SHUTTING_DOWN}",
        kind=NoticeKind.NODE_SHUTDOWN,
        find=find_shutdown,
        seconds=GKE_SECONDS,
    ),
    Sign(
        name="condition PreemptionScheduled",
        kind=NoticeKind.SPOT_RECLAIM,
        find=azure("PreemptionScheduled", NoticeKind.SPOT_RECLAIM),
    ),
    Sign(
        name="condition VMEventScheduled",
        kind=NoticeKind.MAINTENANCE,
        find=azure("VMEventScheduled", NoticeKind.MAINTENANCE),
    ),
    Sign(
        name="taint remediator.kubernetes.azure.com/unschedulable",
        kind=NoticeKind.MAINTENANCE,
        find=taint("remediator.kubernetes.azure.com/unschedulable"),
        spot_seconds=AKS_SECONDS,
    ),
    Sign(
        name="taint node.cloudprovider.kubernetes.io/shutdown",
        kind=NoticeKind.NODE_SHUTDOWN,
        find=taint("node.cloudprovider.kubernetes.io/shutdown"),
        seconds=0.0,
    ),
    Sign(
        name="taint node.kubernetes.io/out-of-service",
        kind=NoticeKind.NODE_LOST,
        find=taint("node.kubernetes.io/out-of-service"),
        seconds=0.0,
    ),
    Sign(
        name="taint node.kubernetes.io/unreachable",
        kind=NoticeKind.NODE_LOST,
        find=taint("node.kubernetes.io/unreachable", "NoExecute"),
    ),
    Sign(name="condition Ready: Unknown", kind=NoticeKind.NODE_LOST, find=find_silence),
    Sign(
        name="pod condition DisruptionTarget: EvictionByEvictionAPI",
        kind=NoticeKind.EVICTION,
        find=disrupted("EvictionByEvictionAPI"),
    ),
    Sign(
        name="pod condition DisruptionTarget: DeletionByTaintManager",
        kind=NoticeKind.TAINT,
        find=disrupted("DeletionByTaintManager"),
    ),
    Sign(
        name="pod condition DisruptionTarget: PreemptionByScheduler",
        kind=NoticeKind.PREEMPTION,
        find=disrupted("PreemptionByScheduler"),
    ),
    Sign(
        name="pod condition DisruptionTarget: TerminationByKubelet",
        kind=NoticeKind.NODE_SHUTDOWN,
        find=disrupted("TerminationByKubelet"),
        seconds=GKE_SECONDS,
    ),
)
