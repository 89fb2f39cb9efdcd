"""How a key's limit is split among gateways. Pure.

Each gateway keeps to its share, so the limit holds without a word between gateways. A share that is
lowered is lowered at once; one that is raised gets only what nobody holds any more. So the shares,
and what was used beyond a share that was lowered, are never more than the limit in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Of a limit: changes that are smaller are not worth a message.
SMALLEST_CHANGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A gateway and one limit."""

    share: int  # as it was told last
    held: int  # the most that it may have used, or be using: nobody else has it


def split(
    limit: int, wanted: Sequence[int], used: Sequence[int], shares: Sequence[int]
) -> list[int]:
    """Max-min fair: who wants little has it, the others equal parts, and what is left goes to all.

    The remainder goes to those who use the least, so that a limit of 1 goes round; of these to
    those with the largest of the `shares` of now, so that it is used before it goes on, or to the
    one that wants the most.

    100 for (10, 80, 80) -> 10, 45, 45; 100 for (10, 20) -> 45, 55; 1 for (1, 1) of which the first
    uses 1 -> 0, 1.
    """
    if not wanted:
        return []
    targets, left = [0] * len(wanted), max(limit, 0)
    # Those who come last have the remainders of the divisions.
    order = sorted(
        range(len(wanted)),
        key=lambda i: (min(wanted[i], limit), -used[i], shares[i], wanted[i]),
    )
    for place, i in enumerate(order):
        targets[i] = min(wanted[i], left // (len(order) - place))
        left -= targets[i]
    # What is left now is more than all want.
    even, rest = divmod(left, len(targets))
    for place, i in enumerate(sorted(order, key=lambda i: (used[i], -shares[i]))):
        targets[i] += even + (place < rest)
    return targets


def next_shares(limit: int, targets: Sequence[int], holders: Sequence[Holder]) -> list[int]:
    """What to tell each gateway now, on the way to these targets, which are `limit` in all.

    Limit 100, targets (20, 80), both hold 50 -> (20, 50); once the first holds 20 -> (20, 80).
    """
    held = sum(holder.held for holder in holders)
    free, is_above = max(limit - held, 0), held > limit
    shares: list[int] = []
    for target, holder in zip(targets, holders, strict=True):
        more = min(max(target - holder.held, 0), free)
        free -= more
        share = min(target, holder.held + more)
        is_told = is_worth_telling(limit, holder.share, share)
        if is_above and share < holder.share:
            is_told = True  # many small ones would be more than the limit together
        shares.append(share if is_told else holder.share)
    return shares


def is_worth_telling(limit: int, before: int, share: int) -> bool:
    """Whether a share changes by enough; from nothing, or to nothing, any change is."""
    change = abs(share - before)
    return bool(change) and (change * SMALLEST_CHANGE >= limit or not before or not share)
