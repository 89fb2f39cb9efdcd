"""Pods that stand by: how they are built, read, and compared with what a deployment's pods are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api.manifests import observed_pool
from ..api.model_spec import Model
from ..api.warm_pool import KIND as POOL_KIND
from ..api.warm_pool import WarmPool
from ..api.worker_spec import PodTemplate
from ..decisions.names import revision_hash
from ..decisions.pool_observed import Pool, not_loaded
from ..decisions.standby import Standby
from ..views import asleep_flags, fetch_flags
from .claimable import PRELOAD, model_flags_of, why_not_claimable
from .host_folders import read_only
from .known import Known
from .observing import Object
from .pod_problems import WORKER
from .pod_template import lay_under
from .pod_tls import trusting
from .pods import (
    CLAIMED_AT,
    DEPLOYMENT,
    ORDINAL,
    POOL,
    POOL_TEMPLATE,
    REVISION,
    PodSettings,
    bare_pod_spec,
    leaving_silent_nodes,
    observed_by,
    owner_reference,
    pod_template,
)
from .resources import CPU, PACED, is_paced, with_requests
from .storage import hub_variables, storage

MEMORY = "4Gi"  # of a standby, where neither pool nor chart says it


@dataclass(frozen=True, slots=True)
class KnownPool:
    """A WarmPool as the index holds it."""

    body: Object
    manifest: WarmPool | None  # None: it is not valid
    error: str  # what its user must correct

    @property
    def uid(self) -> str:
        """Of this very object."""
        uid: str = self.body["metadata"]["uid"]
        return uid

    @property
    def is_deleting(self) -> bool:
        """Its deletion is certain."""
        return "deletionTimestamp" in self.body["metadata"]


@dataclass(frozen=True, slots=True)
class MadePool:
    """A pool, and what its standbys are made of now: it follows from the models, too."""

    known: KnownPool
    revisions: tuple[str | None, ...]  # of the deployments that it names; None: there is none
    pool: Pool
    template: Object


def read_pool(body: Object) -> KnownPool:
    """Validates a WarmPool for the index."""
    wrong, manifest = observed_pool(body)
    return KnownPool(body, manifest, "; ".join(wrong))


def make_pool(
    known: KnownPool, models: Mapping[str, Known | None], settings: PodSettings
) -> MadePool:
    """`models`: the deployments that its spec names, each None if there is none."""
    metadata, manifest = known.body["metadata"], known.manifest
    spec = manifest.spec if manifest else None
    ahead = _ahead(manifest, models, settings) if manifest else _Ahead({})
    pool = Pool(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        template=revision_hash(ahead.template),
        size=spec.size if spec else 0,
        accelerator=(spec.accelerator or "") if spec else "",
        max_hourly_cost=spec.max_hourly_cost if spec else None,
        missing_models=tuple(name for name, model in models.items() if model is None),
        loaded_model=ahead.loaded_model,
        why_not_loaded=ahead.why_not_loaded,
        error=known.error,
    )
    return MadePool(known, revisions_of(models), pool, ahead.template)


def revisions_of(models: Mapping[str, Known | None]) -> tuple[str | None, ...]:
    """What a pool's standbys depend on of the deployments that it names."""
    return tuple(model.revision if model else None for model in models.values())


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What standbys are made of, and which model they hold."""

    template: dict[str, Any]
    loaded_model: str = ""  # `namespace/name`
    why_not_loaded: str = ""


def _ahead(manifest: WarmPool, models: Mapping[str, Known | None], settings: PodSettings) -> _Ahead:
    name = manifest.spec.loaded_model
    loaded = models.get(name) if name else None
    fetched = fetch_flags(m.manifest for m in models.values() if m and m.manifest and m != loaded)
    template = standby_template(manifest, fetched, settings)
    if name is None or loaded is None or loaded.manifest is None or loaded.error:
        return _Ahead(template)
    wanted = pod_template(loaded.manifest, settings)
    if why_not := why_not_claimable(wanted, template):
        return _Ahead(template, why_not_loaded=not_loaded(name, why_not))
    flags = [*fetched, *asleep_flags(model_flags_of(wanted))]
    return _Ahead(standby_template(manifest, flags, settings), loaded.manifest.full_name)


def standby_template(
    manifest: WarmPool, ahead: Sequence[str], settings: PodSettings
) -> dict[str, Any]:
    """As `pods.pod_template` of a deployment that says nothing but its model, without the model.

    `ahead`: flags of what its workers have of models before they are claimed.
    """
    model = Model(source="hf://any/model")
    stored = storage(model, node_cache=settings.node_cache)
    ours = bare_pod_spec(settings, stored, [PRELOAD, *ahead])
    (container,) = ours["containers"]
    # A deployment's pod has them if its model comes from the hub.
    container["env"] += hub_variables(model, settings.hub_endpoint, settings.offline)
    template = lay_under(ours, PodTemplate(), settings.env)
    spec = template["spec"]
    (container,) = (c for c in spec["containers"] if c["name"] == WORKER)
    guess: dict[str, Any] = {"cpu": CPU, "memory": MEMORY}
    if is_paced(settings.device, container["env"]):
        guess = PACED
    chosen: dict[str, Any] = {}
    if manifest.spec.memory is not None:
        chosen = {"requests": {"memory": str(manifest.spec.memory)}}
    layers = (chosen, settings.resources, {"requests": guess})
    return {**template, "spec": with_requests(spec, *layers)}


def standby_pod(
    made: MadePool, name: str, settings: PodSettings, bundle: bytes = b""
) -> dict[str, Any]:
    """The whole pod; created twice, it is still one."""
    metadata = made.known.body["metadata"]
    given = made.template["metadata"]
    spec = observed_by(settings.log_level, settings.tracing, read_only(made.template["spec"]))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **given,
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {
                **given.get("labels", {}),
                "app.kubernetes.io/name": "modelfleet-worker",
                "app.kubernetes.io/managed-by": "modelfleet",
                # Of no deployment yet: the label is what our watches select by.
                DEPLOYMENT: "",
                POOL: metadata["name"],
                POOL_TEMPLATE: made.pool.template,
            },
            "ownerReferences": [owner_reference(metadata, POOL_KIND)],
        },
        "spec": leaving_silent_nodes(trusting(bundle, spec, WORKER)),
    }


def claim_patch(
    standby: Standby, owner: Object, revision: str, ordinal: int, now: float
) -> dict[str, Any]:
    """One merge patch that makes it the deployment's; it holds for one version of the pod only."""
    return {
        "metadata": {
            "uid": standby.uid,
            "resourceVersion": standby.version,
            "labels": {
                DEPLOYMENT: owner["name"],
                REVISION: revision,
                ORDINAL: str(ordinal),
                CLAIMED_AT: str(int(now)),
            },
            "ownerReferences": [owner_reference(owner)],
        }
    }
