"""Checks that a model computes the same with our attention as with its own, before it serves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..devices.torch.paged_attention import KVCache
from ..devices.torch.runner import FlatBatch
from ..devices.torch.varied_attention import AttentionLayer, VariedAttention
from ..engine.request import ContextVariants, Request, Sequence
from ..engine.scheduler import BLOCK_SIZE, Chunk
from ..errors import ModelError
from ..models.generic import GenericModel, forward
from ..models.interface import NAME, Recording, under_way

_TOKENS = 24  # of the prompt: more than a block
# A chunk's tokens of the prompt, and of the neighbour in the same batch.
_STEPS = ((9, _TOKENS - 1), (14, 1), (1, 0))
# How far logits may be from the model's own, as a share of their length: rounding, no more. Where
# a model multiplies rounding (near ties of a router do), three times what lies between the two
# attentions of transformers, but never so much that another attention could pass.
_EXACT, _ROUNDED, _NOISY = 1e-3, 0.1, 0.5


@torch.inference_mode()
def check_attention(
    module: Any,
    dtype: torch.dtype,
    context: int,
    expected_layers: int,
    variants: ContextVariants | None = None,
) -> tuple[list[AttentionLayer], int]:
    """How the layers attend, and the size of the vocabulary. Raises ModelError.

    Compares the logits of a short prompt that the model computes with its own attention with those
    that it computes with ours, where the prompt comes in chunks beside another request's.
    """
    tokens = min(_TOKENS, context)
    ids = (torch.arange(tokens) * 7919 + 3) % module.get_input_embeddings().weight.shape[0]
    recording = Recording(context)
    try:
        expected = _logits(module, ids, "eager")
        with under_way(recording):
            _logits(module, ids, NAME)
        layers = recording.layers
        # Some attend more than once in each layer: the comparison below says whether that fits.
        if not layers or len(layers) % expected_layers:
            raise ModelError(
                f"its {expected_layers} layers attend {len(layers)} times through transformers'"
                " attention interface: some have attention of their own, or none"
            )
        found = _paged_logits(GenericModel(module, layers, dtype, variants), ids.tolist())
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelError(
            "transformers could not compute the model on a short prompt:"
            f" {type(error).__name__}: {error}"
        ) from error
    distance = _distance(found, expected)
    limit = _EXACT if dtype == torch.float32 else _ROUNDED
    if distance > _ROUNDED == limit:
        limit = min(max(3 * _noise(module, ids, expected), limit), _NOISY)
    if not distance <= limit:  # not a number is refused as well
        raise ModelError(
            f"with our attention its logits are {distance:.1%} away from its own, {limit:.1%} would"
            " be rounding: it depends on more than the arguments of its attention say"
        )
    return layers, expected.shape[-1]


def _logits(module: Any, ids: Tensor, attention: str) -> Tensor:
    """Of all of ids [T], [T, vocab]."""
    module.set_attn_implementation(attention)
    # Named, as in every step: to a number of last ones some models cut their masks (Gemma 4).
    return forward(module, ids, logits_to_keep=torch.arange(len(ids)))


def _noise(module: Any, ids: Tensor, expected: Tensor) -> float:
    """How far transformers' other attention is from the expected logits; 0 without one."""
    try:
        return _distance(_logits(module, ids, "sdpa"), expected)
    except ValueError:
        return 0.0
    finally:
        module.set_attn_implementation(NAME)


def _paged_logits(model: GenericModel, ids: list[int]) -> Tensor:
    """Logits [T, vocab] of `ids`, computed in chunks beside another sequence, as an engine does."""
    blocks = 2 * (_TOKENS // BLOCK_SIZE + 1)
    shapes = [layer.shape for layer in model.layers]
    cache = KVCache(shapes, num_blocks=blocks, dtype=model.dtype)
    ours, neighbour = _sequence(ids), _sequence(ids[::-1])
    ours.block_table, neighbour.block_table = list(range(0, blocks, 2)), list(range(1, blocks, 2))
    logits = []
    for steps in _STEPS:
        chunks = [
            Chunk.of(sequence, budget)
            for sequence, budget in zip((ours, neighbour), steps, strict=True)
            if budget and sequence.num_uncomputed
        ]
        if chunks and chunks[0].sequence is ours:
            logits.append(_step(model, cache, chunks))
        for chunk in chunks:
            chunk.sequence.num_computed = chunk.end
    return torch.cat(logits)


def _step(model: GenericModel, cache: KVCache, chunks: list[Chunk]) -> Tensor:
    """Logits of the tokens of the first of `chunks`."""
    batch = FlatBatch.of(chunks)
    first = 0
    for chunk in batch.chunks:
        if chunk.sequence is chunks[0].sequence:
            break
        first += chunk.num_scheduled_tokens
    rows = torch.arange(first, first + chunks[0].num_scheduled_tokens)
    attention = VariedAttention(cache, model.layers, batch.chunks)
    reaches = batch.reaches(model.variants) if model.variants else None
    return model.logits(batch.ids, batch.positions, attention, rows, reaches)


def _sequence(ids: list[int]) -> Sequence:
    return Sequence(Request(request_id="attention-check", prompt_ids=tuple(ids), max_tokens=1))


def _distance(found: Tensor, expected: Tensor) -> float:
    """Mean over tokens of the share of the centred logits' length that they are apart."""
    centred = expected - expected.mean(-1, keepdim=True)
    return float(((found - expected).norm(dim=-1) / centred.norm(dim=-1)).mean())
