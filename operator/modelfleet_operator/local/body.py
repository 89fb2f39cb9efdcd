"""Worker processes for the plan's actions."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..api.model_deployment import ModelDeployment
from ..decisions.actions import Action, Create, Forget, Record, Remove, Reroute, Stop, Unroute
from ..decisions.memory import Memory
from ..decisions.names import owners, revision_hash
from ..decisions.observed import Deployment, Observed, PastRevision, Worker
from ..decisions.rendering import render
from ..decisions.status import Status
from ..views import decision_view, model_flags
from .pod_template import environment
from .processes import Child
from .state import StateDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What `modelfleet up` says about all workers."""

    flags: tuple[str, ...] = ()  # --device, --calibration: part of the revision
    drain_timeout: float = 30.0
    log_flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # a podTemplate's own wins


@dataclass(slots=True)
class _Process:
    worker: Worker
    key: str
    child: Child
    watching: asyncio.Task[None] | None = field(default=None)
    ending: asyncio.Task[int] | None = field(default=None)


class LocalBody:
    """Implements `reconciler.Body`; deployments are those of the files, for its whole life."""

    def __init__(
        self,
        manifests: Sequence[ModelDeployment],
        options: WorkerOptions,
        state: StateDirectory,
        wake: Callable[[str], None],
        show: Callable[[str, str], None],
    ) -> None:
        """`show` gets a worker's name and a line of its output."""
        self._options = options
        self._state = state
        self._wake = wake
        self._show = show
        self._started = itertools.count(1)
        self._processes: dict[str, _Process] = {}  # by the worker's id
        self._written: dict[str, object] = {}
        now = time.time()
        self._manifests = {m.full_name: m for m in manifests}
        self._flags = {key: (*model_flags(m), *options.flags) for key, m in self._manifests.items()}
        self._environments = {key: environment(m) for key, m in self._manifests.items()}
        # A microsecond apart: of two that ask for the same name, the first in the files has it.
        self._deployments: dict[str, Deployment] = {
            key: replace(
                decision_view(
                    manifest,
                    revision=revision_hash([self._flags[key], self._environments[key]]),
                    drain_timeout=options.drain_timeout,
                    created=now + place * 1e-6,
                ),
                accelerators=(),  # there is one machine
            )
            for place, (key, manifest) in enumerate(self._manifests.items())
        }
        self._owners = owners(self._deployments.values())

    def keys(self) -> Collection[str]:
        """Every deployment of the files."""
        return self._deployments.keys()

    def observe(self, key: str) -> Observed | None:
        """From what the watchers of the processes wrote down."""
        if key not in self._deployments:
            return None
        return Observed(
            deployment=self._deployments[key],
            workers=tuple(p.worker for p in self._processes.values() if p.key == key),
            owners=self._owners,
            # The files do not change while it runs, so there is one revision of each.
            history=(PastRevision(revision=self._deployments[key].revision, number=1),),
        )

    async def recall(self, key: str) -> tuple[Memory, Status | None]:
        """Nothing: a fleet on one machine begins anew with its operator."""
        return Memory(), None

    async def carry_out(self, action: Action, seen: Observed) -> None:
        """PassingError when no process can be started now."""
        match action:
            case Create():
                await self._create(action, seen.deployment)
            case Unroute(worker=worker):
                process = self._find(worker)
                if process is not None and process.worker.draining_since is None:
                    process.worker = replace(process.worker, draining_since=time.time())
                    self._wake(process.key)
            case Reroute(worker=worker):
                process = self._find(worker)
                if process is not None:
                    process.worker = replace(process.worker, draining_since=None)
                    self._wake(process.key)
            case Record() | Forget():
                pass  # nothing outlives this process
            case Stop(worker=worker):
                process = self._find(worker)
                if process is not None:
                    self._stop(process)
            case Remove(worker=worker):
                if self._find(worker) is not None:
                    del self._processes[worker.id]

    async def write_status(self, seen: Observed, status: Status, memory: Memory) -> None:
        """Each change at once: writing a small file is cheap here."""
        deployment = seen.deployment
        rendered = render(status)
        if self._written.get(deployment.key) == rendered:
            return
        self._written[deployment.key] = rendered
        manifest = self._manifests[deployment.key]
        document = manifest.model_dump(mode="json", exclude_unset=True, by_alias=True)
        document["metadata"]["namespace"] = deployment.namespace
        self._state.write_status(
            deployment.namespace, deployment.name, {**document, "status": rendered}
        )

    async def end(self) -> None:
        """Drains and ends every worker, all at the same time."""
        processes = list(self._processes.values())
        for process in processes:
            self._stop(process)
        await asyncio.gather(*(p.ending for p in processes if p.ending is not None))
        await asyncio.gather(*(p.watching for p in processes if p.watching is not None))

    def kill(self) -> None:
        """SIGKILL for every worker."""
        for process in self._processes.values():
            process.child.send(signal.SIGKILL)

    def _stop(self, process: _Process) -> None:
        if process.ending is None:  # a second SIGTERM would cut its drain short
            process.worker = replace(process.worker, stopping=True)
            ending = process.child.end(self._options.drain_timeout)
            process.ending = asyncio.create_task(ending)

    def _find(self, worker: Worker) -> _Process | None:
        process = self._processes.get(worker.id)
        return process if process is not None and process.worker.uid == worker.uid else None

    async def _create(self, action: Create, deployment: Deployment) -> None:
        worker = Worker(
            namespace=deployment.namespace,
            name=action.name,
            uid=str(next(self._started)),
            revision=action.revision,
            ordinal=action.ordinal,
            created=time.time(),
        )
        if worker.id in self._processes:
            return
        command = [
            *(sys.executable, "-P", "-m", "modelfleet_worker", "--listen", "127.0.0.1:0"),
            *("--worker-id", worker.id, "--drain-timeout", f"{self._options.drain_timeout:g}"),
            *self._options.log_flags,
            *self._flags[deployment.key],
        ]
        child = await Child.start(
            command,
            address_file=self._state.run / f"{worker.namespace}.{worker.name}",
            log_file=self._state.logs / f"{worker.namespace}.{worker.name}.log",
            environment={**self._options.environment, **self._environments[deployment.key]},
            show=lambda line: self._show(worker.name, line),
        )
        process = _Process(worker=worker, key=deployment.key, child=child)
        self._processes[worker.id] = process
        process.watching = asyncio.create_task(self._watch(process))

    async def _watch(self, process: _Process) -> None:
        """Writes down where it listens and how it ends, and wakes the reconciler for both."""
        address = await process.child.address()
        if address is not None:
            process.worker = replace(process.worker, address=address)
            self._wake(process.key)
        await process.child.wait()
        if not process.worker.stopping:
            failure = process.child.why_it_ended()
            process.worker = replace(process.worker, failure=failure)
        elif self._find(process.worker) is process:
            del self._processes[process.worker.id]
        self._wake(process.key)
