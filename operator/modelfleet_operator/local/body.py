"""Worker processes for the plan's actions."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import replace

import structlog

from ..api.model_deployment import ModelDeployment
from ..decisions.actions import (
    Action,
    AllowDisruptions,
    Claim,
    Create,
    Credit,
    Forget,
    Load,
    Protect,
    Record,
    Remove,
    Reroute,
    Stop,
    Unroute,
)
from ..decisions.interruption import Notice
from ..decisions.memory import Memory
from ..decisions.observed import Deployment, Observed, Worker
from ..decisions.pool_observed import PoolCounts
from ..decisions.rendering import render, show_time
from ..decisions.status import Status
from ..errors import PassingError, RejectedError
from ..views import model_flags
from ..worker_client import load_model
from .deployments import LocalDeployments
from .learned import LearnedTimes
from .pod_template import environment, logins
from .pools import LocalPools
from .processes import Child
from .state import StateDirectory
from .worker_process import WorkerOptions, WorkerProcess, new_worker, worker_command

PULL_SECRETS_VARIABLE = "MODELFLEET_PULL_SECRETS"  # a folder with docker configs

log = structlog.get_logger()


class LocalBody:
    """Implements `reconciler.Body`; deployments are those of the files."""

    def __init__(
        self,
        deployments: LocalDeployments,
        options: WorkerOptions,
        state: StateDirectory,
        wake: Callable[[str], None],
        show: Callable[[str, str], None],
    ) -> None:
        """`show` gets a worker's name and a line of its output."""
        self._deployments = deployments
        self._options = options
        self._state = state
        self._wake = wake
        self._show = show
        self._started = itertools.count(1)
        self._processes: dict[str, WorkerProcess] = {}  # by the worker's id
        self._written: dict[str, object] = {}
        self._learned = LearnedTimes(state.learned)
        self.endpoint = ""  # URL of the gateway, once it is ready
        flags = (*options.common_flags, *options.flags)
        self.pools = LocalPools(deployments, state, flags, options.environment, show)

    def keys(self) -> Collection[str]:
        """Every deployment of the files."""
        return self._deployments.keys()

    def observe(self, key: str) -> Observed | None:
        """From what the watchers of the processes wrote down."""
        view = self._deployments.view(key)
        if view is None:
            return None
        return Observed(
            deployment=view,
            workers=tuple(p.worker for p in self._processes.values() if p.key == key),
            owners=self._deployments.owners,
            history=self._deployments.history(key),
            pools=self.pools.offers(key),
            accelerators=self._deployments.classes if view.accelerators else {},
        )

    def notify(self, worker_id: str, notice: Notice | None) -> None:
        """Tells a worker that it is about to go, as a node does on a cluster; None: it stays."""
        process = self._processes[worker_id]
        process.worker = replace(process.worker, notice=notice)
        self._wake(process.key)

    def delete(self, key: str) -> None:
        """It is in no file any more: its workers drain and end, as a cluster's collector does."""
        self._written.pop(key, None)
        self._state.remove_status(*key.split("/"))
        for process in self._processes.values():
            if process.key == key:
                self._stop(process)

    async def recall(self, key: str) -> tuple[Memory, Status | None]:
        """How long loading took the last time; all else begins anew with each `up`."""
        return self._learned.recall(self._deployments.manifest(key).spec.model.source), None

    async def carry_out(self, action: Action, seen: Observed) -> None:
        """PassingError when no process can be started now."""
        match action:
            case Create():
                await self._create(action, seen.deployment)
            case Claim():
                await self._claim(action, seen.deployment)
            case Credit(worker=worker, seconds=seconds):
                self.pools.ledger.add(worker.claimed_from, PoolCounts(seconds_saved=seconds))
            case Record(revision=revision, number=number):
                self._deployments.record(seen.deployment.key, revision, number)
            case Forget(revision=revision):
                self._deployments.forget(seen.deployment.key, revision)
            case Load() | Unroute() | Reroute() | Stop() | Remove():
                process = self._find(action.worker)
                if process is not None:
                    await self._act_on(process, action)
            case Protect() | AllowDisruptions():
                pass  # nothing here ends workers but this process

    async def _act_on(
        self, process: WorkerProcess, action: Load | Unroute | Reroute | Stop | Remove
    ) -> None:
        match action:
            case Load():
                await self._load(process)
            case Unroute():
                if process.worker.draining_since is None:
                    process.worker = replace(process.worker, draining_since=time.time())
                    self._wake(process.key)
            case Reroute():
                process.worker = replace(process.worker, draining_since=None)
                self._wake(process.key)
            case Stop():
                self._stop(process)
            case Remove():
                del self._processes[process.worker.id]

    async def write_status(self, seen: Observed, status: Status, memory: Memory) -> None:
        """Each change at once: writing a small file is cheap here."""
        deployment = seen.deployment
        if self._deployments.view(deployment.key) is None:
            return  # deleted meanwhile
        manifest = self._deployments.manifest(deployment.key)
        self._learned.keep(manifest.spec.model.source, memory)
        rendered = render(status, self.endpoint)
        if self._written.get(deployment.key) == rendered:
            return
        self._written[deployment.key] = rendered
        document = manifest.model_dump(mode="json", exclude_unset=True, by_alias=True)
        document["metadata"] |= {
            "namespace": deployment.namespace,
            "generation": deployment.generation,
            "creationTimestamp": show_time(deployment.created),
        }
        self._state.write_status(
            deployment.namespace, deployment.name, {**document, "status": rendered}
        )

    async def end(self) -> None:
        """Drains and ends every worker, all at the same time."""
        processes = list(self._processes.values())
        for process in processes:
            self._stop(process)
        await asyncio.gather(
            self.pools.end(), *(p.ending for p in processes if p.ending is not None)
        )
        await asyncio.gather(*(p.watching for p in processes if p.watching is not None))

    def kill(self) -> None:
        """SIGKILL for every worker."""
        self.pools.kill()
        for process in self._processes.values():
            process.child.send(signal.SIGKILL)

    def _stop(self, process: WorkerProcess) -> None:
        if process.ending is None:  # a second SIGTERM would cut its drain short
            process.worker = replace(process.worker, stopping=True)
            ending = process.child.end(self._options.drain_timeout)
            process.ending = asyncio.create_task(ending)

    def _find(self, worker: Worker) -> WorkerProcess | None:
        process = self._processes.get(worker.id)
        return process if process is not None and process.worker.uid == worker.uid else None

    async def _create(self, action: Create, deployment: Deployment) -> None:
        template = self._deployments.template(deployment.key, action.revision)
        worker = new_worker(
            action,
            namespace=deployment.namespace,
            name=action.name,
            uid=str(next(self._started)),
        )
        if template is None or worker.id in self._processes:
            return
        child = await Child.start(
            worker_command(worker.id, *self._options.common_flags, *template.flags),
            address_file=self._state.run / f"{worker.namespace}.{worker.name}",
            log_file=self._state.logs / f"{worker.namespace}.{worker.name}.log",
            environment={**self._options.environment, **self._environment(template.manifest)},
            show=lambda line: self._show(worker.name, line),
        )
        self._add(worker, deployment.key, child)
        if action.missed:
            self.pools.ledger.add(action.missed, PoolCounts(misses=1))

    def _add(self, worker: Worker, key: str, child: Child) -> WorkerProcess:
        process = WorkerProcess(worker=worker, key=key, child=child)
        self._processes[worker.id] = process
        process.watching = asyncio.create_task(self._watch(process))
        return process

    async def _claim(self, action: Claim, deployment: Deployment) -> None:
        """A worker is started where no standby is left, or the one that was got cannot be used."""
        create = action.create
        taken = self.pools.claim(action, deployment.key)
        if taken is not None:
            standby, child = taken
            worker = new_worker(
                create,
                namespace=standby.namespace,
                name=standby.name,
                uid=standby.uid,
                address=standby.address,
                claimed_from=standby.pool,
            )
            child.log_into(self._state.logs / f"{worker.namespace}.{create.name}.log")
            process = self._add(worker, deployment.key, child)
            log.info("standby claimed", model=deployment.key, worker=worker.name)
            if await self._load(process):
                self._wake(deployment.key)
                return
        await self._create(create, deployment)

    async def _load(self, process: WorkerProcess) -> bool:
        """Whether it takes the call; one that does not is ended, the plan knows of one less."""
        worker = process.worker
        template = self._deployments.template(process.key, worker.revision)
        if template is None:
            return False
        try:
            await load_model(worker.address, model_flags(template.manifest))
        except (PassingError, RejectedError) as error:
            log.warning("a claimed worker cannot load", worker=worker.name, error=str(error))
            self._stop(process)
            return False
        return True

    def _environment(self, manifest: ModelDeployment) -> dict[str, str]:
        values = self._deployments.values
        variables = environment(manifest, values)
        if found := logins(manifest, values):
            variables[PULL_SECRETS_VARIABLE] = self._state.write_logins(manifest.full_name, found)
        return variables

    async def _watch(self, process: WorkerProcess) -> None:
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
