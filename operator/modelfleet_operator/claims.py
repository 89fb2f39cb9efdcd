"""Who asks for which short name, and who has it; `decisions.names.owners` says who gets it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from .decisions.names import namespace_of

HELD: Final = 3600.0  # seconds for which a deleted deployment's names stay its namespace's
MOST_DUMPED: Final = 500  # of these names; the latest count


@dataclass(frozen=True, slots=True)
class _Holder:
    key: str
    gone_at: float | None = None  # Unix seconds; None: it exists


class Claims:
    """Index from served name to claimants, so that only affected deployments reconcile.

    It also knows who has each name now, or had it until it was deleted: what a deployment's own
    memory says of it is gone with the object, and may not be in the caches yet.
    """

    def __init__(self) -> None:
        self._holders: dict[str, _Holder] = {}  # name -> who has it
        self._held: dict[str, set[str]] = {}  # key -> names that it has
        self._claims: dict[str, tuple[float, tuple[str, ...]]] = {}  # key -> created, names
        self._claimants: dict[str, set[str]] = {}  # name -> keys

    def put(self, key: str, created: float, names: tuple[str, ...]) -> set[str]:
        """Notes what a deployment asks for; returns the others that a change of it affects.

        a asks for chat, then b asks for chat and code -> {a}.
        """
        claim = created, names
        if self._claims.get(key) == claim:
            return set()
        affected = self.drop(key)
        self._claims[key] = claim
        for name in names:
            self._claimants.setdefault(name, set()).add(key)
        return (affected | set(self._claimants_of(names))) - {key}

    def note_owned(self, key: str, names: Iterable[str]) -> None:
        """The deployment exists and has these short names; others that it had it gave up."""
        owned = set(names)
        for name in self._held.get(key, set()) - owned:
            self._holders.pop(name, None)
        self._held[key] = owned
        self._holders.update((name, _Holder(key)) for name in owned)

    def note_deleted(self, key: str, now: float) -> None:
        """Its names stay with its namespace for a while: it may be created again."""
        for name in self._held.pop(key, set()):
            self._holders[name] = replace(self._holders[name], gone_at=now)
        for name, holder in list(self._holders.items()):
            if holder.gone_at is not None and now - holder.gone_at >= HELD:
                del self._holders[name]

    def dump_deleted(self, now: float) -> str:
        """The names of deleted deployments, who had each and until when; JSON, empty: none."""
        held = sorted(
            (round(holder.gone_at), name, holder.key)
            for name, holder in self._holders.items()
            if holder.gone_at is not None and now - holder.gone_at < HELD
        )
        if not held:
            return ""
        dumped = {name: [key, gone_at] for gone_at, name, key in held[-MOST_DUMPED:]}
        return json.dumps(dumped, separators=(",", ":"))

    def load_deleted(self, dumped: str, now: float) -> bool:
        """Knows them again; False if this is no text that `dump_deleted` wrote."""
        if not dumped:
            return True
        try:
            found = {
                name: _Holder(str(key), max(0.0, min(float(gone_at), now)))  # clocks may differ
                for name, (key, gone_at) in json.loads(dumped).items()
            }
        except (ValueError, TypeError, AttributeError, RecursionError):
            return False
        self._holders = {**found, **self._holders}
        return True

    def settled(
        self, owners: Mapping[str, str], names: Iterable[str], now: float
    ) -> Mapping[str, str]:
        """The owners of these names, where the caches know less than this index.

        b/m gets chat by the caches; a/m had it until it was deleted a minute ago -> a/m.
        """
        settled: dict[str, str] = {}
        for name in names:
            holder = self._holders.get(name)
            if holder is None or (holder.gone_at is not None and now - holder.gone_at >= HELD):
                continue
            if namespace_of(holder.key) != namespace_of(owners.get(name, holder.key)):
                settled[name] = holder.key
        return {**owners, **settled} if settled else owners

    def drop(self, key: str) -> set[str]:
        """The deployment asks for nothing any more; returns the others that this affects."""
        _, names = self._claims.pop(key, (0.0, ()))
        for name in names:
            self._claimants[name].discard(key)
        affected = set(self._claimants_of(names))
        for name in names:
            if not self._claimants[name]:
                del self._claimants[name]
        return affected

    def _claimants_of(self, names: tuple[str, ...]) -> Iterator[str]:
        for name in names:
            yield from self._claimants[name]
