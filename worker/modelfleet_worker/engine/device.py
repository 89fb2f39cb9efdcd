"""What the engine asks of a device: one call a step. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .messages import EngineLimits, TokenLogprobs
from .scheduler import Chunk


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token drawn after the last one of a chunk."""

    id: int
    logprobs: TokenLogprobs | None = None  # if the request asked for them


class Step(Protocol):
    """A step that was launched."""

    def result(self) -> list[SampledToken]:
        """Waits for it: one token for each chunk that samples, in their order."""
        ...


class Runner(Protocol):
    """A device with a model and a paged KV cache of `num_blocks` blocks of BLOCK_SIZE tokens."""

    @property
    def num_blocks(self) -> int:
        """Blocks of the KV cache."""
        ...

    def execute(self, chunks: Sequence[Chunk]) -> list[SampledToken]:
        """Computes the chunks; returns one token for each that samples, in their order."""
        ...


MAX_STEPS_IN_FLIGHT = 4  # steps launched and unread when one more is launched


@runtime_checkable
class AheadRunner(Runner, Protocol):
    """One that can be told the next step while it computes the last one.

    A chunk's last token may then be pending: it is the one that the last step draws for it.
    """

    def launch(self, chunks: Sequence[Chunk]) -> Step:
        """Computes the chunks after those of up to MAX_STEPS_IN_FLIGHT unread steps.

        Only one of these, if the sampling of a request in any of these looks back.
        """
        ...


@runtime_checkable
class PreparingRunner(Runner, Protocol):
    """One that uses the time in which nobody asks."""

    def prepare(self, used: int) -> bool:
        """Some milliseconds of what steps that use more than `used` blocks would have to do first.

        False: nothing is left to do for the next ones.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model on a device, ready for an Engine."""

    runner: Runner
    limits: EngineLimits
    digest: str  # hex; of everything that decides the logits: weights, architecture, dtype
    eos_token_ids: frozenset[int]  # the model's own ends of sequence
