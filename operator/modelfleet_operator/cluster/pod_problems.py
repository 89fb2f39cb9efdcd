"""What a pod's status says is wrong with it, in our words and with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..decisions.reasons import Reason
from ..decisions.rendering import parse_time
from ..decisions.startup_problem import StartupProblem
from .environment import plain_values, without_values

Object = Mapping[str, Any]

WORKER = "worker"  # the container of ours; others come from a podTemplate
TAKEN_WITHIN = 20.0  # seconds in which even a busy kubelet takes a pod
MESSAGE_LENGTH = 600  # characters of a foreign message that are kept
KILLED = 137  # exit code of a process that got SIGKILL

# Reasons that the kubelet gives for a container that waits; the others are its usual steps.
_WAITING = {
    "ErrImagePull": Reason.IMAGE_PULL,
    "ImagePullBackOff": Reason.IMAGE_PULL,
    "ErrImageNeverPull": Reason.IMAGE_PULL,
    "InvalidImageName": Reason.IMAGE_PULL,
    "ImageInspectError": Reason.IMAGE_PULL,
    "RegistryUnavailable": Reason.IMAGE_PULL,
    "SignatureValidationFailed": Reason.IMAGE_PULL,
    "CreateContainerConfigError": Reason.CONTAINER_CONFIG,
    "CreateContainerError": Reason.CONTAINER_START,
    "RunContainerError": Reason.CONTAINER_START,
    "StartError": Reason.CONTAINER_START,
    "PostStartHookError": Reason.CONTAINER_START,
    "CrashLoopBackOff": Reason.CONTAINER_START,  # a sidecar's: workers are never restarted
}
_MISSING = "create what is missing: it starts by itself then"
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "ContainerStatusUnknown"})
_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*": (ErrImagePull: )?')
# What the scheduler adds to why the nodes do not fit: what preemption would not bring either.
_AFTERTHOUGHTS = re.compile(r",? (no new claims to deallocate,?|preemption: ).*$")
# Of a pod that has ended: the kubelet or a controller ended it, or did not admit it.
_EVICTED = frozenset({"Evicted", "Preempting", "Terminated", "Shutdown", "NodeShutdown"})


def placed_at(pod: Object) -> float | None:
    """When the scheduler gave it its node, Unix seconds."""
    scheduled = _condition(pod, "PodScheduled")
    return _time(scheduled, pod) if scheduled.get("status") == "True" else None


def started_at(pod: Object) -> float | None:
    """When the worker's process began to run, Unix seconds."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        if container.get("name", WORKER) == WORKER:
            state = container.get("state", {})
            began = state.get("running", state.get("terminated", {})).get("startedAt")
            return parse_time(began) if began else None
    return None


def startup_problem_of(pod: Object) -> StartupProblem | None:
    """Why a pod does not start, or that its node is lost; None: nothing is wrong."""
    found = next(_startup_problems(pod), None)
    return found and replace(found, message=_discreet(found.message, pod))


def _startup_problems(pod: Object) -> Iterator[StartupProblem]:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        gated = scheduled.get("reason") == "SchedulingGated"
        yield StartupProblem(
            reason=Reason.SCHEDULING_GATED if gated else Reason.UNSCHEDULABLE,
            message=_scheduler_says(scheduled.get("message", "")),
            since=_time(scheduled, pod),
        )
        return
    since = placed_at(pod)
    if since is None:
        return
    status = pod.get("status", {})
    for container in _containers(status):
        waiting = container.get("state", {}).get("waiting", {})
        reason = _WAITING.get(waiting.get("reason", ""))
        if reason is not None:
            yield StartupProblem(reason=reason, message=_waits(container, reason), since=since)
    yield from _not_starting(pod, since)
    yield from _node_lost(pod)


def _waits(container: Object, reason: Reason) -> str:
    waiting = container["state"]["waiting"]
    said = _shortened(_BACK_OFF.sub("", waiting.get("message", ""))) or waiting["reason"]
    name = "" if container["name"] == WORKER else f"container {container['name']}: "
    if reason is Reason.IMAGE_PULL:
        advice = "check its name, the registry and its pull secret"
        return f"{name}image {container['image']} cannot be pulled ({advice}): {said}"
    if reason is Reason.CONTAINER_CONFIG and ("not found" in said or "find key" in said):
        return f"{name}{said} ({_MISSING})"
    return f"{name}{said}"


