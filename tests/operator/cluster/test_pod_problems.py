"""What a pod's status means: statuses as real kubelets and schedulers write them."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.cluster.observing import observed_worker
from modelfleet_operator.decisions.observed import Worker
from modelfleet_operator.decisions.reasons import Reason

CREATED, PLACED = "2026-11-21T17:00:00Z", "2026-11-21T17:00:10Z"
PLACED_AT = 1795280410.0  # PLACED as Unix seconds


def worker(status: dict[str, Any], *, node: str = "node-1", **metadata: Any) -> Worker:
    """Of a pod with this status."""
    pod = {
        "metadata": {
            "name": "smol-abc-2",
            "namespace": "team",
            "uid": "u",
            "labels": {
                "modelfleet.dev/deployment": "smol",
                "modelfleet.dev/revision": "abc",
                "modelfleet.dev/ordinal": "2",
            },
            "creationTimestamp": CREATED,
            **metadata,
        },
        "spec": {"nodeName": node} if node else {},
        "status": status,
    }
    seen = observed_worker(pod)
    assert seen is not None
    return seen


def condition(type_: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": PLACED,
    }


def pending(*conditions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Placed, and not running yet."""
    return {
        "phase": "Pending",
        "startTime": PLACED,
        "conditions": [condition("PodScheduled", "True"), *conditions],
        **fields,
    }


def container(state: dict[str, Any], name: str = "worker", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "registry.local/worker:2", "state": state, **fields}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def terminated(**fields: Any) -> dict[str, Any]:
    return {"terminated": fields}


def test_when_it_had_a_node_and_when_its_process_began():
    running = pending(
        containerStatuses=[
            container({"running": {"startedAt": "2026-11-21T17:00:01Z"}}, name="sidecar"),
            container({"running": {"startedAt": "2026-11-21T17:00:22Z"}}),
        ]
    )
    seen = worker(running)
    assert (seen.node, seen.placed_at, seen.started_at) == ("node-1", PLACED_AT, PLACED_AT + 12)
    pulling = worker(pending(containerStatuses=[container(waiting("ContainerCreating"))]))
    assert (pulling.placed_at, pulling.started_at) == (PLACED_AT, None)
    waits = worker({"conditions": [condition("PodScheduled", "False", "Unschedulable")]}, node="")
    assert (waits.node, waits.placed_at, waits.started_at) == ("", None, None)


