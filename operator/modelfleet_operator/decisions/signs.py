"""What single signs look like on a Node or a pod; `interruption.SIGNS` is their table."""

from __future__ import annotations

import datetime
import email.utils
import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Object = Mapping[str, Any]

EMPTY: Final[Object] = {}
AKS_SECONDS: Final = 30.0  # often less: Azure/karpenter-provider-azure#1769
EXCLUDED: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
TERMINATION: Final = "karpenter.sh/nodeclaim-termination-timestamp"
_UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"
SHUTTING_DOWN: Final = "node is shutting down"
_AZURE_EVENT: Final = re.compile(
    r"(?:VM )?(?P<event>[A-Za-z]+) (?P<state>Scheduled|Started|Advisory)(?:: (?P<date>[^.]+))?"
)


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


_AZURE_KINDS: Final = {
    "Preempt": NoticeKind.SPOT_RECLAIM,
    "SpotRebalanceRecommendation": NoticeKind.REBALANCE,
    "Terminate": NoticeKind.NODE_DELETION,
    "Reboot": NoticeKind.MAINTENANCE,
    "Redeploy": NoticeKind.MAINTENANCE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a sign says beyond its row."""

    since: float | None = None
    deadline: float | None = None
    seconds: float | None = None
    kind: NoticeKind | None = None  # where one sign can mean several


Find = Callable[[Object, Object], Found | None]  # gets a Node, and a pod that is on it


def taint(key: str, effect: str = "") -> Find:
    """A taint of the node with this key."""

    def find(node: Object, _: Object) -> Found | None:
        for there in node.get("spec", EMPTY).get("taints") or ():
            if there.get("key") == key and effect in ("", there.get("effect")):
                return Found(since=_time(there.get("timeAdded")))
        return None

    return find


def find_label(node: Object, _: Object) -> Found | None:
    """Karpenter's label for load balancers."""
    labels = node.get("metadata", EMPTY).get("labels") or EMPTY
    return Found() if labels.get(EXCLUDED) == "karpenter" else None


def find_deletion(node: Object, _: Object) -> Found | None:
    """The Node is being deleted."""
    deleted = node.get("metadata", EMPTY).get("deletionTimestamp")
    return Found(since=_time(deleted)) if deleted else None


def find_termination_time(node: Object, _: Object) -> Found | None:
    """By when Karpenter ends it, whatever runs there."""
    annotations = node.get("metadata", EMPTY).get("annotations") or EMPTY
    deadline = _time(annotations.get(TERMINATION))
    return None if deadline is None else Found(deadline=deadline)


def find_cordon(node: Object, pod: Object) -> Found | None:
    """It takes no new pods."""
    if not node.get("spec", EMPTY).get("unschedulable"):
        return None
    return taint(_UNSCHEDULABLE)(node, pod) or Found()


def find_shutdown(node: Object, _: Object) -> Found | None:
    """Its kubelet has begun to end the pods."""
    ready = _condition(node, "Ready")
    if ready.get("status") == "True" or SHUTTING_DOWN not in ready.get("message", ""):
        return None
    return Found(since=_time(ready.get("lastTransitionTime")))


def find_silence(node: Object, _: Object) -> Found | None:
    """Its kubelet has not spoken for a while."""
    ready = _condition(node, "Ready")
    if ready.get("status") != "Unknown":
        return None
    return Found(since=_time(ready.get("lastTransitionTime")))


def azure(type_: str, usual: NoticeKind) -> Find:
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


def disrupted(reason: str) -> Find:
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
