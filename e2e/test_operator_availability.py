"""Two operators, of which one leads: killed, stopped, restarted, cut off; nothing is done twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from installation import Installation
from kube import Kube, Object, eventually
from operators import holder, operators, waiting_deployment

TAKEOVER = 20.0  # seconds in which the other one acts when the leader is killed
PAUSE = 60.0  # seconds for which a leader is stopped


@pytest.fixture(scope="module")
def alone(administrator: Kube, installation: Installation) -> Iterator[None]:
    """The chart's operators are away."""
    system = administrator.within(installation.namespace)
    installed = [d["metadata"]["name"] for d in system.items("deployments", COMPONENT)]
    for name in installed:
        system("scale", "deployment", name, "--replicas=0")
    eventually("the chart's operators ended", lambda: not system.items("pods", COMPONENT), 60)
    yield
    for name in installed:
        system("scale", "deployment", name, "--replicas=2")
        system("rollout", "status", "deployment", name, "--timeout=60s", timeout=70)


@pytest.fixture
def kube(alone: None, kube: Kube) -> Kube:
    """A namespace for which the test's own operators act, and the chart's do not."""
    del alone
    return kube


COMPONENT = "app.kubernetes.io/component=operator"


def pods(kube: Kube, deployment: str) -> dict[str, str]:
    """Name -> uid."""
    found = kube.items("pods", f"modelfleet.dev/deployment={deployment}")
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in found}


def exactly(kube: Kube, deployment: str, count: int) -> bool:
    """So many pods, with the lowest ordinals, and the status says the same."""
    ordinals = {int(name.rpartition("-")[2]) for name in pods(kube, deployment)}
    status = kube.model(deployment).get("status", {})
    return ordinals == set(range(count)) and status.get("replicas") == count


def starts(kube: Kube, deployment: str) -> list[str]:
    """What Events say was started; one that was started twice is there twice."""
    events = [e for e in kube.items("events.events.k8s.io") if e["reason"] == "WorkerStarted"]
    return [
        event["note"].split()[1].rstrip(":")
        for event in events
        if event["regarding"]["name"] == deployment
    ]


def test_a_killed_leader_is_replaced_and_nothing_is_created_twice(kube: Kube):
    with operators(kube, 2) as (leader, other):
        kube.apply(waiting_deployment("before", 3))
        eventually("the leader acts", lambda: exactly(kube, "before", 3))
        there = pods(kube, "before")

        leader.send(signal.SIGKILL)
        kube.apply(waiting_deployment("after", 2))
        eventually("the other one acts", lambda: exactly(kube, "after", 2), TAKEOVER)
        assert other.leads()
        assert pods(kube, "before") == there
        assert sorted(starts(kube, "before")) == sorted(there)
        assert len(kube.items("controllerrevisions")) == 2


def test_a_leader_that_ends_by_itself_is_replaced_at_once(kube: Kube):
    with operators(kube, 2) as (leader, other):
        leader.send(signal.SIGTERM)
        assert leader.ended(within=15) == 0, leader.said()
        ended = time.monotonic()
        eventually("the other one leads", other.leads, 10)
        assert time.monotonic() - ended < 5, "it did not wait for the Lease to expire"


def test_a_leader_that_was_stopped_for_a_minute_writes_nothing_and_ends(kube: Kube):
    with operators(kube, 2) as (leader, other):
        kube.apply(waiting_deployment("model", 3))
        eventually("the leader acts", lambda: exactly(kube, "model", 3))
        leader.send(signal.SIGSTOP)
        stopped = time.monotonic()
        # It would act on this, if it could: what it knows is that three are wanted.
        kube.patch("modeldeployment", "model", {"spec": {"scaling": {"minReplicas": 1}}})
        kube.patch("modeldeployment", "model", {"spec": {"scaling": {"maxReplicas": 1}}})
        eventually("the other one acts", lambda: exactly(kube, "model", 1), TAKEOVER + 15)
        time.sleep(max(0.0, stopped + PAUSE - time.monotonic()))
        before = versions(kube)

        leader.send(signal.SIGCONT)
        assert leader.ended(within=10) == 1
        last = leader.said().splitlines()[-1]
        assert "another replica may lead" in last
        assert "Traceback" not in leader.said()
        assert versions(kube) == before
        assert other.leads()
        assert exactly(kube, "model", 1)


def versions(kube: Kube) -> dict[str, str]:
    """Of all that an operator writes, but the Lease that its leader renews."""
    kinds = ("modeldeployments", "pods", "controllerrevisions", "events.events.k8s.io")
    found: list[Object] = [obj for kind in kinds for obj in kube.items(kind)]
    ours = [o for o in found if o.get("reportingController", "modelfleet").startswith("modelfleet")]
    return {o["metadata"]["uid"]: o["metadata"]["resourceVersion"] for o in ours}


