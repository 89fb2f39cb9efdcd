"""One batch that this gateway runs: validation, its lines, its files."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import structlog

from ..errors import (
    NotReadyError,
    StoreFullError,
    StoreUnavailableError,
    UnknownModelError,
    quoted,
)
from ..options import BatchLimits
from .batch_table import Leased, LeaseLostError
from .commits import Commits
from .contents import read_lines, read_part
from .lines import InputFile, LineError, answered, body_of, read_input, request_id
from .objects import Batch, Line, Status
from .output import Written, write_files
from .storage import Storage, Tables
from .submission import Answered, Submit
from .window import Pace, PaceDecision

TICK: Final = 1.0  # seconds between looks at what the model has free
FETCHED: Final = 64  # lines that are read of the store at once
ATTEMPTS: Final = 3  # of a line whose request workers or gateways fail
NOT_NOW: Final = frozenset({429, 503, 507})  # nothing was started, and later it may be
FAILED: Final = frozenset({408, 499, 500, 502, 504})  # tried again, ATTEMPTS times in all
LONGEST_PAUSE: Final = 30.0  # seconds before a line is tried again
STORE_PAUSE: Final = 2.0  # seconds before a store that fails is asked again
SMOOTHING: Final = 0.2  # of the mean of lines' times: the weight of the last one

Value = TypeVar("Value")

log = structlog.get_logger()


class Host(Protocol):
    """What a job asks its runner."""

    @property
    def has_leases(self) -> bool:
        """Whether no other gateway can have taken its batches by now."""
        ...

    @property
    def is_draining(self) -> bool:
        """No line is begun any more."""
        ...

    async def check_model(self, name: str) -> None:
        """UnknownModelError, NotReadyError."""
        ...

    def allowed(self, job: Job) -> tuple[PaceDecision, int]:
        """How it runs now, and how many lines it may have in work."""
        ...

    def count_running(self, job: Job) -> None:
        """It has begun lines, or some have ended."""
        ...

    def count_line(self, model: str, *, succeeded: bool) -> None:
        """A line has its result."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all jobs of a gateway use."""

    storage: Storage
    commits: Commits
    submit: Submit
    limits: BatchLimits
    runner: Host


@dataclass(frozen=True, slots=True)
class Again:
    """A line has no result, and is to be run again."""

    line: Line
    at: float  # on the loop's clock


