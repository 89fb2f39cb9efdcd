"""Warm pools on one machine: worker processes without a model, until a deployment claims one."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..api.manifests import Manifests
from ..api.warm_pool import WarmPool
from ..decisions.actions import Claim
from ..decisions.claiming import is_claimable
from ..decisions.names import revision_hash
from ..decisions.pool import AddStandby, PoolAction, RemoveStandby, count_on
from ..decisions.pool_observed import Pool, PoolCounts, PoolObserved, not_loaded
from ..decisions.pool_status import PoolStatus, render_pool
from ..decisions.standby import PoolOffer, Standby
from ..pools import PoolLedger
from ..views import asleep_flags, fetch_flags, model_flags
from .deployments import LocalDeployments
from .pod_template import environment, logins
from .processes import Child
from .state import StateDirectory
from .worker_process import worker_command

DRAIN_TIMEOUT = 5.0  # seconds that a standby gets to end: nothing runs on it


@dataclass(slots=True)
class _Process:
    standby: Standby
    child: Child
    watching: asyncio.Task[None] | None = field(default=None)
    ending: asyncio.Task[int] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class _Known:
    manifest: WarmPool
    pool: Pool
    flags: tuple[str, ...]  # of its standbys


class LocalPools:
    """Implements `pools.PoolBody`; pools are those of the files."""

    def __init__(
        self,
        deployments: LocalDeployments,
        state: StateDirectory,
        flags: Sequence[str],
        variables: Mapping[str, str],
        show: Callable[[str, str], None],
    ) -> None:
        """`flags` and `variables` are those of all workers; `show` gets a name and a line."""
        self._deployments = deployments
        self._state = state
        self._flags = (*flags, "--preload")
        self._variables = variables
        self._show = show
        self._pools: dict[str, _Known] = {}
        self._processes: dict[str, _Process] = {}  # by uid; claimed ones, too
        self._started = itertools.count(1)
        self._written: dict[str, object] = {}
        self.ledger = PoolLedger()

    def apply(self, manifests: Manifests) -> None:
        """Makes the pools those of the files, once the deployments are.

        Claimed workers outlive their pool.
        """
        wanted = {manifest.full_name: manifest for manifest in manifests.pools}
        for key in [key for key in self._pools if key not in wanted]:
            del self._pools[key]
            self._written.pop(key, None)
            self._state.remove_pool(*key.split("/"))
            for process in self._processes.values():
                if process.standby.pool == key and not process.standby.claimed_by:
                    self._stop(process)
        for key, manifest in wanted.items():
            known = self._pools.get(key)
            generation = known.pool.generation if known else 0
            if known is None or known.manifest.spec != manifest.spec:
                generation += 1
            self._pools[key] = self._read(manifest, generation)
        self.ledger.wake()

    def _read(self, manifest: WarmPool, generation: int) -> _Known:
        spec, namespace = manifest.spec, manifest.metadata.namespace
        loaded = f"{namespace}/{spec.loaded_model}" if spec.loaded_model else ""
        names = {name: f"{namespace}/{name}" for name in spec.named_models}
        there = [key for key in names.values() if self._deployments.view(key) is not None]
        why_not = loaded in there and self._why_not(loaded)
        holds = loaded if loaded in there and not why_not else ""
        fetched = [self._deployments.manifest(key) for key in there if key != loaded]
        model = model_flags(self._deployments.manifest(holds)) if holds else ()
        flags = (*self._flags, *fetch_flags(fetched), *asleep_flags(model))
        pool = Pool(
            namespace=namespace,
            name=manifest.metadata.name,
            generation=generation,
            template=revision_hash(list(flags)),
            size=spec.size,
            accelerator=spec.accelerator or "",
            needs_class=False,
            max_hourly_cost=spec.max_hourly_cost,
            missing_models=tuple(name for name, key in names.items() if key not in there),
            loaded_model=holds,
            why_not_loaded=not_loaded(loaded, why_not) if why_not else "",
        )
        return _Known(manifest, pool, flags)

    def keys(self) -> Collection[str]:
        """Every pool of the files."""
        return list(self._pools)

    def observe(self, key: str) -> PoolObserved | None:
        """From what the watchers of the processes wrote down."""
        known = self._pools.get(key)
        return self._observe(known.pool) if known is not None else None

    def _observe(self, pool: Pool) -> PoolObserved:
        there = (process.standby for process in self._processes.values())
        return PoolObserved(
            pool=pool,
            standbys=tuple(standby for standby in there if standby.pool == pool.key),
            accelerators=self._deployments.classes,
            counts=self.ledger.of(pool.key),
        )

    def recall(self, key: str) -> PoolStatus | None:
        """Each `up` counts anew."""
        return None

    def offers(self, key: str) -> tuple[PoolOffer, ...]:
        """What the pools of its namespace have for this deployment; here, too, as on a cluster."""
        namespace = key.partition("/")[0]
        found = []
        for name, known in self._pools.items():
            if known.pool.namespace != namespace:
                continue
            seen = self._observe(known.pool)
            # There is one machine: deployments ask for no class.
            offer = PoolOffer(
                pool=name,
                loaded_model=known.pool.loaded_model,
                refusal=self._why_not(key),
                standbys=tuple(s for s in seen.standbys if is_claimable(s)),
                counted_on=count_on(seen, time.time(), self._count_sharing(name)),
            )
            found.append(offer)
        return tuple(found)

    def _count_sharing(self, pool: str) -> int:
        """How many deployments may claim of it."""
        namespace, _, name = pool.partition("/")
        manifests = map(self._deployments.manifest, self._deployments.keys())
        return sum(
            m.metadata.namespace == namespace and m.spec.cold_start.warm_pool in (None, name)
            for m in manifests
        )

    def _why_not(self, key: str) -> str:
        manifest, values = self._deployments.manifest(key), self._deployments.values
        if variables := environment(manifest, values):
            return f"its worker has the variable {min(variables)}, and a standby has not"
        if logins(manifest, values):
            return "its worker has a registry's login, and a standby has not"
        return ""

    def claim(self, action: Claim, key: str) -> tuple[Standby, Child] | None:
        """The first of the standbys that is free, now the deployment's; None: none is."""
        for wanted in action.candidates:
            process = self._processes.get(wanted.uid)
            if process is None or not is_claimable(process.standby):
                continue
            process.standby = replace(process.standby, claimed_by=key, claimed_at=time.time())
            self.ledger.add(wanted.pool, PoolCounts(hits=1))
            return process.standby, process.child
        return None

    async def carry_out(self, action: PoolAction, seen: PoolObserved) -> None:
        """PassingError when no process can be started now."""
        match action:
            case AddStandby():
                await self._add(action, seen.pool)
            case RemoveStandby(standby=standby):
                process = self._processes.get(standby.uid)
                if process is None or process.standby.claimed_by:
                    return
                if process.standby.failure is not None:
                    del self._processes[standby.uid]
                else:
                    self._stop(process)

    async def _add(self, action: AddStandby, pool: Pool) -> None:
        known = self._pools.get(pool.key)
        if known is None or any(
            p.standby.pool == pool.key and p.standby.name == action.name
            for p in self._processes.values()
        ):
            return
        now = time.time()
        standby = Standby(
            namespace=pool.namespace,
            name=action.name,
            uid=f"standby-{next(self._started)}",
            pool=pool.key,
            template=pool.template,
            ordinal=action.ordinal,
            created=now,
            accelerator=pool.accelerator,
            placed_at=now,
        )
        child = await Child.start(
            worker_command(standby.id, *known.flags),
            address_file=self._state.run / f"{standby.namespace}.{standby.name}",
            log_file=self._state.logs / f"{standby.namespace}.{standby.name}.log",
            environment=self._variables,
            show=lambda line: self._show(standby.name, line),
        )
        process = _Process(standby=standby, child=child)
        self._processes[standby.uid] = process
        process.watching = asyncio.create_task(self._watch(process))

    async def write_status(self, seen: PoolObserved, status: PoolStatus) -> None:
        """Into a file of its own, when it differs."""
        key = seen.pool.key
        rendered = render_pool(status)
        if key not in self._pools or self._written.get(key) == rendered:
            return
        self._written[key] = rendered
        manifest = self._pools[key].manifest
        document = manifest.model_dump(mode="json", exclude_unset=True, by_alias=True)
        document["metadata"] |= {
            "namespace": seen.pool.namespace,
            "generation": seen.pool.generation,
        }
        self._state.write_pool(
            seen.pool.namespace, seen.pool.name, {**document, "status": rendered}
        )

    async def end(self) -> None:
        """Ends every standby; claimed ones are their deployment's to end."""
        unclaimed = [p for p in self._processes.values() if not p.standby.claimed_by]
        for process in unclaimed:
            self._stop(process)
        await asyncio.gather(*(p.ending for p in unclaimed if p.ending is not None))
        await asyncio.gather(*(p.watching for p in unclaimed if p.watching is not None))

    def kill(self) -> None:
        """SIGKILL for every standby."""
        for process in self._processes.values():
            process.child.send(signal.SIGKILL)

    def _stop(self, process: _Process) -> None:
        if process.ending is None:
            process.standby = replace(process.standby, stopping=True)
            process.ending = asyncio.create_task(process.child.end(DRAIN_TIMEOUT))

    async def _watch(self, process: _Process) -> None:
        """Writes down where it listens and how it ends, and wakes the pools for both."""
        address = await process.child.address()
        if address is not None:
            process.standby = replace(process.standby, address=address, is_up=True)
            self.ledger.wake()
        await process.child.wait()
        standby = process.standby
        if standby.stopping or standby.claimed_by:
            self._processes.pop(standby.uid, None)
        else:
            process.standby = replace(standby, failure=process.child.why_it_ended())
        self.ledger.wake()
