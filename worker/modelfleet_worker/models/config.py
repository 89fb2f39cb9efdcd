"""What config.json says about a Llama-family model, checked. Imports no torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError

# What differs between the families, beside the numbers in their config.json.
_FAMILIES: Final = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}

# Far beyond any model there is, and far below where sizes overflow: whether so much fits is asked
# when the model's shape is known, but that must not take memory by itself.
_MOST_LAYERS = 1024
_WIDEST = 2**24
_LONGEST_CONTEXT = 2**30  # tokens
_LARGEST_JSON = 64 << 20  # bytes
_HUGE = 2.0**1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Rope frequencies stretched for long contexts, as Llama 3.1 does it."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def scaled(self, frequency: float) -> float:
        """A frequency (radians per token) after scaling."""
        turns = self.original_context * frequency / (2 * math.pi)
        if turns < self.low_freq_factor:
            return frequency / self.factor
        if turns > self.high_freq_factor:
            return frequency
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return (1 - smooth) * frequency / self.factor + smooth * frequency


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The shape of a model; two models of equal config and weights give equal logits."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    max_context: int  # tokens


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises ModelError."""
    try:
        if (size := path.stat().st_size) > _LARGEST_JSON:
            raise ModelError(f"{path} is {size} bytes of JSON: at most {_LARGEST_JSON} are read")
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: a Hugging Face model folder is expected") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__}, a JSON object is expected")
    return content


def read_config(folder: Path) -> LlamaConfig:
    """The config of the model in `folder`. Raises ModelError for what is not supported."""
    return parse_config(read_json(folder / "config.json"))


def parse_config(raw: dict[str, Any]) -> LlamaConfig:
    """A Llama-family config.json of transformers 4 or 5. Raises ModelError."""
    family = _family(raw)
    fields = _Fields(raw)
    fields.require("hidden_act", "silu")
    fields.require("partial_rotary_factor", 1.0)
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ModelError(f"config.json: {heads} attention heads cannot share {kv_heads} KV heads")
    head_dim = fields.integer("head_dim", hidden // heads)
    if head_dim % 2:
        raise ModelError(f"config.json: head_dim is {head_dim}: an even number is expected")
    if heads * head_dim > _WIDEST:
        raise ModelError(f"config.json: {heads} heads of {head_dim} are wider than {_WIDEST}")
    theta, scaling = _rope(raw)
    bias = fields.flag("attention_bias", default=False)
    return LlamaConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        layers=fields.integer("num_hidden_layers", most=_MOST_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_embeddings=fields.flag("tie_word_embeddings", default=False),
        qkv_bias=family == "qwen2" or bias,
        output_bias=family in ("llama", "qwen3") and bias,
        mlp_bias=fields.flag("mlp_bias", default=False),
        qk_norm=family == "qwen3",
        max_context=_max_context(family, fields),
    )


def is_ours(raw: dict[str, Any]) -> bool:
    """Whether a config.json is of an architecture that we have modules for. Raises ModelError."""
    return any(name in _FAMILIES for name in architectures(raw))


def architectures(raw: dict[str, Any]) -> list[str]:
    """The names in a config.json. Raises ModelError."""
    names = raw.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"config.json: architectures is {names!r}: a list of names is expected")
    return names


def eos_token_ids(folder: Path) -> frozenset[int]:
    """The model's own ends of sequence: generation_config.json's, else config.json's."""
    path = folder / "generation_config.json"
    raw = read_json(path) if path.exists() else {}
    found = raw.get("eos_token_id")
    if found is None:
        found = read_json(folder / "config.json").get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(id_) is int for id_ in ids):
        raise ModelError(f"eos_token_id is {found!r}: token ids are expected")
    return frozenset(ids)


def _family(raw: dict[str, Any]) -> str:
    names = architectures(raw)
    for name in names:
        if name in _FAMILIES:
            return _FAMILIES[name]
    found = ", ".join(names) or f"none (model_type {raw.get('model_type')!r})"
    raise ModelError(
        f"unsupported architecture in config.json: {found};"
        f" supported are {', '.join(sorted(_FAMILIES))}"
    )


def _max_context(family: str, fields: _Fields) -> int:
    """Within the sliding window, attention to it is attention to everything."""
    context = fields.integer("max_position_embeddings", most=_LONGEST_CONTEXT)
    slides = family == "mistral" or fields.flag("use_sliding_window", default=False)
    if slides and fields.raw.get("sliding_window") is not None:
        return min(context, fields.integer("sliding_window", most=_LONGEST_CONTEXT))
    return context


def _rope(raw: dict[str, Any]) -> tuple[float, Llama3Scaling | None]:
    """From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    rope: Any = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelError(f"config.json: rope is {rope!r}: an object is expected")
    theta = rope.get("rope_theta", raw.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    fields = _Fields({"rope_theta": theta, **rope})
    theta = fields.number("rope_theta")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ModelError(f"rope type {kind!r} is not supported; supported are default and llama3")
    return theta, Llama3Scaling(
        factor=fields.number("factor"),
        low_freq_factor=fields.number("low_freq_factor"),
        high_freq_factor=fields.number("high_freq_factor"),
        original_context=fields.integer("original_max_position_embeddings", most=_LONGEST_CONTEXT),
    )


class _Fields:
    """Typed access to a JSON object; every miss is a ModelError that names the field."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def integer(self, name: str, default: int | None = None, *, most: int = _WIDEST) -> int:
        found = self.raw.get(name)
        found = default if found is None else found
        if type(found) is not int or found < 1:
            raise ModelError(f"config.json: {name} is {found!r}: a positive integer is expected")
        if found > most:
            raise ModelError(f"config.json: {name} is {found}: at most {most} is expected")
        return found

    def number(self, name: str, default: float | None = None) -> float:
        found = self.raw.get(name)
        found = default if found is None else found
        if isinstance(found, int | float) and type(found) is not bool and 0 < found < _HUGE:
            return float(found)
        raise ModelError(f"config.json: {name} is {found!r}: a positive number is expected")

    def flag(self, name: str, *, default: bool) -> bool:
        found = self.raw.get(name)
        found = default if found is None else found
        if type(found) is not bool:
            raise ModelError(f"config.json: {name} is {found!r}: true or false is expected")
        return found

    def require(self, name: str, only: object) -> None:
        if self.raw.get(name, only) != only:
            raise ModelError(
                f"config.json: {name} is {self.raw[name]!r}; only {only!r} is supported"
            )
