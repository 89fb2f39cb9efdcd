"""Labels and annotations of ours that were broken by hand: an Event, never an exception."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from cluster_body import a_body, status
from kube_cluster import ApiServer, Cluster, eventually
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.cluster.known_pod import read_pod
from modelfleet_operator.cluster.observing import deployment_of, observed_worker
from modelfleet_operator.cluster.revisions import read_revision
from modelfleet_operator.decisions.actions import Create
from modelfleet_operator.decisions.memory import Memory

PREFIX = "modelfleet.dev/"
OWNER = {"kind": "ModelDeployment", "name": "smol", "uid": "owner", "controller": True}


def pod(labels: dict[str, str | None] | None = None, **annotations: str) -> dict[str, Any]:
    """As we wrote it, but for these labels and annotations."""
    written = {"deployment": "smol", "revision": "abc", "ordinal": "2", "accelerator": "h100"}
    written = {f"{PREFIX}{name}": value for name, value in written.items()}
    changed = {f"{PREFIX}{name}": value for name, value in (labels or {}).items()}
    there = {name: value for name, value in (written | changed).items() if value is not None}
    notes = {
        "accelerator-generation": "3",
        **{k.replace("_", "-"): v for k, v in annotations.items()},
    }
    return {
        "metadata": {
            "name": "smol-abc-2",
            "namespace": "team",
            "uid": "u",
            "creationTimestamp": "2026-11-21T17:00:00Z",
            "ownerReferences": [OWNER],
            "labels": there,
            "annotations": {f"{PREFIX}{name}": value for name, value in notes.items()},
        },
        "spec": {},
        "status": {},
    }


BROKEN = ["", "x", "-1", "1.5", "1e5", "nan", "inf", "9" * 63, "0x2", "1_0", "\u0663"]


@pytest.mark.parametrize("value", [*BROKEN, None])
@pytest.mark.parametrize("name", ["deployment", "revision", "ordinal"])
def test_which_worker_it_is_says_its_name(name: str, value: str | None):
    found = read_pod(pod({name: value}))
    assert found.worker is not None
    assert (found.worker.revision, found.worker.ordinal) == ("abc", 2)
    assert deployment_of(pod({name: value})) == "smol"
    right = {"deployment": "smol", "revision": "abc", "ordinal": "2"}[name]
    assert found.broken == {f"{PREFIX}{name}": right}


@pytest.mark.parametrize("value", BROKEN)
def test_a_drain_without_a_time_is_none(value: str):
    found = read_pod(pod({"unrouted-at": value}))
    assert found.worker is not None
    assert found.worker.draining_since is None
    assert found.broken == {f"{PREFIX}unrouted-at": None}


def test_what_we_wrote_is_not_broken():
    for written in (pod(), pod({"unrouted-at": "1795280410"})):
        found = read_pod(written)
        assert (found.broken, found.unreadable) == ({}, "")
    drains = observed_worker(pod({"unrouted-at": "1795280410"}))
    assert drains is not None
    assert drains.draining_since == 1795280410.0


@pytest.mark.parametrize("value", [*BROKEN, "9" * 5000])
def test_an_unreadable_generation_is_that_of_no_class(value: str):
    found = read_pod(pod(accelerator_generation=value))
    assert found.worker is not None
    assert found.worker.accelerator_generation == 0
    assert found.unreadable == f"{PREFIX}accelerator-generation"


def test_a_removed_class_is_noticed():
    assert read_pod(pod({"accelerator": None})).unreadable == f"{PREFIX}accelerator"


def test_a_stranger_with_all_our_labels_is_nothing_to_put_back():
    strange = pod()
    strange["metadata"] |= {"name": "web-abc-2", "ownerReferences": []}
    assert read_pod(strange).broken == {}


REVISION = {
    "metadata": {
        "name": "smol-abc",
        "uid": "u",
        "ownerReferences": [OWNER],
        "labels": {f"{PREFIX}deployment": "smol", f"{PREFIX}revision": "abc"},
    },
    "revision": 3,
    "data": {"spec": {"template": {"spec": {"containers": []}}}},
}


@pytest.mark.parametrize("value", ["def", "", None])
def test_a_kept_revision_is_what_its_name_says(value: str | None):
    broken = copy.deepcopy(REVISION)
    broken["metadata"]["labels"][f"{PREFIX}revision"] = value  # type: ignore[index]
    found = read_revision(broken)
    assert found is not None
    assert found.revision == "abc"


@pytest.mark.parametrize("data", [None, [], "x", {"spec": []}, {"spec": {"template": "x"}}, {}])
def test_a_revision_with_other_data_is_none_of_ours(data: Any):
    assert read_revision({**REVISION, "data": data}) is None


def events(api: ApiServer, reason: str) -> list[str]:
    told = [json.loads(request.body) for request in api.asked("POST", "events")]
    return [event["note"] for event in told if event["reason"] == reason]


async def test_a_broken_label_is_put_back_and_told_once(api: ApiServer, kubernetes: ClusterApi):
    body, seen = await a_body(api, kubernetes)
    revision = seen.deployment.revision
    await body.carry_out(Create(f"smol-{revision}-0", revision, 0, "because"), seen)
    (name,) = api.pods()
    await Cluster(api).label(name, {f"{PREFIX}ordinal": "seven", f"{PREFIX}unrouted-at": "soon"})

    body, seen = await a_body(api, kubernetes)
    for _ in range(2):  # the watch lags: the pod looks broken still
        await body.write_status(seen, status(seen), Memory())
    labels = api.pods()[name]["metadata"]["labels"]
    assert labels[f"{PREFIX}ordinal"] == "0"
    assert f"{PREFIX}unrouted-at" not in labels
    assert sorted(events(api, "LabelRestored")) == [
        f"{name}: label {PREFIX}ordinal was changed by hand, and is 0 again",
        f"{name}: label {PREFIX}unrouted-at was changed by hand, and was removed",
    ]
    (patch,) = [r for r in api.asked("PATCH", "pods") if "x-test" not in r.headers]
    assert json.loads(patch.body)["metadata"]["uid"] == api.pods()[name]["metadata"]["uid"]


async def test_an_unreadable_annotation_is_told(api: ApiServer, kubernetes: ClusterApi):
    body, seen = await a_body(api, kubernetes)
    revision = seen.deployment.revision
    await body.carry_out(Create(f"smol-{revision}-0", revision, 0, "because"), seen)
    (name,) = api.pods()
    await Cluster(api).annotate_pod(name, {f"{PREFIX}accelerator-generation": "x"})
    body, seen = await a_body(api, kubernetes)
    await body.write_status(seen, status(seen), Memory())
    (note,) = events(api, "LabelUnreadable")
    assert note.startswith(f"{name}: {PREFIX}accelerator")


async def test_a_pod_without_its_label_is_ours_by_its_owner(api: ApiServer, start_operator: Any):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"minReplicas": 1})
        (name,) = await eventually(api.running, within=60)
        await cluster.label(name, {f"{PREFIX}deployment": None, f"{PREFIX}ordinal": "x"})
        right = {f"{PREFIX}deployment": "smol", f"{PREFIX}ordinal": "0"}
        await eventually(
            lambda: right.items() <= api.pods()[name]["metadata"]["labels"].items(), within=60
        )
        assert list(api.running()) == [name]
        assert not cluster.has_ended()
