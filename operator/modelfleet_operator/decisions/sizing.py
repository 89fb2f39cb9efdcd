"""How much memory a worker of a model will take, guessed from its name before anything is there."""

from __future__ import annotations

import math
import re

GIB = 1 << 30
_STEP = GIB // 4  # guesses are rounded up to it
_PROCESS = GIB  # Python, torch, the tokenizer, and what steps are computed in
_CACHE = GIB  # of the KV cache, unless its size is given: pages are taken when first written
_UNKNOWN = GIB  # weights of a model whose name does not tell
_BESIDE = 1.05  # weights and what grows with them

# 8B, 1.1b, 135M, 8x7B; not the 3.1 of llama-3.1, nor the A3B of 30B-A3B (those active at once).
_COUNT = re.compile(
    r"(?<![A-Za-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([BM])(?![A-Za-z0-9])", re.IGNORECASE
)
_LEAST = 10e6  # less is a length: the 1M of -instruct-1M
_BITS = (
    (4, re.compile(r"(?<![a-z0-9])(awq|gptq|int4|4-?bit|w4a16|nf4|q4)(?![a-z0-9])")),
    (8, re.compile(r"(?<![a-z0-9])(int8|8-?bit|w8a8|w8a16|fp8)(?![a-z0-9])")),
)
BYTES_PER_WEIGHT = {4: 0.6, 8: 1.1, 16: 2.0, 32: 4.0}  # by bits; with scales and a wider head


def worker_memory(name: str, *, bits: int | None, kv_cache: int | None) -> int:
    """Bytes that one worker takes once it is loaded and busy; a guess, rounded up.

    `name` is what the model is called where it comes from (a path: its last part that tells);
    `bits` are those of a weight in memory, None: as the name says, else 16; `kv_cache` is in bytes,
    None: not given.

    owner/Llama-3.1-8B-Instruct -> 17.75 GiB, owner/SmolLM2-135M -> 2.5 GiB, owner/mine -> 3.25 GiB.
    """
    return worker_bytes(name, bits=bits, kv_cache=kv_cache)[0]


def worker_bytes(
    name: str, *, bits: int | None, kv_cache: int | None, weights: int | None = None
) -> tuple[int, int]:
    """The same, and those of it that are weights; `weights`: where they are known better."""
    if weights is None:
        count = parameters_in(name)
        weights = int(count * BYTES_PER_WEIGHT[bits or bits_in(name)]) if count else _UNKNOWN
    cache = _CACHE if kv_cache is None else kv_cache
    return math.ceil((_PROCESS + _BESIDE * weights + cache) / _STEP) * _STEP, weights


def parameters_in(name: str) -> float:
    """How many parameters a model of this name has; 0: the name does not tell."""
    for part in reversed(name.split("/")):
        counts = [
            int(times or 1) * float(number) * (1e9 if unit in "bB" else 1e6)
            for times, number, unit in _COUNT.findall(part)
        ]
        if told := max((count for count in counts if count >= _LEAST), default=0.0):
            return told
    return 0.0


def bits_in(name: str) -> int:
    """Of a stored weight, by the words that quantized checkpoints have in their names."""
    return next((bits for bits, words in _BITS if words.search(name.lower())), 16)
