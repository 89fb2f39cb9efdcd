"""The encoder's loop in its own thread: batches of what waits, of all calls in turn.

A call with many inputs is computed beside others, not before them: each batch takes one input of
each call that waits, then the next of each, until it is full.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from .messages import EngineFailure, EngineStats

log = structlog.get_logger(__name__)

_SMOOTHING = 0.1  # weight of the latest step in the mean time of one
_NOTHING = EngineStats(
    **dict.fromkeys(
        (
            *("running", "waiting", "kv_blocks", "kv_blocks_used", "kv_blocks_cached", "steps"),
            *("prompt_tokens", "completion_tokens", "cached_tokens", "preemptions"),
            *("finished", "aborted"),
        ),
        0,
    ),
    step_seconds=0.0,
)

Ids = Sequence[int]
Vector = bytes  # float32, little-endian


class Encoder(ABC):
    """A device with a model that makes one vector of each sequence of token ids."""

    @abstractmethod
    def encode(self, sequences: Sequence[Ids]) -> list[Vector]:
        """Computes all of them; called from one thread at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderLimits:
    """What a call may ask for."""

    context_length: int  # tokens of one input
    vocab_size: int
    max_sequences: int  # calls at once
    dimensions: int  # numbers of a vector


class Job:
    """The inputs of one call. `done` is called once, from the engine's thread."""

    def __init__(self, inputs: Sequence[Ids], done: Callable[[list[Vector]], None]) -> None:
        self.inputs = inputs
        self.done = done
        self.is_wanted = True  # False: its caller has left
        self.vectors: list[Vector] = [b""] * len(inputs)
        self.taken = 0  # inputs that are in a batch, or were
        self.left = len(inputs)  # inputs without a vector


def next_batch(waiting: deque[Job], budget: int) -> list[tuple[Job, int]]:
    """One input of each job in turn until `budget` tokens are taken; at least one.

    What is whole in a batch leaves the line, and so does what nobody wants any more.
    """
    batch: list[tuple[Job, int]] = []
    tokens = 0
    while waiting:
        job = waiting[0]
        if not job.is_wanted:
            waiting.popleft()
            continue
        tokens += len(job.inputs[job.taken])
        if batch and tokens > budget:
            return batch
        waiting.popleft()
        batch.append((job, job.taken))
        job.taken += 1
        if job.taken < len(job.inputs):
            waiting.append(job)
    return batch


class EmbeddingEngine:
    """Feeds one encoder; knows neither gRPC nor asyncio.

    `fail` is called once, from the engine's thread, if the loop ends with an error.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        limits: EncoderLimits,
        max_batch_tokens: int,
        fail: Callable[[EngineFailure], None],
    ) -> None:
        self.limits = limits
        self._encoder = encoder
        self._budget = max_batch_tokens
        self._fail = fail
        self._changed = threading.Condition()
        # Under the condition: what both sides change.
        self._waiting: deque[Job] = deque()
        self._living: set[Job] = set()
        self._failure: EngineFailure | None = None
        self._stopping = False
        self._last_progress = time.monotonic()
        self._stats = _NOTHING
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after the batch that runs, and joins it. What was unfinished stays so."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job) -> None:
        """From any thread, without blocking. After a failure, it is delivered once more."""
        with self._changed:
            failure = self._failure
            if failure is None:
                if not self._living:
                    self._last_progress = time.monotonic()
                self._living.add(job)
                self._waiting.append(job)
                self._changed.notify()
        if failure is not None:
            self._fail(failure)

    def drop(self, job: Job) -> None:
        """Its caller has left: what is not computed yet never is."""
        with self._changed:
            job.is_wanted = False
            self._living.discard(job)

    @property
    def stats(self) -> EngineStats:
        """As of the last batch."""
        return self._stats

    def stalled(self, now: float, *, after: float = 60.0) -> str | None:
        """Why the engine counts as stalled at `now` (time.monotonic() seconds); None: it is not."""
        with self._changed:
            if self._failure is not None:
                return f"engine failed: {self._failure.error}"
            silent = now - self._last_progress
            if not self._living or silent < after:
                return None
            return (
                f"engine stalled: {len(self._living)} calls, but no batch finished for"
                f" {silent:.0f} s (after batch {self._stats.steps})"
            )

    def _run(self) -> None:
        try:
            while (batch := self._take()) is not None:
                self._compute(batch)
        except Exception as error:  # the boundary of the thread: the only place to report it
            log.exception("engine failed")
            failure = EngineFailure(f"{type(error).__name__}: {error}")
            with self._changed:
                self._failure = failure
            self._fail(failure)

    def _take(self) -> list[tuple[Job, int]] | None:
        """Waits until there is work. None: stop."""
        with self._changed:
            while True:
                if self._stopping:
                    return None
                batch = next_batch(self._waiting, self._budget)
                self._stats = replace(
                    self._stats,
                    running=len({job for job, _ in batch}),
                    waiting=len(self._waiting),
                )
                if batch:
                    return batch
                self._changed.wait()

    def _compute(self, batch: list[tuple[Job, int]]) -> None:
        began = time.monotonic()
        sequences = [job.inputs[index] for job, index in batch]
        vectors = self._encoder.encode(sequences)
        now = time.monotonic()
        ended: list[Job] = []
        with self._changed:
            self._last_progress = now
            for (job, index), vector in zip(batch, vectors, strict=True):
                job.vectors[index] = vector
                job.left -= 1
                if not job.left:
                    ended.append(job)
            self._living.difference_update(ended)
            self._count(sequences, now - began, len(ended))
        for job in ended:
            if job.is_wanted:
                job.done(job.vectors)

    def _count(self, sequences: Sequence[Ids], seconds: float, ended: int) -> None:
        stats, lengths = self._stats, list(map(len, sequences))
        before = stats.step_seconds
        self._stats = replace(
            stats,
            steps=stats.steps + 1,
            step_seconds=before + _SMOOTHING * (seconds - before) if stats.steps else seconds,
            busy_seconds=stats.busy_seconds + seconds,
            prompt_tokens=stats.prompt_tokens + sum(lengths),
            prompt_squares=stats.prompt_squares + sum(n * n for n in lengths),
            finished=stats.finished + ended,
        )
