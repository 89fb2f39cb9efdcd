"""The canonical form of a quantized projection that is stored so. Imports no torch.

Shapes: N outputs, K inputs, G groups of K / G inputs each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodedWeight:
    """weight[n, order[k]] = (codes[n, k] - zeros[n, g]) * scales[n, g], where g is k's group."""

    bits: int  # 4 or 8; codes are in [-8, 7] or [-128, 127]
    codes: Array  # int8 [N, K]
    scales: Array  # float32 [N, G]
    zeros: Array | None = None  # int16 [N, G], whole steps of the same grid; None: all 0
    order: Array | None = None  # int64 [K], of inputs; None: as they come

    @property
    def outputs(self) -> int:
        """N."""
        return int(self.codes.shape[0])

    @property
    def inputs(self) -> int:
        """K."""
        return int(self.codes.shape[1])

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.inputs // int(self.scales.shape[1])


class Stackable(Protocol):
    """What is compared of a weight; arrays may be numpy's or torch's."""

    @property
    def bits(self) -> int:
        """Of a code."""
        ...

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        ...

    @property
    def zeros(self) -> Any:
        """None: all 0."""
        ...

    @property
    def order(self) -> Any:
        """Of inputs; None: as they come."""
        ...


def can_stack(weights: Sequence[Stackable]) -> bool:
    """Whether projections of one input can be computed as one."""
    first = weights[0]
    return all(
        w.bits == first.bits
        and w.group == first.group
        and (w.zeros is None) == (first.zeros is None)
        and _same(w.order, first.order)
        for w in weights[1:]
    )


def _same(a: Any, b: Any) -> bool:
    return a is b if a is None or b is None else a.shape == b.shape and bool((a == b).all())