NO_GPU = (
    "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, "
    "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
)
STARTED = condition("PodReadyToStartContainers", "True")


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        pytest.param(
            {"conditions": [condition("PodScheduled", "False", "Unschedulable", NO_GPU)]},
            Reason.UNSCHEDULABLE,
            ["2 Insufficient nvidia.com/gpu."],
            id="no node has room",
        ),
        pytest.param(
            {"conditions": [condition("PodScheduled", "False", "SchedulingGated", "gated")]},
            Reason.SCHEDULING_GATED,
            ["gated"],
            id="a controller holds it back",
        ),
        pytest.param(
            pending(
                STARTED,
                containerStatuses=[
                    container(
                        waiting(
                            "ImagePullBackOff",
                            'Back-off pulling image "x": ErrImagePull: failed: not found',
                        )
                    )
                ],
            ),
            Reason.IMAGE_PULL,
            ["image registry.local/worker:2 cannot be pulled", "pull secret): failed: not found"],
            id="no image",
        ),
        pytest.param(
            pending(
                STARTED,
                containerStatuses=[container(waiting("ErrImagePull", "unauthorized"), "sidecar")],
            ),
            Reason.IMAGE_PULL,
            ["container sidecar", "unauthorized"],
            id="no image of a sidecar",
        ),
        pytest.param(
            pending(
                STARTED,
                initContainerStatuses=[container(waiting("ErrImagePull", "no route"), "pull")],
                containerStatuses=[container(waiting("PodInitializing"))],
            ),
            Reason.IMAGE_PULL,
            ["container pull", "no route"],
            id="no image of an init container",
        ),
        pytest.param(
            pending(
                STARTED,
                containerStatuses=[
                    container(waiting("CreateContainerConfigError", 'secret "hub" not found'))
                ],
            ),
            Reason.CONTAINER_CONFIG,
            ['secret "hub" not found', "create what is missing"],
            id="no Secret",
        ),
        pytest.param(
            pending(
                STARTED,
                containerStatuses=[
                    container(
                        waiting(
                            "CreateContainerConfigError",
                            "container has runAsNonRoot and image will run as root",
                        )
                    )
                ],
            ),
            Reason.CONTAINER_CONFIG,
            ["image will run as root"],
            id="an image of root",
        ),
        pytest.param(
            pending(
                STARTED,
                containerStatuses=[container(waiting("RunContainerError", "no such device"))],
            ),
            Reason.CONTAINER_START,
            ["no such device"],
            id="the runtime cannot start it",
        ),
        pytest.param(
            pending(
                condition("PodReadyToStartContainers", "False"),
                containerStatuses=[container(waiting("ContainerCreating"))],
            ),
            Reason.POD_NOT_STARTING,
            ["volumes", "kubectl -n team describe pod smol-abc-2"],
            id="a volume is not there",
        ),
        pytest.param(
            {
                "phase": "Running",
                "conditions": [
                    condition("PodScheduled", "True"),
                    condition("Ready", "False"),
                ],
                "containerStatuses": [container({"running": {}}, ready=True)],
            },
            Reason.NODE_LOST,
            ["node node-1 does not answer"],
            id="its node is not heard of",
        ),
    ],
)
def test_says_why_it_does_not_start(status: dict[str, Any], reason: Reason, words: list[str]):
    node = "" if reason in {Reason.UNSCHEDULABLE, Reason.SCHEDULING_GATED} else "node-1"
    problem = worker(status, node=node).problem
    assert problem is not None
    assert problem.reason is reason
    assert problem.since == PLACED_AT
    for word in words:
        assert word in problem.message
    assert "reemption" not in problem.message
    assert "deallocate" not in problem.message


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"phase": "Pending"}, id="no kubelet has seen it yet"),
        pytest.param(
            pending(STARTED, containerStatuses=[container(waiting("ContainerCreating"))]),
            id="its image is being pulled",
        ),
        pytest.param(
            {
                "phase": "Running",
                "conditions": [condition("PodScheduled", "True"), condition("Ready", "False")],
                "containerStatuses": [container({"running": {}}, ready=False)],
            },
            id="it loads its model",
        ),
        pytest.param({"phase": "Running"}, id="it runs"),
    ],
)
def test_a_start_that_goes_well_is_no_problem(status: dict[str, Any]):
    assert worker(status).problem is None
    assert worker(status).failure is None


def test_a_start_may_take_a_while_before_it_is_a_problem():
    problem = worker(pending(condition("PodReadyToStartContainers", "False"))).problem
    assert problem is not None
    assert not problem.is_shown(PLACED_AT + 19)
    assert problem.is_shown(PLACED_AT + 20)
    assert not problem.is_lasting(PLACED_AT + 299)
    assert problem.is_lasting(PLACED_AT + 300)


