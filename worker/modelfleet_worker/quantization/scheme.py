"""Which modules of a model are quantized, and to what. Imports no torch."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import InvalidRequestError

GROUP_SIZES = (32, 64, 128)  # inputs that share a scale; what the kernels have loops for
HEAD = "lm_head"


class Weights(enum.StrEnum):
    """How the weights of a linear projection are kept."""

    NONE = "none"  # as they are
    INT8 = "int8"  # one scale an output
    INT4 = "int4"  # a scale and a zero point for each group of inputs


class KVFormat(enum.StrEnum):
    """How the cache keeps keys and values."""

    AUTO = "auto"  # in the model's type
    INT8 = "int8"  # a scale for each token and head


class Method(enum.StrEnum):
    """How `modelfleet quantize` rounds weights."""

    INT8 = "int8"  # to nearest, one scale an output
    INT4 = "int4"  # to nearest, a scale for each group
    AWQ = "awq"  # int4, inputs scaled by calibration
    GPTQ = "gptq"  # int4, errors made up for by calibration


@dataclass(frozen=True, slots=True)
class Scheme:
    """The grid that weights are rounded to: `group` inputs of one output share a scale."""

    bits: int  # 4 or 8
    group: int | None  # None: all inputs of an output
    symmetric: bool  # without zero points

    @property
    def bytes_per_weight(self) -> float:
        """About; scales and zero points included."""
        extra = 0.0 if self.group is None else (4.0 if self.symmetric else 6.0) / self.group
        return self.bits / 8 + extra

    def __str__(self) -> str:
        group = "per output" if self.group is None else f"groups of {self.group}"
        return f"int{self.bits}, {group}{'' if self.symmetric else ', zero points'}"


@dataclass(frozen=True, slots=True)
class Override:
    """Another format for modules; `*` in the pattern stands for anything, dots included."""

    pattern: str
    weights: Weights

    @classmethod
    def parse(cls, text: str) -> Override:
        """From PATTERN=FORMAT, as flags have it. Raises InvalidRequestError."""
        pattern, equals, weights = text.rpartition("=")
        if not pattern or not equals:
            raise InvalidRequestError(
                f"expected an override as PATTERN=FORMAT, like '*.down_proj=int8', found {text!r}"
            )
        return cls(pattern, read_weights(weights))

    def __str__(self) -> str:
        return f"{self.pattern}={self.weights}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What to do to a model while it is loaded. The first override that matches decides.

    Names are the checkpoint's: model.layers.0.self_attn.q_proj, lm_head. The head stays at int8
    where the rest is int4, unless an override says otherwise: it decides every token.
    """

    weights: Weights = Weights.NONE
    group_size: int = 128  # of int4; a layer whose inputs it does not divide takes the next smaller
    overrides: tuple[Override, ...] = ()
    symmetric: bool = False  # int4 without zero points, as checkpoints have it
    kv_cache: KVFormat = KVFormat.AUTO

    def __post_init__(self) -> None:
        if self.group_size not in GROUP_SIZES:
            known = ", ".join(map(str, GROUP_SIZES))
            raise InvalidRequestError(f"expected a group size of {known}, found {self.group_size}")

    def scheme_of(self, module: str, inputs: int, stack: str | None = None) -> Scheme | None:
        """Of a projection with so many inputs; None: it stays as it is.

        `stack`: the experts that it belongs to; overrides may name one or all.
        """
        match self._format_of(module, stack):
            case Weights.INT8:
                return Scheme(bits=8, group=None, symmetric=True)
            case Weights.INT4:
                fitting = [g for g in GROUP_SIZES if g <= self.group_size and inputs % g == 0]
                return (
                    Scheme(bits=4, group=max(fitting), symmetric=self.symmetric)
                    if fitting
                    else None
                )
            case Weights.NONE:
                return None

    def _format_of(self, module: str, stack: str | None) -> Weights:
        names = [name for name in (module, stack) if name is not None]
        for override in self.overrides:
            if any(fnmatchcase(name, override.pattern) for name in names):
                return override.weights
        if module == HEAD and self.weights is Weights.INT4:
            return Weights.INT8
        return self.weights

    def unused_overrides(self, modules: list[str]) -> list[str]:
        """Overrides that match no module: a misspelt pattern would otherwise go unnoticed."""
        return [
            str(override)
            for override in self.overrides
            if not any(fnmatchcase(module, override.pattern) for module in modules)
        ]

    def __str__(self) -> str:
        """All that decides the logits: part of the model's digest."""
        grid = f"g{self.group_size}{' symmetric' if self.symmetric else ''}"
        cache = [] if self.kv_cache is KVFormat.AUTO else [f"KV cache {self.kv_cache}"]
        return " ".join([self.weights, grid, *map(str, self.overrides), *cache])


AS_STORED = Quantization()


def read_weights(name: str) -> Weights:
    """Raises InvalidRequestError with the names that exist."""
    try:
        return Weights(name.lower())
    except ValueError as error:
        known = ", ".join(Weights)
        raise InvalidRequestError(f"expected weights of {known}, found {name!r}") from error


def read_kv_format(name: str) -> KVFormat:
    """Raises InvalidRequestError with the names that exist."""
    try:
        return KVFormat(name.lower())
    except ValueError as error:
        known = ", ".join(KVFormat)
        raise InvalidRequestError(f"expected a KV cache of {known}, found {name!r}") from error
