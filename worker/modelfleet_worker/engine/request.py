"""A request: how it is sampled, whether it can fit, and how far it has come in the engine."""

from __future__ import annotations

import enum
import hashlib
from array import array
from dataclasses import dataclass, field

from .constraint import Constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn; randomness is a function of (seed, choice, position)."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0
    min_p: float = 0.0  # 0 is off
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added), each id once
    repetition_penalty: float = 1.0  # 1 is off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0  # 64 bits, unsigned
    choice: int = 0
    logprobs: int | None = None  # alternatives reported for each token; None: no logprobs at all

    @property
    def shifts_logits(self) -> bool:
        """Whether a bias or a penalty applies; it does to greedy requests, too."""
        return self.penalizes or bool(self.logit_bias)

    @property
    def needs_history(self) -> bool:
        """Whether a step needs more of the steps before it than the last token's id."""
        return self.penalizes or self.logprobs is not None

    @property
    def penalizes(self) -> bool:
        """Whether earlier tokens of the sequence change the logits."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One choice to generate. Limits and stops count from the first token ever."""

    request_id: str  # unique in this engine while the request lives
    prompt_ids: tuple[int, ...]
    resumed_ids: tuple[int, ...] = ()  # generated elsewhere already; never reported again
    sampling: SamplingParams = SamplingParams()
    max_tokens: int  # resumed ones included; at least len(resumed_ids) + 1
    stop_token_ids: frozenset[int] = frozenset()  # with the end-of-sequence ids, if obeyed
    constraint: Constraint | None = None  # it has taken the resumed ids; None: any token may come
    cache_salt: bytes = b""  # blocks are shared only by requests that have the same


class FinishReason(enum.Enum):
    """Why a request ended in the engine. Stop strings are found outside, and abort it."""

    STOP = "stop"  # a stop token, which is the last id reported, or its constraint is complete
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """The largest requests that an engine can serve, given its model and its KV cache."""

    context_length: int  # tokens, prompt and answer together
    kv_tokens: int  # tokens that the whole cache holds
    max_sequences: int  # requests in one batch
    vocab_size: int

    def check_fits(self, prompt_tokens: int, max_tokens: int) -> str | None:
        """Why a prompt and an answer of these sizes (tokens) can never be served; None: they can.

        (90, 20) in a context of 100 -> "90 prompt tokens and 20 to generate are 110, but the
        context holds 100".
        """
        if prompt_tokens < 1:
            return "the prompt is empty: at least one token is needed"
        if max_tokens < 1:
            return f"max_tokens is {max_tokens}: at least 1 is needed"
        total = prompt_tokens + max_tokens
        asked = f"{prompt_tokens} prompt tokens and {max_tokens} to generate are {total}"
        if total > self.context_length:
            return f"{asked}, but the context holds {self.context_length}"
        if total > self.kv_tokens:
            return f"{asked}, but the whole KV cache holds {self.kv_tokens}"
        return None

    def check_request(self, request: Request) -> str | None:
        """Why the engine must not take this request; None: it may."""
        ids = (*request.prompt_ids, *request.resumed_ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            bad = next(id_ for id_ in ids if not 0 <= id_ < self.vocab_size)
            return f"token id {bad} is not in the vocabulary (0 to {self.vocab_size - 1})"
        if len(request.resumed_ids) >= request.max_tokens:
            return (
                f"{len(request.resumed_ids)} resumed tokens leave nothing to generate"
                f" of max_tokens {request.max_tokens}"
            )
        return self.check_fits(len(request.prompt_ids), request.max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextVariants:
    """How keys depend on the length of their sequence, of models with dynamic rope or longrope.

    As transformers computes one request alone: a prompt's tokens by its whole length, later ones by
    their own place; with `recomputes` all of them anew when the original context is exceeded.
    """

    original_context: int  # tokens; within it there is one variant
    by_length: bool  # a variant for each length; else one for all that are longer
    recomputes: bool = False

    def variant_of(self, sequence: Sequence) -> int:
        """0: as within the original context. Sequences of different variants share no blocks."""
        prompt = len(sequence.request.prompt_ids)
        tokens = len(sequence.token_ids) if self.recomputes else prompt
        if tokens <= self.original_context:
            return 0
        return tokens if self.by_length else 1

    def reaches(self, sequence: Sequence, start: int, end: int) -> list[int]:
        """The length by which each of the tokens `start` to `end` is computed."""
        if self.recomputes:
            return [len(sequence.token_ids)] * (end - start)
        prompt = len(sequence.request.prompt_ids)
        return [max(prompt, position + 1) for position in range(start, end)]


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """A request while it lives in the engine: its tokens, and how many the cache holds."""

    request: Request
    token_ids: list[int] = field(init=False)  # prompt, resumed and generated
    needs_history: bool = field(init=False)  # see SamplingParams; a constraint does, too
    num_pending: int = 0  # tokens behind `token_ids` that steps in flight sample
    num_computed: int = 0  # by steps that were launched
    block_table: list[int] = field(default_factory=list)
    block_epoch: int = 0  # grows when it gives up its blocks: what was computed in them is void
    variant: int = 0  # see ContextVariants
    num_cached_tokens: int | None = None  # prompt tokens found in the cache when first admitted
    admitted_at: float = 0.0  # monotonic seconds; 0: not yet
    num_prefill_steps: int = 0
    _block_hashes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token_ids = [*self.request.prompt_ids, *self.request.resumed_ids]
        is_constrained = self.request.constraint is not None
        self.needs_history = is_constrained or self.request.sampling.needs_history

    @property
    def num_output_tokens(self) -> int:
        """Tokens of the answer so far, resumed ones included."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    @property
    def num_tokens(self) -> int:
        """All tokens, the pending ones included."""
        return len(self.token_ids) + self.num_pending

    @property
    def num_uncomputed(self) -> int:
        """Tokens that no step computes yet: 1 while decoding, more while prefilling.

        The last token of an answer is never computed: nothing follows it.
        """
        computable = len(self.request.prompt_ids) + self.request.max_tokens - 1
        return min(self.num_tokens, computable) - self.num_computed

    def append(self, token_id: int) -> FinishReason | None:
        """Takes a sampled token; says why the request ends with it, or None."""
        self.num_pending = max(0, self.num_pending - 1)
        self.token_ids.append(token_id)
        if token_id in self.request.stop_token_ids:
            return FinishReason.STOP
        constraint = self.request.constraint
        if constraint is not None and constraint.accept(token_id):
            return FinishReason.STOP
        return FinishReason.LENGTH if self.num_output_tokens >= self.request.max_tokens else None

    def take_variant(self, variant: int) -> None:
        """What was computed for another one is of no use: it must hold no blocks."""
        if variant != self.variant:
            self.variant = variant
            self._block_hashes.clear()

    @property
    def _salt(self) -> bytes:
        variant = self.variant.to_bytes(8, "little") if self.variant else b""
        return variant + self.request.cache_salt

    def block_hashes(self, count: int, block_size: int) -> list[bytes]:
        """The hashes of the first `count` full blocks, each of its tokens and the hash before it.

        SHA-256, since prompts come from untrusted clients: with a crafted collision one client's
        request would be answered with another's context.
        """
        while len(self._block_hashes) < count:
            start = len(self._block_hashes) * block_size
            block = array("I", self.token_ids[start : start + block_size])
            parent = self._block_hashes[-1] if self._block_hashes else self._salt
            self._block_hashes.append(hashlib.sha256(parent + block.tobytes()).digest())
        return self._block_hashes[:count]
