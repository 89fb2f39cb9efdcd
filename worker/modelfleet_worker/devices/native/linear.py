"""Weights packed for the compiled kernels (projections.h has the layout), for bfloat16 inputs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from ...quantization.weights import QuantizedWeight
from .library import LinearStruct, load_library

_LANES, _PAIR = 16, 32
_STEP = 32  # inputs that share a scale of activations


class NativeLinear:
    """A packed weight. Of one whose inputs are reordered, the caller reorders them."""

    def __init__(self, weight: QuantizedWeight | Tensor) -> None:
        library = load_library()
        if library is None:
            raise RuntimeError("there is no library: ask `takes` first")
        self._library = library
        if isinstance(weight, Tensor):
            outputs, inputs = weight.shape
            bits, group, self.order = 16, inputs, None
            self._tensors: tuple[Tensor | None, ...] = (_blocks(weight.detach(), 2), None, None)
        else:
            outputs, inputs = weight.outputs, weight.inputs
            bits, group, self.order = weight.bits, weight.group, weight.order
            middle = 2 ** (bits - 1)
            codes = _blocks((weight.codes.to(torch.int16) + middle).to(torch.uint8), 4)
            if bits == 4:
                codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
            zeros = weight.zeros
            self._tensors = (
                codes,
                _lanes(weight.scales),
                None if zeros is None else _lanes(zeros.to(torch.int32) + middle),
            )
        self.struct = LinearStruct(
            *(None if t is None else t.data_ptr() for t in self._tensors),
            None,
            bits,
            group,
            outputs,
            inputs,
        )

    @staticmethod
    def takes(weight: QuantizedWeight, dtype: torch.dtype) -> bool:
        """Whether it is made for such a weight, and there is something to run it."""
        return dtype == torch.bfloat16 and weight.group % _STEP == 0 and load_library() is not None

    @staticmethod
    def takes_plain(inputs: int, dtype: torch.dtype) -> bool:
        """Whether it is made for plain weights of so many inputs."""
        return dtype == torch.bfloat16 and inputs % _STEP == 0 and load_library() is not None

    @property
    def nbytes(self) -> int:
        """Memory that the packed weight takes."""
        return sum(t.nbytes for t in self._tensors if t is not None)

    def __call__(self, x: Tensor) -> Tensor:
        """The projection [T, N] of x [T, K], without bias."""
        y = torch.empty(len(x), self.struct.outputs, dtype=torch.bfloat16)
        return self._computed(self._library.modelfleet_project, x, y)

    def in_float32(self, x: Tensor) -> Tensor:
        """The same, kept in float32, in which it is summed."""
        y = torch.empty(len(x), self.struct.outputs)
        return self._computed(self._library.modelfleet_project_float32, x, y)

    def _computed(self, project: Callable[..., None], x: Tensor, y: Tensor) -> Tensor:
        x = x.contiguous() if self.order is None else x[:, self.order]
        project(ctypes.byref(self.struct), x.data_ptr(), len(x), y.data_ptr())
        return y


def _lanes(values: Tensor) -> Tensor:
    """[N, G] as [N / 16, G, 16], padded to whole pairs."""
    return _padded(values).view(-1, _LANES, values.shape[1]).transpose(1, 2).contiguous()


def _blocks(values: Tensor, together: int) -> Tensor:
    """[N, K] as [N / 32, K / together, 32, together], padded to whole pairs."""
    inputs = values.shape[1]
    blocks = _padded(values).view(-1, _PAIR, inputs // together, together)
    return blocks.transpose(1, 2).contiguous()


def _padded(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, 0, 0, -len(values) % _PAIR))
