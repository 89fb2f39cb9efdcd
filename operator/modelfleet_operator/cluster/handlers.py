"""kopf's handlers: indices hold what is there, events wake the reconciler of what they concern.

There are no timers, daemons or change handlers: those leave finalizers and annotations on objects.
All handlers are asynchronous: a thread for each call would cost more than the handler.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import kopf

from ..api import accelerator_class, warm_pool
from ..api.model_deployment import GROUP, PLURAL, VERSION
from ..decisions.standby import Standby
from .accelerators import KnownClass, read_class
from .connection import connection_info
from .disruption import KnownBudget, read_budget
from .known import Known
from .memo import OperatorMemo
from .nodes import KnownNode, read_node
from .observing import KnownPod, deployment_of, read_pod
from .pool_pods import KnownPool, pool_of, read_pool, read_standby
from .revisions import KnownRevision, read_revision
from .tuning import tune

REGISTRY = kopf.OperatorRegistry()


@kopf.on.login(registry=REGISTRY)
async def login(memo: OperatorMemo, **_: Any) -> kopf.ConnectionInfo:
    """Called at the start, and whenever the API server refuses the last token."""
    return await connection_info(memo.kubeconfig)


@kopf.on.startup(registry=REGISTRY)
async def prepare(settings: kopf.OperatorSettings, memo: OperatorMemo, **indices: Any) -> None:
    """Before the first watch."""
    tune(settings)
    memo.body.attach(
        indices["deployments"],
        indices["pods"],
        indices["classes"],
        indices["revisions"],
        indices.get("nodes"),
        indices.get("budgets"),
    )
    memo.body.pools.attach(indices["pools"], indices["standbys"])
    memo.keys_on = indices.get("placed", {})


@kopf.index(GROUP, VERSION, PLURAL, id="deployments", registry=REGISTRY)
async def index_deployment(body: kopf.Body, memo: OperatorMemo, **_: Any) -> dict[str, Known]:
    """By `namespace/name`, and by each short name that it asks for, which has no slash."""
    known = memo.body.cache.read(dict(body))
    return dict.fromkeys((f"{body.meta.namespace}/{body.meta.name}", *known.served_names), known)


def _is_ours(body: kopf.Body, **_: Any) -> bool:
    """Its label may have been removed by hand, so its owner counts, too."""
    return bool(deployment_of(body))


@kopf.index("v1", "pods", id="pods", when=_is_ours, registry=REGISTRY)
async def index_pod(body: kopf.Body, **_: Any) -> dict[str, KnownPod]:
    """By `namespace/name` of the deployment."""
    return {_deployment_of(body): read_pod(dict(body))}


@kopf.index("apps", "v1", "controllerrevisions", id="revisions", when=_is_ours, registry=REGISTRY)
async def index_revision(body: kopf.Body, **_: Any) -> dict[str, KnownRevision]:
    """By `namespace/name` of the deployment."""
    known = read_revision(dict(body))
    return {_deployment_of(body): known} if known else {}


@kopf.index(GROUP, VERSION, accelerator_class.PLURAL, id="classes", registry=REGISTRY)
async def index_class(body: kopf.Body, **_: Any) -> dict[str, KnownClass]:
    """By name; an unusable one is left out, as if it did not exist."""
    known = read_class(dict(body))
    return {known.name: known} if known else {}


@kopf.index(GROUP, VERSION, warm_pool.PLURAL, id="pools", registry=REGISTRY)
async def index_pool(body: kopf.Body, **_: Any) -> dict[str, KnownPool]:
    """By `namespace/name`."""
    return {f"{body.meta.namespace}/{body.meta.name}": read_pool(dict(body))}


def _is_pooled(body: kopf.Body, **_: Any) -> bool:
    """Whether it was started for a pool; a deployment may have it by now."""
    return bool(pool_of(body))


@kopf.index("v1", "pods", id="standbys", when=_is_pooled, registry=REGISTRY)
async def index_standby(body: kopf.Body, **_: Any) -> dict[str, Standby]:
    """By `namespace/name` of the pool."""
    standby = read_standby(dict(body))
    return {standby.pool: standby} if standby else {}


@kopf.on.event(GROUP, VERSION, accelerator_class.PLURAL, registry=REGISTRY)
async def class_changed(memo: OperatorMemo, **_: Any) -> None:
    """Any deployment may name it. A class has no status, so each event is a change of its spec."""
    memo.reconcilers.wake_all()
    memo.keeper.wake()


@kopf.on.event(GROUP, VERSION, warm_pool.PLURAL, registry=REGISTRY)
async def pool_changed(body: kopf.Body, memo: OperatorMemo, **_: Any) -> None:
    """Of our own writes to its status, too: what differs from them is written again."""
    memo.keeper.wake()


@kopf.on.event("v1", "pods", when=_is_pooled, registry=REGISTRY)
async def standby_changed(
    event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any
) -> None:
    """Wakes the pools: one may be full now, or lack one."""
    if event["type"] == "DELETED":
        memo.body.pools.gone(f"{body.meta.namespace}/{pool_of(body)}", body.meta["uid"])
    memo.keeper.wake()


@kopf.on.event(GROUP, VERSION, PLURAL, registry=REGISTRY)
async def deployment_changed(
    event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any
) -> None:
    """Wakes its reconciler; our own writes to its status change no generation and wake none."""
    memo.first_event.set()
    if event["type"] is None:
        memo.listed_anew()
    key = f"{body.meta.namespace}/{body.meta.name}"
    seen = (body.meta["uid"], body.meta.get("generation"), "deletionTimestamp" in body.meta)
    if event["type"] == "DELETED":
        memo.seen.pop(key, None)
    elif memo.seen.get(key) == seen:
        return
    else:
        memo.seen[key] = seen
    memo.reconcilers.wake(key)
    memo.keeper.wake()  # a pool may fetch its files ahead


@kopf.on.event("v1", "pods", when=_is_ours, registry=REGISTRY)
async def pod_changed(event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any) -> None:
    """Wakes the reconciler of the deployment it belongs to."""
    if event["type"] is None:
        memo.listed_anew()
    if event["type"] == "DELETED":
        memo.body.cache.pod_gone(_deployment_of(body), body.meta["uid"])
    memo.reconcilers.wake(_deployment_of(body))


@kopf.on.event("apps", "v1", "controllerrevisions", when=_is_ours, registry=REGISTRY)
async def revision_changed(
    event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any
) -> None:
    """Only a deletion matters: the revision may have to be written again."""
    if event["type"] == "DELETED":
        memo.body.history.gone(_deployment_of(body), body.meta["uid"])
        memo.reconcilers.wake(_deployment_of(body))


def registry(*, nodes: bool, budgets: bool) -> kopf.OperatorRegistry:
    """All handlers, and those of what the operator has the right to watch.

    kopf ends an operator that watches what it may not.
    """
    chosen = copy.deepcopy(REGISTRY)
    if nodes:
        kopf.index("v1", "nodes", id="nodes", registry=chosen)(index_node)
        kopf.index("v1", "pods", id="placed", when=_is_ours, registry=chosen)(index_placed)
        kopf.on.event("v1", "nodes", registry=chosen)(node_changed)
    if budgets:
        where = ("policy", "v1", "poddisruptionbudgets")
        kopf.index(*where, id="budgets", when=_is_ours, registry=chosen)(index_budget)
        kopf.on.event(*where, when=_is_ours, registry=chosen)(budget_changed)
    return chosen


async def index_node(body: kopf.Body, **_: Any) -> dict[str, KnownNode]:
    """By name."""
    known = read_node(dict(body), time.time())
    return {known.name: known}


async def index_placed(body: kopf.Body, **_: Any) -> dict[str, str]:
    """Keys of deployments by the node that a worker of theirs is on."""
    node = body.spec.get("nodeName", "")
    return {node: _deployment_of(body)} if node else {}


async def node_changed(event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any) -> None:
    """Wakes whom it concerns, and only by what we read of it: its status changes all the time."""
    name = body.meta.name
    if event["type"] == "DELETED":
        memo.nodes.pop(name, None)
    else:
        known = read_node(dict(body), time.time())
        if memo.nodes.get(name) == known:
            return
        memo.nodes[name] = known
    for key in set(memo.keys_on.get(name, ())):
        memo.reconcilers.wake(key)
    memo.keeper.wake()  # a standby may be on it


async def index_budget(body: kopf.Body, **_: Any) -> dict[str, KnownBudget]:
    """By `namespace/name` of the deployment."""
    return {_deployment_of(body): read_budget(dict(body))}


async def budget_changed(
    event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any
) -> None:
    """Another hand may have changed or deleted it; its status changes with each of our pods."""
    known, key = read_budget(dict(body)), _deployment_of(body)
    if event["type"] == "DELETED":
        memo.budgets.pop(key, None)
        memo.body.budgets.gone(key)
    elif memo.budgets.get(key) == known:
        return
    else:
        memo.budgets[key] = known
    memo.reconcilers.wake(key)


def _deployment_of(found: kopf.Body) -> str:
    return f"{found.meta.namespace}/{deployment_of(found)}"
