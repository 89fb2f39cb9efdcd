"""One standby, many claimants: whoever asks, and however late, it is one deployment's at most."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from cluster_body import Clock
from kube_cluster import ApiServer, Cluster
from modelfleet_operator import worker_client
from modelfleet_operator.cluster import requests
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.cluster.body import ClusterBody
from modelfleet_operator.cluster.known_pod import KnownPod, keys_of, read_pod
from modelfleet_operator.cluster.pods import PodSettings
from modelfleet_operator.cluster.pool_pods import read_pool
from modelfleet_operator.decisions.actions import Claim, Create
from modelfleet_operator.decisions.memory import Failures
from modelfleet_operator.decisions.observed import Observed
from modelfleet_operator.decisions.pool import RemoveStandby, decide_pool
from pool_workers import StandbyProcess, standby_processes

POOL = "default/pool"
OWNED = "modelfleet.dev/deployment"


def a_replica(api: ApiServer, kubernetes: ClusterApi) -> ClusterBody:
    """An operator's body as its watches left it: nothing that others write reaches it any more."""
    body = ClusterBody(kubernetes, PodSettings(image="worker:1"), Clock())
    models = {k[2]: o.raw for k, o in api.objects.items() if k[0].plural == "modeldeployments"}
    pools = {k[2]: o.raw for k, o in api.objects.items() if k[0].plural == "warmpools"}
    pods: dict[str, list[KnownPod]] = {}
    for pod in api.pods().values():
        for key in keys_of(pod):
            pods.setdefault(key, []).append(read_pod(pod))
    body.attach(
        {f"default/{name}": [body.cache.read(raw)] for name, raw in models.items()}, pods, {}, {}
    )
    body.pools.cache.attach(
        {f"default/{name}": [read_pool(raw)] for name, raw in pools.items()}, pods
    )
    return body


def seen_by(body: ClusterBody, name: str) -> Observed:
    seen = body.observe(f"default/{name}")
    assert seen is not None
    return seen


def claim(seen: Observed) -> Claim:
    """Of all that this replica sees, in the order in which every plan names them."""
    revision = seen.deployment.revision
    name = f"{seen.deployment.name}-{revision}-0"
    create = Create(name, revision, 0, "because", missed=POOL)
    (offer,) = seen.pools
    assert offer.refusal == ""
    return Claim(tuple(sorted(offer.standbys, key=lambda s: s.ordinal)), create, "because")


async def fill(api: ApiServer, kubernetes: ClusterApi, processes: list[StandbyProcess]) -> None:
    """A pool whose standbys all stand by."""
    cluster = Cluster(api)
    await cluster.apply_pool(size=len(processes))
    body = a_replica(api, kubernetes)
    seen = body.pools.observe(POOL)
    assert seen is not None
    plan = decide_pool(seen, 1000.0, Failures(), None)
    for action in plan.actions:
        await body.pools.carry_out(action, seen)
        await body.pools.carry_out(action, seen)  # a create that comes twice is one pod
    for name, process in zip(sorted(api.pods()), processes, strict=True):
        await cluster.stand_by(name, f"{process.ip}:9000")


@contextlib.asynccontextmanager
async def one_standby(api: ApiServer, kubernetes: ClusterApi) -> AsyncIterator[StandbyProcess]:
    """In a pool of one, and the deployment `smol` beside it."""
    async with standby_processes(1) as processes:
        await fill(api, kubernetes, processes)
        await Cluster(api).apply("smol")
        yield processes[0]


async def test_a_race_of_fifty_never_gives_one_standby_to_two(
    api: ApiServer, kubernetes: ClusterApi, monkeypatch: pytest.MonkeyPatch
):
    """Two replicas, one of which does not know yet that it leads no more, and 10 standbys."""
    # All of them share this event loop: on a busy machine many loads at once take their time.
    monkeypatch.setattr(worker_client, "TIMEOUT", 120.0)
    monkeypatch.setattr(requests, "TIMEOUT", 120.0)
    async with standby_processes(10) as processes:
        await fill(api, kubernetes, processes)
        names = [f"m{number}" for number in range(50)]
        for name in names:
            await Cluster(api).apply(name)
        replicas = [a_replica(api, kubernetes), a_replica(api, kubernetes)]

        async def start(name: str, body: ClusterBody) -> None:
            seen = seen_by(body, name)
            await body.carry_out(claim(seen), seen)

        await asyncio.gather(*(start(n, replicas[i % 2]) for i, n in enumerate(names)))
        owners = Counter(pod["metadata"]["labels"][OWNED] for pod in api.pods().values())
        assert owners == Counter(names), "each has one worker"
        taken = [pod for name, pod in api.pods().items() if name.startswith("pool-")]
        assert len(taken) == 10
        for pod in taken:
            (reference,) = pod["metadata"]["ownerReferences"]
            assert reference["name"] == pod["metadata"]["labels"][OWNED], "both, or neither"
        told = Counter(model for process in processes for model in process.models)
        assert set(told.values()) == {1}
        assert all(len(process.models) == 1 for process in processes)
        hits = [body.pools.ledger.of(POOL).hits for body in replicas]
        misses = [body.pools.ledger.of(POOL).misses for body in replicas]
        assert (sum(hits), sum(misses)) == (10, 40)


