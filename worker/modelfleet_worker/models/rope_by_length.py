"""Rope of transformers' modules that looks at the longest sequence of the batch: of each its own.

With dynamic and longrope, transformers computes the frequencies of a forward pass from its highest
position. Our batches hold many sequences: the module's own code is called once for all tokens of
one length, with a last position that says the length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..engine.request import ContextVariants
from .interface import reaches_under_way

_DYNAMIC, _LONGROPE = "dynamic", "longrope"
_RECOMPUTE = ("phi3", "phimoe")  # models that compute all keys anew where the long factors begin


def variants_of(config: Any, context: int) -> ContextVariants | None:
    """How keys of a model of transformers depend on the length, within `context` tokens."""
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type")
    if kind not in (_DYNAMIC, _LONGROPE):
        return None
    original: int = config.max_position_embeddings
    if kind == _LONGROPE:
        original = rope["original_max_position_embeddings"]
    if context <= original:
        return None
    return ContextVariants(
        original_context=original,
        by_length=kind == _DYNAMIC,
        recomputes=kind == _LONGROPE
        and config.model_type in _RECOMPUTE
        and hasattr(config, "original_max_position_embeddings"),
    )


def follow_reaches(module: Any) -> None:
    """Each token of a served batch gets the rope of its own sequence's length."""
    for rotary in module.modules():
        if getattr(rotary, "rope_type", None) in (_DYNAMIC, _LONGROPE):
            rotary.forward = partial(_rotations, rotary, rotary.forward)


def _rotations(
    rotary: Any, compute: Callable[..., Any], x: Tensor, position_ids: Tensor
) -> tuple[Tensor, ...]:
    """What `compute` gives for position_ids [1, T], each in a pass of its own length."""
    reaches = reaches_under_way()
    if reaches is None:
        whole: tuple[Tensor, ...] = compute(x, position_ids)
        return whole
    made: list[Tensor] = []
    # To the others only the side of the original length matters.
    lengths = reaches if rotary.rope_type == _DYNAMIC else (reaches > _original(rotary)).long()
    for length in torch.unique(lengths).tolist():
        tokens = torch.nonzero(lengths == length)[:, 0]
        last = reaches[tokens].max()[None, None] - 1
        if rotary.rope_type == _DYNAMIC:  # it remembers the longest one that it has seen
            rotary.max_seq_len_cached = rotary.original_max_seq_len
            rotary.register_buffer("inv_freq", rotary.original_inv_freq, persistent=False)
        parts = compute(x, torch.cat((position_ids[:, tokens], last), dim=1))
        made = made or [p.new_empty(1, len(reaches), *p.shape[2:]) for p in parts]
        for whole_part, part in zip(made, parts, strict=True):
            whole_part[:, tokens] = part[:, :-1]
    return tuple(made)


def _original(rotary: Any) -> int:
    tokens: int = rotary.config.rope_parameters["original_max_position_embeddings"]
    return tokens
