"""What was done and the watches may not show yet, so that nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from ..decisions.observed import Worker

SHOWN_AFTER = 60.0  # seconds after which the watches have shown everything

Made = TypeVar("Made")


@dataclass(slots=True)
class _Deed:
    """What was done to one pod."""

    stopped: bool = False
    was_routed: bool = False  # whether `unrouted_at` says anything
    unrouted_at: float | None = None


class UnseenDeeds:
    """Of pods, by uid. Only the leader writes, so the last deed is what is true."""

    def __init__(self) -> None:
        self._deeds: dict[str, _Deed] = {}

    def stopped(self, uid: str) -> None:
        """It was deleted."""
        self._deeds.setdefault(uid, _Deed()).stopped = True

    def routed(self, uid: str, unrouted_at: float | None) -> None:
        """It was unrouted, or routed to again (None)."""
        deed = self._deeds.setdefault(uid, _Deed())
        deed.was_routed, deed.unrouted_at = True, unrouted_at

    def gone(self, uid: str) -> None:
        """It is not there any more."""
        self._deeds.pop(uid, None)

    def shown(self, worker: Worker) -> Worker:
        """The worker as it is by now."""
        deed = self._deeds.get(worker.uid)
        if deed is None:
            return worker
        return replace(
            worker,
            stopping=worker.stopping or deed.stopped,
            failure=None if deed.stopped else worker.failure,
            unrouted_at=deed.unrouted_at if deed.was_routed else worker.unrouted_at,
        )


@dataclass(slots=True)
class _Entry(Generic[Made]):
    made: Made | None  # None: it was deleted
    until: float


@dataclass(slots=True)
class UnseenObjects(Generic[Made]):
    """Objects of one kind that were made, changed or deleted, by deployment and uid.

    An entry goes when the watch agrees with it, when the object is gone, or after `SHOWN_AFTER`.
    """

    uid_of: Callable[[Made], str]
    agrees: Callable[[Made, Made], bool]  # the cached one, with what was made
    _entries: dict[str, dict[str, _Entry[Made]]] = field(default_factory=dict)

    def put(self, key: str, uid: str, made: Made | None, now: float) -> None:
        """This is what it is now; None: deleted."""
        self._entries.setdefault(key, {})[uid] = _Entry(made, now + SHOWN_AFTER)

    def gone(self, key: str, uid: str) -> None:
        """The watch said that it was deleted."""
        self._entries.get(key, {}).pop(uid, None)

    def forget(self, key: str) -> None:
        """The deployment is gone."""
        self._entries.pop(key, None)

    def shown(self, key: str, cached: Collection[Made], now: float) -> list[Made]:
        """What there is by now."""
        entries = self._entries.get(key)
        if not entries:
            return list(cached)
        by_uid = {self.uid_of(made): made for made in cached}
        for uid, entry in list(entries.items()):
            there = by_uid.get(uid)
            is_shown = (
                there is None
                if entry.made is None
                else there is not None and self.agrees(there, entry.made)
            )
            if is_shown or now >= entry.until:
                del entries[uid]
            elif entry.made is None:
                by_uid.pop(uid, None)
            else:
                by_uid[uid] = entry.made
        if not entries:
            del self._entries[key]
        return list(by_uid.values())
