"""What nodes and pods say before a worker goes: one table of signs, and how long remains.

docs/spot.md shows the same rows with their sources. Nothing here knows the clock: a sign that has
no time of its own counts from when it was first seen (Memory.noticed).
"""

from __future__ import annotations

import datetime
import email.utils
import enum
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .capacity import SPOT, capacity_of

Object = Mapping[str, Any]

EMPTY: Final[Object] = {}
SPOT_SECONDS: Final = 120.0  # AWS, between the notice and the end
GKE_SECONDS: Final = 15.0  # of ordinary pods, whatever their grace: GKE's and kubelets' usual share
AKS_SECONDS: Final = 30.0  # often less: Azure/karpenter-provider-azure#1769


class NoticeKind(enum.StrEnum):
    """Why a worker is going to end. Programs read them: status, events, metrics."""

    SPOT_RECLAIM = "SpotReclaim"  # the provider takes spot capacity back
    REBALANCE = "Rebalance"  # it says that it probably will, soon
    MAINTENANCE = "Maintenance"  # the machine is restarted or moved
    NODE_SHUTDOWN = "NodeShutdown"  # the kubelet, or the provider, shuts the machine down
    NODE_DELETION = "NodeDeletion"  # the Node is being deleted
    DISRUPTION = "Disruption"  # a node controller empties it: consolidation, drift, expiry, spot
    CORDON = "Cordon"  # no new pods: the first step of every drain
    NODE_LOST = "NodeLost"  # its kubelet is silent; gateways know whether the worker answers
    EVICTION = "Eviction"  # this pod: by the Eviction API
    TAINT = "Taint"  # this pod: a NoExecute taint that it does not tolerate
    PREEMPTION = "Preemption"  # this pod: makes room for one of a higher priority


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
class Found:
    """What a sign says beyond its row."""

    since: float | None = None
    deadline: float | None = None
    seconds: float | None = None
    kind: NoticeKind | None = None  # where one sign can mean several


Find = Callable[[Object, Object], Found | None]  # gets a Node, and a pod that is on it


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


# --- What single signs look like.


def _taint(key: str, effect: str = "") -> Find:
    def find(node: Object, _: Object) -> Found | None:
        for taint in node.get("spec", EMPTY).get("taints") or ():
            if taint.get("key") == key and effect in ("", taint.get("effect")):
                return Found(since=_time(taint.get("timeAdded")))
        return None

    return find


def _find_label(node: Object, _: Object) -> Found | None:
    labels = node.get("metadata", EMPTY).get("labels") or EMPTY
    return Found() if labels.get(_EXCLUDED) == "karpenter" else None


def _find_deletion(node: Object, _: Object) -> Found | None:
    deleted = node.get("metadata", EMPTY).get("deletionTimestamp")
    return Found(since=_time(deleted)) if deleted else None


def _find_termination_time(node: Object, _: Object) -> Found | None:
    annotations = node.get("metadata", EMPTY).get("annotations") or EMPTY
    deadline = _time(annotations.get(_TERMINATION))
    return None if deadline is None else Found(deadline=deadline)


def _find_cordon(node: Object, pod: Object) -> Found | None:
    if not node.get("spec", EMPTY).get("unschedulable"):
        return None
    return _taint(_UNSCHEDULABLE)(node, pod) or Found()


def _find_shutdown(node: Object, _: Object) -> Found | None:
    ready = _condition(node, "Ready")
    if ready.get("status") == "True" or _SHUTTING_DOWN not in ready.get("message", ""):
        return None
    return Found(since=_time(ready.get("lastTransitionTime")))


def _find_silence(node: Object, _: Object) -> Found | None:
    ready = _condition(node, "Ready")
    if ready.get("status") != "Unknown":
        return None
    return Found(since=_time(ready.get("lastTransitionTime")))


def _azure(type_: str, usual: NoticeKind) -> Find:
    """Azure's scheduled events: `Preempt Scheduled: Mon, 02 Mar 2026 19:01:45 GMT.`."""

    def find(node: Object, _: Object) -> Found | None:
        condition = _condition(node, type_)
        if condition.get("status") != "True":
            return None
        said = _AZURE_EVENT.match(" ".join(condition.get("message", "").split()))
        event = said["event"] if said else ""
        if event == "Freeze":  # it pauses for seconds, and goes on
            return None
        kind = _AZURE_KINDS.get(event, usual)
        since = _time(condition.get("lastTransitionTime"))
        if kind is NoticeKind.REBALANCE:  # the date of an advisory is its own
            return Found(kind=kind, since=since)
        deadline = _http_date(said["date"]) if said else None
        has_begun = said is not None and said["state"] == "Started"
        seconds = AKS_SECONDS if kind is NoticeKind.SPOT_RECLAIM else None
        return Found(
            kind=kind, since=since, deadline=deadline, seconds=0.0 if has_begun else seconds
        )

    return find


def _disrupted(reason: str) -> Find:
    """The pod's own condition; where it was deleted, that says by when it is gone."""

    def find(_: Object, pod: Object) -> Found | None:
        condition = _condition(pod, "DisruptionTarget")
        if condition.get("status") != "True" or condition.get("reason") != reason:
            return None
        return Found(
            deadline=_time(pod.get("metadata", EMPTY).get("deletionTimestamp")),
            since=_time(condition.get("lastTransitionTime")),
        )

    return find


