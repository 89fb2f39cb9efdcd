"""The body alone, against the API: what it does, and what it makes of refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from kubernetes.aio import client

from cluster_body import KEY, a_body, status
from kube_cluster import ApiServer, Cluster
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.decisions.actions import Create, Stop
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Observed
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.errors import PassingError


def create(seen: Observed) -> Create:
    revision = seen.deployment.revision
    return Create(f"smol-{revision}-0", revision, 0, "because")


async def test_creating_twice_is_one_pod(api: ApiServer, kubernetes: ClusterApi):
    body, seen = await a_body(api, kubernetes)
    await body.carry_out(create(seen), seen)
    other_leader, seen = await a_body(api, kubernetes)
    await other_leader.carry_out(create(seen), seen)
    assert len(api.pods()) == 1
    assert len(api.asked("POST", "events")) == 1


async def test_a_successor_knows_who_has_which_name_and_a_broken_spec_gives_none_up(
    api: ApiServer, kubernetes: ClusterApi
):
    body, seen = await a_body(api, kubernetes)
    names = Memory(claimed=frozenset({"smol"}), yielded={"chat": "other/chat"})
    await body.write_status(seen, status(seen), names)
    _, seen = await a_body(api, kubernetes)
    assert (seen.deployment.claimed, seen.deployment.yielded) == (names.claimed, names.yielded)

    broken = api.model()
    broken["spec"]["scaling"] = {"maxReplicas": -1}
    broken["metadata"]["generation"] += 1
    known = body.cache.read(broken)
    assert known.error
    assert known.deployment(0).served_names == ("smol",)


async def test_a_strangers_pod_of_our_name_becomes_the_condition(
    api: ApiServer, kubernetes: ClusterApi
):
    body, seen = await a_body(api, kubernetes)
    await Cluster(api).create_pod({"metadata": {"name": create(seen).name}})
    with pytest.raises(PassingError):
        await body.carry_out(create(seen), seen)
    stalled = body.observe(KEY)
    assert stalled is not None
    refusal = stalled.deployment.refusal
    assert refusal is not None
    assert refusal.reason is Reason.POD_NAME_TAKEN
    assert "has another owner" in refusal.message


async def test_a_pod_of_an_earlier_object_of_this_name_is_nothing_to_route_to(
    api: ApiServer, kubernetes: ClusterApi
):
    body, seen = await a_body(api, kubernetes)
    await body.carry_out(create(seen), seen)
    await Cluster(api).delete()
    await Cluster(api).apply()
    _, seen = await a_body(api, kubernetes)
    (left_over,) = seen.workers
    assert left_over.stopping


async def test_a_conflict_over_a_quota_is_no_refusal(api: ApiServer, kubernetes: ClusterApi):
    body, seen = await a_body(api, kubernetes)
    api.refuse_pods, api.refusal_status = "Operation cannot be fulfilled on resourcequotas", 409
    with pytest.raises(PassingError, match="cannot be fulfilled"):
        await body.carry_out(create(seen), seen)
    again = body.observe(KEY)
    assert again is not None
    assert again.deployment.refusal is None


async def test_stopping_a_pod_spares_its_namesake(api: ApiServer, kubernetes: ClusterApi):
    body, seen = await a_body(api, kubernetes)
    await body.carry_out(create(seen), seen)
    body, seen = await a_body(api, kubernetes)
    (worker,) = seen.workers
    await body.carry_out(Stop(replace(worker, uid="of-an-earlier-pod"), "because"), seen)
    assert len(api.running()) == 1
    await body.carry_out(Stop(worker, "because"), seen)
    assert not api.pods()


@pytest.mark.parametrize(("is_idle", "grace"), [(True, 10), (False, None)])
async def test_only_an_idle_worker_is_given_less_time_than_its_pod_says(
    api: ApiServer, kubernetes: ClusterApi, is_idle: bool, grace: int | None
):
    body, seen = await a_body(api, kubernetes)
    await body.carry_out(create(seen), seen)
    body, seen = await a_body(api, kubernetes)
    await body.carry_out(Stop(seen.workers[0], "because", is_idle=is_idle), seen)
    (delete,) = api.asked("DELETE", "pods")
    assert json.loads(delete.body).get("gracePeriodSeconds") == grace


async def test_what_was_done_is_seen_before_the_watch_shows_it(
    api: ApiServer, kubernetes: ClusterApi
):
    body, seen = await a_body(api, kubernetes)
    await body.carry_out(create(seen), seen)
    body, seen = await a_body(api, kubernetes)
    await body.carry_out(Stop(seen.workers[0], "because"), seen)
    again = body.observe(KEY)
    assert again is not None
    assert again.workers[0].stopping


async def test_an_api_server_that_is_away_is_a_passing_error(api: ApiServer):
    configuration = client.Configuration(host="http://127.0.0.1:1")
    async with client.ApiClient(configuration) as api_client:
        body, seen = await a_body(api, ClusterApi(api_client))
        with pytest.raises(PassingError, match="creating pod default/smol-"):
            await body.carry_out(create(seen), seen)
        with pytest.raises(PassingError, match="writing the status of default/smol"):
            await body.write_status(seen, status(seen), Memory())


async def test_a_pod_is_sent_strictly(api: ApiServer, kubernetes: ClusterApi):
    """What the API server does not know it refuses, in place of leaving it out."""
    body, seen = await a_body(api, kubernetes)
    await body.carry_out(create(seen), seen)
    (post,) = api.asked("POST", "pods")
    assert post.params["fieldValidation"] == "Strict"
    assert json.loads(post.body)["metadata"]["name"] == create(seen).name
