"""How far a load has come, in percent of the whole, and when it will be ready."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

# Called from the loading thread: (phase, share of that phase from 0 to 1). It may raise, to stop
# the load.
Report = Callable[[str, float], None]

# Share of the time that each phase takes, as loads were measured; a download dwarfs the rest.
_SHARES = {"Imports": 0.3, "Weights": 0.5, "Cache": 0.05, "Warmup": 0.15}
_DOWNLOAD = 0.75
_ENOUGH = 0.02  # share that must be done before an ETA is given: earlier guesses would jump


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """Times are Unix seconds. The percentage never falls."""

    started: float
    phase: str = ""
    percent: float = 0.0
    downloads: bool = False
    eta: float = 0.0  # 0: not known yet
    # Where the measured pace begins: a download may find files that another process has fetched,
    # and the phases after it have a pace of their own.
    from_share: float = 0.0
    from_time: float = 0.0
    phases: tuple[tuple[str, float], ...] = ()  # that began so far, each with its time
    ready_at: float = 0.0  # when the load was done; 0: it is not

    def done(self, now: float) -> LoadProgress:
        """The model is in memory, and computes."""
        return replace(self, ready_at=now)

    def advance(self, phase: str, share: float, now: float) -> LoadProgress:
        """After `share` (0 to 1) of a phase is done."""
        if phase not in dict(self.phases):
            phases = (*self.phases, (phase, now))
            return replace(self, phases=phases).advance(phase, share, now)
        share = min(max(share, 0.0), 1.0)
        if phase == "Download":
            return self._download(share, now)
        done = _done(phase, share)
        if done is None:  # a phase that has no share moves nothing
            return replace(self, phase=phase)
        percent = 100 * (_DOWNLOAD + (1 - _DOWNLOAD) * done if self.downloads else done)
        begun = self.from_time or self.started
        if self.phase == "Download":
            begun = now
        seen = now - begun
        eta = begun + seen / done if done >= _ENOUGH and seen > 0 else self.eta
        return replace(
            self, phase=phase, percent=max(self.percent, percent), eta=eta, from_time=begun
        )

    def _download(self, share: float, now: float) -> LoadProgress:
        begun = self if self.downloads else replace(self, from_share=share, from_time=now)
        seen, seconds, eta = share - begun.from_share, now - begun.from_time, 0.0
        if seen >= _ENOUGH and seconds > 0:
            whole = seconds / seen  # seconds for the whole download, at this pace
            eta = now + whole * (1 - share) + whole * (1 - _DOWNLOAD) / _DOWNLOAD
        percent = max(self.percent, 100 * _DOWNLOAD * share)
        return replace(begun, phase="Download", percent=percent, downloads=True, eta=eta)


def phase_seconds(begun: Mapping[str, float], ended: float) -> dict[str, float]:
    """How long each phase of a load took; `begun`: when each began, in their order (seconds)."""
    times = itertools.pairwise([*begun.values(), ended])
    seconds = (round(end - start, 3) for start, end in times)
    return dict(zip(map(str.lower, begun), seconds, strict=True))


def _done(phase: str, share: float) -> float | None:
    """The share of all phases but the download."""
    before = 0.0
    for name, weight in _SHARES.items():
        if name == phase:
            return before + weight * share
        before += weight
    return None
