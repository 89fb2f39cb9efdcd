"""What config.json says about rope, as transformers 5.23 reads it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..engine.request import ContextVariants
from ..errors import ModelError, NotOurModulesError
from .config_fields import LONGEST_CONTEXT, Fields


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
class LinearScaling:
    """All frequencies divided by one factor."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicScaling:
    """A base that grows with the sequence, beyond the original context (dynamic NTK)."""

    factor: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """Low frequencies divided by a factor, high ones kept, a ramp between (arXiv 2309.00071)."""

    factor: float
    original_context: int
    attention_factor: float  # of queries and keys
    beta_fast: float
    beta_slow: float
    truncate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRopeScaling:
    """A divisor for each frequency, others where the sequence is long (arXiv 2402.13753)."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_context: int
    attention_factor: float  # of queries and keys


RopeScaling = Llama3Scaling | LinearScaling | DynamicScaling | YarnScaling | LongRopeScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """One rotation; a model may have several, each of some layers."""

    theta: float
    scaling: RopeScaling | None
    dim: int  # numbers of a head that it rotates, the first ones


def parse_rope(
    raw: dict[str, Any],
    max_positions: int,
    head_dim: int,
    *,
    theta: float = 10000.0,
    original: int | None = None,
    partial: bool = False,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> Rope:
    """From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.

    `theta` and `original` are for fields that are left out, `renamed` is for types; if not
    `partial`, all of a head is rotated. Raises NotOurModulesError for what our modules lack, else
    ModelError.
    """
    rope: Any = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ModelError(f"config.json: rope is {rope!r}: an object is expected")
    if any(isinstance(value, dict) for value in rope.values()):
        raise NotOurModulesError("config.json: layers have ropes of their own; ours are all alike")
    kind = rope.get("rope_type", rope.get("type", "default"))
    fields = Fields({**rope, "rope_theta": rope.get("rope_theta", raw.get("rope_theta", theta))})
    base = fields.number("rope_theta")
    dim = head_dim
    for found in (raw, rope):
        factor = found.get("partial_rotary_factor")
        if factor in (None, 1, 1.0):
            continue
        if not partial or not isinstance(factor, float):
            raise NotOurModulesError(f"config.json: partial_rotary_factor is {factor!r}; ours is 1")
        dim = int(head_dim * factor)
    if dim % 2 or not 0 < dim <= head_dim:
        raise ModelError(f"config.json: {dim} of {head_dim} numbers are rotated: an even number is")
    original = raw.get("original_max_position_embeddings", original)
    if original is not None:  # beside the rope it counts more than within
        fields.raw["original_max_position_embeddings"] = original
    kind = renamed.get(kind, kind) if isinstance(kind, str) else kind
    return Rope(theta=base, scaling=_scaling(kind, fields, max_positions, dim), dim=dim)


def _scaling(kind: object, fields: Fields, max_positions: int, head_dim: int) -> RopeScaling | None:
    def original() -> int:
        return fields.integer(
            "original_max_position_embeddings", max_positions, most=LONGEST_CONTEXT
        )

    match kind:
        case "default":
            return None
        case "linear":
            return LinearScaling(factor=fields.number("factor"))
        case "dynamic":
            if head_dim < 4:
                raise ModelError(f"config.json: head_dim is {head_dim}, too small for dynamic rope")
            return DynamicScaling(factor=fields.number("factor"), original_context=max_positions)
        case "yarn":
            if fields.number("rope_theta") <= 1:
                raise ModelError("config.json: rope_theta is expected to be above 1 for yarn")
            return _yarn(fields, original(), max_positions)
        case "longrope":
            factor = fields.number("factor", max_positions / original())
            default = 1.0
            if factor > 1:
                default = math.sqrt(1 + math.log(factor) / math.log(max(2, original())))
            return LongRopeScaling(
                short_factor=fields.numbers("short_factor", head_dim // 2),
                long_factor=fields.numbers("long_factor", head_dim // 2),
                original_context=original(),
                attention_factor=fields.number("attention_factor", default),
            )
        case "llama3":
            return Llama3Scaling(
                factor=fields.number("factor"),
                low_freq_factor=fields.number("low_freq_factor"),
                high_freq_factor=fields.number("high_freq_factor"),
                original_context=original(),
            )
        case _:
            raise NotOurModulesError(
                f"rope type {kind!r} is not one of our modules': default, linear, dynamic, yarn,"
                " longrope, llama3"
            )


def _yarn(fields: Fields, original: int, max_positions: int) -> YarnScaling:
    factor = fields.number("factor", max_positions / original)

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    one, all_dim = fields.raw.get("mscale"), fields.raw.get("mscale_all_dim")
    default = mscale(1.0)
    if one and all_dim:
        default = mscale(fields.number("mscale")) / mscale(fields.number("mscale_all_dim"))
    return YarnScaling(
        factor=factor,
        original_context=original,
        attention_factor=fields.number("attention_factor", default),
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        truncate=fields.flag("truncate", default=True),
    )


def stretched_context(max_positions: int, scaling: RopeScaling | None) -> int:
    """Tokens that a model with this scaling is made for."""
    match scaling:
        case LinearScaling():
            return stretched_positions("linear", max_positions, scaling.factor, max_positions)
        case DynamicScaling():
            return stretched_positions("dynamic", max_positions, scaling.factor, max_positions)
        case YarnScaling(factor=factor, original_context=original):
            return stretched_positions("yarn", max_positions, factor, original)
        case _:
            return max_positions


def stretched_positions(kind: object, max_positions: int, factor: float, original: int) -> int:
    """Tokens that a type of rope is made for, where `max_position_embeddings` may be from before.

    Linear and dynamic ones are written down with the original number, yarn's with either: as vLLM
    reads them.
    """
    base = {"linear": max_positions, "dynamic": max_positions, "yarn": original}.get(str(kind), 0)
    return max(max_positions, int(min(LONGEST_CONTEXT, base * factor)))


def context_variants(
    scaling: RopeScaling | None, context: int, *, recomputes: bool = False
) -> ContextVariants | None:
    """How keys depend on the length of their sequence; None: they do not, within `context`.

    `recomputes`: all of them anew where longrope's long factors begin.
    """
    match scaling:
        case DynamicScaling() | LongRopeScaling() if context > scaling.original_context:
            return ContextVariants(
                original_context=scaling.original_context,
                by_length=isinstance(scaling, DynamicScaling),
                recomputes=recomputes,
            )
        case _:
            return None
