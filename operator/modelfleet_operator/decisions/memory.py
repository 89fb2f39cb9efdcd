"""What decisions remember from one reconcile to the next, and across a restart of the operator."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

from .autoscale import BUCKET, Peaks
from .choice import PlacementMemory
from .cold_start import Wakes
from .load_estimate import PhaseStart
from .placement import Shortage, Shortages
from .reasons import Reason
from .scaling_memory import ScalingMemory

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds of back-off; the first failure is replaced at once
STABLE = 60.0  # seconds without a failure, beyond the back-off, after which the count is 0 again
DIGEST_LENGTH = 12  # characters of a model_digest that are kept
FAILURES_UNTIL_STALLED = 3  # failures in a row that a person should hear of


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 1 -> 0, 2 -> 1, 3 -> 2, 4 -> 4, 9 -> 60."""
    if failures <= 1:
        return 0.0
    return min(FIRST_DELAY * 2.0 ** min(failures - 2, 30), LONGEST_DELAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Workers that exited or failed without being stopped, since one was last ready for long."""

    count: int = 0
    last_at: float = 0.0
    error: str = ""  # of the latest one
    reason: Reason = Reason.WORKER_FAILED  # of the latest one
    counted: frozenset[str] = frozenset()  # uids of these workers that still exist

    @property
    def retry_at(self) -> float:
        """When the next worker may be started, Unix seconds."""
        return self.last_at + back_off(self.count)

    def dump(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "count": self.count,
            "last_at": self.last_at,
            "error": self.error,
            "counted": sorted(self.counted),
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Reads what `dump` wrote."""
        return cls(**{**dumped, "counted": frozenset(dumped.get("counted", ()))})


# Keys of older versions that are kept, since statuses written by them must stay readable.
_STORED_KEYS = {"last_ready_revision": "proven", "unhealthy": "unwell"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One deployment's memory; wall-clock seconds, since monotonic clocks do not travel."""

    target: int | None = None  # workers wanted, as decided last; None: never decided
    only_proves: bool = False  # of `target`, the one worker is there to prove its revision only
    peaks: Peaks = ()
    last_active: float = 0.0  # when a request was last there; 0: never
    revision: str = ""  # that the spec asked for; `failures` are of its workers
    last_ready_revision: str = ""  # the latest of which a worker became ready
    failures: Failures = Failures()
    old_failures: Failures = Failures()  # of workers of other revisions
    given_up: str = ""  # the revision that failed and may not take a previous worker's place again
    unhealthy: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Since when a worker that was ready says FAILED or is unreachable, by uid (Unix seconds)."""
    noticed: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """When the notice of a worker was first seen, by uid (see notices)."""
    reclaims: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """When spot workers were taken back lately, by class and zone (see placement)."""
    was_ready: frozenset[str] = frozenset()  # uids
    digests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The beginning of the model_digest with which each of them was ready first, by uid."""
    cold_start_seconds: float = 0.0  # from creation to ready, the latest; 0: none yet
    claim_seconds: float = 0.0  # from the claim of a standby to ready, the latest; 0: none yet
    claimed: frozenset[str] = frozenset()  # short names that it has (see names.owners)
    yielded: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Short names that it asks for and another namespace had: name -> key of who had it."""
    phase_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """What each phase of the latest load took (see load_estimate)."""
    loading: Mapping[str, tuple[PhaseStart, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Phases so far of workers that load, by uid. Not kept: they change every second or two."""
    wakes: Wakes = field(default_factory=lambda: MappingProxyType({}))
    """What the last wakes took on each accelerator class (see cold_start)."""
    waking_since: float = 0.0  # workers are wanted and none is ready; 0: one is, or none is wanted
    weights_on: tuple[str, ...] = ()  # nodes that keep the current revision's; the latest last
    shortages: Shortages = field(default_factory=lambda: MappingProxyType({}))
    """Accelerator classes that had no room lately (see placement.place)."""
    scaling: ScalingMemory = field(default_factory=ScalingMemory)  # what the autoscaler learned
    placement: PlacementMemory = field(default_factory=PlacementMemory)
    """What strategy Cheapest goes by (see choice)."""

    def without_ranking(self) -> Self:
        """The same without what is made anew from the rest (see choice)."""
        if self.placement.ranked is None:
            return self
        return replace(self, placement=replace(self.placement, ranked=None))

    def dump(self) -> dict[str, Any]:
        """JSON types. It changes seldom: the time of the last request is kept to 10 s."""
        return {
            "target": self.target,
            "only_proves": self.only_proves,
            "peaks": [list(peak) for peak in self.peaks],
            "last_active": math.floor(self.last_active / BUCKET) * BUCKET,
            "revision": self.revision,
            "proven": self.last_ready_revision,
            "failures": self.failures.dump(),
            "old_failures": self.old_failures.dump(),
            "given_up": self.given_up,
            "failure_reason": self.failures.reason.value,
            "unwell": dict(self.unhealthy),
            "noticed": dict(self.noticed),
            "reclaims": {place: list(times) for place, times in self.reclaims.items()},
            "was_ready": sorted(self.was_ready),
            "digests": dict(self.digests),
            "cold_start_seconds": self.cold_start_seconds,
            "claim_seconds": self.claim_seconds,
            "claimed": sorted(self.claimed),
            "yielded": dict(self.yielded),
            "phase_seconds": dict(self.phase_seconds),
            "wakes": {name: [list(wake) for wake in wakes] for name, wakes in self.wakes.items()},
            "waking_since": self.waking_since,
            "weights_on": list(self.weights_on),
            "shortages": {
                name: {"since": shortage.since, "found": shortage.found, "why": shortage.why}
                for name, shortage in self.shortages.items()
            },
            "scaling": self.scaling.dump(),
            "placement": self.placement.dump(),
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Reads what `dump` wrote; unknown entries (of a newer version) are ignored."""
        known = {
            name: dumped[key]
            for name in cls.__dataclass_fields__
            if name != "loading" and (key := _STORED_KEYS.get(name, name)) in dumped
        }
        if "peaks" in known:
            known["peaks"] = tuple((float(t), int(n)) for t, n in known["peaks"])
        if "failures" in known:
            known["failures"] = Failures.load(known["failures"])
            with contextlib.suppress(ValueError):  # one of a newer version
                reason = Reason(dumped.get("failure_reason", ""))
                known["failures"] = replace(known["failures"], reason=reason)
        if "old_failures" in known:
            known["old_failures"] = Failures.load(known["old_failures"])
        if "reclaims" in known:
            known["reclaims"] = {p: tuple(map(float, t)) for p, t in known["reclaims"].items()}
        if "was_ready" in known:
            known["was_ready"] = frozenset(known["was_ready"])
        if "claimed" in known:
            known["claimed"] = frozenset(known["claimed"])
        if "wakes" in known:
            known["wakes"] = {
                name: tuple(tuple(map(float, wake)) for wake in wakes)
                for name, wakes in known["wakes"].items()
            }
        if "weights_on" in known:
            known["weights_on"] = tuple(known["weights_on"])
        if "shortages" in known:
            known["shortages"] = {
                name: Shortage(**shortage) for name, shortage in known["shortages"].items()
            }
        if "scaling" in known:
            known["scaling"] = ScalingMemory.load(known["scaling"])
        if "placement" in known:
            known["placement"] = PlacementMemory.load(known["placement"])
        return cls(**known)
