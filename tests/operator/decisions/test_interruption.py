"""Each sign that a worker is about to go, as the API server shows it, and how long remains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelfleet_operator.decisions.interruption import SIGNS, more_urgent, notice_of
from modelfleet_operator.decisions.signs import EMPTY, NoticeKind

SEEN = 1_700_000_000.0  # 2023-11-14T22:13:20Z
CAME = "2023-11-14T22:13:10Z"  # ten seconds before it was seen
DOCS = Path(__file__).parents[3] / "docs"


def node(
    *taints: str,
    conditions: tuple[dict[str, str], ...] = (),
    labels: dict[str, str] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """Taints as KEY:EFFECT or KEY=VALUE:EFFECT."""
    spec: dict[str, Any] = {}
    if taints:
        spec["taints"] = [taint(text) for text in taints]
    if any("unschedulable" in text and "azure" not in text for text in taints):
        spec["unschedulable"] = True
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is"}
    return {
        "metadata": {"name": "node-1", "labels": labels or {}, **metadata},
        "spec": spec,
        "status": {"conditions": [*(conditions or (ready,))]},
    }


def taint(text: str) -> dict[str, str]:
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    found = {"key": key, "effect": effect}
    if value:
        found["value"] = value
    if effect == "NoExecute":
        found["timeAdded"] = CAME
    return found


def condition(type_: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": CAME,
    }


def pod(reason: str, **metadata: str) -> dict[str, Any]:
    told = condition("DisruptionTarget", "True", reason, "says why")
    return {"metadata": {"name": "tiny-a-0", **metadata}, "status": {"conditions": [told]}}


SPOT = {"karpenter.sh/capacity-type": "spot"}
EKS_SPOT = {"eks.amazonaws.com/capacityType": "SPOT"}
AKS_SPOT = {"kubernetes.azure.com/scalesetpriority": "spot"}
GKE_SPOT = {"cloud.google.com/gke-spot": "true"}
SHUTTING_DOWN = condition("Ready", "False", "KubeletNotReady", "node is shutting down")
SILENT = condition("Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")


def azure(type_: str, message: str) -> dict[str, str]:
    return condition(type_, "True", "SpotEvictionIncoming", message)


PREEMPT = "Preempt Scheduled: Tue, 14 Nov 2023 22:13:40 GMT."
DISRUPTED = "karpenter.sh/disrupted:NoSchedule"
EXCLUDED = {"node.kubernetes.io/exclude-from-external-load-balancers": "karpenter"}
TERMINATION = {"karpenter.sh/nodeclaim-termination-timestamp": "2023-11-14T22:20:00Z"}


@pytest.mark.parametrize(
    ("found", "told", "kind", "remains"),
    [
        pytest.param(node(DISRUPTED), {}, "Disruption", None, id="Karpenter consolidates"),
        pytest.param(node(DISRUPTED, labels=SPOT), {}, "Disruption", 120, id="Karpenter, spot"),
        pytest.param(node(labels=EXCLUDED), {}, "Disruption", None, id="Karpenter's label"),
        pytest.param(
            node(DISRUPTED, annotations=TERMINATION),
            {},
            "NodeDeletion",
            400,
            id="Karpenter, with a terminationGracePeriod",
        ),
        pytest.param(
            node(deletionTimestamp=CAME), {}, "NodeDeletion", None, id="a Node that is deleted"
        ),
        pytest.param(
            node(deletionTimestamp=CAME, labels=SPOT),
            {},
            "NodeDeletion",
            110,
            id="the same on spot: from when it was deleted",
        ),
        pytest.param(
            node("aws-node-termination-handler/spot-itn=event:NoSchedule"),
            {},
            "SpotReclaim",
            120,
            id="AWS node termination handler, spot",
        ),
        pytest.param(
            node("aws-node-termination-handler/rebalance-recommendation:NoSchedule"),
            {},
            "Rebalance",
            None,
            id="the same, a recommendation",
        ),
        pytest.param(
            node("aws-node-termination-handler/scheduled-maintenance:NoSchedule"),
            {},
            "Maintenance",
            None,
            id="the same, maintenance",
        ),
        pytest.param(
            node("aws-node-termination-handler/asg-lifecycle-termination:NoSchedule"),
            {},
            "NodeDeletion",
            120,
            id="the same, an autoscaling group",
        ),
        pytest.param(
            node("node.kubernetes.io/unschedulable:NoSchedule"), {}, "Cordon", None, id="cordoned"
        ),
        pytest.param(
            node("node.kubernetes.io/unschedulable:NoSchedule", labels=EKS_SPOT),
            {},
            "Cordon",
            120,
            id="EKS managed groups cordon spot before they drain it",
        ),
        pytest.param(
            node(conditions=(SHUTTING_DOWN,), labels=GKE_SPOT),
            {},
            "NodeShutdown",
            5,
            id="GKE spot: 15 s from when the kubelet said so",
        ),
        pytest.param(
            node(conditions=(azure("PreemptionScheduled", PREEMPT),), labels=AKS_SPOT),
            {},
            "SpotReclaim",
            20,
            id="AKS spot: the deadline is in the message",
        ),
        pytest.param(
            node(conditions=(azure("PreemptionScheduled", "no date"),)),
            {},
            "SpotReclaim",
            20,
            id="AKS spot, unreadable: 30 s from when it said so",
        ),
        pytest.param(
            node(conditions=(azure("PreemptionScheduled", "Preempt Started."),)),
            {},
            "SpotReclaim",
            -10,
            id="AKS spot, begun: any moment",
        ),
        pytest.param(
            node(
                conditions=(
                    azure(
                        "PreemptionScheduled",
                        "SpotRebalanceRecommendation Advisory: Tue, 14 Nov 2023 22:13:40 UTC.",
                    ),
                )
            ),
            {},
            "Rebalance",
            None,
            id="AKS spot, an advisory: its date is no deadline",
        ),
        pytest.param(
            node(conditions=(azure("VMEventScheduled", PREEMPT),)),
            {},
            "SpotReclaim",
            20,
            id="AKS, the older condition",
        ),
        pytest.param(
            node(
                conditions=(
                    azure("VMEventScheduled", "Redeploy Scheduled: Tue, 14 Nov 2023 22:23:20 GMT."),
                )
            ),
            {},
            "Maintenance",
            600,
            id="AKS moves the machine",
        ),
        pytest.param(
            node("remediator.kubernetes.azure.com/unschedulable:NoSchedule", labels=AKS_SPOT),
            {},
            "Maintenance",
            30,
            id="AKS drains it",
        ),
        pytest.param(
            node("node.cloudprovider.kubernetes.io/shutdown:NoSchedule"),
            {},
            "NodeShutdown",
            0,
            id="the cloud says that it is off",
        ),
        pytest.param(
            node("node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"),
            {},
            "NodeLost",
            -10,
            id="a person says that it is gone",
        ),
        pytest.param(
            node("node.kubernetes.io/unreachable:NoExecute", conditions=(SILENT,)),
            {},
            "NodeLost",
            None,
            id="its kubelet is silent: nobody knows",
        ),
        pytest.param(
            node(conditions=(SILENT,)), {}, "NodeLost", None, id="the same before the taint"
        ),
        pytest.param(
            {},
            pod("EvictionByEvictionAPI", deletionTimestamp="2023-11-14T22:14:20Z"),
            "Eviction",
            60,
            id="evicted: by the end of its grace",
        ),
        pytest.param(
            {},
            pod("DeletionByTaintManager", deletionTimestamp="2023-11-14T22:14:20Z"),
            "Taint",
            60,
            id="a NoExecute taint",
        ),
        pytest.param({}, pod("PreemptionByScheduler"), "Preemption", None, id="preempted"),
        pytest.param(
            {},
            pod("TerminationByKubelet"),
            "NodeShutdown",
            5,
            id="the kubelet ends it: GKE's 15 s for ordinary pods",
        ),
    ],
)
def test_each_row(found: dict[str, Any], told: dict[str, Any], kind: str, remains: float | None):
    notice = notice_of(found, told, SEEN)
    assert notice is not None
    assert notice.kind == kind
    end = notice.ends_at(SEEN)
    assert end == (None if remains is None else SEEN + remains)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(node(), id="all is well"),
        pytest.param(node(labels=SPOT), id="spot alone says nothing"),
        pytest.param(
            node("kubernetes.azure.com/scalesetpriority=spot:NoSchedule", labels=AKS_SPOT),
            id="AKS's permanent taint of spot nodes",
        ),
        pytest.param(
            node(labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""}),
            id="somebody else's use of the label",
        ),
        pytest.param(
            node(conditions=(condition("Ready", "False", "KubeletNotReady", "PLEG is unhealthy"),)),
            id="not ready for another reason",
        ),
        pytest.param(
            node(
                conditions=(
                    condition("VMEventScheduled", "False", "NoVMEventScheduled", "VM has no event"),
                )
            ),
            id="AKS says that there is none",
        ),
        pytest.param(
            node(
                conditions=(
                    azure("VMEventScheduled", "Freeze Scheduled: Tue, 14 Nov 2023 22:23:20 GMT."),
                )
            ),
            id="AKS freezes it for seconds",
        ),
        pytest.param(EMPTY, id="nothing was seen"),
    ],
)
def test_what_is_no_notice(found: dict[str, Any]):
    assert notice_of(found, EMPTY, SEEN) is None


def test_the_nearest_end_counts_and_any_end_before_none():
    both = node(
        "aws-node-termination-handler/spot-itn:NoSchedule",
        DISRUPTED,
        "node.kubernetes.io/unschedulable:NoSchedule",
        annotations=TERMINATION,
    )
    notice = notice_of(both, EMPTY, SEEN)
    assert notice is not None
    assert notice.kind == NoticeKind.SPOT_RECLAIM
    evicted = notice_of(EMPTY, pod("EvictionByEvictionAPI", deletionTimestamp=CAME), SEEN)
    assert more_urgent(notice, evicted, SEEN) == evicted
    assert more_urgent(None, notice, SEEN) == notice
    assert more_urgent(None, None, SEEN) is None


def test_what_has_no_time_of_its_own_counts_from_when_it_was_first_seen():
    notice = notice_of(node("aws-node-termination-handler/spot-itn:NoSchedule"), EMPTY, SEEN + 60)
    assert notice is not None
    assert notice.ends_at(SEEN) == SEEN + 120


def test_the_docs_have_a_row_for_each_sign_with_its_seconds():
    rows = [line for line in (DOCS / "spot.md").read_text().splitlines() if line.startswith("|")]
    for sign in SIGNS:
        mine = [row for row in rows if f"`{sign.name}`" in row]
        assert len(mine) == 1, sign.name
        assert sign.kind.value in mine[0]
        for seconds in filter(None, (sign.seconds, sign.spot_seconds)):
            assert f"{seconds:g} s" in mine[0]
