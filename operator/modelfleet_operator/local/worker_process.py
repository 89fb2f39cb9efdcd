"""A worker of this machine: its command, what the plan sees of it, and the process itself."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..decisions.actions import Create
from ..decisions.observed import Worker
from .processes import Child


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What `modelfleet up` says about all workers."""

    drain_timeout: float = 30.0
    log_flags: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # such as --device; deployments have them in their revision
    environment: Mapping[str, str] = field(default_factory=dict)  # a podTemplate's own wins

    @property
    def common_flags(self) -> tuple[str, ...]:
        """Those that are no part of a revision."""
        return ("--drain-timeout", f"{self.drain_timeout:g}", *self.log_flags)


@dataclass(slots=True)
class WorkerProcess:
    """What runs for a deployment."""

    worker: Worker
    key: str  # `namespace/name` of the deployment
    child: Child
    watching: asyncio.Task[None] | None = None
    ending: asyncio.Task[int] | None = None


def worker_command(worker_id: str, *flags: str) -> list[str]:
    """It listens on a port of its own choice, which it writes down."""
    listen = ("--listen", "127.0.0.1:0")
    return [
        sys.executable,
        "-P",
        "-m",
        "modelfleet_worker",
        *listen,
        "--worker-id",
        worker_id,
        *flags,
    ]


def new_worker(
    create: Create,
    *,
    namespace: str,
    name: str,
    uid: str,
    address: str = "",
    claimed_from: str = "",
) -> Worker:
    """One that starts now, or was claimed now."""
    now = time.time()
    return Worker(
        namespace=namespace,
        name=name,
        uid=uid,
        revision=create.revision,
        ordinal=create.ordinal,
        created=now,
        placed_at=now,
        started_at=now,
        address=address,
        accelerator=create.accelerator,
        claimed_from=claimed_from,
    )
