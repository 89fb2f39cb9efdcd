"""Experts as checkpoints name and stack them, brought to one form. Imports no torch.

Transformers renames them, too, while it loads and saves (conversion_mapping.py of 5.23). What
it calls its own modules' tensors (all experts of a layer in one) may be in a checkpoint as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..errors import ModelError
from ..models.stored_tensor import StoredTensor

_RENAMED = (
    # Granite's stacks and router
    (".block_sparse_moe.input_linear.weight", ".mlp.experts.gate_up_proj"),
    (".block_sparse_moe.output_linear.weight", ".mlp.experts.down_proj"),
    (".block_sparse_moe.router.layer.", ".mlp.gate."),
    (".block_sparse_moe.router.", ".mlp.gate."),
    # Mixtral's
    (".block_sparse_moe.", ".mlp."),
    (".w1.weight", ".gate_proj.weight"),
    (".w3.weight", ".up_proj.weight"),
    (".w2.weight", ".down_proj.weight"),
)
_STACK = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)")


def are_ours(names: Iterable[str]) -> bool:
    """Whether a checkpoint has its experts one by one and under our names, as Qwen's and OLMoE."""
    return all(_ours(name) == name and not _STACK.fullmatch(name) for name in names)


def separate(name: str, tensor: StoredTensor) -> Iterator[tuple[str, StoredTensor]]:
    """The tensor under our name for it; of a stack [experts, outputs, inputs] each matrix.

    Raises ModelError for a stack of another shape.
    """
    name = _ours(name)
    stack = _STACK.fullmatch(name)
    if stack is None:
        yield name, tensor
        return
    if len(tensor.shape) != 3:
        raise ModelError(
            f"the tensor {name} is {list(tensor.shape)}, but experts, outputs and inputs are"
            " expected"
        )
    experts, kind = stack.groups()
    for i, matrix in enumerate(tensor.array):
        if kind == "down_proj":
            parts = {kind: matrix}
        else:  # the gate's outputs come first
            half = len(matrix) // 2
            parts = {"gate_proj": matrix[:half], "up_proj": matrix[half:]}
        for part, rows in parts.items():
            yield f"{experts}.{i}.{part}.weight", StoredTensor(tensor.dtype, rows)


def _ours(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name
