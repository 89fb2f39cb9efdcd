"""Which model a worker holds and how it runs it, however it was told: flags or LoadModel."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet_proto import worker_pb2 as pb

from .errors import InvalidRequestError
from .quantization.scheme import (
    AS_STORED,
    KVFormat,
    Override,
    Quantization,
    Weights,
    read_kv_format,
    read_weights,
)
from .task import Task
from .text.output.styles import AUTO, REASONING_PARSERS, TOOL_PARSERS

_FULL_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class Dtype(enum.StrEnum):
    """The type that weights and activations are computed in."""

    AUTO = "Auto"  # the checkpoint's own
    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"


class GenerationDefaults(enum.StrEnum):
    """What decides sampling where a request does not."""

    CHECKPOINT = "Checkpoint"  # generation_config.json, where it says something
    NONE = "None"  # the API alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Raises InvalidRequestError for what can never be loaded, whatever the source holds."""

    model: str  # "namespace/name" of the deployment
    source: str  # see sources.parse_source
    revision: str = "main"
    dtype: Dtype = Dtype.AUTO
    quantization: Quantization = AS_STORED
    context_length: int | None = None  # tokens; None: the model's own
    max_sequences: int | None = None  # slots; None: 64, or the calibration's
    max_batch_tokens: int = 2048
    kv_cache_bytes: int | None = None  # None: a share of the memory that is free after loading
    prefix_caching: bool = True
    deterministic: bool = False  # refuse a device whose answers depend on the batch
    generation_defaults: GenerationDefaults = GenerationDefaults.CHECKPOINT
    tool_parser: str = AUTO  # one of TOOL_PARSERS
    reasoning_parser: str = AUTO  # one of REASONING_PARSERS
    task: Task = Task.AUTO

    def __post_init__(self) -> None:
        if not _FULL_NAME.fullmatch(self.model):
            raise InvalidRequestError(
                f"expected the model's name as namespace/name, found {self.model!r}"
            )
        if not self.source:
            raise InvalidRequestError(
                f"{self.model} has no source: expected one like hf://OWNER/NAME or file:///PATH"
            )
        _check_name("tool parser", self.tool_parser, TOOL_PARSERS)
        _check_name("reasoning parser", self.reasoning_parser, REASONING_PARSERS)
        sizes = {
            "context length": self.context_length,
            "max sequences": self.max_sequences,
            "max batch tokens": self.max_batch_tokens,
            "KV cache size": self.kv_cache_bytes,
        }
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise InvalidRequestError(f"{name} must be at least 1, found {size}")

    @classmethod
    def from_proto(cls, spec: pb.ModelSpec) -> ModelSpec:
        """Empty and zero fields are the defaults."""
        return cls(
            model=spec.model,
            source=spec.source,
            revision=spec.revision or "main",
            dtype=read_dtype(spec.dtype) if spec.dtype else Dtype.AUTO,
            quantization=_quantization(spec.quantization),
            context_length=spec.context_length or None,
            max_sequences=spec.max_sequences or None,
            max_batch_tokens=spec.max_batch_tokens or 2048,
            kv_cache_bytes=spec.kv_cache_bytes or None,
            prefix_caching=not spec.disable_prefix_caching,
            deterministic=spec.deterministic,
            generation_defaults=_generation_defaults(spec.generation_defaults),
            tool_parser=spec.tool_parser or AUTO,
            reasoning_parser=spec.reasoning_parser or AUTO,
            task=_task(spec.task),
        )


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InvalidRequestError(f"expected a {what} of {', '.join(known)}, found {name[:40]!r}")


def _quantization(told: pb.Quantization) -> Quantization:
    return Quantization(
        weights=read_weights(told.weights) if told.weights else Weights.NONE,
        group_size=told.group_size or AS_STORED.group_size,
        overrides=tuple(Override(o.modules, read_weights(o.weights)) for o in told.overrides),
        kv_cache=read_kv_format(told.kv_cache) if told.kv_cache else KVFormat.AUTO,
    )


def _generation_defaults(name: str) -> GenerationDefaults:
    try:
        return GenerationDefaults(name) if name else GenerationDefaults.CHECKPOINT
    except ValueError as error:
        known = ", ".join(GenerationDefaults)
        raise InvalidRequestError(
            f"expected generation defaults of {known}, found {name!r}"
        ) from error


def _task(name: str) -> Task:
    try:
        return Task(name) if name else Task.AUTO
    except ValueError as error:
        raise InvalidRequestError(
            f"expected a task of {', '.join(Task)}, found {name!r}"
        ) from error


def read_dtype(name: str) -> Dtype:
    """Raises InvalidRequestError with the names that exist."""
    try:
        return Dtype(name)
    except ValueError as error:
        known = ", ".join(Dtype)
        raise InvalidRequestError(f"expected a dtype of {known}, found {name!r}") from error
