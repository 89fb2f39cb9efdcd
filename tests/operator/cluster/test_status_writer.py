"""What is written to a deployment's status, and when."""

from __future__ import annotations

import json
from dataclasses import replace

from cluster_body import KEY, Clock, a_body, status
from kube_cluster import ApiServer, Cluster
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.decisions.memory import Memory


async def test_an_unchanged_status_is_not_written_again_not_even_after_a_restart(
    api: ApiServer, kubernetes: ClusterApi
):
    body, seen = await a_body(api, kubernetes)
    for _ in range(3):
        await body.write_status(seen, status(seen), Memory(target=1))
    assert len(api.asked("PATCH", "modeldeployments", "status")) == 1

    successor, seen = await a_body(api, kubernetes)
    memory, last = await successor.recall(KEY)
    assert memory == Memory(target=1)
    assert last == status(seen)
    await successor.write_status(seen, status(seen), memory)
    assert len(api.asked("PATCH", "modeldeployments", "status")) == 1


async def test_conditions_are_written_at_once_and_numbers_every_ten_seconds(
    api: ApiServer, kubernetes: ClusterApi
):
    clock = Clock()
    body, seen = await a_body(api, kubernetes, clock)
    await body.write_status(seen, status(seen, waiting=1), Memory())
    clock.now += 9
    await body.write_status(seen, status(seen, waiting=2), Memory())
    assert api.model()["status"]["queue"]["waiting"] == 1
    await body.write_status(seen, status(seen, waiting=3, reason="Asleep"), Memory())
    assert api.model()["status"]["queue"]["waiting"] == 3
    clock.now += 11
    await body.write_status(seen, status(seen, waiting=4, reason="Asleep"), Memory())
    assert api.model()["status"]["queue"]["waiting"] == 4


async def test_what_is_not_known_any_more_leaves_the_status(api: ApiServer, kubernetes: ClusterApi):
    body, seen = await a_body(api, kubernetes)
    await body.write_status(seen, status(seen), Memory())
    await body.write_status(seen, replace(status(seen, reason="Asleep"), queue=None), Memory())
    assert "queue" not in json.loads(api.seen[-1].body)["status"]


async def test_a_status_is_not_written_to_a_namesake(api: ApiServer, kubernetes: ClusterApi):
    body, seen = await a_body(api, kubernetes)
    await Cluster(api).delete()
    await Cluster(api).apply()
    await body.write_status(seen, status(seen), Memory())
    assert "status" not in api.model()


async def test_a_status_that_cannot_be_read_begins_anew(api: ApiServer, kubernetes: ClusterApi):
    body, _ = await a_body(api, kubernetes)
    spoiled = {**api.model(), "status": {"conditions": [{"type": "Ready"}], "memory": {"peaks": 1}}}
    body.attach({KEY: [body.cache.read(spoiled)]}, {}, {}, {})
    assert await body.recall(KEY) == (Memory(), None)
