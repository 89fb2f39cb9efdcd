"""Quantized checkpoints as they come from the hub: which format one has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import ModelError
from ..models.stored_tensor import StoredTensor
from .awq import Awq
from .coded_weight import CodedWeight
from .compressed import CompressedTensors
from .gptq import Gptq


class StoredFormat(Protocol):
    """How a checkpoint keeps its quantized projections; str() names it."""

    def holds(self, module: str, names: frozenset[str]) -> bool:
        """Whether the projection is quantized in a checkpoint of tensors `names`."""
        ...

    def suffixes(self, module: str, names: frozenset[str]) -> set[str]:
        """The tensors of a quantized projection, less MODULE and its bias."""
        ...

    def read(
        self, module: str, tensors: Mapping[str, StoredTensor], outputs: int, inputs: int
    ) -> CodedWeight:
        """The canonical form. Raises ModelError for tensors of other shapes or types."""
        ...


def stored_format(config: Mapping[str, Any]) -> StoredFormat | None:
    """From a config.json; None: the checkpoint is not quantized. Raises ModelError."""
    raw = config.get("quantization_config", config.get("compression_config"))
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise ModelError(f"config.json: quantization_config is {raw!r}: an object is expected")
    match raw.get("quant_method"):
        case "awq":
            return Awq.parse(raw)
        case "gptq":
            return Gptq.parse(raw)
        case "compressed-tensors":
            return CompressedTensors.parse(raw)
        case method:
            raise ModelError(
                f"the checkpoint is quantized by {method!r}, which is not supported; awq, gptq and"
                " compressed-tensors are: use one of these, or the unquantized model"
            )
