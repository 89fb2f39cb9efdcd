"""Checks that all readers of quantized checkpoints share: of settings, of tensors, of groups."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ModelError


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
