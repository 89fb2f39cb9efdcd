"""Quantized checkpoints as they come from the hub: which format, and reading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from ..errors import ModelError
from .weights import QuantizedWeight


class StoredFormat(Protocol):
    """How a checkpoint keeps its quantized projections."""

    def holds(self, module: str, names: frozenset[str]) -> bool:
        """Whether the projection is quantized in a checkpoint of tensors `names`."""
        ...

    def suffixes(self, module: str, names: frozenset[str]) -> set[str]:
        """The tensors of a quantized projection, less MODULE."""
        ...

    def read(
        self, module: str, tensors: Mapping[str, Tensor], outputs: int, inputs: int
    ) -> QuantizedWeight:
        """The canonical form. Raises ModelError for tensors of other shapes or types."""
        ...


def stored_format(config: Mapping[str, Any]) -> StoredFormat | None:
    """From a config.json; None: the checkpoint is not quantized. Raises ModelError."""
    raw = config.get("quantization_config")
    if raw is None:
        return None
    method = raw.get("quant_method", "unknown") if isinstance(raw, dict) else "unknown"
    raise ModelError(
        f"the checkpoint is quantized ({method}); weights in float32, bfloat16 or float16"
        " are expected: use the unquantized model"
    )
