"""One moment of one deployment: all that the decisions see, as a value that can be kept."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..decisions.memory import Memory
from ..decisions.observed import Observed, Signals
from ..decisions.plan import Plan, make_plan
from ..decisions.status import Status
from ..errors import SnapshotError


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The arguments of `make_plan`. Decisions are pure, so replaying it decides the same again."""

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")

    modelfleet: str  # version of the operator that took it
    now: float  # Unix seconds
    observed: Observed
    signals: Signals
    memory: Memory
    status: Status | None  # the one that was made last; None: none yet

    def replay(self) -> Plan:
        """What this version of the decisions makes of it."""
        return make_plan(self.observed, self.signals, self.now, self.memory, self.status)


_SNAPSHOT = TypeAdapter(Snapshot)


def installed_version() -> str:
    """Of this Modelfleet."""
    return importlib.metadata.version("modelfleet")


def dump_snapshot(snapshot: Snapshot) -> str:
    """JSON; what has its default is left out."""
    return _SNAPSHOT.dump_json(snapshot, exclude_defaults=True, indent=2).decode()


def load_snapshot(text: str | bytes) -> Snapshot:
    """Reads what `dump_snapshot` wrote; fields of a newer version are ignored. SnapshotError."""
    try:
        return _SNAPSHOT.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SnapshotError(
            f"expected a snapshot as `modelfleet explain NAME --save FILE` writes it: "
            f"{where}: {first['msg']}"
        ) from error
