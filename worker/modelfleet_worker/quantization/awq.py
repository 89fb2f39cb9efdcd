"""Checkpoints of AWQ in its GEMM layout (AutoAWQ, llm-compressor's ancestors, auto-round)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.stored_tensor import Array, StoredTensor
from .checkpoint_checks import FLOATS, check_tensor, refuse_unless
from .coded_weight import CodedWeight
from .packing import unpack

# Eight outputs share a word, in the order in which a CUDA kernel of AWQ's authors wants them.
_INTERLEAVED = (0, 2, 4, 6, 1, 3, 5, 7)
_PLACES = [_INTERLEAVED.index(output) for output in range(8)]
_OUTPUTS_IN_WORD = 8


@dataclass(frozen=True, slots=True)
class Awq:
    """qweight [K, N / 8], qzeros [G, N / 8] and scales [G, N]."""

    group: int  # -1: all inputs

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Awq:
        """Of a quantization_config. Raises ModelError."""
        bits = raw.get("bits", raw.get("w_bit"))
        refuse_unless(bits == 4, f"awq with {bits!r} bits", "awq with 4 bits")
        version = str(raw.get("version", "gemm")).lower()
        refuse_unless(version == "gemm", f"awq's layout {version!r}", "gemm")
        group = raw.get("group_size", raw.get("q_group_size", 128))
        whole = type(group) is int and (group > 0 or group == -1)
        refuse_unless(whole, f"group_size {group!r}", "a positive number or -1")
        return cls(group)

    def __str__(self) -> str:
        return "awq"

    def holds(self, module: str, names: frozenset[str]) -> bool:
        """Whether the projection is quantized in a checkpoint of tensors `names`."""
        return f"{module}.qweight" in names

    def suffixes(self, module: str, names: frozenset[str]) -> set[str]:
        """The tensors of a quantized projection."""
        return {"qweight", "qzeros", "scales"}

    def read(
        self, module: str, tensors: Mapping[str, StoredTensor], outputs: int, inputs: int
    ) -> CodedWeight:
        """The canonical form. Raises ModelError for tensors of other shapes or types."""
        group = inputs if self.group == -1 else self.group
        refuse_unless(
            inputs % group == 0,
            f"{module} of {inputs} inputs in groups of {group}",
            "an equal size",
        )
        groups, words = inputs // group, -(-outputs // _OUTPUTS_IN_WORD)

        def get(suffix: str, shape: tuple[int, int], *dtypes: str) -> StoredTensor:
            return check_tensor(module, suffix, tensors[suffix], shape, *dtypes)

        scales = get("scales", (groups, outputs), *FLOATS).float32()
        return CodedWeight(
            bits=4,
            codes=_unpacked(get("qweight", (inputs, words), "int32").array)[:outputs],
            scales=np.ascontiguousarray(scales.T),
            zeros=_unpacked(get("qzeros", (groups, words), "int32").array)[:outputs].astype(
                np.int16
            ),
        )


def _unpacked(words: Array) -> Array:
    """[.., N / 8] as int8 [N, ..], where 8 in the checkpoint is 0."""
    interleaved = unpack(words, 4, axis=1).reshape(len(words), -1, len(_PLACES))
    codes = np.ascontiguousarray(interleaved[:, :, _PLACES].reshape(len(words), -1).T)
    return codes.view(np.int8) - np.int8(8)
