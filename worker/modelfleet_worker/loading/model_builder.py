"""Puts a model of torch's modules together from a checkpoint's tensors in whatever order they come.

A projection is quantized and packed as soon as its last tensor is there, so that there is never
more than one layer in two forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.config import LlamaConfig
from ..models.linear import Linear, QuantizedLinear, SplitLinear
from ..models.llama import Llama
from ..models.stored_tensor import StoredTensor
from ..quantization.coded_weight import can_stack
from ..quantization.kernels import Kernel, pack
from ..quantization.scheme import HEAD
from ..quantization.weights import QuantizedWeight, quantize, stacked
from .expected_tensors import ExpectedTensors, Gathered, Part, Plain

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def as_torch(tensor: StoredTensor) -> Tensor:
    """The same memory, mapped from the file."""
    return torch.from_numpy(tensor.array).view(getattr(torch, tensor.dtype))


class ModelBuilder:
    """A Llama on the meta device that becomes real tensor by tensor."""

    def __init__(
        self,
        config: LlamaConfig,
        expected: ExpectedTensors,
        *,
        dtype: torch.dtype,
        kernel: Callable[[QuantizedWeight, torch.dtype], Kernel] | None = pack,
        prepack: bool = True,
        native: bool = False,
    ) -> None:
        """`native`: plain projections are packed for our kernels, too, not for oneDNN's."""
        with torch.device("meta"):
            self._model = Llama(config)
        self._expected, self._dtype = expected, dtype
        self._kernel, self._prepack, self._native = kernel, prepack, native

    def add(self, name: str, tensor: StoredTensor) -> None:
        """Copies what it needs of the tensor. Raises ModelError for one without a place."""
        match self._expected.take(name, tensor):
            case Plain(canonical, plain):
                self._set(canonical.removeprefix("model."), self._copied(plain))
            case Gathered() as gathered if gathered.complete:
                self._build(gathered)

    def build(self) -> Llama:
        """The model. Raises ModelError if tensors are missing."""
        self._expected.check_complete()
        if (head := self._expected.tied_head) is not None:
            self._build(head, self._model.embed_tokens.weight.data)
        return self._model.requires_grad_(False).eval()

    def _build(self, gathered: Gathered, tied: Tensor | None = None) -> None:
        parts = [self._read(part, tied) for part in gathered.parts]
        self._model.set_submodule(gathered.projection.module, self._built(parts))
        for part in gathered.parts:
            part.found.clear()

    def _read(self, part: Part, tied: Tensor | None) -> _Weighted:
        found = part.found
        bias = self._copied(found["bias"]) if "bias" in found else None
        if part.stored is not None:
            coded = part.stored.read(part.name, found, part.outputs, part.inputs)
            return _Weighted(part, QuantizedWeight.of(coded), bias)
        weight = self._copied(found["weight"]) if tied is None else tied
        if part.scheme is None:
            return _Weighted(part, weight, bias)
        return _Weighted(part, quantize(weight, part.scheme), bias)

    def _built(self, parts: list[_Weighted]) -> nn.Module:
        """One module of all parts where their formats allow it."""
        if self._kernel is None:  # rounded, and put back: for evaluation
            return self._linear([part.plain(self._dtype) for part in parts])
        modules: list[nn.Module] = []
        for run in _alike(parts):
            weights = [p.weight for p in run if isinstance(p.weight, QuantizedWeight)]
            if not weights:
                modules.append(self._linear(run))
                continue
            kernel = self._kernel(stacked(weights), self._dtype)
            modules.append(QuantizedLinear(kernel, _together([p.bias for p in run])))
        return modules[0] if len(modules) == 1 else SplitLinear(modules)

    def _linear(self, parts: list[_Weighted]) -> Linear:
        bias = _together([part.bias for part in parts])
        weight = _together([p.weight for p in parts if isinstance(p.weight, Tensor)])
        with torch.device("meta"):
            linear = Linear(
                parts[0].part.inputs,
                sum(part.part.outputs for part in parts),
                bias=bias is not None,
            )
        linear.weight = None if weight is None else _parameter(weight)
        linear.bias = None if bias is None else _parameter(bias)
        if self._prepack:
            linear.pack(native=self._native, head=parts[0].part.name == HEAD)
        return linear

    def _copied(self, tensor: StoredTensor) -> Tensor:
        return as_torch(tensor).to(self._dtype, copy=True)

    def _set(self, parameter: str, tensor: Tensor) -> None:
        module, _, name = parameter.rpartition(".")
        setattr(self._model.get_submodule(module), name, _parameter(tensor))


@dataclass(frozen=True, slots=True)
class _Weighted:
    """A part with its weight as it will be computed with."""

    part: Part
    weight: Tensor | QuantizedWeight
    bias: Tensor | None

    def plain(self, dtype: torch.dtype) -> _Weighted:
        if isinstance(self.weight, Tensor):
            return self
        return _Weighted(self.part, self.weight.dequantized().to(dtype), self.bias)


def _alike(parts: list[_Weighted]) -> Iterator[list[_Weighted]]:
    """Runs of neighbours that can be one projection."""
    run: list[_Weighted] = []
    for part in parts:
        if run and not _stack(run[0].weight, part.weight):
            yield run
            run = []
        run.append(part)
    yield run


def _stack(a: Tensor | QuantizedWeight, b: Tensor | QuantizedWeight) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor)
    return can_stack([a, b])


def _together(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """One after another; all are None, or none is."""
    found = [tensor for tensor in tensors if tensor is not None]
    if not found:
        return None
    return found[0] if len(found) == 1 else torch.cat(found)


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
