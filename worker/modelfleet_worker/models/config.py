"""What config.json says about a Llama-family model, checked. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError, NotOurModulesError
from .config_fields import LONGEST_CONTEXT, WIDEST, Fields
from .design import LLAMA, Activation, Design
from .experts import Experts, parse_experts
from .families import FAMILIES, Bias, Family, QKNorm
from .family_design import read_design
from .layer_kinds import read_local_rope, read_rope, read_rotated, read_windows, slides
from .rope_config import Rope, RopeScaling, stretched_context

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
    # Not in what digests are made of: where it is Llama's, they are those of older versions.
    design: Design = field(default=LLAMA, repr=False)
    experts: Experts | None = field(default=None, repr=False)

    @property
    def on_torch(self) -> bool:
        """Whether models/llama.py computes it; else only the compiled step does."""
        return self.design == LLAMA and self.experts is None

    @property
    def rope(self) -> Rope:
        """Of all layers, or of those that see all tokens."""
        dim = self.design.rotary_dim or self.head_dim
        return Rope(theta=self.rope_theta, scaling=self.rope_scaling, dim=dim)

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        """Of each layer; None: it is not rotated."""
        return self.design.ropes or (self.rope,) * self.layers

    @property
    def inner_sizes(self) -> tuple[int, ...]:
        """Widths of the layers' networks between two projections, each once."""
        experts = self.experts
        sizes = [self.dense_inner]
        if experts is not None:
            sizes += [experts.inner, experts.shared_inner or 0]
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
    """A config.json of one of our families, of transformers 4 or 5.

    Raises NotOurModulesError for what only transformers' modules compute, else ModelError.
    """
    family = _family(raw)
    try:
        return _parse(family, raw)
    except ModelError as error:
        if family.strict:
            raise
        raise NotOurModulesError(str(error)) from error


def _parse(family: Family, raw: dict[str, Any]) -> LlamaConfig:
    fields, defaults = Fields(raw), family.defaults
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
    rope = read_rope(family.ropes, raw, context, head_dim)
    local_rope = read_local_rope(family.ropes, raw, context, head_dim)
    rotated = read_rotated(family.ropes, fields, layers)
    windows = read_windows(family.windows, fields, rotated)
    if family.ropes.windows_only and slides(family.windows, fields):
        rotated = tuple(window is not None for window in windows)
    if local_rope is not None and not any(windows):
        raise NotOurModulesError("config.json: there is a rope for windows, but no window")
    ropes = tuple(
        (local_rope or rope if window else rope) if is_rotated else None
        for window, is_rotated in zip(windows, rotated, strict=True)
    )
    qkv_bias, output_bias, mlp_bias = (
        _bias(bias, fields) for bias in (family.qkv_bias, family.output_bias, family.mlp_bias)
    )
    if family.equal_biases and qkv_bias != mlp_bias:
        raise ModelError("config.json: qkv_bias and bias differ, which is not supported")
    design = read_design(
        family,
        fields,
        ropes=() if all(one == rope for one in ropes) else ropes,
        rotary_dim=None if rope.dim == head_dim else rope.dim,
    )
    experts = None if family.experts is None else parse_experts(family.experts, fields, layers)
    if experts is not None and design.activation is not Activation.SILU:
        raise NotOurModulesError("config.json: experts of ours have silu only")
    return LlamaConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=fields.number(family.eps_field, family.norm_eps)
        if family.eps_field
        else family.norm_eps,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        tied_embeddings=fields.flag("tie_word_embeddings", default=family.tied),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        qk_norm=family.qk_norm is not QKNorm.NONE,
        windows=windows,
        max_context=context if local_rope else stretched_context(context, rope.scaling),
        design=design,
        experts=experts,
    )


def _bias(bias: Bias, fields: Fields) -> bool:
    if isinstance(bias, bool):
        return bias
    named = next((name for name in bias if fields.raw.get(name) is not None), None)
    return named is not None and fields.flag(named, default=False)


def is_ours(raw: dict[str, Any]) -> bool:
    """Whether a config.json is of an architecture that we have modules for. Raises ModelError."""
    return any(name in FAMILIES for name in architectures(raw))


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


def _family(raw: dict[str, Any]) -> Family:
    names = architectures(raw)
    for name in names:
        if name in FAMILIES:
            return FAMILIES[name]
    found = ", ".join(names) or f"none (model_type {raw.get('model_type')!r})"
    raise ModelError(
        f"unsupported architecture in config.json: {found};"
        f" supported are {', '.join(sorted(FAMILIES))}"
    )
