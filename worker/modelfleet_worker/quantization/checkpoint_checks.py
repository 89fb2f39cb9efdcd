"""Checks that all readers of quantized checkpoints share: of settings, of tensors, of groups."""

from __future__ import annotations

import numpy as np

from ..errors import ModelError
from ..models.stored_tensor import Array, StoredTensor

FLOATS = ("float16", "bfloat16", "float32")


def refuse_unless(holds: bool, found: str, expected: str) -> None:
    """Raises ModelError about quantization_config."""
    if not holds:
        raise ModelError(f"quantization_config: {found} is not supported, {expected} is")


def check_tensor(
    module: str, suffix: str, tensor: StoredTensor, shape: tuple[int, ...], *dtypes: str
) -> StoredTensor:
    """The tensor. Raises ModelError if it is not what the module's size asks for."""
    if tensor.shape != shape:
        raise ModelError(
            f"the tensor {module}.{suffix} is {list(tensor.shape)}, but {list(shape)} is expected"
        )
    if tensor.dtype not in dtypes:
        expected = " or ".join(dtypes)
        raise ModelError(f"the tensor {module}.{suffix} is {tensor.dtype}; {expected} is expected")
    return tensor


def order_of_groups(
    module: str, suffix: str, groups_of: StoredTensor, inputs: int, groups: int
) -> Array | None:
    """Inputs, group by group, from the group of each; None: they are so already."""
    array = check_tensor(module, suffix, groups_of, (inputs,), "int32", "int64").array
    order = np.argsort(array, kind="stable")
    if not np.array_equal(array[order], np.arange(inputs) // (inputs // groups)):
        raise ModelError(
            f"{module}.{suffix} does not put {inputs // groups} inputs into each of {groups} groups"
        )
    return None if np.array_equal(order, np.arange(inputs)) else order.astype(np.int64)
