"""The step loop in its own thread: inbox, plan, launch, read the step before, deliver."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from .admission import check_request
from .block_manager import BlockManager
from .counters import EngineCounters
from .device import MAX_STEPS_IN_FLIGHT, AheadRunner, PreparingRunner, Runner, SampledToken, Step
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
from .scheduler import BLOCK_SIZE, NewToken, Scheduler, StepPlan
from .sequence import Sequence

log = structlog.get_logger(__name__)

# A message takes some 0.15 ms of cores, here and where it is read: of 16 streams, told every 20 ms,
# 6 % of two. So many of them are told more rarely.
_STREAM_EVERY = 0.003  # seconds between messages, for each stream
_ALL_EVERY = 0.05  # seconds; longer shows


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step that nobody has read yet."""

    plan: StepPlan
    step: Step

    @property
    def prefills(self) -> bool:
        """It takes long: a request that comes meanwhile should not wait for one more."""
        return any(len(chunk) > 1 for chunk in self.plan.chunks)


class Engine:
    """Feeds one runner from two queues; knows neither gRPC nor asyncio.

    `deliver` is called from the engine's thread, and once more with an EngineFailure if the loop
    ends with an error. It must not block. While steps follow one another faster than `tell_every`
    seconds, some are launched, read and delivered together: who wakes for each step, and sends a
    message for each token, takes more of a processor that computes than the token did. Tokens of
    many requests come in larger pieces. A first token never waits, nor does any behind a step that
    takes long.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        limits: EngineLimits,
        max_batch_tokens: int,
        prefix_caching: bool,
        deliver: Callable[[StepOutput | EngineFailure], None],
        tell_every: float = 0.02,
    ) -> None:
        if max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens is {max_batch_tokens}: at least 1 is needed")
        if limits.kv_tokens > runner.num_blocks * BLOCK_SIZE:
            raise ValueError(f"{limits.kv_tokens} tokens do not fit {runner.num_blocks} blocks")
        self.limits = limits
        self._runner = runner
        self._ahead = runner if isinstance(runner, AheadRunner) else None
        self._preparing = runner if isinstance(runner, PreparingRunner) else None
        self._launched: deque[_Launched] = deque()
        self._deliver = deliver
        self._blocks = BlockManager(runner.num_blocks, caching=prefix_caching)
        self._scheduler = Scheduler(
            self._blocks,
            max_sequences=limits.max_sequences,
            max_batch_tokens=max_batch_tokens,
        )
        self._tell_every = tell_every
        self._untold: list[RequestOutput] = []
        self._told = 0.0  # when, monotonic
        self._pace = 0.0  # seconds that a step without prompts took lately; 0: unknown
        self._counters = EngineCounters()
        self._stats = self._counters.snapshot(self._scheduler)
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
        """As of the last delivery."""
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
        finally:
            for launched in self._launched:
                with suppress(Exception):  # the failure was told
                    launched.step.result()  # it writes to memory that is about to go

    def _take_commands(self) -> bool:
        """Sleeps until there is work, or lets the device prepare; False: stop."""
        while self._preparing is not None and self._is_idle():
            if not self._preparing.prepare(self._blocks.used + self._blocks.cached):
                break
        with self._wake:
            while self._is_idle():
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

    def _is_idle(self) -> bool:
        return not (self._stopping or self._inbox or len(self._scheduler) or self._launched)

    def _abort(self, request_id: str) -> None:
        if self._scheduler.abort(request_id):
            self._counters.aborted += 1
            self._untold = [o for o in self._untold if o.request_id != request_id]
            with self._wake:
                self._living.discard(request_id)

    def _step(self) -> None:
        """Launches what can be, then reads all but the last step of it, or the only one."""
        while self._may_launch() and (launched := self._launch()) is not None:
            self._launched.append(launched)
        if self._launched:
            self._read(max(1, len(self._launched) - 1))
        elif len(self._scheduler):
            raise RuntimeError(f"nothing to compute, but {len(self._scheduler)} requests wait")
        else:
            self._tell(time.monotonic())  # all were aborted

    def _may_launch(self) -> bool:
        if not self._launched:
            return True
        if self._ahead is None or self._launched[-1].prefills:
            return False
        return len(self._launched) <= self._steps_ahead()

    def _steps_ahead(self) -> int:
        """Steps to launch before one is read: what takes `tell_every` seconds, at least one.

        A request that waits for a place should have it as soon as somebody ends.
        """
        if not self._pace or self._scheduler.waiting:
            return 1
        if any(s.request.sampling.needs_history for s in self._scheduler.running):
            return 1
        return min(max(1, round(self._tell_every / self._pace)), MAX_STEPS_IN_FLIGHT)

    def _launch(self) -> _Launched | None:
        plan = self._scheduler.schedule()
        if not plan.chunks:
            return None
        if self._ahead is None:
            return _Launched(plan, _Done(self._runner.execute(plan.chunks)))
        return _Launched(plan, self._ahead.launch(plan.chunks))

    def _read(self, count: int) -> None:
        due = [self._launched.popleft() for _ in range(count)]
        # The last one first: this thread takes a core from the step behind it only once.
        sampled = [launched.step.result() for launched in reversed(due)]
        now = time.monotonic()
        seconds = (now - self._last_progress) / count
        if not any(launched.prefills for launched in due):
            self._pace = seconds
        is_urgent = False
        for launched, tokens in zip(due, reversed(sampled), strict=True):
            is_urgent |= self._take(launched.plan, tokens, seconds)
        with self._wake:
            self._last_progress = now
        # Without a step behind these, nobody knows how long the next one takes.
        waits = not self._launched or self._launched[-1].prefills
        if waits or is_urgent or now - self._told >= self._interval():
            self._tell(now)

    def _interval(self) -> float:
        shared = _STREAM_EVERY * len(self._scheduler.running)
        return max(self._tell_every, min(shared, _ALL_EVERY))

    def _take(self, plan: StepPlan, sampled: list[SampledToken], seconds: float) -> bool:
        """The outcome of a step; whether somebody waits for an answer to begin, or to end."""
        progress = self._scheduler.complete(plan, [token.id for token in sampled])
        outputs = [_output(p, sampled[p.row]) for p in progress]
        self._counters.step(plan, outputs, seconds)
        with self._wake:
            self._living.difference_update(o.request_id for o in outputs if o.finished)
        self._untold += outputs
        return any(p.finished or p.is_first for p in progress)

    def _tell(self, now: float) -> None:
        self._stats = self._counters.snapshot(self._scheduler)
        outputs, self._untold, self._told = tuple(self._untold), [], now
        self._deliver(StepOutput(outputs, self._stats))


@dataclass(frozen=True, slots=True)
class _Done:
    """A step of a device that returns when it is done."""

    sampled: list[SampledToken]

    def result(self) -> list[SampledToken]:
        return self.sampled


def _output(progress: NewToken, token: SampledToken) -> RequestOutput:
    return RequestOutput(
        request_id=progress.sequence.request.request_id,
        ids=(token.id,),
        logprobs=() if token.logprobs is None else (token.logprobs,),
        cached_tokens=progress.sequence.num_cached_tokens or 0,
        finished=progress.finished,
    )
