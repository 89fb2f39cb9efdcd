"""Our own writes that the watches do not show yet, laid over the caches: nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from ..decisions.observed import Worker

SHOWN_AFTER = 60.0  # seconds after which the watches have shown everything

Made = TypeVar("Made")


@dataclass(slots=True)
class _PodWrites:
    """What we wrote to one pod."""

    stopped: bool = False
    was_routed: bool = False  # whether `draining_since` was written
    draining_since: float | None = None
    protected: bool | None = None  # None: nothing was written


class WriteOverlay:
    """Our writes to pods, by uid. Only the leader writes, so the last write is what is true."""

    def __init__(self) -> None:
        self._writes: dict[str, _PodWrites] = {}

    def stopped(self, uid: str) -> None:
        """The pod was deleted."""
        self._writes.setdefault(uid, _PodWrites()).stopped = True

    def routed(self, uid: str, draining_since: float | None) -> None:
        """The pod drains since then, or serves again (None)."""
        write = self._writes.setdefault(uid, _PodWrites())
        write.was_routed, write.draining_since = True, draining_since

    def protected(self, uid: str, *, is_protected: bool) -> None:
        """Node controllers were told to leave it alone, or not to."""
        self._writes.setdefault(uid, _PodWrites()).protected = is_protected

    def gone(self, uid: str) -> None:
        """The pod does not exist any more."""
        self._writes.pop(uid, None)

    def apply(self, worker: Worker) -> Worker:
        """The worker as it is after our writes."""
        write = self._writes.get(worker.uid)
        if write is None:
            return worker
        return replace(
            worker,
            stopping=worker.stopping or write.stopped,
            failure=None if write.stopped else worker.failure,
            draining_since=write.draining_since if write.was_routed else worker.draining_since,
            protected=worker.protected if write.protected is None else write.protected,
        )


@dataclass(slots=True)
class _Entry(Generic[Made]):
    made: Made | None  # None: it was deleted
    until: float


@dataclass(slots=True)
class ObjectOverlay(Generic[Made]):
    """Objects of one kind that we created, changed or deleted, by deployment and uid.

    An entry goes when the watch agrees with it, when the object is gone, or after `SHOWN_AFTER`.
    """

    uid_of: Callable[[Made], str]
    agrees: Callable[[Made, Made], bool]  # the cached one, with what was made
    _entries: dict[str, dict[str, _Entry[Made]]] = field(default_factory=dict)

    def put(self, key: str, uid: str, made: Made | None, now: float) -> None:
        """The object as we wrote it; None: we deleted it."""
        self._entries.setdefault(key, {})[uid] = _Entry(made, now + SHOWN_AFTER)

    def gone(self, key: str, uid: str) -> None:
        """The watch said that it was deleted."""
        self._entries.get(key, {}).pop(uid, None)

    def forget(self, key: str) -> None:
        """The deployment is gone."""
        self._entries.pop(key, None)

    def apply(self, key: str, cached: Collection[Made], now: float) -> list[Made]:
        """The cached objects as they are after our writes."""
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
