"""Which worker a prompt is sent to: where it has the least to read, within bounds of load. Pure.

Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2017,
https://arxiv.org/abs/1608.01350) by rendezvous hashing, of the prompt's opening or the client's
session, among the workers where the first token is equally near.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .prefixes import PromptKeys

BOUND: Final = 1.25  # times the mean load: what a worker has at most while others have less
NEVER_HOT: Final = 4  # requests of a worker that are no reason to avoid it
FULL_CACHE: Final = 0.9  # of the blocks of a KV cache are held by requests: more may be preempted
CLOSE: Final = 256  # bytes to read that make no difference
RAMP: Final = 30.0  # seconds in which a new worker comes to its whole share
FIRST_SHARE: Final = 0.1


class RoutedBy(enum.StrEnum):
    """What decided."""

    PREFIX = "prefix"  # it has read more of the prompt's beginning than others
    SESSION = "session"  # the client's session is hashed there
    HASH = "hash"  # the prompt's opening is hashed there
    LOAD = "load"  # it has the least to do, or is the only one
    OVERFLOW = "overflow"  # another one would be better, and has too much to do


@dataclass(slots=True, kw_only=True)  # not frozen: that takes a microsecond more for each worker
class Candidate:
    """A worker with a free slot, as it was seen."""

    id: str
    place: int = 0  # in the order of the view: at low load the first ones are used
    load: int = 0  # requests that it has, those in its queue twice
    unread: int = 0  # bytes of prompts that it has to read before these have their first token
    cached: int = 0  # bytes of this prompt's beginning that it has read
    share: float = 1.0  # of what others get: less while it is new
    cache_use: float = 0.0  # of the blocks of its KV cache, by requests


@dataclass(frozen=True, slots=True)
class Choice:
    """Where it goes, and why."""

    worker: Candidate
    by: RoutedBy


def share_of(age: float) -> float:
    """Of a worker that has been ready for so many seconds."""
    return min(max(age / RAMP, FIRST_SHARE), 1.0)


def load_bounds(candidates: Sequence[Candidate]) -> list[float]:
    """Requests from which on each one gets none while another has fewer than its own.

    4 workers with 19 requests together -> 6.25 each; of which one is new, with a share of 0.1 ->
    0.8 beside 8.1.
    """
    each = BOUND * (sum(c.load for c in candidates) + 1) / sum(c.share for c in candidates)
    return [each * c.share for c in candidates]


def choose(candidates: Sequence[Candidate], keys: PromptKeys, pack: int = 0) -> Choice:
    """One of these, of which there is at least one.

    `pack`: requests in flight up to which one worker may serve alone what several could, so that
    those need not be drained before they sleep; 0: all are used alike.

    w-0 has read 3 KiB of this prompt's 4 and has nothing else to read -> w-0, by prefix. It has 6
    KiB of others to read first, w-1 nothing -> w-1, overflow. No one has read any -> by hash.
    """
    if len(candidates) == 1 or not (keys.opening or keys.session):
        return Choice(min(candidates, key=lambda c: (c.load, c.place)), RoutedBy.LOAD)
    never_hot = max(NEVER_HOT, pack)
    bounded = list(zip(candidates, load_bounds(candidates), strict=True))
    below = [(c, bound) for c, bound in bounded if c.load < max(bound, never_hot)]
    # Never empty: the bounds together are more than the load.
    able = [(c, bound) for c, bound in below if c.cache_use < FULL_CACHE] or below
    nearest = min(c.unread - c.cached for c, _ in able) + CLOSE
    near = [(c, bound) for c, bound in able if c.unread - c.cached <= nearest]
    read = max(c.cached for c, _ in near) - CLOSE  # what is read twice makes others wait
    near = [(c, bound) for c, bound in near if c.cached >= read]
    calm = max(min(c.load for c, _ in near) + 1, pack)  # a few requests more gain nothing here
    best = [c for c, bound in near if c.load < max(math.floor(bound), calm)]

    all_cached = [c.cached for c in candidates]
    most = max(all_cached)
    preferred = _order(candidates, keys, pack)
    if most > min(all_cached) + CLOSE:
        chosen = best[0] if len(best) == 1 else min(best, key=preferred)
        has_most = chosen.cached >= most - CLOSE
        return Choice(chosen, RoutedBy.PREFIX if has_most else RoutedBy.OVERFLOW)
    first = min(candidates, key=preferred)
    if not any(c is first for c in best):
        return Choice(min(best, key=preferred), RoutedBy.OVERFLOW)
    return Choice(first, RoutedBy.SESSION if keys.session else RoutedBy.HASH)


def _order(
    candidates: Sequence[Candidate], keys: PromptKeys, pack: int
) -> Callable[[Candidate], tuple[bool, bytes]]:
    """The first is preferred: of those that are in use at this load, by rendezvous hashing."""
    key = keys.session or keys.opening
    last_used = max(c.place for c in candidates)
    if pack:
        used = math.ceil((sum(c.load for c in candidates) + 1) / pack)
        last_used = sorted(c.place for c in candidates)[min(used, len(candidates)) - 1]

    def preferred(candidate: Candidate) -> tuple[bool, bytes]:
        hashed = hashlib.blake2b(candidate.id.encode(), key=key, digest_size=8).digest()
        return candidate.place > last_used, hashed

    return preferred
