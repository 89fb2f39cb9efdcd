"""Quantized checkpoints as they come from the hub: which format one has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ModelError
from .weights import QuantizedWeight


class StoredFormat(Protocol):
    """How a checkpoint keeps its quantized projections; str() names it."""

    def holds(self, module: str, names: frozenset[str]) -> bool:
        """Whether the projection is quantized in a checkpoint of tensors `names`."""
        ...

    def suffixes(self, module: str, names: frozenset[str]) -> set[str]:
        """The tensors of a quantized projection, less MODULE and its bias."""
        ...

    def read(
        self, module: str, tensors: Mapping[str, Tensor], outputs: int, inputs: int
    ) -> QuantizedWeight:
        """The canonical form. Raises ModelError for tensors of other shapes or types."""
        ...


def stored_format(config: Mapping[str, Any]) -> StoredFormat | None:
    """From a config.json; None: the checkpoint is not quantized. Raises ModelError."""
    # Imported here: they import this module.
    from .awq import Awq
    from .compressed import CompressedTensors
    from .gptq import Gptq

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


def refuse_unless(holds: bool, found: str, expected: str) -> None:
    """Raises ModelError about quantization_config."""
    if not holds:
        raise ModelError(f"quantization_config: {found} is not supported, {expected} is")


def check_tensor(
    module: str, suffix: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype
) -> Tensor:
    """The tensor. Raises ModelError if it is not what the module's size asks for."""
    if tuple(tensor.shape) != shape:
        raise ModelError(
            f"the tensor {module}.{suffix} is {list(tensor.shape)}, but {list(shape)} is expected"
        )
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise ModelError(f"the tensor {module}.{suffix} is {tensor.dtype}; {expected} is expected")
    return tensor


def order_of_groups(
    module: str, suffix: str, groups_of: Tensor, inputs: int, groups: int
) -> Tensor | None:
    """Inputs, group by group, from the group of each; None: they are so already."""
    check_tensor(module, suffix, groups_of, (inputs,), torch.int32, torch.int64)
    ordered, order = torch.sort(groups_of.long(), stable=True)
    if not ordered.equal(torch.arange(inputs) // (inputs // groups)):
        raise ModelError(
            f"{module}.{suffix} does not put {inputs // groups} inputs into each of {groups} groups"
        )
    return None if order.equal(torch.arange(inputs)) else order
