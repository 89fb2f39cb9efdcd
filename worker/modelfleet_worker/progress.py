"""How far a load has come, in percent of the whole, and when it will be ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

# Called from the loading thread: (phase, share of that phase from 0 to 1). It may raise, to stop
# the load.
Report = Callable[[str, float], None]

# Share of the time that each phase takes, as loads were measured; a download dwarfs the rest.
_SHARES = {"Imports": 0.3, "Weights": 0.5, "Cache": 0.05, "Warmup": 0.15}
_DOWNLOAD = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Times are Unix seconds. The percentage never falls."""

    started: float
    phase: str = ""
    percent: float = 0.0
    downloads: bool = False
    eta: float = 0.0  # 0: not known yet

    def advance(self, phase: str, share: float, now: float) -> Progress:
        """So much of a phase is done (0 to 1)."""
        downloads = self.downloads or phase == "Download"
        percent = max(self.percent, 100 * _overall(phase, min(max(share, 0.0), 1.0), downloads))
        elapsed = now - self.started
        # Too little has been seen below two percent; a guess would only jump.
        eta = self.started + elapsed * 100 / percent if percent >= 2 and elapsed > 0 else 0.0
        return replace(self, phase=phase, percent=percent, downloads=downloads, eta=eta)


def _overall(phase: str, share: float, downloads: bool) -> float:
    if phase == "Download":
        return _DOWNLOAD * share
    before = 0.0
    for name, weight in _SHARES.items():
        if name == phase:
            done = before + weight * share
            return _DOWNLOAD + (1 - _DOWNLOAD) * done if downloads else done
        before += weight
    return 0.0  # a phase that has no share moves nothing
