"""What a model may take: type of its numbers, context, memory of weights and cache."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..devices.host import available_memory
from ..engine.device import Computation, Runner
from ..engine.scheduler import BLOCK_SIZE
from ..errors import ModelError, TooLargeError
from ..models.config import read_json
from ..models.float_type import FloatType
from ..quantization.scheme import Quantization, Weights
from .checkpoint import Checkpoint
from .working_memory import Widths

_DTYPES = {
    "Float32": FloatType.FLOAT32,
    "BFloat16": FloatType.BFLOAT16,
    "Float16": FloatType.FLOAT16,
}
# Unless the size is given: a share of what is available, and no more than several workers that
# look at the same free memory of one machine can all take.
_CACHE_SHARE, _CACHE_MOST = 0.25, 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeights:
    """A model that only lacks its cache."""

    runner: Callable[[int], Runner]  # from the number of blocks
    token_bytes: int  # of the cache
    weight_bytes: int = 0
    widths: Widths
    digest: str
    weights_digest: str  # but for the arithmetic
    computation: Computation
    computed_by: str  # for a person


def read_dtype(asked: str, folder: Path) -> FloatType:
    """The type asked for; Auto: config.json's, else the first tensor's. Raises ModelError."""
    if asked in _DTYPES:
        return _DTYPES[asked]
    if asked != "Auto":
        raise ModelError(f"unknown dtype {asked!r}: Auto, {', '.join(_DTYPES)} are known")
    raw = read_json(folder / "config.json")
    stored = raw.get("dtype") or raw.get("torch_dtype")
    if stored is None:
        return Checkpoint(folder).dtype()
    if not isinstance(stored, str) or stored not in set(FloatType):
        raise ModelError(f"config.json: dtype is {stored!r}; {', '.join(FloatType)} are supported")
    return FloatType(stored)


def describe_path(
    path: str, dtype: FloatType, quantization: Quantization, quantized_share: float
) -> str:
    """What computes a model, for a person: in the log and in the deployment's status."""
    text = f"{path}, {dtype}"
    if quantization.weights is Weights.NONE and not quantization.overrides:
        return text
    return f"{text}, {quantized_share:.0%} of the weights beside embeddings and head quantized"


def context_within(most: int, asked: int | None) -> int:
    """Tokens: those asked for, else the model's own. Raises ModelError."""
    if asked is None:
        return most
    if not 2 <= asked <= most:
        raise ModelError(f"contextLength is {asked}; this model's context goes from 2 to {most}")
    return asked


def refuse_weights_beyond_memory(needed: int) -> None:
    """Raises ModelError: better than to be killed half-way."""
    if needed > (room := available_memory()):
        raise TooLargeError(
            f"the weights need {_gib(needed)}, but {_gib(room)} of memory are available",
            needed=needed,
            available=room,
        )


def cache_blocks(
    token_bytes: int, asked: int | None, useful_tokens: int, working: Callable[[int], int]
) -> int:
    """Blocks of the cache: what was asked for, else a modest share, never more than useful.

    `working` says what a worker with so many blocks takes beside them; that has to fit, too.
    """
    block_bytes = token_bytes * BLOCK_SIZE
    room = available_memory()
    if asked is not None and asked > room:
        raise TooLargeError(
            f"the KV cache should have {_gib(asked)}, but {_gib(room)} are available",
            needed=asked,
            available=room,
        )
    given = min(int(room * _CACHE_SHARE), _CACHE_MOST) if asked is None else asked
    blocks = given // block_bytes
    if blocks < 1:
        raise ModelError(
            f"the KV cache has room for no block: one of {BLOCK_SIZE} tokens takes {block_bytes}"
            f" bytes, {given} are given"
        )
    blocks = min(blocks, -(-useful_tokens // BLOCK_SIZE))

    def fits(blocks: int) -> bool:
        return blocks * block_bytes + working(blocks) <= room

    if asked is None and not fits(blocks) and fits(1):
        blocks = bisect.bisect_left(range(1, blocks), True, key=lambda n: not fits(n))
    if not fits(blocks):
        cache, beside = blocks * block_bytes, working(blocks)
        raise TooLargeError(
            f"a KV cache of {_gib(cache)} and up to {_gib(beside)} to compute with are"
            f" {_gib(cache + beside)}, but {_gib(room)} of memory are available: lower"
            " kvCacheMemory, maxSequences, maxBatchTokens or contextLength, or give it more",
            needed=cache + beside,
            available=room,
        )
    return blocks


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size < 10 << 30 else f"{size / 2**30:.1f} GiB"
