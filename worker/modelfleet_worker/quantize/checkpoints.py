"""`modelfleet quantize`: a checkpoint in, a smaller one out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import ModelError, UsageError
from ..loading.checkpoint import Checkpoint
from ..loading.expert_names import are_ours
from ..loading.model_builder import FLOATS, as_torch
from ..models.config import LlamaConfig, read_config, read_json
from ..models.llama_tensors import projections as all_projections
from ..quantization.scheme import HEAD, Method, Override, Quantization, Scheme, Weights
from ..quantization.stored import stored_format
from ..quantization.weights import quantize
from .calibration import Calibrated, ShareReport, calibrate, default_text, windows
from .plain import load_plain
from .writing import (
    packed_tensors,
    quantization_config,
    refuse_existing,
    write_checkpoint,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """What to do with a checkpoint."""

    method: Method
    group_size: int = 128
    overrides: tuple[Override, ...] = ()
    text: str | None = None  # for calibration; None: the Python reference
    samples: int = 64  # windows of the text

    @property
    def quantization(self) -> Quantization:
        """The head stays as it is: readers of the format expect it, and a tied one has no own."""
        weights = Weights.INT8 if self.method is Method.INT8 else Weights.INT4
        return Quantization(
            weights=weights,
            group_size=self.group_size,
            overrides=(Override(HEAD, Weights.NONE), *self.overrides),
            # With zero points transformers 5.23 does not load compressed-tensors (its model
            # expects them unpacked); without them, all readers do.
            symmetric=True,
        )

    @property
    def calibrates(self) -> bool:
        """Whether the method looks at text."""
        return self.method in (Method.AWQ, Method.GPTQ)


def quantize_checkpoint(
    source: Path, target: Path, options: QuantizeOptions, progress: ShareReport
) -> None:
    """Writes `target`. Raises ModelError and UsageError."""
    refuse_existing(target)
    if (stored := stored_format(read_json(source / "config.json"))) is not None:
        raise ModelError(f"{source} is quantized already ({stored}): start from the original")
    config = read_config(source)
    if config.experts is not None:
        _check_experts(source, options)
    schemes = projections(config, options.quantization)
    calibrated = Calibrated()
    if options.calibrates:
        texts = windows(source, options.text or default_text(), options.samples)
        model = load_plain(source, prepack=False)
        awq = options.method is Method.AWQ
        calibrated = calibrate(model, texts, options.quantization, awq=awq, progress=progress)
    tensors = _tensors(Checkpoint(source), schemes, calibrated, options, progress)
    write_checkpoint(source, target, tensors, quantization_config(schemes))
    progress(1.0)


def _check_experts(source: Path, options: QuantizeOptions) -> None:
    """Raises ModelError and UsageError."""
    if options.calibrates:
        raise UsageError(f"{options.method} does not calibrate experts: use int8 or int4")
    if not are_ours(Checkpoint(source).names()):
        raise ModelError(
            f"{source} has its experts stacked, or under names that the format has no place for:"
            " serve it with spec.quantization, which rounds them while it is loaded"
        )


def projections(config: LlamaConfig, quantization: Quantization) -> dict[str, Scheme]:
    """Names as in the checkpoint of all that is quantized. Raises ModelError if nothing is."""
    ours = [p for p in all_projections(config) if not p.is_router]
    names = [name for projection in ours for name in projection.parts]
    stacks = {p.stack for p in ours if p.stack is not None}
    if unused := quantization.unused_overrides([*names, *stacks]):
        raise ModelError(f"the override {unused[0]} matches no module, like {names[0]}")
    schemes = {name: p.scheme_of(name, quantization) for p in ours for name in p.parts}
    found = {name: scheme for name, scheme in schemes.items() if scheme is not None}
    if not found:
        raise ModelError("no module is left to quantize: leave out overrides")
    return found


def _tensors(
    checkpoint: Checkpoint,
    schemes: dict[str, Scheme],
    calibrated: Calibrated,
    options: QuantizeOptions,
    progress: ShareReport,
) -> Iterator[tuple[str, Tensor]]:
    read = 0
    for name, stored in checkpoint.tensors():
        tensor = as_torch(stored)
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module in schemes:
            if tensor.dtype not in FLOATS or tensor.dim() != 2:
                raise ModelError(f"the tensor {name} is {tensor.dtype} {list(tensor.shape)}")
            weight = calibrated.weights.pop(module, None) or quantize(tensor, schemes[module])
            yield from packed_tensors(module, weight)
        elif name in calibrated.norms:
            yield name, calibrated.norms.pop(name).to(tensor.dtype)
        else:
            yield name, tensor.clone()
        read += tensor.nbytes
        if not options.calibrates:
            progress(read / max(1, checkpoint.total_bytes))
