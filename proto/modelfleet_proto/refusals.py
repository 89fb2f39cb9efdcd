"""How a worker marks the statuses that it sets, so that gRPC's own are not taken for them.

gRPC ends calls with RESOURCE_EXHAUSTED and UNAVAILABLE, too: where a status is longer than its
metadata may be, a message too large, or a connection lost. Only a marked refusal is the worker's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

REFUSAL_KEY: Final = "modelfleet-refusal"  # of the trailing metadata
FULL: Final = "full"  # all slots are taken: try again, here or elsewhere
HANDED_OVER: Final = "handed-over"  # a drain gave the running request back: resume it elsewhere
FORMAT_FAILED: Final = "format-failed"  # a running answer cannot be held to its format: give it up
REFUSED: Final = "refused"  # any other; the status says which


def refusal_metadata(mark: str) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of a refusal."""
    return ((REFUSAL_KEY, mark),)


def read_refusal(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The mark of a call's trailing metadata; empty: the status is gRPC's, or of an old version."""
    return next((str(value) for key, value in metadata or () if key == REFUSAL_KEY), "")
