"""The compiled projections as torch's modules call them, for bfloat16 inputs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from ...quantization.weights import QuantizedWeight
from .library import load_library
from .packed import Grid, PackedLinear, Rows, pack

_STEP = 32  # inputs that share a scale of activations


class NativeLinear:
    """A packed weight. Of one whose inputs are reordered, the caller reorders them."""

    def __init__(self, weight: QuantizedWeight | Tensor) -> None:
        library = load_library()
        if library is None:
            raise RuntimeError("there is no library: ask `takes` first")
        self._library = library
        self.order = None if isinstance(weight, Tensor) else weight.order
        self._packed = PackedLinear([_rows(weight)], _grid(weight))
        self.struct = self._packed.struct
        pack([self._packed], torch.get_num_threads())

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
        return self._packed.nbytes

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


def _rows(weight: QuantizedWeight | Tensor) -> Rows:
    if isinstance(weight, Tensor):
        return Rows("bfloat16", weight.detach().view(torch.int16).numpy())
    return Rows("int8", weight.codes.numpy())


def _grid(weight: QuantizedWeight | Tensor) -> Grid | None:
    if isinstance(weight, Tensor):
        return None
    zeros = weight.zeros
    return Grid(
        bits=weight.bits,
        group=weight.group,
        symmetric=zeros is None,
        scales=weight.scales.numpy(),
        zeros=None if zeros is None else zeros.numpy(),
    )
