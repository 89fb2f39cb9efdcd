"""One batch that this gateway runs: validation, its lines, its files."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from dataclasses import replace
from typing import Final

import structlog

from ..errors import NotReadyError, UnknownModelError, quoted
from .batch_table import Leased, LeaseLostError
from .contents import read_lines
from .host import Shared
from .line_run import Again, run_line
from .lines import InputFile, LineError, read_input
from .objects import Batch, Line, Status
from .output import Written, write_files
from .storage import Tables, patiently
from .window import Pace, PaceDecision

TICK: Final = 1.0  # seconds between looks at what the model has free
FETCHED: Final = 64  # lines that are read of the store at once
SMOOTHING: Final = 0.2  # of the mean of lines' times: the weight of the last one

log = structlog.get_logger()


class Job:
    """One leased batch; `run` carries it on from where it is."""

    def __init__(self, leased: Leased, shared: Shared) -> None:
        self.batch: Batch = leased.batch
        self.fence = leased.fence
        self.pace = Pace.WAIT
        self.seconds_per_line = 0.0  # mean of the last ones; 0: none yet
        self._shared = shared
        self._storage = shared.storage
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
        batch, limits, storage = self.batch, self._shared.limits, self._storage
        path = storage.contents.path(batch.input_file_id)

        def read() -> InputFile:
            return read_input(
                read_lines(path, limits.line_bytes),
                batch.endpoint,
                max_lines=limits.lines,
                max_line_bytes=limits.line_bytes,
            )

        found = await patiently(lambda: storage.disk(read))
        if not found.errors and not await self._has_model(found.model or ""):
            message = f"The model {quoted(found.model or '')} does not exist here."
            error = LineError("model_not_found", message, "body.model")
            found.errors.append(error.body(None))
        now = int(time.time())
        if found.errors:
            self.batch = await self._storage.wait_for(
                lambda t: t.batches.refuse(batch.id, self.fence, found.errors, now)
            )
            log.info("a batch is refused", first=found.errors[0], **self.context)
            return
        self.batch = await self._storage.wait_for(
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
            lines = await self._storage.wait_for(
                lambda t: t.batches.waiting_lines(batch.id, last, FETCHED)
            )
            if lines:
                self._last = lines[-1].number
            self._lines.extend(lines)
        return bool(self._lines)

    async def _run_line(self, line: Line) -> Again | None:
        loop, batch = asyncio.get_running_loop(), self.batch
        began = loop.time()
        came = await run_line(
            batch, self.fence, line, self._shared, lambda: self._unqueued.discard(line.number)
        )
        if isinstance(came, Again):
            return came
        self._measure(loop.time() - began)
        await self._shared.commits.write(came)
        self.batch = replace(
            self.batch,
            completed=self.batch.completed + came.succeeded,
            failed=self.batch.failed + (not came.succeeded),
        )
        self._shared.runner.count_line(batch.model or "", succeeded=came.succeeded)
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
        await self._storage.wait_for(lambda t: t.batches.set_reason(batch.id, self.fence, reason))
        self.batch = replace(self.batch, reason=reason)

    async def _finish(self, outcome: Status) -> None:
        """Writes its files, and ends it."""
        storage, seconds = self._storage, self._shared.limits.file_seconds
        now = int(time.time())
        batch = self.batch = await self._storage.wait_for(
            lambda t: t.batches.finalize(self.batch.id, self.fence, outcome, now)
        )

        def write(tables: Tables) -> Written:
            return write_files(tables, storage.contents, batch, now=now, seconds=seconds)

        written = await patiently(lambda: storage.beside(write))
        try:
            self.batch = await self._storage.wait_for(
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