class Job:
    """One leased batch; `run` carries it on from where it is."""

    def __init__(self, leased: Leased, shared: Shared) -> None:
        self.batch: Batch = leased.batch
        self.fence = leased.fence
        self.pace = Pace.WAIT
        self.seconds_per_line = 0.0  # mean of the last ones; 0: none yet
        self._shared = shared
        self._lines: deque[Line] = deque()  # read of the store, and not begun
        self._last = -1  # number of the last line that was read
        self._again: list[Again] = []
        self._running: dict[asyncio.Task[Again | None], Line] = {}
        self._unqueued: set[int] = set()  # lines in work that have not reached the queue
        self._changed = asyncio.Event()

    @property
    def unqueued(self) -> int:
        """Lines in work that will take a slot in a moment."""
        return len(self._unqueued)

    @property
    def running(self) -> int:
        """Lines in work."""
        return len(self._running)

    @property
    def is_running(self) -> bool:
        """Its lines are run, or wait for that."""
        return self.batch.status is Status.IN_PROGRESS and self.batch.outcome is None

    @property
    def context(self) -> dict[str, str]:
        """For log lines."""
        return {"batch": self.batch.id, "model": self.batch.model or ""}

    def on_change(self, batch: Batch) -> None:
        """The store has it like this: it may have been cancelled, through another gateway too."""
        if batch.outcome is not None and self.batch.outcome is None:
            self.batch = batch
            self.look()

    def look(self) -> None:
        """Something has changed: at once instead of in a moment."""
        self._changed.set()

    async def run(self) -> None:
        """Until the batch has ended, or no line is to be begun here any more.

        LeaseLostError: another gateway has it.
        """
        if self.batch.status is Status.VALIDATING:
            await self._validate()
        outcome: Status | None = self.batch.outcome or Status.COMPLETED
        if self.is_running:
            outcome = await self._run_lines()
        if outcome is not None and not self.batch.status.is_final:
            await self._finish(outcome)

    async def _validate(self) -> None:
        batch, limits, storage = self.batch, self._shared.limits, self._shared.storage
        path = storage.contents.path(batch.input_file_id)

        def read() -> InputFile:
            return read_input(
                read_lines(path, limits.line_bytes),
                batch.endpoint,
                max_lines=limits.lines,
                max_line_bytes=limits.line_bytes,
            )

        found = await self._patiently(lambda: storage.disk(read))
        if not found.errors and not await self._has_model(found.model or ""):
            message = f"The model {quoted(found.model or '')} does not exist here."
            error = LineError("model_not_found", message, "body.model")
            found.errors.append(error.body(None))
        now = int(time.time())
        if found.errors:
            self.batch = await self._store(
                lambda t: t.batches.refuse(batch.id, self.fence, found.errors, now)
            )
            log.info("a batch is refused", first=found.errors[0], **self.context)
            return
        self.batch = await self._store(
            lambda t: t.batches.begin(batch.id, self.fence, found.lines, found.model, now)
        )
        log.info("a batch begins", lines=self.batch.total, **self.context)

    async def _has_model(self, name: str) -> bool:
        while True:
            try:
                await self._shared.runner.check_model(name)
            except UnknownModelError:
                return False
            except NotReadyError:  # no operator has told yet which models there are
                await asyncio.sleep(TICK)
                continue
            return True

    async def _run_lines(self) -> Status | None:
        """How it ends; None: not here."""
        try:
            while True:
                self._changed.clear()
                if self.batch.outcome is not None:
                    return self.batch.outcome
                if time.time() >= self.batch.expires_at:
                    return Status.EXPIRED
                if self._shared.runner.is_draining:
                    if not self._running:
                        return None
                elif not await self._begin_lines():
                    return Status.COMPLETED
                await self._wait()
        finally:
            tasks, self._running = list(self._running), {}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin_lines(self) -> bool:
        """Begins as many as may run now; False: all lines have their results."""
        runner, commits = self._shared.runner, self._shared.commits
        decision, allowed = runner.allowed(self)
        await self._tell(decision)
        while await self._has_line():
            is_room = len(self._running) < allowed and not commits.failing
            if not (is_room and runner.has_leases):
                return True
            line = self._lines.popleft()
            self._unqueued.add(line.number)
            self._running[asyncio.create_task(self._run_line(line))] = line
            runner.count_running(self)
        return bool(self._running or self._again)

    async def _wait(self) -> None:
        """Until a line has ended, something has changed, or it is time to look again."""
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait(
                {*self._running, changed}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            changed.cancel()
        for task in [task for task in self._running if task.done()]:
            self._unqueued.discard(self._running.pop(task).number)
            again = task.result()
            if again is not None:
                self._again.append(again)
        self._shared.runner.count_running(self)

    async def _has_line(self) -> bool:
        """Whether one is to be begun now: one that is tried again, or the next of the store."""
        now = asyncio.get_running_loop().time()
        self._lines.extendleft(one.line for one in self._again if one.at <= now)
        self._again = [one for one in self._again if one.at > now]
        if not self._lines:
            batch, last = self.batch, self._last
            lines = await self._store(lambda t: t.batches.waiting_lines(batch.id, last, FETCHED))
            if lines:
                self._last = lines[-1].number
            self._lines.extend(lines)
        return bool(self._lines)

    async def _run_line(self, line: Line) -> Again | None:
        batch, storage, loop = self.batch, self._shared.storage, asyncio.get_running_loop()
        path = storage.contents.path(batch.input_file_id)
        try:
            body = await storage.disk(lambda: body_of(read_part(path, line.offset, line.length)))
        except (StoreFullError, StoreUnavailableError):
            return Again(line, loop.time() + STORE_PAUSE)
        began = loop.time()
        name = request_id(batch.id, line.number)
        answer = await self._shared.submit(
            batch.endpoint,
            body,
            request_id=name,
            key_id=batch.key_id,
            on_queued=lambda: self._unqueued.discard(line.number),
        )
        if answer.status in NOT_NOW:
            return Again(line, loop.time() + _pause(answer))
        if answer.status in FAILED and line.attempts + 1 < ATTEMPTS:
            await self._store(lambda t: t.batches.count_attempt(batch.id, self.fence, line.number))
            again = replace(line, attempts=line.attempts + 1)
            return Again(again, loop.time() + _pause(answer))
        result = answered(
            batch.id, self.fence, line, status=answer.status, request_id=name, body=answer.body
        )
        self._measure(loop.time() - began)
        await self._shared.commits.write(result)
        self.batch = replace(
            self.batch,
            completed=self.batch.completed + result.succeeded,
            failed=self.batch.failed + (not result.succeeded),
        )
        self._shared.runner.count_line(batch.model or "", succeeded=result.succeeded)
        return None

    def _measure(self, seconds: float) -> None:
        mean = self.seconds_per_line or seconds
        self.seconds_per_line = mean + SMOOTHING * (seconds - mean)

    async def _tell(self, decision: PaceDecision) -> None:
        """The reason goes to the log, and to whoever asks for the batch."""
        is_new = decision.pace is not self.pace or not self.batch.reason
        # While it runs, only the time that is left changes.
        if not is_new and (decision.pace is not Pace.WAIT or decision.reason == self.batch.reason):
            return
        self.pace = decision.pace
        reason, batch = decision.reason, self.batch
        log.info("a batch's pace", pace=decision.pace.value, reason=reason, **self.context)
        await self._store(lambda t: t.batches.set_reason(batch.id, self.fence, reason))
        self.batch = replace(self.batch, reason=reason)

    async def _finish(self, outcome: Status) -> None:
        """Writes its files, and ends it."""
        storage, seconds = self._shared.storage, self._shared.limits.file_seconds
        now = int(time.time())
        batch = self.batch = await self._store(
            lambda t: t.batches.finalize(self.batch.id, self.fence, outcome, now)
        )

        def write(tables: Tables) -> Written:
            return write_files(tables, storage.contents, batch, now=now, seconds=seconds)

        written = await self._patiently(lambda: storage.beside(write))
        try:
            self.batch = await self._store(
                lambda t: t.batches.finish(
                    batch.id,
                    self.fence,
                    output=written.output,
                    errors=written.errors,
                    now=int(time.time()),
                )
            )
        except LeaseLostError:
            await storage.disk(functools.partial(storage.contents.delete, written.ids))
            raise
        log.info(
            "a batch has ended",
            status=self.batch.status.value,
            completed=self.batch.completed,
            failed=self.batch.failed,
            **self.context,
        )

    async def _store(self, work: Callable[[Tables], Value]) -> Value:
        return await self._patiently(lambda: self._shared.storage.call(work))

    async def _patiently(self, work: Callable[[], Awaitable[Value]]) -> Value:
        """What it returns, once the store works; the storage logs its failures."""
        while True:
            try:
                return await work()
            except (StoreFullError, StoreUnavailableError):
                await asyncio.sleep(STORE_PAUSE)


def _pause(answer: Answered) -> float:
    """Seconds before a line is tried again."""
    return min(max(answer.retry_after, TICK), LONGEST_PAUSE)
