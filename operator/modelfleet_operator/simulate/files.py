"""What WarmPools and AcceleratorClasses of the files are in a simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..api.manifests import Manifests
from ..api.model_deployment import ModelDeployment
from ..api.warm_pool import WarmPool
from ..api.worker_spec import PodTemplate
from ..decisions.capacity import ON_DEMAND
from ..decisions.names import revision_hash
from ..decisions.observed import Accelerator
from ..decisions.pool_observed import Pool
from ..decisions.standby import NO_POOL
from ..errors import ScenarioError
from ..views import class_view
from .options import FleetOptions
from .pool import PoolOptions

_MOUNTED = ("pvc://", "file://")  # sources that a deployment's own pod gets as a volume


def check_sharing(
    pools: Sequence[WarmPool], deployments: Sequence[ModelDeployment], path: Path
) -> None:
    """ScenarioError where several of the deployments would claim of one pool.

    One deployment is simulated at a time, so each would have the whole pool.
    """
    for pool in pools:
        sharing = [d.full_name for d in deployments if _claims_of(d, pool)]
        if len(sharing) > 1:
            raise ScenarioError(
                f"{path}: WarmPool {pool.full_name} is shared by {' and '.join(sharing)}, and one "
                "deployment is simulated at a time: choose one with --model, or give each a pool "
                "(spec.coldStart.warmPool)"
            )


def make_pools(
    deployment: ModelDeployment, manifests: Manifests, path: Path, options: FleetOptions
) -> tuple[PoolOptions, ...]:
    """Those that it claims of. ScenarioError: one names a class or model that no file has."""
    classes = {
        c.metadata.name: class_view(c.spec, c.metadata.generation) for c in manifests.classes
    }
    wanted = deployment.spec.cold_start.warm_pool
    if wanted not in (None, NO_POOL) and wanted not in {p.metadata.name for p in manifests.pools}:
        raise ScenarioError(
            f"{path}: spec.coldStart.warmPool of {deployment.full_name} is {wanted}, and there is "
            "no such WarmPool in the file"
        )
    mine = [pool for pool in manifests.pools if _claims_of(deployment, pool)]
    known = {d.full_name for d in manifests.deployments}
    for pool in mine:
        if (loaded := _loaded(pool)) and loaded not in known:
            raise ScenarioError(
                f"{path}: spec.loadedModel of WarmPool {pool.full_name} is {loaded}, and there is "
                "no such ModelDeployment in the file"
            )
    return tuple(_make_pool(pool, deployment, classes, path, options) for pool in mine)


def _loaded(pool: WarmPool) -> str:
    """The deployment whose model its standbys hold; empty: none."""
    name = pool.spec.loaded_model
    return f"{pool.metadata.namespace}/{name}" if name else ""


def _make_pool(
    manifest: WarmPool,
    deployment: ModelDeployment,
    classes: dict[str, Accelerator],
    path: Path,
    options: FleetOptions,
) -> PoolOptions:
    spec, scenario = manifest.spec, options.scenario
    if spec.accelerator is not None and spec.accelerator not in classes:
        raise ScenarioError(
            f"{path}: WarmPool {manifest.full_name} is of AcceleratorClass {spec.accelerator}, "
            "which is in none of the files"
        )
    price = options.price_of(spec.accelerator or "", ON_DEMAND)
    pool = Pool(
        namespace=manifest.metadata.namespace,
        name=manifest.metadata.name,
        template=revision_hash([manifest.full_name]),
        size=spec.size,
        accelerator=spec.accelerator or "",
        max_hourly_cost=spec.max_hourly_cost,
    )
    refusal = next(_refusals(deployment, options.deployment.accelerators, pool), "")
    loaded = _loaded(manifest)
    if refusal and loaded == deployment.full_name:
        loaded = ""  # a pool loads no model for workers that cannot be made of its standbys
    return PoolOptions(
        pool=replace(pool, loaded_model=loaded),
        start=scenario.standing_by(options.calibration.load_seconds, loads=bool(loaded)),
        refusal=refusal,
        price=None if price is None else price * scenario.pool.price_share,
        accelerators=classes,
    )


def _claims_of(deployment: ModelDeployment, pool: WarmPool) -> bool:
    """Whether it would, as far as its fields say."""
    wanted = deployment.spec.cold_start.warm_pool
    if pool.metadata.namespace != deployment.metadata.namespace:
        return False
    return wanted is None or wanted == pool.metadata.name


def _refusals(
    deployment: ModelDeployment, accelerators: tuple[str, ...], pool: Pool
) -> Iterator[str]:
    """Why its workers cannot be made of standbys, where the files alone say so."""
    spec = deployment.spec
    if pool.accelerator not in (accelerators or ("",)):
        asked = " or ".join(accelerators) or "none"
        its = pool.accelerator or "none"
        yield f"its class is {its}, and {deployment.full_name} asks for {asked}"
    if spec.model.token_secret_ref is not None:
        yield "the deployment's worker has a token, and a standby has none"
    if spec.model.source.startswith(_MOUNTED):
        yield f"the deployment's model is mounted ({spec.model.source}), and a standby mounts none"
    if spec.pod_template != PodTemplate():
        yield "the deployment has a podTemplate, and a standby has none"
