"""The shares of keys' limits that this gateway has, as the operator said last."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from modelfleet_process.limit_shares import default_share


class Limit(enum.StrEnum):
    """What a key's limit is about."""

    REQUESTS = "requests"  # a minute
    TOKENS = "tokens"  # a minute
    CONCURRENT = "concurrent"  # requests at once


# Key id, full name of the model, limit.
LimitId = tuple[str, str, Limit]


@dataclass(frozen=True, slots=True)
class ShareSaid:
    """One that the operator decided; None: an equal part again."""

    id: LimitId
    share: int | None


class Shares:
    """Without a word of an operator this gateway is the only one."""

    def __init__(self) -> None:
        self.number = 0  # of the operator's last message
        self.gateways = 1
        self.place = 0  # among them, from 0
        self.decided: dict[LimitId, int] = {}

    def apply(self, number: int, gateways: int, place: int, said: Iterable[ShareSaid]) -> None:
        """Puts a message of the operator in force."""
        self.number, self.gateways, self.place = number, gateways, place
        for one in said:
            if one.share is None:
                self.decided.pop(one.id, None)
            else:
                self.decided[one.id] = one.share

    def of(self, limit_id: LimitId, limit: int) -> int:
        """How much of it may be used here."""
        decided = self.decided.get(limit_id)
        if decided is None:
            return default_share(limit, self.gateways, self.place)
        return min(decided, limit)
