"""The step loop in its own thread: take commands, launch steps, read the oldest, deliver."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from .block_manager import BlockManager
from .device import LaunchedStep, Runner, SampledToken
from .messages import Abort, Add, Command, EngineFailure, EngineStats, StepOutput
from .queues import EngineCounters, Inbox, Outbox
from .request import EngineLimits, Sequence
from .scheduler import BLOCK_SIZE, NewToken, Scheduler, StepPlan, steps_ahead

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _StepInFlight:
    """A step that was launched and not read yet."""

    plan: StepPlan
    launched: LaunchedStep


class Engine:
    """Feeds one runner from an inbox; knows neither gRPC nor asyncio.

    `deliver` is called from the engine's thread, and once more with an EngineFailure if the loop
    ends with an error. It must not block. `deliver_every` is the shortest time between two
    deliveries of decoded tokens, in seconds; a first token and a last one never wait for it.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        limits: EngineLimits,
        max_batch_tokens: int,
        prefix_caching: bool,
        deliver: Callable[[StepOutput | EngineFailure], None],
        deliver_every: float = 0.02,
    ) -> None:
        if max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens is {max_batch_tokens}: at least 1 is needed")
        if limits.kv_tokens > runner.num_blocks * BLOCK_SIZE:
            raise ValueError(f"{limits.kv_tokens} tokens do not fit {runner.num_blocks} blocks")
        self.limits = limits
        self._runner = runner
        self._deliver_every = deliver_every
        self._scheduler = Scheduler(
            BlockManager(runner.num_blocks, caching=prefix_caching),
            max_sequences=limits.max_sequences,
            max_batch_tokens=max_batch_tokens,
            variants=runner.variants,
        )
        self._inbox = Inbox()
        self._outbox = Outbox(deliver, deliver_every)
        self._in_flight: deque[_StepInFlight] = deque()
        self._decode_seconds = 0.0  # that a step without prefill took lately; 0: unknown
        self._counters = EngineCounters()
        self._stats = self._counters.snapshot(self._scheduler)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after the step that runs, and joins it. What was unfinished stays so."""
        self._inbox.stop()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, command: Command) -> None:
        """Passes a command to the loop, from any thread, without blocking.

        Raises ValueError for a request that can never be served (it would wait for ever) and for
        the name of one that lives. After a failure, the failure is delivered once more.
        """
        if isinstance(command, Add):
            reason = self.limits.check_request(command.request)
            if reason is not None:
                raise ValueError(reason)
        failure = self._inbox.put(command)
        if failure is not None:
            self._outbox.deliver(failure)

    @property
    def stats(self) -> EngineStats:
        """As of the last delivery."""
        return self._stats

    def stalled(self, now: float, *, after: float = 60.0) -> str | None:
        """Why the engine counts as stalled at `now` (time.monotonic() seconds); None: it is not."""
        return self._inbox.describe_stall(now, after, self._stats.steps)

    def _run(self) -> None:
        try:
            while self._take_commands():
                self._step()
        except Exception as error:  # the boundary of the thread: the only place to report it
            log.exception("engine failed")
            failure = EngineFailure(f"{type(error).__name__}: {error}")
            self._inbox.fail(failure)
            self._outbox.deliver(failure)
        finally:
            for step in self._in_flight:
                with suppress(Exception):  # the failure was delivered
                    step.launched.supply_masks()
                with suppress(Exception):
                    step.launched.result()  # it writes to memory that is about to be freed

    def _take_commands(self) -> bool:
        """Waits until there is work, with idle-time work meanwhile. False: stop."""
        is_idle = not (len(self._scheduler) or self._in_flight)
        blocks = self._scheduler.blocks
        while is_idle and self._inbox.is_empty:
            if not self._runner.prepare(blocks.used + blocks.cached):
                break
        commands = self._inbox.take(wait=is_idle)
        if commands is None:
            return False
        for command in commands:
            if isinstance(command, Abort):
                self._abort(command.request_id)
            else:
                self._scheduler.add(Sequence(command.request))
        return True

    def _abort(self, request_id: str) -> None:
        if self._scheduler.abort(request_id):
            self._counters.aborted += 1
            self._outbox.drop(request_id)
            self._inbox.end([request_id])

    def _step(self) -> None:
        """One turn of the loop."""
        # Launch: plans prefill and decode, and goes on while steps may run ahead.
        while self._may_launch() and (plan := self._scheduler.schedule()).chunks:
            if plan.admitted:
                _note_admission(plan.admitted, time.monotonic())
            self._in_flight.append(_StepInFlight(plan, self._runner.launch(plan.chunks)))
        if not self._in_flight:
            if len(self._scheduler):
                raise RuntimeError(f"nothing to compute, but {len(self._scheduler)} requests wait")
            self._deliver(time.monotonic())  # all were aborted
            return
        self._supply_masks()
        # Read: all but the last step, which the device computes meanwhile, or the only one.
        count = max(1, len(self._in_flight) - 1)
        steps = [self._in_flight.popleft() for _ in range(count)]
        # The last one first, so that this thread waits, and takes a core when it wakes, only once.
        sampled = [step.launched.result() for step in reversed(steps)]
        now = time.monotonic()
        seconds = (now - self._inbox.last_progress) / count
        if not any(step.plan.has_prefill for step in steps):
            self._decode_seconds = seconds
        new_tokens: list[NewToken] = []
        for step, tokens in zip(steps, reversed(sampled), strict=True):
            new_tokens += self._complete(step.plan, tokens, seconds)
        self._supply_masks()  # the next step may wait for them
        ended = [new.sequence.request.request_id for new in new_tokens if new.finished]
        self._inbox.end(ended, now)
        # Deliver: first and last tokens at once, others when it is time, or when what runs now
        # takes long: behind a prefill, or behind no step at all, the next chance may be far.
        urgent = any(new.finished or new.is_first for new in new_tokens) or self._outbox.has_failure
        is_last_chance = not self._in_flight or self._in_flight[-1].plan.has_prefill
        if is_last_chance or urgent or self._outbox.is_due(now, len(self._scheduler.running)):
            self._deliver(now)

    def _may_launch(self) -> bool:
        """Whether one more step is launched before the oldest is read.

        None behind a prefill: it takes long, and a request that comes meanwhile would wait for
        both. Only one ahead while requests wait for a slot, so that they get a free one at once.
        """
        if not self._in_flight:
            return True
        most = self._runner.max_steps_in_flight
        if not most or self._in_flight[-1].plan.has_prefill:
            return False
        if self._scheduler.waiting or any(s.needs_history for s in self._scheduler.running):
            most = 1
        return len(self._in_flight) <= steps_ahead(self._decode_seconds, self._deliver_every, most)

    def _complete(
        self, plan: StepPlan, tokens: list[SampledToken], seconds: float
    ) -> list[NewToken]:
        for chunk in plan.constrained:
            self._end_failed(chunk.sequence)
        new_tokens = self._scheduler.complete(plan, [token.id for token in tokens])
        self._counters.count_step(plan, new_tokens, seconds)
        self._outbox.add(new_tokens, tokens)
        return new_tokens

    def _supply_masks(self) -> None:
        """For each step whose constrained sequences' tokens are known."""
        for step in self._in_flight:
            constrained = step.plan.constrained
            if constrained and all(c.is_dropped or c.is_known for c in constrained):
                step.launched.supply_masks()

    def _end_failed(self, sequence: Sequence) -> None:
        """Ends a request whose constraint has failed: what was drawn without a mask is void."""
        constraint, request_id = sequence.request.constraint, sequence.request.request_id
        if constraint is None or not constraint.error:
            return
        if self._scheduler.abort(request_id):
            self._counters.aborted += 1
            self._outbox.fail(request_id, constraint.error)
            self._inbox.end([request_id])

    def _deliver(self, now: float) -> None:
        self._stats = self._counters.snapshot(self._scheduler)
        self._outbox.flush(now, self._stats)


def _note_admission(sequences: Iterable[Sequence], now: float) -> None:
    for sequence in sequences:
        if not sequence.admitted_at:  # else it was preempted meanwhile
            sequence.admitted_at = now