async def test_a_removal_that_comes_after_a_claim_removes_nothing(
    api: ApiServer, kubernetes: ClusterApi
):
    async with one_standby(api, kubernetes) as process:
        claims, removes = a_replica(api, kubernetes), a_replica(api, kubernetes)
        seen = seen_by(claims, "smol")
        pool = removes.pools.observe(POOL)
        assert pool is not None
        removal = RemoveStandby(pool.standbys[0], "the size is 0 now")
        await claims.carry_out(claim(seen), seen)
        await removes.pools.carry_out(removal, pool)
        assert len(api.running()) == 1
        assert process.models == ["default/smol"]


async def test_a_claim_that_comes_after_a_removal_becomes_a_pod(
    api: ApiServer, kubernetes: ClusterApi
):
    async with one_standby(api, kubernetes) as process:
        claims, removes = a_replica(api, kubernetes), a_replica(api, kubernetes)
        seen = seen_by(claims, "smol")
        pool = removes.pools.observe(POOL)
        assert pool is not None
        await removes.pools.carry_out(RemoveStandby(pool.standbys[0], "size 0"), pool)
        await claims.carry_out(claim(seen), seen)
        (name,) = api.running()
        assert name.startswith("smol-")
        assert process.models == []


async def test_a_claim_of_a_version_that_is_over_looks_again(
    api: ApiServer, kubernetes: ClusterApi
):
    """The kubelet wrote a status that the watch has not shown: that is nobody's claim."""
    async with one_standby(api, kubernetes):
        body = a_replica(api, kubernetes)
        seen = seen_by(body, "smol")
        (name,) = api.pods()
        await Cluster(api).report(name, {"phase": "Running"})
        await body.carry_out(claim(seen), seen)
        assert api.pods()[name]["metadata"]["labels"][OWNED] == "smol"


async def test_an_answer_that_is_lost_is_looked_for(api: ApiServer, kubernetes: ClusterApi):
    """The API server made the claim, and its answer did not come."""
    async with one_standby(api, kubernetes) as process:
        body = a_replica(api, kubernetes)
        seen = seen_by(body, "smol")
        api.lose_answers = 1
        await body.carry_out(claim(seen), seen)
        (name,) = api.pods()
        assert name.startswith("pool-")
        assert process.models == ["default/smol"]
        assert body.pools.ledger.of(POOL).hits == 1


async def test_two_claimed_workers_that_cannot_load_close_their_pool_for_a_while(
    api: ApiServer, kubernetes: ClusterApi
):
    async with standby_processes(3) as processes:
        await fill(api, kubernetes, processes)
        for process in processes:
            process.refusal = "no"
        for name in ("a", "b"):
            await Cluster(api).apply(name)
        await Cluster(api).apply("c")
        body = a_replica(api, kubernetes)
        for name in ("a", "b"):
            seen = seen_by(body, name)
            await body.carry_out(claim(seen), seen)
        (offer,) = seen_by(body, "c").pools
        assert "2 claimed workers in a row could not be told to load" in offer.refusal
        assert {n for n in api.running() if not n.startswith("pool-")} == {
            create_name(api, "a"),
            create_name(api, "b"),
        }


def create_name(api: ApiServer, name: str) -> str:
    return next(pod for pod in api.pods() if pod.startswith(f"{name}-"))


async def test_deployments_that_share_a_pool_count_on_their_part_of_it(
    api: ApiServer, kubernetes: ClusterApi
):
    async with standby_processes(2) as processes:
        await fill(api, kubernetes, processes)
        for name in ("a", "b"):
            await Cluster(api).apply(name)
        body = a_replica(api, kubernetes)

        def counted_on(name: str) -> int:
            (offer,) = seen_by(body, name).pools
            return offer.counted_on

        assert counted_on("a") == 2, "no other has asked"
        assert (counted_on("b"), counted_on("a")) == (1, 1)
        body.pools.claims.forget_deployment("default/b")
        assert counted_on("a") == 2
