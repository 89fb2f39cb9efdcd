"""Keys' limits on the wire: what was used goes to the operator, shares come from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from modelfleet_proto import fleet_pb2

from ..access.quotas import Quotas, Use
from ..access.shares import Limit, ShareSaid

KINDS: Final = {
    Limit.REQUESTS: fleet_pb2.LIMIT_KIND_REQUESTS,
    Limit.TOKENS: fleet_pb2.LIMIT_KIND_TOKENS,
    Limit.CONCURRENT: fleet_pb2.LIMIT_KIND_CONCURRENT,
}
LIMITS: Final = {kind: limit for limit, kind in KINDS.items()}


def all_limits_said(quotas: Quotas, now: float) -> fleet_pb2.LimitsSaid:
    """For an operator that knows nothing of this gateway. `now`: seconds on the loop's clock."""
    quotas.touch_all()
    quotas.shares.number = 0  # nothing of this stream is in force yet
    return _said(quotas, quotas.report(now))


def limits_said(quotas: Quotas, now: float) -> fleet_pb2.LimitsSaid | None:
    """What changed since the last time; None while this stream has brought no shares."""
    if not quotas.shares.number:
        return None
    return _said(quotas, quotas.report(now))


def take_shares(quotas: Quotas, message: fleet_pb2.LimitShares) -> None:
    """Puts a message of the operator in force."""
    before = quotas.shares.gateways
    shares = (
        ShareSaid(
            (one.key, one.model, LIMITS[one.kind]), one.share if one.HasField("share") else None
        )
        for one in message.shares
        if one.kind in LIMITS  # else it is of a newer version
    )
    quotas.shares.apply(message.number, message.gateways, message.place, shares)
    if before != message.gateways:
        quotas.touch_all()


def _said(quotas: Quotas, uses: Iterable[Use]) -> fleet_pb2.LimitsSaid:
    shares = quotas.shares
    said = fleet_pb2.LimitsSaid(number=shares.number, gateways=shares.gateways, place=shares.place)
    for use in uses:
        key, model, kind = use.id
        said.uses.add(
            key=key,
            model=model,
            kind=KINDS[kind],
            limit=use.limit,
            used=use.used,
            wanted=use.wanted,
            share=use.share,
        )
    return said
