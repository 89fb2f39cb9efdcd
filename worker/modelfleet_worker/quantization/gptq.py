"""Checkpoints of GPTQ, both versions of the layout (AutoGPTQ, GPTQModel, auto-round)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ModelError
from ..models.stored_tensor import StoredTensor
from .checkpoint_checks import FLOATS, check_tensor, order_of_groups, refuse_unless
from .coded_weight import CodedWeight
from .packing import WORD, unpack

_VERSIONS = {"gptq": 1, "gptq_v2": 2}
_BITS = (4, 8)


@dataclass(frozen=True, slots=True)
class Gptq:
    """qweight [K * bits / 32, N], qzeros [G, N * bits / 32], scales [G, N], maybe g_idx [K]."""

    version: int

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Gptq:
        """Of a quantization_config. Raises ModelError."""
        bits = raw.get("bits")
        refuse_unless(bits in _BITS, f"gptq with {bits!r} bits", "gptq with 4 or 8 bits")
        name = raw.get("checkpoint_format", raw.get("format")) or "gptq"
        known = isinstance(name, str) and name in _VERSIONS
        refuse_unless(known, f"gptq's layout {name!r}", " or ".join(_VERSIONS))
        word = raw.get("pack_dtype", "int32")
        refuse_unless(word == "int32", f"packing into {word!r}", "int32")
        return cls(_VERSIONS[name])

    def __str__(self) -> str:
        return "gptq"

    def holds(self, module: str, names: frozenset[str]) -> bool:
        """Whether the projection is quantized in a checkpoint of tensors `names`."""
        return f"{module}.qweight" in names

    def suffixes(self, module: str, names: frozenset[str]) -> set[str]:
        """The tensors of a quantized projection."""
        ordered = {"g_idx"} if f"{module}.g_idx" in names else set()
        return {"qweight", "qzeros", "scales"} | ordered

    def read(
        self, module: str, tensors: Mapping[str, StoredTensor], outputs: int, inputs: int
    ) -> CodedWeight:
        """The canonical form. Raises ModelError for tensors of other shapes or types."""
        # Some packers give single modules other bits or groups: the shapes say which.
        bits = _bits(module, tensors["qweight"], inputs)
        shape = tensors["scales"].shape
        if len(shape) != 2:
            raise ModelError(
                f"the tensor {module}.scales is {list(shape)}: one row a group is expected"
            )
        groups = shape[0]
        if groups < 1 or inputs % groups:
            raise ModelError(f"{module}: {inputs} inputs cannot be {groups} groups of equal size")
        each = WORD // bits

        def get(suffix: str, shape: tuple[int, int], *dtypes: str) -> StoredTensor:
            return check_tensor(module, suffix, tensors[suffix], shape, *dtypes)

        scales = get("scales", (groups, outputs), *FLOATS).float32()
        words = get("qzeros", (groups, -(-outputs // each)), "int32").array.view(np.uint32)
        if self.version == 1:
            # Version 1 keeps zero points minus one. Packers subtract it from whole words, so that
            # a zero point of 0 borrows from its neighbour: adding to whole words gives it back.
            words = words + np.uint32(sum(1 << shift for shift in range(0, WORD, bits)))
        middle = 2 ** (bits - 1)
        codes = unpack(get("qweight", (inputs // each, outputs), "int32").array, bits, axis=0)
        zeros = unpack(words, bits, axis=1)[:, :outputs].astype(np.int16) - np.int16(middle)
        order = None
        if "g_idx" in tensors:  # desc_act
            order = order_of_groups(module, "g_idx", tensors["g_idx"], inputs, groups)
        rows = codes if order is None else codes[order]
        return CodedWeight(
            bits=bits,
            codes=np.ascontiguousarray((rows - np.uint8(middle)).view(np.int8).T),
            scales=np.ascontiguousarray(scales.T),
            zeros=np.ascontiguousarray(zeros.T) if zeros.any() else None,
            order=order,
        )


def _bits(module: str, qweight: StoredTensor, inputs: int) -> int:
    rows = qweight.shape[0] if qweight.shape else 0
    for bits in _BITS:
        if rows * (WORD // bits) == inputs:
            return bits
    raise ModelError(
        f"the tensor {module}.qweight is {list(qweight.shape)}: neither 4 nor 8 bits of"
        f" {inputs} inputs"
    )
