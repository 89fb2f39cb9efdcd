"""Pods that stand by: how they are built, read, and compared with what a deployment's pods are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api.formats import parse_amount
from ..api.manifests import observed_pool
from ..api.model_spec import Model
from ..api.warm_pool import KIND as POOL_KIND
from ..api.warm_pool import WarmPool
from ..api.worker_spec import PodTemplate
from ..decisions.names import revision_hash
from ..decisions.pool_observed import Pool, not_loaded
from ..decisions.rendering import parse_time
from ..decisions.standby import Standby
from ..views import asleep_flags, fetch_flags
from .accelerators import ACCELERATOR, ACCELERATOR_GENERATION
from .host_folders import read_only
from .known import Known
from .observing import Object, controller_of, number, pod_address
from .pod_problems import WORKER, failure_of, placed_at, startup_problem_of
from .pod_template import lay_under
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
    logging_at,
    owner_reference,
    pod_template,
)
from .resources import CPU, PACED, is_paced, with_requests
from .storage import hub_variables, storage

MEMORY = "4Gi"  # of a standby, where neither pool nor chart says it
PRELOAD = "--preload"

# What a deployment's container may ask for less of than the standby has.
_ORDERED = ("cpu", "memory")


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


def standby_pod(made: MadePool, name: str, settings: PodSettings) -> dict[str, Any]:
    """The whole pod; created twice, it is still one."""
    metadata = made.known.body["metadata"]
    given = made.template["metadata"]
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
        "spec": leaving_silent_nodes(
            logging_at(settings.log_level, read_only(made.template["spec"]))
        ),
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


def pool_of(pod: Object) -> str:
    """Name of the WarmPool that it was started for; empty: for none."""
    metadata = pod["metadata"]
    owner = controller_of(metadata)
    if owner.get("kind") == POOL_KIND:
        return str(owner["name"])
    name: str = metadata.get("labels", {}).get(POOL, "")
    return name


def read_standby(pod: Object) -> Standby | None:
    """One of a pool's pods, claimed or not; None if its name is not as we write it."""
    metadata, status = pod["metadata"], pod.get("status", {})
    pool = pool_of(pod)
    found = re.fullmatch(rf"{re.escape(pool)}-([0-9a-f]{{8}})-s([0-9]{{1,9}})", metadata["name"])
    if not pool or found is None:
        return None
    owner, labels = controller_of(metadata), metadata.get("labels", {})
    stopping = "deletionTimestamp" in metadata
    failure = None if stopping else failure_of(pod)
    is_ours = owner.get("kind") == POOL_KIND
    return Standby(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        pool=f"{metadata['namespace']}/{pool}",
        template=found[1],
        ordinal=int(found[2]),
        created=parse_time(metadata["creationTimestamp"]),
        address=pod_address(status.get("podIP", "")),
        version=metadata.get("resourceVersion", ""),
        is_up=any(c["name"] == WORKER and c.get("started") for c in _containers(status)),
        # Whoever took it from its pool has it, a person's hand, too.
        claimed_by="" if is_ours else f"{metadata['namespace']}/{owner.get('name', '')}",
        claimed_at=0.0 if is_ours else float(number(labels.get(CLAIMED_AT)) or 0),
        stopping=stopping,
        failure=failure[0] if failure else None,
        problem=None if failure else startup_problem_of(pod),
        accelerator=labels.get(ACCELERATOR, ""),
        accelerator_generation=number(metadata.get("annotations", {}).get(ACCELERATOR_GENERATION))
        or 0,
        placed_at=placed_at(pod),
        node=pod.get("spec", {}).get("nodeName", ""),
    )


def _containers(status: Object) -> list[Object]:
    found: list[Object] = status.get("containerStatuses") or []
    return found


def model_flags_of(template: Object) -> list[str]:
    """The flags by which a worker of this template knows its model."""
    args: list[str] = _worker_of(template)["args"]
    return args[len(_bare_flags(args)) :]


def why_not_claimable(template: Object, standby: Object) -> str:
    """What of a deployment's pod a standby's has not; empty: it is as good.

    Its rights, Secrets, volumes and settings must be those that the deployment's own pod would
    have: nothing of a pod that runs can be changed.
    """
    return next(_differences(template, standby), "")


def _differences(template: Object, standby: Object) -> Iterator[str]:
    wanted, there = template["spec"], standby["spec"]
    for field in ("labels", "annotations"):
        if template["metadata"].get(field):
            yield f"spec.podTemplate.metadata.{field} are set, and a standby has none of them"
    for volume in _lacking(wanted, there, "volumes"):
        yield f"its pod has the volume {volume}, and a standby has not"
    yield from _of_the_worker(_worker_of(template), _worker_of(standby))
    for container in (c["name"] for c in wanted["containers"] if c["name"] != WORKER):
        yield f"its pod has the container {container}, and a standby has not"
    for field in _other_fields(wanted, there, {"containers", "volumes"}):
        yield f"its pod's {field} is not that of a standby"


def _of_the_worker(wanted: Object, there: Object) -> Iterator[str]:
    for variable in _lacking(wanted, there, "env"):
        yield f"its worker has the variable {variable}, and a standby has not"
    for volume in _lacking(wanted, there, "volumeMounts"):
        yield f"its worker mounts the volume {volume}, and a standby does not"
    if short := _too_small(wanted.get("resources", {}), there.get("resources", {})):
        yield short
    if _bare_flags(wanted["args"]) != _bare_flags(there["args"]):
        yield "its worker has other flags than a standby"
    for field in _other_fields(wanted, there, {"env", "volumeMounts", "resources", "args"}):
        yield f"its worker's {field} is not that of a standby"


def _lacking(wanted: Object, there: Object, field: str) -> list[str]:
    """Names of the entries of a list that the standby's has not."""
    given = there.get(field) or ()
    return [str(entry["name"]) for entry in wanted.get(field) or () if entry not in given]


def _other_fields(wanted: Object, there: Object, compared: set[str]) -> list[str]:
    fields = sorted((wanted.keys() | there.keys()) - compared)
    return [field for field in fields if wanted.get(field) != there.get(field)]


def _bare_flags(args: Sequence[str]) -> list[str]:
    """Those that say nothing about a model."""
    return list(itertools.takewhile(lambda flag: not flag.startswith(("--model=", PRELOAD)), args))


def _too_small(wanted: Object, there: Object) -> str:
    """What is too small, or cannot be compared; empty: nothing."""
    requests, has = wanted.get("requests", {}), there.get("requests", {})
    for name in _ORDERED:
        asked, given = parse_amount(requests.get(name, "0")), parse_amount(has.get(name, "0"))
        if asked is None or given is None or asked > given:
            return (
                f"its worker requests {requests[name]} of {name}, and a standby has "
                f"{has.get(name, 0)}"
            )
    for name in sorted(requests.keys() - set(_ORDERED)):
        if requests[name] != has.get(name):
            return f"its worker requests {name}, and a standby does not"
    if {**wanted, "requests": {}} != {**there, "requests": {}}:
        return "its worker's limits are not those of a standby"
    return ""


def _worker_of(template: Mapping[str, Any]) -> Object:
    found: Object = next(c for c in template["spec"]["containers"] if c["name"] == WORKER)
    return found
