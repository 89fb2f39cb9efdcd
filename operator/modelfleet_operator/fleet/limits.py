"""The shares of keys' limits: what gateways said of their use, and what each is told.

A gateway that joins gets its equal part once the others have said that theirs is smaller. Of one
that is gone, what it used counts until it is a minute ago. One that only lost the operator goes on
with its shares: they are kept for it for GONE seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from modelfleet_proto import fleet_pb2

from ..decisions.limit_shares import Holder, is_worth_telling, next_shares, split
from .limit_member import LimitId, Member, Part, Use

GONE: Final = 3.0  # seconds without a stream after which a gateway's shares go to the others
REMEMBERED: Final = 62.0  # seconds: a minute, and what gateways count together
GRACE: Final = 2.0  # seconds in which gateways find an operator that begins to lead
NO_PART: Final = Part(0, 0)


@dataclass(frozen=True, slots=True)
class _Gone:
    """A gateway that is no more."""

    until: float
    used: dict[LimitId, int]


@dataclass(slots=True, eq=False)
class LimitShares:
    """All gateways' shares. Times are passed in, in seconds of one clock."""

    _members: dict[str, Member] = field(default_factory=dict)  # by instance id, by their place
    _gone: list[_Gone] = field(default_factory=list)
    _limits: dict[LimitId, int] = field(default_factory=dict)  # those that are decided about
    _open: set[LimitId] = field(default_factory=set)  # to be decided anew
    _lowers_until: float = 0.0  # until then nothing is raised: gateways may be missing

    def begin(self, now: float) -> None:
        """This operator leads from now on."""
        self._lowers_until = now + GRACE

    def join(self, instance: str, stream: object, said: fleet_pb2.LimitsSaid, now: float) -> None:
        """A gateway's stream began."""
        part = Part(said.gateways, said.place)
        is_new = part == Part(1, 0) and bool(self._members) and now >= self._lowers_until
        if is_new and instance not in self._members:
            part = NO_PART  # it is told so before its first view, and then what it may have
        member = self._members[instance] = Member(stream, part)
        self._take(member, said)
        self._decide(now)

    def leave(self, instance: str, stream: object, now: float) -> None:
        """A gateway's stream ended; no-op for one that another stream has replaced."""
        member = self._members.get(instance)
        if member is not None and member.stream is stream:
            member.gone_at = now
            self._open.update(self._limits)

    def take(self, instance: str, stream: object, said: fleet_pb2.LimitsSaid, now: float) -> None:
        """What a gateway said."""
        member = self._members.get(instance)
        if member is None or member.stream is not stream:
            return
        member.acknowledge(said.number)
        self._take(member, said)
        self._decide(now)

    def mind(self, now: float) -> None:
        """Time has passed: call it every few seconds."""
        for instance, member in list(self._members.items()):
            if member.gone_at is not None and now - member.gone_at >= GONE:
                del self._members[instance]
                used = {limit_id: use.used for limit_id, use in member.uses.items() if use.used}
                self._gone.append(_Gone(member.gone_at + REMEMBERED, used))
                self._open.update(self._limits)
        for gone in [gone for gone in self._gone if gone.until <= now]:
            self._gone.remove(gone)
            self._open.update(self._limits)
        self._decide(now)

    def message(self, instance: str, stream: object) -> fleet_pb2.LimitShares | None:
        """What to send next; None: nothing."""
        member = self._members.get(instance)
        return member.message() if member is not None and member.stream is stream else None

    def with_news(self) -> Iterator[object]:
        """The streams to which there is something to send."""
        return (m.stream for m in self._members.values() if m.gone_at is None and m.has_news)

    def _take(self, member: Member, said: fleet_pb2.LimitsSaid) -> None:
        for limit_id, limit in member.take(said.uses):
            self._limits[limit_id] = limit
            self._open.add(limit_id)

    def _decide(self, now: float) -> None:
        self._place(now)
        for limit_id in list(self._open):
            self._split(limit_id, now)

    def _place(self, now: float) -> None:
        """Equal parts: smaller ones are told at once, larger ones when the others have theirs."""
        members = list(self._members.values())
        for place, member in enumerate(members):
            part = Part(len(members), place)
            if member.gone_at is not None or member.part == part:
                continue
            is_smaller = 0 < member.part.gateways <= part.gateways
            others = (other for other in members if other is not member)
            if not is_smaller and (
                now < self._lowers_until
                or any(other.fewest_gateways < part.gateways for other in others)
            ):
                continue
            if not is_smaller:
                self._pin(member)
            member.tell_part(part)
            self._open.update(self._limits)

    def _pin(self, member: Member) -> None:
        """A larger part brings no more of the limits that are in use: that is decided for each."""
        for limit_id, limit in self._limits.items():
            member.tell(limit_id, limit, member.share(limit_id, limit))

    def _split(self, limit_id: LimitId, now: float) -> None:
        members = list(self._members.values())
        there = [member for member in members if member.gone_at is None]
        absent = [member for member in members if member.gone_at is not None]
        limit = whole = self._limits[limit_id]
        limit -= sum(gone.used.get(limit_id, 0) for gone in self._gone)
        limit -= sum(member.most(limit_id, whole) for member in absent)
        limit = max(limit, 0)
        uses = [member.uses.get(limit_id, Use()) for member in there]
        is_idle = limit == whole and (len(there) == 1 or not any(u.used or u.wanted for u in uses))
        holders = [
            Holder(share=member.share(limit_id, whole), held=member.most(limit_id, whole))
            for member in there
        ]
        if is_idle:
            targets = [member.default(whole) for member in there]
        else:
            wanted, used = [u.wanted for u in uses], [u.used for u in uses]
            targets = split(limit, wanted, used, [holder.share for holder in holders])
        if now < self._lowers_until:
            targets = [min(t, h.held) for t, h in zip(targets, holders, strict=True)]
        shares = next_shares(limit, targets, holders)
        for member, holder, share in zip(there, holders, shares, strict=True):
            if is_idle and member.is_settled and share == member.default(whole):
                member.tell(limit_id, whole, None)
            elif share != holder.share:
                member.tell(limit_id, whole, share)
        is_there = not any(
            is_worth_telling(whole, share, target)
            for share, target in zip(shares, targets, strict=True)
        )
        if is_there and not any(limit_id in member.held for member in members):
            self._open.discard(limit_id)
            if is_idle and not any(limit_id in member.shares for member in there):
                del self._limits[limit_id]
