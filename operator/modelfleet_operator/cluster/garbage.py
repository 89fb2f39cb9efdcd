"""Keeps Python's garbage collector from stopping the operator: it would walk the whole fleet."""

from __future__ import annotations

import asyncio
import gc
from typing import NoReturn

FREEZE = 30.0  # seconds; objects that live that long are cached ones, and need no repeated walk
COLLECT_EVERY = 20  # freezes; then everything is walked once (half a second with 5,000 pods)


async def collect_rarely() -> NoReturn:
    """Caches hold a million objects, nearly all for ever; reference counting frees the others."""
    while True:
        for _ in range(COLLECT_EVERY):
            await asyncio.sleep(FREEZE)
            gc.freeze()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
