"""One gateway and its shares of keys' limits: what it was told, and what of that is in force."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from modelfleet_process.limit_shares import default_share
from modelfleet_proto import fleet_pb2

MOST_IDS: Final = 20_000  # limits of which a gateway's use is kept
MOST_TOLD: Final = 2_000  # shares in one message, but for those that come with a new part
LONGEST: Final = 400  # characters of a key's id or a model's name
MOST: Final = 1 << 50  # of any limit

# Key id, model, kind.
LimitId = tuple[str, str, int]


class Part(NamedTuple):
    """An equal part of each limit that nothing else was decided about."""

    gateways: int  # 0: nothing of it
    place: int


class Use(NamedTuple):
    """What a gateway said of a limit last."""

    used: int = 0
    wanted: int = 0


@dataclass(slots=True, eq=False)
class Member:
    """One gateway's process, on its latest stream."""

    stream: object
    part: Part  # as it was told last
    gone_at: float | None = None  # when its stream ended
    uses: dict[LimitId, Use] = field(default_factory=dict)
    shares: dict[LimitId, int] = field(default_factory=dict)  # decided, as it was told last
    # What it was told before, until it says that the latest is in force.
    held: dict[LimitId, int] = field(default_factory=dict)
    _held_parts: list[Part] = field(default_factory=list)
    _number: int = 0  # of the last message on its stream
    _is_part_news: bool = True  # a stream begins with it
    _news: dict[LimitId, int | None] = field(default_factory=dict)

    @property
    def has_news(self) -> bool:
        """Whether there is something to send."""
        return self._is_part_news or bool(self._news)

    @property
    def is_settled(self) -> bool:
        """Whether its part is in force."""
        return not self._held_parts and not self._is_part_news

    @property
    def fewest_gateways(self) -> int:
        """Of the parts that may be in force: the fewer gateways, the larger the part."""
        parts = (self.part, *self._held_parts)
        return min((part.gateways for part in parts if part.gateways), default=MOST)

    def default(self, limit: int) -> int:
        """Its equal part."""
        return default_share(limit, *self.part)

    def share(self, limit_id: LimitId, limit: int) -> int:
        """Of this limit, as it was told last."""
        decided = self.shares.get(limit_id)
        return self.default(limit) if decided is None else decided

    def most(self, limit_id: LimitId, limit: int) -> int:
        """What it may have used of this limit, or be using."""
        return max(self._most_told(limit_id, limit), self.uses.get(limit_id, Use()).used)

    def take(self, uses: Iterable[fleet_pb2.LimitUse]) -> Iterator[tuple[LimitId, int]]:
        """Keeps what it said; yields the limits that this concerns, and how much they are."""
        for said in uses:
            limit_id = (said.key, said.model, said.kind)
            if max(len(said.key), len(said.model)) > LONGEST:
                continue
            if limit_id not in self.uses and len(self.uses) >= MOST_IDS:
                continue
            if said.used or said.wanted:
                self.uses[limit_id] = Use(min(said.used, MOST), min(said.wanted, MOST))
            else:
                self.uses.pop(limit_id, None)
            if self._number == 0 and said.HasField("share"):  # of an earlier stream
                self.shares[limit_id] = min(said.share, MOST)
            if said.limit:
                yield limit_id, min(said.limit, MOST)

    def acknowledge(self, number: int) -> None:
        """The message of this number is in force."""
        if number == self._number and not self._is_part_news:
            self._held_parts.clear()
            self.held = {i: share for i, share in self.held.items() if i in self._news}

    def tell_part(self, part: Part) -> None:
        """With the next message."""
        self._held_parts.append(self.part)
        self.part = part
        self._is_part_news = True

    def tell(self, limit_id: LimitId, limit: int, share: int | None) -> None:
        """With the next message; None: its equal part."""
        if self.shares.get(limit_id) == share:
            return
        self.held[limit_id] = self._most_told(limit_id, limit)
        if share is None:
            del self.shares[limit_id]
        else:
            self.shares[limit_id] = share
        self._news[limit_id] = share

    def message(self) -> fleet_pb2.LimitShares | None:
        """What to send; None: nothing is new."""
        if not self.has_news:
            return None
        self._number += 1
        # A larger part is told with the limits of which it brings no more.
        count = len(self._news) if self._is_part_news else MOST_TOLD
        self._is_part_news = False
        message = fleet_pb2.LimitShares(
            number=self._number, gateways=self.part.gateways, place=self.part.place
        )
        for limit_id in list(self._news)[:count]:
            key, model, kind = limit_id
            share = self._news.pop(limit_id)
            message.shares.add(key=key, model=model, kind=kind, share=share)
        return message

    def _most_told(self, limit_id: LimitId, limit: int) -> int:
        shares = [self.share(limit_id, limit), self.held.get(limit_id, 0)]
        if limit_id not in self.shares:
            shares += [default_share(limit, *part) for part in self._held_parts]
        return max(shares)
