"""Puts a model together from a checkpoint's tensors in whatever order they come.

A projection is quantized and packed as soon as its last tensor is there, so that there is never
more than one layer in two forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..models.config import LlamaConfig
from ..models.linear import Linear, QuantizedLinear, SplitLinear
from ..models.llama import Llama
from ..quantization.kernels import Kernel, pack
from ..quantization.scheme import HEAD, Quantization
from ..quantization.stored import StoredFormat
from ..quantization.weights import QuantizedWeight, can_stack, quantize, stacked
from .tied_head import EMBEDDING, HEAD_WEIGHT

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(slots=True, kw_only=True)
class Part:
    """A projection as the checkpoint has it: alone, or one of those that we merge."""

    name: str  # model.layers.0.self_attn.q_proj
    inputs: int
    outputs: int
    bias: bool
    stored: bool  # quantized in the checkpoint
    missing: set[str]  # suffixes: weight, bias, or those of the stored format
    found: dict[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class _Projection:
    module: str  # layers.0.self_attn.qkv_proj
    parts: list[Part]

    @property
    def complete(self) -> bool:
        return not any(part.missing for part in self.parts)


class ModelBuilder:
    """A Llama on the meta device that becomes real tensor by tensor."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        dtype: torch.dtype,
        quantization: Quantization,
        stored: StoredFormat | None,
        names: frozenset[str],
        kernel: Callable[[QuantizedWeight, torch.dtype], Kernel] | None = pack,
        prepack: bool = True,
        native: bool = False,
    ) -> None:
        """`native`: plain projections are packed for our kernels, too, not for oneDNN's."""
        with torch.device("meta"):
            self._model = Llama(config)
        self._config, self._dtype = config, dtype
        self._quantization, self._stored = quantization, stored
        self._kernel, self._prepack, self._native = kernel, prepack, native
        self._plain: dict[str, str] = {}  # a tensor's name -> the parameter that it is
        self._suffixes: dict[str, tuple[_Projection, Part, str]] = {}
        self._modules: list[str] = []
        names = frozenset(map(canonical_name, names))
        for name, module in self._model.named_modules():
            if isinstance(module, Linear):
                self._expect_projection(_Projection(name, self._parts(name, module, names)))
            else:
                for parameter, _ in module.named_parameters(recurse=False):
                    self._plain[f"model.{name}.{parameter}"] = f"{name}.{parameter}"
        if config.tied_embeddings and EMBEDDING not in names and HEAD_WEIGHT in names:
            self._plain[HEAD_WEIGHT] = self._plain.pop(EMBEDDING)  # one for both, as transformers
        if unused := quantization.unused_overrides(self._modules):
            raise ModelError(
                f"the override {unused[0]} matches no module; there are {self._modules[0]} and so"
                f" on to {self._modules[-1]}"
            )

    def _parts(self, name: str, module: Linear, names: frozenset[str]) -> list[Part]:
        parts = []
        for full, outputs in stored_parts(self._config, name, module.outputs).items():
            missing = {"weight"}
            stored = self._stored is not None and self._stored.holds(full, names)
            if self._stored is not None and stored:
                missing = self._stored.suffixes(full, names)
                if self._quantization.scheme_of(full, module.inputs) is not None:
                    raise ModelError(
                        f"{full} is quantized already ({self._stored}): ask for no quantization of"
                        " it, or use the unquantized model"
                    )
            if module.bias is not None:
                missing.add("bias")
            parts.append(
                Part(
                    name=full,
                    inputs=module.inputs,
                    outputs=outputs,
                    bias=module.bias is not None,
                    stored=stored,
                    missing=missing,
                )
            )
        return parts

    def _expect_projection(self, projection: _Projection) -> None:
        self._modules += [part.name for part in projection.parts]
        if projection.module == HEAD and self._config.tied_embeddings:
            return  # built from the embedding at the end
        for part in projection.parts:
            for suffix in part.missing:
                self._suffixes[f"{part.name}.{suffix}"] = projection, part, suffix

    def add_tensor(self, name: str, tensor: Tensor) -> bool:
        """Copies what it needs of the tensor; False: it has no place here. Raises ModelError."""
        name = canonical_name(name)
        if name in self._plain:
            parameter = self._plain.pop(name)
            self._set(parameter, self._checked(name, tensor, self._shape(parameter)))
            return True
        if name not in self._suffixes:
            return False
        projection, part, suffix = self._suffixes.pop(name)
        if suffix == "bias":
            part.found[suffix] = self._checked(name, tensor, (part.outputs,))
        elif part.stored:
            part.found[suffix] = tensor.clone()
        else:
            part.found[suffix] = self._checked(name, tensor, (part.outputs, part.inputs))
        part.missing.remove(suffix)
        if projection.complete:
            self._replace(projection.module, self._built(projection))
            for done in projection.parts:
                done.found.clear()
        return True

    def build(self) -> Llama:
        """The model. Raises ModelError if tensors are missing."""
        if missing := sorted([*self._plain, *self._suffixes]):
            raise ModelError(f"lacks {len(missing)} tensors, the first is {missing[0]}")
        model = self._model
        if self._config.tied_embeddings:
            head = model.lm_head
            part = Part(
                name=HEAD,
                inputs=head.inputs,
                outputs=head.outputs,
                bias=False,
                stored=False,
                missing=set(),
                found={"weight": model.embed_tokens.weight.data},
            )
            self._replace(HEAD, self._built(_Projection(HEAD, [part])))
        return model.requires_grad_(False).eval()

    def _built(self, projection: _Projection) -> nn.Module:
        """One module of all parts where their formats allow it."""
        if self._kernel is None:  # rounded, and put back: for evaluation
            for part in projection.parts:
                if (weight := self._quantized(part)) is not None:
                    part.found["weight"] = weight.dequantized().to(self._dtype)
            return self._linear(projection.parts)
        runs = list(_alike([(part, self._quantized(part)) for part in projection.parts]))
        modules: list[nn.Module] = []
        for run in runs:
            parts = [part for part, _ in run]
            weights = [weight for _, weight in run if weight is not None]
            if not weights:
                modules.append(self._linear(parts))
                continue
            bias = torch.cat([p.found["bias"] for p in parts]) if parts[0].bias else None
            modules.append(QuantizedLinear(self._kernel(stacked(weights), self._dtype), bias))
        return modules[0] if len(modules) == 1 else SplitLinear(modules)

    def _quantized(self, part: Part) -> QuantizedWeight | None:
        if part.stored and self._stored is not None:
            return self._stored.read(part.name, part.found, part.outputs, part.inputs)
        scheme = self._quantization.scheme_of(part.name, part.inputs)
        return None if scheme is None else quantize(part.found.pop("weight"), scheme)

    def _linear(self, parts: list[Part]) -> Linear:
        with torch.device("meta"):
            outputs = sum(part.outputs for part in parts)
            linear = Linear(parts[0].inputs, outputs, bias=parts[0].bias)
        linear.weight = _parameter([part.found["weight"] for part in parts])
        if parts[0].bias:
            linear.bias = _parameter([part.found["bias"] for part in parts])
        if self._prepack:
            linear.pack(native=self._native, head=parts[0].name == HEAD)
        return linear

    def _checked(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A copy of a tensor of weights, in the model's type."""
        if tensor.shape != shape:
            raise ModelError(
                f"the tensor {name} is {list(tensor.shape)}, but config.json asks for {list(shape)}"
            )
        if tensor.dtype not in FLOATS:
            raise ModelError(
                f"the tensor {name} is {tensor.dtype}; float32, bfloat16 or float16 is expected"
            )
        return tensor.to(self._dtype, copy=True)

    def _shape(self, parameter: str) -> tuple[int, ...]:
        return tuple(self._model.get_parameter(parameter).shape)

    def _set(self, parameter: str, tensor: Tensor) -> None:
        module, _, name = parameter.rpartition(".")
        setattr(self._model.get_submodule(module), name, _parameter([tensor]))

    def _replace(self, module: str, by: nn.Module) -> None:
        self._model.set_submodule(module, by)


def canonical_name(name: str) -> str:
    """As transformers: names of a base model's checkpoint lack "model.", some heads' have it."""
    if name.startswith(("layers.", "embed_tokens.", "norm.")):
        return f"model.{name}"
    return name.removeprefix("model.") if name.startswith(f"model.{HEAD}.") else name


def stored_parts(config: LlamaConfig, name: str, outputs: int) -> dict[str, int]:
    """A projection of ours as checkpoints have it: names, and the outputs of each in our order."""
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    inner = config.intermediate_size
    merged = {
        "qkv_proj": {"q_proj": query, "k_proj": key, "v_proj": key},
        "gate_up_proj": {"gate_proj": inner, "up_proj": inner},
    }
    if name == HEAD:
        return {HEAD: outputs}
    parent, _, own = name.rpartition(".")
    return {f"model.{parent}.{p}": n for p, n in merged.get(own, {own: outputs}).items()}


_Weighted = tuple[Part, QuantizedWeight | None]


def _alike(parts: list[_Weighted]) -> Iterator[list[_Weighted]]:
    """Runs of neighbours that can be one projection."""
    run: list[_Weighted] = []
    for part in parts:
        if run and not _together(run[0][1], part[1]):
            yield run
            run = []
        run.append(part)
    yield run


def _together(a: QuantizedWeight | None, b: QuantizedWeight | None) -> bool:
    if a is None or b is None:
        return a is b
    return can_stack([a, b])


def _parameter(tensors: list[Tensor]) -> nn.Parameter:
    whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return nn.Parameter(whole, requires_grad=False)
