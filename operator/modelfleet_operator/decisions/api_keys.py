"""Which API keys are in force: what their Secrets grant, and what becomes of two alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Priority = Literal["interactive", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """How much one key may take over all gateways; 0: no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent: int = 0
    queue_share: float = 0.0  # of each model's queue, in (0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What one Secret grants, by the hashes of the keys in it: a key itself is not kept."""

    id: str  # "namespace/name" of the Secret
    hashes: tuple[bytes, ...]  # SHA-256, in the Secret's order: the latest last
    name: str = ""  # for people
    tenant: str = ""  # empty: it is a tenant of its own
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None  # names, or beginnings that end in "*"; None: all
    expires: float = 0.0  # seconds since the epoch; 0: never
    priority: Priority = "interactive"
    limits: KeyLimits = KeyLimits()
    created: float = 0.0  # of the Secret, seconds since the epoch


@dataclass(frozen=True, slots=True, order=True)
class KeyProblem:
    """Why a key is not in force, or not whole; for the owner of its Secret."""

    id: str
    message: str


def keys_in_force(found: Iterable[ApiKey]) -> tuple[tuple[ApiKey, ...], tuple[KeyProblem, ...]]:
    """The keys by their ids; of two Secrets with one hash the older has it.

    bob's Secret copies alice's hash -> alice's key is alice's, and bob's Secret has none.
    """
    owners: dict[bytes, str] = {}
    kept: list[ApiKey] = []
    problems: list[KeyProblem] = []
    for key in sorted(found, key=lambda key: (key.created, key.id)):
        others = {owners.setdefault(one, key.id) for one in key.hashes} - {key.id}
        if others:
            problems.append(
                KeyProblem(key.id, f"{', '.join(sorted(others))} is older and has the same key")
            )
        own = tuple(one for one in key.hashes if owners[one] == key.id)
        if own:
            kept.append(replace(key, hashes=own))
    return tuple(sorted(kept, key=lambda key: key.id)), tuple(sorted(problems))
