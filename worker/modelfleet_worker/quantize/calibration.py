"""Quantizes a model layer by layer by what its layers see of real text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..errors import UsageError
from ..models.linear import Linear
from ..models.llama import Layer, Llama
from ..models.llama_tensors import parts_of
from ..quantization.scheme import Quantization, Scheme
from ..quantization.weights import QuantizedWeight, quantize
from .awq_scaling import best_scales
from .gptq_rounding import round_by_gptq
from .plain import CausalAttention, rope

WINDOW = 512  # tokens of each piece of text
ShareReport = Callable[[float], None]


def default_text() -> str:
    """The reference of the Python language: real English that every Python carries."""
    import pydoc_data.topics

    return "\n".join(pydoc_data.topics.topics.values())


def windows(folder: Path, text: str, count: int | None = None) -> list[Tensor]:
    """Token ids [WINDOW] of pieces spread over the text; all of them unless `count` says fewer.

    Raises UsageError for a text that is too short.
    """
    from ..text.huggingface import HuggingFaceTokenizer

    ids = torch.tensor(HuggingFaceTokenizer(folder).encode(text, add_special_tokens=False))
    pieces = list(ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW))
    if len(pieces) < max(1, count or 1):
        raise UsageError(
            f"expected a text of at least {max(1, count or 1) * WINDOW} tokens, found {len(ids)}:"
            " give a longer one, or ask for fewer samples"
        )
    return pieces if count is None else pieces[:: len(pieces) // count][:count]


@dataclass(slots=True)
class Seen:
    """What a projection saw: the sum of x xT [K, K] and of |x| [K].

    `alike`: of tokens of the length 1. Else one in 512 may be all that counts: the first of a text
    (Sun et al. 2024, arXiv 2402.17762) has 50 times the length of others in SmolLM2, and GPTQ kept
    it exact at 20 times the error of all others. AWQ does better with what is large left large.
    """

    hessian: Tensor
    size: Tensor
    alike: bool
    tokens: int = 0

    def add(self, x: Tensor) -> None:
        """Inputs [T, K] of some tokens."""
        x = torch.nn.functional.normalize(x, dim=-1) if self.alike else x
        self.hessian.addmm_(x.t(), x)
        self.size += x.abs().sum(0)
        self.tokens += len(x)


@dataclass(slots=True)
class Calibrated:
    """By names of the checkpoint: rounded projections, and norms that AWQ changed."""

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)


@torch.inference_mode()
def calibrate(
    model: Llama,
    texts: list[Tensor],
    quantization: Quantization,
    *,
    awq: bool,
    progress: ShareReport,
) -> Calibrated:
    """Rounds all layers by AWQ, or else by GPTQ. The model has plain weights; it is changed."""
    result = Calibrated()
    cos, sin = rope(model, len(texts[0]))
    hidden: list[Tensor] = [model.embed_tokens(ids) for ids in texts]
    layers, attention = cast("list[Layer]", list(model.layers)), CausalAttention(model.config)
    for i, layer in enumerate(layers):
        seen = _observe(layer, hidden, cos, sin, attention, alike=not awq)
        if awq:
            _scale(model, layer, seen, quantization, f"layers.{i}")
            name = f"model.layers.{i}"
            result.norms |= {
                f"{name}.input_layernorm.weight": layer.input_layernorm.weight.clone(),
                f"{name}.post_attention_layernorm.weight": (
                    layer.post_attention_layernorm.weight.clone()
                ),
            }
        for name, linear in _projections(layer):
            rounded = _round(model, linear, f"layers.{i}.{name}", seen[name], quantization, awq)
            result.weights |= rounded
        hidden = [layer(x, cos, sin, attention) for x in hidden]
        progress((i + 1) / len(layers))
    return result


def _projections(layer: Layer) -> Iterator[tuple[str, Linear]]:
    return ((name, m) for name, m in layer.named_modules() if isinstance(m, Linear))


def _observe(
    layer: Layer,
    hidden: list[Tensor],
    cos: Tensor,
    sin: Tensor,
    attention: CausalAttention,
    *,
    alike: bool,
) -> dict[str, Seen]:
    seen: dict[str, Seen] = {}
    hooks = []
    for name, linear in _projections(layer):
        inputs = linear.inputs
        seen[name] = Seen(torch.zeros(inputs, inputs), torch.zeros(inputs), alike)

        def watch(_: object, args: tuple[Tensor], own: Seen = seen[name]) -> None:
            own.add(args[0])

        hooks.append(linear.register_forward_pre_hook(watch))
    for x in hidden:
        layer(x, cos, sin, attention)
    for hook in hooks:
        hook.remove()
    return seen


def _schemes(
    model: Llama, linear: Linear, name: str, quantization: Quantization
) -> dict[str, tuple[int, Scheme | None]]:
    """The parts of a projection as the checkpoint has them: outputs and scheme."""
    parts = parts_of(model.config, name)
    return {p: (n, quantization.scheme_of(p, linear.inputs)) for p, n in parts.items()}


def _round(
    model: Llama,
    linear: Linear,
    name: str,
    seen: Seen,
    quantization: Quantization,
    awq: bool,
) -> dict[str, QuantizedWeight]:
    """Also puts what was rounded into the model: later layers see what it computes."""
    rounded: dict[str, QuantizedWeight] = {}
    row = 0
    for part, (outputs, scheme) in _schemes(model, linear, name, quantization).items():
        weight = _weight(linear)[row : row + outputs]
        row += outputs
        if scheme is None:
            continue
        rounded[part] = (
            quantize(weight, scheme) if awq else round_by_gptq(weight, seen.hessian, scheme)
        )
        weight.copy_(rounded[part].dequantized())
    return rounded


def _scale(
    model: Llama, layer: Layer, seen: dict[str, Seen], quantization: Quantization, prefix: str
) -> None:
    """AWQ's scales, undone in the norm before, or in the rows of `up` before `down`."""
    for name, before in (
        ("self_attn.qkv_proj", layer.input_layernorm.weight),
        ("mlp.gate_up_proj", layer.post_attention_layernorm.weight),
        ("mlp.down_proj", None),
    ):
        linear = layer.get_submodule(name)
        if not isinstance(linear, Linear):
            raise AssertionError("calibration needs plain weights")
        schemes = {s for _, s in _schemes(model, linear, f"{prefix}.{name}", quantization).values()}
        scheme = schemes.pop()
        if schemes or scheme is None:
            continue  # parts of different formats have no scale in common
        own = seen[name]
        scales = best_scales(_weight(linear), own.hessian, own.size / own.tokens, scheme)
        if before is not None:
            # As the checkpoint will have the norm: what rounding it changes, the weights undo.
            norm = before.data.clone()
            before.data.copy_((norm / scales).to(torch.bfloat16))
            scales = torch.where(before.data == 0, scales, norm / before.data)
        _weight(linear).mul_(scales)
        if before is None:
            gate_up = layer.mlp.gate_up_proj
            _weight(gate_up)[len(scales) :].div_(scales[:, None])
            if gate_up.bias is not None:
                gate_up.bias.data[len(scales) :].div_(scales)


def _weight(linear: Linear) -> Tensor:
    if linear.weight is None:
        raise AssertionError("calibration needs plain weights")
    return linear.weight.data