def _not_starting(pod: Object, since: float) -> Iterator[StartupProblem]:
    """No sandbox yet: volumes are mounted and the network is set up before it (KEP-3085)."""
    status = pod.get("status", {})
    if status.get("phase") != "Pending":
        return
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    see = f"see the Events of: kubectl -n {namespace} describe pod {name}"
    if not status.get("startTime"):
        node = pod["spec"].get("nodeName", "")
        message = f"the kubelet of node {node} has not taken it: see kubectl describe node {node}"
        yield StartupProblem(reason=Reason.NODE_LOST, message=message, since=since + TAKEN_WITHIN)
    elif _condition(pod, "PodReadyToStartContainers").get("status") == "False":
        message = f"its volumes cannot be mounted, or it gets no network; {see}"
        yield StartupProblem(reason=Reason.POD_NOT_STARTING, message=message, since=since)


def _node_lost(pod: Object) -> Iterator[StartupProblem]:
    """Not ready by the node controller, though the kubelet last reported every container ready."""
    ready = _condition(pod, "Ready")
    statuses = pod.get("status", {}).get("containerStatuses", ())
    if (
        pod.get("status", {}).get("phase") == "Running"
        and ready.get("status") == "False"
        and statuses
        and all(container.get("ready") for container in statuses)
    ):
        node = pod["spec"].get("nodeName", "")
        yield StartupProblem(
            reason=Reason.NODE_LOST,
            message=f"node {node} does not answer: see kubectl describe node {node}",
            since=_time(ready, pod),
        )


def failure_of(pod: Object) -> tuple[str, Reason] | None:
    """Why a worker exited without being stopped; None: it has not exited."""
    found = _failure_of(pod)
    return found and (_discreet(found[0], pod), found[1])


def _failure_of(pod: Object) -> tuple[str, Reason] | None:
    status = pod.get("status", {})
    for container in status.get("containerStatuses", ()):
        # A sidecar may outlive the worker, whose pod is then still Running.
        ended = container.get("state", {}).get("terminated")
        if ended and container.get("name", WORKER) == WORKER:
            return _ending(ended), _why_ended(ended, status)
    if status.get("phase") not in {"Failed", "Succeeded"}:
        return None
    for container in status.get("initContainerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode"):
            reason = _why_ended(ended, status)
            if reason is Reason.WORKER_FAILED:
                reason = Reason.INIT_CONTAINER_FAILED
            return f"init container {container['name']}: {_ending(ended)}", reason
    said = status.get("reason", status["phase"])
    message = _shortened(status.get("message", ""))
    return (f"{said}: {message}" if message else said), _why_pod_ended(said)


def _why_ended(ended: Object, status: Object) -> Reason:
    if ended.get("reason") == "OOMKilled":
        return Reason.OUT_OF_MEMORY
    if ended.get("reason") in _NOT_STARTED:
        return Reason.CONTAINER_START
    return Reason.EVICTED if status.get("reason") in _EVICTED else Reason.WORKER_FAILED


def _why_pod_ended(said: str) -> Reason:
    if said in _EVICTED:
        return Reason.EVICTED
    if said.startswith("OutOf") or said in {"UnexpectedAdmissionError", "NodeAffinity"}:
        return Reason.NODE_REFUSED
    return Reason.NODE_LOST if said == "NodeLost" else Reason.WORKER_FAILED


def _ending(ended: Object) -> str:
    how = f"{ended.get('reason', 'Ended')}, exit code {ended.get('exitCode')}"
    if ended.get("exitCode") == KILLED and ended.get("reason") != "OOMKilled":
        how += " (SIGKILL: its node ran out of memory, or it did not answer its probe)"
    last_line = ended.get("message", "").strip().rpartition("\n")[2]
    return f"{how}: {_shortened(last_line)}" if last_line else how


def _containers(status: Object) -> Iterator[Object]:
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def _scheduler_says(message: str) -> str:
    return _shortened(_AFTERTHOUGHTS.sub("", message))


def _discreet(message: str, pod: Object) -> str:
    return without_values(message, plain_values(pod.get("spec", {})))


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def _condition(pod: Object, type_: str) -> Object:
    conditions = pod.get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == type_), {})


def _time(condition: Object, pod: Object) -> float:
    changed = condition.get("lastTransitionTime")
    return parse_time(changed or pod["metadata"]["creationTimestamp"])
