"""How much memory a model needs: guessed by its name, read from its config, or as workers say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .sizing import BYTES_PER_WEIGHT, bits_in, worker_bytes

BY_NAME, BY_CONFIG, REPORTED = "by its name", "by its config.json", "as a worker reports"
_TYPE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """What one worker says of its load, in bytes."""

    weights: int
    cache: int  # of keys and values
    working: int  # at most, beside them
    available: int  # that the device had when it looked

    @property
    def total(self) -> int:
        """All that it needs."""
        return self.weights + self.cache + self.working

    @property
    def fits(self) -> bool:
        """Whether there was enough; unknown is enough."""
        return not self.available or self.total <= self.available


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeeds:
    """What a worker of a model takes, in bytes; 0: nothing is known of it."""

    total: int = 0
    weights: int = 0
    basis: str = BY_NAME


def needs_by_name(name: str, *, bits: int | None, kv_cache: int | None) -> ModelNeeds:
    """See sizing.worker_memory. owner/Llama-3.1-8B-Instruct -> 17.75 GiB, 16 GB of it weights."""
    total, weights = worker_bytes(name, bits=bits, kv_cache=kv_cache)
    return ModelNeeds(total=total, weights=weights, basis=BY_NAME)


def needs_by_config(
    config: Mapping[str, Any], name: str, *, bits: int | None, kv_cache: int | None
) -> ModelNeeds | None:
    """By a checkpoint's config.json; None where it is none of a decoder that is counted here.

    `bits` are those of a weight in memory; None: as the checkpoint has them. hidden_size 4096, 32
    layers, intermediate_size 14336, 8 of 32 KV heads, vocabulary 128256 -> 8.03e9 parameters.
    """
    parameters = count_parameters(config)
    if not parameters:
        return None
    stored = bits or _stored_bits(config) or bits_in(name)
    width = next((known for known in sorted(BYTES_PER_WEIGHT) if known >= stored), 32)
    weights = int(parameters * BYTES_PER_WEIGHT[width])
    total, _ = worker_bytes(name, bits=bits, kv_cache=kv_cache, weights=weights)
    return ModelNeeds(total=total, weights=weights, basis=BY_CONFIG)


def count_parameters(config: Mapping[str, Any]) -> int:
    """Of a decoder with gated networks, dense or with experts; 0: the config does not tell."""
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) and "hidden_size" in inner else config
    hidden, layers = _count(config, "hidden_size"), _count(config, "num_hidden_layers")
    heads, vocab = _count(config, "num_attention_heads"), _count(config, "vocab_size")
    if not (hidden and layers and heads and vocab):
        return 0
    kv_heads = _count(config, "num_key_value_heads") or heads
    head = _count(config, "head_dim") or hidden // heads
    experts = _count(config, "num_local_experts") or _count(config, "num_experts")
    inner_size = (experts and _count(config, "moe_intermediate_size")) or _count(
        config, "intermediate_size"
    )
    if not inner_size:
        return 0
    attention = 2 * hidden * head * (heads + kv_heads)
    network = 3 * hidden * inner_size * max(experts, 1) + hidden * experts
    tables = 1 if config.get("tie_word_embeddings") else 2
    return layers * (attention + network) + tables * vocab * hidden


def _stored_bits(config: Mapping[str, Any]) -> int:
    """0: the config does not say."""
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict):
        bits = _count(quantized, "bits") or _count(quantized, "w_bit")
        if bits:
            return bits
        groups = quantized.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) else ():
            weights = group.get("weights") if isinstance(group, dict) else None
            if isinstance(weights, dict) and _count(weights, "num_bits"):
                return _count(weights, "num_bits")
        return 8 if quantized.get("quant_method") == "fp8" else 0
    stored = config.get("dtype") or config.get("torch_dtype")
    return _TYPE_BITS.get(stored, 0) if isinstance(stored, str) else 0


def _count(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
