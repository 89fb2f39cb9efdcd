"""How exactly a worker continues a stream that another one began. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from modelfleet_proto import worker_pb2

_FLOAT32: Final = "float32"


class Exactness(enum.StrEnum):
    """What a continued answer has in common with the one that the first worker would have given."""

    EXACT = "exact"  # every token
    GREEDY = "exact-when-greedy"  # every token, of a request that draws none
    APPROXIMATE = "approximate"  # every token, up to near ties between the likeliest two


@dataclass(frozen=True, slots=True)
class Continued:
    """A stream goes on, on this worker."""

    worker_id: str
    model_digest: str
    exactness: Exactness


class Holder(Protocol):
    """A worker, as far as it matters here."""

    @property
    def model_digest(self) -> str: ...  # noqa: D102 - of the model that it holds

    @property
    def weights_digest(self) -> str: ...  # noqa: D102 - the same, whatever computes it

    @property
    def takes_requests(self) -> bool: ...  # noqa: D102 - now, or with its next Stats


H = TypeVar("H", bound=Holder)


def continuers(workers: Sequence[H], digest: str, weights: str) -> list[H]:
    """Those that may continue a stream of this model_digest and weights_digest.

    Like workers: one that is full or silent just now is waited for. Only where there is none, the
    others that hold the same weights. One with draws and logits of its own is better than none:

    bf16-dot dies; bf16-dot (full) and fma are there -> the full one
    bf16-dot dies; loading and fma are there         -> fma, approximate
    """
    alike = [w for w in workers if w.model_digest == digest and w.takes_requests]
    if alike or not weights:
        return alike
    return [w for w in workers if w.weights_digest == weights]


def exactness(before: worker_pb2.Stats, now: worker_pb2.Stats) -> Exactness:
    """Of a stream that was on the first worker and goes on, on the second one."""
    if before.model_digest != now.model_digest:
        return Exactness.APPROXIMATE
    if not (before.HasField("computation") and now.HasField("computation")):
        return Exactness.EXACT  # workers of the version before: their digest is all they promise
    a, b = before.computation, now.computation
    if a.arithmetic and a.arithmetic == b.arithmetic:
        return Exactness.EXACT if a.draws == b.draws else Exactness.GREEDY
    # Torch sums in another order on another processor: in float32 no greedy choice depends on it.
    return Exactness.GREEDY if a.dtype == b.dtype == _FLOAT32 else Exactness.APPROXIMATE
