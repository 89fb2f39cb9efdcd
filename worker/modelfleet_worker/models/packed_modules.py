"""Our kernels inside a model of transformers: packed projections, quantized ones and experts.

What is not a projection stays: embeddings, norms, and routers, whose choices everything after
them depends on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.moe import ExpertsInterface

from ..errors import ModelError
from ..quantization.kernels import pack
from ..quantization.scheme import HEAD, Quantization, Scheme, Weights
from ..quantization.weights import quantize
from .linear import Linear, QuantizedLinear

_NAME = "modelfleet"  # of our experts, for transformers
_ROUTERS = ("gate", "router", "shared_expert_gate")  # gate_proj is no router
_LEAST = 0.5  # of the weights beside embeddings: less would not be what was asked for


class FlatLinear(nn.Module):
    """A projection of ours, of inputs of any leading dimensions, in the place of an nn.Linear.

    A head's outputs stay in float32.
    """

    def __init__(
        self, projection: Linear | QuantizedLinear, replaced: nn.Linear, *, is_head: bool
    ) -> None:
        super().__init__()
        self.projection, self._dtype, self._is_head = projection, replaced.weight.dtype, is_head
        # Models ask their weights for type and shape; nothing else exists.
        self.weight = nn.Parameter(replaced.weight.to("meta"), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The projection [..., outputs] of x [..., inputs]. Raises TypeError."""
        flat = _checked(x, self._dtype).reshape(-1, x.shape[-1])
        out: Tensor = self.projection.in_float32(flat) if self._is_head else self.projection(flat)
        return out.view(*x.shape[:-1], out.shape[-1])


def pack_modules(model: Any, quantization: Quantization) -> float:
    """Packs and quantizes in place, one module after another. Raises ModelError.

    Returns the share of the weights that is quantized, without embeddings and head: a large head
    alone would not be what was asked for.
    """
    dtype, head = model.dtype, model.get_output_embeddings()
    apart = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    if head is not None:
        apart.add(id(head.weight))
    total = sum(p.numel() for p in model.parameters() if id(p) not in apart)
    names, covered = [], 0
    for path, module in list(model.named_modules()):
        name = HEAD if module is head else path
        if type(module) is nn.Linear and not _is_router(path):
            names.append(name)
            scheme = quantization.scheme_of(name, module.in_features)
            if scheme and id(module.weight) not in apart:
                covered += module.weight.numel()
            model.set_submodule(path, _packed(module, scheme, is_head=module is head))
        elif _has_experts(module):
            names.append(name)
            if quantized := _quantize_experts(name, module, quantization, dtype):
                covered += quantized
                model.set_experts_implementation(_NAME)
    if unused := quantization.unused_overrides(names):
        raise ModelError(
            f"the override {unused[0]} matches no module; there are {names[0]} and so on to"
            f" {names[-1]}"
        )
    share: float = covered / max(1, total)
    if quantization.weights is not Weights.NONE and not quantization.overrides and share < _LEAST:
        raise ModelError(
            f"only {share:.0%} of its weights are in projections that can be quantized (embeddings"
            " and head not counted): use the model as it is"
        )
    return share


def _packed(linear: nn.Linear, scheme: Scheme | None, *, is_head: bool) -> FlatLinear:
    weight = linear.weight
    if scheme is not None:
        kernel = pack(quantize(weight.data, scheme), weight.dtype)
        return FlatLinear(QuantizedLinear(kernel, linear.bias), linear, is_head=is_head)
    with torch.device("meta"):
        ours = Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    ours.weight, ours.bias = weight, linear.bias
    ours.pack(native=True, head=is_head)
    return FlatLinear(ours, linear, is_head=is_head)


def _checked(x: Tensor, dtype: torch.dtype) -> Tensor:
    # Our kernels read memory without checks.
    if x.dtype != dtype:
        raise TypeError(f"a projection of {dtype} got inputs of {x.dtype}")
    return x


def _is_router(path: str) -> bool:
    return any(part in _ROUTERS for part in path.split("."))


def _has_experts(module: nn.Module) -> bool:
    """Whether it is a stack of experts that transformers' experts interface computes."""
    return (
        isinstance(getattr(module, "down_proj", None), nn.Parameter)
        and hasattr(module, "has_gate")
        and not module.has_post_expert_norm
    )


def _parts(experts: Any) -> tuple[str, str]:
    return ("gate_up_proj" if experts.has_gate else "up_proj"), "down_proj"


def _matrices(experts: Any, part: str) -> Tensor:
    """Its weights [E, outputs, inputs]."""
    stacked: Tensor = getattr(experts, part).data
    return stacked.transpose(1, 2) if experts.is_transposed else stacked


def _quantize_experts(
    name: str, experts: Any, quantization: Quantization, dtype: torch.dtype
) -> int:
    """Replaces stacked weights by a kernel for each expert; returns how many weights."""
    covered = 0
    for part in _parts(experts):
        stacked = _matrices(experts, part)
        scheme = quantization.scheme_of(name, stacked.shape[2])
        if scheme is None:
            continue
        covered += stacked.numel()
        kernels = [pack(quantize(matrix.contiguous(), scheme), dtype) for matrix in stacked]
        experts.experts_dtype = dtype
        delattr(experts, part)
        setattr(experts, part, kernels)
    return covered


def _experts(
    module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """What the chosen experts make of hidden_states [T, hidden]; indices and weights [T, k]."""
    first, second = _parts(module)
    out = torch.zeros_like(hidden_states)
    for expert in torch.unique(top_k_index).tolist():
        tokens, place = torch.where(top_k_index == expert)
        inner = _projected(module, first, expert, hidden_states[tokens])
        inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)  # noqa: SLF001
        made = _projected(module, second, expert, inner) * top_k_weights[tokens, place, None]
        out.index_add_(0, tokens, made.to(out.dtype))
    return out


def _projected(module: Any, part: str, expert: int, x: Tensor) -> Tensor:
    weights = getattr(module, part)
    if isinstance(weights, Tensor):  # this layer's experts stay as they are
        y = functional.linear(x, _matrices(module, part)[expert])
    else:
        y = weights[expert](_checked(x, module.experts_dtype))
    return y + getattr(module, f"{part}_bias")[expert] if module.has_bias else y


ExpertsInterface.register(_NAME, _experts)
