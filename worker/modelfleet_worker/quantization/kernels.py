"""What computes with quantized weights: torch's own operations, and a plain twin of all kernels.

A kernel packs a canonical weight once, for one type of activations, and computes x [T, K] to
[T, N]. The twin is dequantize-then-linear; whatever else there is gets compared with it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..devices.native.linear import NativeLinear
from ..devices.torch.float32_product import float32_product
from .weights import QuantizedWeight, pack_nibbles, unpack_nibbles

_INT4_GROUPS = (32, 64, 128, 256)  # of _weight_int4pack_mm_for_cpu
_LANES = 16  # both operations of torch crash or refuse what is not a multiple of it


class Kernel(Protocol):
    """A packed weight."""

    @property
    def nbytes(self) -> int:
        """Memory that the packed weight takes."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """The projection [T, N] of x [T, K], without bias."""
        ...

    def in_float32(self, x: Tensor) -> Tensor:
        """The same, summed and kept in float32."""
        ...


class Twin:
    """Dequantizes in every call: slow, small, for every shape and type."""

    def __init__(self, weight: QuantizedWeight, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._packs = weight.bits == 4 and weight.inputs % 2 == 0
        self._codes = pack_nibbles(weight.codes) if self._packs else weight.codes
        self._bits, self._scales = weight.bits, weight.scales
        self._zeros, self._order = weight.zeros, weight.order

    @property
    def nbytes(self) -> int:
        """Memory that the packed weight takes."""
        return _nbytes(self._codes, self._scales, self._zeros, self._order)

    def __call__(self, x: Tensor) -> Tensor:
        """The projection [T, N] of x [T, K], without bias."""
        return functional.linear(x, self._rows(0, len(self._codes)).to(self._dtype))

    def in_float32(self, x: Tensor) -> Tensor:
        """The same, summed and kept in float32."""
        return float32_product(x, len(self._codes), self._rows)

    def _rows(self, first: int, end: int) -> Tensor:
        codes = self._codes[first:end]
        return QuantizedWeight(
            bits=self._bits,
            codes=unpack_nibbles(codes) if self._packs else codes,
            scales=self._scales[first:end],
            zeros=None if self._zeros is None else self._zeros[first:end],
            order=self._order,
        ).dequantized()


class TorchInt8:
    """torch's weight-only int8: bfloat16 activations, one scale an output."""

    def __init__(self, weight: QuantizedWeight, dtype: torch.dtype) -> None:
        self._codes, self._scales = weight.codes.contiguous(), weight.scales[:, 0].to(dtype)

    @staticmethod
    def takes(weight: QuantizedWeight, dtype: torch.dtype) -> bool:
        """Whether the operation is there, and made for such a weight."""
        return (
            hasattr(torch.ops.aten, "_weight_int8pack_mm")
            and dtype == torch.bfloat16  # with float32 it is slower than dequantizing
            and weight.bits == 8
            and weight.scales.shape[1] == 1
            and weight.zeros is None
            and weight.order is None
            and _fits_bfloat16(weight.scales)
            and weight.outputs % _LANES == 0
            and weight.inputs % (2 * _LANES) == 0
        )

    @property
    def nbytes(self) -> int:
        """Memory that the packed weight takes."""
        return _nbytes(self._codes, self._scales)

    def __call__(self, x: Tensor) -> Tensor:
        """The projection [T, N] of x [T, K], without bias."""
        return torch.ops.aten._weight_int8pack_mm(x, self._codes, self._scales)  # type: ignore[no-any-return]  # noqa: SLF001

    def in_float32(self, x: Tensor) -> Tensor:
        """The same, summed and kept in float32."""
        # An output has one scale: it can wait for the sum.
        sums = float32_product(x, len(self._codes), lambda first, end: self._codes[first:end])
        return sums.mul_(self._scales)


class TorchInt4:
    """torch's weight-only int4: groups of inputs, zero points."""

    def __init__(self, weight: QuantizedWeight, dtype: torch.dtype) -> None:
        unsigned = weight.codes.to(torch.int32) + 8
        self._group = weight.group
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unsigned, 1)  # noqa: SLF001
        # It computes (code - 8) * scale + offset.
        offsets = torch.zeros_like(weight.scales)
        if weight.zeros is not None:
            offsets = -weight.zeros * weight.scales
        pairs = torch.stack((weight.scales.t(), offsets.t()), dim=-1)
        self._scales = pairs.to(dtype).contiguous()

    @staticmethod
    def takes(weight: QuantizedWeight, dtype: torch.dtype) -> bool:
        """Whether the operation is there, and made for such a weight."""
        return (
            hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
            and dtype in (torch.bfloat16, torch.float32)
            and weight.bits == 4
            and weight.group in _INT4_GROUPS
            and weight.order is None
            and weight.outputs % _LANES == 0
        )

    @property
    def nbytes(self) -> int:
        """Memory that the packed weight takes."""
        return _nbytes(self._packed, self._scales)

    def __call__(self, x: Tensor) -> Tensor:
        """The projection [T, N] of x [T, K], without bias."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(  # type: ignore[no-any-return]  # noqa: SLF001
            x, self._packed, self._group, self._scales
        )

    def in_float32(self, x: Tensor) -> Tensor:
        """The same, summed and kept in float32."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(  # type: ignore[no-any-return]  # noqa: SLF001
            x.float(), self._packed, self._group, self._scales.float()
        )


def pack(weight: QuantizedWeight, dtype: torch.dtype) -> Kernel:
    """The fastest kernel of this machine that takes the weight, for activations of `dtype`."""
    if NativeLinear.takes(weight, dtype):
        return NativeLinear(weight)
    for kernel in (TorchInt8, TorchInt4):
        if kernel.takes(weight, dtype):
            return kernel(weight, dtype)
    return Twin(weight, dtype)


def _fits_bfloat16(scales: Tensor) -> bool:
    return bool((scales.to(torch.bfloat16).float() == scales).all())


def _nbytes(*tensors: Tensor | None) -> int:
    return sum(t.nbytes for t in tensors if t is not None)
