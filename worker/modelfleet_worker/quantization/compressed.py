"""Checkpoints of compressed-tensors (llm-compressor): integers, packed or one a byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ModelError
from ..models.stored_tensor import Array, StoredTensor
from .checkpoint_checks import FLOATS, check_tensor, order_of_groups, refuse_unless
from .coded_weight import CodedWeight
from .packing import WORD, unpack

_FORMATS = ("pack-quantized", "int-quantized")
_BITS = (4, 8)
_STRATEGIES = ("group", "channel")


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """weight_packed [N, K * bits / 32] or weight [N, K] in int8, and weight_scale [N, G].

    Zero points (weight_zero_point, packed along N) and groups of inputs out of order
    (weight_g_idx) are optional. Activations that the recipe quantizes stay as they are here.
    """

    packed: bool

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> CompressedTensors:
        """Of a quantization_config. Raises ModelError."""
        groups = raw.get("config_groups")
        if not isinstance(groups, dict) or not all(isinstance(g, dict) for g in groups.values()):
            raise ModelError(f"quantization_config: config_groups is {groups!r}: objects expected")
        own = {str(g.get("format") or raw.get("format")) for g in groups.values()}
        refuse_unless(
            len(own) == 1 and own <= set(_FORMATS),
            f"compressed-tensors' format {' and '.join(sorted(own)) or 'of no group'!r}",
            " or ".join(_FORMATS),
        )
        for group in groups.values():
            _check_weights(_object(group, "weights"))
            activations = _object(group, "input_activations")
            static = bool(activations) and activations.get("dynamic") is not True
            refuse_unless(not static, "a fixed scale of activations", "a dynamic one")
        for feature in ("kv_cache_scheme", "sparsity_config", "transform_config"):
            found = raw.get(feature)
            dense = isinstance(found, dict) and found.get("format") == "dense"
            refuse_unless(not found or dense, feature, "none")
        return cls(packed=own == {"pack-quantized"})

    def __str__(self) -> str:
        return "compressed-tensors"

    def holds(self, module: str, names: frozenset[str]) -> bool:
        """Whether the projection is quantized in a checkpoint of tensors `names`."""
        return f"{module}.weight_scale" in names

    def suffixes(self, module: str, names: frozenset[str]) -> set[str]:
        """The tensors of a quantized projection."""
        needed = {"weight_packed", "weight_shape"} if self.packed else {"weight"}
        optional = {"weight_zero_point", "weight_g_idx"}
        return needed | {"weight_scale"} | {s for s in optional if f"{module}.{s}" in names}

    def read(
        self, module: str, tensors: Mapping[str, StoredTensor], outputs: int, inputs: int
    ) -> CodedWeight:
        """The canonical form. Raises ModelError for tensors of other shapes or types."""
        scales = tensors["weight_scale"]
        groups = scales.shape[-1] if scales.shape else 0
        if groups < 1 or inputs % groups:
            raise ModelError(f"{module}: {inputs} inputs cannot be {groups} groups of equal size")
        check_tensor(module, "weight_scale", scales, (outputs, groups), *FLOATS)
        bits, codes = self._codes(module, tensors, outputs, inputs)
        zeros = self._zeros(module, tensors.get("weight_zero_point"), bits, (outputs, groups))
        order = None
        if "weight_g_idx" in tensors and (tensors["weight_g_idx"].array != -1).any():
            order = order_of_groups(module, "weight_g_idx", tensors["weight_g_idx"], inputs, groups)
        return CodedWeight(
            bits=bits,
            codes=codes if order is None else codes[:, order],
            scales=scales.float32(),
            zeros=zeros if zeros is not None and zeros.any() else None,
            order=order,
        )

    def _codes(
        self, module: str, tensors: Mapping[str, StoredTensor], outputs: int, inputs: int
    ) -> tuple[int, Array]:
        if not self.packed:
            weight = check_tensor(module, "weight", tensors["weight"], (outputs, inputs), "int8")
            return 8, weight.array.copy()
        shape = check_tensor(
            module, "weight_shape", tensors["weight_shape"], (2,), "int64", "int32"
        ).array.tolist()
        if shape != [outputs, inputs]:
            raise ModelError(
                f"{module}.weight_shape says {shape}, but config.json asks for {[outputs, inputs]}"
            )
        words = tensors["weight_packed"]
        for bits in _BITS:
            if words.shape == (outputs, -(-inputs * bits // WORD)) and words.dtype == "int32":
                return bits, _signed(unpack(words.array, bits, axis=1)[:, :inputs], bits)
        raise ModelError(
            f"the tensor {module}.weight_packed is {words.dtype} {list(words.shape)}: neither 4 nor"
            f" 8 bits of {[outputs, inputs]} in int32"
        )

    def _zeros(
        self, module: str, zeros: StoredTensor | None, bits: int, shape: tuple[int, int]
    ) -> Array | None:
        if zeros is None:
            return None
        if not self.packed:
            found = check_tensor(module, "weight_zero_point", zeros, shape, "int8")
            return found.array.astype(np.int16)
        words = -(-shape[0] * bits // WORD)
        found = check_tensor(module, "weight_zero_point", zeros, (words, shape[1]), "int32")
        return _signed(unpack(found.array, bits, axis=0)[: shape[0]], bits).astype(np.int16)


def _signed(codes: Array, bits: int) -> Array:
    return np.ascontiguousarray((codes - np.uint8(2 ** (bits - 1))).view(np.int8))


def _object(group: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object of a recipe's group, empty if there is none."""
    found = group.get(name) or {}
    if not isinstance(found, dict):
        raise ModelError(f"quantization_config: {name} is {found!r}: an object is expected")
    return found


def _check_weights(weights: Mapping[str, Any]) -> None:
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    refuse_unless(
        kind == "int" and bits in _BITS, f"{kind!r} weights of {bits!r} bits", "int of 4 or 8 bits"
    )
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "tensor")
    refuse_unless(
        strategy in _STRATEGIES, f"a scale for each {strategy}", f"for each {_STRATEGIES}"
    )
