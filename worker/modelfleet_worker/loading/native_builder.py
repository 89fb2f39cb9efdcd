"""Puts a model for the compiled step together from a checkpoint's mapped tensors.

A projection is laid out straight from the mapped file as soon as its last tensor is there, several
at a time by all cores: only what is rounded or stored in another type is ever in two forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..devices.native.experts import NativeExperts
from ..devices.native.model import NativeLayer, NativeModel
from ..devices.native.packed import Grid, PackedLinear, PlainNumbers, Rows, pack
from ..models.config import LlamaConfig
from ..models.llama_tensors import EMBEDDING, FINAL_NORM, layer_norms
from ..models.stored_tensor import Array, StoredTensor
from ..quantization.coded_weight import can_stack
from ..quantization.scheme import HEAD
from .expected_tensors import ExpectedTensors, Gathered, Part, Plain
from .expert_names import separate

_STEP = 32  # inputs that share a scale of activations: groups are whole steps


class OtherLayoutError(Exception):
    """The compiled step does not take the weights as the checkpoint has them."""


class NativeBuilder:
    """Takes tensors in any order."""

    def __init__(self, config: LlamaConfig, expected: ExpectedTensors) -> None:
        """Raises OtherLayoutError if the parts of a projection differ."""
        self._config, self._expected = config, expected
        self._plain: dict[str, PlainNumbers] = {}
        self._packed: dict[str, PackedLinear] = {}
        self._ones: PlainNumbers | None = None  # the weights of all norms, if they have none
        self._waiting: list[PackedLinear | PlainNumbers] = []
        for gathered in expected.gathered:
            first, *others = gathered.parts
            if any((p.scheme, p.stored) != (first.scheme, first.stored) for p in others):
                raise OtherLayoutError(f"the parts of {gathered.projection.module} differ")

    def add(self, name: str, tensor: StoredTensor) -> None:
        """Raises ModelError for a tensor without a place, and OtherLayoutError."""
        if self._config.experts is None:
            self._add(name, tensor)
        else:
            for own, part in separate(name, tensor):
                self._add(own, part)

    def _add(self, name: str, tensor: StoredTensor) -> None:
        match self._expected.take(name, tensor):
            case Plain(canonical, plain):
                self._plain[canonical] = self._numbers(plain.dtype, plain.array)
                if canonical == EMBEDDING and (head := self._expected.tied_head) is not None:
                    head.parts[0].found["weight"] = plain
                    self._build(head)
            case Gathered() as gathered if gathered.complete:
                self._build(gathered)

    def lay_out(self, threads: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """What is complete; the files' tensors are read here. `meanwhile` as `pack` has it."""
        pack(self._waiting, threads, meanwhile)
        self._waiting.clear()

    def build(self, threads: int, meanwhile: Callable[[], None] = lambda: None) -> NativeModel:
        """The model. Raises ModelError if tensors are missing."""
        self._expected.check_complete()
        if not self._config.design.norm_weights:
            ones = np.ones(self._config.hidden_size, np.float32)
            self._ones = self._numbers("float32", ones)
        self.lay_out(threads, meanwhile)
        return NativeModel(
            config=self._config,
            embeddings=self._plain[EMBEDDING],
            norm=self._ones or self._plain[FINAL_NORM],
            layers=[self._layer(i) for i in range(self._config.layers)],
            head=self._packed[HEAD],
        )

    def _numbers(self, dtype: str, array: Array) -> PlainNumbers:
        made = PlainNumbers(dtype, array)
        self._waiting.append(made)
        return made

    def _layer(self, index: int) -> NativeLayer:
        name = f"layers.{index}"

        def norm(kind: str | None) -> PlainNumbers | None:
            if kind is None:
                return None
            return self._ones or self._plain[f"model.{name}.{kind}.weight"]

        norms, has_norms = layer_norms(self._config), self._config.qk_norm
        return NativeLayer(
            input_norm=norm(norms.input),
            output_norm=norm(norms.output),
            network_norm=norm(norms.network),
            down_norm=norm(norms.down),
            query_norm=norm("self_attn.q_norm") if has_norms else None,
            key_norm=norm("self_attn.k_norm") if has_norms else None,
            qkv=self._packed[f"{name}.self_attn.qkv_proj"],
            output=self._packed[f"{name}.self_attn.o_proj"],
            gate_up=self._packed.get(f"{name}.mlp.gate_up_proj"),
            down=self._packed.get(f"{name}.mlp.down_proj"),
            experts=self._experts(index),
        )

    def _experts(self, index: int) -> NativeExperts | None:
        experts = self._config.experts
        if experts is None or not experts.layers[index]:
            return None
        name = f"layers.{index}.mlp"
        networks = [f"{name}.experts.{i}" for i in range(experts.count)]
        if experts.shared_inner is not None:
            networks.append(f"{name}.shared_expert")
        return NativeExperts(
            experts,
            self._packed[f"{name}.router"],
            [(self._packed[f"{n}.gate_up_proj"], self._packed[f"{n}.down_proj"]) for n in networks],
        )

    def _build(self, gathered: Gathered) -> None:
        parts = gathered.parts
        bias = None
        if gathered.projection.bias:
            found = [part.found["bias"] for part in parts]
            bias = self._numbers("float32", np.concatenate([b.float32() for b in found]))
        rows, grid = _coded(parts) if parts[0].stored is not None else _plain_rows(parts)
        linear = PackedLinear(rows, grid, bias)
        self._packed[gathered.projection.module] = linear
        self._waiting.append(linear)
        for part in parts:
            part.found.clear()


def _plain_rows(parts: Sequence[Part]) -> tuple[list[Rows], Grid | None]:
    weights = [part.found["weight"] for part in parts]
    rows = [Rows(weight.dtype, weight.array) for weight in weights]
    scheme = parts[0].scheme
    if scheme is None:
        return rows, None
    group = scheme.group or parts[0].inputs
    return rows, Grid(bits=scheme.bits, group=group, symmetric=scheme.symmetric)


def _coded(parts: Sequence[Part]) -> tuple[list[Rows], Grid]:
    weights = [
        part.stored.read(part.name, part.found, part.outputs, part.inputs)
        for part in parts
        if part.stored is not None
    ]
    first = weights[0]
    if not can_stack(weights) or first.order is not None or first.group % _STEP:
        raise OtherLayoutError(f"{parts[0].name} has groups that differ or are out of order")
    zeros = [weight.zeros for weight in weights if weight.zeros is not None]
    return [Rows("int8", weight.codes) for weight in weights], Grid(
        bits=first.bits,
        group=first.group,
        symmetric=not zeros,
        scales=np.concatenate([weight.scales for weight in weights]),
        zeros=np.concatenate(zeros) if zeros else None,
    )
