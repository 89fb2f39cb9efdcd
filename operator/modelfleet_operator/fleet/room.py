"""Room for interactive requests: what waits in one gateway, and which batch runs in another one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from modelfleet_proto import fleet_pb2

MOST_WAITING = 1 << 20  # requests


@dataclass(slots=True, eq=False)
class Room:
    """Of one gateway, by model; a model with none of it is not in it."""

    waiting: dict[str, int] = field(default_factory=dict)  # interactive requests
    batch: set[str] = field(default_factory=set)  # models whose batch requests run
    told: dict[str, int] = field(default_factory=dict)  # what waits elsewhere, as it knows it
    has_changed: bool = False

    def take(self, said: fleet_pb2.ModelSignals) -> None:
        """What a gateway said of a model."""
        waiting = min(said.interactive_waiting, MOST_WAITING)
        if self.waiting.get(said.model, 0) != waiting:
            self.has_changed = True
            self.waiting[said.model] = waiting
            if not waiting:
                del self.waiting[said.model]
        if (said.model in self.batch) != bool(said.batch_running):
            self.has_changed = True
            self.batch ^= {said.model}

    def forget(self, model: str) -> None:
        """The model is no more."""
        self.waiting.pop(model, None)
        self.batch.discard(model)

    def forget_all(self) -> None:
        """All is said again."""
        self.has_changed = self.has_changed or bool(self.waiting or self.batch)
        self.waiting.clear()
        self.batch.clear()


def waiting_elsewhere(room: Room, others: Iterable[Room]) -> dict[str, int]:
    """Interactive requests that wait in others, of the models whose batch requests run in this one.

    And of those of which it was told: until they are served it begins no batch request.
    """
    models: Collection[str] = room.batch | room.told.keys()
    found = dict.fromkeys(sorted(models), 0)
    for other in others if models else ():
        for model in found:
            found[model] += other.waiting.get(model, 0)
    return {model: waiting for model, waiting in found.items() if waiting}
