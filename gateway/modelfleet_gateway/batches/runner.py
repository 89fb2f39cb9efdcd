"""The batches that this gateway runs: which it leases, and what they may have of their models."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

import structlog

from ..errors import GatewayError, StoreFullError, StoreUnavailableError
from ..metrics import Metrics
from ..options import BatchLimits
from ..routing.dispatch import Dispatcher
from ..routing.queue import ModelQueue
from .batch_table import Leased, LeaseLostError
from .commits import Commits
from .host import Shared
from .job import Job
from .storage import Storage, Tables
from .submission import Submit
from .window import SLOTS, Pace, PaceDecision, Work, decide_pace, lines_allowed

LOOKS: Final = 4  # in the time of a lease, at batches that were made, cancelled or left by others
MARGIN: Final = 0.9  # of a lease, after which nothing is begun under it
MOST_JOBS: Final = 16  # batches that one gateway runs at the same time
SWEEP: Final = 60.0  # seconds between looks at what has expired
BATCHES_KEPT: Final = 30 * 86_400.0  # seconds after their window

log = structlog.get_logger()


class Runner:
    """`run` runs batches until it is cancelled; `finish` ends what runs."""

    def __init__(
        self,
        storage: Storage,
        dispatcher: Dispatcher,
        submit: Submit,
        metrics: Metrics,
        limits: BatchLimits,
        *,
        gateway_id: str,
        draining: asyncio.Event,
    ) -> None:
        self._storage = storage
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._limits = limits
        self._draining = draining
        self._holder = f"{gateway_id}/{secrets.token_hex(6)}"
        self._commits = Commits(storage)
        self._shared = Shared(
            storage=storage, commits=self._commits, submit=submit, limits=limits, runner=self
        )
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leased_until = 0.0  # on the monotonic clock
        self._woken = asyncio.Event()
        self._swept = 0.0
        self._is_full = False  # the store has room for no more results
        self._slots: dict[str, int] = {}  # of each model, when workers were last seen

    # What jobs ask for.

    @property
    def has_leases(self) -> bool:
        """Whether no other gateway can have taken its batches by now."""
        return time.monotonic() < self._leased_until

    @property
    def is_draining(self) -> bool:
        """No line is begun any more."""
        return self._draining.is_set()

    async def check_model(self, name: str) -> None:
        """UnknownModelError, NotReadyError."""
        await self._dispatcher.find(name)

    def allowed(self, job: Job) -> tuple[PaceDecision, int]:
        """How it runs now, and how many lines it may have in work."""
        batch, now = job.batch, time.time()
        if self._is_full:
            return PaceDecision(pace=Pace.WAIT, reason="the store of files is full"), 0
        queue = self._queue_of(batch.model or "")
        if queue is None:
            if not self._dispatcher.is_current.is_set():
                return PaceDecision(pace=Pace.WAIT, reason="waits for the operator"), 0
            return PaceDecision(pace=Pace.URGENT, reason="its model is gone"), SLOTS
        model, ready = queue.view.model, [w for w in queue.workers.values() if w.ready]
        slots = sum(worker.slots for worker in ready)
        if slots:
            self._slots[model] = slots
        decision = decide_pace(
            Work(
                now=now,
                expires_at=batch.expires_at,
                lines=batch.waiting,
                seconds_per_line=job.seconds_per_line,
                slots=self._slots.get(model, 0),
                ready_workers=len(ready),
            )
        )
        others = [one for one in self._jobs.values() if self._model_of(one) == model]
        lines = lines_allowed(
            decision.pace,
            slots=slots,
            free=sum(max(worker.free_slots, 0) for worker in ready)
            - sum(one.unqueued for one in others),
            waiting=len(queue.requests),
            running=job.running,
            batches=max(sum(one.is_running for one in others), 1),
        )
        running = sum(one.running for one in self._jobs.values()) - job.running
        return decision, min(lines, self._limits.lines_at_once - running)

    def count_running(self, job: Job) -> None:
        """It has begun lines, or some have ended."""
        queue = self._queue_of(job.batch.model or "")
        if queue is not None:
            jobs = [one for one in self._jobs.values() if one.pace is Pace.IDLE]
            model = queue.view.model
            queue.idle_work = sum(one.running for one in jobs if self._model_of(one) == model)

    def count_line(self, model: str, *, succeeded: bool) -> None:
        """A line has its result."""
        queue = self._queue_of(model)
        if queue is not None:
            self._metrics.count_batch_line(queue.view.model, succeeded=succeeded)

    # What the gateway asks for.

    def wake(self) -> None:
        """A batch was made or cancelled here."""
        self._woken.set()

    def counts(self) -> Iterator[tuple[str, int, int]]:
        """Of each model, the lines that wait in batches of this gateway, and those in work."""
        jobs = [job for job in self._jobs.values() if job.is_running]
        for model in {self._model_of(job) for job in jobs} - {""}:
            its = [job for job in jobs if self._model_of(job) == model]
            running = sum(job.running for job in its)
            yield model, sum(job.batch.waiting for job in its) - running, running

    async def run(self) -> None:
        """Until it is cancelled."""
        writing = asyncio.create_task(self._commits.run())
        looking = asyncio.create_task(self._look_again_and_again())
        try:
            await asyncio.gather(writing, looking)
        finally:
            for task in (writing, looking):
                task.cancel()
            await asyncio.gather(writing, looking, return_exceptions=True)

    async def finish(self, stop: asyncio.Future[None]) -> None:
        """Draining: waits for lines that run, until `stop` is done; then others may go on."""
        for job in self._jobs.values():
            job.look()
        if self._tasks:
            ended = asyncio.gather(*self._tasks.values(), return_exceptions=True)
            waited: set[asyncio.Future[Any]] = {ended, stop}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        await self._drop(list(self._jobs))

    async def close(self) -> None:
        """Gives back what is still leased, and closes the store."""
        await self._drop(list(self._jobs))
        if await self._has_store():
            with contextlib.suppress(GatewayError):
                await self._storage.call(lambda t: t.batches.release_all(self._holder))
        await asyncio.to_thread(self._storage.close)

    async def _look_again_and_again(self) -> None:
        while True:
            self._woken.clear()
            if self._jobs or await self._has_store():
                await self._sweep()
                await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.lease / LOOKS):
                    await self._woken.wait()

    async def _has_store(self) -> bool:
        """A gateway that no one gives a file leaves no trace."""
        try:
            return await self._storage.is_made()
        except StoreUnavailableError:
            return False

    async def _look(self) -> None:
        """Renews its leases, and takes batches that nobody runs."""
        if self._jobs and not self.has_leases:
            log.warning("batches are left: the store was away, or this process stood still")
            await self._drop(list(self._jobs))
        began, now, lease = time.monotonic(), time.time(), self._limits.lease
        room = 0 if self.is_draining else MOST_JOBS - len(self._jobs)

        def look(tables: Tables) -> tuple[list[Leased], int]:
            held = tables.batches.renew(self._holder, now + lease)
            held += tables.batches.lease(self._holder, now, now + lease, room)
            return held, tables.files.used_bytes() if held else 0

        try:
            leases, used = await self._storage.call(look)
        except (StoreFullError, StoreUnavailableError):
            return
        self._leased_until = began + lease * MARGIN
        self._is_full = used >= self._limits.store_bytes
        held = {one.batch.id: one for one in leases}
        await self._drop(
            [name for name, job in self._jobs.items() if not _is_held(job, held.get(name))]
        )
        for name, leased in held.items():
            if name in self._jobs:
                self._jobs[name].on_change(leased.batch)
            elif not self.is_draining:
                self._begin(leased)

    def _begin(self, leased: Leased) -> None:
        job, name = Job(leased, self._shared), leased.batch.id
        self._jobs[name] = job
        self._tasks[name] = asyncio.create_task(self._carry_on(name, job))

    async def _carry_on(self, name: str, job: Job) -> None:
        try:
            await job.run()
        except LeaseLostError:
            log.warning("another gateway has a batch", **job.context)
        except Exception:
            log.exception("a batch met a bug, and is tried again", **job.context)
        finally:
            self._jobs.pop(name, None)
            self._tasks.pop(name, None)
            self.count_running(job)

    async def _drop(self, names: list[str]) -> None:
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        now = time.time()
        if now - self._swept < SWEEP:
            return
        contents = self._storage.contents

        def expire(tables: Tables) -> None:
            tables.batches.forget_ended(now - BATCHES_KEPT)
            contents.delete(tables.files.expire(now))
            contents.sweep(tables.files.ids())

        with contextlib.suppress(StoreFullError, StoreUnavailableError):
            await self._storage.call(expire)
            self._swept = now

    def _queue_of(self, name: str) -> ModelQueue | None:
        view = self._dispatcher.view
        if view is None or name not in view.names:
            return None
        return self._dispatcher.queues.get(view.names[name])

    def _model_of(self, job: Job) -> str:
        queue = self._queue_of(job.batch.model or "")
        return queue.view.model if queue is not None else ""


def _is_held(job: Job, leased: Leased | None) -> bool:
    return leased is not None and leased.fence == job.fence
