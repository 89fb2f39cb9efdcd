"""The whole life of a ModelDeployment on a real cluster, under traffic that never pauses."""

from __future__ import annotations

import contextlib

import psutil

from installation import Installation
from kube import Kube, Object, eventually, model_deployment
from processes import kill_worker, processes
from traffic import Traffic
from truth import Truth

QUICK = {"idleTimeout": "6s", "scaleDownDelay": "4s", "targetQueueDepth": 2}


def test_a_model_lives_through_everything_and_loses_no_request(kube: Kube, gateway: str):
    model = f"{kube.namespace}/story"
    scaling = {"minReplicas": 1, "maxReplicas": 3, **QUICK}
    kube.apply(model_deployment("story", scaling=scaling))
    with Truth(kube, "story") as truth:
        kube.wait("Ready", "modeldeployment/story")
        accounts = []

        with Traffic(gateway, model, clients=2) as traffic:
            traffic.wait_for_answers(4)
            with Traffic(gateway, model, clients=4) as more:
                eventually("it grows with its queue", lambda: ready(kube) == 3)
                more.wait_for_answers(8)
            accounts.append(more)
            eventually("it shrinks when the queue does", lambda: replicas(kube) < 3)

            revision = kube.model("story")["status"]["revision"]
            kube.patch("modeldeployment", "story", {"spec": {"engine": {"maxSequences": 8}}})
            eventually(
                "the changed spec is another revision, and serves", lambda: rolled(kube, revision)
            )
            traffic.wait_for_answers(4)

            victim = next(pod for pod in kube.workers("story"))
            kill_worker(victim)
            eventually("a killed worker is replaced", lambda: replaced(kube, victim))
            traffic.wait_for_answers(4)
        accounts.append(traffic)

        kube.patch("modeldeployment", "story", {"spec": {"scaling": {"minReplicas": 0}}})
        eventually("it sleeps at zero", lambda: asleep(kube))
        with Traffic(gateway, model, clients=3) as waking:
            waking.wait_for_answers(6)
        accounts.append(waking)
        for account in accounts:
            account.check()
        history = kube.model("story")["status"]["scalingHistory"]
        assert {step["to"] for step in history} >= {0, 1, 3}
        assert all(step["reason"] for step in history)
        check_starts(kube.model("story")["status"])

    truth.check()
    kube("delete", "modeldeployment", "story", "--timeout=60s", timeout=70)
    eventually("nothing is left of it", lambda: nothing_left(kube))


def test_a_leader_that_stands_still_costs_no_request(
    kube: Kube, gateway: str, installation: Installation
):
    kube.apply(model_deployment("story"))
    kube.wait("Ready", "modeldeployment/story")
    leader = installation.leader()
    with Traffic(gateway, f"{kube.namespace}/story", clients=2) as traffic:
        traffic.wait_for_answers(4)
        stopped = processes(leader["metadata"]["uid"], "operator")
        assert stopped
        for process in stopped:
            process.suspend()
        # The chart's Lease is taken after 15 s; the kubelet kills what does not answer after 30.
        kube.patch("modeldeployment", "story", {"spec": {"scaling": {"minReplicas": 2}}})
        eventually("the other one acts", lambda: ready(kube) == 2, 35)
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        traffic.wait_for_answers(4)
        assert installation.leader()["metadata"]["uid"] != leader["metadata"]["uid"]
        assert (replicas(kube), len(kube.workers("story"))) == (2, 2)
    traffic.check()


def check_starts(status: Object) -> None:
    """Each start was timed by the pod's and the worker's own times; those of pods are whole."""
    (learned,) = status["coldStarts"]
    took = {phase: float(text.removesuffix("s")) for phase, text in learned["seconds"].items()}
    assert took.keys() == {"node", "image", "weights", "load", "firstToken", "total"}
    assert (learned["accelerator"], learned["wakes"]) == ("", 5)
    assert 0 < took["load"] <= took["total"] < 120
    assert took["image"] < 60
    assert took["node"] < 60


def replicas(kube: Kube) -> int:
    return int(kube.model("story")["status"].get("replicas", 0))


def ready(kube: Kube) -> int:
    return int(kube.model("story")["status"].get("readyReplicas", 0))


def rolled(kube: Kube, before: str) -> bool:
    status = kube.model("story")["status"]
    reconciling = kube.condition("story", "Reconciling")
    revisions = {p["metadata"]["labels"]["modelfleet.dev/revision"] for p in kube.workers("story")}
    return (
        status["revision"] != before
        and revisions == {status["revision"]}
        and reconciling["status"] == "False"
    )


def replaced(kube: Kube, victim: Object) -> bool:
    uids = {pod["metadata"]["uid"] for pod in kube.workers("story")}
    return victim["metadata"]["uid"] not in uids and ready(kube) >= 1


def asleep(kube: Kube) -> bool:
    return kube.condition("story", "Ready").get("reason") == "Asleep" and not kube.workers("story")


def nothing_left(kube: Kube) -> bool:
    selector = "modelfleet.dev/deployment=story"
    return not kube.items("pods", selector) and not kube.items("controllerrevisions", selector)
