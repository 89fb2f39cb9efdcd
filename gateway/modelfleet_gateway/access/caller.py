"""Who asks: what a key grants, without the key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol


class Named(Protocol):
    """A model, as far as it matters here."""

    @property
    def model(self) -> str: ...  # noqa: D102 - "namespace/name"

    @property
    def served_names(self) -> Sequence[str]: ...  # noqa: D102 - the short names that it owns


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one key may take, over all gateways; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    queue_share: float | None = None  # of each model's queue, in (0, 1]


UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One Secret's grant: keys that replace each other are one caller."""

    key_id: str = ""  # "namespace/name" of the Secret, never the key; empty: anonymous
    name: str = ""  # for people
    tenant: str = ""  # the salt of cached prompts, and the owner of what is stored
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None  # names, or beginnings that end in "*"; None: all
    limits: Limits = UNLIMITED
    priority: str = "interactive"  # or "batch"
    expires: float = math.inf  # seconds since the epoch

    def may_use(self, model: Named) -> bool:
        """Whether one of the model's names is among those of `models`.

        ("team-a/*", "tiny") -> everything of team-a, and what answers to "tiny".
        """
        if self.models is None:
            return True
        names = (model.model, *model.served_names)
        return any(
            name.startswith(allowed[:-1]) if allowed.endswith("*") else name == allowed
            for allowed in self.models
            for name in names
        )


ANONYMOUS: Final = Caller()

CALLER: Final = "modelfleet.caller"  # where an ASGI scope has it


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Of a request that came in; ANONYMOUS where no one asked who it is."""
    caller: Caller = scope.get(CALLER, ANONYMOUS)
    return caller
