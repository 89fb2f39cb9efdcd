"""Who asks for which short name; `decisions.names.owners` says who gets it."""

from __future__ import annotations

from collections.abc import Iterator


class Claims:
    """Whom to tell when somebody's names change, in time that depends on those alone."""

    def __init__(self) -> None:
        self._claims: dict[str, tuple[float, tuple[str, ...]]] = {}  # key -> created, names
        self._claimants: dict[str, set[str]] = {}  # name -> keys

    def put(self, key: str, created: float, names: tuple[str, ...]) -> set[str]:
        """Notes what a deployment asks for; the others whom a change of it concerns."""
        claim = created, names
        if self._claims.get(key) == claim:
            return set()
        concerned = self.drop(key)
        self._claims[key] = claim
        for name in names:
            self._claimants.setdefault(name, set()).add(key)
        return (concerned | set(self._sharing(names))) - {key}

    def drop(self, key: str) -> set[str]:
        """It asks for nothing any more; the others whom that concerns."""
        _, names = self._claims.pop(key, (0.0, ()))
        for name in names:
            self._claimants[name].discard(key)
        concerned = set(self._sharing(names))
        for name in names:
            if not self._claimants[name]:
                del self._claimants[name]
        return concerned

    def _sharing(self, names: tuple[str, ...]) -> Iterator[str]:
        for name in names:
            yield from self._claimants[name]
