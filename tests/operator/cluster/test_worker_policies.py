"""Who reaches worker pods: the operator's NetworkPolicies, on an API, in any namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kube_cluster import ApiServer, eventually
from modelfleet_operator.cluster.pods import DEPLOYMENT, POOL
from modelfleet_operator.cluster.worker_policies import read_peers
from modelfleet_operator.errors import StartError
from policy_semantics import Pod, may_connect

StartOperator = Callable[..., Any]
SYSTEM = {"matchLabels": {"kubernetes.io/metadata.name": "modelfleet-system"}}
GATEWAY = {
    "namespaceSelector": SYSTEM,
    "podSelector": {"matchLabels": {"app.kubernetes.io/component": "gateway"}},
}


def gateway(namespace: str = "modelfleet-system") -> Pod:
    return Pod(namespace, {"app.kubernetes.io/component": "gateway"})


async def test_only_those_who_are_named_reach_a_deployments_workers(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator(ingress_from=(GATEWAY,)) as cluster:
        await cluster.apply()
        (pod,) = (await eventually(api.running)).values()
    (policy,) = api.policies.values()
    worker = Pod(pod["metadata"]["namespace"], pod["metadata"]["labels"])
    assert may_connect([policy], gateway(), worker, 9000)
    assert not may_connect([policy], gateway(), worker, 22)
    assert not may_connect([policy], gateway("default"), worker, 9000)
    assert not may_connect([policy], Pod("default", {}), worker, 9000)
    assert not may_connect([policy], worker, worker, 9000)
    (owner,) = policy["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("ModelDeployment", "smol")


async def test_a_policy_is_there_before_the_first_worker_and_written_once(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator(ingress_from=(GATEWAY,)) as cluster:
        await cluster.apply(scaling={"minReplicas": 3})
        await eventually(lambda: len(api.running()) == 3)
    kinds = [
        request.resource.plural
        for request in api.seen
        if (request.method.value, request.resource and request.resource.plural)
        in {("PATCH", "networkpolicies"), ("POST", "pods")}
    ]
    assert kinds == ["networkpolicies", "pods", "pods", "pods"]


async def test_a_successor_writes_the_policies_of_what_runs(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        await eventually(api.running)
    assert not api.policies
    async with start_operator(ingress_from=(GATEWAY,)):
        await eventually(lambda: "modelfleet-workers-smol" in api.policies)


async def test_standbys_of_a_pool_have_one_which_holds_when_they_are_claimed(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator(ingress_from=(GATEWAY,)) as cluster:
        await cluster.apply_pool(size=1)
        (pod,) = (await eventually(api.running)).values()
    (policy,) = api.policies.values()
    labels = pod["metadata"]["labels"]
    assert labels[DEPLOYMENT] == ""
    for claimed in (labels, {**labels, DEPLOYMENT: "smol"}):
        assert not may_connect([policy], Pod("default", {}), Pod("default", claimed), 9000)
        assert may_connect([policy], gateway(), Pod("default", claimed), 9000)
    assert policy["spec"]["podSelector"] == {"matchLabels": {POOL: "pool"}}


async def test_workers_start_where_the_operator_may_write_no_policies(
    api: ApiServer, start_operator: StartOperator
):
    api.refuse_watching = frozenset({"networkpolicies"})
    async with start_operator(ingress_from=(GATEWAY,)) as cluster:
        await cluster.apply()
        await eventually(api.running)
    assert not api.policies


@pytest.mark.parametrize("text", ["{", '{"podSelector": {}}', "[1]", "[{}]"])
def test_what_is_no_list_of_peers_is_refused(text: str):
    with pytest.raises(StartError, match="--worker-ingress-from"):
        read_peers(text, "--worker-ingress-from")
