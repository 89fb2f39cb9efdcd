"""What the engine asks of a device: one call a step. Nothing here imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .messages import TokenLogprobs
from .request import ContextVariants, EngineLimits
from .scheduler import Chunk

MAX_STEPS_IN_FLIGHT = 4  # unread steps behind which a device may get one more


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token drawn after the last one of a chunk."""

    id: int
    logprobs: TokenLogprobs | None = None  # if the request asked for them


class LaunchedStep(Protocol):
    """A step that the device computes, or has computed."""

    def supply_masks(self) -> None:
        """Says what constrained chunks may sample: once all of their tokens are known.

        Needed before `result` if there are such chunks; not the second time.
        """
        ...

    def result(self) -> list[SampledToken]:
        """Waits for it: one token for each chunk that samples, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """What `launch` returns on a device that computes before it returns."""

    sampled: list[SampledToken]

    def supply_masks(self) -> None:
        """They were known."""

    def result(self) -> list[SampledToken]:
        """The tokens."""
        return self.sampled


class Runner(ABC):
    """A device with a model and a paged KV cache of `num_blocks` blocks of BLOCK_SIZE tokens."""

    num_blocks: int
    # How many steps may be in flight when one more is launched. Where it is not 0, the last token
    # of a chunk may be pending: the step before samples it, and it is not read back yet.
    max_steps_in_flight: int = 0
    variants: ContextVariants | None = None  # only of a device that has no steps in flight

    @abstractmethod
    def launch(self, chunks: Sequence[Chunk]) -> LaunchedStep:
        """Computes the chunks after those of the steps in flight.

        Of these there may be only one if the sampling of a request in any of them needs history.
        The masks of constrained chunks come later, with `LaunchedStep.supply_masks`, where tokens
        may be pending.
        """

    def execute(self, chunks: Sequence[Chunk]) -> list[SampledToken]:
        """One step, launched and read."""
        step = self.launch(chunks)
        step.supply_masks()
        return step.result()

    def prepare(self, used: int) -> bool:
        """Idle-time work: some milliseconds of what steps beyond `used` blocks would do first.

        False: nothing is left to do for the next ones.
        """
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """How a model is computed, as in worker.proto."""

    path: str  # compiled, torch, transformers, paced
    dtype: str  # of activations
    threads: int
    instruction_set: str = ""  # of the compiled step
    arithmetic: str = ""  # equal requests have equal logits where this is equal; empty: no promise
    draws: str = ""  # equal logits have equal draws where this is equal; empty: greedy ones only


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """What a model takes, in bytes, as in worker.proto."""

    weights: int
    cache: int
    working: int  # at most, beside them
    available: int  # before the load


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model on a device, ready for an Engine."""

    runner: Runner
    limits: EngineLimits
    digest: str  # hex; of everything that decides the logits: weights, architecture, dtype
    weights_digest: str  # the same, but for the arithmetic
    eos_token_ids: frozenset[int]  # the model's own ends of sequence
    computation: Computation
    computed_by: str = ""  # the same for a person, with the share that is quantized
    memory: MemoryUse | None = None  # None: it takes none to speak of
