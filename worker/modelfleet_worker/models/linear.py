"""Linear projections: plain, quantized, and several side by side."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..devices.native.linear import NativeLinear
from ..devices.torch.float32_product import float32_product
from ..quantization.kernels import Kernel


class Linear(nn.Module):
    """A projection with uninitialized weights: they come from a checkpoint.

    nn.Linear would draw random ones, which on the meta device imports seconds of Python.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight: Tensor | None = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.kernel: Kernel | None = None
        self._packed: Tensor | None = None

    def pack(self, *, native: bool = False, head: bool = False) -> None:
        """Lays the weight out as a kernel computes with it, and frees the plain one.

        `native`: for our kernels, where they take it. Otherwise for oneDNN's: oneDNN and MKL
        would repack it in every call, and decoding would take two to three times as long.
        `head`: for `in_float32`, which oneDNN's layout of 16-bit weights is of no use for.
        """
        if self.weight is None:
            return
        if (native or head) and NativeLinear.takes_plain(self.inputs, self.weight.dtype):
            self.kernel = NativeLinear(self.weight)
            self.weight = None
        elif head and self.weight.dtype != torch.float32:
            pass
        elif can_pack(self.weight.dtype):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)  # noqa: SLF001
            self.weight = None

    def forward(self, x: Tensor) -> Tensor:
        """The projection [T, outputs] of x [T, inputs]."""
        if self.kernel is not None:
            return _biased(self.kernel(x), self.bias)
        if self._packed is None:
            return functional.linear(x, cast("Tensor", self.weight), self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            x, self._packed, self.bias, "none", [], ""
        )
        return out

    def in_float32(self, x: Tensor) -> Tensor:
        """The same [T, outputs], summed and kept in float32: 16-bit logits are often equal."""
        if self.kernel is not None:
            return _biased(self.kernel.in_float32(x), self.bias)
        weight = self.weight
        if weight is None or weight.dtype == torch.float32:
            return self.forward(x).float()
        product = float32_product(x, self.outputs, lambda first, end: weight[first:end])
        return _biased(product, self.bias)


class QuantizedLinear(nn.Module):
    """A projection by a kernel that holds its own packed weights."""

    def __init__(self, kernel: Kernel, bias: Tensor | None) -> None:
        super().__init__()
        self.kernel, self.bias = kernel, bias

    def forward(self, x: Tensor) -> Tensor:
        """The projection [T, outputs] of x [T, inputs]."""
        return _biased(self.kernel(x), self.bias)

    def in_float32(self, x: Tensor) -> Tensor:
        """The same [T, outputs], summed and kept in float32."""
        return _biased(self.kernel.in_float32(x), self.bias)


class SplitLinear(nn.Module):
    """Projections of one input that are merged elsewhere, but here are of different formats."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """The projections of x [T, inputs], side by side."""
        return torch.cat([part(x) for part in self.parts], dim=-1)


def _biased(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out.add_(bias)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN computes in it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's gap
        return False
    supported = {
        torch.float32: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),  # noqa: SLF001
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),  # noqa: SLF001
    }
    return bool(supported.get(dtype, False))
