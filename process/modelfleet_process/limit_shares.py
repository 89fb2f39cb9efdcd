"""The part of a key's limit that one gateway has, where nothing else was decided: pure.

Asked by gateways, which keep to it, and by the operator, which decides otherwise where a key's
requests come unevenly.
"""

from __future__ import annotations


def default_share(limit: int, gateways: int, place: int) -> int:
    """An equal part; `place`: of this gateway among them, from 0. No gateways: none of it.

    100 of 3 gateways -> 34, 33, 33; 1 of 2 gateways -> 1, 0.
    """
    if gateways <= 0:
        return 0
    return limit // gateways + (place < limit % gateways)
