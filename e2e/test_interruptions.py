"""Nodes and pods that are told to go, under traffic: no request fails, and streams go on.

Each provider's sign is written on a real node by the test, as docs/spot.md has it. All workers are
on the first node but those that come in their place.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clients import openai_client
from installation import Installation
from kube import Kube, Object, eventually, model_deployment
from traffic import Traffic

FIRST, OTHER = "node-1", "node-2"
STREAMS, TOKENS = 16, 600
NOTICED = 30.0  # seconds until a notice must have its effect


@pytest.fixture
def nodes(administrator: Kube) -> Iterator[Kube]:
    """The administrator, who says what nodes say; they say nothing afterwards."""
    yield administrator
    for node in (FIRST, OTHER):
        administrator("uncordon", node)
        _patch_node(administrator, node, {"spec": {"taints": None}})
        labels = ("cloud.google.com/gke-spot", "karpenter.sh/capacity-type")
        administrator("label", "node", node, *(f"{label}-" for label in labels))
        _set_condition(administrator, node, "PreemptionScheduled", "False", "")


def deployment(replicas: int = 1, **spec: Any) -> Object:
    """Workers prefer the first node while it takes pods."""
    found = model_deployment(
        scaling={"minReplicas": replicas, "maxReplicas": replicas},
        engine={"maxSequences": 32},
        **spec,
    )
    term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [FIRST]}
    rather = {"weight": 100, "preference": {"matchExpressions": [term]}}
    found["spec"]["podTemplate"]["spec"]["affinity"] = {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [rather]}
    }
    return found


def test_a_drain_waits_for_the_replacement_and_costs_no_request(
    kube: Kube, nodes: Kube, installation: Installation
):
    kube.apply(deployment())
    kube.wait("Ready", "modeldeployment/model")
    eventually("the budget is known", lambda: _allowed(kube) == 0)
    (before,) = kube.workers("model")
    node = before["spec"]["nodeName"]
    with Traffic(installation.endpoint(), f"{kube.namespace}/model", clients=4) as traffic:
        traffic.wait_for_answers(8)
        # Only ours: other parts of the cluster are on this node, too.
        ours = "--pod-selector=modelfleet.dev/deployment=model"
        nodes(
            *("drain", node, ours, "--ignore-daemonsets", "--delete-emptydir-data"),
            *("--timeout=90s", "--force"),
            timeout=120,
        )
        (after,) = kube.workers("model")
        assert after["metadata"]["name"] != before["metadata"]["name"]
        traffic.wait_for_answers(8)
    traffic.check()
    assert traffic.account.slowest < 10, "and none waited for a cold start"


def test_a_no_execute_taint_costs_no_request(kube: Kube, nodes: Kube, installation: Installation):
    kube.apply(_spread(deployment(2)))
    kube.wait("Ready", "modeldeployment/model")
    eventually("one on each node", lambda: sorted(_on(kube)) == [FIRST, OTHER])
    eventually("both serve", lambda: kube.model("model")["status"].get("readyReplicas") == 2)
    # Gateways tolerate nothing, so the taint goes where the one that is asked is not.
    kept, gateway = min(installation.gateways().items())
    with Traffic(gateway, f"{kube.namespace}/model", clients=4) as traffic:
        traffic.wait_for_answers(8)
        _taint(nodes, _other(kept), "e2e/gone", "NoExecute")
        eventually("the worker is gone from there", lambda: _other(kept) not in _on(kube), NOTICED)
        eventually("two serve", lambda: _serves(kube, 2), 60)
        traffic.wait_for_answers(8)
    traffic.check()


KARPENTER = ("karpenter.sh/disrupted", "NoSchedule")
SPOT_ITN = ("aws-node-termination-handler/spot-itn", "NoSchedule")
REMEDIATOR = ("remediator.kubernetes.azure.com/unschedulable", "NoSchedule")


def _by_taint(key: str, effect: str) -> Callable[[Kube, str], None]:
    return lambda nodes, node: _taint(nodes, node, key, effect)


def _by_condition(nodes: Kube, node: str) -> None:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    message = f"Preempt Scheduled: {end:%a, %d %b %Y %H:%M:%S} GMT."
    _set_condition(nodes, node, "PreemptionScheduled", "True", message)


@pytest.mark.parametrize(
    ("tell", "kind"),
    [
        pytest.param(_by_taint(*KARPENTER), "Disruption", id="Karpenter"),
        pytest.param(_by_taint(*SPOT_ITN), "SpotReclaim", id="AWS"),
        pytest.param(_by_condition, "SpotReclaim", id="AKS"),
        pytest.param(_by_taint(*REMEDIATOR), "Maintenance", id="AKS drains"),
    ],
)
def test_each_providers_sign_costs_no_request(
    tell: Callable[[Kube, str], None],
    kind: str,
    kube: Kube,
    nodes: Kube,
    installation: Installation,
):
    kube.apply(deployment())
    kube.wait("Ready", "modeldeployment/model")
    (before,) = kube.workers("model")
    node = before["spec"]["nodeName"]
    with Traffic(installation.endpoint(), f"{kube.namespace}/model") as traffic:
        traffic.wait_for_answers(8)
        # Nothing that is not ours may leave: the sign alone, and no drain after it.
        tell(nodes, node)
        eventually(
            "it is replaced",
            lambda: before["metadata"]["name"] not in _names(kube) and _serves(kube, 1),
            60,
        )
        traffic.wait_for_answers(8)
    traffic.check()
    events = kube.items("events")
    told = [e["message"] for e in events if e["reason"] == "Interruption"]
    assert any(f"{before['metadata']['name']} on node {node}: {kind}" in note for note in told)


def test_ten_notices_under_traffic_and_the_time_until_the_last_of_16_streams_moved(
    kube: Kube, nodes: Kube, installation: Installation
):
    kube.apply(_spread(deployment(2)))
    kube.wait("Ready", "modeldeployment/model")
    took, pauses = [], []
    with Traffic(installation.endpoint(), f"{kube.namespace}/model", clients=2) as traffic:
        traffic.wait_for_answers(4)
        for _ in range(10):
            eventually("two serve", lambda: _serves(kube, 2), 60)
            streams = Streams(installation.endpoint(), f"{kube.namespace}/model")
            with streams:
                eventually("all run", lambda streams=streams: streams.begun == STREAMS)
                node = _on(kube)[0]
                gone = {p["metadata"]["name"] for p in kube.workers("model") if _node(p) == node}
                told_at = time.monotonic()
                _taint(nodes, node, "node.cloudprovider.kubernetes.io/shutdown", "NoSchedule")
                eventually(
                    "all there are let go",
                    lambda gone=gone: gone.isdisjoint(_names(kube)),
                    NOTICED,
                )
                took.append(time.monotonic() - told_at)
                _patch_node(nodes, node, {"spec": {"taints": None}})
            pauses.append(max(streams.pauses))
            assert streams.whole == STREAMS
    traffic.check()
    # Measured, and no bar of this test: the machine is shared.
    print(f"notice until the worker was stopped: {_quantiles(took)}")
    print(f"longest pause of a stream: {_quantiles(pauses)}")


class Streams:
    """So many long streams at once, each whole in the end, and the pauses in them."""

    def __init__(self, endpoint: str, model: str) -> None:
        self.begun = self.whole = 0
        self.pauses: list[float] = []
        self._endpoint, self._model = endpoint, model
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Streams:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(120)

    async def _run(self) -> None:
        async with openai_client(self._endpoint, timeout=120) as client:
            await asyncio.gather(*(self._stream(client, n) for n in range(STREAMS)))

    async def _stream(self, client: Any, number: int) -> None:
        last, longest, tokens = 0.0, 0.0, 0
        async for chunk in await client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": f"Stream {number}"}],
            max_tokens=TOKENS,
            temperature=0,
            seed=7,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        ):
            now = time.monotonic()
            self.begun += not last
            longest, last = max(longest, now - (last or now)), now
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        self.pauses.append(longest)
        self.whole += tokens == TOKENS


def _quantiles(seconds: list[float]) -> str:
    p95 = statistics.quantiles(seconds, n=20)[-1]
    return f"median {statistics.median(seconds):.2f} s, p95 {p95:.2f} s"


def _spread(found: Object) -> Object:
    spec = found["spec"]["podTemplate"]["spec"]
    spec.pop("affinity")
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"modelfleet.dev/deployment": "model"}},
        }
    ]
    return found


def _other(node: str) -> str:
    return OTHER if node == FIRST else FIRST


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName", ""))


def _on(kube: Kube) -> list[str]:
    return [_node(pod) for pod in kube.workers("model")]


def _names(kube: Kube) -> list[str]:
    return [pod["metadata"]["name"] for pod in kube.workers("model")]


def _serves(kube: Kube, count: int) -> bool:
    status = kube.model("model")["status"]
    return (status.get("readyReplicas"), status.get("replicas")) == (count, count)


def _allowed(kube: Kube) -> int | None:
    """How many workers may be evicted now."""
    found = kube.find("poddisruptionbudget", "modelfleet-model")
    status = (found or {}).get("status", {})
    if status.get("currentHealthy", 0) == 0:
        return None
    allowed: int | None = status.get("disruptionsAllowed")
    return allowed


def _taint(nodes: Kube, node: str, key: str, effect: str) -> None:
    nodes("taint", "node", node, f"{key}=e2e:{effect}")


def _patch_node(nodes: Kube, node: str, patch: Object) -> None:
    nodes.patch("node", node, patch)


def _set_condition(nodes: Kube, node: str, kind: str, status: str, message: str) -> None:
    """As a node problem detector writes it; a strategic merge keeps the other conditions."""
    condition = {
        "type": kind,
        "status": status,
        "reason": "SpotEvictionIncoming",
        "message": message,
        "lastTransitionTime": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    patch = json.dumps({"status": {"conditions": [condition]}})
    nodes("patch", "node", node, "--subresource=status", "--type=strategic", "-p", patch)
