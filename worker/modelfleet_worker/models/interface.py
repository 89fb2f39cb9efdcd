"""Our attention behind transformers' attention interface.

transformers calls one function for every attention of every model. The forward pass that is under
way decides what a call does: a `Recording` learns how the layers of a model attend, a `Serving`
computes them over the paged cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ..devices.torch.paged_attention import LayerShape
from ..devices.torch.varied_attention import AttentionLayer
from ..errors import ModelError
from .llama import Attention

NAME = "modelfleet"  # of our attention, for transformers
_HARMLESS = ("position_ids",)  # tensors of a call that its attention does not depend on

# (batch, head, query's position, key's position) -> whether it is seen; of tensors, too.
_Seen = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class ForwardPass(Protocol):
    """One forward pass through a model."""

    def mask(self, seen: _Seen, tokens: int) -> Tensor | None:
        """What the model shall hand to its layers as their mask."""
        ...

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> Tensor:
        """The attention of query [1, H, T, D] to key and value [1, G, T, D], [1, T, H, D]."""
        ...


# Not an argument of forward(): not every model hands those down to its attention.
_under_way: ContextVar[ForwardPass] = ContextVar("modelfleet_step")


@contextmanager
def under_way(forward: ForwardPass) -> Iterator[None]:
    """Attention called within is this pass's."""
    token = _under_way.set(forward)
    try:
        yield
    finally:
        _under_way.reset(token)


def reaches_under_way() -> Tensor | None:
    """The length by which each token of the pass is computed, [T]; None: nothing looks at it."""
    forward = _under_way.get(None)
    return forward.reaches if isinstance(forward, Serving) else None


class Serving:
    """Layers are told apart by the order in which they attend."""

    def __init__(self, attention: Attention, reaches: Tensor | None = None) -> None:
        self._attention, self._layer = attention, 0
        self.reaches = reaches

    def mask(self, seen: _Seen, tokens: int) -> None:
        """None: the cache knows what each token sees; a [T, T] mask would be wrong and large."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> Tensor:
        """The attention of query [1, H, T, D] to key and value [1, G, T, D], [1, T, H, D]."""
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        out = self._attention.attend(self._layer, q, k, v)
        self._layer += 1
        return out[None]


class Recording:
    """Learns the layers of a model; what they compute meanwhile is nonsense."""

    def __init__(self, context: int) -> None:
        """`context`: tokens that windows are looked for in."""
        self.layers: list[AttentionLayer] = []
        self._context = context
        self._masks: list[tuple[Tensor, _Seen]] = []

    def mask(self, seen: _Seen, tokens: int) -> Tensor:
        """A dummy tensor that identifies the mask: it is evaluated when a layer uses it."""
        mask = torch.zeros(1, 1, tokens, tokens)
        self._masks.append((mask, seen))
        return mask

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> Tensor:
        """Zeros [1, T, H, D]. Raises ModelError for what Serving would not compute."""
        layer = len(self.layers)
        seen = [function for known, function in self._masks if known is mask]
        if not seen:
            raise ModelError(f"the attention of layer {layer} has a mask of the model's own making")
        if key.shape[2] != query.shape[2] or query.shape[1] % key.shape[1]:
            raise ModelError(
                f"layer {layer} attends from {list(query.shape)} to {list(key.shape)}: only"
                " attention of tokens to themselves and those before is supported"
            )
        for name, option in options.items():
            if isinstance(option, Tensor) and name not in _HARMLESS:
                raise ModelError(
                    f"the attention of layer {layer} takes {name}, which ours does not"
                )
        self.layers.append(
            AttentionLayer(
                shape=LayerShape(
                    kv_heads=key.shape[1], key_dim=key.shape[3], value_dim=value.shape[3]
                ),
                scale=options.get("scaling"),
                window=_window(seen[0], self._context),
                softcap=options.get("softcap"),
            )
        )
        return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


def _window(seen: _Seen, context: int) -> int | None:
    """The last tokens that are seen; None: all. Raises ModelError for any other mask."""
    keys, unused = torch.arange(context), torch.tensor(0)
    rows = {q: seen(unused, unused, torch.tensor(q), keys) for q in (0, context // 2, context - 1)}
    window = int(rows[context - 1].sum())
    for query, row in rows.items():
        if not row.equal((keys <= query) & (keys > query - window)):
            raise ModelError("its attention mask is neither causal nor a sliding window")
    return None if window == context else window


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    return _under_way.get().attend(query, key, value, attention_mask, options), None


def _mask(*, q_length: int, mask_function: _Seen, **_: Any) -> Tensor | None:
    return _under_way.get().mask(mask_function, q_length)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
