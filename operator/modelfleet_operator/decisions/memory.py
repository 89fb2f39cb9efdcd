"""What decisions must remember from one look to the next, and across a restart of the operator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from .autoscale import BUCKET, Peaks


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Workers of the current revision that ended or failed though nobody asked for it."""

    count: int = 0
    last_at: float = 0.0
    error: str = ""  # of the latest one
    counted: frozenset[str] = frozenset()  # uids of dead workers that are still there


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One deployment's memory; wall-clock seconds, since monotonic clocks do not travel."""

    target: int | None = None  # the last decision of the autoscaler
    peaks: Peaks = ()
    last_active: float = 0.0  # when a request was last there; 0: never
    revision: str = ""  # what `failures` is about
    proven: str = ""  # the latest revision of which a worker became ready: the one that serves
    failures: Failures = Failures()
    unwell: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Since when a worker that was ready is failing or unreachable, by uid."""
    was_ready: frozenset[str] = frozenset()  # uids
    cold_start_seconds: float = 0.0  # from creation to ready, the latest; 0: none yet

    def dump(self) -> dict[str, Any]:
        """JSON types. It changes seldom: the time of the last request is kept to 10 s."""
        return {
            "target": self.target,
            "peaks": [list(peak) for peak in self.peaks],
            "last_active": math.floor(self.last_active / BUCKET) * BUCKET,
            "revision": self.revision,
            "proven": self.proven,
            "failures": {
                "count": self.failures.count,
                "last_at": self.failures.last_at,
                "error": self.failures.error,
                "counted": sorted(self.failures.counted),
            },
            "unwell": dict(self.unwell),
            "was_ready": sorted(self.was_ready),
            "cold_start_seconds": self.cold_start_seconds,
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Reads what `dump` wrote; unknown entries (of a newer version) are ignored."""
        known = {name: dumped[name] for name in cls.__dataclass_fields__ if name in dumped}
        if "peaks" in known:
            known["peaks"] = tuple((float(t), int(n)) for t, n in known["peaks"])
        if "failures" in known:
            failures = dict(known["failures"])
            failures["counted"] = frozenset(failures.get("counted", ()))
            known["failures"] = Failures(**failures)
        if "was_ready" in known:
            known["was_ready"] = frozenset(known["was_ready"])
        return cls(**known)
