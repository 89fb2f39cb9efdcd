"""What a cluster looked like when a test failed: objects, events and logs, as files."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kube import Kube, Object

CALL = 10.0  # seconds that one kubectl may take
ALL = 90.0  # seconds for all of them: what is left out then is said
LINES = 500  # of each log
WARNINGS, PROBLEMS = 5, 5  # in the summary, at most
# Never Secrets.
CLUSTER_KINDS = ("modeldeployments", "acceleratorclasses", "warmpools")
KINDS = ("pods", "leases", "configmaps", "controllerrevisions")
NOT_OURS = "kube-root-ca.crt"  # a ConfigMap that Kubernetes puts into every namespace


@dataclass
class Dump:
    """Writes one folder. Its calls are bounded, and what fails becomes a line of the summary."""

    kube: Kube
    folder: Path
    call_timeout: float = CALL
    deadline: float = field(default_factory=lambda: time.monotonic() + ALL)
    problems: list[str] = field(default_factory=list)

    def write(self, *namespaces: str) -> str:
        """All of Modelfleet, and these namespaces; returns a summary for a person."""
        self.folder.mkdir(parents=True, exist_ok=True)
        wide = self._kubectl("get", "nodes", "-o", "wide")
        (self.folder / "nodes.txt").write_text(wide)
        for kind in CLUSTER_KINDS:
            self._save(kind, self._items(kind, "--all-namespaces"))
        pods: list[Object] = []
        events: list[Object] = []
        for kind in KINDS:
            found = [
                item for name in namespaces for item in self._items(kind, f"--namespace={name}")
            ]
            self._save(kind, [i for i in found if i["metadata"]["name"] != NOT_OURS])
            if kind == "pods":
                pods = found
        for name in namespaces:
            events += self._items("events", f"--namespace={name}")
        events.sort(key=_seen)
        lines = [_line(event) for event in events]
        (self.folder / "events.txt").write_text("".join(f"{line}\n" for line in lines))
        for pod in pods:
            self._save_logs(pod)
        warnings = [_line(event) for event in events if event.get("type") == "Warning"]
        return "\n".join(self._summary(pods, warnings[-WARNINGS:]))

    def _summary(self, pods: list[Object], warnings: list[str]) -> Iterator[str]:
        yield f"objects, events and logs: {self.folder}"
        yield "pods that are not ready:"
        yield from (f"  {line}" for line in [*filter(None, map(_not_ready, pods))] or ["none"])
        yield "last warnings:"
        yield from (f"  {line}" for line in warnings or ["none"])
        yield from (f"not dumped: {problem}" for problem in self.problems[:PROBLEMS])
        if more := len(self.problems[PROBLEMS:]):
            yield f"not dumped: {more} more"

    def _save(self, kind: str, items: list[Object]) -> None:
        for item in items:
            item["metadata"].pop("managedFields", None)
        text = yaml.safe_dump_all(items, sort_keys=False, allow_unicode=True)
        (self.folder / f"{kind}.yaml").write_text(text)

    def _save_logs(self, pod: Object) -> None:
        """Of each container that has run; the one before, too, if it was restarted."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        status = pod.get("status", {})
        for container in _statuses(status):
            tail = ("logs", name, "-c", container["name"], f"--tail={LINES}", f"-n={namespace}")
            file = self.folder / "logs" / f"{namespace}.{name}.{container['name']}.log"
            file.parent.mkdir(exist_ok=True)
            if "waiting" not in container.get("state", {}):
                file.write_text(self._kubectl(*tail))
            if container.get("restartCount"):
                file.with_suffix(".previous.log").write_text(self._kubectl(*tail, "--previous"))

    def _items(self, kind: str, where: str) -> list[Object]:
        text = self._kubectl("get", kind, where, "-o", "json")
        items: list[Object] = json.loads(text)["items"] if text else []
        return items

    def _kubectl(self, *arguments: str) -> str:
        """What it prints; empty, and a problem noted, when it fails or takes too long."""
        called = f"kubectl {' '.join(arguments)}"
        left = min(self.call_timeout, self.deadline - time.monotonic())
        if left <= 0:
            self.problems.append(f"{called}: no time was left")
            return ""
        try:
            ended = self.kube.run(*arguments, timeout=left)
        except (subprocess.TimeoutExpired, OSError) as error:
            self.problems.append(f"{called}: {error}")
            return ""
        if ended.returncode != 0:
            self.problems.append(f"{called}: {ended.stderr.strip()}")
            return ""
        return ended.stdout


def _statuses(status: Object) -> list[Any]:
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _not_ready(pod: Object) -> str:
    """`team/smol-abc-0: Pending, worker: ImagePullBackOff`; empty for one that is ready."""
    status = pod.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    if conditions.get("Ready", {}).get("status") == "True" or status.get("phase") == "Succeeded":
        return ""
    what = [status.get("phase", "Unknown")]
    if "deletionTimestamp" in pod["metadata"]:
        what.append("is being deleted")
    if message := conditions.get("PodScheduled", {}).get("message"):
        what.append(message)
    what += [
        f"{container['name']}: {state['reason']}"
        for container in _statuses(status)
        for state in container.get("state", {}).values()
        if "reason" in state
    ]
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}: {', '.join(what)}"


def _seen(event: Object) -> str:
    """When it was seen last; all of Kubernetes' times sort as text."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next(filter(None, times), event["metadata"].get("creationTimestamp") or "")


def _line(event: Object) -> str:
    about = event.get("involvedObject", {})
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    where = f"{about.get('namespace', '')}/{about.get('name', '')}"
    return (
        f"{_seen(event)} {event.get('type')} {event.get('reason')} {about.get('kind')} {where}: "
        f"{' '.join(str(event.get('message')).split())}" + (f" (x{count})" if count > 1 else "")
    )
