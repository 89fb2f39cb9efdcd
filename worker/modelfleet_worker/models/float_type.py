"""The types that weights and activations may have. Imports no torch."""

from __future__ import annotations

import enum


class FloatType(enum.StrEnum):
    """As config.json and torch name them."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def itemsize(self) -> int:
        """Bytes."""
        return 4 if self is FloatType.FLOAT32 else 2
