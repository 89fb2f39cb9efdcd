"""What config.json says about a Llama-family model, checked. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError, NotOurModulesError
from .config_fields import LONGEST_CONTEXT, WIDEST, Fields
from .experts import Experts
from .rope_config import RopeScaling, parse_rope, stretched_context

# What differs between the families, beside the numbers in their config.json.
_FAMILIES: Final = {
    "LlamaForCausalLM": "llama",
    "InternLM3ForCausalLM": "internlm3",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# What transformers takes for a number that config.json leaves out, where families differ.
_DEFAULTS: Final[dict[str, dict[str, int]]] = {
    "llama": {},
    "internlm3": {"num_key_value_heads": 2, "head_dim": 128},
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
_SILU = ("silu", "swish")  # of transformers' names for activations: the same function
_WINDOW, _WINDOW_LAYERS = 4096, 28  # defaults of transformers

_MOST_LAYERS = 1024
_LARGEST_JSON = 64 << 20  # bytes


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
    rope_scaling: RopeScaling | None
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]  # of each layer: the last tokens that it sees; None: all
    max_context: int  # tokens
    # Not in the text, which is part of digests: those of models without experts stay as they were.
    experts: Experts | None = field(default=None, repr=False)

    @property
    def inner_sizes(self) -> tuple[int, ...]:
        """Widths of the layers' networks between two projections, each once."""
        experts = self.experts
        sizes = (self.dense_inner,)
        if experts is not None:
            sizes = (*sizes, experts.inner, experts.shared_inner or 0)
        return tuple(size for size in sizes if size)

    @property
    def dense_inner(self) -> int:
        """Of layers without experts; 0: there are none."""
        has_dense = self.experts is None or not all(self.experts.layers)
        return self.intermediate_size if has_dense else 0

    @property
    def taken_inner(self) -> int:
        """The most that a token has between two projections, in all networks that it takes."""
        return max(self.dense_inner, 0 if self.experts is None else self.experts.taken_inner)


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
    """A Llama-family config.json of transformers 4 or 5.

    Raises NotOurModulesError for what only transformers' modules compute, else ModelError.
    """
    family = _family(raw)
    fields = Fields(raw)
    activation = raw.get("hidden_act", "silu")
    if activation not in _SILU:
        raise NotOurModulesError(f"config.json: hidden_act is {activation!r}; ours is only silu")
    defaults = _DEFAULTS[family]
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    # A null is "as many as heads", as transformers reads it; only what is left out has a default.
    left_out = "num_key_value_heads" not in raw
    kv_default = defaults.get("num_key_value_heads", heads) if left_out else heads
    kv_heads = fields.integer("num_key_value_heads", kv_default)
    if heads % kv_heads:
        raise ModelError(f"config.json: {heads} attention heads cannot share {kv_heads} KV heads")
    head_default = defaults.get("head_dim") if "head_dim" not in raw else None
    head_dim = fields.integer("head_dim", head_default or hidden // heads)
    if head_dim % 2:
        raise ModelError(f"config.json: head_dim is {head_dim}: an even number is expected")
    if heads * head_dim > WIDEST:
        raise ModelError(f"config.json: {heads} heads of {head_dim} are wider than {WIDEST}")
    layers = fields.integer("num_hidden_layers", most=_MOST_LAYERS)
    context = fields.integer("max_position_embeddings", most=LONGEST_CONTEXT)
    theta, scaling = parse_rope(raw, context, head_dim)
    attention_bias, mlp_bias = _biases(family, fields)
    return LlamaConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=fields.number("rms_norm_eps", 1e-5 if family == "internlm3" else 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_embeddings=fields.flag("tie_word_embeddings", default=False),
        qkv_bias=family == "qwen2" or attention_bias,
        output_bias=family != "qwen2" and attention_bias,
        mlp_bias=mlp_bias,
        qk_norm=family == "qwen3",
        windows=_windows(family, fields, layers),
        max_context=stretched_context(context, scaling),
    )


def _biases(family: str, fields: Fields) -> tuple[bool, bool]:
    """Of attention and of the network; a field that the family does not know says nothing."""
    if family == "internlm3":
        qkv, others = (
            fields.flag(new, default=fields.flag(old, default=False))
            for new, old in (("attention_bias", "qkv_bias"), ("mlp_bias", "bias"))
        )
        if qkv != others:
            raise ModelError("config.json: qkv_bias and bias differ, which is not supported")
        return qkv, others
    return (
        family in ("llama", "qwen3") and fields.flag("attention_bias", default=False),
        family == "llama" and fields.flag("mlp_bias", default=False),
    )


def _window(fields: Fields) -> int | None:
    """Nothing is a default, null is none."""
    if "sliding_window" in fields.raw and fields.raw["sliding_window"] is None:
        return None
    return fields.integer("sliding_window", _WINDOW, most=LONGEST_CONTEXT)


def _windows(family: str, fields: Fields, layers: int) -> tuple[int | None, ...]:
    """By the rules of transformers' configs: Mistral's layers all slide, Qwen's from one on."""
    raw = fields.raw
    if family == "mistral":
        return (_window(fields),) * layers
    if family not in ("qwen2", "qwen3"):
        return (None,) * layers
    slides = fields.flag("use_sliding_window", default=False)
    window = _window(fields) if slides else None
    kinds = raw.get("layer_types")
    if kinds is None:
        first = raw.get("max_window_layers", _WINDOW_LAYERS)
        if type(first) is not int:
            raise ModelError(f"config.json: max_window_layers is {first!r}: a number is expected")
        return tuple(window if i >= first else None for i in range(layers))
    known = {"full_attention": None, "sliding_attention": window}
    fits = isinstance(kinds, list) and len(kinds) == layers
    if not fits or not all(isinstance(kind, str) and kind in known for kind in kinds):
        raise NotOurModulesError("config.json: layer_types is not one type for each layer of ours")
    if window is None and "sliding_attention" in kinds:
        raise NotOurModulesError("config.json: layer_types has windows, but no size of them")
    return tuple(known[kind] for kind in kinds)


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
