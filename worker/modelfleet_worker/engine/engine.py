"""The step loop in its own thread: inbox, plan, execute, deliver."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

from .admission import check_request
from .block_manager import BlockManager
from .device import Runner
from .messages import (
    Abort,
    Add,
    Command,
    EngineFailure,
    EngineLimits,
    EngineStats,
    RequestOutput,
    StepOutput,
)
from .scheduler import BLOCK_SIZE, Plan, Scheduler
from .sequence import Sequence
from .tally import Tally

log = structlog.get_logger(__name__)


class Engine:
    """Feeds one runner from two queues; knows neither gRPC nor asyncio.

    `deliver` is called from the engine's thread once a step, and once more with an EngineFailure
    if the loop ends with an error. It must not block.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        limits: EngineLimits,
        max_batch_tokens: int,
        prefix_caching: bool,
        deliver: Callable[[StepOutput | EngineFailure], None],
    ) -> None:
        if max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens is {max_batch_tokens}: at least 1 is needed")
        if limits.kv_tokens > runner.num_blocks * BLOCK_SIZE:
            raise ValueError(f"{limits.kv_tokens} tokens do not fit {runner.num_blocks} blocks")
        self.limits = limits
        self._runner = runner
        self._deliver = deliver
        self._blocks = BlockManager(runner.num_blocks, caching=prefix_caching)
        self._scheduler = Scheduler(
            self._blocks,
            max_sequences=limits.max_sequences,
            max_batch_tokens=max_batch_tokens,
        )
        self._tally = Tally()
        self._stats = self._tally.snapshot(self._scheduler)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # Under the condition: what the two sides share.
        self._wake = threading.Condition()
        self._inbox: deque[Command] = deque()
        self._living: set[str] = set()
        self._stopping = False
        self._failure: EngineFailure | None = None
        self._last_progress = time.monotonic()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after the step that runs, and joins it. What was unfinished stays so."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, command: Command) -> None:
        """Passes a command to the loop, from any thread, without blocking.

        Raises ValueError for a request that admission should have refused (it would wait for ever)
        and for the name of one that lives. After a failure, the failure is delivered once more.
        """
        if isinstance(command, Add):
            reason = check_request(command.request, self.limits)
            if reason is not None:
                raise ValueError(reason)
        with self._wake:
            failure = self._failure
            if failure is None:
                self._enqueue(command)
        if failure is not None:
            self._deliver(failure)

    def _enqueue(self, command: Command) -> None:
        if isinstance(command, Add):
            name = command.request.request_id
            if name in self._living:
                raise ValueError(f"a request named {name!r} is being served already")
            if not self._living:
                self._last_progress = time.monotonic()  # it was idle, not stalled
            self._living.add(name)
        self._inbox.append(command)
        self._wake.notify()

    @property
    def stats(self) -> EngineStats:
        """As of the last step."""
        return self._stats

    def stalled(self, now: float, *, after: float = 60.0) -> str | None:
        """Why the engine counts as stalled at `now` (time.monotonic() seconds); None: it is not.

        It is when there is work and no step has finished for `after` seconds.
        """
        with self._wake:
            if self._failure is not None:
                return f"engine failed: {self._failure.error}"
            silent = now - self._last_progress
            if not self._living or silent < after:
                return None
            return (
                f"engine stalled: {len(self._living)} requests, but no step finished"
                f" for {silent:.0f} s (after step {self._stats.steps})"
            )

    def _run(self) -> None:
        try:
            while self._take_commands():
                self._step()
        except Exception as error:  # the boundary of the thread: nobody else would ever hear of it
            log.exception("engine failed")
            failure = EngineFailure(f"{type(error).__name__}: {error}")
            with self._wake:
                self._failure = failure
            self._deliver(failure)

    def _take_commands(self) -> bool:
        """Sleeps until there is work; False: stop."""
        with self._wake:
            while not (self._stopping or self._inbox or len(self._scheduler)):
                self._wake.wait()
            commands = tuple(self._inbox)
            self._inbox.clear()
            if self._stopping:
                return False
        for command in commands:
            if isinstance(command, Abort):
                self._abort(command.request_id)
            else:
                self._scheduler.add(Sequence(command.request))
        return True

    def _abort(self, request_id: str) -> None:
        if self._scheduler.abort(request_id):
            self._tally.aborted += 1
            with self._wake:
                self._living.discard(request_id)

    def _step(self) -> None:
        began = time.monotonic()
        plan = self._scheduler.schedule()
        if not plan.chunks and len(self._scheduler):
            raise RuntimeError(f"nothing to compute, but {len(self._scheduler)} requests wait")
        outputs = self._compute(plan) if plan.chunks else ()
        ended = time.monotonic()
        self._tally.step(plan, outputs, ended - began)
        self._stats = self._tally.snapshot(self._scheduler)
        with self._wake:
            self._last_progress = ended
            self._living.difference_update(o.request_id for o in outputs if o.finished)
        self._deliver(StepOutput(outputs, self._stats))

    def _compute(self, plan: Plan) -> tuple[RequestOutput, ...]:
        sampled = self._runner.execute(plan.chunks)
        progress = self._scheduler.complete(plan, [token.id for token in sampled])
        return tuple(
            RequestOutput(
                request_id=step.sequence.request.request_id,
                ids=(token.id,),
                logprobs=() if token.logprobs is None else (token.logprobs,),
                cached_tokens=step.sequence.cached_tokens or 0,
                finished=step.finished,
            )
            for step, token in zip(progress, sampled, strict=True)
        )
