"""What the constrained sequences of a step may sample: a bit for each token of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.scheduler import Chunk

Words = np.ndarray[Any, np.dtype[np.uint32]]
Allowed = np.ndarray[Any, np.dtype[np.bool_]]  # [vocab]


@dataclass(frozen=True, slots=True)
class MaskRows:
    """Room for the masks of a step. Asking numpy for an address takes longer than using it."""

    values: Words  # [R or more, words]
    address: int

    @classmethod
    def of(cls, rows: int, vocab: int) -> MaskRows:
        """Uninitialized."""
        values = np.empty((rows, -(-vocab // 32)), np.uint32)
        return cls(values, values.ctypes.data)

    @property
    def row_bytes(self) -> int:
        """From one row to the next."""
        return int(self.values.shape[1]) * self.values.itemsize

    def write(self, chunks: Sequence[Chunk]) -> None:
        """The masks of these constrained chunks, in their order; of dropped ones just anything."""
        found = (chunk.sequence.request.constraint for chunk in chunks)
        constraints = [constraint for constraint in found if constraint is not None]
        if constraints:
            constraints[0].writer.write(constraints, self.address, self.values.shape[1])


def allowed_tokens(chunks: Sequence[Chunk], vocab: int) -> dict[int, Allowed]:
    """By the row of those that sample. For devices that compute before they return."""
    sampling = [chunk for chunk in chunks if chunk.samples]
    constrained = [(row, chunk) for row, chunk in enumerate(sampling) if chunk.is_constrained]
    if not constrained:
        return {}
    masks = MaskRows.of(len(constrained), vocab)
    masks.write([chunk for _, chunk in constrained])
    bits = np.unpackbits(masks.values.view(np.uint8), axis=1, count=vocab, bitorder="little")
    return {row: bits[i].astype(bool) for i, (row, _) in enumerate(constrained)}