_NTH: Final = "aws-node-termination-handler/"
_EXCLUDED: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
_TERMINATION: Final = "karpenter.sh/nodeclaim-termination-timestamp"
_UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"
_SHUTTING_DOWN: Final = "node is shutting down"
_AZURE_EVENT: Final = re.compile(
    r"(?:VM )?(?P<event>[A-Za-z]+) (?P<state>Scheduled|Started|Advisory)(?:: (?P<date>[^.]+))?"
)
_AZURE_KINDS: Final = {
    "Preempt": NoticeKind.SPOT_RECLAIM,
    "SpotRebalanceRecommendation": NoticeKind.REBALANCE,
    "Terminate": NoticeKind.NODE_DELETION,
    "Reboot": NoticeKind.MAINTENANCE,
    "Redeploy": NoticeKind.MAINTENANCE,
}

# Karpenter and EKS say nothing that tells an interruption from a consolidation: on a spot node it
# may be one, so it has the time of one.
SIGNS: Final = (
    Sign(
        name="taint karpenter.sh/disrupted",
        kind=NoticeKind.DISRUPTION,
        find=_taint("karpenter.sh/disrupted"),
        spot_seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"label {_EXCLUDED}",
        kind=NoticeKind.DISRUPTION,
        find=_find_label,
        spot_seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"annotation {_TERMINATION}",
        kind=NoticeKind.NODE_DELETION,
        find=_find_termination_time,
    ),
    Sign(
        name="deletionTimestamp of the Node",
        kind=NoticeKind.NODE_DELETION,
        find=_find_deletion,
        spot_seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"taint {_NTH}spot-itn",
        kind=NoticeKind.SPOT_RECLAIM,
        find=_taint(f"{_NTH}spot-itn"),
        seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"taint {_NTH}rebalance-recommendation",
        kind=NoticeKind.REBALANCE,
        find=_taint(f"{_NTH}rebalance-recommendation"),
    ),
    Sign(
        name=f"taint {_NTH}scheduled-maintenance",
        kind=NoticeKind.MAINTENANCE,
        find=_taint(f"{_NTH}scheduled-maintenance"),
    ),
    Sign(
        name=f"taint {_NTH}asg-lifecycle-termination",
        kind=NoticeKind.NODE_DELETION,
        find=_taint(f"{_NTH}asg-lifecycle-termination"),
        seconds=SPOT_SECONDS,
    ),
    Sign(
        name="spec.unschedulable",
        kind=NoticeKind.CORDON,
        find=_find_cordon,
        spot_seconds=SPOT_SECONDS,
    ),
    Sign(
        name=f"condition Ready: {_SHUTTING_DOWN}",
        kind=NoticeKind.NODE_SHUTDOWN,
        find=_find_shutdown,
        seconds=GKE_SECONDS,
    ),
    Sign(
        name="condition PreemptionScheduled",
        kind=NoticeKind.SPOT_RECLAIM,
        find=_azure("PreemptionScheduled", NoticeKind.SPOT_RECLAIM),
    ),
    Sign(
        name="condition VMEventScheduled",
        kind=NoticeKind.MAINTENANCE,
        find=_azure("VMEventScheduled", NoticeKind.MAINTENANCE),
    ),
    Sign(
        name="taint remediator.kubernetes.azure.com/unschedulable",
        kind=NoticeKind.MAINTENANCE,
        find=_taint("remediator.kubernetes.azure.com/unschedulable"),
        spot_seconds=AKS_SECONDS,
    ),
    Sign(
        name="taint node.cloudprovider.kubernetes.io/shutdown",
        kind=NoticeKind.NODE_SHUTDOWN,
        find=_taint("node.cloudprovider.kubernetes.io/shutdown"),
        seconds=0.0,
    ),
    Sign(
        name="taint node.kubernetes.io/out-of-service",
        kind=NoticeKind.NODE_LOST,
        find=_taint("node.kubernetes.io/out-of-service"),
        seconds=0.0,
    ),
    Sign(
        name="taint node.kubernetes.io/unreachable",
        kind=NoticeKind.NODE_LOST,
        find=_taint("node.kubernetes.io/unreachable", "NoExecute"),
    ),
    Sign(name="condition Ready: Unknown", kind=NoticeKind.NODE_LOST, find=_find_silence),
    Sign(
        name="pod condition DisruptionTarget: EvictionByEvictionAPI",
        kind=NoticeKind.EVICTION,
        find=_disrupted("EvictionByEvictionAPI"),
    ),
    Sign(
        name="pod condition DisruptionTarget: DeletionByTaintManager",
        kind=NoticeKind.TAINT,
        find=_disrupted("DeletionByTaintManager"),
    ),
    Sign(
        name="pod condition DisruptionTarget: PreemptionByScheduler",
        kind=NoticeKind.PREEMPTION,
        find=_disrupted("PreemptionByScheduler"),
    ),
    Sign(
        name="pod condition DisruptionTarget: TerminationByKubelet",
        kind=NoticeKind.NODE_SHUTDOWN,
        find=_disrupted("TerminationByKubelet"),
        seconds=GKE_SECONDS,
    ),
)


def _condition(found: Object, type_: str) -> Object:
    conditions = found.get("status", EMPTY).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == type_), EMPTY)


def _time(text: object) -> float | None:
    """Kubernetes' RFC 3339; None for what another hand wrote."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _http_date(text: str | None) -> float | None:
    """`Mon, 02 Mar 2026 19:01:45 GMT`."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None