@pytest.mark.parametrize(
    ("status", "failure", "reason"),
    [
        pytest.param(
            {
                "phase": "Failed",
                "containerStatuses": [container(terminated(reason="OOMKilled", exitCode=137))],
            },
            "OOMKilled, exit code 137",
            Reason.OUT_OF_MEMORY,
            id="out of memory",
        ),
        pytest.param(
            {
                "phase": "Failed",
                "containerStatuses": [container(terminated(reason="Error", exitCode=137))],
            },
            "Error, exit code 137 (SIGKILL: its node ran out of memory, or it did not answer its "
            "probe)",
            Reason.WORKER_FAILED,
            id="killed",
        ),
        pytest.param(
            {
                "phase": "Failed",
                "containerStatuses": [
                    container(terminated(reason="StartError", exitCode=128, message="no python"))
                ],
            },
            "StartError, exit code 128: no python",
            Reason.CONTAINER_START,
            id="the image has no such command",
        ),
        pytest.param(
            {
                "phase": "Failed",
                "containerStatuses": [
                    container(terminated(reason="Error", exitCode=1, message="one\ntwo\n"))
                ],
            },
            "Error, exit code 1: two",
            Reason.WORKER_FAILED,
            id="its last line",
        ),
        pytest.param(
            {
                "phase": "Running",
                "containerStatuses": [
                    container({"running": {}}, "sidecar"),
                    container(terminated(reason="Error", exitCode=1)),
                ],
            },
            "Error, exit code 1",
            Reason.WORKER_FAILED,
            id="a sidecar outlives it",
        ),
        pytest.param(
            {
                "phase": "Failed",
                "initContainerStatuses": [
                    container(terminated(reason="Completed", exitCode=0), "first"),
                    container(
                        terminated(reason="Error", exitCode=2, message="no such artifact"), "pull"
                    ),
                ],
                "containerStatuses": [container(waiting("PodInitializing"))],
            },
            "init container pull: Error, exit code 2: no such artifact",
            Reason.INIT_CONTAINER_FAILED,
            id="an init container",
        ),
        pytest.param(
            {"phase": "Failed", "reason": "Evicted", "message": "disk pressure"},
            "Evicted: disk pressure",
            Reason.EVICTED,
            id="evicted",
        ),
        pytest.param(
            {
                "phase": "Failed",
                "reason": "UnexpectedAdmissionError",
                "message": "Allocate failed due to no healthy devices present",
            },
            "UnexpectedAdmissionError: Allocate failed due to no healthy devices present",
            Reason.NODE_REFUSED,
            id="the kubelet does not take it",
        ),
        pytest.param(
            {
                "phase": "Succeeded",
                "containerStatuses": [container(terminated(reason="Completed", exitCode=0))],
            },
            "Completed, exit code 0",
            Reason.WORKER_FAILED,
            id="ended well, but without being asked",
        ),
    ],
)
def test_says_why_it_exited(status: dict[str, Any], failure: str, reason: Reason):
    exited = worker(status)
    assert (exited.failure, exited.failure_reason) == (failure, reason)
    assert exited.problem is None


def test_a_pod_that_was_told_to_end_did_not_fail():
    status = {
        "phase": "Failed",
        "containerStatuses": [container(terminated(reason="Error", exitCode=143))],
    }
    ending = worker(status, deletionTimestamp="2026-11-21T17:00:01Z")
    assert (ending.stopping, ending.failure) == (True, None)


def test_a_pod_that_should_be_gone_and_is_not_is_lost():
    ending = worker({"phase": "Running"}, deletionTimestamp=PLACED)
    assert not ending.is_lost(PLACED_AT + 29)
    assert ending.is_lost(PLACED_AT + 30)
    assert not worker({"phase": "Running"}).is_lost(PLACED_AT + 9999)


def test_a_pod_that_no_kubelet_takes_is_lost_with_its_node():
    placed = {"phase": "Pending", "conditions": [condition("PodScheduled", "True")]}
    problem = worker(placed).problem
    assert problem is not None
    assert problem.reason is Reason.NODE_LOST
    assert "kubelet of node node-1" in problem.message
    assert not problem.is_shown(PLACED_AT + 19)
    assert problem.is_shown(PLACED_AT + 20)


def test_a_long_message_of_others_is_shortened():
    status = {"conditions": [condition("PodScheduled", "False", "Unschedulable", "x" * 5000)]}
    problem = worker(status, node="").problem
    assert problem is not None
    assert len(problem.message) == 600
