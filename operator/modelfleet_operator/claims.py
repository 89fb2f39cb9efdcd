"""Which deployment asks for which short name; `decisions.names.owners` says which one gets it."""

from __future__ import annotations

from collections.abc import Iterator


class Claims:
    """Index from served name to claimants, so that only affected deployments reconcile."""

    def __init__(self) -> None:
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
