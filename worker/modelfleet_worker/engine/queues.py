"""Both ways between the engine's thread and its caller: commands in, tokens out in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

from .device import SampledToken
from .messages import (
    Add,
    Command,
    EngineFailure,
    EngineStats,
    RequestOutput,
    RequestStart,
    StepOutput,
)
from .request import Sequence
from .scheduler import NewToken, Scheduler, StepPlan

# A delivery takes some 0.15 ms of CPU time, here and where it is read: for 16 streams every 20 ms,
# 6 % of two cores. So with many streams deliveries are rarer.
_SECONDS_PER_STREAM = 0.003
_MAX_INTERVAL = 0.05  # seconds; a longer one is noticed


class Inbox:
    """Commands from any thread, and the names of the requests that have not ended."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Under the condition: what both sides change.
        self._commands: deque[Command] = deque()
        self._living: set[str] = set()
        self._failure: EngineFailure | None = None
        self._stopping = False
        self.last_progress = time.monotonic()  # when a step ended, or work came to an idle engine

    def put(self, command: Command) -> EngineFailure | None:
        """Passes a command on; returns the failure instead if the engine has failed.

        Raises ValueError for a request whose name lives.
        """
        with self._changed:
            if self._failure is not None:
                return self._failure
            if isinstance(command, Add):
                name = command.request.request_id
                if name in self._living:
                    raise ValueError(f"a request named {name!r} is being served already")
                if not self._living:
                    self.last_progress = time.monotonic()
                self._living.add(name)
            self._commands.append(command)
            self._changed.notify()
        return None

    def stop(self) -> None:
        """Makes `take` return None."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def fail(self, failure: EngineFailure) -> None:
        """Takes no more commands."""
        with self._changed:
            self._failure = failure

    @property
    def is_empty(self) -> bool:
        """Whether `take` would wait."""
        return not (self._commands or self._stopping)

    def take(self, *, wait: bool) -> tuple[Command, ...] | None:
        """The commands since the last call; with `wait`, at least one. None: stop."""
        with self._changed:
            while wait and self.is_empty:
                self._changed.wait()
            commands = tuple(self._commands)
            self._commands.clear()
            return None if self._stopping else commands

    def end(self, names: Iterable[str], now: float | None = None) -> None:
        """These requests have ended, by a step that was read at `now` or by an abort."""
        with self._changed:
            self._living.difference_update(names)
            if now is not None:
                self.last_progress = now

    def describe_stall(self, now: float, after: float, steps: int) -> str | None:
        """Why the engine is stuck at `now` (monotonic seconds); None: it is not.

        It has failed, or there are requests and no step has ended for `after` seconds.
        """
        with self._changed:
            if self._failure is not None:
                return f"engine failed: {self._failure.error}"
            silent = now - self.last_progress
            if not self._living or silent < after:
                return None
            return (
                f"engine stalled: {len(self._living)} requests, but no step finished"
                f" for {silent:.0f} s (after step {steps})"
            )


def delivery_interval(num_streams: int, shortest: float = 0.02) -> float:
    """Seconds between two deliveries of tokens.

    Delivering each token separately costs more CPU than computing it. So tokens are delivered
    every 20 ms; with more streams, every 3 ms times their number and at most 50 ms:
    1 stream -> 20 ms, 10 streams -> 30 ms, 64 streams -> 50 ms.
    """
    return max(shortest, min(_SECONDS_PER_STREAM * num_streams, _MAX_INTERVAL))


@dataclass(slots=True)
class EngineCounters:
    """Counts from the engine's start; `step_seconds` is a moving average over about 16 steps."""

    steps: int = 0
    step_seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    aborted: int = 0
    busy_seconds: float = 0.0
    prompt_squares: float = 0.0

    def count_step(self, plan: StepPlan, new_tokens: Items[NewToken], seconds: float) -> None:
        """Counts one step; a prompt and its cache hits count when its first token is out."""
        self.steps += 1
        self.step_seconds += (seconds - self.step_seconds) / min(self.steps, 16)
        self.busy_seconds += seconds
        self.preemptions += len(plan.preempted)
        self.completion_tokens += len(new_tokens)
        for new in new_tokens:
            self.finished += new.finished is not None
            if new.is_first:
                prompt = len(new.sequence.request.prompt_ids)
                cached = new.sequence.num_cached_tokens or 0
                self.prompt_tokens += prompt
                self.cached_tokens += cached
                self.prompt_squares += (prompt - cached) ** 2

    def snapshot(self, scheduler: Scheduler) -> EngineStats:
        """The counters beside what the scheduler holds now."""
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_blocks=scheduler.blocks.num_blocks,
            kv_blocks_used=scheduler.blocks.used,
            kv_blocks_cached=scheduler.blocks.cached,
            steps=self.steps,
            step_seconds=self.step_seconds,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            preemptions=self.preemptions,
            busy_seconds=self.busy_seconds,
            prompt_squares=self.prompt_squares,
            finished=self.finished,
            aborted=self.aborted,
        )


class Outbox:
    """Outputs that were read and not delivered yet. Used from the engine's thread only."""

    def __init__(
        self, deliver: Callable[[StepOutput | EngineFailure], None], deliver_every: float
    ) -> None:
        """`deliver_every`: the shortest interval, in seconds."""
        self.deliver = deliver
        self._deliver_every = deliver_every
        self._outputs: list[RequestOutput] = []
        self._started: list[Sequence] = []  # whose first token is among them
        self._last_delivery = 0.0  # monotonic

    def add(self, new_tokens: Items[NewToken], sampled: Items[SampledToken]) -> None:
        """The tokens that a step has sampled, for the next delivery."""
        for new in new_tokens:
            token = sampled[new.row]
            if new.is_first:
                self._started.append(new.sequence)
            self._outputs.append(
                RequestOutput(
                    request_id=new.sequence.request.request_id,
                    ids=(token.id,),
                    logprobs=() if token.logprobs is None else (token.logprobs,),
                    cached_tokens=new.sequence.num_cached_tokens or 0,
                    finished=new.finished,
                )
            )

    def fail(self, request_id: str, failure: str) -> None:
        """The request's last output: it ends without a token."""
        self._outputs.append(RequestOutput(request_id=request_id, ids=(), failure=failure))

    @property
    def has_failure(self) -> bool:
        """Whether a request has ended without a last token."""
        return any(output.failure for output in self._outputs)

    def drop(self, request_id: str) -> None:
        """Nothing more is delivered for a request that was aborted."""
        self._outputs = [o for o in self._outputs if o.request_id != request_id]

    def is_due(self, now: float, num_streams: int) -> bool:
        """Whether the last delivery was long enough ago."""
        return now - self._last_delivery >= delivery_interval(num_streams, self._deliver_every)

    def flush(self, now: float, stats: EngineStats) -> None:
        """Delivers all."""
        outputs, self._outputs, self._last_delivery = tuple(self._outputs), [], now
        starts: tuple[RequestStart, ...] = ()
        if self._started:
            starts = tuple(_start(sequence, now) for sequence in self._started)
            self._started = []
        self.deliver(StepOutput(outputs, stats, starts))


def _start(sequence: Sequence, now: float) -> RequestStart:
    return RequestStart(
        request_id=sequence.request.request_id,
        admitted_at=sequence.admitted_at,
        first_token_at=now,  # it is delivered at once
        prefill_steps=max(1, sequence.num_prefill_steps),  # a decode does where one token is left
        cached_tokens=sequence.num_cached_tokens or 0,
    )
