"""`dtype: Auto`: the checkpoint's type, or a better one that is faster on this processor."""

from __future__ import annotations

from collections.abc import Iterable

from ..models.float_type import FloatType

# What multiplies a type, by the names of /proc/cpuinfo on x86 and ARM. Without one of them torch
# converts each operand, and its products in 16 bits are 3 to 9 times slower than in float32.
_NATIVE = {
    FloatType.BFLOAT16: {"avx512_bf16", "amx_bf16", "bf16"},
    FloatType.FLOAT16: {"avx512_fp16", "amx_fp16", "asimdhp"},
}


def is_emulated(dtype: FloatType, features: Iterable[str]) -> bool:
    """Whether a processor with these features has no instructions for the type."""
    return dtype in _NATIVE and _NATIVE[dtype].isdisjoint(features)


def fastest_dtype(
    stored: FloatType,
    features: Iterable[str],
    *,
    compiled: bool,
    quantized: bool,
    fits_float32: bool,
) -> FloatType:
    """What to compute in, for a checkpoint in `stored`.

    The compiled step has instructions of its own for bfloat16, and quantized weights have kernels
    that read the type of the activations: both stay as they are.
    """
    if compiled or quantized or not fits_float32 or not is_emulated(stored, features):
        return stored
    return FloatType.FLOAT32
