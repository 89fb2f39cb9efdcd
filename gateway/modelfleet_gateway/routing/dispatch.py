"""Puts the operator's views in force: a queue for each model, a watched worker for each route."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Collection, Mapping
from typing import Final

import structlog

from modelfleet_proto.mtls.credentials import Credentials

from ..access.caller import ANONYMOUS, Caller
from ..access.keys import KeyRing
from ..access.quotas import Quotas
from ..errors import NotReadyError, quoted
from ..metrics import Metrics
from ..tasks import TaskBag, supervise
from .queue import ModelQueue
from .stats_watch import watch
from .view import ModelView, View, is_outdated
from .workers import Worker

UNKNOWN_MODEL_TIMEOUT: Final = 10.0  # seconds to wait for an operator that may know the model

log = structlog.get_logger()


class Dispatcher:
    """The view in force, and one queue for each of its models."""

    def __init__(
        self,
        metrics: Metrics,
        keys: KeyRing | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """`credentials` of this gateway; None: it speaks no TLS."""
        self._metrics = metrics
        self.keys = keys or KeyRing()  # of the view, too
        self._credentials = credentials
        self.view: View | None = None
        self.is_current = asyncio.Event()  # an operator is connected and its view in force
        self.queues: dict[str, ModelQueue] = {}
        self.quotas = Quotas()  # what keys use of their limits
        self.urgent = asyncio.Event()  # the operator should get signals at once
        self._tasks = TaskBag()
        self._watches: dict[Worker, asyncio.Task[None]] = {}

    def apply(self, view: View, changed: Collection[str] | None = None) -> bool:
        """Puts a view in force; False for one of a leader that was replaced.

        `changed` names the models that differ from the view before; None: any of them may.
        """
        if is_outdated(view, self.view):
            log.warning("an outdated view is ignored", term=view.term, version=view.version)
            return False
        self.view = view
        for name in self.queues.keys() | view.models.keys() if changed is None else changed:
            self._sync(name, view.models.get(name))
        self.urgent.set()  # the operator waits for its view to be in force
        return True

    def make_room(self, waiting: Mapping[str, int]) -> None:
        """So many interactive requests wait in other gateways, by model."""
        for name, queue in self.queues.items():
            if queue.waiting_elsewhere or name in waiting:
                queue.on_waiting_elsewhere(waiting.get(name, 0))

    def view_in_force(self) -> View:
        """The view, or NotReadyError before the first."""
        if self.view is None:
            raise NotReadyError(
                "This gateway knows no models yet: it waits for its operator.", retry_after=1
            )
        return self.view

    async def find(self, name: str, caller: Caller = ANONYMOUS) -> ModelView:
        """The model that answers this caller to this name.

        While no operator is connected, the view may be too old to have the model: waits for a new
        one. UnknownModelError: a current view lacks the model. NotReadyError: no current view came.
        """
        view = self.view_in_force()
        if (full_name := view.names.get(name)) is not None:
            model = view.models[full_name]
            if caller.models is None or caller.may_use(model):
                return model
        if self.is_current.is_set():
            raise view.unknown(name, caller)
        try:
            async with asyncio.timeout(UNKNOWN_MODEL_TIMEOUT):
                await self.is_current.wait()
        except TimeoutError:
            raise NotReadyError(
                f"The model {quoted(name)} is not known here, and the operator, which might know "
                "it, is away. Try again later.",
                retry_after=UNKNOWN_MODEL_TIMEOUT,
            ) from None
        return self.view_in_force().resolve(name, caller)

    async def close(self) -> None:
        """Stops watching workers and closes their channels."""
        await self._tasks.close()
        await asyncio.gather(*(worker.close() for worker in self._watches))

    def _sync(self, name: str, model: ModelView | None) -> None:
        if model is None:
            queue = self.queues.pop(name, None)
            if queue is not None:
                self._sync_workers(queue, ModelView(model=name))
                queue.reject_all()
                self._metrics.remove_series(name)
            return
        if name not in self.queues:
            self.queues[name] = ModelQueue(model, self._metrics.model(name), self.urgent)
        queue = self.queues[name]
        self._sync_workers(queue, model)
        queue.on_view(model)

    def _sync_workers(self, queue: ModelQueue, model: ModelView) -> None:
        wanted = {worker.worker_id: worker for worker in model.workers}
        for worker_id, worker in list(queue.workers.items()):
            if worker_id not in wanted or not worker.is_at(wanted[worker_id]):
                del queue.workers[worker_id]
                self._tasks.start(self._remove(worker))
        for place, (worker_id, route) in enumerate(wanted.items()):
            if worker_id not in queue.workers:
                told = queue.on_worker_change
                worker = Worker(route, model.model, told, self._credentials)
                queue.workers[worker_id] = worker
                self._watches[worker] = self._tasks.start(
                    supervise(worker_id, functools.partial(watch, worker))
                )
            queue.workers[worker_id].place = place
            queue.workers[worker_id].routable = route.routable
            queue.workers[worker_id].hands_over = route.hand_over

    async def _remove(self, worker: Worker) -> None:
        worker.routable = False
        await worker.wait_until_idle()
        self._watches.pop(worker).cancel()
        await worker.close()