def test_an_operator_killed_in_the_middle_of_its_work_is_gone_on_with(kube: Kube):
    with operators(kube, 2) as (leader, _):
        kube.apply(waiting_deployment("model", 30))
        eventually("it has begun", lambda: len(pods(kube, "model")) > 2)
        leader.send(signal.SIGKILL)
        begun = pods(kube, "model")
        assert len(begun) < 30, "killed too late to prove anything"
        eventually("the other one goes on", lambda: exactly(kube, "model", 30), TAKEOVER + 15)
        assert begun.items() <= pods(kube, "model").items()
        assert len(starts(kube, "model")) == len(set(starts(kube, "model")))
        assert len(kube.items("controllerrevisions")) == 1


def test_a_namespace_where_it_has_no_right_to_create_pods(
    kube: Kube, administrator: Kube, installation: Installation, tmp_path: Path
):
    """It says so, and heals when the right is granted."""
    kube.apply(account(), role({"pods": READ}), binding("Role", ACCOUNT))
    cluster = binding("ClusterRole", f"{installation.release}-operator-cluster", kube.namespace)
    administrator.apply(cluster)
    try:
        with operators(kube.as_account(ACCOUNT, tmp_path), 1):
            kube.apply(waiting_deployment("model", 1))
            said = eventually("it shows", lambda: stalled(kube, "Forbidden"), 30)
            assert "pods is forbidden" in said["message"]
            kube.apply(role({"pods": [*READ, "create"]}))
            eventually("it heals", lambda: exactly(kube, "model", 1))
            eventually("it says so", lambda: not stalled(kube, "Forbidden"), 30)
    finally:
        administrator("delete", "clusterrolebinding", ACCOUNT)


ACCOUNT = "limited"
READ = ["list", "watch"]
RIGHTS = {
    "modeldeployments.modelfleet.dev": READ,
    "modeldeployments.modelfleet.dev/status": ["patch"],
    "modeldeployments.modelfleet.dev/finalizers": ["update"],
    "controllerrevisions.apps": [*READ, "get", "create", "delete"],
    "leases.coordination.k8s.io": ["get", "create", "patch"],
    "events.events.k8s.io": ["create"],
}


def stalled(kube: Kube, reason: str) -> Object | None:
    found = kube.condition("model", "Stalled")
    return found if found.get("reason") == reason else None


def account() -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}


def role(more: dict[str, list[str]]) -> Object:
    rules = []
    for what, verbs in (RIGHTS | more).items():
        kind, _, sub = what.partition("/")
        plural, _, group = kind.partition(".")
        resource = f"{plural}/{sub}" if sub else plural
        rules.append({"apiGroups": [group], "resources": [resource], "verbs": verbs})
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": ACCOUNT},
        "rules": rules,
    }


def binding(kind: str, name: str, namespace: str = "") -> Object:
    """Of the account to a role; a ClusterRole needs the account's namespace."""
    subject = {"kind": "ServiceAccount", "name": ACCOUNT}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": f"{kind}Binding",
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{**subject, "namespace": namespace} if namespace else subject],
    }


def test_the_api_server_restarts_under_the_operators(kube: Kube, machine: Cluster):
    with operators(kube, 2) as (leader, other):
        kube.apply(waiting_deployment("before", 2))
        eventually("the leader acts", lambda: exactly(kube, "before", 2))
        there = pods(kube, "before")
        machine.restart_apiserver()
        kube.apply(waiting_deployment("after", 2))
        eventually("an operator acts", lambda: exactly(kube, "after", 2), TAKEOVER)
        assert pods(kube, "before") == there
        assert other.process.poll() is None
        assert leader.process.poll() is None, "a few seconds without an API server end no operator"


def test_what_changed_in_a_gap_of_the_watches_is_made_good(kube: Kube, machine: Cluster):
    """The one that will lead sees nothing for a while; then its place in the watches is too old."""
    with operators(kube, 2) as (leader, other):
        kube.apply(waiting_deployment("kept", 2), waiting_deployment("deleted", 2))
        for name in ("kept", "deleted"):
            eventually("the leader acts", lambda name=name: exactly(kube, name, 2))
        other.send(signal.SIGSTOP)
        kube("delete", "modeldeployment", "deleted")
        gone, *_ = pods(kube, "kept")
        leader.send(signal.SIGKILL)  # first, so that no operator replaces the pod
        kube("delete", "pod", gone)
        kube.apply(waiting_deployment("new", 1))
        eventually("the garbage is collected", lambda: not pods(kube, "deleted"))
        machine.restart_apiserver()  # whose cache of past events begins anew

        other.send(signal.SIGCONT)
        eventually("it leads", other.leads, TAKEOVER)
        eventually("it saw the new one", lambda: exactly(kube, "new", 1), TAKEOVER)
        eventually("it saw that a pod is missing", lambda: exactly(kube, "kept", 2), TAKEOVER)
        assert not pods(kube, "deleted")
        assert holder(kube)
