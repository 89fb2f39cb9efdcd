"""Kubernetes quantities of memory, as flags take them."""

from __future__ import annotations

import re
from decimal import Decimal

from .errors import UsageError

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse_bytes(quantity: str) -> int:
    """2Gi is 2147483648 bytes. Raises UsageError for what is not a size of at least one byte."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(|k|[MGT]|[KMGT]i)", quantity.strip())
    size = int(Decimal(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise UsageError(f"expected a size like 512Mi, 2Gi or 3.5G, found {quantity!r}")
    return size
