"""A tensor as a safetensors file has it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

# What safetensors calls a type: as torch calls it, and what numpy reads it as. Numpy has no
# bfloat16 and no floats of 8 bits: their bits.
TYPES: Final[dict[str, tuple[str, Any]]] = {
    "BOOL": ("bool", np.bool_),
    "U8": ("uint8", np.uint8),
    "I8": ("int8", np.int8),
    "F8_E4M3": ("float8_e4m3fn", np.uint8),
    "F8_E5M2": ("float8_e5m2", np.uint8),
    "F8_E8M0": ("float8_e8m0fnu", np.uint8),
    "U16": ("uint16", np.uint16),
    "I16": ("int16", np.int16),
    "F16": ("float16", np.float16),
    "BF16": ("bfloat16", np.uint16),
    "U32": ("uint32", np.uint32),
    "I32": ("int32", np.int32),
    "F32": ("float32", np.float32),
    "U64": ("uint64", np.uint64),
    "I64": ("int64", np.int64),
    "F64": ("float64", np.float64),
    "C64": ("complex64", np.complex64),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Mapped from its file: copy what you keep."""

    dtype: str  # float32, bfloat16, int8, ...: torch's name
    array: Array  # its numbers; of types that numpy lacks, their bits

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size in each dimension."""
        return tuple(map(int, self.array.shape))

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(self.array.nbytes)

    def float32(self) -> Array:
        """A copy of floats, exact."""
        if self.dtype == "bfloat16":
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        return self.array.astype(np.float32)
