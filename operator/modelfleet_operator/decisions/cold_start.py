"""What a wake takes, phase by phase: by the objects' own times, and learned for each class.

A wake begins when a worker is created and ends when it can answer:

| phase | from | to |
|---|---|---|
| node | created | it has a node |
| image | then | its process runs |
| weights | a download begins | the files are on the node |
| load | its process runs | it computes, without the download |
| firstToken | it computes for the first time | it is ready |

On one machine node and image take no time.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .observed import Deployment, Worker

if TYPE_CHECKING:
    from .memory import Memory

NODE, IMAGE, WEIGHTS, LOAD, FIRST_TOKEN = PHASES = (
    "node", "image", "weights", "load", "firstToken",
)  # fmt: skip
_OF_WORKER: Final = {"Download": WEIGHTS, "Warmup": FIRST_TOKEN}  # what else it says is load
WAKES_KEPT: Final = 5  # of each class
CLASSES_KEPT: Final = 8  # as many as a deployment may name
NODES_KEPT: Final = 8

Wake = tuple[float, ...]  # seconds of each of PHASES
Wakes = Mapping[str, tuple[Wake, ...]]  # by accelerator class, "" for none; the latest last


@dataclass(frozen=True, slots=True, kw_only=True)
class WakePhase:
    """One phase of a wake that goes on or is over; Unix seconds."""

    phase: str
    began: float
    ended: float = 0.0  # 0: it runs


def wake_phases(
    worker: Worker, said: Sequence[tuple[str, float]], ready_at: float = 0.0
) -> tuple[WakePhase, ...]:
    """The phases so far, in order; load is there twice where a download comes after its beginning.

    `said`: what the worker does, and since when (Stats). `ready_at`: 0 while it is not ready.

    Created at 1000, on a node at 1030, its process runs at 1042; Download since 1044, Weights since
    1090, Warmup since 1095, ready at 1097 -> node 30, image 12, load 2, weights 46, load 5,
    firstToken 2.
    """
    begins = [(NODE, worker.created)]
    if worker.placed_at is not None or worker.started_at is not None or said:
        begins.append((IMAGE, worker.placed_at or worker.created))
    if worker.started_at is not None or said:
        begins.append((LOAD, worker.started_at or begins[-1][1]))
    begins += [(_OF_WORKER.get(phase, LOAD), since) for phase, since in said]
    phases: list[WakePhase] = []
    for name, since in begins:
        # The clocks of the API server, the node and the worker may differ a little.
        at = max(since, phases[-1].began) if phases else since
        if phases and phases[-1].phase == name:
            continue
        if phases:
            phases[-1] = WakePhase(phase=phases[-1].phase, began=phases[-1].began, ended=at)
        phases.append(WakePhase(phase=name, began=at))
    if ready_at:
        last = phases[-1]
        phases[-1] = WakePhase(phase=last.phase, began=last.began, ended=max(ready_at, last.began))
    return tuple(phases)


def furthest(
    serving: Sequence[Worker], memory: Memory
) -> tuple[Worker, tuple[WakePhase, ...]] | None:
    """Of the workers that were never ready the one that is in the latest phase, with its phases."""
    coming = [
        (worker, wake_phases(worker, memory.loading.get(worker.uid, ())[1:]))
        for worker in serving
        if worker.uid not in memory.was_ready
    ]
    return max(coming, key=lambda c: PHASES.index(c[1][-1].phase), default=None)


def phase_times(phases: Sequence[WakePhase], now: float) -> dict[str, float]:
    """Seconds of each phase that began, until now for the one that runs."""
    times: dict[str, float] = {}
    for phase in phases:
        seconds = max((phase.ended or now) - phase.began, 0.0)
        times[phase.phase] = round(times.get(phase.phase, 0.0) + seconds, 2)
    return times


def learn_wake(wakes: Wakes, accelerator: str, phases: Sequence[WakePhase], now: float) -> Wakes:
    """With one more wake that is over. The class that learned something last stands last."""
    times = phase_times(phases, now)
    wake = tuple(times.get(name, 0.0) for name in PHASES)
    kept = (*wakes.get(accelerator, ()), wake)[-WAKES_KEPT:]
    others = [(name, known) for name, known in wakes.items() if name != accelerator]
    return dict([*others, (accelerator, kept)][-CLASSES_KEPT:])


def typical_wake(wakes: Sequence[Wake]) -> dict[str, float]:
    """The median of each phase, and of the whole as `total`; empty: none was seen."""
    if not wakes:
        return {}
    times = {
        name: statistics.median(wake[place] for wake in wakes) for place, name in enumerate(PHASES)
    }
    return times | {"total": round(statistics.median(map(sum, wakes)), 2)}


def expected_cold_start(memory: Memory, accelerator: str = "") -> float:
    """Seconds from a worker's creation to its being ready on this class; 0: none was seen."""
    return typical_wake(memory.wakes.get(accelerator, ())).get("total", memory.cold_start_seconds)


def waking_since(
    before: float, wanted: int, now: float, *, is_ready: bool, is_complete: bool
) -> float:
    """Since when workers are wanted and none is ready; 0: not so.

    Before a wake that goes on: what it was. While a gateway is silent it stays as it is.
    """
    if not is_complete:
        return before
    if is_ready or not wanted:
        return 0.0
    return min(before or now, now)


def deadline_of(deployment: Deployment, memory: Memory) -> float:
    """When the wake that goes on must be over, Unix seconds; 0: none goes on."""
    return memory.waking_since + deployment.cold_start_deadline if memory.waking_since else 0.0
