"""Which certificate authority signs, which ones are trusted, and when a new one is made.

    made A ──────────────────────────────────────── made B ── B signs ── A is dropped ──▶
           A signs                                  │ both are trusted │ both │ B
                                                    └─ settle ─────────┴─ leaf + settle

All callers hear of B before anything that B signed, and A is trusted until all that it signed has
expired, so that a rotation is noticed by none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """Seconds."""

    authority: float = 365 * 86400.0
    leaf: float = 86400.0  # as long as a gateway gets on without an operator, and a bit less

    @property
    def renew_after(self) -> float:
        """A third: two more tries, hours apart, before a certificate expires."""
        return self.leaf / 3

    @property
    def settle(self) -> float:
        """By then everybody has asked for a certificate, and heard of a new authority with it."""
        return self.leaf / 2

    @property
    def overlap(self) -> float:
        """From a new authority until the old one is not trusted any more."""
        return 2 * self.settle + self.leaf


@dataclass(frozen=True, slots=True)
class AuthorityAge:
    """One authority; Unix seconds."""

    made_at: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityDecision:
    """What holds now. Places are those of the authorities that were given."""

    signer: int | None  # None: there is none, and a new one is made
    keep: tuple[int, ...]  # trusted ones; others are dropped
    makes_new: bool


def decide_authorities(
    authorities: Sequence[AuthorityAge], now: float, lifetimes: Lifetimes
) -> AuthorityDecision:
    """`authorities` in the order in which they were made.

    [A made a year less two days ago] -> A signs, B is made; half a day later B signs; two days
    after B was made only B is kept.
    """
    valid = [i for i, a in enumerate(authorities) if a.expires_at > now]
    if not valid:
        return AuthorityDecision(signer=None, keep=(), makes_new=True)
    settled = [i for i in valid if now - authorities[i].made_at >= lifetimes.settle]
    signer = settled[-1] if settled else valid[0]
    latest = authorities[valid[-1]]
    # Twice the overlap: what a signer signs must expire before it does.
    ends_soon = latest.expires_at - now <= 2 * lifetimes.overlap
    is_replaced = len(valid) > 1 and now - latest.made_at >= lifetimes.overlap
    return AuthorityDecision(
        signer=signer,
        keep=(valid[-1],) if is_replaced else tuple(valid),
        makes_new=ends_soon,
    )
