"""A real KEDA drives `/scale` from the gateways' metrics, to zero and back (`make e2e-keda`)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.cluster import Cluster
from cluster.keda import start_keda, stop_keda
from kube import Kube, Object, eventually, model_deployment
from traffic import Traffic

pytestmark = [pytest.mark.keda, pytest.mark.timeout(900)]  # with the start of all it needs

PAGE = Path(__file__).parents[1] / "docs" / "keda.md"
CAPACITY = 4  # requests of one worker: what KEDA aims at here
MOST = 3  # workers


@pytest.fixture(scope="module")
def keda(machine: Cluster) -> Iterator[None]:
    """KEDA's operator and metrics adapter."""
    del machine
    start_keda()
    yield
    stop_keda()


@pytest.fixture
def scaled(keda: None, kube: Kube) -> Iterator[Kube]:
    """A namespace with what the page tells users to apply; the ScaledObject goes while KEDA runs.

    It has a finalizer of KEDA's, which would otherwise keep the namespace.
    """
    del keda
    kube.apply(*as_the_page_says(kube.namespace))
    yield kube
    kube("delete", "scaledobjects", "--all", "--timeout=60s", timeout=70)


def as_the_page_says(namespace: str) -> list[Object]:
    """The YAML of docs/keda.md for this namespace, a paced worker, and a test's patience."""
    (block,) = re.findall(r"```yaml\n(apiVersion: modelfleet.*?)```", PAGE.read_text(), re.DOTALL)
    assert block.count("models/chat") == 2
    model, scaled_object = yaml.safe_load_all(block.replace("models/chat", f"{namespace}/chat"))
    for manifest in (model, scaled_object):
        del manifest["metadata"]["namespace"]
    model["spec"] |= {k: model_deployment()["spec"][k] for k in ("model", "podTemplate")}
    spec = scaled_object["spec"]
    spec |= {"cooldownPeriod": 20, "maxReplicaCount": MOST}
    spec["advanced"]["scalingModifiers"]["target"] = str(CAPACITY)
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    behavior["scaleDown"]["stabilizationWindowSeconds"] = 15
    return [model, scaled_object]


class Clock:
    """Tells what happened when, for docs/keda.md's table."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def tell(self, what: str) -> None:
        """Prints the seconds since the last call."""
        now = time.monotonic()
        print(f"{now - self._last:5.1f} s  {what}")
        self._last = now


def test_keda_wakes_it_scales_it_and_puts_it_to_sleep(scaled: Kube, gateway: str):
    model = f"{scaled.namespace}/chat"
    eventually("KEDA took it over", lambda: says(scaled, "Ready"))
    eventually("it is off", lambda: reason(scaled) == "ScaledToZero")
    assert count(scaled) == 0
    clock = Clock()

    with Traffic(gateway, model, clients=1) as first:
        eventually("KEDA wrote 1", lambda: count(scaled) == 1)
        clock.tell("a request at a gateway, until KEDA raised the count from 0")
        first.wait_for_answers(1)
        clock.tell("until it was answered")
        with Traffic(gateway, model, clients=CAPACITY * MOST) as load:
            eventually("the load has all workers", lambda: ready(scaled) == MOST, 120)
            clock.tell(f"{CAPACITY * MOST} more clients, until {MOST} workers served")
            load.wait_for_answers(10)
        clock.tell("load")
        eventually("one request has one worker", lambda: count(scaled) == ready(scaled) == 1, 180)
        clock.tell("load gone, until 1 worker served")
        first.wait_for_answers(1)
    eventually("silence brings it to zero", lambda: is_asleep(scaled), 120)
    clock.tell("the last request gone, until no worker was left")

    with Traffic(gateway, model, clients=CAPACITY) as again:
        again.wait_for_answers(8)
    clock.tell("awake again, 8 requests answered")
    for traffic in (first, load, again):
        traffic.check()
    steps = [(s["from"], s["to"]) for s in scaled.model("chat")["status"]["scalingHistory"]]
    assert {to for _, to in steps} >= {0, 1, MOST}
    requests = sum(t.account.answered for t in (first, load, again))
    slowest = max(t.account.slowest for t in (first, load, again))
    print(f"{requests} requests, none refused or lost; the slowest {slowest:.1f} s; {steps}")


def says(kube: Kube, condition: str) -> bool:
    """Whether the ScaledObject has this condition."""
    conditions = kube.get("scaledobject", "chat").get("status", {}).get("conditions", [])
    return any((c["type"], c["status"]) == (condition, "True") for c in conditions)


def count(kube: Kube) -> int:
    """What KEDA, or its HPA, wrote."""
    return int(kube.model("chat")["spec"]["scaling"]["replicas"])


def ready(kube: Kube) -> int:
    return int(kube.model("chat").get("status", {}).get("readyReplicas", 0))


def reason(kube: Kube) -> str:
    return str(kube.condition("chat", "Ready").get("reason", ""))


def is_asleep(kube: Kube) -> bool:
    return reason(kube) == "Asleep" and not kube.workers("chat")
